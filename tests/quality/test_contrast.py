"""Fast answers and slices: p-values by enumeration, their level, and planted trouble."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

import denoise.quality.contrast as module
from denoise.quality.contrast import beyond_slice, contrast, speed


def test_the_p_value_is_that_of_all_groups_of_that_size(monkeypatch):
    """Eight votes, three inside: 56 groups, counted by hand."""
    monkeypatch.setattr(module, "LEAST", 2)
    monkeypatch.setattr(module, "ENOUGH", 10**9)
    right = np.array([0.1, 0.9, 0.3, 0.8, 0.7, 0.95, 0.2, 0.6])
    inside = np.array([1, 0, 1, 0, 0, 0, 0, 1], bool)
    seen = right[inside].sum()
    exact = np.mean([right[list(g)].sum() <= seen + 1e-12 for g in combinations(range(8), 3)])
    found = contrast(np.zeros(8, int), inside, right, 1, permutations=200_000)
    assert found.p_value[0] == pytest.approx(exact, abs=4 * np.sqrt(exact / 200_000))
    assert found.effect[0] == pytest.approx(right[inside].mean() - right[~inside].mean())
    assert found.n[0] == 3


def test_where_nothing_is_wrong_p_values_are_no_smaller_than_uniform():
    rng = np.random.default_rng(0)
    n, k = 40, 500
    annotator = np.repeat(np.arange(k), n)
    inside = rng.random(n * k) < 0.4
    right = np.where(rng.random(n * k) < 0.9, 0.95, 0.05)
    p = contrast(annotator, inside, right, k).p_value
    p = p[np.isfinite(p)]
    assert len(p) > 450
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level / len(p))


def test_few_votes_on_either_side_are_not_asked():
    found = contrast(np.zeros(30, int), np.arange(30) < 9, np.ones(30), 2)
    assert np.isnan(found.p_value).all() and np.isnan(found.effect).all()


def test_order_of_votes_does_not_matter(monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 10**9)
    rng = np.random.default_rng(1)
    annotator = rng.integers(3, size=150)
    inside, right = rng.random(150) < 0.5, rng.random(150)
    here = contrast(annotator, inside, right, 3)
    order = rng.permutation(150)
    there = contrast(annotator[order], inside[order], right[order], 3)
    np.testing.assert_allclose(here.effect, there.effect)
    np.testing.assert_allclose(here.p_value, there.p_value, atol=0.02)


def test_speed_by_hand():
    """Median of all 9 s, so under 3 s is fast; votes without a time do not count."""
    seconds = np.array([2.0, 9.0, 10.0, 8.0, 9.0, np.nan, -1.0, 30.0])
    annotator = np.array([0, 0, 0, 1, 1, 1, 2, 3])
    found = speed(annotator, seconds, np.ones(8), 5)
    assert found.limit == pytest.approx(3.0)
    np.testing.assert_allclose(found.median, [9.0, 8.5, np.nan, 30.0, np.nan])
    np.testing.assert_allclose(found.share, [1 / 3, 0.0, np.nan, 0.0, np.nan])


def test_fast_answers_at_chance_are_found():
    rng = np.random.default_rng(2)
    annotator = np.repeat(np.arange(10), 100)
    seconds = rng.lognormal(2, 0.3, 1000)
    fast = (annotator == 3) & (rng.random(1000) < 0.4)
    seconds[fast] = 0.5
    right = np.where(rng.random(1000) < np.where(fast, 0.5, 0.9), 0.9, 0.1)
    found = speed(annotator, seconds, right, 10).finding
    assert found.p_value[3] < 1e-3 and found.effect[3] < -0.2
    assert np.isnan(np.delete(found.p_value, 3)).all()


def test_what_is_beyond_the_slice_is_less_the_others_mean():
    annotator = np.array([0, 0, 1, 1, 2])
    part = np.array([0, 1, 0, 1, 0])
    right = np.array([0.9, 0.2, 0.5, 0.4, 0.7])
    found = beyond_slice(annotator, part, right, 3, 2)
    expected = [0.9 - 0.6, 0.2 - 0.4, 0.5 - 0.8, 0.4 - 0.2, 0.7 - 0.7]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    alone = beyond_slice(np.array([0]), np.array([0]), np.array([0.5]), 1, 1)
    assert np.isnan(alone).all()
