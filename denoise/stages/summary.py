"""What an EM run says about itself: the numbers of `summary.json`, and sentences for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from denoise.stages.evidence import Evidence
from denoise.stages.inference import Inference
from denoise.stages.settings import EMSettings


def counts_of(table: pl.DataFrame) -> dict[str, int]:
    """What there is of votes and pairs; `table` is that of the votes with what counts.

    `n_counted` is the number of votes that count, which `summarise` takes out.
    """
    sides = table.filter("counted").group_by("pair_id").agg(pl.len(), pl.col("vote").n_unique())
    return {
        "n_votes": len(table),
        "n_ties": int((~table["oriented"]).sum()),
        "n_contradicted": int(table["contradicted"].sum()),
        "n_repeated": int(table["repeated"].sum()),
        "n_unscored": len(table.filter("oriented", pl.col("margin").is_null())),
        "n_earlier": int(table["earlier"].sum()),
        "n_pairs": table["pair_id"].n_unique(),
        "n_pairs_several": int((sides["len"] > 1).sum()),
        "n_pairs_conflicting": int((sides["vote"] > 1).sum()),
        "n_counted": int(table["counted"].sum()),
    }


def summarise(
    counts: Mapping[str, int], annotators: pl.DataFrame, found: Inference
) -> dict[str, Any]:
    """The numbers of `summary.json`; `counts` as `counts_of` gives them."""
    several, conflicting = counts["n_pairs_several"], counts["n_pairs_conflicting"]
    known = annotators.filter(pl.col("reliability").is_not_null())
    voted = (known["reliability"] * known["n_votes"]).sum() / max(known["n_votes"].sum(), 1)
    numbers = {
        "converged": found.converged,
        "iterations": found.trace[-1].iteration,
        **{name: count for name, count in counts.items() if name != "n_counted"},
        "share_pairs_conflicting": conflicting / several if several else None,
        "n_annotators": len(annotators),
        "n_not_identified": _flagged(annotators, "not identified"),
        "n_below_chance": _flagged(annotators, "below chance"),
        "mean_reliability": known["reliability"].mean(),
        "mean_reliability_by_vote": voted if len(known) else None,
        **found.summary,
    }
    return numbers | {"expected_wrong_share": numbers["expected_wrong"] / counts["n_counted"]}


def _flagged(annotators: pl.DataFrame, flag: str) -> int:
    return int(annotators["flags"].list.contains(flag).sum())


def cautions(
    evidence: Evidence,
    annotators: pl.DataFrame,
    summary: Mapping[str, Any],
    settings: EMSettings,
) -> list[str]:
    """What the user should know before trusting the numbers."""
    said = []
    paper = settings.mode == "paper"
    if paper and evidence.settings["evidence"] == "none":
        said.append(
            "there is no evidence of a model: paper mode learns nothing from votes alone, and each "
            "label has the confidence η_0; give --scores, --margin or --prob, or use --mode auto"
        )
    elif summary["n_not_identified"] and len(annotators) == 1:
        said.append(
            "the one reliability is not identified: these data do not tell it, and the "
            "confidences are no better known than it is"
        )
    elif summary["n_not_identified"]:
        said.append(
            f"{summary['n_not_identified']:,} annotator(s) are flagged 'not identified': these "
            "data do not tell their reliability"
        )
    if summary["n_unscored"] and evidence.settings["evidence"] != "none":
        effect = (
            "they take no part in the fit, and their confidence is their annotator's reliability"
            if paper
            else "other votes on the pair and the annotator's reliability are all that is known"
        )
        said.append(
            f"{summary['n_unscored']:,} of {summary['n_votes']:,} votes have no margin; {effect}"
        )
    if summary["n_contradicted"]:
        said.append(
            f"{summary['n_contradicted']:,} votes contradict another of the same annotator on the "
            "same pair and count as ties"
        )
    if summary["n_earlier"]:
        said.append(f"{summary['n_earlier']:,} votes of the earlier run count as well")
    if summary["n_pairs_several"] and (paper or not settings.pool):
        said.append(
            f"{summary['n_pairs_several']:,} of {summary['n_pairs']:,} pairs have several votes "
            f"({summary['n_pairs_conflicting']:,} in conflict), which count as unrelated here: "
            "what they say together is not used"
        )
    elif summary["n_pairs_several"]:
        said.append(
            f"{summary['n_pairs_several']:,} of {summary['n_pairs']:,} pairs have several votes, "
            f"{summary['n_pairs_conflicting']:,} of them in conflict"
        )
    return said
