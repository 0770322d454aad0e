"""Enhanced Bayesian classifier combination: every class is a mixture of subtypes of items.

Items of one class may be easy or misleading, so that errors on them go together. Given its
subtype s (of class t) an item's votes are independent, with confusions of that subtype:

    t ~ τ,  s ~ ω_t,  label ~ π_k[s, ·],
    τ ~ Dirichlet(1, …, 1),  ω_t ~ Dirichlet(a/M, …, a/M),  π_k[s, ·] ~ Dirichlet(β[·, t(s)]).

β favours the diagonal in every subtype, which ties the subtypes to their classes; a sparse ω
empties those not needed, which leaves Dawid–Skene. Mean-field variational Bayes, and of several
random starts the one with the highest bound (Li, Rubinstein & Cohn, *Exploiting Worker Correlation
for Label Aggregation in Crowdsourcing*, ICML 2019; a and β as there). Known answers, priors of
items and powers of annotators enter as in `em`: with powers c the bound is

    Σ_j log Σ_s exp(E log τω + Σ_i c_k(i) E log π_k(i)[s, l_i]) − KL(τ, ω) − Σ_k c_k KL(π_k).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaln

from denoise.crowd import em, kernels
from denoise.crowd.answers import Answers, Codes, Floats
from denoise.crowd.em import Evidence
from denoise.pooled.ballots import SMALL, over

N_SUBTYPES = 4
"""Subtypes of each class, M: from 3 on their number changes little, as spare ones stay empty."""

SPARSITY = 0.1
"""a: sum of the Dirichlet parameters of a class's subtypes."""

RIGHT, WRONG = 4.0, 1.0
"""β: votes that the prior of a confusion weighs, on the diagonal and elsewhere."""

TRIAL, GAIN = 20, 0.1
"""Iterations by which a move of a subtype must have raised the bound, and by how many nats."""


class Subtypes(NamedTuple):
    """Dirichlet parameters of the posterior; S = C·M subtypes, those of a class together.

    mu: of π, [K, C, S] (label, subtype); eta: of ω, [C, M]; nu: of τ, [C]; share: P(subtype),
    [J, S]; posterior: P(truth), [J, C]; bound: of the log likelihood by iteration, nats.
    """

    mu: Floats
    eta: Floats
    nu: Floats
    share: Floats
    posterior: Floats
    bound: tuple[float, ...]
    converged: bool


def subtypes(
    votes: Answers,
    given: Evidence,
    *,
    n_subtypes: int = N_SUBTYPES,
    n_starts: int = 1,
    move: bool = False,
    tolerance: float = 1e-3,
    max_iterations: int = 500,
) -> Subtypes:
    """The best of `n_starts`, each run until no item's share moves by `tolerance` or more.

    A start spreads every item's vote shares over the subtypes at random, alike in all classes;
    the random numbers are always the same. A run seldom takes a subtype to another class, though
    the bound may be much higher there: with `move` this is tried, the largest subtype first, for
    as long as it raises the bound.
    """
    runs = (
        _run(votes, given, _start(votes, given, n_subtypes, seed), tolerance, max_iterations)
        for seed in range(n_starts)
    )
    best = max(runs, key=lambda run: run.bound[-1])
    while move:
        trials = (_run(votes, given, q, tolerance, TRIAL) for q in _moved(best))
        better = next((run for run in trials if run.bound[-1] > best.bound[-1] + GAIN), None)
        if better is None:
            break
        best = _run(votes, given, better.share, tolerance, max_iterations)
    return best


def left_out(votes: Answers, given: Evidence, fitted: Subtypes) -> Floats:
    """log P(vote | the item's other votes) at the mean parameters, [n]; nothing is discounted."""
    probability = fitted.mu / fitted.mu.sum(1, keepdims=True)
    within = fitted.eta / fitted.eta.sum(1, keepdims=True)
    uniform = np.full(votes.n_classes, 1.0 / votes.n_classes)
    rho = fitted.nu / fitted.nu.sum() if given.learns_classes else uniform
    return kernels.left_out(
        votes.start,
        votes.annotator,
        votes.label,
        probability,
        given.power[:, None, None] * np.log(probability),
        _joint(given.log_rho(rho), np.log(within)),
        0.0,
    )


def _start(votes: Answers, given: Evidence, n_subtypes: int, seed: int) -> Floats:
    """Responsibilities, [J, S]."""
    spread = np.random.default_rng(seed).dirichlet(np.ones(n_subtypes), votes.n_items)
    shares = em.vote_shares(votes, given)
    return (shares[:, :, None] * spread[:, None, :]).reshape(
        len(spread), shares.shape[1] * n_subtypes
    )


