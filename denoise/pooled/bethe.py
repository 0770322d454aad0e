"""How likely the votes are at a temperature and a population, every reliability integrated out.

Maximising the temperature together with the reliabilities is biased where annotators are few or
have few votes; what is maximised is this marginal likelihood. It is exact where no pair has two
votes. Else annotators and pairs send each other what they know but for the vote between them, until
nothing moves (belief propagation; for crowds: Liu, Peng & Ihler, NeurIPS 2012), and the likelihood
is Bethe's (Yedidia, Freeman & Weiss, IEEE Trans. Inf. Theory 51, 2005). As that is stationary in
the messages, its slopes are those at fixed messages.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denoise.noise import log_odds, sigmoid
from denoise.pooled import kernels, marginal, solve
from denoise.pooled import prior as population
from denoise.pooled.ballots import SMALL, Ballots, Floats, Votes, added, over, over_pairs
from denoise.pooled.marginal import Cavities, Nodes
from denoise.pooled.maximum import untold
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Fit, Parameters, Step

SWEEPS = 50
"""Rounds of messages at most, and four times as many for the result."""

REST = 1e-3
"""Change of a message within which the result is used all the same."""

FREE, KEPT = 10, 0.5
"""After so many sweeps a message keeps that share of what it was, which stops oscillations."""

STILL = 1e-4
"""Change of a message, as a probability, that is none: what it does to the value is its square."""

SLOPE = 1e-4
"""Step of the slopes in the prior's coordinates."""


class Beliefs(NamedTuple):
    """What the messages have come to.

    value: log marginal likelihood, nats; log_odds: s of each pair, [J]; message: log-odds that a
    vote is right by its annotator's other votes, [n] cell by cell; cavity: the same by its pair's
    other votes and the margin; nodes: the posteriors of annotators with more than `marginal.FEW`
    votes; parameters: each annotator's mean of η, as θ; guesses: P(each annotator guesses), [K].
    """

    value: float
    log_odds: Floats
    message: Floats
    cavity: Cavities
    nodes: Nodes
    parameters: Parameters
    guesses: Floats


class Network(NamedTuple):
    """Votes, and where each stands cell by cell: `slot` [n] int32, −1 for none; `ends` [C + 1].

    annotators: those whose votes have slots, codes.
    """

    votes: Ballots
    slot: np.ndarray
    ends: np.ndarray
    annotators: np.ndarray


def network(votes: Ballots, annotators: np.ndarray | None = None) -> Network:
    """Lay out the votes cell by cell, of all annotators or of some."""
    who = np.arange(votes.n_annotators) if annotators is None else annotators
    wanted = np.isin(votes.annotator, who)
    ends = np.concatenate(([0], np.cumsum(np.where(wanted, votes.votes, 0)))).astype(np.int64)
    return Network(votes, kernels.slots(votes.code, wanted, ends[:-1].copy()), ends, who)


class Messages(NamedTuple):
    """message, log_odds and cavity as in `Beliefs`, filled in place; to be held."""

    net: Network
    message: Floats
    log_odds: Floats
    cavity: Cavities


def messages(net: Network, message: Floats) -> Messages:
    """Room for what the pairs answer to these messages."""
    cavity = Cavities(net.ends, np.empty(len(message)))
    return Messages(net, message, np.empty(len(net.votes.margin)), cavity)


def propagate(
    net: Network,
    tau: float,
    prior: Prior,
    at: Parameters,
    before: Beliefs | None = None,
) -> Beliefs:
    """Messages to and fro until they are still, from those `before` or from the θ of `at`."""
    votes = net.votes
    if before is None:
        message = np.repeat(at.cells(votes), np.diff(net.ends))
    else:
        message, at = before.message.copy(), before.parameters
    sent = messages(net, message)
    for sweep in range(SWEEPS):
        _to_annotators(votes, sent, tau, at)
        told = _to_pairs(votes, sent, sent.cavity, net.annotators, prior, at, sweep)
        at = at._replace(theta=log_odds(told.mean))
        if told.change < STILL or votes.single:
            break
    last = sent._replace(cavity=Cavities(net.ends, np.empty(len(message))))
    pairs, _ = _to_annotators(votes, last, tau, at)
    value = pairs - solve.evidence_term(votes, tau) + told.value
    return Beliefs(value, sent.log_odds, message, sent.cavity, told.nodes, at, told.guesses)


class Integrated(NamedTuple):
    """A fit in which few votes are not taken for more than they are.

    log_odds: s of each pair, [J], held where the votes are.
    """

    fit: Fit
    log_odds: Floats
    trace: tuple[Step, ...]


def integrate(
    votes: Votes, tau: float, prior: Prior, fit: Fit, tolerance: float = 1e-6
) -> Integrated:
    """The fit with η integrated out for annotators with up to `marginal.FEW` votes.

    A maximum lets an annotator's own vote on a pair speak twice, for the side and for itself, which
    tells where votes are few. Those annotators send messages instead, until nothing moves by
    `tolerance`; the others take EM steps between. Without a prior, or where the messages do not
    come to rest, the fit stays as it is.
    """
    n = votes.by_annotator(votes.votes)
    who = np.flatnonzero((n > 0) & (n <= marginal.FEW))
    if not len(who) or prior.strength == 0 or untold(votes, tau):
        return Integrated(fit, votes.hold(solve.pair_log_odds, tau, fit.parameters), ())
    at, trace = fit.parameters, []
    sent = votes.hold(_first_messages, who, at)
    cavity = votes.hold(_cavity, sent)
    guesses = marginal.guessers(votes, tau, at, prior)
    for sweep in range(4 * SWEEPS):
        _, right = added(votes.each(_to_annotators, sent, tau, at))
        told = _to_pairs(votes, sent, cavity, who, prior, at, sweep)
        theta = solve.step_of_theta(votes, right, at, fit.shrinkage)
        theta[who] = log_odds(told.mean)
        theta[n == 0] = fit.parameters.theta[n == 0]
        change = max(told.change, np.abs(sigmoid(theta) - sigmoid(at.theta)).max())
        at = at._replace(theta=theta)
        trace.append(Step(sweep, None, change, float(sigmoid(theta).mean())))
        if change <= tolerance:
            break
    if change > REST:
        held = votes.hold(solve.pair_log_odds, tau, fit.parameters)
        return Integrated(fit, held, tuple(trace))
    votes.each(_to_annotators, sent, tau, at)
    guesses[who] = told.guesses
    shrunk = fit._replace(parameters=at, shrinkage=prior.shrinkage(guesses))
    return Integrated(shrunk, votes.hold(_log_odds, sent), tuple(trace))


