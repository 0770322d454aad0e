"""Who is right less often in some votes than in his others: in the fast ones, in a slice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denoise.compiled import njit
from denoise.noise import Z95, Floats
from denoise.quality.finding import Finding
from denoise.quality.permutation import ENOUGH, PERMUTATIONS, sequential

LEAST = 10
"""Votes that an annotator must have inside and outside the group."""

FAST = 1.0 / 3.0
"""A vote is fast where it took less than this share of the median time of all votes."""


class Speed(NamedTuple):
    """median: seconds of each of K annotators; share: of his timed votes that are fast; finding: of
    how much less often the fast ones are right than his others; limit: seconds that are fast.
    """

    median: Floats
    share: Floats
    finding: Finding
    limit: float


def contrast(
    annotator: np.ndarray,
    inside: np.ndarray,
    right: Floats,
    n_annotators: int,
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> Finding:
    """Test whether each annotator is right less often inside a group of his votes than outside.

    The effect is the mean of `right` inside less that outside; the p-value is among random groups
    of as many of his votes, so it is exact where the group has nothing to do with being right.

    Args:
        annotator: codes, [n]. inside: whether the vote is of the group, [n] bool.
        right: P(the vote is right | the others' votes), or that less what is usual, [n].
    """
    order = np.argsort(annotator, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(annotator, minlength=n_annotators))])
    generator = np.random.default_rng(seed)
    values, group = right[order], inside[order]
    p_value, effect, error = _contrasted(
        start, values, group, generator, permutations, ENOUGH, LEAST
    )
    n = np.bincount(annotator[inside], minlength=n_annotators).astype(np.float64)
    return Finding(p_value, effect, effect - Z95 * error, effect + Z95 * error, n)


def speed(
    annotator: np.ndarray, seconds: Floats, right: Floats, n_annotators: int, *, seed: int = 0
) -> Speed:
    """How fast each annotator is, and whether his fast answers are worse than his others.

    Args:
        seconds: that each vote took, [n]; what is not a number above 0 does not count.
    """
    timed = np.isfinite(seconds) & (seconds > 0)
    who, took = annotator[timed], seconds[timed]
    limit = FAST * float(np.median(took)) if len(took) else np.nan
    fast = took < limit
    order = np.lexsort((took, who))
    n = np.bincount(who, minlength=n_annotators)
    last = np.cumsum(n)
    median = np.full(n_annotators, np.nan)
    some = n > 0
    low, high = (last - n + (n - 1) // 2)[some], (last - n + n // 2)[some]
    median[some] = 0.5 * (took[order][low] + took[order][high])
    share = np.full(n_annotators, np.nan)
    share[some] = np.bincount(who, fast, n_annotators)[some] / n[some]
    return Speed(median, share, contrast(who, fast, right[timed], n_annotators, seed=seed), limit)


def beyond_slice(
    annotator: np.ndarray, part: np.ndarray, right: Floats, n_annotators: int, n_parts: int
) -> Floats:
    """`right` less its mean among the others' votes of the slice, [n]; NaN where there are none.

    A slice may be hard for everyone: what tells of an annotator is what is left.

    Args:
        part: slice of each vote, codes, [n].
    """
    cell = annotator * n_parts + part
    own, n_own = (np.bincount(cell, w, n_annotators * n_parts)[cell] for w in (right, None))
    whole, n_whole = (np.bincount(part, w, n_parts)[part] for w in (right, None))
    others = n_whole - n_own
    mean = np.divide(whole - own, others, out=np.full(len(right), np.nan), where=others > 0)
    return right - mean


@njit(nogil=True)
def _contrasted(
    start: np.ndarray,
    right: Floats,
    inside: np.ndarray,
    generator: np.random.Generator,
    permutations: int,
    enough: int,
    least: int,
) -> tuple[Floats, Floats, Floats]:
    """p-value, mean inside less mean outside, and its standard error, [K] each."""
    n_annotators = len(start) - 1
    p_value, effect, error = np.full((3, n_annotators), np.nan)
    for k in range(n_annotators):
        own, group = right[start[k] : start[k + 1]].copy(), inside[start[k] : start[k + 1]]
        n, m = len(own), int(group.sum())
        if m < least or n - m < least:
            continue
        within, without = own[group], own[~group]
        effect[k] = within.mean() - without.mean()
        error[k] = np.sqrt(within.var() / (m - 1) + without.var() / (n - m - 1))
        seen = within.sum() + 1e-12
        as_low, tried = 0, 0
        while tried < permutations and as_low < enough:
            total = 0.0
            for i in range(m):  # the first m of a random order
                j = i + int(generator.random() * (n - i))
                own[i], own[j] = own[j], own[i]
                total += own[i]
            tried += 1
            if total <= seen:
                as_low += 1
        p_value[k] = sequential(as_low, tried, permutations, enough)
    return p_value, effect, error
