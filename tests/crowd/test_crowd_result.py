"""Intervals, scores, softening, majority vote and learned hyper-parameters."""

from __future__ import annotations

import numpy as np
import pytest
from crowd_cases import MODELS, drawn
from scipy import special

from denoise.crowd import em, kernels, prior
from denoise.crowd.answers import answers, once, subset
from denoise.crowd.majority import majority
from denoise.crowd.result import softened, solved, spammer_score
from denoise.crowd.selection import auto


def test_votes_are_grouped_whatever_their_order():
    votes = answers(np.array([1, 0, 1]), np.array([0, 1, 1]), np.array([2, 0, 1]), 3, 2, 3)
    assert votes.start.tolist() == [0, 1, 3, 3]
    assert votes.annotator.tolist() == [1, 0, 1]
    assert votes.label.tolist() == [0, 2, 1]
    part = subset(votes, np.array([False, True, True]))
    assert part.start.tolist() == [0, 2, 2]
    assert part.label.tolist() == [2, 1]


def test_sorting_is_that_of_the_three_keys_also_with_many_votes_on_an_item():
    rng = np.random.default_rng(4)
    item, annotator, label = rng.integers([[5], [70], [3]], size=(3, 600))
    item[item == 3] = 2  # one without votes
    votes = answers(item, annotator, label, 5, 70, 3)
    order = np.lexsort((label, annotator, item))
    assert np.array_equal(votes.item, item[order])
    assert np.array_equal(votes.annotator, annotator[order])
    assert np.array_equal(votes.label, label[order])
    assert np.array_equal(votes.cell, 3 * annotator[order] + label[order])


def test_equal_repeats_count_once_and_differing_ones_not_at_all():
    rows = np.array([(0, 0, 1), (0, 0, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (1, 1, 1), (1, 0, 1)])
    votes = once(answers(*rows.T, 3, 2, 2))
    assert votes.start.tolist() == [0, 2, 3, 3]
    assert votes.cell.tolist() == [1, 2, 3]
    assert votes.annotator.tolist() == [0, 1, 1] and votes.label.tolist() == [1, 0, 1]
    votes = once(answers(*rows.T, 3, 2, 2), shared=0)
    assert votes.start.tolist() == [0, 3, 7, 7]
    assert votes.cell.tolist() == [1, 1, 2, 0, 1, 1, 3]


def test_agreement_is_with_what_most_of_the_others_said_where_one_label_leads():
    """Item 0: 0 0 1; item 1: 0 1 2; item 2: one vote. With the others: 0 1, and 1 against 0 0."""
    rows = np.array([(0, 0, 0), (0, 1, 0), (0, 2, 1), (1, 0, 0), (1, 1, 1), (1, 2, 2), (2, 0, 1)])
    votes = answers(*rows.T, 3, 3, 3)
    agreed, decided = kernels.agreement(votes.start, votes.annotator, votes.label, 3, 3)
    assert agreed.tolist() == [0, 0, 0]
    assert decided.tolist() == [1, 1, 2]
    more = answers(*np.vstack([rows, (0, 3, 0)]).T, 3, 4, 3)
    agreed, _ = kernels.agreement(more.start, more.annotator, more.label, 4, 3)
    assert agreed.tolist() == [1, 1, 0, 1]


def test_majority_vote_splits_ties_and_unvoted_items_evenly():
    votes = answers(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0, 1, 1]), 3, 2, 2)
    fit = majority(votes)
    np.testing.assert_allclose(fit.posterior, [[0.5, 0.5], [0, 1], [0.5, 0.5]], atol=1e-9)
    fit = majority(votes, smoothing=1.0)
    np.testing.assert_allclose(fit.posterior[1], [0.25, 0.75])