def _run(
    votes: Answers, given: Evidence, q: Floats, tolerance: float, max_iterations: int
) -> Subtypes:
    n_classes = votes.n_classes
    shape = (n_classes, q.shape[1] // n_classes)
    eye = np.eye(n_classes)
    beta = np.repeat(RIGHT * eye + WRONG * (1.0 - eye), shape[1], axis=1)[None]
    sparse, flat = np.full(shape, SPARSITY / shape[1]), np.ones(n_classes)
    counts = _counts(votes, q)
    bound: list[float] = []
    converged = False
    for _ in range(max_iterations):
        share = q.sum(0).reshape(shape)
        mu, eta, nu = beta + counts, sparse + share, flat + share.sum(1)
        log_pi, log_omega, log_tau = _mean_log(mu), _mean_log(eta), _mean_log(nu, 0)
        apart = _divergence(mu, beta, log_pi).sum(1) @ given.power
        apart += _divergence(eta, sparse, log_omega).sum()
        if given.learns_classes:
            apart += _divergence(nu, flat, log_tau, 0)
        elif given.prior is None:
            log_tau = np.full(n_classes, -np.log(n_classes))
        log_prior = _joint(given.log_rho(np.exp(log_tau)), log_omega)
        evidence = (given.power[:, None, None] * log_pi).reshape(-1, q.shape[1])
        log_prior = _only_known(log_prior, given.known, shape)
        change, likelihood, counts = _e_step(votes, evidence, log_prior, q)
        bound.append(likelihood - float(apart))
        converged = change < tolerance
        if converged:
            break
    posterior = em.pinned(q.reshape(len(q), *shape).sum(2), given.known)
    posterior /= posterior.sum(1, keepdims=True)
    return Subtypes(mu, eta, nu, q, posterior, tuple(bound), bool(converged))


def _e_step(
    votes: Answers, evidence: Floats, log_prior: Floats, q: Floats
) -> tuple[float, float, Floats]:
    """Fill `q` [J, S]; its largest change, Σ_j log of the sums, expected votes [K, C, S]."""
    nothing_known = np.empty(0, np.int64)

    def work(first: int, last: int) -> tuple[Floats, float, float]:
        counts, classes = np.zeros(evidence.shape), np.zeros(q.shape[1])
        facts = (log_prior, nothing_known, q, q, counts, classes)
        return counts, *kernels.e_pass(first, last, votes.start, votes.cell, evidence, *facts)

    threads = votes.threads if len(votes.cell) > SMALL else 1
    counts, totals, changes = zip(*over(votes.n_items, threads, work), strict=True)
    shape = (votes.n_annotators, votes.n_classes, q.shape[1])
    return max(changes), sum(totals), sum(counts[1:], counts[0]).reshape(shape)


def _moved(fitted: Subtypes) -> Iterator[Floats]:
    """Shares with a subtype of at least one item in the place of the emptiest of another class."""
    n_classes, m = fitted.eta.shape
    size = fitted.share.sum(0)
    for s in np.argsort(-size, kind="stable"):
        for t in range(n_classes) if size[s] >= 1.0 else ():
            if t != s // m:
                to = t * m + int(size[t * m : (t + 1) * m].argmin())
                q = fitted.share.copy()
                q[:, [s, to]] = q[:, [to, s]]
                yield q


def _counts(votes: Answers, q: Floats) -> Floats:
    """Expected votes by annotator, label and subtype, [K, C, S]."""
    size = votes.n_annotators * votes.n_classes
    columns = [np.bincount(votes.cell, q[votes.item, s], size) for s in range(q.shape[1])]
    return np.stack(columns, 1).reshape(votes.n_annotators, votes.n_classes, q.shape[1])


def _joint(classes: Floats, within: Floats) -> Floats:
    """Sums of a row for each class, [J or 1, C], and its subtypes, [C, M]: [J or 1, S]."""
    return (classes[:, :, None] + within).reshape(len(classes), within.size)


def _only_known(log_prior: Floats, known: Codes, shape: tuple[int, int]) -> Floats:
    """−∞ for subtypes of classes that a known answer rules out, [J or 1, S]."""
    if not len(known):
        return log_prior
    out = np.repeat(np.arange(shape[0]), shape[1]) != known[:, None]
    return np.where(out & (known >= 0)[:, None], -np.inf, log_prior)


def _mean_log(alpha: Floats, axis: int = 1) -> Floats:
    """E log p where p ~ Dirichlet(alpha) along the axis."""
    return digamma(alpha) - digamma(alpha.sum(axis, keepdims=True))


def _divergence(alpha: Floats, prior: Floats, mean_log: Floats, axis: int = 1) -> Floats:
    """KL(Dirichlet(alpha) ‖ Dirichlet(prior)) along the axis, nats; `mean_log` is of alpha."""
    apart = gammaln(alpha.sum(axis)) - gammaln(prior.sum(axis))
    return apart + (gammaln(prior) - gammaln(alpha) + (alpha - prior) * mean_log).sum(axis)