def _first_messages(part: Ballots, annotators: np.ndarray, at: Parameters) -> Messages:
    net = network(part, annotators)
    return messages(net, np.repeat(at.cells(part), np.diff(net.ends)))


def _cavity(_: Ballots, sent: Messages) -> Cavities:
    return sent.cavity


def _log_odds(_: Ballots, sent: Messages) -> Floats:
    return sent.log_odds


def slope_of_temperature(net: Network, tau: float, beliefs: Beliefs) -> float:
    """∂/∂τ of the value: Σ_j Δ_j (q_j − σ(τΔ_j))."""
    votes = net.votes
    q = sigmoid(beliefs.log_odds)
    if len(votes.known):
        q = np.where(votes.known == 0, q, votes.known > 0)
    margin = votes.margin.astype(np.float64)
    return float(margin @ (q - sigmoid(tau * margin)))


def slope_of_prior(net: Network, prior: Prior, beliefs: Beliefs) -> Floats:
    """∂/∂(the prior's coordinates) of the value, [4].

    By differences at fixed messages where the nodes are the prior's own, which are not meant for
    integrals of log η.
    """
    few = net.votes.by_annotator(net.votes.votes) <= marginal.FEW
    eta = sigmoid(beliefs.nodes.theta)
    slopes = (beliefs.nodes.posterior * population.slopes(eta, prior)).sum(axis=(1, 2))
    if not few.any():
        return slopes
    who = np.flatnonzero(few)

    def integrals(shift: Floats) -> float:
        moved = Prior.at(prior.coordinates + shift)
        given = (net.votes, beliefs.cavity, beliefs.parameters, moved)
        parts = (marginal.quadrature(*given, part) for part in marginal.chunks(who))
        return sum(float(part.log_integral.sum()) for part in parts)

    steps = SLOPE * np.eye(len(slopes))
    by_step = [integrals(step) - integrals(-step) for step in steps]
    return slopes + np.array(by_step) / (2 * SLOPE)


def _to_annotators(
    part: Ballots, sent: Messages, tau: float, at: Parameters
) -> tuple[float, Floats]:
    """Fill `log_odds` and `cavity`; the pairs' part of the value, and Σw of cells without slots."""
    rest = (sent.message, at.cells(part), sent.log_odds, sent.cavity.probability)

    def work(first: int, last: int) -> tuple[float, Floats]:
        right = np.zeros(len(part.votes))
        arrays = (*part.arrays, sent.net.slot, tau, *rest, right)
        return kernels.message_pass(first, last, *arrays), right

    return added(over_pairs(part, work))


class _Told(NamedTuple):
    """What the messages to the pairs come from.

    mean: E[η], [m]; guesses: P(each annotator guesses), [m]; nodes: as in `Beliefs`; value: the
    annotators' part of it, and of the votes; change: the largest of a message.
    """

    mean: Floats
    guesses: Floats
    nodes: Nodes
    value: float
    change: float


def _to_pairs(
    votes: Votes,
    sent: Messages,
    cavity: Cavities,
    annotators: np.ndarray,
    prior: Prior,
    at: Parameters,
    sweep: int,
) -> _Told:
    """Fill `message`, half way after `FREE` sweeps; `sent` and its `cavity` are held."""
    kept = KEPT if sweep >= FREE else 0.0
    told = []
    for part in marginal.chunks(annotators):
        nodes = marginal.quadrature(votes, cavity, at, prior, part)
        mass = np.repeat(nodes.posterior, votes.n_levels, axis=0)
        cells = marginal.cells_of(votes, part)
        totals, changes = zip(
            *votes.each(_left_out, sent, cells, nodes.eta, mass, kept), strict=True
        )
        of_many = nodes.of(marginal.votes_of(votes, part) > marginal.FEW)
        value = sum(totals) + float(nodes.log_integral.sum())
        told.append((nodes.mean, nodes.share, of_many, value, max(changes)))
    means, shares, of_many, values, changes = zip(*told, strict=True)
    return _Told(
        np.concatenate(means),
        np.concatenate(shares),
        Nodes(*map(np.concatenate, zip(*of_many, strict=True))),
        sum(values),
        max(changes),
    )


def _left_out(
    part: Ballots, sent: Messages, cells: np.ndarray, eta: Floats, mass: Floats, kept: float
) -> tuple[float, float]:
    begin, end = sent.cavity.ends[cells], sent.cavity.ends[cells + 1]
    rest = (begin, end, sent.cavity.probability, eta, mass, kept, sent.message)
    threads = part.threads if (end - begin).sum() > SMALL else 1
    parts = over(len(cells), threads, lambda f, e: kernels.leave_one_out_pass(f, e, *rest))
    return sum(total for total, _ in parts), max(change for _, change in parts)
