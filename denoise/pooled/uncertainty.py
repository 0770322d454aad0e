"""How well each reliability, and the number of wrong labels, is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoise.noise import Z95, sigmoid
from denoise.pooled import kernels, marginal, solve
from denoise.pooled import prior as population
from denoise.pooled.ballots import Ballots, Floats, over_pairs, sample
from denoise.pooled.calibrate import SAMPLE, Calibration
from denoise.pooled.marginal import Coupling
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters

POINTS = 129
"""Points of the grid on which a posterior that is no normal one is laid out."""

REACH = 40.0
"""How far from θ that grid goes, in logits."""

ROUND = 15.0
"""Information on the logit scale above which the posterior of θ is near enough to normal."""

CHUNK = 4096
"""Annotators whose grids are in memory at a time."""

DENSE = 2000
"""Annotators up to which their information matrix is inverted as a whole."""

DRAWS = 32
"""Draws of all reliabilities over which the number of wrong votes is averaged."""

LEARNED = 0.02
"""Share of the prior's variance that the votes must remove for a reliability to be identified."""


class Uncertainty(NamedTuple):
    """low, high: 95 % bounds of η, [K]; identified: whether the votes tell it at all, [K] bool.

    expected_wrong: of the votes, each η integrated over its posterior, with its 95 % interval
    `wrong_low` to `wrong_high`.
    """

    low: Floats
    high: Floats
    identified: NDArray[np.bool_]
    expected_wrong: float
    wrong_low: float
    wrong_high: float


def uncertainty(votes: Ballots, at: Parameters, calibration: Calibration) -> Uncertainty:
    """Bounds that hold the temperature and the prior as uncertain as they are.

    Each η's own posterior gives the shape, widened by what the other annotators (Louis' formula)
    and τ, m and strength (delta method) add to its variance. The number of wrong votes varies
    with the truth of the pairs, the reliabilities and the same three.
    """
    tau, prior = calibration.temperature, calibration.prior
    spread = marginal.coupling(votes, tau, at, prior, DENSE)
    of_tau, of_wrong, totals = _sums(votes, tau, at)
    eta = sigmoid(at.theta)
    mean, strength = prior.mean, prior.strength
    pull = np.stack(
        [of_tau, np.full(len(eta), strength * mean * (1 - mean)), strength * (mean - eta)], axis=1
    )
    moves = spread.solve(pull)  # dθ/d(τ, logit m, log strength)
    added = np.einsum("ki,ij,kj->k", moves, calibration.covariance, moves)
    variance = spread.variance() + added
    low, high = _bounds(votes, tau, at, prior, spread)
    factor = np.sqrt(np.maximum(variance * spread.own, 1.0))
    low = np.clip(at.theta - (at.theta - low) * factor, -solve.LIMIT, solve.LIMIT)
    high = np.clip(at.theta + (high - at.theta) * factor, -solve.LIMIT, solve.LIMIT)

    wrong = expected_wrong(votes, at, calibration)
    slope, within = totals
    along = np.array([slope, 0.0, 0.0]) + of_wrong @ moves
    of_eta = float(of_wrong @ spread.solve(of_wrong))
    sd = float(np.sqrt(within + max(of_eta, 0.0) + along @ calibration.covariance @ along))
    n = float(votes.votes.sum())
    return Uncertainty(
        sigmoid(low),
        sigmoid(high),
        _identified(variance, spread),
        wrong,
        max(wrong - Z95 * sd, 0.0),
        min(wrong + Z95 * sd, n),
    )


def expected_wrong(whole: Ballots, at: Parameters, calibration: Calibration) -> float:
    """Expected number of votes against the truth, over the posterior of the reliabilities.

    The mean over `DRAWS` draws of all η. Above `SAMPLE` votes the draws go over a sample of the
    pairs, and what they change there is taken for the whole.
    """
    tau, prior = calibration.temperature, calibration.prior
    votes = sample(whole, SAMPLE)
    spread = marginal.coupling(votes, tau, at, prior)
    nodes = marginal.quadrature(votes, tau, at, prior, spread)
    order = np.lexsort((spread.own, votes.by_annotator(votes.votes), at.theta))
    theta = marginal.draws(nodes, DRAWS, order)
    drawn = float(np.mean([_wrong(votes, tau, at._replace(theta=row)) for row in theta]))
    if votes is whole:
        return drawn
    return _wrong(whole, tau, at) * drawn / max(_wrong(votes, tau, at), 1e-300)


def _wrong(votes: Ballots, tau: float, at: Parameters) -> float:
    rest = (*votes.arrays, tau, at.cells(votes))
    return sum(over_pairs(votes, lambda f, e: kernels.wrong_pass(f, e, *rest)))


def _identified(variance: Floats, spread: Coupling) -> NDArray[np.bool_]:
    """Whether a posterior is narrower than the prior alone would have it at that η."""
    return variance * spread.prior < 1.0 - LEARNED


def _sums(votes: Ballots, tau: float, at: Parameters) -> tuple[Floats, Floats, Floats]:
    lam = at.cells(votes)

    def work(first: int, last: int) -> tuple[Floats, Floats, Floats]:
        of_tau, of_wrong = np.zeros(len(lam)), np.zeros(len(lam))
        totals = kernels.spread_pass(first, last, *votes.arrays, tau, lam, of_tau, of_wrong)
        return of_tau, of_wrong, np.array(totals)

    parts = over_pairs(votes, work)
    of_tau, of_wrong, totals = (sum(column[1:], column[0]) for column in zip(*parts, strict=True))
    return votes.by_annotator(of_tau), votes.by_annotator(of_wrong), totals


def _bounds(
    votes: Ballots, tau: float, at: Parameters, prior: Prior, spread: Coupling
) -> tuple[Floats, Floats]:
    """95 % bounds of each θ with the others held fixed, [K] each."""
    error = 1.0 / np.sqrt(spread.own)
    low, high = at.theta - Z95 * error, at.theta + Z95 * error
    skewed = np.flatnonzero(spread.own < ROUND)
    if not len(skewed):
        return low, high
    cavity = marginal.cavities(votes, tau, at.cells(votes), skewed)
    # Close together at θ and far apart in the tails, whatever the width of the posterior.
    u = np.linspace(-1.0, 1.0, POINTS)
    for chunk in np.array_split(skewed, len(skewed) // CHUNK + 1):
        width = np.minimum(error[chunk], 3.0)[:, None]
        bend = np.arcsinh(REACH / width)
        theta = at.theta[chunk, None] + width * np.sinh(bend * u)
        theta = np.clip(theta, -solve.LIMIT, solve.LIMIT)
        ratio = marginal.log_ratios(votes, cavity, at, theta, chunk)
        density = ratio + population.log_density(sigmoid(theta), prior.integrable)
        density = np.exp(density - density.max(axis=1, keepdims=True))
        pieces = np.diff(theta, axis=1) * (density[:, 1:] + density[:, :-1]) / 2
        mass = np.concatenate([np.zeros((len(chunk), 1)), np.cumsum(pieces, axis=1)], axis=1)
        mass /= mass[:, -1:]
        for row, k in enumerate(chunk):
            low[k], high[k] = np.interp([0.025, 0.975], mass[row], theta[row])
    return np.minimum(low, at.theta), np.maximum(high, at.theta)
