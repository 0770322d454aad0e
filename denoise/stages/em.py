"""EM: votes and scores in, a confidence for every label and a reliability for every annotator out.

Paper mode of RE-PO (Cao et al., arXiv 2509.24159): votes on one pair count as unrelated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from denoise import noise, schema, tables
from denoise.dataset import Dataset
from denoise.errors import Fault, raise_any, refuse
from denoise.scores import Scores
from denoise.stages.evidence import (
    Evidence,
    check_without_scores,
    from_column,
    from_scores,
    join_scores,
    no_evidence,
)
from denoise.stages.summary import cautions, summarise
from denoise.tables import Provenance

__all__ = ["EMResult", "em", "join_scores", "read_em", "write_em"]

CONFIDENCES_FILE = "confidences.parquet"
ANNOTATORS_FILE = "annotators.parquet"
TRACE_FILE = "trace.parquet"
SUMMARY_FILE = "summary.json"

FEW_VOTES = 5
"""An annotator with fewer votes that could be used is flagged."""


@dataclass(frozen=True)
class EMResult:
    """The tables of one EM run; `notes` are sentences for the user, also in `summary`."""

    confidences: pl.DataFrame
    annotators: pl.DataFrame
    trace: pl.DataFrame
    summary: Mapping[str, Any]
    provenance: Provenance
    notes: tuple[str, ...] = ()


def em(
    data: Dataset,
    scores: pl.DataFrame | Scores | None = None,
    *,
    loss: str = "dpo",
    beta: float | None = None,
    gamma: float | None = None,
    ipo_sum: bool = False,
    mode: str = "paper",
    schedule: Literal["full", "ema"] = "full",
    eta0: float = 0.9,
    alpha: float = 0.1,
    batch_size: int = 64,
    epochs: int = 1,
    seed: int = 0,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
    margin_column: str | None = None,
    prob_column: str | None = None,
    scores_provenance: Provenance | None = None,
) -> EMResult:
    """Confidences of the votes and reliabilities of the annotators (Eq. 2, 4, 6 and 7).

    The model's evidence is one of: `scores` (what `score` gave, or a table of the contract), turned
    into margins by `loss` with `beta` and (SimPO) `gamma`, defaults in `denoise.losses`; the user's
    own `margin_column` (nats) or `prob_column`; nothing, which is a margin of 0. A column of
    `votes` is about the first response against the second of the source row, a column of `pairs`
    about a against b.

    A named annotator's repeated votes on one pair count once, and as a tie where they contradict
    each other. A vote without a margin takes no part in the fit and its confidence is η_k.

    `agreement` is the share of an annotator's votes that side with the majority of the other votes
    on the same pair, where there is one. `flags` are "few votes" (under `FEW_VOTES` with a margin),
    "not identified" (no reliability, or one that could be anything), "below chance" (η < 0.5) and
    "saturated" (η cannot be told from 0 or 1).

    Raises:
        InputError: a setting, table or column is wrong, or the scores are of other pairs.
    """
    if isinstance(scores, Scores):
        scores, scores_provenance = scores.scores, scores.provenance
    pairs, votes = data.preferences()
    raise_any(schema.faults(pairs, schema.PAIRS, "pairs"))
    raise_any(schema.faults(votes, schema.VOTE_ROWS, "votes"))
    fitting = _fitting(schedule, eta0, alpha, batch_size, epochs, seed, tolerance, max_iterations)
    if mode != "paper":
        refuse("unknown mode", found=mode, fix="the only one there is, is paper")
    votes = votes.with_columns(pl.col("pair_id", "annotator_id", "vote").cast(pl.String))
    column = prob_column if margin_column is None else margin_column
    if sum(given is not None for given in (scores, margin_column, prob_column)) > 1:
        refuse("scores, a margin and a probability column exclude each other", fix="give only one")
    if scores is not None:
        evidence = from_scores(
            pairs,
            votes,
            scores,
            scores_provenance,
            loss=loss,
            beta=beta,
            gamma=gamma,
            per_token=not ipo_sum,
        )
    else:
        check_without_scores(loss, beta, gamma, ipo_sum)
        is_prob = prob_column is not None
        evidence = (
            no_evidence(votes)
            if column is None
            else from_column(data, pairs, votes, column, is_prob=is_prob)
        )

    table = _countable(votes, evidence)
    learn = table.filter("counted", pl.col("margin").is_not_null()).sort("vote_id")
    if learn.is_empty():
        problem = "no vote for a or b has a margin" if table["oriented"].any() else "all are ties"
        refuse(f"there is nothing to learn from: {problem}", file="votes")
    names = table["annotator_id"].unique().sort()
    margin, annotator = learn["margin"].to_numpy(), _codes(learn, names)
    fit = _fit(margin, annotator, len(names), fitting)

    confidences = _confidences(table, fit.reliability[_codes(table, names)])
    annotators = _annotators(table, names, margin, annotator, fit.reliability)
    provenance = Provenance(
        "em",
        {"data": data.provenance.run_id, **evidence.inputs},
        {"mode": mode, **evidence.settings, **fitting},
    )
    summary = summarise(table, confidences, annotators, fit)
    notes = (*evidence.notes, *cautions(evidence, annotators, summary, fit))
    return EMResult(
        confidences=confidences,
        annotators=annotators,
        trace=_trace(fit, schedule),
        summary=summary
        | {"settings": provenance.settings, "run_id": provenance.run_id, "notes": list(notes)},
        provenance=provenance,
        notes=notes,
    )


def write_em(result: EMResult, out: Path) -> None:
    """Write the tables and `summary.json` into a directory of their own, all of them or none."""
    with tables.staged_directory(out, result.provenance) as staging:
        tables.write_table(result.confidences, staging / CONFIDENCES_FILE, result.provenance)
        tables.write_table(result.annotators, staging / ANNOTATORS_FILE, result.provenance)
        tables.write_table(result.trace, staging / TRACE_FILE, result.provenance)
        text = json.dumps(result.summary, indent=1, sort_keys=True, ensure_ascii=False)
        tables.write_text(text + "\n", staging / SUMMARY_FILE)


def read_em(directory: Path) -> EMResult:
    """What `write_em` wrote, or a user's own tables of the same contract.

    Raises:
        InputError: a table is missing or departs from its contract, or they are of two runs.
    """
    if not directory.is_dir():
        refuse("there is no such directory", file=directory, fix="give what `denoise em` wrote")
    contracts = {
        CONFIDENCES_FILE: schema.CONFIDENCES,
        ANNOTATORS_FILE: schema.ANNOTATORS,
        TRACE_FILE: schema.TRACE,
    }
    read = {directory / n: tables.read_table(directory / n, c) for n, c in contracts.items()}
    tables.same_run({path: provenance for path, (_, provenance) in read.items()})
    known = (provenance for _, provenance in read.values() if provenance is not None)
    provenance = next(known, None) or Provenance(
        "em", inputs={path.name: tables.file_hash(path) for path in read}
    )
    summary = _read_summary(directory / SUMMARY_FILE)
    frames = [frame for frame, _ in read.values()]
    return EMResult(*frames, summary, provenance, tuple(summary.get("notes", ())))


def _read_summary(path: Path) -> dict[str, Any]:
    """The summary, or nothing where the user's own tables have none."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        refuse("not a whole JSON file", file=path, found=str(error), fix="run `denoise em` again")


