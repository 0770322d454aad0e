"""Posterior, objective and gradients against enumeration and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from crowd_cases import MODELS, cases, drawn, enumerated
from hypothesis import given as sampled
from hypothesis import settings

from denoise.crowd import em, kernels
from denoise.crowd.dawid_skene import DawidSkene

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


@QUICK
@sampled(cases())
def test_the_objective_and_the_posterior_are_those_of_enumeration(case):
    votes, given, model, rho = case
    log_likelihood, posterior = enumerated(votes, given, model, rho)
    expected = log_likelihood + given.power @ model.log_penalty()
    if given.learns_classes:
        expected += np.log(rho).sum()
    assert em.objective(votes, given, model, rho) == pytest.approx(expected, rel=1e-10)
    ours = np.zeros_like(posterior)
    em._e_step(votes, given, model, rho, ours, ours)
    np.testing.assert_allclose(ours, posterior, atol=1e-11)


@QUICK
@sampled(cases())
def test_the_gradient_in_log_odds_is_expected_minus_predicted_votes(case):
    """∂F/∂(logits of a row) = c_k (n + α − (N + A) π), by central differences."""
    votes, given, model, rho = case
    if not isinstance(model, DawidSkene):
        return
    scratch = np.zeros((votes.n_items, votes.n_classes))
    _, counts, _, _ = em._e_step(votes, given, model, rho, scratch, scratch)
    whole = counts + model.alpha
    slope = given.power[:, None, None] * (whole - whole.sum(1, keepdims=True) * model.pi)
    k, t, step = 0, votes.n_classes - 1, 1e-5
    for label in range(votes.n_classes):
        sides = []
        for sign in (1, -1):
            pi = model.pi.copy()
            pi[k, label, t] *= np.exp(sign * step)
            pi[k, :, t] /= pi[k, :, t].sum()
            sides.append(em.objective(votes, given, model._replace(pi=pi), rho))
        found = (sides[0] - sides[1]) / (2 * step)
        assert found == pytest.approx(slope[k, label, t], abs=1e-5)


@QUICK
@sampled(cases())
def test_the_objective_never_falls_within_a_stage_and_known_answers_stay(case):
    votes, given, model, _ = case
    run = em.fit(votes, given, model, max_iterations=60)
    for before, after in zip(run.trace, run.trace[1:], strict=False):
        if before.stage == after.stage:
            assert after.objective >= before.objective - 1e-9 * abs(before.objective)
    for j in np.flatnonzero(given.known >= 0) if len(given.known) else ():
        assert run.posterior[j, given.known[j]] == 1.0
    np.testing.assert_allclose(run.posterior.sum(1), 1.0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_a_converged_fit_is_a_maximum(name):
    """Any small change of the parameters, each model's own, lowers the objective."""
    votes, _ = drawn(3, 60, 6, 3)
    given = em.evidence(votes)
    run = em.fit(
        votes, given, MODELS[name](votes), learn=False, tolerance=1e-12, max_iterations=20000
    )
    best = em.objective(votes, given, run.annotators, run.class_prior)
    rng = np.random.default_rng(0)
    for _ in range(20):
        nearby = []
        for value in run.annotators:
            if isinstance(value, np.ndarray) and value.shape[0] == votes.n_annotators:
                value = value * np.exp(1e-3 * rng.normal(size=value.shape))
                if value.ndim > 1:
                    value /= value.sum(1, keepdims=True)
            nearby.append(value)
        model = type(run.annotators)(*nearby)
        assert em.objective(votes, given, model, run.class_prior) <= best + 1e-9


def test_left_out_votes_are_predicted_from_the_others_alone():
    votes, _ = drawn(5, 4, 4, 3)
    given, model = em.evidence(votes), MODELS["dawid-skene"](votes)
    model = model.maximised(np.random.default_rng(5).gamma(1.0, 3.0, (4, 3, 3)))
    rho, pi = np.array([0.5, 0.3, 0.2]), model.confusion()
    out = kernels.left_out(
        *(votes.start, votes.annotator, votes.label, pi, np.log(pi), np.log(rho)[None], 0.25)
    )
    for i, j in enumerate(votes.item):
        rest = [m for m in np.flatnonzero(votes.item == j) if m != i]
        q = rho * np.prod([pi[votes.annotator[m], votes.label[m]] for m in rest], axis=0)
        q = q ** (1 / (1 + max(len(rest) - 1, 0) * 0.25))
        expected = np.log(q / q.sum() @ pi[votes.annotator[i], votes.label[i]])
        assert out[i] == pytest.approx(expected, rel=1e-10)
    assert given.power.sum() == 4
