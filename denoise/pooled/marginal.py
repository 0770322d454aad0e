"""How likely the votes are at a temperature and a prior, with every reliability integrated out.

Maximising the temperature together with the reliabilities is biased where annotators are few or
have few votes; what is maximised is this marginal likelihood. Given the others, a vote's likelihood
is Pη + (1−P)(1−η) with P the probability that it is right by all but itself (its cavity), so each
annotator is an integral over one η: exact where no pair has two votes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from denoise.noise import log_odds, sigmoid
from denoise.pooled import kernels, solve
from denoise.pooled import prior as population
from denoise.pooled.ballots import SMALL, Ballots, Floats, over
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters

NODES = 24
"""Nodes of an integral over η: exact for annotators with up to 2·24 − 1 votes."""

FEW = 2 * NODES - 1
"""Votes up to which the integral uses the prior's own nodes; beyond, those of a normal at θ."""

DENSE = 256
"""Annotators up to which their information matrix is made as a whole for every evaluation."""


class Cavities(NamedTuple):
    """The votes cell by cell: `ends` [C + 1], and P of each vote, [n], without cells left out."""

    ends: np.ndarray
    probability: Floats


def cavities(
    votes: Ballots, tau: float, lam: Floats, annotators: np.ndarray | None = None
) -> Cavities:
    """P(each vote is right) by its pair's evidence and the other votes on it.

    Only for the votes of `annotators` (codes) where they are given.
    """
    wanted = np.ones(len(lam), bool)
    if annotators is not None:
        wanted = np.isin(votes.annotator, annotators)
    counts = np.where(wanted, votes.votes, 0.0)
    ends = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    out = np.empty(ends[-1])
    kernels.cavity_pass(*votes.arrays, tau, lam, wanted, ends[:-1].copy(), out)
    return Cavities(ends, out)


def cell_nodes(votes: Ballots, at: Parameters, theta: Floats, annotators: np.ndarray) -> Floats:
    """η of the annotators' cells at `theta` [m, Q], [m · L, Q]."""
    shift = np.tile(at.delta, len(annotators))[:, None] if votes.n_levels > 1 else 0.0
    theta = np.repeat(theta, votes.n_levels, axis=0) + shift
    return sigmoid(np.clip(theta, -solve.LIMIT, solve.LIMIT))


def log_ratios(
    votes: Ballots, cavity: Cavities, at: Parameters, theta: Floats, annotators: np.ndarray
) -> Floats:
    """log of the annotators' likelihood at `theta` [m, Q] over that at their own θ, [m, Q]."""
    cells = (annotators[:, None] * votes.n_levels + np.arange(votes.n_levels)).ravel()
    nodes = cell_nodes(votes, at, theta, annotators)
    out = np.zeros(nodes.shape)
    begin, end = cavity.ends[cells], cavity.ends[cells + 1]
    rest = (cavity.probability, sigmoid(at.cells(votes))[cells], nodes, out)
    threads = votes.threads if len(votes.code) > SMALL else 1
    over(len(cells), threads, lambda f, e: kernels.node_pass(f, e, begin, end, *rest))
    return out.reshape(len(annotators), votes.n_levels, -1).sum(axis=1)


class Coupling(NamedTuple):
    """Information about θ = logit η, the prior's part included.

    own: its diagonal, [K]; matrix: the whole, [K, K], up to `dense` annotators, else None; second:
    what the others add to the variance, first order, as a share of 1/own, [K]; prior: the part of
    `own` that is the prior's, [K].
    """

    own: Floats
    matrix: Floats | None
    second: Floats
    prior: Floats

    @property
    def log_determinant_excess(self) -> float:
        """log det of the matrix less Σ log of its diagonal."""
        if self.matrix is None:
            return float(-0.5 * self.second.sum())
        sign, value = np.linalg.slogdet(self.matrix)
        return float(value - np.log(self.own).sum()) if sign > 0 else 0.0

    def solve(self, right: Floats) -> Floats:
        """The inverse of the information times `right`, [K] or [K, m]; of its diagonal if large."""
        if self.matrix is None:
            return (right.T / self.own).T
        return np.linalg.solve(self.matrix, right)

    def variance(self) -> Floats:
        """Diagonal of the inverse, [K]."""
        if self.matrix is None:
            return (1.0 + self.second) / self.own
        return np.diag(np.linalg.inv(self.matrix)).copy()


