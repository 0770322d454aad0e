"""How well each reliability, and the number of wrong labels, is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoise.noise import Z95, sigmoid
from denoise.pooled import bethe, kernels, marginal, solve, temperatures
from denoise.pooled import prior as population
from denoise.pooled.ballots import Ballots, Floats, Votes, added, over_pairs
from denoise.pooled.bethe import Integrated
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

TELLING = 0.1
"""Known answers that an annotator's votes must be worth for a reliability to be identified."""


class Uncertainty(NamedTuple):
    """low, high: 95 % bounds of η, [K]; identified: whether the votes tell it at all, [K] bool.

    expected_wrong: of the votes, each η integrated over its posterior, with its 95 % interval
    `wrong_low` to `wrong_high`; temperature: that of τ.
    """

    low: Floats
    high: Floats
    identified: NDArray[np.bool_]
    expected_wrong: float
    wrong_low: float
    wrong_high: float
    temperature: tuple[float, float]


def uncertainty(votes: Votes, found: Integrated, calibration: Calibration) -> Uncertainty:
    """Bounds that hold the temperature and the prior as uncertain as they are.

    Each η's own posterior gives the shape, widened by what the other annotators (Louis' formula)
    and τ and the prior (delta method) add to its variance. The number of wrong votes varies with
    the truth of the pairs, the reliabilities and the same.
    """
    tau, prior, at = calibration.temperature, calibration.prior, found.fit.parameters
    spread = marginal.coupling(votes, tau, at, found.fit.shrinkage, DENSE)
    of_tau, of_wrong, totals = _sums(votes, tau, at)
    guesses = marginal.guessers(votes, tau, at, prior)
    pull = np.column_stack([of_tau, _pull(sigmoid(at.theta), guesses, prior)])
    moves = spread.solve(pull)  # dθ/d(τ, the prior)
    own = _own(votes, tau, at, prior, spread, guesses, moves)
    added = np.einsum("ki,ij,kj->k", own.moves, calibration.covariance, own.moves)
    coupled = spread.variance() * spread.own
    of_temperature = moves[:, 0] ** 2 * calibration.covariance[0, 0]
    factor = np.sqrt(np.maximum(coupled + added / own.variance, 1.0))
    low = np.clip(at.theta - (at.theta - own.low) * factor, -solve.LIMIT, solve.LIMIT)
    high = np.clip(at.theta + (own.high - at.theta) * factor, -solve.LIMIT, solve.LIMIT)

    wrong = expected_wrong(votes, found, calibration)
    slope, within = totals
    along = np.array([slope, 0.0, 0.0, 0.0, 0.0]) + of_wrong @ moves
    of_eta = float(of_wrong @ spread.solve(of_wrong))
    sd = float(np.sqrt(within + max(of_eta, 0.0) + along @ calibration.covariance @ along))
    known_to = spread.variance() + of_temperature
    wrong_low, wrong_high = wrong - Z95 * sd, wrong + Z95 * sd
    temperature = calibration.interval
    n_voters = int((votes.by_annotator(votes.votes) > 0).sum())
    if n_voters < population.LEAST and calibration.gain is not None and tau > 0:
        part = votes.sample(SAMPLE)
        averaged = temperatures.average(part, at, calibration)
        low, high = np.minimum(low, averaged.low), np.maximum(high, averaged.high)
        known_to = np.maximum(known_to, averaged.variance)
        scale = votes.n_votes / part.n_votes
        wrong = averaged.wrong * scale
        wrong_low, wrong_high = averaged.wrong_low * scale, averaged.wrong_high * scale
        temperature = averaged.temperature
    return Uncertainty(
        sigmoid(low),
        sigmoid(high),
        _identified(known_to, spread, sigmoid(at.theta)),
        wrong,
        max(wrong_low, 0.0),
        min(wrong_high, float(votes.votes.sum())),
        temperature,
    )


def expected_wrong(whole: Votes, found: Integrated, calibration: Calibration) -> float:
    """Expected number of votes against the truth, every η integrated out.

    By `bethe.propagate`. Above `SAMPLE` votes on a sample of the pairs, and what it changes there
    against η held at the fit is taken for the whole.
    """
    tau, at = calibration.temperature, found.fit.parameters
    votes, who = whole.sample(SAMPLE).of_voters()
    of_sample = at._replace(theta=at.theta[who])
    beliefs = bethe.propagate(bethe.network(votes), tau, calibration.prior, of_sample)
    integrated = _wrong(votes, beliefs.log_odds)
    if votes.n_votes == whole.n_votes:
        return integrated
    held = _wrong(votes, solve.pair_log_odds(votes, tau, of_sample))
    return added(whole.each(_wrong, found.log_odds)) * integrated / max(held, 1e-300)


def _wrong(part: Ballots, log_odds: Floats) -> float:
    """Σ(1−w) over the votes, given s of each pair."""
    arrays = (part.start, part.code, part.known, log_odds)
    return sum(over_pairs(part, lambda f, e: kernels.wrong_pass(f, e, *arrays)))


