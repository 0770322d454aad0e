"""The tables of an audit: annotators with their flags, items, slices, and what votes are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from denoise.quality import agreement
from denoise.quality.finding import discoveries
from denoise.quality.items import difficulty, dissent
from denoise.quality.known import wilson
from denoise.quality.worth import Purchase, spent
from denoise.stages.audit_evidence import Judged
from denoise.stages.audit_findings import Findings

ENOUGH_VOTES = 20
"""Votes that an annotator must have to be the worst one of the gate, or to be said to rush."""

CONTESTED = 0.05
"""Share of the items called contested that may be so falsely."""

BUDGETS = 40
"""Points of the curve of the buying plan."""


FLAG = {
    "spammer": "spammer",
    "adversary": "adversary",
    "position": "position bias",
    "length": "length bias",
    "label": "leans to a label",
    "copies": "errs with another",
    "drift": "became worse",
    "fast": "fast answers worse",
    "slice": "worse in a slice",
}
"""What each question is called where it is answered against an annotator."""

RUSHES = "rushes"
"""Whose median answer is fast (`contrast.FAST`); a fact about times, not a test."""

USELESS = [FLAG["spammer"], FLAG["adversary"]]
"""Flags of those whose labels should not be used."""

WORTH_A_TALK = [
    *(FLAG[name] for name in ("position", "length", "copies", "drift", "fast", "slice")),
    RUSHES,
]
"""Flags of those to talk to. Leaning to a label is common, and the confidences allow for it; the
flags of `em` say how little is known."""

NEEDS_A_LOOK = [*USELESS, *WORTH_A_TALK]


def has_flag(flags: Sequence[str]) -> pl.Expr:
    """Whether an annotator has one of the flags."""
    return pl.col("flags").list.set_intersection(list(flags)).list.len() > 0


def items_table(crowd: Judged, bought: Purchase, known: np.ndarray) -> pl.DataFrame:
    """A row an item: its label, how sure and hard it is, whether contested, and what it is worth.

    An item is contested where more votes go against its label than the error rates explain; where
    its answer is known that casts doubt on the answer instead. `gain` is that of all the
    `labels_to_buy` together.
    """
    p = crowd.posterior
    against, tail = dissent(crowd.votes, crowd.confusion, p)
    odd = discoveries(tail, CONTESTED)
    some_votes = crowd.counts[:, : p.shape[1]]
    return pl.DataFrame(
        {
            "item_id": crowd.items,
            "label": crowd.classes.gather(p.argmax(1)),
            "confidence": p.max(1),
            "n_votes": pl.Series(crowd.counts.sum(1), dtype=pl.Int64),
            "difficulty": pl.Series(difficulty(p, some_votes), nan_to_null=True),
            "n_against": pl.Series(against, dtype=pl.Int64),
            "contested": odd & (known < 0),
            "known_doubtful": odd & (known >= 0),
            "worth_of_a_look": 1.0 - p.max(1),
            "labels_to_buy": pl.Series(bought.labels, dtype=pl.Int64),
            "gain": bought.gain,
        }
    ).sort("worth_of_a_look", "item_id", descending=[True, False])


def plan_table(bought: Purchase) -> pl.DataFrame:
    """Items put right by so many further labels, where they are worth most and at random."""
    pays = bought.gain > 0
    most = int(bought.labels[pays].sum())
    budgets = np.unique(np.linspace(0, most, BUDGETS + 1).astype(np.int64))
    best, even = spent(bought, budgets)
    return pl.DataFrame({"labels": budgets, "planned": best, "at_random": even})


def audited_annotators(crowd: Judged, found: Findings, known: np.ndarray) -> pl.DataFrame:
    """The table of `em` with the audit's flags and figures, by the lower bound of reliability."""
    votes, table = crowd.votes, crowd.result.annotators
    n = np.maximum(votes.votes_per_annotator, 1)
    own = crowd.posterior[votes.item, votes.label]
    expected = np.bincount(votes.annotator, own, votes.n_annotators) / n
    expected[votes.votes_per_annotator == 0] = np.nan
    told = known[votes.item] >= 0
    hit = (votes.label == known[votes.item]) & told
    n_known = np.bincount(votes.annotator[told], minlength=votes.n_annotators)
    n_hit = np.bincount(votes.annotator[hit], minlength=votes.n_annotators)
    low, high = wilson(n_hit, n_known)
    columns: dict[str, Any] = {
        "expected_right": pl.Series(expected, nan_to_null=True),
        "informed": pl.Series(found.informed, nan_to_null=True),
    }
    if (known >= 0).any():
        share = np.divide(n_hit, n_known, out=np.full(len(n_hit), np.nan), where=n_known > 0)
        columns |= {
            "n_known": pl.Series(n_known, dtype=pl.Int64),
            "accuracy_on_known": pl.Series(share, nan_to_null=True),
            "accuracy_low": pl.Series(low, nan_to_null=True),
            "accuracy_high": pl.Series(high, nan_to_null=True),
        }
    flags = [list(flags) for flags in table["flags"].to_list()]
    place = {name: k for k, name in enumerate(table["annotator_id"])}
    raised = found.table.filter("flagged", pl.col("question") != "copies")
    for question, name in (
        raised.select("question", "annotator_id").unique(maintain_order=True).rows()
    ):
        flags[place[name]].append(FLAG[question])
    if found.speed is not None:
        pace = found.speed
        rushes = (pace.median < pace.limit) & (votes.votes_per_annotator >= ENOUGH_VOTES)
        for k in np.flatnonzero(rushes):
            flags[k].append(RUSHES)
        columns |= {
            "median_seconds": pl.Series(pace.median, nan_to_null=True),
            "share_fast": pl.Series(pace.share, nan_to_null=True),
        }
    pairs = found.table.filter("flagged", question="copies")
    for name in {*pairs["annotator_id"], *pairs["other"]}:
        flags[place[name]].append(FLAG["copies"])
    table = table.with_columns(flags=pl.Series(flags, dtype=pl.List(pl.String)), **columns)
    return table.sort("reliability_low", "annotator_id", nulls_last=True)


