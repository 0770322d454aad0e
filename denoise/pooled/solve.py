"""EM for the log-odds of every cell at a fixed temperature and prior, accelerated and monotone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denoise.noise import EDGE, log_odds, sigmoid
from denoise.pooled import kernels
from denoise.pooled.ballots import Ballots, Floats, Votes, added, over_pairs
from denoise.pooled.prior import Prior, Shrinkage

LIMIT = float(log_odds(np.float64(1.0)))
"""Log-odds stay within ±36.7, where 1 − η is half the gap from 1 to the next double."""

LEVEL_PRECISION = 1.0
"""A strength's shift δ is N(0, 1) beforehand, so that a level with few votes stays finite."""


class Parameters(NamedTuple):
    """theta: logit η of each annotator, [K]; delta: shift of each strength, [L], Σ n·delta = 0."""

    theta: Floats
    delta: Floats

    def cells(self, votes: Votes) -> Floats:
        """λ of each cell, [C]."""
        if votes.n_levels == 1:
            return self.theta
        return np.clip(self.theta[votes.annotator] + self.delta[votes.level], -LIMIT, LIMIT)


class Step(NamedTuple):
    """An accepted EM iterate: `objective` as in `objective`, `max_change` of η since the last.

    stage: counts up where the shrinkage was made anew; the objective never falls within one. It is
    None where messages were sent, which have none.
    """

    iteration: int
    objective: float | None
    max_change: float | None
    mean_reliability: float
    stage: int = 0


class Fit(NamedTuple):
    """The maximum of `objective`; converged: whether no η moved by more than the tolerance."""

    parameters: Parameters
    objective: float
    converged: bool
    trace: tuple[Step, ...]
    shrinkage: Prior | Shrinkage


def expectation(votes: Votes, tau: float, lam: Floats) -> tuple[Floats, float]:
    """Σw of each cell, [C], and the log-likelihood of the votes up to the evidence's own part.

    log L_j = log σ(±τΔ)Π… summed over both truths = Σ_i ½ log η(1−η) + log(2 cosh(s/2)) −
    log(2 cosh(τΔ/2)); the last term does not depend on λ and is `evidence_term`.
    """
    right, total = added(votes.each(_expected, tau, lam))
    half = -0.5 * np.abs(lam) - np.log1p(np.exp(-np.abs(lam)))  # ½ log η(1−η)
    return right, float(votes.votes @ half) + total


def _expected(part: Ballots, tau: float, lam: Floats) -> tuple[Floats, float]:
    def work(first: int, last: int) -> tuple[Floats, float]:
        right = np.zeros(len(lam))
        return right, kernels.e_pass(first, last, *part.arrays, tau, lam, right)

    return added(over_pairs(part, work))


def evidence_term(votes: Votes, tau: float) -> float:
    """Σ_j log(2 cosh(τΔ/2))."""
    return added(votes.each(_evidence, tau))


def _evidence(part: Ballots, tau: float) -> float:
    return added(over_pairs(part, lambda f, e: kernels.evidence_pass(f, e, part.margin, tau)))


def pair_log_odds(votes: Ballots, tau: float, at: Parameters) -> Floats:
    """s = τΔ + Σ vλ of each pair, [J]; to be held."""
    s = np.empty(len(votes.margin))
    rest = (votes.start, votes.code, votes.margin, tau, at.cells(votes), s)
    over_pairs(votes, lambda f, e: kernels.log_odds_pass(f, e, *rest))
    return s


def posterior(votes: Ballots, tau: float, at: Parameters) -> Floats:
    """q = P(a is truly preferred) of each pair, [J]; to be held."""
    q = pair_log_odds(votes, tau, at)
    over_pairs(votes, lambda f, e: kernels.posterior_pass(f, e, q, votes.known, q))
    return q


def log_penalty(parameters: Parameters, prior: Prior | Shrinkage) -> float:
    """Σ_k a log η + b log(1−η) − ½Σδ²: the prior's part of the objective, up to a constant."""
    theta = parameters.theta
    log_eta, log_not = -np.logaddexp(0, -theta), -np.logaddexp(0, theta)
    shift = 0.5 * LEVEL_PRECISION * float(parameters.delta @ parameters.delta)
    return float((prior.a * log_eta + prior.b * log_not).sum()) - shift


def objective(votes: Votes, tau: float, parameters: Parameters, prior: Prior | Shrinkage) -> float:
    """log-likelihood of the votes (and known answers) plus `log_penalty`, in nats."""
    _, likelihood = expectation(votes, tau, parameters.cells(votes))
    return likelihood - evidence_term(votes, tau) + log_penalty(parameters, prior)


def maximisation(
    votes: Votes, right: Floats, parameters: Parameters, prior: Prior | Shrinkage
) -> Parameters:
    """The parameters that maximise the expected objective, given Σw of each cell.

    Without strengths η = (Σw + a)/(n + a + b); where there is neither vote nor prior it stays.
    With them, Newton's method on the cells' logistic likelihood, in turn for θ and δ.
    """
    if votes.n_levels == 1:
        total = votes.votes + prior.strength
        theta = log_odds((right + prior.a) / np.maximum(total, EDGE))
        return parameters._replace(theta=np.where(total > 0, theta, parameters.theta))
    theta, delta = parameters
    for _ in range(50):
        before = theta, delta
        theta = _newton_theta(votes, right, theta, delta, prior)
        delta = _newton_delta(votes, right, theta, delta)
        if max(np.abs(theta - before[0]).max(), np.abs(delta - before[1]).max()) < 1e-10:
            break
    return Parameters(theta, delta)


