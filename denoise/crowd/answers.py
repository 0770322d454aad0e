"""Categorical votes as the kernels read them: grouped by item, and checked once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoise.compiled import njit

Floats = NDArray[np.float64]
Codes = NDArray[np.integer]

FEW = 32
"""Votes of an item up to which insertion sorts them quickest."""


def softmax(logits: Floats, axis: int) -> Floats:
    """exp, normalised along `axis`; none is less than 1e-300."""
    scaled = np.exp(logits - logits.max(axis, keepdims=True))
    return np.maximum(scaled / scaled.sum(axis, keepdims=True), 1e-300)


class Answers(NamedTuple):
    """n votes of K annotators on J items with C classes, sorted by item, then annotator.

    start: an item's votes are `start[j]` up to `start[j + 1]`, [J + 1] int64; annotator, label:
    codes 0 … K − 1 and 0 … C − 1, [n] int32; cell: annotator·C + label, [n] uint32, as
    an index that cannot be negative is read faster.
    """

    start: NDArray[np.int64]
    annotator: NDArray[np.int32]
    label: NDArray[np.int32]
    cell: NDArray[np.uint32]
    n_items: int
    n_annotators: int
    n_classes: int
    threads: int = 1

    @property
    def votes_per_item(self) -> NDArray[np.int64]:
        """Number of votes of each item, [J]."""
        return np.diff(self.start)

    @property
    def item(self) -> NDArray[np.int64]:
        """Item of each vote, [n]."""
        return np.repeat(np.arange(self.n_items), self.votes_per_item)

    @property
    def votes_per_annotator(self) -> NDArray[np.int64]:
        """Number of votes of each annotator, [K]."""
        return np.bincount(self.annotator, minlength=self.n_annotators)

    @property
    def tally(self) -> Floats:
        """Number of votes of each annotator for each label, [K, C]."""
        shape = (self.n_annotators, self.n_classes)
        return _occurrences(self.cell, shape[0] * shape[1]).reshape(shape)

    def label_shares(self) -> Floats:
        """Share of each class among all votes, smoothed by one vote spread evenly, [C]."""
        counts = np.bincount(self.label, minlength=self.n_classes) + 1.0 / self.n_classes
        return counts / counts.sum()


def answers(
    item: Codes,
    annotator: Codes,
    label: Codes,
    n_items: int,
    n_annotators: int,
    n_classes: int,
    *,
    threads: int = 1,
) -> Answers:
    """Sort votes given in any order ([n] codes each).

    The models take each (item, annotator) to occur once, but for one that is several: see `once`.
    `threads`: how many pass over the votes; sums differ by rounding between numbers of them.
    """
    codes = (np.ascontiguousarray(each) for each in (item, annotator, label))
    arrays = _sorted(*codes, n_items, n_classes)
    return Answers(*arrays, n_items, n_annotators, n_classes, threads)


def subset(whole: Answers, kept: NDArray[np.bool_]) -> Answers:
    """The items where `kept`, [J] bool, is true, renumbered; annotators keep their codes."""
    votes = np.repeat(kept, whole.votes_per_item)
    start = np.concatenate(([0], np.cumsum(whole.votes_per_item[kept]))).astype(np.int64)
    return whole._replace(
        start=start,
        annotator=whole.annotator[votes],
        label=whole.label[votes],
        cell=whole.cell[votes],
        n_items=int(kept.sum()),
    )


def once(repeated: Answers, shared: int = -1) -> Answers:
    """Equal votes of an annotator on an item but for one, and none of those that differ.

    All votes of the annotator `shared` are kept: they are of several people. -1: there is none.
    """
    kept = _single(repeated.start, repeated.annotator, repeated.label, shared)
    counts = np.concatenate(([0], np.cumsum(kept)))
    return repeated._replace(
        start=counts[repeated.start],
        annotator=repeated.annotator[kept],
        label=repeated.label[kept],
        cell=repeated.cell[kept],
    )


@njit(nogil=True)
def _single(start: Codes, annotator: Codes, label: Codes, shared: int) -> NDArray[np.bool_]:
    """Whether a vote is the first of its annotator's on the item, and all of them agree, [n].

    Those of `shared` are all kept.
    """
    kept = np.zeros(annotator.shape[0], np.bool_)
    for j in range(start.shape[0] - 1):
        first = start[j]
        while first < start[j + 1]:
            last = first + 1
            while last < start[j + 1] and annotator[last] == annotator[first]:
                last += 1
            if annotator[first] == shared:
                kept[first:last] = True
            else:
                kept[first] = label[last - 1] == label[first]  # sorted, so all are equal
            first = last
    return kept


@njit(nogil=True)
def _sorted(
    item: Codes, annotator: Codes, label: Codes, n_items: int, n_classes: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """`start`, `annotator`, `label` and `cell` of `Answers`: counted by item, then sorted in each.

    Few votes of an item are sorted by insertion, which is quickest also where they already are.
    """
    n = item.shape[0]
    start = np.zeros(n_items + 1, np.int64)
    for i in range(n):
        start[item[i] + 1] += 1
    for j in range(n_items):
        start[j + 1] += start[j]
    cursor = start[:-1].copy()
    cell = np.empty(n, np.uint32)
    for i in range(n):
        cell[cursor[item[i]]] = annotator[i] * n_classes + label[i]
        cursor[item[i]] += 1
    who, what = np.empty(n, np.int32), np.empty(n, np.int32)
    for j in range(n_items):
        first, last = start[j], start[j + 1]
        if last - first > FEW:
            cell[first:last].sort()
        else:
            for i in range(first + 1, last):
                own, place = cell[i], i
                while place > first and cell[place - 1] > own:
                    cell[place] = cell[place - 1]
                    place -= 1
                cell[place] = own
    divisor = np.uint32(n_classes)
    for i in range(n):
        who[i] = cell[i] // divisor
        what[i] = cell[i] - who[i] * divisor
    return start, who, what, cell


@njit(nogil=True)
def _occurrences(codes: Codes, n: int) -> Floats:
    """How often each of 0 … n − 1 occurs, [n]; quicker than bincount, which copies to int64."""
    out = np.zeros(n)
    for code in codes:
        out[code] += 1.0
    return out