def _identified(variance: Floats, spread: Coupling, eta: Floats) -> NDArray[np.bool_]:
    """Whether the votes tell a reliability, not only the prior; a known answer tells η(1−η).

    variance: of θ by the votes of all, the prior and τ, [K].
    """
    return 1.0 / variance - spread.prior > TELLING * eta * (1.0 - eta)


def _pull(eta: Floats, guesses: Floats, prior: Prior) -> Floats:
    """How the slope of the prior's part in θ changes with the prior's coordinates, [K, 4]."""
    mean, strength = prior.mean, prior.strength
    of_mean = np.full(len(eta), strength * mean * (1 - mean))
    of_guessing = prior.guessing * (0.5 - eta)
    of_share = of_guessing - strength * (mean - eta)
    pull = [(1 - guesses) * of_mean, (1 - guesses) * strength * (mean - eta)]
    return np.column_stack([*pull, guesses * (1 - guesses) * of_share, guesses * of_guessing])


def _sums(votes: Votes, tau: float, at: Parameters) -> tuple[Floats, Floats, Floats]:
    of_tau, of_wrong, totals = added(votes.each(_spread, tau, at.cells(votes)))
    return votes.by_annotator(of_tau), votes.by_annotator(of_wrong), totals


def _spread(part: Ballots, tau: float, lam: Floats) -> tuple[Floats, Floats, Floats]:
    def work(first: int, last: int) -> tuple[Floats, Floats, Floats]:
        of_tau, of_wrong = np.zeros(len(lam)), np.zeros(len(lam))
        totals = kernels.spread_pass(first, last, *part.arrays, tau, lam, of_tau, of_wrong)
        return of_tau, of_wrong, np.array(totals)

    return added(over_pairs(part, work))


def _reached(share: float, reached: Floats, theta: Floats) -> Floats:
    """θ at which a share of the mass is reached, [m]; `reached` [m, n] rises from 0 to 1."""
    after = np.clip((reached <= share).sum(axis=1), 1, reached.shape[1] - 1)
    rows = np.arange(len(reached))
    (mass, point), (mass_after, point_after) = (
        (reached[rows, at], theta[rows, at]) for at in (after - 1, after)
    )
    return point + (share - mass) / (mass_after - mass) * (point_after - point)


class _Own(NamedTuple):
    """low, high: 95 % bounds of each θ with the others held fixed, [K]; variance: of θ, [K].

    moves: of θ with τ and the prior's coordinates, [K, 5].
    """

    low: Floats
    high: Floats
    variance: Floats
    moves: Floats


def _own(
    votes: Votes,
    tau: float,
    at: Parameters,
    prior: Prior,
    spread: Coupling,
    guesses: Floats,
    moves: Floats,
) -> _Own:
    """Each annotator's own posterior: a normal one, or laid out on a grid where it is none."""
    error = 1.0 / np.sqrt(spread.own)
    low, high = at.theta - Z95 * error, at.theta + Z95 * error
    found = _Own(low, high, error**2, moves.copy())
    either = guesses * (1 - guesses) > 0.01
    skewed = np.flatnonzero((spread.own < ROUND) | either)
    if not len(skewed):
        return found
    inner = prior.integrable
    cavity = votes.hold(marginal.cavities, tau, at.cells(votes), skewed)
    # Close together at θ and far apart in the tails, whatever the width of the posterior.
    u = np.linspace(-1.0, 1.0, POINTS)
    for chunk in np.array_split(skewed, len(skewed) // CHUNK + 1):
        width = np.minimum(error[chunk], 3.0)[:, None]
        bend = np.arcsinh(REACH / width)
        theta = at.theta[chunk, None] + width * np.sinh(bend * u)
        theta = np.clip(theta, -solve.LIMIT, solve.LIMIT)
        eta = sigmoid(theta)
        likelihood = marginal.log_likelihoods(votes, cavity, at, theta, chunk)
        density = likelihood + population.log_density(eta, inner)
        density = np.exp(density - density.max(axis=1, keepdims=True))
        pieces = np.diff(theta, axis=1) * (density[:, 1:] + density[:, :-1]) / 2
        reached = np.concatenate([np.zeros((len(chunk), 1)), np.cumsum(pieces, axis=1)], axis=1)
        reached /= reached[:, -1:]
        low[chunk], high[chunk] = _reached(0.025, reached, theta), _reached(0.975, reached, theta)
        mass = np.gradient(reached, axis=1)
        away = theta - (mass * theta).sum(axis=1, keepdims=True)
        found.variance[chunk] = (mass * away**2).sum(axis=1)
        found.moves[chunk, 0] *= found.variance[chunk] * spread.own[chunk]
        if prior.strength > 0:
            slopes = population.slopes(eta, prior)
            found.moves[chunk, 1:] = np.einsum("kn,kn,ikn->ki", mass, away, slopes)
    return found._replace(low=np.minimum(low, at.theta), high=np.maximum(high, at.theta))
