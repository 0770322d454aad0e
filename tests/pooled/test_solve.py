"""The pooled model's EM against enumeration of the truth and finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_votes import deltas, enumerate_truths, parameters, priors, small_votes, thetas

from denoise import noise
from denoise.pooled import solve
from denoise.pooled.ballots import ballots
from denoise.pooled.maximum import maximum, reliabilities
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters
from denoise.simulate import simulate

taus = st.sampled_from([0.0, 0.3, 1.0, 2.5])


@settings(max_examples=150, deadline=None)
@given(small_votes(), thetas, deltas, taus, priors)
def test_posterior_and_objective_are_those_of_enumeration(case, theta, delta, tau, prior):
    arrays, votes = case
    at = parameters(theta, delta, votes)
    lam = at.cells(votes)
    posterior, right, log_likelihood = enumerate_truths(*arrays, tau, lam)
    q = solve.posterior(votes, tau, at)
    np.testing.assert_allclose(q, posterior, atol=1e-12)
    sums, _ = solve.expectation(votes, tau, lam)
    np.testing.assert_allclose(sums, np.bincount(arrays[1], right, len(lam)), atol=1e-12)
    eta = noise.sigmoid(at.theta)
    penalty = (prior.a * np.log(eta) + prior.b * np.log(1 - eta)).sum() - at.delta @ at.delta / 2
    assert solve.objective(votes, tau, at, prior) == pytest.approx(log_likelihood + penalty)


@settings(max_examples=60, deadline=None)
@given(small_votes(), thetas, deltas, taus, priors)
def test_the_gradient_is_what_the_maximisation_step_sets_to_zero(case, theta, delta, tau, prior):
    """∂F/∂θ_k = Σ over its cells (Σw − nη_c) + a − (a + b)η_k: the M-step's own slope."""
    _, votes = case
    at = parameters(theta, delta, votes)
    right, _ = solve.expectation(votes, tau, at.cells(votes))
    left = right - votes.votes * noise.sigmoid(at.cells(votes))
    slope = votes.by_annotator(left) + prior.a - prior.strength * noise.sigmoid(at.theta)
    for k in range(3):
        step = 1e-5 * np.eye(3)[k]
        up, down = (
            solve.objective(votes, tau, at._replace(theta=at.theta + s), prior)
            for s in (step, -step)
        )
        assert (up - down) / 2e-5 == pytest.approx(slope[k], rel=1e-4, abs=1e-4)
    after = solve.maximisation(votes, right, at, prior)
    if votes.n_levels > 1:
        n = np.bincount(votes.level, votes.votes, votes.n_levels)
        assert n @ after.delta == pytest.approx(0, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(small_votes(), thetas, deltas, taus, priors, st.booleans())
def test_the_objective_never_falls(case, theta, delta, tau, prior, accelerate):
    _, votes = case
    start = parameters(theta, delta, votes)
    fit = solve.fit(votes, tau, prior, start, max_iterations=60, accelerate=accelerate)
    objectives = np.array([step.objective for step in fit.trace])
    assert (np.diff(objectives) >= -1e-10 * (1 + np.abs(objectives[1:]))).all()
    assert fit.objective == pytest.approx(solve.objective(votes, tau, fit.parameters, prior))


def test_one_vote_a_pair_without_a_prior_is_the_papers_em():
    s = simulate(3000, 8, 1, seed=3)
    votes = ballots(s.pair, s.annotator, s.sign, s.margin, 8)
    start = Parameters(noise.log_odds(np.full(8, 0.9)), np.zeros(1))
    fit = solve.fit(votes, 1.0, Prior(0.9, 0.0), start, tolerance=1e-11)
    along = s.sign * s.margin[s.pair]
    paper = noise.fit_full_batch(along, s.annotator, 8, tolerance=1e-11)
    np.testing.assert_allclose(noise.sigmoid(fit.parameters.theta), paper.reliability, atol=1e-8)
    assert fit.objective == pytest.approx(paper.trace[-1].objective, rel=1e-10)


@pytest.mark.parametrize("prior", [Prior(0.9, 0.0), Prior(0.8, 4.0)])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_direct_solution_of_single_votes_is_that_of_em(prior, threads):
    """60,000 votes of 7 annotators, so that two threads and the start from a part are used."""
    s = simulate(60_000, 7, 1, seed=3)
    votes = ballots(s.pair, s.annotator, s.sign, s.margin, 7, threads=threads)
    start = Parameters(noise.log_odds(np.full(7, 0.9)), np.zeros(1))
    direct = maximum(votes, 1.3, prior, start, tolerance=1e-9)
    slow = solve.fit(votes, 1.3, prior, start, tolerance=1e-12)
    for one, other in zip(direct.parameters, slow.parameters, strict=True):
        np.testing.assert_allclose(noise.sigmoid(one), noise.sigmoid(other), atol=1e-6)
    assert direct.objective >= slow.objective - 1e-6
    assert direct.converged and direct.trace[1].objective >= direct.trace[0].objective


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2)), min_size=1, max_size=40),
    st.sampled_from([Prior(0.9, 0.0), Prior(0.9, 5.0), Prior(0.3, 0.2)]),
)
def test_the_direct_solution_is_the_root_of_the_slope(votes, prior):
    """Σd/(½ + d(η − ½)) + a/η − b/(1 − η), at η to either side of the solution."""
    votes.sort(key=lambda vote: vote[1])
    p, annotator = (np.array(column) for column in zip(*votes, strict=True))
    d = (2 * p - 1).astype(np.float32)
    ends = np.searchsorted(annotator, np.arange(4))
    eta, steps = reliabilities(ends, d, prior, np.full(3, 0.7), tolerance=1e-10)
    assert (steps >= 0).all()
    for k in range(3):
        mine = d[ends[k] : ends[k + 1]].astype(float)

        def slope(x, mine=mine):
            return (mine / (0.5 + mine * (x - 0.5))).sum() + prior.a / x - prior.b / (1 - x)

        if eta[k] > 1e-6:
            assert slope(eta[k] * (1 - 1e-5) - 1e-9) >= -1e-5
        if eta[k] < 1 - 1e-6:
            assert slope(eta[k] + 1e-5 * (1 - eta[k]) + 1e-9) <= 1e-5


