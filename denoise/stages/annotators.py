"""The table `annotators`, which votes and labels share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise import schema
from denoise.noise import Floats

FEW_VOTES = 5
"""An annotator with fewer votes that could be used is flagged."""


def annotators_table(
    rows: pl.DataFrame,
    names: pl.Series,
    reliability: Floats,
    low: Floats,
    high: Floats,
    flags: Mapping[str, NDArray[np.bool_]],
    agreement: pl.DataFrame,
) -> pl.DataFrame:
    """One row an annotator, by name.

    Args:
        rows: all votes or labels, of which `annotator_id` is counted.
        names: the K annotators.
        reliability, low, high: [K] each, NaN where the data do not tell.
        flags: whom each flag is for, [K] each.
        agreement: `annotator_id` and `agreement`, of those who have one.
    """
    raised = [
        [flag for flag, holds in zip(flags, row, strict=True) if holds]
        for row in zip(*flags.values(), strict=True)
    ]
    shown = pl.DataFrame(
        {
            "annotator_id": names,
            "reliability": pl.Series(reliability, nan_to_null=True),
            "reliability_low": pl.Series(low, nan_to_null=True),
            "reliability_high": pl.Series(high, nan_to_null=True),
            "flags": pl.Series(raised, dtype=pl.List(pl.String)),
        }
    )
    counts = rows.group_by("annotator_id").agg(n_votes=pl.len().cast(pl.Int64))
    return (
        shown.join(counts, on="annotator_id", how="left", maintain_order="left")
        .join(agreement, on="annotator_id", how="left", maintain_order="left")
        .select(column.name for column in schema.ANNOTATORS.columns)
    )
