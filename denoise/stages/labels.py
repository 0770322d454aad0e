"""EM over categorical labels: a posterior for every item, a confusion for every annotator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from denoise import schema, tables
from denoise.crowd import correlation, kernels, selection
from denoise.crowd import em as crowd
from denoise.crowd.answers import Answers, Floats, answers, once
from denoise.crowd.dawid_skene import dawid_skene
from denoise.crowd.guesser import guesser
from denoise.crowd.majority import majority
from denoise.crowd.one_coin import one_coin
from denoise.crowd.result import CrowdFit, solved
from denoise.dataset import Dataset
from denoise.errors import raise_any, refuse
from denoise.places import Place
from denoise.stages.annotators import FEW_VOTES, annotators_table, by_name
from denoise.stages.settings import EMSettings
from denoise.stages.truth import known_answers, truth_hash
from denoise.tables import Provenance

MODELS = {"one-coin": one_coin, "guesser": guesser, "dawid-skene": dawid_skene}
CHOICES = ("auto", "majority", *MODELS)


COMMON = 0.05
"""Share of pairs of annotators who err together above which it is said."""


@dataclass(frozen=True)
class LabelsResult:
    """The tables of one run over labels; `notes` are sentences for the user."""

    items: pl.DataFrame
    annotators: pl.DataFrame
    confusions: pl.DataFrame
    trace: pl.DataFrame
    summary: Mapping[str, Any]
    provenance: Provenance
    notes: tuple[str, ...] = ()


def em_labels(
    data: Dataset,
    *,
    model: str = "auto",
    truth: pl.DataFrame | None = None,
    threads: int | None = None,
) -> LabelsResult:
    """Posterior of each item's class and confusion of each annotator (`denoise.crowd`).

    An annotator's equal labels of one item count once, and none counts where they differ; those of
    `all`, whom nobody named, all count.
    Columns `prior_<class>`, one for every class, are an item's probabilities beforehand; a note
    tells of other columns that begin so.

    Args:
        model: "auto" (by held-out votes), "majority", "one-coin", "guesser" or "dawid-skene".
        truth: known answers, `item_id` and `label`; they are fixed posteriors.
        threads: to use; as many as the process may, where not given.

    Raises:
        InputError: the model is unknown, `threads` is less than 1, or a table departs from its
            contract.
    """
    if model not in CHOICES:
        refuse("unknown model", found=model, fix=f"it is one of {', '.join(CHOICES)}")
    n_threads = EMSettings(threads=threads).n_threads
    if data.labels is None:
        refuse("these are pairs with votes, where labels of items are needed", file="labels")
    raise_any(schema.faults(data.labels, schema.LABELS, "labels"))
    names = ["item_id", "annotator_id", "label"]
    rows = data.labels.with_columns(pl.col(names).cast(pl.String))
    items, annotators, classes = (rows[name].unique().sort() for name in names)
    if truth is not None:
        truth = known_answers(truth, schema.TRUTH_LABELS, items)
        classes = pl.concat([classes, truth["label"]]).unique().sort()
    whole = as_answers(rows, items, annotators, classes, threads=n_threads)
    unnamed = annotators.index_of(schema.ALL_ANNOTATORS)
    votes = once(whole, -1 if unnamed is None else unnamed)
    n_not_counted = len(whole.label) - len(votes.label)
    given = crowd.evidence(votes, known=_known(truth, items, classes), prior=priors(rows, classes))
    fit, reason = _fit(votes, given, model)
    baseline = majority(votes, given)
    shared = correlation.dependence(votes, fit.posterior, fit.confusion)
    common = shared.dependent > COMMON * shared.compared
    fallen_back = common and model == "auto"
    if fallen_back:
        fit, reason = baseline, "Majority vote, as the annotators err together."
    inputs = {"data": data.provenance.run_id}
    if truth is not None:
        inputs["truth"] = truth_hash(truth)
    provenance = Provenance("em", inputs, {"kind": "labels", "model": model})
    differ = int((fit.posterior.argmax(1) != baseline.posterior.argmax(1)).sum())
    summary = {
        "model": model,
        "reason": reason,
        "converged": fit.converged,
        "n_labels": len(rows),
        "n_not_counted": n_not_counted,
        "n_items": len(items),
        "n_annotators": len(annotators),
        "classes": classes.to_list(),
        "class_prior": fit.class_prior.tolist(),
        "n_differ_from_majority": differ,
        "n_pairs_of_annotators_compared": shared.compared,
        "n_pairs_of_annotators_dependent": shared.dependent,
        "effective_annotators": shared.effective,
        "expected_wrong_items": float((1 - fit.posterior.max(1)).sum()),
        "run_id": provenance.run_id,
    }
    notes = [reason] if reason else []
    notes += [fit.warning] if fit.warning else []
    if n_not_counted:
        notes.append(
            f"{n_not_counted:,} labels repeat another of the same annotator on the same "
            "item; equal ones count once, and differing ones not at all"
        )
    if common:
        effect = (
            "models of the votes follow the largest group, so "
            "plain shares of the votes are given instead"
            if fallen_back
            else "no discount is made: take the confidences as too high"
        )
        notes.append(
            f"the annotators err together: {shared.dependent:,} of {shared.compared:,} pairs of "
            f"them agree more than the truth explains, and all {len(annotators):,} weigh like "
            f"about {shared.effective:.0f} independent ones; they copy, share a model, or find "
            f"the same items hard; {effect}"
        )
    notes.append(f"{differ:,} of {len(items):,} items get another label than by majority vote")
    named = {f"prior_{name}" for name in classes}
    if odd := [n for n in rows.columns if n.startswith("prior_") and n not in named]:
        notes.append(f"not used, as no class is called so after 'prior_': {', '.join(odd)}")
    return LabelsResult(
        items=_items(items, classes, fit),
        annotators=_annotators(rows, annotators, whole, fit),
        confusions=_confusions(annotators, classes, fit),
        trace=pl.DataFrame(
            [tuple(step) for step in fit.trace],
            schema={
                "stage": pl.Int64,
                "iteration": pl.Int64,
                "objective": pl.Float64,
                "max_change": pl.Float64,
            },
            orient="row",
        ),
        summary={**summary, "notes": notes},
        provenance=provenance,
        notes=tuple(notes),
    )


def write_labels(result: LabelsResult, out: Place) -> None:
    """Write the tables and `summary.json` into a directory of their own, all of them or none."""
    with tables.staged_directory(out, result.provenance) as staging:
        for name in ("items", "annotators", "confusions", "trace"):
            tables.write_table(
                getattr(result, name), staging / f"{name}.parquet", result.provenance
            )
        tables.write_json(result.summary, staging / "summary.json")


def as_answers(
    rows: pl.DataFrame,
    items: pl.Series,
    annotators: pl.Series,
    classes: pl.Series,
    *,
    threads: int = 1,
) -> Answers:
    """The columns `item_id`, `annotator_id` and `label` as codes of these names, sorted."""
    return answers(
        codes(rows["item_id"], items),
        codes(rows["annotator_id"], annotators),
        codes(rows["label"], classes),
        len(items),
        len(annotators),
        len(classes),
        threads=threads,
    )


def codes(values: pl.Series, names: pl.Series) -> np.ndarray:
    """The place of each text among `names`, [n] int64."""
    return values.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)


def _fit(votes: Answers, given: crowd.Evidence, model: str) -> tuple[CrowdFit, str]:
    if model == "auto":
        chosen = selection.auto(votes, given)
        return chosen.fit, chosen.reason
    if model == "majority":
        return majority(votes, given), ""
    return solved(votes, crowd.fit(votes, given, MODELS[model](votes))), ""


def _known(truth: pl.DataFrame | None, items: pl.Series, classes: pl.Series) -> np.ndarray | None:
    if truth is None:
        return None
    known = np.full(len(items), -1)
    known[codes(truth["item_id"], items)] = codes(truth["label"], classes)
    return known


def priors(rows: pl.DataFrame, classes: pl.Series) -> np.ndarray | None:
    """The items' own class probabilities, [J, C], from the first row of each."""
    wanted = [f"prior_{name}" for name in classes]
    missing = [name for name in wanted if name not in rows.columns]
    if len(missing) == len(wanted):
        return None
    if missing:
        refuse(
            f"some classes have a prior and others have none: {', '.join(missing)}",
            file="labels",
            fix="give a column prior_<class> for every class, or for none",
        )
    firsts = rows.unique("item_id", keep="first", maintain_order=True).sort("item_id")
    prior = firsts.select(pl.col(wanted).cast(pl.Float64)).to_numpy()
    wrong = ~(np.isfinite(prior) & (prior >= 0)).all(1) | (prior.sum(1) <= 0)
    if wrong.any():
        refuse(
            f"{int(wrong.sum())} item(s) whose prior is not one of probabilities",
            file="labels",
            column=wanted[0],
            found=prior[wrong][0].tolist(),
            fix="give numbers of 0 or more, not all 0, for every class",
        )
    return prior


