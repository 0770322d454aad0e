"""How much of a group's votes is of a second kind: x in p_i(x) = a_i + x·d_i, by likelihood.

ℓ(x) = Σ log(a_i + x·d_i) is concave, so its maximum and where it has fallen by a given amount are
each found by halving.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from denoise.compiled import njit
from denoise.noise import Z95, Floats

HALVINGS = 50
FAR = -1e6
EDGE = 1e-9
"""How near to a probability of 0 a vote's own may come."""


class Share(NamedTuple):
    """The likeliest x of each of G groups and its 95 % likelihood interval, [G] each."""

    value: Floats
    low: Floats
    high: Floats
    groups: tuple[Floats, Floats, Floats]

    def below(self, x: float) -> Floats:
        """p-value of the hypothesis that the share is `x` or more, [G]."""
        return norm.cdf(self._root(x))

    def above(self, x: float) -> Floats:
        """p-value of the hypothesis that the share is `x` or less, [G]."""
        return norm.sf(self._root(x))

    def _root(self, x: float) -> Floats:
        """The signed root of the likelihood ratio, standard normal where the share is `x`, [G]."""
        start, base, slope = self.groups
        at_best = _log_likelihood(start, base, slope, self.value)
        at_x = _log_likelihood(start, base, slope, np.full(len(self.value), float(x)))
        return np.sign(self.value - x) * np.sqrt(2.0 * np.maximum(at_best - at_x, 0.0))


def share(
    group: np.ndarray, base: Floats, slope: Floats, n_groups: int, least: Floats | None = None
) -> Share:
    """Fit x of each group, between where a vote's p would leave 0 … 1 and 1.

    `group`: codes 0 … G − 1, [n]; base, slope: a and d, [n], with a and a + d in 0 … 1; least: what
    x must not fall below, [G], 0 or less, where the votes' own p do not say so. A group without
    votes has NaN.
    """
    if least is None:
        least = np.full(n_groups, -np.inf)
    order = np.argsort(group, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=n_groups))])
    groups = (start, np.maximum(base, EDGE)[order], slope[order])
    value, low, high = _fitted(*groups, least, 0.5 * Z95**2)
    return Share(value, low, high, groups)


@njit(nogil=True)
def _rise(first: int, last: int, base: Floats, slope: Floats, x: float) -> float:
    total = 0.0
    for i in range(first, last):
        total += slope[i] / max(base[i] + x * slope[i], 1e-12)
    return total


@njit(nogil=True)
def _sum(first: int, last: int, base: Floats, slope: Floats, x: float) -> float:
    total = 0.0
    for i in range(first, last):
        total += np.log(max(base[i] + x * slope[i], 1e-12))
    return total


@njit(nogil=True)
def _log_likelihood(start: Floats, base: Floats, slope: Floats, x: Floats) -> Floats:
    out = np.full(len(x), np.nan)
    for g in range(len(x)):
        if start[g + 1] > start[g]:
            out[g] = _sum(start[g], start[g + 1], base, slope, x[g])
    return out


@njit(nogil=True)
def _fitted(
    start: Floats, base: Floats, slope: Floats, bound: Floats, fall: float
) -> tuple[Floats, Floats, Floats]:
    """Where ℓ is largest, and where it is `fall` nats lower on either side, [G] each."""
    n_groups = len(start) - 1
    best, low, high = np.full((3, n_groups), np.nan)
    for g in range(n_groups):
        first, last = start[g], start[g + 1]
        if first == last:
            continue
        least, most = max(bound[g], FAR), 1.0
        for i in range(first, last):
            if slope[i] > 0:
                least = max(least, -base[i] / slope[i])
            elif slope[i] < 0:
                least = max(least, (1.0 - base[i]) / slope[i])
            if base[i] + slope[i] < EDGE:
                most = min(most, (base[i] - EDGE) / -slope[i])
        least = min(least + EDGE, 0.0)
        a, b = least, most
        for _ in range(HALVINGS):
            x = 0.5 * (a + b)
            if _rise(first, last, base, slope, x) > 0:
                a = x
            else:
                b = x
        best[g] = 0.5 * (a + b)
        bar = _sum(first, last, base, slope, best[g]) - fall
        a, b = least, best[g]
        for _ in range(HALVINGS):
            x = 0.5 * (a + b)
            if _sum(first, last, base, slope, x) < bar:
                a = x
            else:
                b = x
        low[g] = a
        a, b = best[g], most
        for _ in range(HALVINGS):
            x = 0.5 * (a + b)
            if _sum(first, last, base, slope, x) < bar:
                b = x
            else:
                a = x
        high[g] = b
    return best, low, high
