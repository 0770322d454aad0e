"""The votes that count as the solver takes them, and what the result says of them beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise import schema
from denoise.noise import Floats
from denoise.pooled import index
from denoise.pooled.ballots import Ballots
from denoise.pooled.index import Grouped
from denoise.stages import em
from denoise.stages.em import EMResult
from denoise.stages.evidence import Evidence
from denoise.stages.inference import Inference
from denoise.stages.settings import EMSettings
from denoise.tables import Provenance


class Tally(NamedTuple):
    """By annotator, [K], and in all, as in `index.Grouped`."""

    rows: NDArray[np.int64]
    told: NDArray[np.int64]
    agree: NDArray[np.int64]
    counts: dict[str, int]


def concluded(
    names: pl.Series,
    tally: Tally,
    n_counted: int,
    inference: Inference,
    inputs: Mapping[str, str],
    found: Evidence,
    settings: EMSettings,
) -> EMResult:
    """The result but for the rows of `confidences`."""
    provenance = Provenance("em", inputs, {**found.settings, **settings.of_the_fit()})
    with np.errstate(invalid="ignore"):
        agreement = tally.agree / tally.told
    annotators = em.table_of_annotators(names, tally.rows, inference, agreement)
    total = {"n_votes": int(tally.rows.sum()), "n_earlier": 0, "n_counted": n_counted}
    counts = tally.counts | total
    no_rows = pl.DataFrame(schema={c.name: pl.Float64 for c in schema.CONFIDENCES.columns})
    return em.conclude(no_rows, annotators, inference, counts, found, provenance, settings)


def voted_pairs(
    grouped: Grouped, margin: Floats, known: NDArray[np.int8], threads: int
) -> tuple[Ballots, NDArray[np.bool_]]:
    """The votes on pairs that have some row, and which pairs these are, [J] bool.

    Margins that no vote takes part in are set to 0, in place.
    """
    start, code = grouped.start, grouped.code
    # A pair with ties only has no margin along any vote.
    margin[np.isnan(margin) | (start[1:] == start[:-1])] = 0.0
    voted = grouped.state & index.EMPTY == 0
    every = bool(voted.all())
    n_annotators = len(grouped.rows)
    votes = Ballots(
        start if every else np.append(start[:-1][voted], start[-1]),
        code,
        margin if every else margin[voted],
        known if every or not len(known) else known[voted],
        np.arange(n_annotators),
        np.zeros(n_annotators, np.int64),
        grouped.used.astype(np.float64),
        n_annotators,
        1,
        threads,
    )
    return votes, voted


def of_every_pair(log_odds: Floats, voted: NDArray[np.bool_]) -> Floats:
    """s of all pairs given that of the `voted`, 0 for the others, [J]."""
    if voted.all():
        return log_odds
    every = np.zeros(len(voted))
    every[voted] = log_odds
    return every
