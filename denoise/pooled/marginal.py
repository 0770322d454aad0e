"""How likely the votes are at a temperature and a prior, with every reliability integrated out.

Maximising the temperature together with the reliabilities is biased where annotators are few or
have few votes; what is maximised is this marginal likelihood. Given the others, a vote's likelihood
is Pη + (1−P)(1−η) with P the probability that it is right by all but itself (its cavity), so each
annotator is an integral over one η: exact where no pair has two votes.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from denoise.noise import log_odds, sigmoid
from denoise.pooled import kernels, solve
from denoise.pooled import prior as population
from denoise.pooled.ballots import SMALL, Ballots, Floats, Votes, added, over
from denoise.pooled.prior import Prior, Shrinkage
from denoise.pooled.solve import Parameters

NODES = 24
"""Nodes of an integral over η: exact for annotators with up to 2·24 − 1 votes."""

FEW = 2 * NODES - 1
"""Votes up to which the integral uses the prior's own nodes; beyond, those of a normal at θ."""

NEWTON = 30
"""Steps to the mode of a posterior at most."""

PLENTY = 4096
"""Votes beyond which whether an annotator guesses is read off its η, without an integral."""

CHUNK = 4096
"""Annotators whose nodes are in memory at a time: few enough for a processor's cache."""

DENSE = 256
"""Annotators up to which their information matrix is made as a whole for every evaluation."""


class Cavities(NamedTuple):
    """The votes cell by cell: `ends` [C + 1], and P of each vote, [n], without cells left out."""

    ends: np.ndarray
    probability: Floats


def cavities(
    votes: Ballots, tau: float, lam: Floats, annotators: np.ndarray | None = None
) -> Cavities:
    """P(each vote is right) by its pair's evidence and the other votes on it; to be held.

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


def cells_of(votes: Votes, annotators: np.ndarray) -> np.ndarray:
    """The cells of the annotators, each one's strengths together, [m · L]."""
    return (annotators[:, None] * votes.n_levels + np.arange(votes.n_levels)).ravel()


