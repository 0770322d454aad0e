"""What either mode of EM infers, row by row and annotator by annotator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise.noise import Floats


class TraceRow(NamedTuple):
    """A row of the table `trace`."""

    stage: str
    iteration: int
    objective: float | None
    max_change: float | None
    temperature: float
    mean_reliability: float


@dataclass(frozen=True)
class Inference:
    """n rows of the table of votes, K annotators.

    reliability, low, high: η and its 95 % bounds, [K], NaN where the data do not tell; used: votes
    that took part, [K]; identified, saturated: as the flags say, [K] bool. prob: σ(τΔ) along the
    vote, confidence: w, both NaN for ties; posterior: P(a is truly preferred), NaN where votes are
    not pooled; [n] each. summary: what `summary.json` gains; notes: sentences for the user.
    """

    reliability: Floats
    low: Floats
    high: Floats
    used: NDArray[np.integer]
    identified: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    prob: Floats
    confidence: Floats
    posterior: Floats
    trace: tuple[TraceRow, ...]
    converged: bool | None
    summary: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def trace_table(rows: tuple[TraceRow, ...]) -> pl.DataFrame:
    """The table `trace`."""
    return pl.DataFrame(
        list(rows),
        schema={
            "stage": pl.String,
            "iteration": pl.Int64,
            "objective": pl.Float64,
            "max_change": pl.Float64,
            "temperature": pl.Float64,
            "mean_reliability": pl.Float64,
        },
        orient="row",
    )
