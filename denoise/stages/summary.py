"""What an EM run says about itself: the numbers of `summary.json`, and sentences for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from denoise import noise
from denoise.stages.evidence import Evidence


def summarise(
    table: pl.DataFrame, confidences: pl.DataFrame, annotators: pl.DataFrame, fit: noise.Fit
) -> dict[str, Any]:
    """The counts and means of `summary.json`; `table` is that of the votes with what counts."""
    sides = table.filter("counted").group_by("pair_id").agg(pl.len(), pl.col("vote").n_unique())
    labels = confidences["confidence"].drop_nulls()
    wrong = float((1.0 - labels).sum())
    known = annotators.filter(pl.col("reliability").is_not_null())
    mean = known["reliability"].mean()
    voted = (known["reliability"] * known["n_votes"]).sum() / max(known["n_votes"].sum(), 1)
    last = fit.trace[-1]
    return {
        "converged": fit.converged,
        "iterations": last.iteration,
        "objective": last.objective,
        "n_votes": len(table),
        "n_ties": int((~table["oriented"]).sum()),
        "n_contradicted": int(table["contradicted"].sum()),
        "n_repeated": int(table["repeated"].sum()),
        "n_unscored": len(table.filter("oriented", pl.col("margin").is_null())),
        "n_pairs": table["pair_id"].n_unique(),
        "n_pairs_several": int((sides["len"] > 1).sum()),
        "n_pairs_conflicting": int((sides["vote"] > 1).sum()),
        "n_annotators": len(annotators),
        "n_not_identified": _flagged(annotators, "not identified"),
        "mean_reliability": mean,
        "mean_reliability_by_vote": voted if len(known) else None,
        "expected_wrong": wrong,
        "expected_wrong_share": wrong / len(labels),
    }


def _flagged(annotators: pl.DataFrame, flag: str) -> int:
    return int(annotators["flags"].list.contains(flag).sum())


def cautions(
    evidence: Evidence, annotators: pl.DataFrame, summary: Mapping[str, Any], fit: noise.Fit
) -> list[str]:
    """What the user should know before trusting the numbers."""
    said = [fit.warning] if fit.warning else []
    if evidence.settings["evidence"] == "none":
        said.append(
            "there is no evidence of a model: paper mode learns nothing from votes alone, and each "
            "label has the confidence η_0; give --scores, --margin or --prob"
        )
    elif summary["n_not_identified"] and len(annotators) == 1:
        said.append(
            "the one reliability is not identified: these margins do not tell it, and the "
            "confidences are no better known than it is"
        )
    elif summary["n_not_identified"]:
        said.append(
            f"{summary['n_not_identified']:,} annotator(s) are flagged 'not identified': these "
            "data do not tell their reliability"
        )
    if summary["n_unscored"]:
        said.append(
            f"{summary['n_unscored']:,} of {summary['n_votes']:,} votes have no margin; they take "
            "no part in the fit, and their confidence is their annotator's reliability"
        )
    if summary["n_contradicted"]:
        said.append(
            f"{summary['n_contradicted']:,} votes contradict another of the same annotator on the "
            "same pair and count as ties"
        )
    if summary["n_pairs_several"]:
        said.append(
            f"{summary['n_pairs_several']:,} of {summary['n_pairs']:,} pairs have several votes "
            f"({summary['n_pairs_conflicting']:,} in conflict); paper mode treats them as "
            "unrelated, so what they say together is not used"
        )
    return said