def chunks(annotators: np.ndarray) -> list[np.ndarray]:
    """The annotators, `CHUNK` at a time."""
    return np.array_split(annotators, max(1, -(-len(annotators) // CHUNK)))


def votes_of(votes: Votes, annotators: np.ndarray) -> Floats:
    """Number of votes of each of the annotators, [m]."""
    return votes.votes[cells_of(votes, annotators)].reshape(-1, votes.n_levels).sum(axis=1)


def cell_nodes(votes: Votes, at: Parameters, theta: Floats, annotators: np.ndarray) -> Floats:
    """η of the annotators' cells at `theta` [m, Q], [m · L, Q]."""
    shift = np.tile(at.delta, len(annotators))[:, None] if votes.n_levels > 1 else 0.0
    theta = np.repeat(theta, votes.n_levels, axis=0) + shift
    return sigmoid(np.clip(theta, -solve.LIMIT, solve.LIMIT))


def log_likelihoods(
    votes: Votes, cavity: Cavities, at: Parameters, theta: Floats, annotators: np.ndarray
) -> Floats:
    """log of the annotators' likelihood at `theta` [m, Q], given their votes' cavities, [m, Q]."""
    return _likelihoods(votes, cavity, cell_nodes(votes, at, theta, annotators), annotators)


def _likelihoods(votes: Votes, cavity: Cavities, nodes: Floats, annotators: np.ndarray) -> Floats:
    """The same at nodes of the cells, [m · L, Q]."""
    out = added(votes.each(_at_nodes, cavity, cells_of(votes, annotators), nodes))
    return out.reshape(len(annotators), votes.n_levels, -1).sum(axis=1)


def _at_nodes(part: Ballots, cavity: Cavities, cells: np.ndarray, nodes: Floats) -> Floats:
    out = np.zeros(nodes.shape)
    begin, end = cavity.ends[cells], cavity.ends[cells + 1]
    rest = (begin, end, cavity.probability, nodes, out)
    threads = part.threads if (end - begin).sum() > SMALL else 1
    over(len(cells), threads, lambda f, e: kernels.node_pass(f, e, *rest))
    return out


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
    votes: Votes, tau: float, at: Parameters, prior: Prior | Shrinkage, dense: int = DENSE
) -> Coupling:
    """Louis' formula: complete information less Σ_j q(1−q)v_j v_jᵀ, on the logit scale.

    T. A. Louis, J. R. Stat. Soc. B 44 (1982). A pair's votes are linear in each η, so nothing else
    is missing. Shifts by strength are held fixed.
    """
    lam = at.cells(votes)
    eta = sigmoid(lam)
    population_eta = sigmoid(at.theta)
    q = votes.hold(solve.posterior, tau, at)
    complete = votes.by_annotator(votes.votes * eta * (1.0 - eta))
    shrinkage = prior.strength * population_eta * (1.0 - population_eta)
    n_annotators = votes.n_annotators
    if n_annotators <= dense:
        missing = added(votes.each(_missing, q))
        matrix = np.diag(complete + shrinkage) - missing
        matrix[np.diag_indices(n_annotators)] = own = _positive(np.diag(matrix), shrinkage)
        return Coupling(own, matrix, np.zeros(n_annotators), shrinkage)
    precision = np.maximum(complete + shrinkage, 1e-9)
    own, second = added(votes.each(_own_missing, q, precision))
    diagonal = _positive(complete + shrinkage - own, shrinkage)
    return Coupling(diagonal, None, second / diagonal, shrinkage)


def _missing(part: Ballots, q: Floats) -> Floats:
    """The information that is missing, [K, K]."""
    missing = np.zeros((part.n_annotators, part.n_annotators))
    kernels.coupling_pass(part.start, part.code, q, np.asarray(part.annotator), missing)
    return missing


def _own_missing(part: Ballots, q: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """Its diagonal, and what the others add, [K] each."""
    own, second = np.zeros(part.n_annotators), np.zeros(part.n_annotators)
    group = np.asarray(part.annotator)
    kernels.own_coupling_pass(part.start, part.code, q, group, precision, own, second)
    return own, second


def _positive(diagonal: Floats, shrinkage: Floats) -> Floats:
    """No less than a sliver of the prior's part, which rounding or a saddle may undercut."""
    return np.maximum(diagonal, np.maximum(1e-3 * shrinkage, 1e-12))


class Nodes(NamedTuple):
    """Quadrature of each annotator's η with the others held fixed.

    theta: logit η at the nodes, [K, Q]; eta: η of the cells there, [K · L, Q]; guesses: P(of a
    guesser) there, [K, Q]; posterior: P(each node), [K, Q]; log_integral: log of the marginal
    likelihood, [K].
    """

    theta: Floats
    eta: Floats
    guesses: Floats
    posterior: Floats
    log_integral: Floats

    @property
    def mean(self) -> Floats:
        """E[η], [K]."""
        eta = self.eta if len(self.eta) == len(self.theta) else sigmoid(self.theta)
        return np.einsum("kn,kn->k", self.posterior, eta)

    @property
    def share(self) -> Floats:
        """P(each annotator guesses), [K]."""
        return np.einsum("kn,kn->k", self.posterior, self.guesses)

    def of(self, chosen: np.ndarray) -> Nodes:
        """Those of some annotators, [K] bool."""
        cells = np.repeat(chosen, len(self.eta) // max(len(self.theta), 1))
        return Nodes(
            self.theta[chosen],
            self.eta[cells],
            self.guesses[chosen],
            self.posterior[chosen],
            self.log_integral[chosen],
        )


def modes(
    votes: Votes, cavity: Cavities, at: Parameters, prior: Prior, annotators: np.ndarray
) -> tuple[Floats, Floats]:
    """Where the annotators' posteriors of θ peak, [m], and the sd of a normal that fits there.

    By Newton's method from `at`, in steps of no more than 1.
    """
    theta = at.theta[annotators]
    cells = cells_of(votes, annotators)
    n = votes_of(votes, annotators)
    for _ in range(NEWTON):
        eta = cell_nodes(votes, at, theta[:, None], annotators)[:, 0]
        slope, bend = added(votes.each(_bends, cavity, cells, eta))
        own = sigmoid(theta)
        pull = prior.shrinkage(population.guesses(own, prior))
        slope = slope.reshape(-1, votes.n_levels).sum(axis=1) + pull.a - pull.strength * own
        bend = bend.reshape(-1, votes.n_levels).sum(axis=1)
        bend = np.maximum(bend, 0.02 * n * own * (1 - own)) + pull.strength * own * (1 - own)
        sd = 1.0 / np.sqrt(np.maximum(bend, 1e-9))
        step = np.clip(slope * sd**2, -1.0, 1.0)
        theta = np.clip(theta + step, -solve.LIMIT, solve.LIMIT)
        if (np.abs(step) <= 0.05 * sd).all():
            break
    return theta, np.minimum(sd, 3.0)


def _bends(
    part: Ballots, cavity: Cavities, cells: np.ndarray, eta: Floats
) -> tuple[Floats, Floats]:
    slope, bend = np.empty(len(cells)), np.empty(len(cells))
    begin, end = cavity.ends[cells], cavity.ends[cells + 1]
    rest = (begin, end, cavity.probability, eta, slope, bend)
    threads = part.threads if (end - begin).sum() > SMALL else 1
    over(len(cells), threads, lambda f, e: kernels.bend_pass(f, e, *rest))
    return slope, bend


@cache
def _hermite(n: int) -> tuple[Floats, Floats]:
    return np.polynomial.hermite.hermgauss(n)


def quadrature(
    votes: Votes,
    cavity: Cavities,
    at: Parameters,
    prior: Prior,
    annotators: np.ndarray | None = None,
) -> Nodes:
    """The prior's own nodes for annotators with up to `FEW` votes, else a normal's at the mode.

    The mode is looked for from `at`. Only for `annotators` (codes) where they are given.
    """
    who = np.arange(votes.n_annotators) if annotators is None else annotators
    inner = prior.integrable
    own = population.nodes(inner, NODES)
    with np.errstate(divide="ignore"):  # a weight may round to 0
        nodes = log_odds(own.eta), own.guesses, np.log(own.weight)
    theta, guesses, weight = (np.broadcast_to(x, (len(who), len(x))) for x in nodes)
    many = votes_of(votes, who) > FEW
    if many.any():
        theta, guesses, weight = theta.copy(), guesses.copy(), weight.copy()
        centre, sd = modes(votes, cavity, at, inner, who[many])
        x, hermite = _hermite(len(own.eta))
        wide = np.sqrt(2) * sd[:, None]
        theta[many] = np.clip(centre[:, None] + wide * x, -solve.LIMIT, solve.LIMIT)
        eta = sigmoid(theta[many])
        guesses[many] = population.guesses(eta, inner)
        weight[many] = np.log(hermite) + x**2 + np.log(wide)
        weight[many] += population.log_density(eta, inner)
    if votes.n_levels == 1 and not many.any():
        eta = np.tile(own.eta, (len(who), 1))
    else:
        eta = cell_nodes(votes, at, theta, who)
    mass = weight + _likelihoods(votes, cavity, eta, who)
    highest = mass.max(axis=1, keepdims=True)
    mass -= highest
    np.exp(mass, out=mass)
    total = mass.sum(axis=1, keepdims=True)
    mass /= total
    return Nodes(theta, eta, guesses, mass, (highest + np.log(total))[:, 0])


def guessers(votes: Votes, tau: float, at: Parameters, prior: Prior) -> Floats:
    """P(each annotator guesses), [K], its η integrated out and the others held at `at`."""
    if prior.guessers == 0:
        return np.zeros(votes.n_annotators)
    found = population.guesses(sigmoid(at.theta), prior)
    who = np.flatnonzero(votes.by_annotator(votes.votes) <= PLENTY)
    if not len(who):
        return found

    def shares() -> Floats:
        cavity = votes.hold(cavities, tau, at.cells(votes), who)
        parts = (quadrature(votes, cavity, at, prior, part).share for part in chunks(who))
        return np.concatenate(list(parts))

    found[who] = votes.again(shares)
    return found
