"""The EM loop: monotone, at a maximum where it ends, the same with and without acceleration."""

from __future__ import annotations

import numpy as np
import pytest
from crowd_cases import MODELS, cases, drawn
from hypothesis import given as sampled
from hypothesis import settings

from denoise.crowd import em, kernels
from denoise.crowd.answers import answers

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


@QUICK
@sampled(cases())
def test_the_objective_never_falls_within_a_stage_and_known_answers_stay(case):
    votes, given, point = case
    run = em.fit(votes, given, point.annotators, max_iterations=60)
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


@pytest.mark.parametrize("name", MODELS)
def test_acceleration_ends_where_plain_em_does_and_sooner(name):
    votes, _ = drawn(8, 200, 5, 3)
    given, tight = em.evidence(votes), {"tolerance": 1e-9, "max_iterations": 5000}
    plain = em.fit(votes, given, MODELS[name](votes), accelerate=False, **tight)
    quick = em.fit(votes, given, MODELS[name](votes), **tight)
    assert plain.converged and quick.converged
    np.testing.assert_allclose(quick.posterior, plain.posterior, atol=1e-7)
    assert len(quick.trace) < 0.6 * len(plain.trace)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_threads_change_nothing_but_rounding(n_classes):
    rng = np.random.default_rng(9)
    truth = rng.integers(n_classes, size=10_000)
    item = np.repeat(np.arange(10_000), 6)
    annotator = (rng.integers(50, size=10_000)[:, None] + np.arange(6)).ravel() % 50
    right = rng.random(len(item)) < 0.7
    label = np.where(right, truth[item], rng.integers(n_classes, size=len(item)))
    one, two, again = (
        em.fit(votes, em.evidence(votes), MODELS["dawid-skene"](votes))
        for n in (1, 3, 3)
        for votes in [answers(item, annotator, label, 10_000, 50, n_classes, threads=n)]
    )
    np.testing.assert_allclose(two.posterior, one.posterior, atol=1e-9)
    assert np.array_equal(again.posterior, two.posterior)
