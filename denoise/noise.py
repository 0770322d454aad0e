"""The noise model of RE-PO and its EM (Cao et al., arXiv 2509.24159).

A vote agrees with the hidden truth with probability η_k, its annotator's reliability, and the
model gives the truth the log-odds Δ along the vote. So a vote's likelihood is pη + (1−p)(1−η)
with p = σ(Δ) (Eq. 2), and w, the confidence, is the posterior that its label is right (Eq. 4).

Arrays are aligned by vote: `margin` is Δ in nats, [n] float32 or float64, finite; `annotator` is
a code 0 … K−1, [n] integer; `reliability` is η, [K] float64. Sums are float64. Ties and votes
without a margin do not belong in these arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.integer]

EDGE = 2.0**-53
"""Where log-odds are taken, a probability of 0 or 1 counts as this far off: half the gap from 1
to the next double. Log-odds stay within ±36.8 and a reliability of exactly 0 or 1, which rounding
can produce, neither gives NaN nor traps the EM there."""

PARTITION = 1 << 16
"""Votes summed at a time, so that the temporaries stay in a core's cache."""

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

WIDE = 1.0
"""Standard error of logit η above which ℓ is no longer near enough to a parabola in it."""

UNIDENTIFIED_WIDTH = 0.95
"""A 95 % interval at least this wide rules out next to nothing: the data do not identify η."""


class Iteration(NamedTuple):
    """State after an EM iteration (or EMA epoch); iteration 0 is the start.

    objective: Σ log(pη + (1−p)(1−η)) at these reliabilities; max_change: max_k |η_k − before|, None
    at the start; mean_reliability: mean of η_k over annotators with votes.
    """

    iteration: int
    objective: float
    max_change: float | None
    mean_reliability: float


class Fit(NamedTuple):
    """reliability: η, [K]; confidence: w at that η, [n]; converged: None where not sought (EMA).

    An annotator without votes keeps η_0. `warning` is a sentence for the user, or empty.
    """

    reliability: Floats
    confidence: Floats
    trace: tuple[Iteration, ...]
    converged: bool | None
    warning: str


