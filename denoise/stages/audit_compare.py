"""What changed between two batches of the same work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import norm

from denoise.errors import refuse
from denoise.noise import Z95, log_odds
from denoise.quality.finding import discoveries
from denoise.stages.audit import AuditResult

LEVEL = 0.05
"""Share of the annotators said to have changed who may not have."""


@dataclass(frozen=True)
class Comparison:
    """measures: a row a measure, its value in a and b, the change with its 95 % interval (null
    where there is none); annotators: a row an annotator of either, `changed` being of reliability.
    """

    measures: pl.DataFrame
    annotators: pl.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """How many annotators are in both, gone, new, better and worse."""
        table = self.annotators
        sure = table.filter("changed")
        return {
            "both": len(table.filter(status="both")),
            "gone": len(table.filter(status="gone")),
            "new": len(table.filter(status="new")),
            "better": len(sure.filter(pl.col("change") > 0)),
            "worse": len(sure.filter(pl.col("change") < 0)),
        }


def compare(a: AuditResult, b: AuditResult) -> Comparison:
    """The measures of two audits side by side, and the annotators whose reliability changed.

    A change of reliability is tested as the difference of log-odds over its standard error, which
    the intervals tell; false discoveries are controlled (Benjamini–Hochberg).

    Raises:
        InputError: one is of labels and the other of pairs.
    """
    if a.summary["kind"] != b.summary["kind"]:
        found = f"{a.summary['kind']} and {b.summary['kind']}"
        refuse("these cannot be compared", found=found, fix="give two batches of one kind")
    return Comparison(_measures(a, b), _annotators(a, b))


def _measures(a: AuditResult, b: AuditResult) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []

    def add(name: str, one: float | None, two: float | None, width: float | None = None) -> None:
        told = one is not None and two is not None and one == one and two == two
        change = two - one if told else None  # type: ignore[operator]
        known = change is not None and width is not None and width == width
        rows.append(
            {
                "measure": name,
                "a": one,
                "b": two,
                "change": change,
                "low": change - width if known else None,  # type: ignore[operator]
                "high": change + width if known else None,  # type: ignore[operator]
            }
        )

    for name, title in (("n_votes", "votes"), ("n_items", "items"), ("n_annotators", "annotators")):
        add(title, *(float(r.summary[name]) for r in (a, b)))
    add("votes an item", a.summary["votes_an_item"], b.summary["votes_an_item"])
    widths = [_mean_width(r) for r in (a, b)]
    add("reliability (mean by vote)", *_of("reliability", a, b), float(np.hypot(*widths)))
    add("reliability of the worst", *_of("min_reliability", a, b))
    for name, title in (
        ("alpha", "Krippendorff's alpha"),
        ("kappa", "Fleiss' kappa"),
        ("ac1", "Gwet's AC1"),
    ):
        one, two = getattr(a.agreement, name), getattr(b.agreement, name)
        width = np.hypot(one.high - one.low, two.high - two.low) / 2.0
        add(title, one.value, two.value, float(width))
    shares = [r.summary["expected_wrong_items"] / max(r.summary["n_items"], 1) for r in (a, b)]
    add("share of labels expected to be wrong", *shares)
    add("annotators who need a look", *(float(r.summary["n_flagged"]) for r in (a, b)))
    kinds = {"measure": pl.String, **dict.fromkeys(("a", "b", "change", "low", "high"), pl.Float64)}
    return pl.DataFrame(rows, schema=kinds)


def _of(name: str, a: AuditResult, b: AuditResult) -> tuple[float | None, float | None]:
    return a.summary[name], b.summary[name]


def _mean_width(result: AuditResult) -> float:
    """Half the 95 % interval of the vote-weighted mean, annotators' errors being independent."""
    told = result.annotators.filter(pl.col("reliability").is_not_null())
    weight = told["n_votes"].to_numpy() / max(told["n_votes"].sum(), 1)
    half = (told["reliability_high"] - told["reliability_low"]).to_numpy() / 2.0
    return float(np.sqrt(((weight * half) ** 2).sum()))


def _annotators(a: AuditResult, b: AuditResult) -> pl.DataFrame:
    columns = ["annotator_id", "reliability", "reliability_low", "reliability_high"]
    columns += ["n_votes", "flags"]
    one, two = (r.annotators.select(columns) for r in (a, b))
    table = one.join(two, on="annotator_id", how="full", suffix="_b", coalesce=True)
    table = table.sort("annotator_id")
    eta = [table[f"reliability{end}"].cast(pl.Float64).to_numpy() for end in ("", "_b")]
    error = [
        (
            log_odds(table[f"reliability_high{end}"].cast(pl.Float64).to_numpy())
            - log_odds(table[f"reliability_low{end}"].cast(pl.Float64).to_numpy())
        )
        / (2.0 * Z95)
        for end in ("", "_b")
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (log_odds(eta[1]) - log_odds(eta[0])) / np.hypot(*error)
    p = 2.0 * norm.sf(np.abs(z))
    changed = discoveries(p, LEVEL)
    gone, new = pl.col("n_votes_b").is_null(), pl.col("n_votes").is_null()
    return table.select(
        "annotator_id",
        pl.when(gone)
        .then(pl.lit("gone"))
        .when(new)
        .then(pl.lit("new"))
        .otherwise(pl.lit("both"))
        .alias("status"),
        reliability_a="reliability",
        reliability_b="reliability_b",
        change=pl.Series(eta[1] - eta[0], nan_to_null=True),
        p_value=pl.Series(p, nan_to_null=True),
        changed=pl.Series(changed),
        n_votes_a="n_votes",
        n_votes_b="n_votes_b",
        flags_a="flags",
        flags_b="flags_b",
    )
