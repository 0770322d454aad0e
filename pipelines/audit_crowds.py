"""Crowds with planted trouble: what the audit is measured on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from denoise.crowd.answers import Answers, answers
from denoise.dataset import Dataset
from denoise.quality.copies import copies
from denoise.quality.finding import LEVELS, discoveries
from denoise.quality.others import Crowd
from denoise.simulate import SKILLED
from denoise.stages.audit import audit
from denoise.tables import Provenance

KINDS = ("spammer", "adversary", "position", "length", "copies", "drift")
EACH = 2
"""Annotators of a kind that are planted in one crowd; two copy two others."""


class PlantedCrowd(NamedTuple):
    """Votes on which of two responses is better; n votes sorted as `Answers` sorts them.

    first, longer: whether class 1 was shown first to that annotator, and is the longer response,
    [n]; time: when it was given, in 0 … 1, [n]; planted: who has which trouble; copied: pairs (who
    copies, whom).
    """

    votes: Answers
    truth: np.ndarray
    first: np.ndarray
    longer: np.ndarray
    time: np.ndarray
    planted: dict[str, list[int]]
    copied: list[tuple[int, int]]


def crowd(
    seed: int,
    *,
    trouble: bool,
    n_annotators: int = 50,
    votes_each: int = 100,
    votes_per_item: int = 5,
    batch: int = 10,
    source: float | None = None,
) -> PlantedCrowd:
    """Annotators with reliabilities ½ + ½·Beta(12, 2), of whom, with `trouble`, some are in it.

    They are spammers at chance, adversaries at 0.2, choose the first response (or the longer) in
    three of four answers, fall from 0.95 to 0.55 half way, or copy 80 % of another's answers on the
    same items. An item goes to some
    of `batch` annotators, who so share many; `source` is the reliability of those who are copied.
    """
    rng = np.random.default_rng(seed)
    n_items = n_annotators * votes_each // votes_per_item
    truth = rng.integers(2, size=n_items)
    longer_side = np.where(rng.random(n_items) < 0.6, truth, 1 - truth)
    seats = rng.permutation(n_annotators).reshape(-1, batch)
    annotator = np.concatenate(
        [rng.permutation(seats[j % len(seats)])[:votes_per_item] for j in range(n_items)]
    )
    item = np.repeat(np.arange(n_items), votes_per_item)
    names = rng.permutation(n_annotators)
    planted = {kind: names[i * EACH :][:EACH].tolist() for i, kind in enumerate(KINDS)}
    copied = list(zip(planted["copies"], names[len(KINDS) * EACH :][:EACH].tolist(), strict=True))
    if trouble:
        item, annotator = _on_the_same_items(item, annotator, copied)
    eta = 0.5 + 0.5 * rng.beta(*SKILLED, n_annotators)
    if trouble:
        eta[planted["spammer"]], eta[planted["adversary"]] = 0.5, 0.2
        if source is not None:
            eta[[whom for _, whom in copied]] = source
    time = rng.random(len(item))
    chance = eta[annotator]
    if trouble:
        chance = np.where(
            np.isin(annotator, planted["drift"]), np.where(time < 0.5, 0.95, 0.55), chance
        )
    right = rng.random(len(item)) < chance
    label = np.where(right, truth[item], 1 - truth[item])
    first = rng.integers(2, size=len(item))
    if trouble:
        for kind, side in (("position", first), ("length", longer_side[item])):
            his = np.isin(annotator, planted[kind])
            # 0.95 where the truth is on that side and 0.55 where it is not: three of four.
            likes = np.where(side == truth[item], 0.95, 0.55)
            chosen = np.where(rng.random(len(item)) < likes, side, 1 - side)
            label = np.where(his, chosen, label)
        for copier, source in copied:
            theirs = dict(zip(item[annotator == source], label[annotator == source], strict=True))
            for i in np.flatnonzero(annotator == copier):
                if item[i] in theirs and rng.random() < 0.8:
                    label[i] = theirs[item[i]]
    order = np.lexsort((annotator, item))
    item, annotator, label, first, time = (x[order] for x in (item, annotator, label, first, time))
    votes = answers(item, annotator, label, n_items, n_annotators, 2)
    return PlantedCrowd(votes, truth, first == 1, longer_side[item] == 1, time, planted, copied)


def _on_the_same_items(
    item: np.ndarray, annotator: np.ndarray, copied: list[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """The votes with the copiers' moved to the items of those whom they copy."""
    for copier, source in copied:
        kept = annotator != copier
        items = item[annotator == source]
        item = np.concatenate([item[kept], items])
        annotator = np.concatenate([annotator[kept], np.full(len(items), copier)])
    return item, annotator


