"""Who has become worse with time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denoise.compiled import njit
from denoise.noise import Z95, Floats
from denoise.quality.finding import Finding
from denoise.quality.permutation import ENOUGH, PERMUTATIONS, sequential

MARGIN = 10
"""Votes that either side of a change must have."""


class Drift(NamedTuple):
    """finding: of each of K annotators, the effect being accuracy after less accuracy before the
    likeliest fall; changed: the time of the first vote after it, [K], NaN where none was sought.

    The cut is where the fall is largest, so the effect is somewhat too large, and its interval is
    that of a cut known beforehand. Accuracy is by what the others say, who err too: the fall of
    the true accuracy is larger.
    """

    finding: Finding
    changed: Floats


def drift(
    annotator: np.ndarray,
    time: Floats,
    right: Floats,
    n_annotators: int,
    *,
    score: Floats | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> Drift:
    """Test each annotator for a fall of accuracy at an unknown time.

    The statistic is the largest S_m − m·S_n/n over cuts between votes of different times, the
    CUSUM (Csörgő & Horváth, *Limit Theorems in Change-Point Analysis*, 1997); its weighted form
    finds changes near the ends better, and those in the middle worse. The p-value is among the same
    votes in other orders, exact whatever they are: where an annotator has not changed, all orders
    are alike. Items are taken to come in no order of their difficulty. Votes without a time do not
    count.

    Args:
        annotator: codes, [n]. time: in any unit, [n].
        right: P(the vote is right | the others' votes), [n].
        score: what the statistic is of, [n]; `right` where not given, which sees a fall later.
    """
    kept = np.isfinite(time)
    score = (right if score is None else score)[kept]
    annotator, time, right = annotator[kept], time[kept], right[kept]
    order = np.lexsort((time, annotator))
    start = np.concatenate([[0], np.cumsum(np.bincount(annotator, minlength=n_annotators))])
    generator = np.random.default_rng(seed)
    times, rights, scores = time[order], right[order], score[order]
    p_value, cut = _tested(start, times, scores, generator, permutations, ENOUGH, MARGIN)
    effect, error, changed = np.full((3, n_annotators), np.nan)
    for k in np.flatnonzero(cut > 0):
        before, after = np.split(rights[start[k] : start[k + 1]], [cut[k]])
        effect[k] = after.mean() - before.mean()
        error[k] = np.sqrt(sum(x.var(ddof=1) / len(x) for x in (before, after)))
        changed[k] = times[start[k] + cut[k]]
    n = np.diff(start).astype(np.float64)
    low, high = effect - Z95 * error, effect + Z95 * error
    return Drift(Finding(p_value, effect, low, high, n), changed)


@njit(nogil=True)
def _largest(right: Floats, allowed: Floats) -> tuple[float, int]:
    """The statistic and the number of votes before the cut."""
    n, total = len(right), right.sum()
    best, at, before = -np.inf, 0, 0.0
    for m in range(1, n):
        before += right[m - 1]
        if allowed[m]:
            value = before - m * total / n
            if value > best:
                best, at = value, m
    return best, at


@njit(nogil=True)
def _tested(
    start: Floats,
    time: Floats,
    right: Floats,
    generator: np.random.Generator,
    permutations: int,
    enough: int,
    margin: int,
) -> tuple[Floats, Floats]:
    """p-value and votes before the likeliest fall (0: none possible) of each annotator, [K]."""
    n_annotators = len(start) - 1
    p_value, cut = np.full(n_annotators, np.nan), np.zeros(n_annotators, np.int64)
    for k in range(n_annotators):
        own, when = right[start[k] : start[k + 1]].copy(), time[start[k] : start[k + 1]]
        n = len(own)
        allowed = np.zeros(max(n, 1), np.bool_)
        possible = False
        for m in range(margin, n - margin + 1):
            allowed[m] = when[m] > when[m - 1]
            possible = possible or allowed[m]
        if not possible:
            continue
        seen, cut[k] = _largest(own, allowed)
        as_large, tried = 0, 0
        while tried < permutations and as_large < enough:
            generator.shuffle(own)
            tried += 1
            value, _ = _largest(own, allowed)
            if value >= seen - 1e-12:
                as_large += 1
        p_value[k] = sequential(as_large, tried, permutations, enough)
    return p_value, cut
