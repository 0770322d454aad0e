"""The rows of an export: which side is chosen, with which weight, and with which columns."""

from __future__ import annotations

import polars as pl

from denoise.errors import refuse

# What an export says itself, in this order. A column of the source with such a name is exported as
# `source_<name>`, in both kinds of rows, so that a name never changes its meaning between them.
OWN = (
    "prompt",
    "chosen",
    "rejected",
    "weight",
    "annotator_id",
    "vote_id",
    "pair_id",
    "n_votes",
    "n_agree",
    "multiplicity",
    "margin",
)
WORKING = ("response_a", "response_b", "vote")


def vote_rows(used: pl.DataFrame, confidences: pl.DataFrame) -> pl.DataFrame:
    """The votes with `weight`, `margin` and `multiplicity`, the confidences row by row beside them.

    Args:
        used: votes that chose a side, in source order.
        confidences: `confidence` and `margin` of the same rows.
    """
    return used.with_columns(
        confidences["confidence"].alias("weight"),
        confidences["margin"],
        multiplicity=1 / pl.len().over("pair_id"),
    )


def pair_rows(
    votes: pl.DataFrame, used: pl.DataFrame, confidences: pl.DataFrame, columns: tuple[str, ...]
) -> tuple[pl.DataFrame, list[str]]:
    """One row a pair, `vote` being its likelier side; and the columns of votes that are left out.

    Args:
        votes: all votes in source order, ties included: the pairs come in order of their first.
        used: those that chose a side and have a confidence.
        confidences: `confidence`, `margin` and `pair_posterior` of the rows of `used`.
        columns: columns of `used` to keep where every pair's votes agree in them.

    Raises:
        InputError: a pair of several votes has no posterior, or a pair has two.
    """
    along_a = pl.when(pl.col("vote") == "a")
    q, w = pl.col("pair_posterior"), pl.col("confidence")
    sides = (
        used.select("pair_id", "vote")
        .with_columns(confidences.select("confidence", "margin", "pair_posterior"))
        .group_by("pair_id")
        .agg(
            q.min().alias("low"),
            q.max().alias("high"),
            # One vote alone says it all, also where EM gave no posterior.
            along_a.then(w).otherwise(1 - w).first().alias("single"),
            pl.col("vote").first().alias("first"),
            (pl.col("vote") == "a").sum().alias("n_a"),
            pl.len().cast(pl.Int64).alias("n_votes"),
            # The votes of a pair share one margin, unless the user brought one for each vote.
            along_a.then(pl.col("margin")).otherwise(-pl.col("margin")).median().alias("margin"),
        )
    )
    _check_posteriors(sides)
    q = pl.coalesce("low", "single")
    weight = pl.max_horizontal(q, 1 - q)
    # Judged by the weight and not by q, which rounds to 0.5 in one orientation only.
    even = pl.when(weight <= 0.5).then(pl.col("first"))
    side = even.when(q > 0.5).then(pl.lit("a")).otherwise(pl.lit("b"))
    sides = sides.with_columns(weight.alias("weight"), side.alias("vote")).select(
        "pair_id",
        "vote",
        "weight",
        "n_votes",
        along_a.then(pl.col("n_a"))
        .otherwise(pl.col("n_votes") - pl.col("n_a"))
        .cast(pl.Int64)
        .alias("n_agree"),
        along_a.then(pl.col("margin")).otherwise(-pl.col("margin")).alias("margin"),
    )
    by_first_vote = votes.select("pair_id").unique(keep="first", maintain_order=True)
    sides = by_first_vote.join(sides, on="pair_id", how="inner", maintain_order="left")

    ids = ("annotator_id", "vote_id")
    first = used.unique("pair_id", keep="first", maintain_order=True)
    rows = used.select("pair_id").with_row_index("row")
    firsts = rows.unique("pair_id", keep="first", maintain_order=True)
    same = rows.join(firsts, on="pair_id", how="left", maintain_order="left")["row_right"]
    constant = [n for n in (*ids, *columns) if used[n].eq_missing(used[n].gather(same)).all()]
    differing = [n for n in ("annotator_id", *columns) if n not in constant]
    sides = sides.join(
        first.select("pair_id", *constant), on="pair_id", how="left", maintain_order="left"
    )
    return sides, differing


def _check_posteriors(sides: pl.DataFrame) -> None:
    unknown = sides.filter(pl.col("low").is_null() & (pl.col("n_votes") > 1))
    if len(unknown):
        refuse(
            f"{len(unknown):,} pair(s) have several votes and no posterior, since EM treated their "
            "votes as unrelated (paper mode, or without pooling)",
            fix="give --rows votes",
        )
    torn = sides.filter(pl.col("low") != pl.col("high"))
    if len(torn):
        refuse(
            f"{len(torn):,} pair(s) whose votes carry different posteriors",
            file="confidences",
            column="pair_posterior",
            found=torn.sort("pair_id")["pair_id"][0],
            fix="run `denoise em` again: the posterior belongs to the pair",
        )


def with_texts(sided: pl.DataFrame, pairs: pl.DataFrame, brought: tuple[str, ...]) -> pl.DataFrame:
    """The rows with prompt, chosen and rejected by their `vote`, columns in the export's order."""
    frame = sided.join(pairs, on="pair_id", how="left", maintain_order="left")
    is_a = pl.col("vote") == "a"
    frame = frame.with_columns(
        pl.when(is_a).then("response_a").otherwise("response_b").alias("chosen"),
        pl.when(is_a).then("response_b").otherwise("response_a").alias("rejected"),
    )
    if "shown_first" in frame.columns:
        shown = pl.col("shown_first").cast(pl.String)
        frame = frame.with_columns(
            # a and b are not in the export, so the position is told in its own terms.
            pl.when(shown == pl.col("vote"))
            .then(pl.lit("chosen"))
            .when(shown.is_in(["a", "b"]))
            .then(pl.lit("rejected"))
            .otherwise(shown)
            .alias("shown_first")
        )
    if frame["margin"].null_count() == len(frame):
        frame = frame.drop("margin")
    return frame.select([name for name in (*OWN, *brought) if name in frame.columns])
