"""Agreement coefficients against published examples and another implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from denoise.crowd.answers import answers
from denoise.quality.agreement import class_counts, fleiss_kappa, gwet_ac1, krippendorff_alpha

COEFFICIENTS = (krippendorff_alpha, fleiss_kappa, gwet_ac1)

OBSERVERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
"""Krippendorff, *Computing Krippendorff's Alpha-Reliability*, 2011, section C: four observers,
twelve units. Also Gwet's *Handbook*, 4th ed., table 2.10."""

SUBJECTS = (
    *((0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1)),
    *((7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)),
)
"""https://en.wikipedia.org/wiki/Fleiss%27_kappa#Worked_example: fourteen raters, kappa 0.210."""


def observed() -> np.ndarray:
    counts = np.zeros((12, 5), np.int64)
    for line in OBSERVERS:
        for unit, said in enumerate(line):
            if said != ".":
                counts[unit, int(said) - 1] += 1
    return counts


@pytest.mark.parametrize(
    ("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_that_of_krippendorffs_example(level, alpha):
    found = krippendorff_alpha(observed(), level)
    assert found.value == pytest.approx(alpha, abs=5e-4)
    assert found.n == 11


def test_kappa_and_ac1_are_those_of_published_examples():
    assert fleiss_kappa(np.array(SUBJECTS)).value == pytest.approx(0.210, abs=5e-4)
    # Gwet's irrCAC on the four observers: https://irrcac.readthedocs.io
    assert fleiss_kappa(observed()).value == pytest.approx(0.76117, abs=5e-6)
    assert gwet_ac1(observed()).value == pytest.approx(0.77544, abs=5e-6)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["nominal", "ordinal", "interval"]))
def test_alpha_is_that_of_the_krippendorff_package(seed, level):
    oracle = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (rng.integers(1, 8), rng.integers(2, 5)))
    assume((counts.sum(0) > 0).sum() > 1 and (counts.sum(1) > 1).any())
    paired = counts[counts.sum(1) > 1]
    assume((paired.sum(0) > 0).sum() > 1)
    values = np.sort(rng.normal(size=counts.shape[1])) if level == "interval" else None
    expected = oracle.alpha(
        value_counts=counts,
        value_domain=np.arange(counts.shape[1]) if values is None else values,
        level_of_measurement=level,
    )
    found = krippendorff_alpha(counts, level, values, replicates=0)
    assert found.value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_order_and_names_of_classes_change_nothing(coefficient, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (6, 3))
    shuffled = counts[rng.permutation(6)][:, rng.permutation(3)]
    there, back = (coefficient(c, replicates=0).value for c in (counts, shuffled))
    assert there == pytest.approx(back, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_the_interval_covers_the_value_of_all_items(coefficient):
    rng = np.random.default_rng(0)

    def drawn(n: int) -> np.ndarray:
        easy = rng.choice([0.05, 0.3, 0.9], n)
        ones = rng.binomial(5, easy)
        return np.stack([ones, 5 - ones], 1)

    value = coefficient(drawn(400_000), replicates=0).value
    found = [coefficient(drawn(200), replicates=300, seed=i) for i in range(200)]
    inside = np.mean([each.low <= value <= each.high for each in found])
    assert 0.9 <= inside <= 0.99


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_what_cannot_be_told_is_not_a_number(coefficient):
    for counts in ([[1, 0], [0, 1]], [[0, 0]]):
        found = coefficient(np.array(counts))
        assert np.isnan([found.value, found.low, found.high]).all()
        assert found.n == 0
    unanimous = coefficient(np.array([[3, 0], [2, 0]])).value
    assert unanimous == 1.0 if coefficient is gwet_ac1 else np.isnan(unanimous)


def test_counts_are_of_the_votes():
    votes = answers(
        np.array([0, 0, 2, 2, 2]), np.array([0, 1, 0, 1, 2]), np.array([1, 1, 0, 2, 2]), 3, 3, 3
    )
    assert class_counts(votes).tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 2]]
