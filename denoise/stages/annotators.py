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
    names: pl.Series,
    n_votes: NDArray[np.integer],
    reliability: Floats,
    low: Floats,
    high: Floats,
    flags: Mapping[str, NDArray[np.bool_]],
    agreement: Floats,
) -> pl.DataFrame:
    """One row an annotator, by name.

    Args:
        names: the K annotators.
        n_votes: all votes or labels of each, [K].
        reliability, low, high, agreement: [K] each, NaN where the data do not tell.
        flags: whom each flag is for, [K] each.
    """
    raised = pl.DataFrame({flag: np.asarray(holds) for flag, holds in flags.items()}).select(
        pl.concat_list(pl.when(flag).then(pl.lit(flag)) for flag in flags).list.drop_nulls()
    )
    return pl.DataFrame(
        {
            "annotator_id": names,
            "reliability": pl.Series(reliability, nan_to_null=True),
            "reliability_low": pl.Series(low, nan_to_null=True),
            "reliability_high": pl.Series(high, nan_to_null=True),
            "n_votes": pl.Series(n_votes, dtype=pl.Int64),
            "agreement": pl.Series(agreement, nan_to_null=True),
            "flags": raised.to_series(),
        }
    ).select(column.name for column in schema.ANNOTATORS.columns)


def by_name(names: pl.Series, found: pl.DataFrame) -> pl.Series:
    """The second column of `found` for each of the names, in their order; its first has names."""
    key, value = found.columns
    frame = names.alias(key).to_frame()
    return frame.join(found, on=key, how="left", maintain_order="left")[value]
