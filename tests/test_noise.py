"""The noise model against enumeration of the truth, finite differences and planted answers."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoise import noise


def planted(n_annotators, votes_each, spread=2.0, seed=0, low=0.4, high=0.97):
    """Votes of annotators with known reliability on pairs whose log-odds are N(0, spread²)."""
    generator = np.random.default_rng(seed)
    reliability = generator.uniform(low, high, n_annotators)
    annotator = np.repeat(np.arange(n_annotators, dtype=np.int32), votes_each)
    log_odds = generator.normal(0, spread, len(annotator))
    truth = generator.random(len(annotator)) < noise.sigmoid(log_odds)
    correct = generator.random(len(annotator)) < reliability[annotator]
    return np.where(truth == correct, log_odds, -log_odds), annotator, reliability


def enumerate_truths(margin, annotator, reliability):
    """Posterior and log-likelihood of the votes, from all 2ⁿ states of their hidden truth."""
    p = 1 / (1 + np.exp(-margin))
    eta = reliability[annotator]
    total, right = 0.0, np.zeros(len(margin))
    for state in itertools.product([0, 1], repeat=len(margin)):
        z = np.array(state, bool)
        joint = np.prod(np.where(z, p * eta, (1 - p) * (1 - eta)))
        total += joint
        right += joint * z
    return right / total, np.log(total)


small_cases = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-15, 15), min_size=n, max_size=n).map(np.array),
        st.lists(st.integers(0, 2), min_size=n, max_size=n).map(np.array),
        st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3).map(np.array),
    )
)


@settings(max_examples=60, deadline=None)
@given(small_cases)
def test_posterior_and_objective_are_those_of_enumeration(case):
    margin, annotator, reliability = case
    posterior, log_likelihood = enumerate_truths(margin, annotator, reliability)
    np.testing.assert_allclose(noise.e_step(margin, reliability[annotator]), posterior, rtol=1e-9)
    assert noise.objective(margin, annotator, reliability) == pytest.approx(log_likelihood)


@settings(max_examples=30, deadline=None)
@given(small_cases)
def test_one_iteration_is_the_mean_of_the_enumerated_posterior(case):
    margin, annotator, start = case
    posterior, log_likelihood = enumerate_truths(margin, annotator, start)
    fit = noise.fit_full_batch(margin, annotator, 3, eta0=start, max_iterations=1)
    for k in range(3):
        expected = posterior[annotator == k].mean() if (annotator == k).any() else start[k]
        assert fit.reliability[k] == pytest.approx(expected)
    assert fit.trace[0].objective == pytest.approx(log_likelihood)
    _, after = enumerate_truths(margin, annotator, fit.reliability)
    assert fit.trace[1].objective == pytest.approx(after)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.integers(0, 3)), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
)
def test_the_objective_never_falls(votes, eta0):
    margin, annotator = (np.array(column) for column in zip(*votes, strict=True))
    fit = noise.fit_full_batch(margin, annotator, 4, eta0=eta0, max_iterations=50)
    objectives = np.array([row.objective for row in fit.trace])
    assert (np.diff(objectives) >= -1e-12 * (1 + np.abs(objectives[1:]))).all()
    assert ((fit.reliability >= 0) & (fit.reliability <= 1)).all()


def test_the_fit_is_a_maximum_and_its_parts_belong_together():
    margin, annotator, _ = planted(5, 200)
    fit = noise.fit_full_batch(margin, annotator, 5, tolerance=1e-13)
    assert fit.converged and fit.warning == ""
    slope, _ = noise.slope_and_curvature(margin, annotator, fit.reliability)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    np.testing.assert_array_equal(fit.confidence, noise.e_step(margin, fit.reliability[annotator]))
    last = fit.trace[-1]
    assert last.objective == pytest.approx(
        noise.objective(margin, annotator, fit.reliability), rel=1e-13
    )
    assert last.mean_reliability == pytest.approx(fit.reliability.mean())
    assert fit.trace[0].max_change is None and last.max_change <= 1e-13
    means = np.bincount(annotator, fit.confidence) / 200
    np.testing.assert_allclose(means, fit.reliability, atol=1e-12)


def test_planted_reliabilities_are_recovered_within_sampling_error():
    """η̂ − η is about normal with variance 1/−ℓ''(η), the inverse of the observed information.

    So z = (η̂ − η)√−ℓ'' is standard normal for each of 40 annotators: none is beyond 5 (chance
    40 · 6e-7), and Σz² is chi-squared with 40 degrees of freedom, between 16 and 80 but for 2e-4.
    """
    margin, annotator, reliability = planted(40, 4000)
    fit = noise.fit_full_batch(margin, annotator, 40)
    _, curvature = noise.slope_and_curvature(margin, annotator, reliability)
    z = (fit.reliability - reliability) * np.sqrt(curvature)
    assert np.abs(z).max() < 5
    assert 16 < (z**2).sum() < 80


def test_with_a_certain_model_the_reliability_is_the_share_of_right_votes():
    """At |Δ| = 50, w is 0 or 1 and η̂ a binomial share: 700 of 1000, standard error 0.0145."""
    margin = np.repeat([50.0, -50.0], [700, 300])
    annotator = np.zeros(1000, np.int32)
    fit = noise.fit_full_batch(margin, annotator, 1)
    assert fit.reliability[0] == pytest.approx(0.7, abs=1e-12)
    bounds = noise.intervals(margin, annotator, fit.reliability)
    assert bounds.high[0] - bounds.low[0] == pytest.approx(2 * 1.96 * 0.0145, rel=0.01)


def test_not_converging_gives_a_usable_fit_and_a_warning():
    margin, annotator, _ = planted(3, 50)
    fit = noise.fit_full_batch(margin, annotator, 3, max_iterations=2)
    assert fit.converged is False
    assert "did not converge" in fit.warning and "--max-iterations" in fit.warning
    assert len(fit.trace) == 3 and np.isfinite(fit.confidence).all()


def test_an_annotator_without_votes_keeps_its_start():
    fit = noise.fit_full_batch(np.array([1.0, -1.0]), np.array([0, 2]), 3, eta0=0.8)
    assert fit.reliability[1] == 0.8


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_order_and_names_do_not_matter(seed):
    margin, annotator, _ = planted(4, 30, seed=seed)
    generator = np.random.default_rng(seed)
    order, names = generator.permutation(len(margin)), generator.permutation(4)
    one = noise.fit_full_batch(margin, annotator, 4)
    two = noise.fit_full_batch(margin[order], names[annotator][order], 4)
    np.testing.assert_allclose(two.reliability[names], one.reliability, atol=1e-9)
    np.testing.assert_allclose(two.confidence, one.confidence[order], atol=1e-9)


def test_partitions_do_not_matter(monkeypatch):
    margin, annotator, _ = planted(6, 50)
    whole = noise.fit_full_batch(margin, annotator, 6)
    monkeypatch.setattr(noise, "PARTITION", 7)
    parts = noise.fit_full_batch(margin, annotator, 6)
    np.testing.assert_allclose(parts.reliability, whole.reliability, atol=1e-12)
    assert parts.trace[-1].objective == pytest.approx(whole.trace[-1].objective, rel=1e-12)


def test_float32_margins_and_equal_runs():
    margin, annotator, _ = planted(4, 100)
    single = margin.astype(np.float32)
    one, two = (noise.fit_full_batch(single, annotator, 4) for _ in range(2))
    assert one.confidence.dtype == np.float64
    np.testing.assert_array_equal(one.confidence, two.confidence)
    widened = noise.fit_full_batch(single.astype(np.float64), annotator, 4)
    np.testing.assert_array_equal(one.reliability, widened.reliability)


def test_ema_by_hand():
    """η_0 = 0.9 so logit η = log 9; α = 0.1; batches of three votes.

    Batch 1: annotator 0 has Δ = 0 and −log 9, so w = 0.9 and 0.5, mean 0.7: 0.81 + 0.07 = 0.88.
    Annotator 1 has Δ = −2 log 9, so w = σ(−log 9) = 0.1: 0.81 + 0.01 = 0.82. Annotator 2 is not in
    the batch: 0.9. Batch 2: annotator 1 has Δ = −logit 0.82, so w = 0.5: 0.738 + 0.05 = 0.788.
    """
    margin = np.array([0.0, -np.log(9), -2 * np.log(9), -np.log(0.82 / 0.18)])
    annotator = np.array([0, 0, 1, 1])
    options = {"alpha": 0.1, "batch_size": 3, "shuffle": False}
    first = noise.fit_ema(margin[:3], annotator[:3], 3, **options)
    np.testing.assert_allclose(first.reliability, [0.88, 0.82, 0.9], atol=1e-15)
    both = noise.fit_ema(margin, annotator, 3, **options)
    np.testing.assert_allclose(both.reliability, [0.88, 0.788, 0.9], atol=1e-15)
    np.testing.assert_allclose(both.confidence[0], 0.88)
    assert both.converged is None and len(both.trace) == 2
    assert both.trace[1].max_change == pytest.approx(0.112)


@pytest.mark.parametrize("shuffle", [True, False])
def test_ema_step_by_step_in_plain_python(shuffle):
    margin, annotator, _ = planted(5, 23)
    generator = np.random.default_rng(3)
    eta = [0.9] * 5
    for _ in range(2):
        order = generator.permutation(115) if shuffle else range(115)
        for start in range(0, 115, 10):
            w = {}
            for i in list(order)[start : start + 10]:
                k = int(annotator[i])
                odds = np.exp(margin[i]) * eta[k] / (1 - eta[k])
                w.setdefault(k, []).append(odds / (1 + odds))
            for k, values in w.items():
                eta[k] = 0.9 * eta[k] + 0.1 * sum(values) / len(values)
    options = {"batch_size": 10, "epochs": 2, "seed": 3, "shuffle": shuffle}
    fit = noise.fit_ema(margin, annotator, 5, **options)
    np.testing.assert_allclose(fit.reliability, eta, atol=1e-13)
    assert len(fit.trace) == 3


def test_ema_depends_on_nothing_but_the_seed():
    margin, annotator, _ = planted(3, 100)
    one, two, other = (noise.fit_ema(margin, annotator, 3, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.reliability, two.reliability)
    assert (one.reliability != other.reliability).any()


def test_extreme_margins_give_numbers():
    margin = np.array([1e4, -1e4, 1e300, -1e300, 0.0, 40.0, -40.0, 1e4, 1e4])
    annotator = np.array([0, 0, 1, 2, 3, 4, 5, 6, 6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fit in (
            noise.fit_full_batch(margin, annotator, 7),
            noise.fit_ema(margin, annotator, 7, alpha=1.0, batch_size=1, epochs=3),
        ):
            assert np.isfinite(fit.confidence).all() and np.isfinite(fit.reliability).all()
            assert all(np.isfinite(row.objective) for row in fit.trace)
            bounds = noise.intervals(margin, annotator, fit.reliability)
            assert np.isfinite(bounds.low).all() and np.isfinite(bounds.high).all()
            assert (bounds.low <= fit.reliability).all() and (fit.reliability <= bounds.high).all()
    full = noise.fit_full_batch(margin, annotator, 7)
    np.testing.assert_allclose(full.reliability[[0, 1, 2, 3]], [0.5, 1, 0, 0.9], atol=1e-6)


def test_a_reliability_of_one_does_not_trap_the_moving_average():
    margin, annotator = np.array([1e4, -1e4]), np.array([0, 0])
    fit = noise.fit_ema(margin, annotator, 1, alpha=1.0, batch_size=1, shuffle=False)
    assert fit.reliability[0] == 0.0


@settings(max_examples=40, deadline=None)
@given(small_cases)
def test_slope_and_curvature_are_finite_differences(case):
    margin, annotator, reliability = case
    reliability = 0.1 + 0.8 * reliability
    slope, curvature = noise.slope_and_curvature(margin, annotator, reliability)
    for k in range(3):
        step = 1e-4 * np.eye(3)[k]
        up, here, down = (
            noise.objective(margin, annotator, reliability + s) for s in (step, 0 * step, -step)
        )
        assert slope[k] == pytest.approx((up - down) / 2e-4, rel=1e-4, abs=1e-4)
        assert curvature[k] == pytest.approx(-(up - 2 * here + down) / 1e-8, rel=1e-3, abs=1e-3)


def test_intervals_cover_the_planted_reliability():
    """400 annotators: the share covered has a standard error of 0.011 about 0.95."""
    margin, annotator, reliability = planted(400, 200)
    fit = noise.fit_full_batch(margin, annotator, 400)
    bounds = noise.intervals(margin, annotator, fit.reliability)
    covered = (bounds.low <= reliability) & (reliability <= bounds.high)
    assert 0.91 < covered.mean() < 0.985
    assert bounds.identified.all()


def test_a_perfect_annotator_is_bounded_by_the_likelihood_ratio():
    """100 votes that are certainly right: ℓ = 100 log η has fallen by 1.92 at η = 0.981."""
    margin, annotator = np.full(100, 1e4), np.zeros(100, int)
    bounds = noise.intervals(margin, annotator, np.array([1.0]))
    assert bounds.saturated[0] and bounds.high[0] == 1.0
    assert bounds.low[0] == pytest.approx(np.exp(-1.9207 / 100), abs=1e-6)
    mirrored = noise.intervals(-margin, annotator, np.array([0.0]))
    assert mirrored.low[0] == 0.0
    assert mirrored.high[0] == pytest.approx(1 - bounds.low[0])


@pytest.mark.parametrize("n", [1, 4, 1000])
def test_margins_of_zero_identify_nothing(n):
    margin, annotator = np.zeros(n), np.zeros(n, int)
    fit = noise.fit_full_batch(margin, annotator, 1)
    assert fit.reliability[0] == pytest.approx(0.9)
    bounds = noise.intervals(margin, annotator, fit.reliability)
    assert not bounds.identified[0] and not bounds.saturated[0]
