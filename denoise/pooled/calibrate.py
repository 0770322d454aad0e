"""The temperature of the model's margins and the annotators' population, by marginal likelihood."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from denoise.noise import Z95, log_odds, sigmoid
from denoise.pooled import bethe
from denoise.pooled import prior as population
from denoise.pooled.ballots import Ballots, Floats, Votes
from denoise.pooled.bethe import Beliefs, Network
from denoise.pooled.maximum import maximum, untold
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters

SAMPLE = 1 << 18
"""Votes that are enough for τ and the prior; with more, every so many pairs."""

GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Where τ is looked for first, in units of one over the margins' root mean square."""

RANGE = (1e-3, 1e3)
MEAN_RANGE = (0.02, 0.995)
STRENGTH_RANGE = (0.3, 3000.0)
GUESSERS_RANGE = (1e-4, 0.999)
GUESSING_RANGE = (8.0, 3000.0)

SHARES = (0.1, 0.9)
"""Shares of guessers from which the search starts."""

WORTH = 1.92
"""Nats by which the margins must explain the votes better than none do: half of χ²₁'s 95 %."""

SHIFTS = 4
"""Times that the shifts of strengths and the rest are fitted in turn."""

POLISH = 2
"""Newton steps after the climb."""


class Calibration(NamedTuple):
    """temperature: τ; gain: nats of marginal likelihood over τ = 0, None where not fitted.

    covariance: of τ and the prior's coordinates, [5, 5], zero where one is fixed; parameters: where
    the last fit ended; trace: (log marginal, τ, mean η) of every evaluation that was better than
    all before; contrary: the mean η with which the margins explain the votes best, where that is a
    crowd worse than chance and so was not believed.
    """

    temperature: float
    prior: Prior
    gain: float | None
    covariance: Floats
    parameters: Parameters
    trace: tuple[tuple[float, float, float], ...]
    contrary: float | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bounds of τ."""
        error = Z95 * float(np.sqrt(self.covariance[0, 0]))
        return max(self.temperature - error, 0.0), self.temperature + error


class _Objective:
    """log marginal + hyper-prior and its slopes, each time from the messages of the best so far."""

    def __init__(self, net: Network, start: Parameters, eta0: float) -> None:
        self.net, self.start, self.eta0 = net, start, eta0
        self.beliefs: Beliefs | None = None
        self.trace: list[tuple[float, float, float]] = []

    def __call__(self, tau: float, prior: Prior, learned: bool) -> tuple[float, Floats]:
        """The value, and its slopes in τ and the prior's coordinates, [5]."""
        beliefs = bethe.propagate(self.net, tau, prior, self.start, self.beliefs)
        value, slopes = beliefs.value + population.log_belief(tau), np.zeros(5)
        slopes[0] = bethe.slope_of_temperature(self.net, tau, beliefs)
        slopes[0] += population.slope_of_belief(tau)
        if learned:
            value += population.log_hyperprior(prior, self.eta0)
            slopes[1:] = bethe.slope_of_prior(self.net, prior, beliefs)
            slopes[1:] += population.slope_of_hyperprior(prior, self.eta0)
        if not self.trace or value > self.trace[-1][0]:
            self.beliefs = beliefs
            self.trace.append((value, tau, float(sigmoid(beliefs.parameters.theta).mean())))
        return value, slopes


