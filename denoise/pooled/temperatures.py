"""What is known where a few annotators leave the temperature open.

One annotator who is always right about a weak model looks much like one who is often wrong about a
strong one. What is known is then spread over temperatures that have nothing to do with each other,
and no expansion about the likeliest one sees it; here it is averaged over a grid of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from denoise.noise import Z95, log_odds
from denoise.pooled import bethe, kernels, marginal
from denoise.pooled import prior as population
from denoise.pooled.ballots import Ballots, Floats, over_pairs
from denoise.pooled.calibrate import RANGE, Calibration, root_mean_square
from denoise.pooled.solve import Parameters

FAR, STEPS = 50.0, 41
"""The grid goes from τ/50 to 50τ in so many steps, and in as many over four errors about τ."""


class Averaged(NamedTuple):
    """low, high: 95 % bounds of θ, [K]; variance: of θ, [K]; wrong, wrong_low, wrong_high: votes
    against the truth, expected and bounds; temperature: bounds of τ.
    """

    low: Floats
    high: Floats
    variance: Floats
    wrong: float
    wrong_low: float
    wrong_high: float
    temperature: tuple[float, float]


def average(votes: Ballots, at: Parameters, calibration: Calibration) -> Averaged:
    """Over temperatures, each by its marginal likelihood and the belief in it beforehand."""
    tau, prior = calibration.temperature, calibration.prior
    error = float(np.sqrt(calibration.covariance[0, 0])) / tau
    near = np.log(tau) + np.linspace(-4, 4, STEPS) * min(error, 1.0)
    far = np.log(tau) + np.linspace(-1, 1, STEPS) * np.log(FAR)
    grid = np.union1d(near, far)
    unit = np.log(root_mean_square(votes))
    if abs(np.log(tau) + unit) <= np.log(RANGE[1]):  # else τ was not fitted
        grid = grid[np.abs(grid + unit) <= np.log(RANGE[1])]
    net, beliefs = bethe.network(votes), None
    log_weight, theta, mass, wrong, sd = [], [], [], [], []
    for here in np.exp(grid):
        beliefs = bethe.propagate(net, float(here), prior, at, beliefs)
        log_weight.append(beliefs.value + population.log_belief(float(here)))
        nodes = marginal.quadrature(votes, beliefs.cavity, beliefs.parameters, prior)
        theta.append(nodes.theta)
        mass.append(nodes.posterior)
        mean, deviation = _wrong(votes, float(here), beliefs, nodes)
        wrong.append(mean)
        sd.append(deviation)
    weight = np.exp(np.array(log_weight) - logsumexp(log_weight)) * np.gradient(grid)
    weight /= weight.sum()
    theta, mass = np.concatenate(theta, axis=1), np.array(mass) * weight[:, None, None]
    mass = np.concatenate(list(mass), axis=1)
    mean = (mass * theta).sum(axis=1, keepdims=True)
    low, high = np.transpose([_quantiles(*each) for each in zip(theta, mass, strict=True)])
    # Each temperature's number of wrong votes is about normal.
    z = np.linspace(-Z95 * 2, Z95 * 2, STEPS)
    counts = np.array(wrong)[:, None] + np.array(sd)[:, None] * z
    spread = weight[:, None] * np.exp(-0.5 * z**2)
    wrong_low, wrong_high = _quantiles(counts.ravel(), spread.ravel() / spread.sum())
    return Averaged(
        low,
        high,
        (mass * (theta - mean) ** 2).sum(axis=1),
        float(weight @ np.array(wrong)),
        wrong_low,
        wrong_high,
        _quantiles(np.exp(grid), weight),
    )


def _quantiles(value: Floats, mass: Floats) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points of weighted values."""
    order = np.argsort(value, kind="stable")
    reached = np.cumsum(mass[order]) - mass[order] / 2
    low, high = np.interp([0.025, 0.975], reached, value[order])
    return float(low), float(high)


def _wrong(
    votes: Ballots, tau: float, beliefs: bethe.Beliefs, nodes: marginal.Nodes
) -> tuple[float, float]:
    """Mean and standard deviation of the number of wrong votes at a temperature."""
    arrays = (votes.start, votes.code, votes.known, beliefs.log_odds)
    mean = sum(over_pairs(votes, lambda f, e: kernels.wrong_pass(f, e, *arrays)))
    lam = beliefs.parameters.cells(votes)
    of_tau, of_wrong = np.zeros(len(lam)), np.zeros(len(lam))
    _, within = kernels.spread_pass(0, len(votes.margin), *votes.arrays, tau, lam, of_tau, of_wrong)
    centre = log_odds(nodes.mean)[:, None]
    variance = (nodes.posterior * (nodes.theta - centre) ** 2).sum(axis=1)
    # A θ far out moves the number no further than η moves.
    reach = np.minimum(variance, 4.0)
    return mean, float(np.sqrt(within + votes.by_annotator(of_wrong) ** 2 @ reach))
