"""The EM loop that all models share: E-step, M-step, and hyper-parameters between stages.

The objective is tempered: annotator k's whole factor, likelihood and prior, enters with a fixed
power c_k, so that correlated annotators weigh what they know together,

    F = Σ_j log Σ_t ρ_jt Π_i π_k(i)[t, l_i]^c_k(i) + Σ_k c_k log p(π_k | α) + Σ_t log ρ_t.

With c = 1 it is the usual log posterior. As c_k multiplies all that π_k occurs in, the M-step is
the untempered one: π_k ∝ expected votes + α. Priors are densities in log-odds (softmax)
coordinates, where a Dirichlet's mode is its mean; known answers restrict the sum over t.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, Self

import numpy as np

from denoise.crowd import kernels
from denoise.crowd.acceleration import extended, proposal
from denoise.crowd.answers import Answers, Codes, Floats, softmax
from denoise.pooled.ballots import SMALL, over

ClassPrior = Literal["learned", "uniform"]

TINY = 1e-300
"""Probabilities count as at least this where their logarithm is taken."""

ROUNDING = 1e-11
"""Share of itself by which the objective may seem to fall, as a sum over all votes rounds."""

CLASS_STRENGTH = 1.0
"""Each class counts as having one item more than it has: Dirichlet(1, …, 1) in log odds."""


class Annotators(Protocol):
    """A model of the annotators: parameters and hyper-parameters, immutable."""

    def confusion(self) -> Floats:
        """π, [K, C, C] (label, truth)."""

    def log_penalty(self) -> Floats:
        """log p(π_k | α) of each annotator, up to a constant in π, [K]."""

    def maximised(self, counts: Floats) -> Self:
        """Parameters after an M-step, given expected votes [K, C, C] (label, truth)."""

    def learned(self, counts: Floats) -> Self:
        """Hyper-parameters that make the expected votes likeliest, parameters integrated out."""

    def coordinates(self) -> Floats:
        """The parameters in log odds or as logarithms, [d]."""

    def moved(self, to: Floats) -> Self:
        """The model with its parameters at these coordinates, [d]."""


class Evidence(NamedTuple):
    """What is given besides the votes.

    power: c_k, [K]; known: class of each item or −1, [J], or of length 0; prior: probabilities of
    the classes for each item, [J, C], in place of one for all; class_prior: what that one is.
    """

    power: Floats
    known: Codes
    prior: Floats | None
    class_prior: ClassPrior

    def log_rho(self, class_prior: Floats) -> Floats:
        """log ρ, [J, C] or [1, C]."""
        rho = class_prior[None, :] if self.prior is None else self.prior
        return np.log(np.maximum(rho, TINY))

    @property
    def learns_classes(self) -> bool:
        """Whether the class prior is a parameter."""
        return self.class_prior == "learned" and self.prior is None


class Step(NamedTuple):
    """A trace row: the objective at the parameters that iteration's E-step used.

    It never falls within a `stage`, whose hyper-parameters are fixed; a stage begins with the
    iteration that ended the last one, under its own. max_change: of a posterior.
    """

    stage: int
    iteration: int
    objective: float
    max_change: float


class Point(NamedTuple):
    """What an E-step needs: the annotators, and the class prior [C]."""

    annotators: Annotators
    class_prior: Floats

    def coordinates(self, given: Evidence) -> Floats:
        """All parameters that are learned, in log odds or as logarithms, [d]."""
        own = self.annotators.coordinates()
        return np.concatenate([own, np.log(self.class_prior)]) if given.learns_classes else own

    def moved(self, to: Floats, given: Evidence) -> Self:
        """The point at these coordinates, [d], with the same hyper-parameters."""
        if not given.learns_classes:
            return self._replace(annotators=self.annotators.moved(to))
        n = len(self.class_prior)
        return Point(self.annotators.moved(to[:-n]), softmax(to[-n:], 0))


class Solution(NamedTuple):
    """annotators and class_prior [C] at the last E-step; posterior [J, C] and counts of it."""

    annotators: Annotators
    class_prior: Floats
    posterior: Floats
    counts: Floats
    trace: tuple[Step, ...]
    converged: bool


def evidence(
    votes: Answers,
    power: Floats | None = None,
    known: Codes | None = None,
    prior: Floats | None = None,
    class_prior: ClassPrior = "learned",
) -> Evidence:
    """Fill in the defaults: powers of 1, nothing known, one learned class prior for all items."""
    c = np.ones(votes.n_annotators) if power is None else np.asarray(power, np.float64)
    empty = np.empty(0, np.int64)
    codes = empty if known is None or np.all(known < 0) else np.asarray(known, np.int64)
    if prior is not None:
        prior = np.asarray(prior, np.float64)
        prior = prior / prior.sum(1, keepdims=True)
    return Evidence(c, codes, prior, class_prior)


def vote_shares(votes: Answers, given: Evidence, smoothing: float = 0.0) -> Floats:
    """Weighted share of each class among an item's votes, [J, C], smoothed towards its prior.

    `smoothing` votes are spread by the item's prior, or evenly; an item without votes has that.
    """
    even = np.full((1, votes.n_classes), 1.0 / votes.n_classes)
    spread = even if given.prior is None else given.prior
    arrays = (votes.start, votes.annotator, votes.label, given.power)
    shares = kernels.shares(*arrays, max(smoothing, 1e-12), spread)
    return pinned(shares, given.known)


def pinned(posterior: Floats, known: Codes) -> Floats:
    """The posterior with known answers in place, [J, C]."""
    if len(known):
        rows = np.flatnonzero(known >= 0)
        posterior[rows] = 0.0
        posterior[rows, known[rows]] = 1.0
    return posterior


def objective(
    votes: Answers, given: Evidence, annotators: Annotators, class_prior: Floats
) -> float:
    """F, nats (up to constants of the priors)."""
    scratch = np.empty((votes.n_items, votes.n_classes))
    return _e_step(votes, given, annotators, class_prior, scratch, scratch)[0]


def fit(
    votes: Answers,
    given: Evidence,
    annotators: Annotators,
    *,
    start: Floats | None = None,
    learn: bool = True,
    tolerance: float = 1e-5,
    max_iterations: int = 500,
    accelerate: bool = True,
) -> Solution:
    """EM from vote shares (or `start`, [J, C]) until no posterior moves by `tolerance` or more.

    With `learn`, the hyper-parameters are learned anew before every M-step, which begins a stage.
    With `accelerate`, Anderson's proposal takes the place of the M-step where the objective is no
    lower there than before; a step that is to end the iteration is always a plain one.
    """
    posterior = vote_shares(votes, given) if start is None else start.copy()
    other = np.empty_like(posterior)
    counts = _counts(votes, posterior)
    if learn:
        annotators = annotators.learned(counts)
    here = Point(annotators.maximised(counts), _class_prior(given, posterior.sum(0)))
    tally = votes.tally
    value, counts, classes, change = _e_step(votes, given, *here, posterior, posterior, tally)
    trace, path, stage, iteration, plain = [Step(0, 0, value, change)], None, 0, 0, True
    while not (converged := plain and change < tolerance) and iteration + 1 < max_iterations:
        iteration += 1
        annotators = here.annotators.learned(counts) if learn else here.annotators
        if learn:
            gain = annotators.log_penalty() - here.annotators.log_penalty()
            value, stage = value + float(given.power @ gain), stage + 1
            trace.append(Step(stage, iteration - 1, value, change))
        image = Point(annotators.maximised(counts), _class_prior(given, classes))
        path = extended(path, here.coordinates(given), image.coordinates(given))
        leap = proposal(path) if accelerate and change >= tolerance else None
        plain = leap is None
        if leap is not None:
            there = image.moved(leap, given)
            found = _e_step(votes, given, *there, posterior, other, tally)
            plain = not found[0] >= value - ROUNDING * abs(value)
        if plain:
            path = None if leap is not None else path
            there = image
            found = _e_step(votes, given, *there, posterior, other, tally)
        here, posterior, other = there, other, posterior
        value, counts, classes, change = found
        trace.append(Step(stage, iteration, value, change))
    return Solution(*here, posterior, counts, tuple(trace), converged)


def _counts(votes: Answers, posterior: Floats) -> Floats:
    arrays = (votes.start, votes.annotator, votes.label, posterior)
    return kernels.count(*arrays, votes.n_annotators)


def _class_prior(given: Evidence, classes: Floats) -> Floats:
    """M-step of ρ from the expected items of each class, [C].

    Learned, uniform, or the mean of the items' own (for the report only).
    """
    if given.prior is not None:
        return given.prior.mean(0)
    if given.class_prior == "uniform":
        return np.full(len(classes), 1.0 / len(classes))
    share = classes + CLASS_STRENGTH
    return share / share.sum()


def _e_step(
    votes: Answers,
    given: Evidence,
    annotators: Annotators,
    class_prior: Floats,
    before: Floats,
    posterior: Floats,
    tally: Floats | None = None,
) -> tuple[float, Floats, Floats, float]:
    """Fill `posterior`; F, the expected votes [K, C, C] and items [C], the change since `before`.

    `before` may be `posterior` itself; `tally`, the votes', is counted where it is not given.
    """
    log_pi = np.log(np.maximum(annotators.confusion(), TINY))
    evidence = (given.power[:, None, None] * log_pi).reshape(-1, votes.n_classes)
    binary = votes.n_classes == 2
    facts = (given.log_rho(class_prior), given.known, before, posterior)
    if binary:
        run, evidence, base = kernels.e_pass_binary, evidence[:, 1] - evidence[:, 0], evidence[:, 0]
    else:
        run = kernels.e_pass

    def work(first: int, last: int) -> tuple[Floats, Floats, float, float]:
        sums = np.zeros(evidence.shape), np.zeros(votes.n_classes)
        return *sums, *run(first, last, votes.start, votes.cell, evidence, *facts, *sums)

    threads = votes.threads if len(votes.cell) > SMALL else 1
    *sums, changes = zip(*over(votes.n_items, threads, work), strict=True)
    counts, classes, value = (sum(of_ranges[1:], of_ranges[0]) for of_ranges in sums)
    if binary:
        tally = (votes.tally if tally is None else tally).ravel()
        value += float(tally @ base)
        counts = np.stack([tally - counts, counts], 1)
        counts = np.maximum(counts, 0.0)  # a difference may round to just below 0
    value += float(given.power @ annotators.log_penalty())
    if given.learns_classes:
        value += CLASS_STRENGTH * float(np.log(class_prior).sum())
    return value, counts.reshape(log_pi.shape), classes, max(changes)