def dataset(world: PlantedCrowd, *, as_labels: bool = False) -> Dataset:
    """The votes as `import` would give them: on pairs, class 1 being b, or as labels of items.

    The seconds that answers took and the topics of items have nothing to do with being right.
    """
    votes = world.votes
    rng = np.random.default_rng(len(votes.label))
    item = votes.item
    columns = {
        "annotator_id": pl.Series([f"k{k:03d}" for k in range(votes.n_annotators)])[
            votes.annotator
        ],
        "timestamp": world.time,
        "seconds": rng.lognormal(2.0, 1.0, len(item)),
        "topic": pl.Series(["art", "law", "maths", "sport"])[item % 4],
    }
    ids = pl.Series([f"i{j:06d}" for j in range(votes.n_items)])
    made = Provenance("import", {"source": "planted"}, {"form": "planted"})
    if as_labels:
        label = pl.Series(["no", "yes"])[votes.label]
        return Dataset(made, labels=pl.DataFrame({"item_id": ids[item], "label": label, **columns}))
    b_is_longer = np.zeros(votes.n_items, bool)
    b_is_longer[item] = world.longer
    pairs = pl.DataFrame(
        {
            "pair_id": ids,
            "prompt": "p-" + ids,
            "response_a": pl.Series(np.where(b_is_longer, "short", "the longer one")),
            "response_b": pl.Series(np.where(b_is_longer, "the longer one", "short")),
        }
    )
    rows = {
        "vote_id": np.arange(len(item)),
        "pair_id": ids[item],
        "vote": pl.Series(["a", "b"])[votes.label],
        "shown_first": np.where(world.first, "b", "a"),
        **columns,
    }
    return Dataset(made, pairs=pairs, votes=pl.DataFrame(rows))


def audited(world: PlantedCrowd, *, as_labels: bool = False) -> dict[str, set]:
    """Who is flagged for what: codes of annotators, and pairs of them for copies."""
    found = audit(dataset(world, as_labels=as_labels), slices=("topic",)).findings
    code = pl.col("annotator_id", "other").str.slice(1).cast(pl.Int64, strict=False)
    flagged = found.filter("flagged").with_columns(code)
    who = {question: set(flagged.filter(question=question)["annotator_id"]) for question in LEVELS}
    pairs = flagged.filter(question="copies").select("annotator_id", "other")
    return {**who, "copies": set(pairs.rows())}


def mistakes(world: PlantedCrowd) -> np.ndarray:
    """Wrong votes of each annotator, [K]."""
    votes = world.votes
    wrong = votes.label != world.truth[votes.item]
    return np.bincount(votes.annotator[wrong], minlength=votes.n_annotators)


def copies_told(world: PlantedCrowd) -> set:
    """Pairs flagged for copies by a test that knows the truth and how often everyone is right."""
    votes = world.votes
    eta = 1.0 - mistakes(world) / votes.votes_per_annotator
    confusion = np.stack([eta, 1.0 - eta, 1.0 - eta, eta], 1).reshape(-1, 2, 2)
    found = copies(Crowd(votes, confusion, np.eye(2)[world.truth]))
    flags = discoveries(found.finding.p_value, LEVELS["copies"])
    return set(zip(found.first[flags].tolist(), found.second[flags].tolist(), strict=True))