def _fitting(
    schedule: str,
    eta0: float,
    alpha: float,
    batch_size: int,
    epochs: int,
    seed: int,
    tolerance: float,
    max_iterations: int,
) -> dict[str, Any]:
    """The settings that the schedule uses, checked."""
    ranges = {
        "schedule": (schedule, schedule in ("full", "ema"), "give full or ema"),
        "eta0": (eta0, 0 < eta0 < 1, "give a number between 0 and 1"),
        "alpha": (alpha, 0 < alpha <= 1, "give a number above 0, at most 1"),
        "batch_size": (batch_size, batch_size >= 1, "give 1 or more"),
        "epochs": (epochs, epochs >= 1, "give 1 or more"),
        "seed": (seed, seed >= 0, "give 0 or more"),
        "tolerance": (tolerance, tolerance >= 0 and math.isfinite(tolerance), "give 0 or more"),
        "max_iterations": (max_iterations, max_iterations >= 1, "give 1 or more"),
    }
    raise_any(
        Fault(f"{name} is out of range", found=value, fix=fix)
        for name, (value, good, fix) in ranges.items()
        if not good
    )
    always = {"schedule": schedule, "eta0": float(eta0)}
    if schedule == "ema":
        return always | {"alpha": alpha, "batch_size": batch_size, "epochs": epochs, "seed": seed}
    return always | {"tolerance": tolerance, "max_iterations": max_iterations}


