"""What further votes are worth, and which items are contested: against enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from denoise.crowd.answers import answers
from denoise.quality.items import difficulty, dissent
from denoise.quality.known import wilson
from denoise.quality.worth import by_votes, purchase, spent


def two_classes(a: float, b: float) -> np.ndarray:
    return np.array([[a, 1 - a], [1 - b, b]])


@pytest.mark.parametrize("p", [0.5, 0.6, 0.75, 0.9, 0.999])
@pytest.mark.parametrize("confusion", [two_classes(0.8, 0.8), two_classes(0.9, 0.6)])
def test_the_worth_of_votes_is_that_of_enumerating_their_answers(p, confusion):
    """E[max_t P(t | votes)] − max_t p_t over all answers of b votes; b pays best a vote."""
    posterior = np.array([p, 1 - p])
    best, each = 1, 0.0
    for b in range(1, 6):
        after = sum(
            max(
                posterior[t] * np.prod([confusion[t, answer] for answer in answers_])
                for t in (0, 1)
            )
            for answers_ in product((0, 1), repeat=b)
        )
        if (after - p) / b > each + 1e-12:
            best, each = b, (after - p) / b
    found = purchase(posterior[None], confusion)
    assert found.each[0] == pytest.approx(each, abs=1e-12)
    assert found.labels[0] == best
    turned = purchase(posterior[None, ::-1], confusion[::-1, ::-1])
    assert turned.each[0] == pytest.approx(each, abs=1e-12)


def test_votes_that_tell_nothing_are_worth_nothing_and_certain_items_need_none():
    assert purchase(np.array([[0.5, 0.5]]), two_classes(0.5, 0.5)).gain[0] == 0
    assert purchase(np.array([[1.0, 0.0]]), two_classes(0.9, 0.9)).gain[0] == 0
    assert purchase(np.ones((2, 1)), np.ones((1, 1))).gain.tolist() == [0.0, 0.0]


@given(st.integers(0, 1000))
def test_the_best_order_is_never_worse_than_a_random_one(seed):
    rng = np.random.default_rng(seed)
    bought = purchase(rng.dirichlet(np.ones(3), 30), np.full((3, 3), 0.1) + 0.7 * np.eye(3))
    budgets = np.arange(0, bought.labels.sum() + 1)
    best, even = spent(bought, budgets)
    assert (best >= even - 1e-9).all() and (np.diff(best) >= -1e-12).all()
    assert best[-1] == pytest.approx(bought.gain.sum()) == pytest.approx(even[-1])


def test_accuracy_by_votes_is_that_of_enumeration():
    """Three votes an item by annotators of 0.9, 0.8 and 0.6, each first equally often."""
    rng = np.random.default_rng(0)
    eta = np.array([0.9, 0.8, 0.6])
    n = 4000
    truth = rng.integers(2, size=n)
    item, who = np.repeat(np.arange(n), 3), np.tile(np.arange(3), n)
    label = np.where(rng.random(3 * n) < eta[who], truth[item], 1 - truth[item])
    votes = answers(item, who, label, n, 3, 2)
    confusion = np.stack([two_classes(e, e) for e in eta])
    found = by_votes(votes, confusion, np.array([0.5, 0.5]), known=truth)
    assert found.votes.tolist() == [1, 2, 3] and found.n == n
    exact = [eta.mean(), np.mean([0.9, 0.9, 0.8])]
    three = 0.0
    for right in product((0, 1), repeat=3):
        chance = np.prod(np.where(right, eta, 1 - eta))
        other = np.prod(np.where(right, 1 - eta, eta))
        three += max(chance, other) / 2
    np.testing.assert_allclose(found.expected, [*exact, three], atol=0.02)
    np.testing.assert_allclose(found.known, [*exact, three], atol=0.02)


def test_items_with_too_few_votes_tell_nothing_of_more():
    votes = answers(np.arange(60), np.zeros(60, int), np.zeros(60, int), 60, 1, 2)
    found = by_votes(votes, two_classes(0.8, 0.8)[None], np.array([0.5, 0.5]))
    assert found.votes.tolist() == [1] and np.isnan(found.known).all()
    few = answers(np.arange(3), np.zeros(3, int), np.zeros(3, int), 3, 1, 2)
    assert by_votes(few, two_classes(0.8, 0.8)[None], np.array([0.5, 0.5])).n == 0


def test_dissent_is_held_against_the_error_rates_by_enumeration():
    rng = np.random.default_rng(3)
    n_items, n_annotators = 20, 6
    item, who = np.divmod(np.arange(n_items * n_annotators), n_annotators)
    votes = answers(item, who, rng.integers(2, size=len(item)), n_items, n_annotators, 2)
    confusion = np.stack([two_classes(*rng.uniform(0.6, 0.95, 2)) for _ in range(n_annotators)])
    posterior = rng.dirichlet(np.ones(2), n_items)
    against, tail = dissent(votes, confusion, posterior)
    for j in range(n_items):
        t = posterior[j].argmax()
        wrong = 1 - confusion[:, t, t]
        labels = votes.label[votes.start[j] : votes.start[j + 1]]
        assert against[j] == (labels != t).sum()
        exact = sum(
            np.prod(np.where(errs, wrong, 1 - wrong))
            for errs in product((0, 1), repeat=n_annotators)
            if sum(errs) >= against[j]
        )
        assert tail[j] == pytest.approx(exact, abs=1e-12)


def test_difficulty_by_hand():
    posterior = np.array([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0]])
    counts = np.array([[3, 1], [2, 2], [0, 0]])
    found = difficulty(posterior, counts)
    np.testing.assert_allclose(found, [1 - (0.9 * 3 + 0.1) / 4, 0.5, np.nan])


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (7, 10), (90, 100)])
def test_the_interval_of_a_share_is_scipys(right, n):
    low, high = wilson(np.array([right]), np.array([n]))
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert low[0] == pytest.approx(expected.low, abs=1e-9)
    assert high[0] == pytest.approx(expected.high, abs=1e-9)
    assert np.isnan(wilson(np.array([0]), np.array([0]))).all()
