"""The change-point test: exact where nothing changes, strong where much does."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from denoise.quality.drift import drift


def answered(accuracy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """P(right) as others who are right with 0.97 tell it, for votes right so often."""
    right = rng.random(accuracy.shape) < accuracy
    known = rng.random(accuracy.shape) < 0.97
    return np.where(right == known, 0.97, 0.03)


def drifted(right: np.ndarray, **options):
    n_annotators, n = right.shape
    annotator = np.repeat(np.arange(n_annotators), n)
    return drift(
        annotator,
        np.tile(np.arange(float(n)), n_annotators),
        right.ravel(),
        n_annotators,
        **options,
    )


def test_the_false_alarm_rate_is_held():
    rng = np.random.default_rng(0)
    # Difficulty differs from vote to vote, and not with time.
    p = drifted(
        answered(rng.choice([0.6, 0.99], (2_000, 60)), rng), permutations=999
    ).finding.p_value
    for level in (0.2, 0.05):
        error = np.sqrt(level * (1 - level) / len(p))
        assert np.mean(p <= level) == pytest.approx(level, abs=3.5 * error)


def test_a_fall_from_95_to_55_is_found():
    rng = np.random.default_rng(1)
    right = answered(np.repeat([[0.95] * 50 + [0.55] * 50], 200, axis=0), rng)
    found = drifted(right)
    # Others who are right with 0.97 show a fall of 0.4 as one of 0.94·0.94·0.4.
    assert np.mean(found.finding.p_value <= 0.005) >= 0.9
    assert np.median(found.finding.effect) == pytest.approx(-0.353, abs=0.05)
    assert np.median(found.changed) == pytest.approx(50, abs=5)


def test_the_p_value_is_that_of_all_orders(monkeypatch):
    monkeypatch.setattr("denoise.quality.drift.MARGIN", 2)
    right = np.array([0.9, 0.8, 0.95, 0.2, 0.1, 0.4])

    def largest(values):
        n, total = len(values), sum(values)
        return max(sum(values[:m]) - m * total / n for m in range(2, n - 1))

    exact = np.mean([largest(order) >= largest(right) - 1e-12 for order in permutations(right)])
    found = drifted(right[None], permutations=20_000).finding.p_value[0]
    assert found == pytest.approx(exact, rel=0.5)
    sure = [drifted(right[None], permutations=20_000, seed=s).finding.p_value[0] for s in range(40)]
    assert np.mean(sure) == pytest.approx(exact, rel=0.15)


def test_names_rows_and_the_unit_of_time_change_little_or_nothing():
    rng = np.random.default_rng(2)
    annotator, time = rng.integers(3, size=150), rng.permutation(150).astype(float)
    right = answered(np.where(time < 75, 0.95, 0.6), rng)
    here = drift(annotator, time, right, 3)
    order = rng.permutation(150)
    there = drift(annotator[order], np.exp(time[order] / 50), right[order], 3)
    np.testing.assert_array_equal(here.finding.p_value, there.finding.p_value)
    np.testing.assert_allclose(here.finding.effect, there.finding.effect)
    np.testing.assert_allclose(np.exp(here.changed / 50), there.changed)


def test_votes_without_a_time_or_of_one_time_tell_nothing():
    right = np.linspace(0, 1, 60)
    one_time = drift(np.zeros(60, int), np.zeros(60), right, 2)
    assert np.isnan(one_time.finding.p_value).all()
    time = np.r_[np.full(30, np.nan), np.arange(30.0)]
    some = drift(np.zeros(60, int), time, right, 1).finding
    assert some.n.tolist() == [30]
    assert some.p_value == drift(np.zeros(30, int), time[30:], right[30:], 1).finding.p_value
