"""`--model auto`: which models to believe, by how well they predict held-out votes.

A vote is predicted from the other votes on its item, by parameters fitted on other items. The
prediction of *votes* ranks models of annotators, but a better likelihood does not always mean a
better answer. So models are dropped by it, never weighted: one-coin where the guesser, which
contains it, predicts clearly better, and full confusions where the guesser, with its fewer
parameters, predicts clearly better.

Errors that annotators share are explained by free confusions as a class of their own: the class
drifts from the truth to the items that mislead. Where a model of subtypes of items predicts
clearly better than every model that takes the errors for independent, whether or not their votes
are discounted for shared errors, such models are refuted. Then the subtypes, which put misleading
items into a class without moving it, are pooled with what cannot absorb a shared error into a
class: one-coin, with one parameter an annotator, and majority vote.

What stays is pooled evenly, with majority vote, after each posterior has been softened for shared
errors. The members of the pools and `SHARED_ERROR` were chosen once, for all tables, with the
answers of the nine benchmark tables in view (the pool with subtypes: of simulated crowds and of
halves of tables whose annotators err together); nothing is chosen by answers at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from denoise.crowd import em, kernels, subtypes
from denoise.crowd.answers import Answers, Floats, subset
from denoise.crowd.dawid_skene import dawid_skene
from denoise.crowd.em import Annotators, Evidence, Solution
from denoise.crowd.guesser import guesser
from denoise.crowd.majority import majority
from denoise.crowd.one_coin import one_coin
from denoise.crowd.result import CrowdFit, softened, summary

SHARED_ERROR = 0.2
"""Correlation of two annotators' errors on an item that is allowed for: votes alone cannot show
it where it is common to everyone. 0 takes annotators for independent."""

CLEARLY = 2.0
"""Standard errors (over items) by which one model must predict better than another."""

FOLDS = 2

MODELS: dict[str, Callable[[Answers], Annotators]] = {
    "one-coin": one_coin,
    "guesser": guesser,
    "dawid-skene": dawid_skene,
}
CLASS_PRIORS: tuple[em.ClassPrior, ...] = ("learned", "uniform")


class Score(NamedTuple):
    """held_out: mean log probability of a held-out vote, nats; used: whether it is in the pool."""

    model: str
    held_out: float
    used: bool


class Selection(NamedTuple):
    """fit: the pooled result; scores: a row a model; reason: a sentence that says why."""

    fit: CrowdFit
    scores: tuple[Score, ...]
    reason: str


def auto(
    votes: Answers, given: Evidence | None = None, *, shared_error: float = SHARED_ERROR
) -> Selection:
    """Compare the models on held-out votes and pool those that hold up."""
    given = em.evidence(votes) if given is None else given
    held = {name: held_out(votes, given, make, shared_error) for name, make in MODELS.items()}
    typed = held_out_subtypes(votes, given)
    shared = _refuted(typed, held, votes, given)
    used = ["one-coin"] if shared else _kept(held, votes)
    shares = majority(votes, given)
    members, trace, converged, solution = [shares.posterior], (), True, None
    priors = CLASS_PRIORS if given.prior is None and not shared else CLASS_PRIORS[:1]
    for name in used:
        for class_prior in priors:
            run = given._replace(class_prior=class_prior)
            solution = em.fit(votes, run, MODELS[name](votes))
            members.append(softened(votes, given, solution.posterior, shared_error))
            trace, converged = solution.trace, converged and solution.converged
    if shared:
        run = given._replace(class_prior="learned")
        fitted = subtypes.subtypes(votes, run, move=True)
        members.append(softened(votes, given, fitted.posterior, shared_error))
        used, converged = [*used, "subtypes"], converged and fitted.converged
    held["subtypes"] = typed
    posterior = em.pinned(sum(members[1:], members[0]) / len(members), given.known)
    warning = "" if converged else "At least one of the pooled models had not converged."
    fit = _read(votes, posterior, solution)._replace(
        trace=trace, converged=converged, warning=warning
    )
    scores = [Score(name, _mean(s), name in used) for name, s in held.items()]
    best = max(held, key=lambda name: _mean(held[name]))
    return Selection(fit, tuple(scores), _reason(best, held, used))


def held_out(
    votes: Answers,
    given: Evidence,
    make: Callable[[Answers], Annotators],
    shared_error: float = 0.0,
    n_folds: int = FOLDS,
) -> Floats:
    """log P(vote | the item's other votes; parameters from other folds' items), [n].

    Fold f holds the items j ≡ f (mod `n_folds`), so the order of the votes does not matter.
    """

    def scored(there: Answers, know: Evidence, test: Answers, known: Evidence) -> Floats:
        solution = em.fit(there, know, make(votes), tolerance=1e-3)
        return _left_out(test, known, solution, shared_error)

    return _crossed(votes, given, scored, n_folds)


def held_out_subtypes(votes: Answers, given: Evidence) -> Floats:
    """The same under `subtypes`, which discounts nothing: shared errors are its subject, [n]."""

    def scored(there: Answers, know: Evidence, test: Answers, known: Evidence) -> Floats:
        fitted = subtypes.subtypes(there, know, tolerance=1e-2, max_iterations=200)
        return subtypes.left_out(test, known, fitted)

    return _crossed(votes, given, scored, FOLDS)


def _crossed(
    votes: Answers,
    given: Evidence,
    scored: Callable[[Answers, Evidence, Answers, Evidence], Floats],
    n_folds: int,
) -> Floats:
    """`scored` of every fold's votes after fitting the other folds' (one fold: its own), [n]."""
    fold = _folds(votes, n_folds)
    out = np.empty(len(votes.label))
    for number in range(n_folds):
        test = fold == number
        there = ~test if n_folds > 1 else test
        fitted = subset(votes, there), _items(given, there)
        out[np.repeat(test, votes.votes_per_item)] = scored(
            *fitted, subset(votes, test), _items(given, test)
        )
    return out


def _left_out(votes: Answers, given: Evidence, solution: Solution, shared_error: float) -> Floats:
    probability = np.maximum(solution.annotators.confusion(), em.TINY)
    return kernels.left_out(
        votes.start,
        votes.annotator,
        votes.label,
        probability,
        given.power[:, None, None] * np.log(probability),
        given.log_rho(solution.class_prior),
        shared_error,
    )


def _items(given: Evidence, kept: Floats) -> Evidence:
    """What is given of the kept items."""
    return given._replace(
        known=given.known[kept] if len(given.known) else given.known,
        prior=None if given.prior is None else given.prior[kept],
    )


def _folds(votes: Answers, n_folds: int) -> Floats:
    return np.arange(votes.n_items) % n_folds


def _clearly(better: Floats, worse: Floats, votes: Answers) -> bool:
    """Whether the gain per vote exceeds `CLEARLY` standard errors, items being the clusters."""
    gain = np.bincount(votes.item, better - worse, votes.n_items)
    return bool(gain.sum() > CLEARLY * np.sqrt((gain**2).sum()))


def _refuted(typed: Floats, held: dict[str, Floats], votes: Answers, given: Evidence) -> bool:
    """Whether subtypes predict clearly better than all of `held`, discounted and as they are."""
    return all(_clearly(typed, scores, votes) for scores in held.values()) and all(
        _clearly(typed, held_out(votes, given, make), votes) for make in MODELS.values()
    )


def _kept(held: dict[str, Floats], votes: Answers) -> list[str]:
    kept = ["guesser"]
    if not _clearly(held["guesser"], held["one-coin"], votes):
        kept.insert(0, "one-coin")
    if not _clearly(held["guesser"], held["dawid-skene"], votes):
        kept.append("dawid-skene")
    return kept


def _read(votes: Answers, posterior: Floats, solution: Solution) -> CrowdFit:
    """Confusions of all annotators at the pooled posterior, drawn towards their common mean.

    With the weight that the prior has before any votes: one learned here would be far too large,
    as annotators differ less in the expected votes of a soft posterior than they do.
    """
    arrays = (votes.start, votes.annotator, votes.label, posterior)
    counts = kernels.count(*arrays, votes.n_annotators)
    model = dawid_skene(votes)
    rows = counts.sum(0) + model.alpha
    model = model._replace(alpha=model.alpha.sum(0) * rows / rows.sum(0)).maximised(counts)
    share = posterior.sum(0) + em.CLASS_STRENGTH
    strength = model.alpha.sum(0)
    return summary(
        votes,
        posterior,
        model.confusion().transpose(0, 2, 1),
        share / share.sum(),
        strength=strength,
    )


def _mean(scores: Floats) -> float:
    """Mean, 0 where there is no vote at all."""
    return float(scores.sum() / max(len(scores), 1))


def _reason(best: str, held: dict[str, Floats], used: list[str]) -> str:
    left = [name for name in held if name not in used]
    table = ", ".join(f"{name} {_mean(scores):.4f}" for name, scores in held.items())
    said = f"Held-out votes have a mean log probability of {table}; {best} predicts them best."
    if "subtypes" in used:
        said += " Left out, as subtypes of items predict clearly better: the models that explain"
        said += " errors shared by annotators as a class."
    elif left := [name for name in left if name != "subtypes"]:
        said += f" Left out, as the guesser predicts clearly better: {' and '.join(left)}."
    return f"{said} Pooled evenly with majority vote: {' and '.join(used)}."
