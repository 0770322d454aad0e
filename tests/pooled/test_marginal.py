"""Marginal likelihood, population and uncertainty against integrals done by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution
from small_votes import enumerate_truths, parameters, small_votes, thetas

from denoise import noise
from denoise.pooled import bethe, calibrate, components, marginal, uncertainty
from denoise.pooled import prior as population
from denoise.pooled.ballots import ballots
from denoise.pooled.maximum import maximum
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters
from denoise.simulate import planted_reliability, reversed_margins, simulate


def start(n, n_levels=1):
    return Parameters(np.full(n, noise.log_odds(np.float64(0.9))), np.zeros(n_levels))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.3, 60), st.floats(0.3, 60), st.integers(0, 30))
def test_nodes_integrate_polynomials_of_a_beta_exactly(a, b, power):
    eta, weights = population.beta_nodes(a, b, 24)
    assert weights.sum() == pytest.approx(1)
    expected = beta_distribution(a, b).moment(power) if power else 1.0
    assert weights @ eta**power == pytest.approx(expected, rel=1e-6, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(small_votes(), thetas)
def test_louis_information_is_the_curvature_of_the_enumerated_likelihood(case, theta):
    arrays, votes = case
    at = parameters(theta, [0.2, -0.2], votes)
    prior = Prior(0.8, 2.0)
    found = marginal.coupling(votes, 1.0, at, prior)

    def value(shift):
        moved = at._replace(theta=at.theta + shift)
        _, _, likelihood = enumerate_truths(*arrays, 1.0, moved.cells(votes))
        eta = noise.sigmoid(moved.theta)
        return likelihood + (prior.a * np.log(eta) + prior.b * np.log(1 - eta)).sum()

    h = 1e-3 * np.eye(3)
    for k in range(3):
        for m in range(3):
            ends = (
                value(h[k] + h[m]) - value(h[k] - h[m]) - value(h[m] - h[k]) + value(-h[k] - h[m])
            )
            if k != m or found.own[k] > 1e-2:
                assert found.matrix[k, m] == pytest.approx(-ends / 4e-6, rel=1e-3, abs=1e-3)


def fitted(s, **options):
    n = len(s.reliability)
    votes = ballots(s.pair, s.annotator, s.sign, s.margin, n)
    settings = {"fit_temperature": True, "fit_prior": n >= population.LEAST, **options}
    made = calibrate.calibrate(votes, start(n), Prior(0.9, 5.0), eta0=0.9, **settings)
    fit = maximum(votes, made.temperature, made.prior, made.parameters)
    return votes, made, bethe.integrate(votes, made.temperature, made.prior, fit)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_temperature_undoes_what_was_done_to_the_margins(scale):
    """The error of τ, from its own covariance, is about 5 %; beyond 4 errors is chance 6e-5."""
    s = simulate(seed=1)
    _, made, _ = fitted(s.with_margin(scale * s.margin))
    error = np.sqrt(made.covariance[0, 0])
    assert 0.02 < error * scale < 0.1
    assert abs(made.temperature - 1 / scale) < 4 * error
    values = [row[0] for row in made.trace]
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("kind", ["random", "reversed"])
def test_worthless_margins_get_the_temperature_zero(kind):
    s = simulate(seed=2)
    worthless = {
        "random": np.random.default_rng(9).normal(0, 2, 2000),
        "reversed": reversed_margins(s.margin, 0.6, 2),
    }[kind]
    _, made, _ = fitted(s.with_margin(worthless))
    assert made.temperature == 0 and made.gain < calibrate.WORTH


def test_the_population_is_found():
    """400 annotators of Beta(18, 4.5) with 60 votes each: mean 0.8, strength 22.5."""
    eta = np.random.default_rng(0).beta(18, 4.5, 400)
    s = simulate(6000, 400, 4, reliability=eta, seed=0)
    _, made, _ = fitted(s)
    error = np.sqrt(made.covariance[2, 2])
    assert abs(made.prior.mean - 0.8) < 0.02
    assert error < 0.3 and abs(np.log(made.prior.strength / 22.5)) < 3 * error + 0.1


@pytest.mark.parametrize("votes_each, per_pair", [(8, 1), (60, 1), (8, 4), (60, 4)])
def test_intervals_cover_the_planted_reliability(votes_each, per_pair):
    """20 crowds of 25: 500 intervals, so the share covered has a standard error of 0.01."""
    covered = []
    for seed in range(20):
        s = simulate(25 * votes_each // per_pair, 25, per_pair, seed=seed)
        votes, made, found = fitted(s)
        bounds = uncertainty.uncertainty(votes, found, made)
        covered.append((bounds.low <= s.reliability) & (s.reliability <= bounds.high))
        eta = noise.sigmoid(found.fit.parameters.theta)
        assert ((bounds.low <= eta) & (eta <= bounds.high)).all()
    assert 0.92 <= np.mean(covered) <= 0.985


def test_the_number_of_wrong_labels_is_within_its_interval():
    """40 crowds: 38 within are expected, and 33 or fewer have a chance of 0.003."""
    inside = 0
    for seed in range(40):
        s = simulate(500, 30, 3, seed=seed)
        votes, made, found = fitted(s)
        bounds = uncertainty.uncertainty(votes, found, made)
        inside += bounds.wrong_low <= s.wrong.sum() <= bounds.wrong_high
    assert inside >= 34


@pytest.mark.parametrize("planted", [0.55, 0.7, 0.9])
def test_intervals_of_one_annotator_hold_where_the_temperature_is_open(planted):
    """20 crowds of one: 17 or fewer within have a chance of 0.08 at 95 %, 15 or fewer of 0.003."""
    inside = []
    for seed in range(20):
        s = simulate(3000, 1, 1, reliability=np.array([planted]), seed=seed)
        votes, made, found = fitted(s)
        bounds = uncertainty.uncertainty(votes, found, made)
        inside.append(bounds.low[0] <= planted <= bounds.high[0] or not bounds.identified[0])
        assert bounds.wrong_low <= bounds.expected_wrong <= bounds.wrong_high
    assert sum(inside) >= 16


def test_nothing_but_single_votes_identifies_nothing():
    s = simulate(500, 10, 1, seed=0)
    votes, made, found = fitted(s.with_margin(0 * s.margin), fit_prior=False)
    assert not uncertainty.uncertainty(votes, found, made).identified.any()
    np.testing.assert_allclose(noise.sigmoid(found.fit.parameters.theta), 0.9)


def test_components_are_turned_to_what_the_prior_likes():
    """Annotators 0 to 2 share pairs, and 3 to 5 share others; the first three start reversed."""
    eta = planted_reliability(6, np.random.default_rng(1), careless=0.0)
    one = simulate(400, 3, 3, reliability=eta[:3], seed=1)
    two = simulate(400, 3, 3, reliability=eta[3:], seed=2)
    votes = ballots(
        np.concatenate([one.pair, two.pair + 400]),
        np.concatenate([one.annotator, two.annotator + 3]),
        np.concatenate([one.sign, two.sign]),
        np.zeros(800),
        6,
    )
    assert components.components(votes).tolist() == [0, 0, 0, 3, 3, 3]
    theta = np.where(np.arange(6) < 3, -2.0, 2.0)
    at = Parameters(theta, np.zeros(1))
    turned, count = components.oriented(votes, 0.0, at)
    assert count == 1
    np.testing.assert_array_equal(turned.theta, np.full(6, 2.0))
    known = votes._replace(known=np.where(np.arange(800) == 0, 1, 0).astype(np.int8))
    assert components.oriented(known, 0.0, at)[1] == 0


def test_a_sample_keeps_whole_pairs():
    s = simulate(1000, 10, 4, seed=0)
    votes = ballots(s.pair, s.annotator, s.sign, s.margin, 10)
    part = votes.sample(400)
    assert len(part.margin) == 100 and len(part.code) == 400
    assert part.votes.sum() == 400
    kept = np.linspace(0, 999, 100).astype(int)
    for j, pair in enumerate(kept):
        assert part.margin[j] == votes.margin[pair]
        mine = part.code[part.start[j] : part.start[j + 1]]
        whole = votes.code[votes.start[pair] : votes.start[pair + 1]]
        np.testing.assert_array_equal(mine, whole)