def test_acceleration_reaches_the_same_maximum_in_fewer_passes():
    s = simulate(2000, 30, 3, seed=5)
    votes = ballots(s.pair, s.annotator, s.sign, 0 * s.margin, 30)
    start = Parameters(noise.log_odds(np.full(30, 0.6)), np.zeros(1))
    options = {"tolerance": 1e-10, "max_iterations": 5000}
    plain = solve.fit(votes, 1.0, Prior(0.9, 2.0), start, accelerate=False, **options)
    quick = solve.fit(votes, 1.0, Prior(0.9, 2.0), start, **options)
    np.testing.assert_allclose(quick.parameters.theta, plain.parameters.theta, atol=1e-6)
    assert quick.converged and len(quick.trace) < len(plain.trace)


def test_threads_order_and_names_do_not_matter():
    s = simulate(20_000, 40, 4, seed=2)
    start = Parameters(np.full(40, 2.0), np.zeros(1))
    generator = np.random.default_rng(0)
    names, pairs = generator.permutation(40), generator.permutation(20_000)
    order = generator.permutation(len(s.pair))

    def fitted(renamed, threads):
        if not renamed:
            made = ballots(s.pair, s.annotator, s.sign, s.margin, 40, threads=threads)
        else:
            margin = np.empty_like(s.margin)
            margin[pairs] = s.margin
            arrays = (pairs[s.pair], names[s.annotator], s.sign)
            made = ballots(*(a[order] for a in arrays), margin, 40, threads=threads)
        theta = solve.fit(made, 0.8, Prior(0.85, 5.0), start).parameters.theta
        return theta[names] if renamed else theta

    one = fitted(False, 1)
    np.testing.assert_array_equal(fitted(False, 2), fitted(False, 2))
    np.testing.assert_allclose(fitted(False, 3), one, atol=1e-9)
    np.testing.assert_allclose(fitted(True, 2), one, atol=1e-9)


def test_strengths_shift_the_log_odds_as_planted():
    """Votes said to be sure are right with log-odds 0.8 more, others 0.8 less; evenly many."""
    generator = np.random.default_rng(4)
    n_pairs, n_annotators = 20_000, 12
    s = simulate(n_pairs, n_annotators, 3, seed=4)
    level = generator.integers(0, 2, len(s.pair))
    theta = generator.normal(1.5, 0.6, n_annotators)
    right = generator.random(len(s.pair)) < noise.sigmoid(
        theta[s.annotator] + 0.8 * (2 * level - 1)
    )
    sign = np.where(s.truth[s.pair] == right, 1, -1)
    votes = ballots(s.pair, s.annotator, sign, s.margin, n_annotators, level=level, n_levels=2)
    start = Parameters(np.full(n_annotators, 2.0), np.zeros(2))
    fit = solve.fit(votes, 1.0, Prior(0.9, 5.0), start)
    np.testing.assert_allclose(fit.parameters.delta, [-0.8, 0.8], atol=0.06)
    np.testing.assert_allclose(fit.parameters.theta, theta, atol=0.2)


@settings(max_examples=40, deadline=None)
@given(small_votes(), thetas, taus)
def test_turning_every_pair_round_changes_nothing(case, theta, tau):
    (pair, _, sign, margin, known), votes = case
    at = parameters(theta, [0.3, -0.3], votes)
    turned = ballots(
        pair,
        votes.annotator[_cells(case)],
        -sign,
        -margin,
        3,
        level=votes.level[_cells(case)],
        n_levels=votes.n_levels,
        known=-known,
    )
    q = solve.posterior(votes, tau, at)
    q_turned = solve.posterior(turned, tau, at)
    np.testing.assert_allclose(q_turned, 1 - q, atol=1e-12)
    prior = Prior(0.9, 3.0)
    here, there = (solve.objective(v, tau, at, prior) for v in (votes, turned))
    assert here == pytest.approx(there)


def _cells(case):
    return case[0][1]
