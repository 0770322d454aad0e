"""The votes of an earlier run, beside those at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from denoise import schema
from denoise.errors import raise_any, refuse
from denoise.stages.evidence import Evidence

if TYPE_CHECKING:
    from denoise.stages.em import EMResult

_EVIDENCE = ("evidence", "loss", "beta", "gamma", "per_token", "column", "table")


def join_earlier(
    votes: pl.DataFrame, evidence: Evidence, init: EMResult | None
) -> tuple[pl.DataFrame, dict[str, float]]:
    """The votes with Δ of a over b and `earlier`, an earlier run's after them; and its η by name.

    A named annotator's vote counts once however often it comes: where the data hold a vote of the
    same annotator on the same pair, the earlier one is left out. Votes of `all` are left out where
    the data hold any vote of `all` on the pair.

    Raises:
        InputError: the earlier run's margins are of another loss or column.
    """
    kept = ["vote_id", "pair_id", "annotator_id", "vote"]
    kept += ["strength"] if "strength" in votes.columns else []
    table = votes.select(kept).with_columns(margin=evidence.margin, earlier=pl.lit(False))
    if init is None:
        return table, {}
    before = init.provenance.settings
    other = [n for n in _EVIDENCE if before.get(n) != evidence.settings.get(n)]
    if before and other:
        listed = ", ".join(f"{n} {before.get(n)} and {evidence.settings.get(n)}" for n in other)
        refuse(
            f"the earlier run's margins are not of the same kind: {listed}",
            file="init",
            fix="give the same scores options as then, or leave out --init",
        )
    raise_any(schema.faults(init.confidences, schema.CONFIDENCES, "init"))
    sign = pl.col("vote").replace_strict({"a": 1.0, "b": -1.0}, default=None)
    rows = init.confidences.select(
        *(pl.col(n).cast(table.schema[n]) for n in kept[:4]),
        margin=pl.col("margin") * sign,
        earlier=pl.lit(True),
    ).join(table, on=["pair_id", "annotator_id"], how="anti", maintain_order="left")
    known = init.annotators.filter(pl.col("reliability").is_not_null())
    start = dict(known.select("annotator_id", "reliability").iter_rows())
    return pl.concat([table, rows], how="diagonal"), start
