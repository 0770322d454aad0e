"""Who copies whom: pairs of annotators who agree on answers that the others say are wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denoise.compiled import njit
from denoise.noise import Floats
from denoise.quality.finding import Finding
from denoise.quality.mixture import share
from denoise.quality.others import Crowd

SHARED = 20
"""Items that two annotators must share to be compared."""


SURE = 1e-6
"""How near to certain an answer may be where odds are taken."""

AT_ONCE = 100_000
"""Pairs of votes laid out by truth at once: an item of n votes has n(n − 1)/2 of them."""


class Copies(NamedTuple):
    """first, second: the P pairs compared, codes, [P]; finding: of each, the effect being the share
    of one's answers that are the other's; common: the share that all pairs seem to have."""

    first: np.ndarray
    second: np.ndarray
    finding: Finding
    common: float


def copies(crowd: Crowd) -> Copies:
    """Compare all pairs of annotators who share enough items.

    With probability c an answer is the other's own, else it depends on the truth alone:
    P(l, m) = (1 − c)·Σ_t q_t π_k[t, l] π_j[t, m] + c·[l = m]·Σ_t q_t π[t, m], q being the truth
    that the votes of all but the two tell, π the mean of theirs. Two who are both right agree as
    well, so what tells is agreement on the wrong answer. Items that mislead many make pairs agree
    on wrong answers without copying: so errors are as much likelier on an item as the others made
    more of them there (`_misled`), and the hypothesis is not c = 0, but c of all pairs together.
    """
    votes = crowd.votes
    one, two = _together(votes.start, votes.annotator, votes.n_annotators, SHARED)
    if not len(one):
        none = np.empty(0)
        return Copies(one, two, Finding(none, none, none, none, none), 0.0)
    key = votes.annotator[one].astype(np.int64) * votes.n_annotators + votes.annotator[two]
    keys, pair = np.unique(key, return_inverse=True)
    apart, slope = np.empty((2, len(one)))
    step = max(AT_ONCE, len(votes.label))  # each part sums all votes anew
    for begin in range(0, len(one), step):
        part = slice(begin, begin + step)
        apart[part], slope[part] = _likelihoods(crowd, one[part], two[part])
    common = max(float(share(np.zeros_like(pair), apart, slope, 1).value[0]), 0.0)
    each = share(pair, apart, slope, len(keys))
    n = np.bincount(pair, minlength=len(keys)).astype(np.float64)
    finding = Finding(each.above(common), each.value, each.low, each.high, n)
    return Copies(keys // votes.n_annotators, keys % votes.n_annotators, finding, common)


def _likelihoods(crowd: Crowd, one: np.ndarray, two: np.ndarray) -> tuple[Floats, Floats]:
    """P(both votes) where c = 0, and how much more it is where c = 1, [T] each."""
    label = crowd.votes.label
    q = crowd.without(one, two)
    misled = _misled(crowd, one, two)
    pi_one, pi_two = (_on_the_item(crowd, v, misled) for v in (one, two))
    apart = (q * pi_one * pi_two).sum(1)
    together = (q * 0.5 * (pi_one + pi_two)).sum(1) * (label[one] == label[two])
    return apart, together - apart


def _misled(crowd: Crowd, one: np.ndarray, two: np.ndarray) -> Floats:
    """How many times as many wrong votes as expected the others cast on the item, [T, C] by truth.

    One vote more is counted as wrong, and one as expected to be, so that few others say little.
    """
    votes = crowd.votes
    wrong = votes.label[:, None] != np.arange(votes.n_classes)
    expected = 1.0 - np.einsum("ktt->kt", crowd.confusion)[votes.annotator]

    def others(values: np.ndarray) -> Floats:
        sums = np.concatenate([np.zeros((1, votes.n_classes)), np.cumsum(values, axis=0)])
        whole = sums[votes.start[1:]] - sums[votes.start[:-1]]
        return whole[votes.item[one]] - values[one] - values[two]

    return (others(wrong) + 1.0) / (others(expected) + 1.0)


def _on_the_item(crowd: Crowd, vote: np.ndarray, misled: Floats) -> Floats:
    """P(the vote's label | truth), [T, C], the odds of an error being that many times as large."""
    votes = crowd.votes
    pi = crowd.confusion[votes.annotator[vote], :, votes.label[vote]]
    right = np.einsum("ktt->kt", crowd.confusion)[votes.annotator[vote]]
    right = np.clip(right, SURE, 1.0 - SURE)
    odds = misled * (1.0 - right) / right
    own = votes.label[vote][:, None] == np.arange(votes.n_classes)
    share = odds / (1.0 + odds)
    return np.where(own, 1.0 - share, pi * share / (1.0 - right))


@njit(nogil=True)
def _together(
    start: np.ndarray, annotator: np.ndarray, n_annotators: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Votes i < i' of one item whose annotators share `least` items or more, [T] each."""
    shared = {np.int64(-1): np.int64(0)}  # numba has to see the types
    for j in range(len(start) - 1):
        for i in range(start[j], start[j + 1]):
            for k in range(i + 1, start[j + 1]):
                key = np.int64(annotator[i]) * n_annotators + annotator[k]
                shared[key] = shared.get(key, 0) + 1
    total = 0
    for count in shared.values():
        if count >= least:
            total += count
    one, two = np.empty(total, np.int64), np.empty(total, np.int64)
    at = 0
    for j in range(len(start) - 1):
        for i in range(start[j], start[j + 1]):
            for k in range(i + 1, start[j + 1]):
                if shared[np.int64(annotator[i]) * n_annotators + annotator[k]] >= least:
                    one[at], two[at] = i, k
                    at += 1
    return one, two
