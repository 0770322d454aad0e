"""The rows that policies are trained on: weighted pairs, with the reference's log-probs."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from denoise.dataset import Dataset
from denoise.rounds.folds import first_turn
from denoise.stages.em import EMResult
from denoise.stages.export import Export, export

NO_REFERENCE = "the reference gave the pair no log-probs"
GOLD_PROMPT = "its prompt is in the held-out data"


def weighted_rows(data: Dataset, result: EMResult) -> Export:
    """A row a pair; in paper mode, which gives pairs no posterior, a row a vote."""
    rows = "votes" if result.provenance.settings.get("mode") == "paper" else "pairs"
    return export(data, result.confidences, rows=rows, em_provenance=result.provenance)


def plain_rows(data: Dataset, result: EMResult) -> Export:
    """Every label as its annotator gave it, with weight 1: what one trains on without denoise."""
    given = export(data, result.confidences, rows="votes", em_provenance=result.provenance)
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
    """The rows with `ref_chosen_logps` and `ref_rejected_logps`, sums in nats, where there are any.

    Args:
        rows: rows whose chosen response is one of their pair's.
        pairs: the table of pairs.
        reference: `pair_id`, `policy_a_logps` and `policy_b_logps` of the reference model.
    """
    sides = pairs.select(
        pl.col("pair_id").cast(pl.String), a=pl.col("response_a"), b=pl.col("response_b")
    )
    logps = reference.select("pair_id", of_a="policy_a_logps", of_b="policy_b_logps")
    key = rows.frame.select(pl.col("pair_id").cast(pl.String), "chosen")
    joined = key.join(sides, on="pair_id", how="left", maintain_order="left")
    joined = joined.join(logps, on="pair_id", how="left", maintain_order="left")
    is_a = pl.col("chosen") == pl.col("a")
    joined = joined.select(
        ref_chosen_logps=pl.when(is_a).then("of_a").otherwise("of_b"),
        ref_rejected_logps=pl.when(is_a).then("of_b").otherwise("of_a"),
    )
    frame = rows.frame.hstack(joined)
    scored = frame["ref_chosen_logps"].is_not_null()
    return _only(replace(rows, frame=frame), scored, NO_REFERENCE)


def _only(rows: Export, keep: pl.Series, reason: str) -> Export:
    if keep.all():
        return rows
    note = f"{(~keep).sum():,} row(s) are not trained on: {reason}"
    return replace(rows, frame=rows.frame.filter(keep), notes=(*rows.notes, note))