def _countable(votes: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """The votes in their order, with Δ along the vote (null for ties) and what counts.

    oriented: for a or b; counted: oriented, and not a repetition by the same named annotator on
    the same pair. Such repetitions that contradict each other are ties here.
    """
    own = ("annotator_id", "pair_id")
    named = pl.col("annotator_id") != schema.ALL_ANNOTATORS
    again = (
        votes.filter(named & pl.struct(own).is_duplicated())
        .group_by(own)
        .agg(kept=pl.col("vote_id").min(), contradicted=pl.col("vote").n_unique() > 1)
    )
    sign = pl.col("vote").replace_strict({"a": 1.0, "b": -1.0}, default=None)
    return (
        votes.select("vote_id", *own, "vote", margin=evidence.margin)
        .join(again, on=own, how="left", maintain_order="left")
        .with_columns(
            pl.col("contradicted").fill_null(False),
            repeated=(pl.col("vote_id") != pl.col("kept")).fill_null(False),
        )
        .with_columns(vote=pl.when("contradicted").then(pl.lit("tie")).otherwise("vote"))
        .with_columns(oriented=pl.col("vote") != "tie", margin=pl.col("margin") * sign)
        .with_columns(counted=pl.col("oriented") & ~pl.col("repeated"))
    )


def _codes(table: pl.DataFrame, names: pl.Series) -> np.ndarray:
    codes = table["annotator_id"].cast(pl.Enum(names)).to_physical()
    return codes.cast(pl.Int32).to_numpy()


def _fit(
    margin: np.ndarray, annotator: np.ndarray, n_annotators: int, fitting: Mapping[str, Any]
) -> noise.Fit:
    options = {name: value for name, value in fitting.items() if name != "schedule"}
    fit = noise.fit_ema if fitting["schedule"] == "ema" else noise.fit_full_batch
    return fit(margin, annotator, n_annotators, **options)


def _confidences(table: pl.DataFrame, reliability: np.ndarray) -> pl.DataFrame:
    """The `confidences` table; a vote without a margin has prob ½ and the confidence η_k."""
    margin = table["margin"].fill_null(0.0).to_numpy()
    computed = table.with_columns(
        prob=pl.Series(noise.sigmoid(margin)),
        confidence=pl.Series(noise.e_step(margin, reliability)),
    ).with_columns(
        pl.when("oriented").then(pl.col("prob", "confidence")),
    )
    for_a = pl.when(pl.col("vote") == "a").then("confidence").otherwise(1.0 - pl.col("confidence"))
    alone = pl.col("counted").sum().over("pair_id") == 1
    posterior = pl.when("counted").then(for_a).max().over("pair_id")
    return computed.with_columns(pair_posterior=pl.when(alone).then(posterior)).select(
        column.name for column in schema.CONFIDENCES.columns
    )


def _annotators(
    table: pl.DataFrame,
    names: pl.Series,
    margin: np.ndarray,
    annotator: np.ndarray,
    reliability: np.ndarray,
) -> pl.DataFrame:
    """The `annotators` table, by name; no reliability where no vote has a margin other than 0."""
    bounds = noise.intervals(margin, annotator, reliability)
    used = np.bincount(annotator, minlength=len(names))
    informed = np.bincount(annotator, margin != 0, len(names)) > 0
    conditions = {
        "few votes": used < FEW_VOTES,
        "not identified": ~(informed & bounds.identified),
        "below chance": informed & (reliability < 0.5),
        "saturated": informed & bounds.saturated,
    }
    flags = [
        [flag for flag, holds in zip(conditions, row, strict=True) if holds]
        for row in zip(*conditions.values(), strict=True)
    ]
    shown = pl.DataFrame(
        {
            "annotator_id": names,
            "reliability": pl.Series(np.where(informed, reliability, np.nan), nan_to_null=True),
            "reliability_low": pl.Series(
                np.where(bounds.identified, bounds.low, np.nan), nan_to_null=True
            ),
            "reliability_high": pl.Series(
                np.where(bounds.identified, bounds.high, np.nan), nan_to_null=True
            ),
            "flags": pl.Series(flags, dtype=pl.List(pl.String)),
        }
    )
    counts = table.group_by("annotator_id").agg(n_votes=pl.len().cast(pl.Int64))
    return (
        shown.join(counts, on="annotator_id", how="left", maintain_order="left")
        .join(_agreement(table), on="annotator_id", how="left", maintain_order="left")
        .select(column.name for column in schema.ANNOTATORS.columns)
    )


def _agreement(table: pl.DataFrame) -> pl.DataFrame:
    """Share of an annotator's votes on the side of most other votes on the pair, if one leads."""
    for_a = pl.col("vote") == "a"
    others_for_a = for_a.sum().over("pair_id").cast(pl.Int64) - for_a.cast(pl.Int64)
    lead_of_a = 2 * others_for_a - (pl.len().over("pair_id").cast(pl.Int64) - 1)
    return (
        table.filter("counted")
        .select("annotator_id", (for_a == (lead_of_a > 0)).alias("agreement"), lead=lead_of_a)
        .filter(pl.col("lead") != 0)
        .group_by("annotator_id")
        .agg(pl.col("agreement").mean())
    )


def _trace(fit: noise.Fit, schedule: str) -> pl.DataFrame:
    return pl.DataFrame(
        [(schedule, *row[:3], 1.0, row.mean_reliability) for row in fit.trace],
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
