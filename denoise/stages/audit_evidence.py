"""What an audit starts from: votes as codes, what EM made of them, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from denoise import schema
from denoise.crowd.answers import Answers, Floats
from denoise.dataset import Dataset
from denoise.errors import refuse
from denoise.plain import quote
from denoise.quality.agreement import class_counts
from denoise.quality.others import Crowd
from denoise.schema import ALL_ANNOTATORS
from denoise.stages.em import EMResult, em
from denoise.stages.labels import LabelsResult, as_answers, codes, em_labels, priors
from denoise.stages.truth import known_answers, with_names

CORE = ("item_id", "annotator_id", "label")


@dataclass(frozen=True)
class Judged:
    """n votes of K annotators on J items with C classes, and what EM made of them.

    rows: of the votes, in their order: `item_id`, `annotator_id`, `label`; source: their columns in
    the data, whatever they are called; places: of these rows in the data, [n]; items, annotators,
    classes: the names behind the codes. counts: votes of each class, ties being one more of a
    pair's, and an annotator's repeated votes on an item counted once, [J, C or C + 1]; posterior:
    P(truth), [J, C]; confusion: [K, C, C] (truth, label); class_prior: before the votes, [C] or
    [J, C]; result: of EM; n_not_counted: repeated votes left out.
    in_shown_order: whether the source orders two responses otherwise than by the choice.
    """

    votes: Answers
    rows: pl.DataFrame
    source: pl.DataFrame
    places: np.ndarray
    items: pl.Series
    annotators: pl.Series
    classes: pl.Series
    counts: np.ndarray
    posterior: Floats
    confusion: Floats
    class_prior: Floats
    result: EMResult | LabelsResult
    n_not_counted: int
    pairs: pl.DataFrame | None = None
    in_shown_order: bool = False

    @property
    def is_preference(self) -> bool:
        """Whether the items are pairs of responses."""
        return self.pairs is not None

    @property
    def anonymous(self) -> bool:
        """Whether no annotator is named, so that nothing can be said of any."""
        return self.annotators.to_list() == [ALL_ANNOTATORS]

    def crowd(self) -> Crowd:
        """The evidence for the truths that the others tell."""
        return Crowd(self.votes, self.confusion, self.class_prior)

    def typical(self) -> Floats:
        """The mean confusion of the crowd, weighted by votes, [C, C] (truth, label)."""
        n = self.votes.votes_per_annotator.astype(np.float64)
        return np.einsum("k,ktl->tl", n / max(n.sum(), 1.0), self.confusion)

    def column(self, name: str) -> pl.Series:
        """A column of the source, for every vote.

        Raises:
            InputError: there is no such column.
        """
        if name in self.source.columns:
            return self.source[name]
        if self.pairs is not None and name in self.pairs.columns:
            ids = self.pairs.select(item_id=pl.col("pair_id").cast(pl.String), found=name)
            rows = self.rows.select("item_id")
            return rows.join(ids, on="item_id", how="left", maintain_order="left")["found"]
        of_pairs = [] if self.pairs is None else self.pairs.columns
        there = [n for n in dict.fromkeys((*self.source.columns, *of_pairs)) if n not in CORE]
        fix = f"columns are {', '.join(map(quote, there)) or 'only items, annotators and labels'}"
        refuse("the data have no such column", column=name, fix=fix)


def judged(
    data: Dataset,
    *,
    truth: pl.DataFrame | None = None,
    model: str = "auto",
    threads: int | None = None,
    **evidence: Any,
) -> Judged:
    """The data after EM; `truth` are known answers, `evidence` the options of `em` for pairs.

    Raises:
        InputError: as `em` or `em_labels`.
    """
    if data.is_preference:
        return _certain(_pairs(data, truth, threads, evidence), truth)
    return _certain(_labels(data, truth, model, threads), truth)


def _labels(data: Dataset, truth: pl.DataFrame | None, model: str, threads: int | None) -> Judged:
    result = em_labels(data, model=model, truth=truth, threads=threads)
    assert data.labels is not None
    rows = data.labels.with_columns(pl.col(CORE).cast(pl.String))
    items, classes = result.items["item_id"], pl.Series(result.summary["classes"])
    annotators = result.annotators["annotator_id"]
    places = _once(rows, items, annotators, classes)
    ordered = rows[places]
    n_classes = len(classes)
    votes = as_answers(ordered, items, annotators, classes)
    prior = priors(rows, classes)
    if prior is None:
        prior = np.asarray(result.summary["class_prior"])
    else:
        prior = prior / prior.sum(1, keepdims=True)
    return Judged(
        votes=votes,
        rows=ordered.select(CORE),
        source=ordered,
        places=places,
        items=items,
        annotators=annotators,
        classes=classes,
        counts=class_counts(votes),
        posterior=result.items.select(f"posterior_{name}" for name in classes).to_numpy(),
        confusion=result.confusions["probability"]
        .to_numpy()
        .reshape(len(annotators), n_classes, n_classes),
        class_prior=prior,
        result=result,
        n_not_counted=len(rows) - len(ordered),
    )


def _pairs(
    data: Dataset, truth: pl.DataFrame | None, threads: int | None, evidence: dict[str, Any]
) -> Judged:
    result = em(data, truth=truth, threads=threads, **evidence)
    pairs, votes = data.preferences()
    made = data.provenance.settings
    rows = votes.select(
        item_id=pl.col("pair_id").cast(pl.String),
        annotator_id=pl.col("annotator_id").cast(pl.String),
        label=pl.col("vote").cast(pl.String),
    )
    items = rows["item_id"].unique().sort()
    annotators, classes = result.annotators["annotator_id"], pl.Series(["a", "b"])
    told = result.confidences.select(
        item_id=pl.col("pair_id").cast(pl.String),
        for_a=pl.when(pl.col("vote") == "a").then("prob").otherwise(1.0 - pl.col("prob")),
        posterior="pair_posterior",
    )
    told = told.group_by("item_id").agg(
        pl.col("for_a").drop_nulls().first(), pl.col("posterior").drop_nulls().first()
    )
    told = items.alias("item_id").to_frame().join(told, on="item_id", how="left")
    before = told.sort("item_id")["for_a"].fill_null(0.5).to_numpy()
    after = told.sort("item_id")["posterior"].fill_null(pl.Series(before)).to_numpy()
    eta = result.annotators["reliability"].fill_null(0.5).to_numpy()
    with_ties = pl.Series([*classes, "tie"])
    of_whole = _once(rows, items, annotators, with_ties)
    whole = rows[of_whole]
    places = of_whole[(whole["label"] != "tie").to_numpy()]
    ordered = rows[places]
    return Judged(
        votes=as_answers(ordered, items, annotators, classes),
        rows=ordered,
        source=votes[places],
        places=places,
        items=items,
        annotators=annotators,
        classes=classes,
        counts=class_counts(as_answers(whole, items, annotators, with_ties)),
        posterior=np.stack([after, 1.0 - after], 1),
        confusion=np.stack([eta, 1.0 - eta, 1.0 - eta, eta], 1).reshape(-1, 2, 2),
        class_prior=np.stack([before, 1.0 - before], 1),
        result=result,
        n_not_counted=len(rows) - len(whole),
        pairs=pairs,
        in_shown_order="form" in made and made.get("first") != "chosen",
    )


def _once(
    rows: pl.DataFrame, items: pl.Series, annotators: pl.Series, classes: pl.Series
) -> np.ndarray:
    """Places of the rows that count, by item, annotator and class, as `Answers` sorts them.

    An annotator's first vote on an item counts, where all of them agree.
    """
    own = ("item_id", "annotator_id")
    one = pl.struct(own).is_first_distinct() & (pl.col("label").n_unique().over(own) == 1)
    kept = rows.select(one | (pl.col("annotator_id") == ALL_ANNOTATORS)).to_series()
    places = kept.arg_true().to_numpy()
    order = np.lexsort(
        (
            codes(rows["label"].filter(kept), classes),
            codes(rows["annotator_id"].filter(kept), annotators),
            codes(rows["item_id"].filter(kept), items),
        )
    )
    return places[order]


def _certain(crowd: Judged, truth: pl.DataFrame | None) -> Judged:
    """The same with certainty before the votes where the answer is known."""
    known = known_codes(truth, crowd)
    told = known >= 0
    if not told.any():
        return crowd
    n_classes = len(crowd.classes)
    prior = np.array(np.broadcast_to(crowd.class_prior, (len(known), n_classes)))
    prior[told] = np.eye(n_classes)[known[told]]
    return replace(crowd, class_prior=prior)


def answers_known(
    data: Dataset, truth: pl.DataFrame | None, crowd: Judged
) -> tuple[pl.DataFrame | None, int]:
    """The known answers of these items, and how many are of others: a list may serve many batches.

    They are the data's own where none are given.

    Raises:
        InputError: the table departs from its contract, or no answer is of these items.
    """
    truth = data.truth if truth is None else truth
    if truth is None:
        return None, 0
    contract = schema.TRUTH_VOTES if crowd.is_preference else schema.TRUTH_LABELS
    truth = with_names(truth, contract)
    key = contract.columns[0].name
    kept = truth
    if key in truth.columns:
        kept = truth.filter(pl.col(key).cast(pl.String).is_in(crowd.items.implode()))
    wanted = truth if kept.is_empty() else kept  # all foreign: refused
    return known_answers(wanted, contract, crowd.items), len(truth) - len(kept)


def known_codes(truth: pl.DataFrame | None, crowd: Judged) -> np.ndarray:
    """The known class of each item, [J]: −1 where there is none (or a tie), C if no vote has it."""
    known = np.full(len(crowd.items), -1)
    if truth is None:
        return known
    key, answer = ("pair_id", "vote") if crowd.is_preference else ("item_id", "label")
    rows = truth.filter(pl.col(answer) != "tie") if crowd.is_preference else truth
    place = dict(zip(crowd.classes, range(len(crowd.classes)), strict=True))
    found = rows[answer].replace_strict(place, default=len(place), return_dtype=pl.Int64)
    known[codes(rows[key], crowd.items)] = found.to_numpy()
    return known


_TIMES = ("%+", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%a %b %d %H:%M:%S %Y")
"""Spellings of a point of time; the last is MTurk's without its zone, the same for all its rows."""