def _items(items: pl.Series, classes: pl.Series, fit: CrowdFit) -> pl.DataFrame:
    """The table `items`, with the entropy of each posterior in nats."""
    p = fit.posterior
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(1)
    return pl.DataFrame(
        {
            "item_id": items,
            "label": classes.gather(p.argmax(1)),
            "confidence": p.max(1),
            "entropy": np.maximum(entropy, 0.0),
            **{f"posterior_{name}": p[:, c] for c, name in enumerate(classes)},
        }
    )


def _annotators(
    rows: pl.DataFrame, names: pl.Series, whole: Answers, fit: CrowdFit
) -> pl.DataFrame:
    """The table `annotators`, with Raykar's spammer score (0: the labels say nothing)."""
    told = fit.n > 0
    flags = {
        "few votes": fit.n < FEW_VOTES,
        "not identified": ~told,
        "below chance": fit.reliability < 1.0 / fit.confusion.shape[1],
    }
    bounds = (np.where(told, values, np.nan) for values in (fit.reliability, fit.low, fit.high))
    n_votes = by_name(names, rows.group_by("annotator_id").len()).to_numpy()
    shown = annotators_table(names, n_votes, *bounds, flags, _agreement(whole))
    return shown.with_columns(spammer_score=pl.Series(fit.spammer))


def _agreement(whole: Answers) -> Floats:
    """Share of labels that most others give to the item too, where one leads, [K]; NaN if none."""
    arrays = (whole.start, whole.annotator, whole.label)
    agreed, decided = kernels.agreement(*arrays, whole.n_annotators, whole.n_classes)
    return np.divide(agreed, decided, out=np.full(len(agreed), np.nan), where=decided > 0)


def _confusions(annotators: pl.Series, classes: pl.Series, fit: CrowdFit) -> pl.DataFrame:
    n, c = len(annotators), len(classes)
    codes = np.indices((n, c, c)).reshape(3, -1)
    return pl.DataFrame(
        {
            "annotator_id": annotators.gather(codes[0]),
            "true_label": classes.gather(codes[1]),
            "label": classes.gather(codes[2]),
            "probability": fit.confusion.ravel(),
        }
    )
