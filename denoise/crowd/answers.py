"""Categorical votes as the kernels read them: grouped by item, and checked once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.integer]


class Answers(NamedTuple):
    """n votes of K annotators on J items with C classes, sorted by item, then annotator.

    start: an item's votes are `start[j]` up to `start[j + 1]`, [J + 1] int64; annotator, label:
    codes 0 … K − 1 and 0 … C − 1, [n] int32; cell: annotator·C + label, [n] int32.
    """

    start: NDArray[np.int64]
    annotator: NDArray[np.int32]
    label: NDArray[np.int32]
    cell: NDArray[np.int32]
    n_items: int
    n_annotators: int
    n_classes: int

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
        return np.bincount(self.cell, minlength=shape[0] * shape[1]).reshape(shape).astype(float)

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
) -> Answers:
    """Sort votes given in any order ([n] codes each); none may repeat an (item, annotator)."""
    order = np.lexsort((label, annotator, item))
    counts = np.bincount(item, minlength=n_items)
    who = np.asarray(annotator)[order].astype(np.int32)
    what = np.asarray(label)[order].astype(np.int32)
    return Answers(
        np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        who,
        what,
        who * np.int32(n_classes) + what,
        n_items,
        n_annotators,
        n_classes,
    )


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