def slices_table(crowd: Judged, found: Findings) -> pl.DataFrame:
    """A row a slice: its votes, how often they are right, and how far people agree on its items."""
    votes = _by_slice(crowd, found)
    alpha = [
        {"slice": name, "value": value, "alpha": _alpha(crowd, part["item"].unique().to_numpy())}
        for (name, value), part in votes.group_by("slice", "value")
    ]
    kinds = {"slice": pl.String, "value": pl.String, "alpha": pl.Float64}
    table = votes.group_by("slice", "value").agg(
        pl.len().cast(pl.Int64).alias("n_votes"),
        pl.col("item").n_unique().cast(pl.Int64).alias("n_items"),
        pl.col("right").mean().alias("expected_right"),
    )
    table = table.join(pl.DataFrame(alpha, schema=kinds), on=["slice", "value"])
    return table.sort("slice", "n_votes", "value", descending=[False, True, False])


def annotator_slices_table(crowd: Judged, found: Findings) -> pl.DataFrame:
    """A row an annotator and slice: his votes there, and the share expected to be right."""
    votes = _by_slice(crowd, found)
    keys = ["annotator_id", "slice", "value"]
    table = votes.with_columns(annotator_id=crowd.annotators.gather(votes["annotator"]))
    return (
        table.group_by(keys)
        .agg(
            pl.len().cast(pl.Int64).alias("n_votes"), pl.col("right").mean().alias("expected_right")
        )
        .sort(keys)
    )


def _by_slice(crowd: Judged, found: Findings) -> pl.DataFrame:
    """`slice`, `value`, `item`, `annotator` and `right` of each vote, once a slicing column."""
    votes = crowd.votes
    of_votes = pl.DataFrame(
        {
            "item": votes.item,
            "annotator": votes.annotator,
            "right": crowd.posterior[votes.item, votes.label],
        }
    )
    parts = [
        of_votes.with_columns(slice=pl.lit(name), value=values.cast(pl.String)).drop_nulls("value")
        for name, values in found.slices.items()
    ]
    empty = of_votes.clear().with_columns(
        slice=pl.lit(None, pl.String), value=pl.lit(None, pl.String)
    )
    return pl.concat([empty, *parts])


def _alpha(crowd: Judged, items: np.ndarray) -> float | None:
    value = agreement.krippendorff_alpha(crowd.counts[items], replicates=0).value
    return None if np.isnan(value) else value
