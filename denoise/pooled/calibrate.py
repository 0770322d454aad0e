"""The temperature of the model's margins and the annotators' population, by marginal likelihood."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from denoise.noise import Z95, log_odds, sigmoid
from denoise.pooled import marginal
from denoise.pooled import prior as population
from denoise.pooled.ballots import Ballots, Floats, sample
from denoise.pooled.maximum import maximum
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters

SAMPLE = 1 << 18
"""Votes that are enough for τ and the prior; with more, every so many pairs."""

GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Where τ is looked for first, in units of one over the margins' root mean square."""

RANGE = (1e-3, 1e3)
MEAN_RANGE = (0.02, 0.995)
STRENGTH_RANGE = (0.3, 3000.0)

WORTH = 1.92
"""Nats by which the margins must explain the votes better than none do: half of χ²₁'s 95 %."""

POLISH = 2
"""Newton steps after the climb."""

MEAN_VOTES = 4.0
"""Annotators that the belief in a mean reliability of η_0 weighs."""


class Calibration(NamedTuple):
    """temperature: τ; gain: nats of marginal likelihood over τ = 0, None where not fitted.

    covariance: of (τ, logit m, log strength), [3, 3], zero where one is fixed; parameters: where
    the last fit ended; trace: (log marginal, τ, mean η) of every evaluation that was better than
    all before.
    """

    temperature: float
    prior: Prior
    gain: float | None
    covariance: Floats
    parameters: Parameters
    trace: tuple[tuple[float, float, float], ...]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bounds of τ."""
        error = Z95 * float(np.sqrt(self.covariance[0, 0]))
        return max(self.temperature - error, 0.0), self.temperature + error


class _Objective:
    """log marginal + hyper-prior at a point, each fit starting from the last one's end."""

    def __init__(self, votes: Ballots, start: Parameters, eta0: float, tolerance: float) -> None:
        self.votes, self.at, self.eta0, self.tolerance = votes, start, eta0, tolerance
        self.trace: list[tuple[float, float, float]] = []

    def __call__(self, tau: float, prior: Prior, learned: bool) -> float:
        fit = maximum(self.votes, tau, prior, self.at, tolerance=self.tolerance)
        value = marginal.log_marginal(self.votes, tau, fit.parameters, prior)
        if learned:
            value += population.log_hyperprior(prior)
            value += MEAN_VOTES * self.eta0 * np.log(prior.mean)
            value += MEAN_VOTES * (1 - self.eta0) * np.log1p(-prior.mean)
        if not self.trace or value > self.trace[-1][0]:
            self.trace.append((value, tau, fit.trace[-1].mean_reliability))
            self.at = fit.parameters
        return value


def calibrate(
    whole: Ballots,
    start: Parameters,
    prior: Prior,
    *,
    eta0: float,
    fit_temperature: bool,
    fit_prior: bool,
    tolerance: float = 1e-8,
) -> Calibration:
    """τ and the prior that make the votes likeliest; τ = 0 where the margins explain nothing.

    Where τ cannot be told from 0 (a gain under `WORTH`) it is 0, or 1 if the votes are likelier so.

    `prior` is where the search begins, or what is kept without `fit_prior`. Above `SAMPLE` votes a
    sample of the pairs is used.
    """
    votes = sample(whole, SAMPLE)
    rms = float(np.sqrt(np.mean(votes.margin.astype(np.float64) ** 2))) if len(votes.margin) else 0
    if rms == 0.0:
        fit_temperature = False
    evaluate = _Objective(votes, start, eta0, tolerance)
    tau = 1.0 if rms else 0.0
    if fit_temperature:
        values = [evaluate(g / rms, prior, fit_prior) for g in GRID]
        tau = GRID[int(np.argmax(values))] / rms
    tau, prior, best = _climb(evaluate, tau, prior, rms, fit_temperature, fit_prior)
    gain = None
    if fit_temperature:
        nothing = _Objective(votes, start, eta0, tolerance)
        _, prior_without, without = _climb(nothing, 0.0, prior, rms, False, fit_prior)
        gain = best - without
        if gain < WORTH:
            at_face_value = _Objective(votes, start, eta0, tolerance)
            _, prior_as_is, as_is = _climb(at_face_value, 1.0, prior, rms, False, fit_prior)
            if as_is > without and prior_as_is.mean > 0.5:
                tau, prior, evaluate = 1.0, prior_as_is, at_face_value
            else:
                tau, prior, evaluate = 0.0, prior_without, nothing
    free = [0] * (fit_temperature and tau > 0) + [1, 2] * fit_prior
    for _ in range(POLISH):
        tau, prior = _newton(evaluate, tau, prior, free)
    covariance = _covariance(_differences(evaluate, tau, prior, free)[1], tau, free)
    return Calibration(tau, prior, gain, covariance, evaluate.at, tuple(evaluate.trace))


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
        point += [float(log_odds(np.float64(prior.mean))), np.log(prior.strength)]
        # Votes alone are as likely with every η turned into 1 − η: the population is kept upright.
        mirrored = tau == 0 and not len(evaluate.votes.known)
        low = 0.5 if mirrored else MEAN_RANGE[0]
        bounds += [log_odds(np.array([low, MEAN_RANGE[1]])), np.log(STRENGTH_RANGE)]
    if not point:
        return tau, prior, evaluate(tau, prior, fit_prior)

    def read(x: Floats) -> tuple[float, Prior]:
        here = float(np.exp(x[0]) / rms) if fit_temperature else tau
        if not fit_prior:
            return here, prior
        return here, Prior(float(sigmoid(x[-2])), float(np.exp(x[-1])))

    found = minimize(
        lambda x: -evaluate(*read(x), fit_prior),
        np.array(point),
        method="L-BFGS-B",
        bounds=bounds,
        options={"eps": 1e-3, "ftol": 1e-8, "gtol": 1e-3, "maxiter": 40},
    )
    return *read(found.x), -float(found.fun)