def calibrate(
    whole: Votes,
    start: Parameters,
    prior: Prior,
    *,
    eta0: float,
    fit_temperature: bool,
    fit_prior: bool,
) -> Calibration:
    """τ and the prior that make the votes likeliest; τ = 0 where the margins explain nothing.

    Where τ cannot be told from 0 (a gain under `WORTH`), or the crowd would be worse than chance,
    it is 0, or 1 if the votes are likelier so. Votes and margins that contradict each other do not
    tell which of them is reversed: without known answers it is the margins, since a model that
    generalises badly is commoner than a crowd that is wrong more often than right.
    The shifts of strengths are those of the maximum there, in turn.

    `prior` is where the search begins, or what is kept without `fit_prior`. Above `SAMPLE` votes a
    sample of the pairs is used.
    """
    votes, who = whole.sample(SAMPLE).of_voters()
    options = {"eta0": eta0, "fit_temperature": fit_temperature, "fit_prior": fit_prior}
    begin = start._replace(theta=start.theta[who])
    found = _calibrate(votes, begin, prior, **options)
    for _ in range(SHIFTS if votes.n_levels > 1 else 0):
        at = maximum(votes, found.temperature, found.prior, found.parameters).parameters
        found = _calibrate(votes, at, prior, **options)
    if len(who) == whole.n_annotators:
        return found
    # Of whom the sample has no vote, nothing is known but the population.
    mean = log_odds(np.float64(found.prior.integrable.population))
    theta = start.theta.copy() if found.parameters is begin else np.full(len(start.theta), mean)
    theta[who] = found.parameters.theta
    return found._replace(parameters=found.parameters._replace(theta=theta))


def _calibrate(
    votes: Ballots,
    start: Parameters,
    prior: Prior,
    *,
    eta0: float,
    fit_temperature: bool,
    fit_prior: bool,
) -> Calibration:
    rms = root_mean_square(votes)
    if rms == 0.0:
        fit_temperature = False
    net, given = bethe.network(votes), prior
    priors = [prior._replace(guessers=share) for share in SHARES] if fit_prior else [prior]

    def highest(taus: list[float], fit_temperature: bool) -> tuple[float, Prior, float, _Objective]:
        """The maximum that is reached from the best of the starts."""
        tries = []
        for begin in priors:
            evaluate = _Objective(net, start, eta0)
            values = [evaluate(t, begin, fit_prior)[0] for t in taus]
            best = int(np.argmax(values))
            tries.append((values[best], taus[best], begin, evaluate))
        _, tau, begin, evaluate = max(tries, key=lambda each: each[0])
        return *_climb(evaluate, tau, begin, rms, fit_temperature, fit_prior), evaluate

    taus = [g / rms for g in GRID] if fit_temperature else [1.0 if rms else 0.0]
    tau, prior, best, evaluate = highest(taus, fit_temperature)
    gain, contrary, as_given = None, None, False
    if fit_temperature:
        _, prior_without, without, nothing = highest([0.0], False)
        gain = best - without
        if gain >= WORTH and prior.population < 0.5 and not len(votes.known):
            contrary = prior.population
        if gain < WORTH or contrary is not None:
            _, prior_as_is, as_is, at_face_value = highest([1.0], False)
            if as_is > without and prior_as_is.population > 0.5:
                tau, prior, evaluate, as_given = 1.0, prior_as_is, at_face_value, True
            else:
                tau, prior, evaluate = 0.0, prior_without, nothing
    if untold(votes, tau):  # all that there is, is what was believed beforehand
        nothing_known = np.zeros((5, 5))
        return Calibration(tau, given, gain, nothing_known, start, tuple(evaluate.trace), contrary)
    free = [0] * (fit_temperature and tau > 0) + [1, 2, 3, 4] * fit_prior
    polished = [i for i in free if i > 0 or not as_given]
    for _ in range(POLISH):
        tau, prior = _newton(evaluate, tau, prior, polished)
    covariance = _covariance(_curvature(evaluate, tau, prior, free), tau, free)
    at = evaluate.beliefs.parameters
    return Calibration(tau, prior, gain, covariance, at, tuple(evaluate.trace), contrary)


def root_mean_square(votes: Ballots) -> float:
    """Of the margins, nats."""
    return float(np.sqrt(np.mean(votes.margin.astype(np.float64) ** 2))) if len(votes.margin) else 0