def coupling(
    votes: Ballots, tau: float, at: Parameters, prior: Prior, dense: int = DENSE
) -> Coupling:
    """Louis' formula: complete information less Σ_j q(1−q)v_j v_jᵀ, on the logit scale.

    T. A. Louis, J. R. Stat. Soc. B 44 (1982). A pair's votes are linear in each η, so nothing else
    is missing. Shifts by strength are held fixed.
    """
    lam = at.cells(votes)
    eta = sigmoid(lam)
    population_eta = sigmoid(at.theta)
    _, q = solve.posterior(votes, tau, at)
    complete = votes.by_annotator(votes.votes * eta * (1.0 - eta))
    shrinkage = prior.strength * population_eta * (1.0 - population_eta)
    n_annotators = votes.n_annotators
    group = np.asarray(votes.annotator)
    if n_annotators <= dense:
        missing = np.zeros((n_annotators, n_annotators))
        kernels.coupling_pass(votes.start, votes.code, q, group, missing)
        matrix = np.diag(complete + shrinkage) - missing
        matrix[np.diag_indices(n_annotators)] = own = _positive(np.diag(matrix), shrinkage)
        return Coupling(own, matrix, np.zeros(n_annotators), shrinkage)
    own, second = np.zeros(n_annotators), np.zeros(n_annotators)
    precision = np.maximum(complete + shrinkage, 1e-9)
    kernels.own_coupling_pass(votes.start, votes.code, q, group, precision, own, second)
    diagonal = _positive(complete + shrinkage - own, shrinkage)
    return Coupling(diagonal, None, second / diagonal, shrinkage)


def _positive(diagonal: Floats, shrinkage: Floats) -> Floats:
    """No less than a sliver of the prior's part, which rounding or a saddle may undercut."""
    return np.maximum(diagonal, np.maximum(1e-3 * shrinkage, 1e-12))


class Nodes(NamedTuple):
    """Quadrature of each annotator's η with the others held fixed.

    theta: logit η at the nodes, [K, Q]; log_mass: log of weight × prior × likelihood there, the
    likelihood relative to that at the annotator's own θ, [K, Q].
    """

    theta: Floats
    log_mass: Floats


def quadrature(votes: Ballots, tau: float, at: Parameters, prior: Prior, spread: Coupling) -> Nodes:
    """The prior's own nodes for annotators with up to `FEW` votes, else a normal's about θ."""
    inner = prior.integrable
    few = (votes.by_annotator(votes.votes) <= FEW)[:, None]
    sd = np.minimum(1.0 / np.sqrt(spread.own), 3.0)[:, None]
    eta, weights = population.beta_nodes(inner, NODES)
    x, hermite = np.polynomial.hermite.hermgauss(NODES)
    theta = np.where(few, log_odds(eta), at.theta[:, None] + np.sqrt(2) * sd * x)
    theta = np.clip(theta, -solve.LIMIT, solve.LIMIT)
    normal = np.log(hermite) + x**2 + np.log(np.sqrt(2) * sd)
    normal = normal + population.log_density(sigmoid(theta), inner)
    with np.errstate(divide="ignore"):  # a weight may round to 0
        weight = np.where(few, np.log(weights), normal)
    cavity = cavities(votes, tau, at.cells(votes))
    every = np.arange(votes.n_annotators)
    return Nodes(theta, weight + log_ratios(votes, cavity, at, theta, every))


def log_marginal(votes: Ballots, tau: float, at: Parameters, prior: Prior) -> float:
    """log ∫ L(votes | τ, η) Π Beta(η_k; a, b) dη, nats, about the maximum `at` of `solve.fit`.

    Each annotator's integral is by quadrature with the others held at `at`; how the annotators
    hang together is added by the determinant of the information (Laplace).
    """
    _, likelihood = solve.expectation(votes, tau, at.cells(votes))
    spread = coupling(votes, tau, at, prior)
    integrals = logsumexp(quadrature(votes, tau, at, prior, spread).log_mass, axis=1)
    together = float(integrals.sum()) - 0.5 * spread.log_determinant_excess
    return likelihood - solve.evidence_term(votes, tau) + together


def draws(nodes: Nodes, n: int, order: np.ndarray, seed: int = 0) -> Floats:
    """θ of all annotators `n` times, each evenly spread over its own posterior, [n, K].

    A Latin hypercube over the nodes. The annotators take their random numbers in `order` [K], by
    something that is theirs, so that it does not matter how they are called.
    """
    generator = np.random.default_rng(seed)
    n_annotators = len(nodes.theta)
    out = np.empty((n, n_annotators))
    by_theta = np.argsort(nodes.theta, axis=1, kind="stable")
    theta = np.take_along_axis(nodes.theta, by_theta, axis=1)
    log_mass = np.take_along_axis(nodes.log_mass, by_theta, axis=1)
    mass = np.exp(log_mass - logsumexp(log_mass, axis=1, keepdims=True))
    reached = np.cumsum(mass, axis=1)
    for k in order:
        quantiles = (generator.permutation(n) + generator.random()) / n
        where = np.searchsorted(reached[k], quantiles * reached[k, -1])
        out[:, k] = theta[k, np.minimum(where, theta.shape[1] - 1)]
    return out
