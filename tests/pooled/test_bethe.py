"""Votes with every reliability integrated out, against enumeration of the truth."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln, logsumexp
from scipy.stats import beta as beta_distribution

from denoise import noise
from denoise.pooled import bethe, calibrate, marginal
from denoise.pooled import prior as population
from denoise.pooled.ballots import ballots
from denoise.pooled.maximum import maximum
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters
from denoise.simulate import simulate

PRIORS = [Prior(0.8, 4.0), Prior(0.85, 6.0, 0.2, 30.0), Prior(0.6, 1.5, 0.7, 100.0)]


def start(n):
    return Parameters(np.full(n, noise.log_odds(np.float64(0.8))), np.zeros(1))


def enumerated(pair, annotator, sign, margin, n_annotators, tau, prior, known):
    """log marginal likelihood and P(a) of each pair, over all truths: 2^J Beta functions."""
    parts = [(prior.a, prior.b, 1 - prior.guessers)]
    if prior.guessers:
        parts.append((prior.guessing / 2, prior.guessing / 2, prior.guessers))
    log_weights, truths = [], []
    for truth in product([1, -1], repeat=len(margin)):
        truth = np.array(truth)
        if ((known != 0) & (known != truth)).any():
            continue
        right = np.bincount(annotator, sign == truth[pair], n_annotators)
        wrong = np.bincount(annotator, sign != truth[pair], n_annotators)
        of_parts = [np.log(w) + betaln(a + right, b + wrong) - betaln(a, b) for a, b, w in parts]
        log_votes = logsumexp(of_parts, axis=0).sum()
        log_weights.append(np.log(noise.sigmoid(truth * tau * margin)).sum() + log_votes)
        truths.append(truth > 0)
    total = logsumexp(log_weights)
    return total, np.exp(np.array(log_weights) - total) @ np.array(truths)


@st.composite
def trees(draw):
    """Votes of 4 annotators on a tree: any two share one chain of pairs at most."""
    shared = [(0, 0), (0, 1), (1, 1), (1, 2), (1, 3)]
    alone = [(2 + i, draw(st.integers(0, 3))) for i in range(draw(st.integers(0, 5)))]
    pair, annotator = np.array(shared + alone).T

    def column(values, length):
        return np.array(draw(st.lists(values, min_size=length, max_size=length)))

    n_pairs = int(pair.max()) + 1
    sign = column(st.sampled_from([1, -1]), len(pair))
    margin = column(st.floats(-3, 3), n_pairs)
    known = column(st.sampled_from([0, 0, 1, -1]), n_pairs)
    return pair, annotator, sign, margin, known


@settings(max_examples=60, deadline=None)
@given(trees(), st.sampled_from(PRIORS), st.sampled_from([0.0, 0.7, 2.0]))
def test_messages_on_a_tree_are_exact(case, prior, tau):
    pair, annotator, sign, margin, known = case
    votes = ballots(pair, annotator, sign, margin, 4, known=known)
    found = bethe.propagate(bethe.network(votes), tau, prior, start(4))
    value, posterior = enumerated(pair, annotator, sign, margin, 4, tau, prior, known)
    assert found.value == pytest.approx(value, abs=1e-6)
    q = np.where(known == 0, noise.sigmoid(found.log_odds), known > 0)
    np.testing.assert_allclose(q, posterior, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(trees(), st.sampled_from(PRIORS[1:]))
def test_slopes_are_those_of_the_value(case, prior):
    pair, annotator, sign, margin, known = case
    net = bethe.network(ballots(pair, annotator, sign, margin, 4, known=known))

    def value(tau, point):
        return bethe.propagate(net, tau, Prior.at(point), start(4)).value

    point, h = prior.coordinates, 1e-3
    beliefs = bethe.propagate(net, 0.7, prior, start(4))
    slope = (value(0.7 + h, point) - value(0.7 - h, point)) / (2 * h)
    assert bethe.slope_of_temperature(net, 0.7, beliefs) == pytest.approx(slope, abs=1e-4)
    for step, found in zip(h * np.eye(4), bethe.slope_of_prior(net, prior, beliefs), strict=True):
        slope = (value(0.7, point + step) - value(0.7, point - step)) / (2 * h)
        assert found == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
def test_slopes_with_many_votes_are_those_of_the_value(prior):
    s = simulate(1500, 20, 2, seed=4)
    net = bethe.network(ballots(s.pair, s.annotator, s.sign, s.margin, 20))
    objective = calibrate._Objective(net, start(20), 0.9)
    prior = prior._replace(guessers=max(prior.guessers, 0.01))
    _, slopes = objective(0.8, prior, True)
    h = 1e-3
    up, down = (objective(0.8 + d, prior, True)[0] for d in (h, -h))
    assert slopes[0] == pytest.approx((up - down) / (2 * h), rel=1e-3, abs=1e-2)
    for i, step in enumerate(h * np.eye(4)):
        points = (prior.coordinates + step, prior.coordinates - step)
        up, down = (objective(0.8, Prior.at(p), True)[0] for p in points)
        assert slopes[i + 1] == pytest.approx((up - down) / (2 * h), rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("n", [3, 200])
def test_the_marginal_of_single_votes_is_the_integral_over_a_fine_grid(n, prior):
    """n = 3 takes the prior's nodes, n = 200 those of a normal; the grid has 20,000 points."""
    s = simulate(4 * n, 4, 1, seed=n)
    votes = ballots(s.pair, s.annotator, s.sign, s.margin, 4)
    eta = (np.arange(20_000) + 0.5) / 20_000
    density = (1 - prior.guessers) * beta_distribution(prior.a, prior.b).pdf(eta)
    density += prior.guessers * beta_distribution(prior.guessing / 2, prior.guessing / 2).pdf(eta)
    along = noise.sigmoid(0.7 * s.sign * s.margin[s.pair])
    expected = 0.0
    for k in range(4):
        p = along[s.annotator == k][:, None]
        logs = np.log(p * eta + (1 - p) * (1 - eta)).sum(axis=0)
        expected += logs.max() + np.log(np.mean(density * np.exp(logs - logs.max())))
    found = bethe.propagate(bethe.network(votes), 0.7, prior, start(4))
    assert found.value == pytest.approx(expected, abs=0.01)