def _climb(
    evaluate: _Objective,
    tau: float,
    prior: Prior,
    rms: float,
    fit_temperature: bool,
    fit_prior: bool,
) -> tuple[float, Prior, float]:
    """The maximum from a starting point, over what is to be fitted."""
    point, bounds = [], []
    if fit_temperature:
        point.append(np.log(tau * rms))
        bounds.append(np.log(RANGE))
    if fit_prior:
        point += prior.coordinates.tolist()
        # Votes alone are as likely with every η turned into 1 − η: the population is kept upright.
        mirrored = tau == 0 and not len(evaluate.net.votes.known)
        bounds += _bounds(0.5 if mirrored else MEAN_RANGE[0])
    if not point:
        return tau, prior, evaluate(tau, prior, fit_prior)[0]

    def read(x: Floats) -> tuple[float, Prior]:
        here = float(np.exp(x[0]) / rms) if fit_temperature else tau
        return here, Prior.at(x[-4:]) if fit_prior else prior

    def fall(x: Floats) -> tuple[float, Floats]:
        here, population = read(x)
        value, slopes = evaluate(here, population, fit_prior)
        slopes[0] *= here  # in log τ
        return -value, -slopes[[0] * fit_temperature + [1, 2, 3, 4] * fit_prior]

    options = {"ftol": 1e-10, "gtol": 1e-3, "maxiter": 60}
    found = minimize(
        fall, np.array(point), method="L-BFGS-B", jac=True, bounds=bounds, options=options
    )
    return *read(found.x), -float(found.fun)


def _bounds(least_mean: float = MEAN_RANGE[0]) -> list[Floats]:
    """Of the prior's coordinates."""
    shares = log_odds(np.array([(least_mean, MEAN_RANGE[1]), GUESSERS_RANGE]))
    return [shares[0], np.log(STRENGTH_RANGE), shares[1], np.log(GUESSING_RANGE)]


def _steps(tau: float) -> Floats:
    """Of the differences in τ and the prior's coordinates."""
    return np.array([0.05 * tau, 0.1, 0.1, 0.1, 0.1])


def _moved(tau: float, prior: Prior, shift: Floats) -> tuple[float, Prior]:
    if not shift[1:].any():
        return tau + shift[0], prior
    low, high = np.transpose(_bounds())
    return tau + shift[0], Prior.at(np.clip(prior.coordinates + shift[1:], low, high))


def _curvature(evaluate: _Objective, tau: float, prior: Prior, free: list[int]) -> Floats:
    """Hessian of the objective [5, 5], in units of `_steps`, by differences of its slopes."""
    steps = _steps(tau)
    hessian = np.zeros((5, 5))
    for i in free:
        shift = steps * (np.arange(5) == i)
        up, down = (evaluate(*_moved(tau, prior, s), 1 in free)[1] for s in (shift, -shift))
        hessian[i, free] = ((up - down) / 2 * steps)[free]
    return (hessian + hessian.T) / 2


def _newton(evaluate: _Objective, tau: float, prior: Prior, free: list[int]) -> tuple[float, Prior]:
    """One of Newton's steps, so that where the climb stopped early does not matter."""
    if not free:
        return tau, prior
    gradient = evaluate(tau, prior, 1 in free)[1] * _steps(tau)
    values, vectors = np.linalg.eigh(-_curvature(evaluate, tau, prior, free)[np.ix_(free, free)])
    if values.min() < 1e-3:
        return tau, prior  # flat: there is no one maximum to go to
    step = np.zeros(5)
    step[free] = np.clip(vectors @ ((vectors.T @ gradient[free]) / values), -2, 2)
    return _moved(tau, prior, step * _steps(tau))


def _covariance(hessian: Floats, tau: float, free: list[int]) -> Floats:
    """Inverse of minus the Hessian, of τ and the prior's coordinates, zero where one is fixed."""
    covariance = np.zeros((5, 5))
    part = np.ix_(free, free)
    values, vectors = np.linalg.eigh(-hessian[part])
    # Flat directions: no wider than 30 steps (1.5 τ, 3 logits, e³ in strength).
    inverse = vectors @ np.diag(1 / np.maximum(values, 1 / 900)) @ vectors.T
    covariance[part] = inverse
    return covariance * np.outer(_steps(tau), _steps(tau))