def test_the_observed_information_is_minus_the_second_derivative():
    """Votes of one annotator, an item each: ℓ = Σ log Σ_t ρ_t π[t, l], linear in each π_tt."""
    rho, pi = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
    label = np.array([0, 0, 1, 0, 1])
    item = np.arange(5)
    votes = answers(item, np.zeros(5, int), label, 5, 1, 2)
    posterior = rho * pi[:, label].T
    posterior /= posterior.sum(1, keepdims=True)

    def likelihood(diagonal):
        a, b = diagonal
        rows = np.array([[a, 1 - a], [1 - b, b]])
        return np.log(rho @ rows[:, label]).sum()

    arrays = (votes.start, votes.annotator, votes.label, posterior, np.diag(pi)[None])
    found = kernels.information(*arrays)[0]
    h, at, eye = 1e-4, np.diag(pi), np.eye(2)
    for t in range(2):
        for u in range(2):
            corners = [
                likelihood(at + h * (s * eye[t] + r * eye[u])) * s * r
                for s in (1, -1)
                for r in (1, -1)
            ]
            assert found[t, u] == pytest.approx(-sum(corners) / (4 * h * h), rel=1e-4)


@pytest.mark.parametrize("model", ["dawid-skene", "auto"])
def test_intervals_cover_the_planted_reliability(model):
    covered, total = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = rng.integers(2, size=200)
        eta = rng.beta(8, 3, 12)
        item, annotator = np.nonzero(rng.random((200, 12)) < 0.4)
        right = rng.random(len(item)) < eta[annotator]
        votes = answers(item, annotator, np.where(right, truth[item], 1 - truth[item]), 200, 12, 2)
        if model == "auto":
            fit = auto(votes).fit
        else:
            fit = solved(votes, em.fit(votes, em.evidence(votes), MODELS[model](votes)))
        covered += int(((fit.low <= eta) & (eta <= fit.high)).sum())
        total += len(eta)
    assert 0.90 <= covered / total <= 0.99


def test_the_spammer_score_is_one_for_the_perfect_and_zero_for_who_ignores_the_truth():
    same = np.tile(np.array([0.2, 0.5, 0.3]), (3, 1))
    np.testing.assert_allclose(spammer_score(np.stack([np.eye(3), same])), [1, 0], atol=1e-12)
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 3)
    pairs = [((rows[t] - rows[u]) ** 2).sum() for t in range(3) for u in range(t)]
    np.testing.assert_allclose(spammer_score(rows[None]), [np.sum(pairs) / 6])


def test_softening_keeps_the_likeliest_class_and_follows_the_design_effect():
    votes, _ = drawn(1, 30, 5, 3)
    given = em.evidence(votes)
    posterior = np.random.default_rng(1).dirichlet(np.ones(3), 30)
    assert np.array_equal(softened(votes, given, posterior, 0.0).argmax(1), posterior.argmax(1))
    soft = softened(votes, given, posterior, 0.5)
    m = votes.votes_per_item[0]
    expected = posterior[0] ** (1 / (1 + (m - 1) * 0.5))
    np.testing.assert_allclose(soft[0], expected / expected.sum())


@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
def test_learning_hyperparameters_ends_at_the_maximum_of_their_marginal_likelihood(start):
    rng = np.random.default_rng(2)
    shares = rng.dirichlet([6.0, 2.0, 1.0], 400)
    counts = np.array([rng.multinomial(30, row) for row in shares], float)
    alpha = before = np.full(3, start)
    for _ in range(20):
        alpha, before = prior.learn(counts, alpha, 1), alpha
        assert prior.marginal(counts, alpha) >= prior.marginal(counts, before) - 1e-9
    np.testing.assert_allclose(alpha, [6, 2, 1], rtol=0.25)
    np.testing.assert_allclose(prior.learn(counts, np.full(3, start)), alpha, rtol=1e-6)
    best = prior.marginal(counts, alpha)
    for c in range(3):
        for factor in (0.999, 1.001):
            near = np.where(np.arange(3) == c, factor, 1.0) * alpha
            assert prior.marginal(counts, near) < best
    assert prior.learn(np.zeros((4, 3)), alpha) is alpha


@pytest.mark.parametrize("x", [1e-3, 0.5, 3.3, 10.0, 57.0, 1e5])
def test_log_gamma_and_its_derivatives_are_scipys(x):
    expected = [special.gammaln(x), special.digamma(x), special.polygamma(1, x)]
    np.testing.assert_allclose(prior._gammas(x), expected, rtol=1e-12, atol=1e-13)
