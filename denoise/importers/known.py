"""Answers that a source marks as the truth: kept apart from the answers they are to check."""

from __future__ import annotations

import polars as pl


def set_apart(
    kept: pl.DataFrame, key: str, answer: str
) -> tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame]:
    """The rows that `truth` does not mark, one known answer a `key`, and those of no use.

    The last has `position` and `reason`. Without a column `truth` nothing changes.
    """
    unused = pl.DataFrame(schema={"position": kept.schema["position"], "reason": pl.String})
    if "truth" not in kept.columns:
        return kept, None, unused
    marked = pl.col("truth").fill_null(False)
    said = kept.filter(marked)
    kept = kept.filter(~marked).drop("truth")
    if said.is_empty():
        return kept, None, unused
    said = said.with_columns(
        reason=pl.when(~pl.col(key).is_in(kept[key].implode()))
        .then(pl.lit("a known answer to what nobody answered"))
        .when(pl.col(answer).n_unique().over(key) > 1)
        .then(pl.lit("known answers that differ"))
    )
    truth = said.filter(pl.col("reason").is_null()).unique(key, keep="first", maintain_order=True)
    unused = said.filter(pl.col("reason").is_not_null()).select("position", "reason")
    return kept, truth.select(key, answer) if len(truth) else None, unused
