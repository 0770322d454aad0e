"""How far annotators agree beyond chance: Krippendorff's alpha, Fleiss' kappa, Gwet's AC1.

All are functions of how many votes of each class an item has, [J, C], so annotators need not be
the same from item to item, nor as many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoise.crowd.answers import Answers
from denoise.noise import Floats

Level = Literal["nominal", "ordinal", "interval"]
Counts = NDArray[np.integer]

REPLICATES = 1000
BLOCK = 5_000_000
"""Weights of the bootstrap held at a time."""


class Coefficient(NamedTuple):
    """value: 1 where all agree, 0 where as by chance; low, high: its 95 % bootstrap interval; n:
    items with two votes or more, on which it rests."""

    value: float
    low: float
    high: float
    n: int


class _Sums(NamedTuple):
    """Sums over items, for one or for B weightings of them.

    coincidences: Σ n_c(n_d − [c = d])/(m − 1), [B, C, C]; agreement: Σ of the share of an item's
    pairs of votes that agree, [B]; n: items with two votes or more, [B]; shares: Σ n_c/m, [B, C];
    voted: items with a vote, [B].
    """

    coincidences: Floats
    agreement: Floats
    n: Floats
    shares: Floats
    voted: Floats


def class_counts(votes: Answers) -> Counts:
    """Votes of each class on each item, [J, C]."""
    cells = votes.item * votes.n_classes + votes.label
    return np.bincount(cells, minlength=votes.n_items * votes.n_classes).reshape(
        votes.n_items, votes.n_classes
    )


def krippendorff_alpha(
    counts: Counts,
    level: Level = "nominal",
    values: Floats | None = None,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Coefficient:
    """1 − D_o/D_e, observed over expected disagreement.

    Krippendorff, *Computing Krippendorff's Alpha-Reliability*, 2011. NaN where no item has two
    votes, or all votes are of one class. Intervals are of items drawn anew, with their votes.

    Args:
        counts: [J, C], classes in order where `level` is "ordinal".
        values: of the classes, [C], where it is "interval"; 0 … C − 1 if not given.
    """
    scale = np.arange(counts.shape[1], dtype=np.float64) if values is None else values

    def alpha(sums: _Sums) -> Floats:
        seen = sums.coincidences
        margins = seen.sum(2)
        distance = _distance(margins, level, scale)
        total = margins.sum(1)
        expected = margins[:, :, None] * margins[:, None, :]
        expected -= margins[:, :, None] * np.eye(len(scale))
        ratio = (seen * distance).sum((1, 2)) * (total - 1.0)
        return 1.0 - _over(ratio, (expected * distance).sum((1, 2)))

    return _bootstrapped(counts, alpha, replicates, seed)


def fleiss_kappa(counts: Counts, *, replicates: int = REPLICATES, seed: int = 0) -> Coefficient:
    """(P − P_e)/(1 − P_e), P_e = Σ_c p_c², p_c the mean share of class c in an item's votes.

    Fleiss, *Measuring nominal scale agreement among many raters*, Psychological Bulletin 76, 1971;
    for unequal numbers of votes as in Gwet, *Handbook of Inter-Rater Reliability*, 4th ed., 2014,
    section 2.4. NaN where no item has two votes, or all votes are of one class.
    """

    def kappa(sums: _Sums) -> Floats:
        chance = (_shares(sums) ** 2).sum(1)
        return _over(_over(sums.agreement, sums.n) - chance, 1.0 - chance)

    return _bootstrapped(counts, kappa, replicates, seed)


def gwet_ac1(counts: Counts, *, replicates: int = REPLICATES, seed: int = 0) -> Coefficient:
    """(P − P_e)/(1 − P_e), P_e = Σ_c p_c(1 − p_c)/(C − 1).

    Gwet, *Computing inter-rater reliability and its variance in the presence of high agreement*,
    British Journal of Mathematical and Statistical Psychology 61, 2008. Unlike kappa it stays high
    where nearly all votes are of one class. NaN where no item has two votes.
    """

    def ac1(sums: _Sums) -> Floats:
        p = _shares(sums)
        chance = (p * (1.0 - p)).sum(1) / max(p.shape[1] - 1, 1)
        return _over(_over(sums.agreement, sums.n) - chance, 1.0 - chance)

    return _bootstrapped(counts, ac1, replicates, seed)


def _shares(sums: _Sums) -> Floats:
    return _over(sums.shares, sums.voted[:, None])


def _over(a: Floats, b: Floats) -> Floats:
    """a/b, NaN where b is 0 or next to it."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 1e-12)


def _distance(margins: Floats, level: Level, values: Floats) -> Floats:
    """Squared difference δ² of two classes, [B or 1, C, C]."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))[None]
    if level == "interval":
        return ((values[:, None] - values[None, :]) ** 2)[None]
    # Votes between the two classes, and half of those of either.
    middle = np.cumsum(margins, axis=1) - 0.5 * margins
    return (middle[:, :, None] - middle[:, None, :]) ** 2


def _bootstrapped(
    counts: Counts, coefficient: Callable[[_Sums], Floats], replicates: int, seed: int
) -> Coefficient:
    """The coefficient, and its quantiles over items drawn with replacement.

    Items with equal counts are interchangeable, so how often each distinct row of counts is drawn
    is multinomial: a million items are as quick as their distinct rows.
    """
    rows, times = np.unique(counts, axis=0, return_counts=True)
    value = coefficient(_sums(rows, times[None].astype(np.float64)))[0]
    n = int(times[rows.sum(1) >= 2].sum())
    if not np.isfinite(value) or not replicates:
        return Coefficient(float(value), np.nan, np.nan, n)
    generator = np.random.default_rng(seed)
    block = max(BLOCK // len(rows), 1)
    drawn = []
    for first in range(0, replicates, block):
        size = min(block, replicates - first)
        weights = generator.multinomial(times.sum(), times / times.sum(), size)
        drawn.append(coefficient(_sums(rows, weights.astype(np.float64))))
    low, high = np.nanquantile(np.concatenate(drawn), [0.025, 0.975])
    return Coefficient(float(value), float(low), float(high), n)


def _sums(rows: Counts, weights: Floats) -> _Sums:
    """The sums over items, row u counting `weights[b, u]` times, [B, U]."""
    votes, n_classes = rows.sum(1), rows.shape[1]
    several, voted = votes >= 2, votes >= 1
    n, m = rows[several].astype(np.float64), votes[several].astype(np.float64)
    pairs = n[:, :, None] * n[:, None, :] - n[:, :, None] * np.eye(n_classes)
    pairs /= (m - 1.0)[:, None, None]
    agreeing = (n * (n - 1.0)).sum(1) / (m * (m - 1.0))
    of_several, of_voted = weights[:, several], weights[:, voted]
    return _Sums(
        np.tensordot(of_several, pairs, axes=1),
        of_several @ agreeing,
        of_several.sum(1),
        of_voted @ (rows[voted] / votes[voted][:, None]),
        of_voted.sum(1),
    )
