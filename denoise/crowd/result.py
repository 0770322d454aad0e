"""What every model of this package returns, and how it is read off a posterior."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denoise.crowd import kernels
from denoise.crowd.answers import Answers, Floats
from denoise.crowd.em import Evidence, Solution, Step
from denoise.noise import EDGE, Z95, log_odds, sigmoid


class CrowdFit(NamedTuple):
    """What was learned about J items with C classes and K annotators.

    posterior: P(truth of j is t | votes), [J, C]; confusion: P(label l | truth t) of annotator k,
    [K, C, C] (truth, label); class_prior: ρ, [C]; reliability: Σ_t ρ_t π_k[t, t], [K], with its
    95 % interval low … high; spammer: 0 where the label says nothing of the truth, 1 where it says
    all, [K]; n: votes, [K]; trace: objective by stage and iteration; warning: a sentence or "".
    """

    posterior: Floats
    confusion: Floats
    class_prior: Floats
    reliability: Floats
    low: Floats
    high: Floats
    spammer: Floats
    n: Floats
    trace: tuple[Step, ...]
    converged: bool
    warning: str


def solved(votes: Answers, solution: Solution) -> CrowdFit:
    """The result of an EM run."""
    confusion = solution.annotators.confusion().transpose(0, 2, 1)
    warning = "" if solution.converged else _unconverged(solution.trace)
    return summary(
        votes,
        solution.posterior,
        confusion,
        solution.class_prior,
        trace=solution.trace,
        converged=solution.converged,
        warning=warning,
    )


def summary(
    votes: Answers,
    posterior: Floats,
    confusion: Floats,
    class_prior: Floats,
    *,
    strength: Floats | None = None,
    trace: tuple[Step, ...] = (),
    converged: bool = True,
    warning: str = "",
) -> CrowdFit:
    """Reliability with interval, and spammer score, of confusions [K, C, C] (truth, label).

    strength: votes that the prior of each diagonal entry weighs, [C]; one if not given.
    """
    diagonal = np.einsum("ktt->kt", confusion)
    reliability = np.minimum(diagonal @ class_prior, 1.0)
    error = _standard_error(votes, posterior, diagonal, class_prior, strength)
    inside = np.clip(reliability, EDGE, 1.0 - EDGE)
    width = Z95 * error / (inside * (1.0 - inside))
    low, high = sigmoid(log_odds(inside) - width), sigmoid(log_odds(inside) + width)
    counts = votes.votes_per_annotator.astype(np.float64)
    score = spammer_score(confusion)
    return CrowdFit(
        posterior,
        confusion,
        class_prior,
        reliability,
        np.minimum(low, reliability),
        np.maximum(high, reliability),
        score,
        counts,
        trace,
        converged,
        warning,
    )


def spammer_score(confusion: Floats) -> Floats:
    """Mean over pairs of classes of half the squared distance of their rows, [K], in 0 … 1.

    Raykar & Yu, *Eliminating spammers and ranking annotators*, JMLR 13, 2012, equation 11.
    """
    n = confusion.shape[1]
    if n < 2:
        return np.zeros(len(confusion))
    # Σ over ordered pairs |row_t − row_u|² = 2n Σ|row|² − 2|Σ row|².
    squares = (confusion**2).sum((1, 2))
    total = (confusion.sum(1) ** 2).sum(1)
    return np.clip((n * squares - total) / (n * (n - 1)), 0.0, 1.0)


def softened(votes: Answers, given: Evidence, posterior: Floats, shared_error: float) -> Floats:
    """Posterior to the power 1/(1 + (m_j − 1)·shared_error), normalised, [J, C].

    The design effect of cluster samples (Kish, *Survey Sampling*, 1965): m votes whose errors on
    an item correlate by `shared_error` weigh m/(1 + (m − 1)·shared_error) independent ones. m_j
    is the sum of the item's powers. The likeliest class stays, and so do known answers.
    """
    m = np.bincount(votes.item, given.power[votes.annotator], votes.n_items)
    weight = 1.0 / (1.0 + np.maximum(m - 1.0, 0.0) * shared_error)
    with np.errstate(divide="ignore"):
        scaled = weight[:, None] * np.log(posterior)
    scaled = np.exp(scaled - scaled.max(1, keepdims=True))
    return scaled / scaled.sum(1, keepdims=True)


def _standard_error(
    votes: Answers,
    posterior: Floats,
    diagonal: Floats,
    class_prior: Floats,
    strength: Floats | None,
) -> Floats:
    """Standard error of ρ·diag π_k from the observed information, prior included, [K]."""
    inside = np.clip(diagonal, EDGE, 1.0 - EDGE)
    arrays = (votes.start, votes.annotator, votes.label, posterior, inside)
    information = kernels.information(*arrays)
    weight = np.ones(len(class_prior)) if strength is None else strength
    own = weight / (inside * (1.0 - inside))
    information[:, np.arange(len(class_prior)), np.arange(len(class_prior))] += own
    direction = np.broadcast_to(class_prior[None, :, None], (*diagonal.shape, 1))
    variance = np.einsum("t,kts->k", class_prior, np.linalg.solve(information, direction))
    return np.sqrt(np.maximum(variance, 0.0))


def _unconverged(trace: tuple[Step, ...]) -> str:
    last = trace[-1]
    return (
        f"EM stopped after {last.iteration + 1} iterations while a posterior still moved by "
        f"{last.max_change:.1e}; the result is usable, but more iterations would change it."
    )
