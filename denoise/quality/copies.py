"""Who copies whom: pairs of annotators who agree on answers that the others say are wrong."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from denoise.quality.finding import Finding
from denoise.quality.mixture import share
from denoise.quality.others import Crowd

SHARED = 20
"""Items that two annotators must share to be compared."""


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
    well, so what tells is agreement on the wrong answer. Items that mislead everyone make all pairs
    agree on wrong answers: the hypothesis is not c = 0, but c of all pairs taken together.
    """
    votes = crowd.votes
    one, two = _together(votes.start, votes.annotator, votes.n_annotators, SHARED)
    if not len(one):
        none = np.empty(0)
        return Copies(one, two, Finding(none, none, none, none, none), 0.0)
    who = (votes.annotator[one].astype(np.int64), votes.annotator[two].astype(np.int64))
    keys, pair = np.unique(who[0] * votes.n_annotators + who[1], return_inverse=True)
    q = crowd.without(one, two)
    pi_one, pi_two = (crowd.confusion[votes.annotator[v], :, votes.label[v]] for v in (one, two))
    apart = (q * pi_one * pi_two).sum(1)
    together = (q * 0.5 * (pi_one + pi_two)).sum(1) * (votes.label[one] == votes.label[two])
    slope = together - apart
    whole = share(np.zeros(len(pair), np.int64), apart, slope, 1)
    common = max(float(whole.value[0]), 0.0)
    each = share(pair, apart, slope, len(keys))
    n = np.bincount(pair, minlength=len(keys)).astype(np.float64)
    finding = Finding(each.above(common), each.value, each.low, each.high, n)
    return Copies(keys // votes.n_annotators, keys % votes.n_annotators, finding, common)


@njit(cache=True, nogil=True)
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