def _steps(tau: float) -> Floats:
    """Of the differences in (τ, logit m, log strength)."""
    return np.array([0.05 * tau, 0.1, 0.1])


def _moved(tau: float, prior: Prior, shift: Floats) -> tuple[float, Prior]:
    if not shift.any():
        return tau, prior
    mean = sigmoid(log_odds(np.float64(prior.mean)) + shift[1])
    return tau + shift[0], Prior(float(mean), prior.strength * float(np.exp(shift[2])))


def _differences(
    evaluate: _Objective, tau: float, prior: Prior, free: list[int]
) -> tuple[Floats, Floats]:
    """Gradient [3] and Hessian [3, 3] of the objective by differences, in units of `_steps`."""
    unit = np.diag(_steps(tau))
    learned = 2 in free

    def value(shift: Floats) -> float:
        return evaluate(*_moved(tau, prior, shift), learned)

    gradient, hessian = np.zeros(3), np.zeros((3, 3))
    centre = value(np.zeros(3))
    up, down = ({i: value(sign * unit[i]) for i in free} for sign in (1, -1))
    for i in free:
        gradient[i] = (up[i] - down[i]) / 2
        hessian[i, i] = up[i] - 2 * centre + down[i]
        for j in free:
            if j > i:
                both = value(unit[i] + unit[j]) + value(-unit[i] - unit[j])
                mixed = both - up[i] - down[i] - up[j] - down[j] + 2 * centre
                hessian[i, j] = hessian[j, i] = mixed / 2
    return gradient, hessian


def _newton(evaluate: _Objective, tau: float, prior: Prior, free: list[int]) -> tuple[float, Prior]:
    """One of Newton's steps, so that where the climb stopped early does not matter."""
    if not free:
        return tau, prior
    gradient, hessian = _differences(evaluate, tau, prior, free)
    part = np.ix_(free, free)
    values, vectors = np.linalg.eigh(-hessian[part])
    if values.min() < 1e-3:
        return tau, prior  # flat: there is no one maximum to go to
    step = np.zeros(3)
    step[free] = np.clip(vectors @ ((vectors.T @ gradient[free]) / values), -2, 2)
    moved_tau, moved = _moved(tau, prior, step * _steps(tau))
    mean = float(np.clip(moved.mean, *MEAN_RANGE))
    return moved_tau, Prior(mean, float(np.clip(moved.strength, *STRENGTH_RANGE)))


def _covariance(hessian: Floats, tau: float, free: list[int]) -> Floats:
    """Inverse of minus the Hessian, of (τ, logit m, log strength), zero where one is fixed."""
    covariance = np.zeros((3, 3))
    part = np.ix_(free, free)
    values, vectors = np.linalg.eigh(-hessian[part])
    # Flat directions: no wider than 30 steps (1.5 τ, 3 logits, e³ in strength).
    inverse = vectors @ np.diag(1 / np.maximum(values, 1 / 900)) @ vectors.T
    covariance[part] = inverse
    return covariance * np.outer(_steps(tau), _steps(tau))
