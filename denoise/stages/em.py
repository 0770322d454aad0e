"""EM: votes and scores in, a confidence for every label and a reliability for every annotator out.

Modes: "auto" (`denoise.pooled`) and "paper", RE-PO as published (Cao et al., arXiv 2509.24159).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from denoise import schema, tables
from denoise.dataset import Dataset
from denoise.errors import raise_any, refuse
from denoise.places import Place
from denoise.scores import Scores
from denoise.stages import paper
from denoise.stages.annotators import FEW_VOTES, annotators_table, by_name
from denoise.stages.earlier import join_earlier
from denoise.stages.evidence import (
    Evidence,
    check_without_scores,
    from_column,
    from_scores,
    join_scores,
    no_evidence,
)
from denoise.stages.inference import Inference, trace_table
from denoise.stages.settings import EMSettings
from denoise.stages.summary import cautions, counts_of, summarise
from denoise.stages.truth import known_answers, truth_hash
from denoise.tables import Provenance

__all__ = ["EMResult", "EMSettings", "em", "join_scores", "read_em", "write_em"]

CONFIDENCES_FILE = "confidences.parquet"
ANNOTATORS_FILE = "annotators.parquet"
TRACE_FILE = "trace.parquet"
SUMMARY_FILE = "summary.json"


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
    truth: pl.DataFrame | None = None,
    init: EMResult | None = None,
    scores_provenance: Provenance | None = None,
    **options: Any,
) -> EMResult:
    """Confidences of the votes and reliabilities of the annotators.

    The model's evidence is one of: `scores` (what `score` gave, or a table of the contract), where
    a loss (`denoise.losses`) makes margins of log-probs, and of rewards it is their difference
    (Bradley–Terry); the user's own column of margins or probabilities,
    about the first response against the second of the source row in `votes`, about a against b in
    `pairs`; nothing, which is a margin of 0.

    A named annotator's repeated votes on one pair count once, and as a tie where they contradict
    each other. `agreement` is the share of an annotator's votes that side with the majority of the
    other votes on the same pair, where there is one. `flags` are "few votes" (under `FEW_VOTES`
    that took part), "not identified" (no reliability, or one that could be anything), "below
    chance" (η < 0.5) and "saturated" (η cannot be told from 0 or 1).

    Args:
        truth: known answers, `pair_id` and `vote` ("a" or "b"); they are fixed posteriors.
        init: an earlier run: its votes on other pairs, or by other annotators, count as well, and
            EM starts from its reliabilities.
        options: fields of `EMSettings`.

    Raises:
        InputError: a setting, table or column is wrong, or the scores are of other pairs.
    """
    settings = EMSettings(**options)
    if isinstance(scores, Scores):
        scores, scores_provenance = scores.scores, scores.provenance
    pairs, votes = data.preferences()
    raise_any(schema.faults(pairs, schema.PAIRS, "pairs"))
    raise_any(schema.faults(votes, schema.VOTE_ROWS, "votes"))
    id_type = votes["pair_id"].dtype
    votes = votes.with_columns(pl.col("pair_id", "annotator_id", "vote").cast(pl.String))
    evidence = _evidence(data, pairs, votes, scores, scores_provenance, settings)
    if settings.mode == "paper" and (truth is not None or init is not None):
        problem = "known answers and earlier runs have no place in paper mode"
        refuse(problem, fix="leave out --truth and --init, or use --mode auto")
    inputs = {"data": data.provenance.run_id, **evidence.inputs}
    known: dict[str, str] = {}
    if truth is not None:
        ids = pairs["pair_id"].cast(pl.String)
        truth = known_answers(truth, schema.TRUTH_VOTES, ids)
        truth = truth.filter(pl.col("vote") != "tie")  # a tie says nothing
        known = dict(truth.iter_rows())
        inputs["truth"] = truth_hash(truth)
    if init is not None:
        inputs["init"] = init.provenance.run_id
    whole, start_of = join_earlier(votes, evidence, init)
    table = _countable(whole)
    names = table["annotator_id"].unique().sort()
    table = table.with_columns(annotator=_codes(table, names))
    _check_something(table, settings)
    if settings.mode == "paper":
        found = paper.infer(table, names, settings)
    else:
        from denoise.stages import pooled  # numba and scipy are not for paper mode

        start = None if init is None else names.replace_strict(start_of, default=None)
        start = None if start is None else start.cast(pl.Float64).fill_null(np.nan).to_numpy()
        whole = id_type.is_integer()
        found = pooled.infer(table, names, settings, known=known, start=start, whole=whole)

    shown = table.with_columns(
        prob=pl.Series(found.prob, nan_to_null=True),
        confidence=pl.Series(found.confidence, nan_to_null=True),
        pair_posterior=pl.Series(found.posterior, nan_to_null=True),
    )
    shown = shown.filter(~pl.col("earlier")).with_columns(pl.col("pair_id").cast(id_type))
    confidences = shown.select(column.name for column in schema.CONFIDENCES.columns)
    provenance = Provenance("em", inputs, {**evidence.settings, **settings.of_the_fit()})
    n_votes = np.bincount(table["annotator"], minlength=len(names))
    agreement = by_name(names, _agreement(table)).fill_null(np.nan).to_numpy()
    annotators = table_of_annotators(names, n_votes, found, agreement)
    return conclude(
        confidences, annotators, found, counts_of(table), evidence, provenance, settings
    )


def table_of_annotators(
    names: pl.Series, n_votes: np.ndarray, found: Inference, agreement: np.ndarray
) -> pl.DataFrame:
    """The table `annotators` with its flags; arguments as in `annotators.annotators_table`."""
    flags = {
        "few votes": found.used < FEW_VOTES,
        "not identified": ~found.identified,
        "below chance": found.reliability < 0.5,
        "saturated": found.saturated,
    }
    bounds = (found.reliability, found.low, found.high)
    return annotators_table(names, n_votes, *bounds, flags, agreement)


def conclude(
    confidences: pl.DataFrame,
    annotators: pl.DataFrame,
    found: Inference,
    counts: Mapping[str, int],
    evidence: Evidence,
    provenance: Provenance,
    settings: EMSettings,
) -> EMResult:
    """The result with its summary and notes; `counts` as `summary.counts_of` gives them."""
    summary = summarise(counts, annotators, found)
    notes = (*evidence.notes, *found.notes, *cautions(evidence, annotators, summary, settings))
    told = {"settings": provenance.settings, "run_id": provenance.run_id, "notes": list(notes)}
    trace = trace_table(found.trace)
    return EMResult(confidences, annotators, trace, summary | told, provenance, notes)


def _evidence(
    data: Dataset,
    pairs: pl.DataFrame,
    votes: pl.DataFrame,
    scores: pl.DataFrame | None,
    provenance: Provenance | None,
    settings: EMSettings,
) -> Evidence:
    settings.check_one_evidence(scores)
    loss, beta, gamma = settings.loss, settings.beta, settings.gamma
    if scores is not None:
        return from_scores(
            pairs,
            votes,
            scores,
            provenance,
            loss=loss,
            beta=beta,
            gamma=gamma,
            ipo_sum=settings.ipo_sum,
        )
    check_without_scores(loss, beta, gamma, settings.ipo_sum)
    if settings.prob_column is not None:
        return from_column(data, pairs, votes, settings.prob_column, is_prob=True)
    if settings.margin_column is not None:
        return from_column(data, pairs, votes, settings.margin_column, is_prob=False)
    return no_evidence(votes)


def _check_something(table: pl.DataFrame, settings: EMSettings) -> None:
    usable = table.filter("counted")
    if settings.mode == "paper":
        usable = usable.filter(pl.col("margin").is_not_null())
    if usable.is_empty():
        problem = "no vote for a or b has a margin" if table["oriented"].any() else "all are ties"
        refuse(f"there is nothing to learn from: {problem}", file="votes")


def write_em(result: EMResult, out: Place) -> None:
    """Write the tables and `summary.json` into a directory of their own, all of them or none."""
    with tables.staged_directory(out, result.provenance) as staging:
        tables.write_table(result.confidences, staging / CONFIDENCES_FILE, result.provenance)
        write_but_rows(result, staging)


def write_but_rows(result: EMResult, staging: Place) -> None:
    """Write all but the confidences into a directory that is being made."""
    tables.write_table(result.annotators, staging / ANNOTATORS_FILE, result.provenance)
    tables.write_table(result.trace, staging / TRACE_FILE, result.provenance)
    tables.write_json(result.summary, staging / SUMMARY_FILE)


def read_em(directory: Place) -> EMResult:
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


def _read_summary(path: Place) -> dict[str, Any]:
    """The summary, or nothing where the user's own tables have none."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        refuse("not a whole JSON file", file=path, found=str(error), fix="run `denoise em` again")


def _countable(votes: pl.DataFrame) -> pl.DataFrame:
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
        votes.join(again, on=own, how="left", maintain_order="left")
        .with_columns(
            pl.col("contradicted").fill_null(False),
            repeated=(pl.col("vote_id") != pl.col("kept")).fill_null(False),
        )
        .with_columns(vote=pl.when("contradicted").then(pl.lit("tie")).otherwise("vote"))
        .with_columns(oriented=pl.col("vote") != "tie", margin=pl.col("margin") * sign)
        .with_columns(counted=pl.col("oriented") & ~pl.col("repeated"))
    )


def _codes(table: pl.DataFrame, names: pl.Series) -> pl.Series:
    return table["annotator_id"].cast(pl.Enum(names)).to_physical().cast(pl.Int32)


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
