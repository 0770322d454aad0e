"""The audit: who can be trusted, which labels to look at again, and what more labels are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import polars as pl

from denoise.crowd.selection import SHARED_ERROR
from denoise.dataset import Dataset
from denoise.errors import refuse
from denoise.quality import agreement
from denoise.quality.worth import ByVotes, by_votes, purchase
from denoise.stages.audit_evidence import CORE, Judged, answers_known, judged, known_codes
from denoise.stages.audit_findings import Asked, findings
from denoise.stages.audit_summary import on_known, summarise
from denoise.stages.audit_tables import (
    annotator_slices_table,
    audited_annotators,
    items_table,
    plan_table,
    slices_table,
)
from denoise.stages.truth import truth_hash
from denoise.tables import Provenance


class Coefficients(NamedTuple):
    """Agreement beyond chance: Krippendorff's alpha, Fleiss' kappa, Gwet's AC1, each with its 95 %
    bootstrap interval over items."""

    alpha: agreement.Coefficient
    kappa: agreement.Coefficient
    ac1: agreement.Coefficient


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    annotators: the table of `em` with what the audit adds, by the lower bound of reliability;
    findings: a row a question and annotator; items: label, confidence, difficulty, whether
    contested, and what looking or buying is worth, by the worth of a look; slices: a row a slice;
    annotator_slices: a row an annotator and slice; votes: a row an answer with P(it is right);
    by_votes: accuracy by votes an item; plan: items put right by further labels; agreement, asked,
    summary: as their names say; provenance: of the run; judged: what it was all made from.
    """

    annotators: pl.DataFrame
    findings: pl.DataFrame
    items: pl.DataFrame
    slices: pl.DataFrame
    annotator_slices: pl.DataFrame
    votes: pl.DataFrame
    by_votes: ByVotes
    plan: pl.DataFrame
    agreement: Coefficients
    asked: Mapping[str, Asked]
    summary: Mapping[str, Any]
    provenance: Provenance
    judged: Judged

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user."""
        return tuple(self.summary["notes"])


def audit(
    data: Dataset,
    *,
    truth: pl.DataFrame | None = None,
    time: str | None = None,
    slices: Sequence[str] = (),
    model: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    **evidence: Any,
) -> AuditResult:
    """Judge the annotators, the labels and the items of any votes or labels.

    Args:
        truth: known answers, `pair_id` and `vote`, or `item_id` and `label`; the data's own where
            not given. They count as certain, but for `accuracy_on_known`, which is of labels that
            were made without them.
        time: the column of when an answer was given, else `timestamp`.
        slices: columns by whose values annotators are compared with themselves.
        model: of labels, as `em_labels`.
        evidence: options of `em` for pairs, but for `mode` and `pool`: `scores`, `margin_column`
            and so on.

    Raises:
        InputError: a table departs from its contract, a column is not there, or an option is wrong.
    """
    if not data.is_preference and (idle := sorted(k for k, v in evidence.items() if v is not None)):
        refuse("means nothing to labels", column=idle[0], fix="leave it out")
    for name in ("mode", "pool"):  # without the votes' shared truth there is nothing to judge by
        if name in evidence:
            refuse(f"{name} means nothing to an audit", fix="leave it out")
    options = {"model": model, "threads": threads, **evidence}
    blind = judged(data, **options)
    truth, foreign = answers_known(data, truth, blind)
    crowd = blind if truth is None else judged(data, truth=truth, **options)
    known = known_codes(truth, crowd)
    known_to_blind = known_codes(truth, blind)
    found = findings(crowd, time=time, slices=tuple(slices), seed=seed)
    bought = purchase(crowd.posterior, crowd.typical())
    made = {"data": data.provenance.run_id, "em": crowd.result.provenance.run_id}
    if truth is not None:
        made["truth"] = truth_hash(truth)
    votes = crowd.votes
    right = crowd.posterior[votes.item, votes.label]
    result = AuditResult(
        annotators=audited_annotators(crowd, found, known),
        findings=found.table,
        items=items_table(crowd, bought, known),
        slices=slices_table(crowd, found),
        annotator_slices=annotator_slices_table(crowd, found),
        votes=crowd.rows.select(pl.Series("row", crowd.places), *CORE, confidence=pl.Series(right)),
        by_votes=by_votes(
            blind.votes,
            blind.confusion,
            blind.class_prior,
            known=known_to_blind,
            shared_error=SHARED_ERROR,
            seed=seed,
        ),
        plan=plan_table(bought),
        agreement=Coefficients(
            agreement.krippendorff_alpha(crowd.counts, seed=seed),
            agreement.fleiss_kappa(crowd.counts, seed=seed),
            agreement.gwet_ac1(crowd.counts, seed=seed),
        ),
        asked=found.asked,
        summary={},
        provenance=Provenance("audit", made, {"time": time, "slices": list(slices), "seed": seed}),
        judged=crowd,
    )
    summary = summarise(result, found, on_known(blind, known_to_blind))
    if foreign:
        said = f"{foreign:,} known answers are of items that these data do not have; left out"
        summary["notes"].append(said)
    return replace(result, summary=summary)
