"""The audit: who can be trusted, which labels to look at again, and what more labels are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from denoise import schema
from denoise.crowd.selection import SHARED_ERROR
from denoise.dataset import Dataset
from denoise.errors import refuse
from denoise.quality import agreement
from denoise.quality.contrast import FAST
from denoise.quality.finding import LEVELS, Finding, discoveries
from denoise.quality.items import difficulty, dissent
from denoise.quality.known import wilson
from denoise.quality.worth import ByVotes, Purchase, by_votes, purchase, spent
from denoise.stages.audit_evidence import Judged, judged, known_codes
from denoise.stages.audit_findings import TOGETHER, Asked, Findings, findings
from denoise.stages.settings import EMSettings
from denoise.stages.truth import known_answers, truth_hash, with_names
from denoise.tables import Provenance

ENOUGH_VOTES = 20
"""Votes that an annotator must have to be the worst one of the gate, or to be said to rush."""

CONTESTED = 0.05
"""Share of the items called contested that may be so falsely."""

BUDGETS = 40
"""Points of the curve of the buying plan."""


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
    votes: a row an answer with P(it is right); by_votes: accuracy by votes an item; plan: items put
    right by further labels; agreement, asked, summary: as their names say. provenance: of the run.
    """

    annotators: pl.DataFrame
    findings: pl.DataFrame
    items: pl.DataFrame
    slices: pl.DataFrame
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
        evidence: options of `em` for pairs: `scores`, `margin_column` and so on.

    Raises:
        InputError: a table departs from its contract, a column is not there, or an option is wrong.
    """
    if not data.is_preference and (idle := sorted(k for k, v in evidence.items() if v is not None)):
        refuse("means nothing to labels", column=idle[0], fix="leave it out")
    EMSettings(threads=threads)
    truth = data.truth if truth is None else truth
    crowd = judged(data, model=model, threads=threads, **evidence)
    without = crowd
    answer = "vote" if crowd.is_preference else "label"
    if truth is not None:
        contract = schema.TRUTH_VOTES if crowd.is_preference else schema.TRUTH_LABELS
        truth, foreign = _of_these(truth, contract, crowd.items)
        crowd = judged(data, truth=truth, model=model, threads=threads, **evidence)
    else:
        foreign = 0
    known = np.full(len(crowd.items), -1)
    if truth is not None:
        known = known_codes(truth, crowd.items, crowd.classes, answer)
    found = findings(crowd, time=time, slices=tuple(slices), seed=seed)
    items = _items(crowd)
    bought = purchase(crowd.posterior, crowd.typical())
    items = items.with_columns(
        labels_to_buy=pl.Series(bought.labels), gain=pl.Series(bought.gain)
    ).sort("worth_of_a_look", "item_id", descending=[True, False])
    annotators = _annotators(crowd, found, known)
    coefficients = Coefficients(
        agreement.krippendorff_alpha(crowd.counts, seed=seed),
        agreement.fleiss_kappa(crowd.counts, seed=seed),
        agreement.gwet_ac1(crowd.counts, seed=seed),
    )
    prior = without.class_prior
    fewer = by_votes(
        without.votes,
        without.confusion,
        prior,
        known=_as_codes_of(without, crowd, known),
        shared_error=SHARED_ERROR,
        seed=seed,
    )
    made = {"data": data.provenance.run_id, "em": crowd.result.provenance.run_id}
    if truth is not None:
        made["truth"] = truth_hash(truth)
    settings = {"time": time, "slices": list(slices), "seed": seed}
    provenance = Provenance("audit", made, settings)
    posterior = crowd.posterior
    right = posterior[crowd.votes.item, crowd.votes.label]
    kept = [c for c in ("row", "item_id", "annotator_id", "label") if c in crowd.rows.columns]
    result = AuditResult(
        annotators=annotators,
        findings=found.table,
        items=items,
        slices=_slices(crowd, found),
        votes=crowd.rows.select(kept).with_columns(confidence=pl.Series(right)),
        by_votes=fewer,
        plan=_plan(bought),
        agreement=coefficients,
        asked=found.asked,
        summary={},
        provenance=provenance,
        judged=crowd,
    )
    accuracy = _on_known(without, _as_codes_of(without, crowd, known))
    summary = _summary(result, found, accuracy)
    if foreign:
        said = f"{foreign:,} known answers are of items that these data do not have; left out"
        summary["notes"].append(said)
    return AuditResult(**{**vars(result), "summary": summary})


def _of_these(
    truth: pl.DataFrame, contract: schema.Contract, ids: pl.Series
) -> tuple[pl.DataFrame, int]:
    """The known answers of these items, and how many are of others: a list may serve many batches.

    Raises:
        InputError: the table departs from its contract, or no answer is of these items.
    """
    truth = with_names(truth, contract)
    key = contract.columns[0].name
    kept = truth
    if key in truth.columns:
        kept = truth.filter(pl.col(key).cast(pl.String).is_in(ids.implode()))
    return known_answers(truth if kept.is_empty() else kept, contract, ids), len(truth) - len(kept)


def _as_codes_of(without: Judged, crowd: Judged, known: np.ndarray) -> np.ndarray:
    """Known classes by the classes of another fit of the same items, −1 where none is known.

    Known answers may name a class that no vote has: C, which nothing equals.
    """
    place = {name: c for c, name in enumerate(without.classes)}
    of = np.array([place.get(name, len(place)) for name in crowd.classes] + [-1])
    return of[known]


def _items(crowd: Judged) -> pl.DataFrame:
    """A row an item: what its label is, how sure, how hard, and whether reliable people differ."""
    p = crowd.posterior
    against, tail = dissent(crowd.votes, crowd.confusion, p)
    nothing = np.full(len(tail), np.nan)
    contested = discoveries(Finding(tail, nothing, nothing, nothing, nothing), CONTESTED)
    some_votes = crowd.counts[:, : p.shape[1]]
    return pl.DataFrame(
        {
            "item_id": crowd.items,
            "label": crowd.classes.gather(p.argmax(1)),
            "confidence": p.max(1),
            "n_votes": pl.Series(crowd.counts.sum(1), dtype=pl.Int64),
            "difficulty": pl.Series(difficulty(p, some_votes), nan_to_null=True),
            "n_against": pl.Series(against, dtype=pl.Int64),
            "contested": contested,
            "worth_of_a_look": 1.0 - p.max(1),
        }
    )


def _plan(bought: Purchase) -> pl.DataFrame:
    """Items put right by so many further labels, where they are worth most and at random."""
    pays = bought.gain > 0
    most = int(bought.labels[pays].sum())
    budgets = np.unique(np.linspace(0, most, BUDGETS + 1).astype(np.int64))
    best, even = spent(bought, budgets)
    return pl.DataFrame({"labels": budgets, "planned": best, "at_random": even})


def _annotators(crowd: Judged, found: Findings, known: np.ndarray) -> pl.DataFrame:
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

assert FLAG.keys() == LEVELS.keys()
assert 0 < FAST < 1


def _slices(crowd: Judged, found: Findings) -> pl.DataFrame:
    """A row a slice: its votes, how often they are right, and how far people agree in it."""
    rows = []
    votes = crowd.votes
    for column, values in found.slices.items():
        frame = pl.DataFrame(
            {
                "value": values.cast(pl.String),
                "item": votes.item,
                "right": crowd.posterior[votes.item, votes.label],
            }
        )
        table = (
            frame.drop_nulls("value")
            .group_by("value")
            .agg(
                n_votes=pl.len(),
                n_items=pl.col("item").n_unique(),
                expected_right=pl.col("right").mean(),
            )
        )
        counted = {
            value: agreement.krippendorff_alpha(
                crowd.counts[np.unique(part["item"].to_numpy())], replicates=0
            ).value
            for (value,), part in frame.drop_nulls("value").group_by("value")
        }
        alpha = pl.Series([counted[value] for value in table["value"]], dtype=pl.Float64)
        rows.append(
            table.select(
                pl.lit(column).alias("slice"),
                "value",
                pl.col("n_votes", "n_items").cast(pl.Int64),
                "expected_right",
                alpha=alpha.fill_nan(None),
            ).sort("n_votes", "value", descending=[True, False])
        )
    empty = {
        "slice": pl.String,
        "value": pl.String,
        "n_votes": pl.Int64,
        "n_items": pl.Int64,
        "expected_right": pl.Float64,
        "alpha": pl.Float64,
    }
    return pl.concat(rows) if rows else pl.DataFrame(schema=empty)


def _on_known(crowd: Judged, known: np.ndarray) -> dict[str, float]:
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


def _summary(result: AuditResult, found: Findings, on_known: Mapping[str, float]) -> dict[str, Any]:
    """The headline numbers; shares are of 1."""
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
        "n_useless": _with_flag(table, USELESS),
        "n_flagged": _with_flag(table, [*USELESS, *WORTH_A_TALK]),
        "n_leaning": _with_flag(table, [FLAG["label"]]),
        "errs_together": TOGETHER in result.asked["copies"].reason,
        "questions": {name: asked._asdict() for name, asked in result.asked.items()},
        "on_known": dict(on_known),
        "fast_limit_seconds": found.speed.limit if found.speed else None,
        "largest_annotator_share": float(n.max() / max(n.sum(), 1.0)) if len(n) else 0.0,
        "notes": list(crowd.result.notes),
        "run_id": result.provenance.run_id,
    }


USELESS = [FLAG["spammer"], FLAG["adversary"]]
"""Flags of those whose labels should not be used."""

WORTH_A_TALK = [
    *(FLAG[name] for name in ("position", "length", "copies", "drift", "fast", "slice")),
    RUSHES,
]
"""Flags of those to talk to. Leaning to a label is common, and the confidences allow for it; the
flags of `em` say how little is known."""


def _with_flag(table: pl.DataFrame, flags: Sequence[str]) -> int:
    return int((table["flags"].list.set_intersection(list(flags)).list.len() > 0).sum())
