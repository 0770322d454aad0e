"""The rows that policies are trained on: weighted pairs, with the reference's log-probs."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from denoise.dataset import Dataset
from denoise.rounds.folds import first_turn
from denoise.stages import training_rows
from denoise.stages.em import EMResult
from denoise.stages.export import Export, export

NO_REFERENCE = "the reference gave the pair no log-probs"
GOLD_PROMPT = "its prompt is in the held-out data"


def weighted_rows(data: Dataset, result: EMResult) -> Export:
    """A row a pair; without pooling, which gives pairs of several votes no posterior, a vote."""
    pooled = result.provenance.settings["pool"]
    return export(data, result, rows="pairs" if pooled else "votes")


def plain_rows(data: Dataset, result: EMResult) -> Export:
    """Every label as its annotator gave it, with weight 1: what one trains on without denoise."""
    given = export(data, result, rows="votes")
    return replace(given, frame=given.frame.with_columns(weight=pl.lit(1.0)))


def without_prompts(rows: Export, prompts: frozenset[str]) -> Export:
    """The rows of other prompts than these (as `folds.first_turn` spells them)."""
    keep = pl.Series([first_turn(prompt) not in prompts for prompt in rows.frame["prompt"]])
    return _only(rows, keep, GOLD_PROMPT)


def outside_fold(rows: Export, folds: pl.DataFrame, fold: int) -> Export:
    """The rows of pairs in the other folds; `folds` as `folds.assign_folds` gives them."""
    ids = rows.frame.select(pl.col("pair_id").cast(pl.String))
    of_rows = ids.join(folds, on="pair_id", how="left", maintain_order="left")["fold"]
    return replace(rows, frame=rows.frame.filter(of_rows != fold))


def with_reference(rows: Export, pairs: pl.DataFrame, reference: pl.DataFrame) -> Export:
    """The rows that the reference has scored, with its log-probs (`training_rows`)."""
    frame = training_rows.with_reference(rows.frame, pairs, reference)
    scored = frame["ref_chosen_logps"].is_not_null()
    return _only(replace(rows, frame=frame), scored, NO_REFERENCE)


def _only(rows: Export, keep: pl.Series, reason: str) -> Export:
    if keep.all():
        return rows
    note = f"{(~keep).sum():,} row(s) are not trained on: {reason}"
    return replace(rows, frame=rows.frame.filter(keep), notes=(*rows.notes, note))