class Statistics(NamedTuple):
    """What an EM iteration needs of a partition; the whole's is the sum over partitions.

    confidence: Σw, [K]; votes: their number, [K]; log_likelihood: Σ log(pη + (1−p)(1−η)).
    """

    confidence: Floats
    votes: Floats
    log_likelihood: float

    def merged(self, other: Statistics) -> Statistics:
        """The statistics of both partitions together."""
        return Statistics(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Intervals(NamedTuple):
    """95 % bounds of η, [K] each, and two warnings about them, [K] bool.

    identified: whether the bounds rule out anything. saturated: fewer than half a vote of all is
    expected to be wrong (or right), and the bounds hold 1 (or 0).
    """

    low: Floats
    high: Floats
    identified: NDArray[np.bool_]
    saturated: NDArray[np.bool_]


class _Partition(NamedTuple):
    """agree: p = σ(Δ); disagree: 1 − p, exact where p rounds to 1; annotator: codes; [m] each."""

    agree: Floats
    disagree: Floats
    annotator: NDArray[np.intp]


def sigmoid(x: Floats) -> Floats:
    """σ(x) = 1/(1 + e^−x), to full relative accuracy on both sides."""
    with np.errstate(over="ignore"):  # e^−x = ∞ gives the right limit, 0
        return 1.0 / (1.0 + np.exp(-np.asarray(x, np.float64)))


def log_odds(probability: Floats) -> Floats:
    """log(π/(1−π)), where 0 and 1 count as `EDGE` and 1 − `EDGE`, so that it is finite."""
    inside = np.clip(np.asarray(probability, np.float64), EDGE, 1.0 - EDGE)
    return np.log(inside) - np.log1p(-inside)


def e_step(margin: Floats, reliability: Floats) -> Floats:
    """w = σ(Δ + logit η) (Eq. 4), [n]; `reliability` is that of each vote's annotator, [n]."""
    return sigmoid(np.asarray(margin, np.float64) + log_odds(reliability))


def m_step(statistics: Statistics, reliability: Floats) -> Floats:
    """η_k = mean of w over the annotator's votes (Eq. 6), [K]; unchanged where there are none."""
    voted = statistics.votes > 0
    return np.where(voted, statistics.confidence / np.maximum(statistics.votes, 1.0), reliability)


def ema_update(
    reliability: Floats, confidence: Floats, annotator: Codes, alpha: float = 0.1
) -> Floats:
    """η_k ← (1−α)η_k + α·mean of w over the annotator's votes in the batch (Eq. 7), [K].

    `confidence` and `annotator` are the batch's; annotators that are not in it keep their η.
    """
    present, code = np.unique(annotator, return_inverse=True)
    mean = np.bincount(code, weights=confidence) / np.bincount(code)
    updated = reliability.copy()
    updated[present] = (1.0 - alpha) * reliability[present] + alpha * mean
    return updated


def objective(margin: Floats, annotator: Codes, reliability: Floats) -> float:
    """Observed-data log-likelihood Σ log(pη + (1−p)(1−η)), nats.

    Both terms are positive and one of them is at least `EDGE`/2, so it is finite at any margin.
    """
    return float(_log_likelihoods(_parts(margin, annotator), reliability).sum())


def fit_full_batch(
    margin: Floats,
    annotator: Codes,
    n_annotators: int,
    *,
    eta0: float | Floats = 0.9,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
) -> Fit:
    """EM over all votes until no η_k moves by more than `tolerance` (Eq. 4 and 6).

    `eta0` is a number or one an annotator. The last E-step is at the returned η, so confidence,
    objective and reliability belong together. Not reaching the tolerance gives a usable fit with
    a `warning`. A step of δ leaves η about δ·n·SE/(η(1−η)) standard errors SE from the optimum:
    at the default tolerance under a tenth for up to a million votes an annotator.
    """
    partitions = list(_parts(margin, annotator))
    reliability = _initial(eta0, n_annotators)
    change: float | None = None
    trace: list[Iteration] = []
    for iteration in range(max_iterations + 1):
        statistics = _accumulate(partitions, reliability)
        trace.append(_row(iteration, statistics.log_likelihood, change, statistics, reliability))
        if (change is not None and change <= tolerance) or iteration == max_iterations:
            break
        updated = m_step(statistics, reliability)
        change = float(np.max(np.abs(updated - reliability), initial=0.0))
        reliability = updated
    converged = change is not None and change <= tolerance
    warning = "" if converged else _unconverged(change, tolerance, max_iterations)
    confidence = e_step(margin, reliability[annotator])
    return Fit(reliability, confidence, tuple(trace), converged, warning)


def fit_ema(
    margin: Floats,
    annotator: Codes,
    n_annotators: int,
    *,
    eta0: float | Floats = 0.9,
    alpha: float = 0.1,
    batch_size: int = 64,
    epochs: int = 1,
    seed: int = 0,
    shuffle: bool = True,
) -> Fit:
    """Mini-batch EM with a moving average of η (Eq. 7, in the order of Algorithm 1).

    Each batch: E-step at the present η, then `ema_update`. Batches are consecutive votes of an
    order drawn anew each epoch from `seed`, or of the given one without `shuffle`; the last may be
    short. The last E-step, over all votes, is at the final η.
    """
    margin = np.asarray(margin, np.float64)
    annotator = np.asarray(annotator)
    partitions = list(_parts(margin, annotator))
    generator = np.random.default_rng(seed)
    reliability = _initial(eta0, n_annotators)
    statistics = _accumulate(partitions, reliability)
    trace = [_row(0, statistics.log_likelihood, None, statistics, reliability)]
    for epoch in range(1, epochs + 1):
        before = reliability
        order = generator.permutation(len(margin)) if shuffle else np.arange(len(margin))
        for start in range(0, len(margin), batch_size):
            batch = order[start : start + batch_size]
            confidence = e_step(margin[batch], reliability[annotator[batch]])
            reliability = ema_update(reliability, confidence, annotator[batch], alpha)
        change = float(np.max(np.abs(reliability - before), initial=0.0))
        statistics = _accumulate(partitions, reliability)
        trace.append(_row(epoch, statistics.log_likelihood, change, statistics, reliability))
    confidence = e_step(margin, reliability[annotator])
    return Fit(reliability, confidence, tuple(trace), None, "")


def slope_and_curvature(
    margin: Floats, annotator: Codes, reliability: Floats
) -> tuple[Floats, Floats]:
    """ℓ' = Σ(2p−1)/(pη + (1−p)(1−η)) and −ℓ'' = Σ of its terms' squares, in η, [K] each.

    ℓ is concave in each η_k and has no cross terms while votes count as unrelated.
    """
    slope = np.zeros(len(reliability))
    curvature = np.zeros(len(reliability))
    for part in _parts(margin, annotator):
        terms = (part.agree - part.disagree) / _likelihood(part, reliability)
        slope += np.bincount(part.annotator, terms, len(reliability))
        curvature += np.bincount(part.annotator, terms * terms, len(reliability))
    return slope, curvature


def intervals(margin: Floats, annotator: Codes, reliability: Floats) -> Intervals:
    """95 % bounds of each η_k from the observed information.

    Normal on the logit scale, standard error 1/(η(1−η)√−ℓ'') by the delta method, where that is at
    most `WIDE`. Beyond, near an edge or with little information, the bounds are where ℓ_k has
    fallen by Z95²/2 from its value at η_k (the likelihood-ratio interval), or the edge itself.
    """
    _, curvature = slope_and_curvature(margin, annotator, reliability)
    with np.errstate(divide="ignore"):  # no information: an infinite error
        error = 1.0 / (reliability * (1.0 - reliability) * np.sqrt(curvature))
    centre = log_odds(reliability)
    low, high = sigmoid(centre - Z95 * error), sigmoid(centre + Z95 * error)
    wide = error > WIDE
    if wide.any():
        kept = wide[annotator]
        partitions = list(_parts(margin[kept], annotator[kept]))
        low = np.where(wide, _fallen(partitions, reliability, 0.0), low)
        high = np.where(wide, _fallen(partitions, reliability, 1.0), high)
    identified = high - low < UNIDENTIFIED_WIDTH
    votes = np.bincount(annotator, minlength=len(reliability))
    certain = votes * np.minimum(reliability, 1.0 - reliability) < 0.5
    return Intervals(low, high, identified, certain & identified & ((low == 0) | (high == 1)))


def _fallen(partitions: list[_Partition], reliability: Floats, edge: float) -> Floats:
    """Where ℓ_k has fallen by Z95²/2 between η_k and the edge, by bisection, [K].

    The edge itself where ℓ_k has not fallen as far there. ℓ_k is concave, so it crosses once.
    """
    level = _log_likelihoods(partitions, reliability) - Z95**2 / 2
    inside, outside = reliability, np.full_like(reliability, edge)
    trial = outside
    for _ in range(40):
        holds = _log_likelihoods(partitions, trial) >= level
        inside, outside = np.where(holds, trial, inside), np.where(holds, outside, trial)
        trial = (inside + outside) / 2
    return inside


def _log_likelihoods(partitions: Iterable[_Partition], reliability: Floats) -> Floats:
    """ℓ_k = Σ log(pη + (1−p)(1−η)) of each annotator, [K]."""
    total = np.zeros(len(reliability))
    for part in partitions:
        terms = np.log(_likelihood(part, reliability))
        total += np.bincount(part.annotator, terms, len(reliability))
    return total


def _parts(margin: Floats, annotator: Codes) -> Iterator[_Partition]:
    for start in range(0, len(margin), PARTITION):
        delta = np.asarray(margin[start : start + PARTITION], np.float64)
        codes = np.asarray(annotator[start : start + PARTITION], np.intp)
        yield _Partition(sigmoid(delta), sigmoid(-delta), codes)


def _likelihood(part: _Partition, reliability: Floats) -> Floats:
    eta = np.clip(reliability, EDGE, 1.0 - EDGE)[part.annotator]
    return part.agree * eta + part.disagree * (1.0 - eta)


def _statistics(part: _Partition, reliability: Floats) -> Statistics:
    """The E-step of a partition in the form w = pη/(pη + (1−p)(1−η)): no exp in the loop."""
    eta = np.clip(reliability, EDGE, 1.0 - EDGE)[part.annotator]
    right = part.agree * eta
    likelihood = right + part.disagree * (1.0 - eta)
    n = len(reliability)
    return Statistics(
        np.bincount(part.annotator, right / likelihood, n),
        np.bincount(part.annotator, minlength=n).astype(np.float64),
        float(np.log(likelihood).sum()),
    )


def _accumulate(partitions: list[_Partition], reliability: Floats) -> Statistics:
    nothing = Statistics(np.zeros(len(reliability)), np.zeros(len(reliability)), 0.0)
    return reduce(Statistics.merged, (_statistics(p, reliability) for p in partitions), nothing)


def _initial(eta0: float | Floats, n_annotators: int) -> Floats:
    return np.broadcast_to(np.asarray(eta0, np.float64), (n_annotators,)).copy()


def _row(
    iteration: int,
    log_likelihood: float,
    change: float | None,
    statistics: Statistics,
    reliability: Floats,
) -> Iteration:
    voted = statistics.votes > 0
    mean = float(reliability[voted].mean()) if voted.any() else float(np.mean(reliability))
    return Iteration(iteration, log_likelihood, change, mean)


def _unconverged(change: float | None, tolerance: float, max_iterations: int) -> str:
    return (
        f"EM did not converge: after {max_iterations} iterations a reliability still moved by "
        f"{change:.1e}, above the tolerance {tolerance:.0e}; raise --max-iterations, or read the "
        "reliabilities as approximate"
    )