def test_few_votes_are_not_taken_for_more_than_they_are():
    """60 crowds of 5 annotators and 7 pairs: posteriors are nearer to the exact ones than EM's."""
    errors = []
    prior = PRIORS[1]
    for seed in range(60):
        s = simulate(7, 5, 2, seed=seed)
        votes = ballots(s.pair, s.annotator, s.sign, s.margin, 5)
        fit = maximum(votes, 1.0, prior, start(5))
        q = noise.sigmoid(bethe.integrate(votes, 1.0, prior, fit).log_odds)
        held = marginal.solve.posterior(votes, 1.0, fit.parameters)
        zeros = np.zeros(7, int)
        _, exact = enumerated(s.pair, s.annotator, s.sign, s.margin, 5, 1.0, prior, zeros)
        errors.append([np.abs(q - exact).mean(), np.abs(held - exact).mean()])
    integrated, plain = np.mean(errors, axis=0)
    assert integrated < 0.01 and integrated < plain / 3


def test_annotators_with_many_votes_keep_their_maximum():
    s = simulate(1000, 10, 4, seed=0)
    votes = ballots(s.pair, s.annotator, s.sign, s.margin, 10)
    fit = maximum(votes, 1.0, PRIORS[1], start(10))
    found = bethe.integrate(votes, 1.0, PRIORS[1], fit)
    assert found.fit is fit and found.trace == ()


def test_who_guesses_is_found():
    """10 of 40 annotators at 0.5 and the rest at 0.9, 100 votes each on shared pairs."""
    eta = np.where(np.arange(40) < 10, 0.5, 0.9)
    s = simulate(1000, 40, 4, reliability=eta, seed=0)
    votes = ballots(s.pair, s.annotator, s.sign, s.margin, 40)
    made = calibrate.calibrate(
        votes, start(40), Prior(0.9, 5.0), eta0=0.9, fit_temperature=True, fit_prior=True
    )
    assert 0.15 < made.prior.guessers < 0.35 and abs(made.prior.mean - 0.9) < 0.02
    fit = maximum(votes, made.temperature, made.prior, made.parameters)
    guess = marginal.guessers(votes, made.temperature, fit.parameters, made.prior)
    assert (guess[:10] > 0.9).all() and (guess[10:] < 0.1).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PRIORS[1:]), st.floats(0.01, 0.99))
def test_densities_and_shrinkage_are_of_both_kinds(prior, eta):
    """The shrunk estimate is the mean of the two posteriors, and slopes are of the log density."""
    pull = prior.shrinkage(np.array([0.0, 1.0]))
    half = prior.guessing / 2
    np.testing.assert_allclose(pull.a, [prior.a, half])
    np.testing.assert_allclose(pull.b, [prior.b, half])
    one = np.array([eta])
    h = 1e-5
    for step, slope in zip(h * np.eye(4), population.slopes(one, prior), strict=True):
        up, down = (
            population.log_density(one, Prior.at(prior.coordinates + sign * step))
            for sign in (1, -1)
        )
        np.testing.assert_allclose((up - down) / (2 * h), slope, rtol=1e-5, atol=1e-5)
    theta = np.linspace(-30, 30, 6001)
    density = np.exp(population.log_density(noise.sigmoid(theta), prior))
    assert density.sum() * 0.01 == pytest.approx(1, abs=1e-3)