def step_of_theta(votes: Votes, right: Floats, at: Parameters, prior: Prior | Shrinkage) -> Floats:
    """θ after an M-step with the strengths' shifts held, [K]: one of Newton's steps with them."""
    if votes.n_levels == 1:
        return maximisation(votes, right, at, prior).theta
    return _newton_theta(votes, right, *at, prior)


def _newton_theta(
    votes: Votes, right: Floats, theta: Floats, delta: Floats, prior: Prior | Shrinkage
) -> Floats:
    eta = sigmoid(np.clip(theta[votes.annotator] + delta[votes.level], -LIMIT, LIMIT))
    own = sigmoid(theta)
    slope = votes.by_annotator(right - votes.votes * eta) + prior.a - prior.strength * own
    bend = votes.by_annotator(votes.votes * eta * (1 - eta)) + prior.strength * own * (1 - own)
    # A step of at most 1 keeps Newton's method from leaping where the logistic is flat.
    return np.clip(theta + np.clip(slope / np.maximum(bend, EDGE), -1, 1), -LIMIT, LIMIT)


def _newton_delta(votes: Votes, right: Floats, theta: Floats, delta: Floats) -> Floats:
    lam = np.clip(theta[votes.annotator] + delta[votes.level], -LIMIT, LIMIT)
    eta = sigmoid(lam)
    n = np.bincount(votes.level, votes.votes, votes.n_levels)
    slope = np.bincount(votes.level, right - votes.votes * eta, votes.n_levels)
    slope -= LEVEL_PRECISION * delta
    bend = np.bincount(votes.level, votes.votes * eta * (1 - eta), votes.n_levels) + LEVEL_PRECISION
    # Newton's step within Σ n·step = 0, so that the weighted mean of δ stays 0.
    share = n / bend
    step = slope / bend
    step -= (n @ step) / max(n @ share, EDGE) * share
    return delta + step / max(1.0, np.abs(step).max())


def fit(
    votes: Votes,
    tau: float,
    prior: Prior | Shrinkage,
    start: Parameters,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
    accelerate: bool = True,
) -> Fit:
    """EM until no η moves by more than `tolerance`; the objective never falls.

    Accelerated by SQUAREM (Varadhan & Roland, Scand. J. Stat. 35, 2008, scheme S3): two EM steps
    are extrapolated, and the extrapolation is kept only where the objective is no lower there.
    """
    constant = evidence_term(votes, tau)

    def em_step(at: Parameters) -> tuple[Parameters, float]:
        right, likelihood = expectation(votes, tau, at.cells(votes))
        value = likelihood - constant + log_penalty(at, prior)
        return maximisation(votes, right, at, prior), value

    here = start
    after, value = em_step(here)
    trace = [_step(0, value, None, here)]
    converged = False
    iteration = 0
    while not converged and iteration < max_iterations:
        iteration += 1
        second, value_after = em_step(after)
        reached, ahead, value = after, second, value_after
        first_move, second_move = _moves(here, after, second)
        if accelerate and max(_change(here, after), _change(after, second)) > tolerance:
            leap = _extrapolate(here, first_move, second_move)
            if leap is not None:
                beyond, value_leap = em_step(leap)
                if value_leap >= value_after:
                    reached, ahead, value = leap, beyond, value_leap
        change = _change(here, reached)
        converged = _change(reached, ahead) <= tolerance and _change(here, after) <= tolerance
        here, after = reached, ahead
        trace.append(_step(iteration, value, change, here))
    return Fit(here, value, converged, tuple(trace), prior)


def _moves(here: Parameters, after: Parameters, second: Parameters) -> tuple[Floats, Floats]:
    zero, one, two = (np.concatenate(p) for p in (here, after, second))
    return one - zero, two - one


def _extrapolate(here: Parameters, first: Floats, second: Floats) -> Parameters | None:
    turn = second - first
    size = float(np.sqrt(turn @ turn))
    length = float(np.sqrt(first @ first)) / size if size > 0 else 0.0
    if length <= 1.0:
        return None  # no farther than the second EM step itself
    point = np.concatenate(here) + 2 * length * first + length**2 * turn
    theta, delta = np.split(point, [len(here.theta)])
    return Parameters(np.clip(theta, -LIMIT, LIMIT), delta)


def _change(one: Parameters, other: Parameters) -> float:
    theta = np.abs(sigmoid(one.theta) - sigmoid(other.theta)).max(initial=0.0)
    return float(max(theta, np.abs(one.delta - other.delta).max(initial=0.0)))


def _step(iteration: int, value: float, change: float | None, at: Parameters) -> Step:
    return Step(iteration, value, change, float(sigmoid(at.theta).mean()))
