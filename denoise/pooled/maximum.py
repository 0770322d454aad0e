"""The most likely reliabilities at a temperature and a prior, by the quicker way there is.

With one vote a pair, every reliability is the root of its own concave likelihood, and no EM is
needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from denoise.noise import EDGE, log_odds, sigmoid
from denoise.pooled import kernels, solve
from denoise.pooled.ballots import SMALL, Ballots, Floats, Votes, added, over
from denoise.pooled.marginal import cavities, guessers
from denoise.pooled.prior import Prior, Shrinkage
from denoise.pooled.solve import Fit, Parameters, Step

ROUNDS = 30
"""Times that who guesses is judged anew at most."""

SETTLED = 1e-6
"""Change of a probability that somebody guesses that is none."""

MOST = 200
"""Newton steps an annotator; bisection alone needs 53 for every bit of η."""


def reliabilities(
    ends: NDArray[np.int64],
    advantage: NDArray[np.floating],
    prior: Prior | Shrinkage,
    start: Floats,
    *,
    tolerance: float = 1e-9,
    threads: int = 1,
) -> tuple[Floats, NDArray[np.int64]]:
    """η that maximises Σ log(Pη + (1−P)(1−η)) + a log η + b log(1−η), [K], and the passes taken.

    Args:
        ends: an annotator's votes are `ends[k]` up to `ends[k + 1]`, [K + 1].
        advantage: 2P − 1 of each vote, P = σ(τΔ) along it, [n].
        start: where to begin, [K]; kept where there is neither vote nor prior.
    """
    eta = np.array(start, np.float64)
    steps = np.zeros(len(eta), np.int64)
    a, b = (np.broadcast_to(np.float64(x), eta.shape) for x in (prior.a, prior.b))
    options = (a, b, EDGE, tolerance, MOST)
    threads = threads if len(advantage) > SMALL else 1
    edges = np.searchsorted(ends, np.linspace(0, ends[-1], threads + 1)[1:-1])
    bounds = [0, *edges.tolist(), len(eta)]

    def work(first: int, last: int) -> None:
        for part in range(first, last):
            rest = (ends, advantage, *options, eta, steps)
            kernels.newton_pass(bounds[part], bounds[part + 1], *rest)

    over(threads, threads, work)
    return eta, steps


def maximum(
    votes: Votes,
    tau: float,
    prior: Prior,
    start: Parameters,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
) -> Fit:
    """The most likely reliabilities, shrunk by what each annotator seems to be.

    In turn: P(annotator k guesses), its η integrated out; then the maximum of `solve.objective`
    with that mean of both kinds as its prior, by EM, or directly where no pair has two votes.
    """
    options = {"tolerance": tolerance, "max_iterations": max_iterations}
    if untold(votes, tau) and prior.strength > 0:
        theta = np.full(votes.n_annotators, log_odds(np.float64(prior.population)))
        at, shrinkage = start._replace(theta=theta), prior.shrinkage(prior.guessers)
        value = solve.objective(votes, tau, at, shrinkage)
        return Fit(at, value, True, (Step(0, value, None, prior.population),), shrinkage)
    if prior.guessers == 0:
        return _maximum(votes, tau, prior, start, **options)
    at, trace = start, ()
    guesses = guessers(votes, tau, at, prior)
    for stage in range(ROUNDS):
        fit = _maximum(votes, tau, prior.shrinkage(guesses), at, **options)
        at, before = fit.parameters, guesses
        trace += tuple(step._replace(stage=stage) for step in fit.trace)
        guesses = guessers(votes, tau, at, prior)
        if np.abs(guesses - before).max(initial=0.0) <= SETTLED:
            break
    return fit._replace(trace=trace)


def untold(votes: Votes, tau: float) -> bool:
    """Whether the votes say nothing of anybody: one a pair, and no margin or answer beside it."""
    beside = (tau != 0 and votes.has_margins) or votes.n_known
    return votes.single and votes.n_levels == 1 and not beside


def _maximum(
    votes: Votes, tau: float, prior: Prior | Shrinkage, start: Parameters, **options: Any
) -> Fit:
    if votes.single and votes.n_levels == 1:
        return independent(votes, tau, prior, start, tolerance=options["tolerance"])
    return solve.fit(votes, tau, prior, start, **options)


def independent(
    votes: Votes,
    tau: float,
    prior: Prior | Shrinkage,
    start: Parameters,
    *,
    tolerance: float = 1e-6,
) -> Fit:
    """What `solve.fit` converges to where no pair has two votes and there are no strengths.

    The trace has the start and the end.
    """
    begin, tolerance = sigmoid(start.theta), min(tolerance, 1e-9)
    if isinstance(votes, Ballots):
        each = advantages(votes, tau, start.theta)
        eta, steps = reliabilities(*each, prior, begin, tolerance=tolerance, threads=votes.threads)
    else:
        eta, steps = votes.again(lambda: _by_sums(votes, tau, prior, start, tolerance))
    found = Parameters(log_odds(eta), start.delta)
    before, after = (solve.objective(votes, tau, at, prior) for at in (start, found))
    change = float(np.abs(eta - begin).max(initial=0.0))
    trace = (
        Step(0, before, None, float(begin.mean())),
        Step(int(steps.max(initial=1)), after, change, float(eta.mean())),
    )
    return Fit(found, after, bool((steps >= 0).all()), trace, prior)


def advantages(
    votes: Ballots, tau: float, theta: Floats
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`ends` and `advantage` as in `reliabilities`; to be held."""
    cavity = cavities(votes, tau, theta)
    return cavity.ends, (2.0 * cavity.probability - 1.0).astype(np.float32)


def _by_sums(
    votes: Votes, tau: float, prior: Prior | Shrinkage, start: Parameters, tolerance: float
) -> tuple[Floats, NDArray[np.int64]]:
    """What `reliabilities` gives, of votes in parts: a pass over all for each of Newton's steps."""
    held = votes.hold(advantages, tau, start.theta)
    eta = np.clip(sigmoid(start.theta), EDGE, 1.0 - EDGE)
    low, high = np.full(len(eta), EDGE), np.full(len(eta), 1.0 - EDGE)
    steps, todo = np.zeros(len(eta), np.int64), np.ones(len(eta), bool)
    for step in range(1, MOST + 1):
        slope, bend = added(votes.each(_slopes, held, eta))
        slope = slope + prior.a / eta - prior.b / (1.0 - eta)
        bend = bend + prior.a / eta**2 + prior.b / (1.0 - eta) ** 2
        todo &= bend > 0
        low, high = np.where(slope > 0, eta, low), np.where(slope > 0, high, eta)
        after = eta + np.divide(slope, bend, out=np.zeros(len(eta)), where=bend > 0)
        halved = (after <= low) | (after >= high)
        after = np.where(halved, (low + high) / 2, after)
        moved = np.where(todo, np.abs(after - eta), 0.0)
        eta, steps = np.where(todo, after, eta), np.where(todo, step, steps)
        todo &= (moved > tolerance) & (halved | (moved > 1e-2 * np.sqrt(tolerance)))
        if not todo.any():
            return eta, steps
    return eta, np.where(todo, -1, steps)


def _slopes(
    part: Ballots, held: tuple[NDArray[np.int64], NDArray[np.float32]], eta: Floats
) -> tuple[Floats, Floats]:
    slope, bend = np.zeros(len(eta)), np.zeros(len(eta))
    over(len(eta), part.threads, lambda f, e: kernels.slope_pass(f, e, *held, eta, slope, bend))
    return slope, bend