def epoch_seconds(values: pl.Series) -> Floats:
    """Points of time as seconds, [n], NaN where there is none, or none that can be read."""
    if values.dtype == pl.String:
        numbers = values.cast(pl.Float64, strict=False)
        if numbers.null_count() > values.null_count():
            text = values.str.strip_chars().str.replace(r" [A-Z]{3,4} (\d{4})$", " $1")
            for form in _TIMES:
                read = text.str.to_datetime(form, strict=False, time_zone="UTC", time_unit="us")
                numbers = numbers.fill_null(read.dt.epoch("us").cast(pl.Float64) / 1e6)
        values = numbers
    elif values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
        values = values.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 1e6
    elif not values.dtype.is_numeric():
        values = pl.Series([None] * len(values), dtype=pl.Float64)
    return values.cast(pl.Float64).fill_null(np.nan).to_numpy()


def text_length(texts: pl.Series) -> Floats:
    """Characters of each text, or of all messages of a chat, [n]."""
    if schema.is_chat(texts.dtype):
        contents = pl.element().struct.field("content").cast(pl.String).str.len_chars()
        texts = texts.to_frame("t").select(pl.col("t").list.eval(contents).list.sum()).to_series()
        return texts.cast(pl.Float64).fill_null(0.0).to_numpy()
    return texts.str.len_chars().cast(pl.Float64).fill_null(0.0).to_numpy()
