"""Every model under every combination of switches, against enumeration and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from crowd_cases import SWITCHES, case, drawn, enumerated
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st

from denoise.crowd import em
from denoise.crowd.answers import answers
from denoise.crowd.selection import auto

EVERY = pytest.mark.parametrize("switches", SWITCHES, ids=lambda each: "-".join(map(str, each)))
FEW = settings(max_examples=8, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10_000)


def e_step(votes, given, point):
    """Posterior, expected votes and items."""
    posterior = np.zeros((votes.n_items, votes.n_classes))
    _, counts, classes, _ = em._e_step(votes, given, *point, posterior, posterior)
    return posterior, counts, classes


def expected(given, counts, classes, point) -> float:
    """Q, the expected log joint density that an M-step maximises."""
    model, rho = point
    votes = (counts * np.log(model.confusion())).sum((1, 2))
    items = (classes + em.CLASS_STRENGTH) @ np.log(rho) if given.learns_classes else 0.0
    return given.power @ (votes + model.log_penalty()) + items


def gradient(function, point, given, step=1e-5):
    """Central differences of a function of a point, in the point's coordinates, [d]."""
    at = point.coordinates(given)
    sides = [
        [function(point.moved(at + sign * step * axis, given)) for axis in np.eye(len(at))]
        for sign in (1, -1)
    ]
    return (np.array(sides[0]) - sides[1]) / (2 * step)


@EVERY
@FEW
@sampled(SEEDS)
def test_posterior_and_objective_are_those_of_all_assignments(switches, seed):
    votes, given, point = case(seed, switches)
    log_likelihood, posterior = enumerated(votes, given, *point)
    value = log_likelihood + given.power @ point.annotators.log_penalty()
    if given.learns_classes:
        value += em.CLASS_STRENGTH * np.log(point.class_prior).sum()
    assert em.objective(votes, given, *point) == pytest.approx(value, rel=1e-10)
    found, counts, classes = e_step(votes, given, point)
    np.testing.assert_allclose(found, posterior, atol=1e-11)
    tally = np.zeros_like(counts)
    np.add.at(tally, (votes.annotator, votes.label), posterior[votes.item])
    np.testing.assert_allclose(counts, tally, atol=1e-11)
    np.testing.assert_allclose(classes, posterior.sum(0), atol=1e-11)


@EVERY
@FEW
@sampled(SEEDS)
def test_the_objective_has_the_slope_of_q_and_the_m_step_is_where_q_has_none(switches, seed):
    """∂F = ∂Q where Q was formed (Fisher's identity); it vanishes at the M-step's result."""
    votes, given, point = case(seed, switches)
    _, counts, classes = e_step(votes, given, point)

    def q(at):
        return expected(given, counts, classes, at)

    own = gradient(lambda at: em.objective(votes, given, *at), point, given)
    np.testing.assert_allclose(own, gradient(q, point, given), atol=1e-6)
    image = em.Point(point.annotators.maximised(counts), em._class_prior(given, classes))
    assert q(image) >= q(point) - 1e-9
    for _ in range(300 if switches[0] == "guesser" else 0):  # whose M-step is itself an EM
        image = image._replace(annotators=image.annotators.maximised(counts))
    np.testing.assert_allclose(gradient(q, image, given), 0.0, atol=1e-4)


@EVERY
@FEW
@sampled(SEEDS)
def test_coordinates_lead_back_to_the_point(switches, seed):
    _, given, point = case(seed, switches)
    again = point.moved(point.coordinates(given), given)
    np.testing.assert_allclose(again.annotators.confusion(), point.annotators.confusion())
    np.testing.assert_allclose(again.class_prior, point.class_prior)


@settings(max_examples=12, deadline=None, derandomize=True)
@sampled(SEEDS, *(st.booleans(),) * 3)
def test_renaming_and_shuffling_change_nothing_in_auto(seed, known, priors, powers):
    """Classes and annotators renamed and rows shuffled, with all that is given about them."""
    rng = np.random.default_rng(seed)
    n_items, n_annotators, n_classes = 60, 8, int(rng.integers(2, 4))
    votes, truth = drawn(seed, n_items, n_annotators, n_classes)
    some = np.where(rng.random(n_items) < 0.2, truth, -1)
    own = rng.dirichlet(np.full(n_classes, 3.0), n_items)
    power = rng.uniform(0.3, 1.0, n_annotators)
    people, classes = rng.permutation(n_annotators), rng.permutation(n_classes)
    rows = rng.permutation(len(votes.label))
    renamed = answers(
        votes.item[rows],
        people[votes.annotator[rows]],
        classes[votes.label[rows]],
        *(n_items, n_annotators, n_classes),
    )

    def given(of, power, some, own):
        return em.evidence(
            of,
            power=power if powers else None,
            known=some if known else None,
            prior=own if priors else None,
        )

    back, turned = np.argsort(people), np.argsort(classes)
    one = auto(votes, given(votes, power, some, own))
    named = np.where(some >= 0, classes[some], -1)
    two = auto(renamed, given(renamed, power[back], named, own[:, turned]))
    np.testing.assert_allclose(two.fit.posterior[:, classes], one.fit.posterior, atol=1e-8)
    for field in ("reliability", "low", "high", "spammer"):
        ours, theirs = getattr(one.fit, field), getattr(two.fit, field)
        np.testing.assert_allclose(theirs[people], ours, atol=1e-8)
    confusion = two.fit.confusion[people][:, classes][:, :, classes]
    np.testing.assert_allclose(confusion, one.fit.confusion, atol=1e-8)
    assert [(s.model, s.used) for s in one.scores] == [(s.model, s.used) for s in two.scores]
