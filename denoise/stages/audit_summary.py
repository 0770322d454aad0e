"""What an audit says in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from denoise.quality.known import wilson
from denoise.stages.audit_evidence import Judged
from denoise.stages.audit_findings import TOGETHER, Findings
from denoise.stages.audit_tables import ENOUGH_VOTES, FLAG, NEEDS_A_LOOK, USELESS, has_flag

if TYPE_CHECKING:
    from denoise.stages.audit import AuditResult


def on_known(crowd: Judged, known: np.ndarray) -> dict[str, float]:
    """How often the labels made without the known answers equal them, and majority vote's do."""
    told = known >= 0
    if not told.any():
        return {}
    counts = crowd.counts[told, : len(crowd.classes)]
    leads = counts == counts.max(1, keepdims=True)
    shares = np.pad(leads / leads.sum(1, keepdims=True), ((0, 0), (0, 1)))
    majority = shares[np.arange(len(counts)), known[told]]
    right = crowd.posterior[told].argmax(1) == known[told]
    low, high = wilson(np.array([right.sum()]), np.array([len(right)]))
    return {
        "n_known": int(told.sum()),
        "accuracy_on_known": float(right.mean()),
        "accuracy_low": float(low[0]),
        "accuracy_high": float(high[0]),
        "majority_on_known": float(majority.mean()),
    }


def summarise(result: AuditResult, found: Findings, known: Mapping[str, float]) -> dict[str, Any]:
    """The headline numbers, shares of 1; `known` is what `on_known` found."""
    crowd, table = result.judged, result.annotators
    p = crowd.posterior
    n = crowd.votes.votes_per_annotator.astype(np.float64)
    told = table.filter(pl.col("reliability").is_not_null())
    weight = told["n_votes"].cast(pl.Float64)
    enough = told.filter(pl.col("n_votes") >= ENOUGH_VOTES)
    own = p[crowd.votes.item, crowd.votes.label]
    return {
        "kind": "preferences" if crowd.is_preference else "labels",
        "n_votes": int(crowd.counts.sum()),
        "n_items": len(crowd.items),
        "n_annotators": 0 if crowd.anonymous else len(crowd.annotators),
        "n_not_counted": crowd.n_not_counted,
        "n_ties": int(crowd.counts.sum() - len(own)),
        "votes_an_item": float(crowd.counts.sum(1).mean()),
        "classes": crowd.classes.to_list(),
        "reliability": float((told["reliability"] * weight).sum() / weight.sum())
        if len(told)
        else None,
        "min_reliability": enough["reliability"].min() if len(enough) else None,
        "enough_votes": ENOUGH_VOTES,
        "n_with_enough_votes": len(enough),
        **{name: value._asdict() for name, value in result.agreement._asdict().items()},
        "expected_wrong_items": float((1.0 - p.max(1)).sum()),
        "expected_wrong_votes": float((1.0 - own).sum()),
        "n_contested": int(result.items["contested"].sum()),
        "n_known_doubtful": int(result.items["known_doubtful"].sum()),
        "n_useless": len(table.filter(has_flag(USELESS))),
        "n_flagged": len(table.filter(has_flag(NEEDS_A_LOOK))),
        "n_leaning": len(table.filter(has_flag([FLAG["label"]]))),
        "errs_together": TOGETHER in result.asked["copies"].reason,
        "questions": {name: asked._asdict() for name, asked in result.asked.items()},
        "on_known": dict(known),
        "fast_limit_seconds": found.speed.limit if found.speed else None,
        "largest_annotator_share": float(n.max() / max(n.sum(), 1.0)) if len(n) else 0.0,
        "notes": list(crowd.result.notes),
        "run_id": result.provenance.run_id,
    }
