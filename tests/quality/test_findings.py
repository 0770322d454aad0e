"""Tests of annotators: against brute force, against planted trouble, and quiet in clean crowds."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
from audit_crowds import audited, crowd
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from denoise.crowd.answers import answers
from denoise.quality.bias import bias
from denoise.quality.copies import copies
from denoise.quality.finding import Finding, discoveries
from denoise.quality.mixture import share
from denoise.quality.others import Crowd
from denoise.quality.skill import skill


def small_crowd(seed: int, n_classes: int = 3) -> Crowd:
    rng = np.random.default_rng(seed)
    item, annotator = np.divmod(np.arange(12), 4)
    votes = answers(item, annotator, rng.integers(n_classes, size=12), 3, 4, n_classes)
    confusion = rng.dirichlet(np.ones(n_classes), (4, n_classes))
    return Crowd(votes, confusion, rng.dirichlet(np.ones(n_classes)))


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_without_one_or_two_votes_is_that_of_enumeration(seed):
    crowd_ = small_crowd(seed)
    votes, pi = crowd_.votes, crowd_.confusion
    prior = np.exp(crowd_._log_prior[0])
    alone = crowd_.without_own()
    for i, k in product(range(4), range(4)):
        expected = prior.copy()
        for other in {0, 1, 2, 3} - {i, k}:
            expected *= pi[votes.annotator[other], :, votes.label[other]]
        expected /= expected.sum()
        if i == k:
            np.testing.assert_allclose(alone[i], expected, rtol=1e-9)
        else:
            pair = crowd_.without(np.array([i]), np.array([k]))[0]
            np.testing.assert_allclose(pair, expected, rtol=1e-9)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_the_share_is_where_the_likelihood_is_largest(seed):
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=40)
    base, other = rng.uniform(0.05, 0.95, (2, 40))
    found = share(group, base, other - base, 4)
    assert np.isnan(found.value[3])
    for g in range(3):
        here = group == g
        if not here.any():
            continue

        def minus(x, here=here):
            return -np.log(np.maximum((base + x * (other - base))[here], 1e-12)).sum()

        a, d = base[here], (other - base)[here]
        least = max((np.where(d > 0, -a, 1 - a) / d).max(), -1e6)  # 0 ≤ a + x·d ≤ 1
        best = minimize_scalar(minus, bounds=(min(least, 0), 1), method="bounded")
        assert minus(found.value[g]) <= best.fun + 1e-6
        for end in (found.low[g], found.high[g]):
            fallen = minus(end) - minus(found.value[g])
            inside = min(least, 0.0) + 1e-6 < end < 1 - 1e-6
            assert fallen <= 1.9208 or not inside
            assert fallen == pytest.approx(1.9207, abs=1e-3) or not inside


def test_a_few_votes_against_the_others_are_no_proof():
    rng = np.random.default_rng(0)
    votes_each, n_annotators, n_classes = 3, 2_000, 3
    item = np.arange(n_annotators * votes_each)
    annotator, label = item // votes_each, rng.integers(n_classes, size=len(item))
    votes = answers(item, annotator, label, len(item), n_annotators, n_classes)
    confusion = np.full((n_annotators, n_classes, n_classes), 1 / 3)
    truth = rng.dirichlet(np.full(n_classes, 0.3), len(item))
    told = skill(Crowd(votes, confusion, np.full(n_classes, 1 / 3)), truth)
    assert np.mean(told.adversary.p_value < 0.01) < 0.02
    assert told.informed.value.min() > -5


def test_an_unbiased_annotators_p_values_are_even():
    rng = np.random.default_rng(0)
    n_annotators, n = 2_000, 100
    annotator = np.repeat(np.arange(n_annotators), n)
    sure = rng.choice([0.02, 0.1, 0.9, 0.98], size=len(annotator), p=[0.15, 0.15, 0.3, 0.4])
    right_side = rng.random(len(annotator)) < sure  # of four truths three are on the side
    chose = np.where(rng.random(len(annotator)) < 0.85, right_side, ~right_side)
    p = bias(annotator, chose, sure, n_annotators).p_value
    # 2,000 tests at 5 % and 1 %: within three standard errors.
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(p < 0.01) == pytest.approx(0.01, abs=0.007)


def test_turning_the_side_turns_the_bias():
    rng = np.random.default_rng(1)
    annotator, q = np.repeat(np.arange(5), 30), rng.random(150)
    chose = rng.random(150) < 0.7
    there, back = bias(annotator, chose, q, 5), bias(annotator, ~chose, 1 - q, 5)
    np.testing.assert_allclose(there.p_value, back.p_value, rtol=1e-9)
    np.testing.assert_allclose(there.effect, -back.effect, atol=1e-12)


def test_discoveries_are_of_what_was_asked():
    nan = np.full(4, np.nan)
    finding = Finding(np.array([np.nan, 1e-9, 0.5, 0.02]), nan, nan, nan, nan)
    assert discoveries(finding.p_value, 0.05).tolist() == [False, True, False, True]
    assert discoveries(finding.p_value, 0.01).tolist() == [False, True, False, False]
    assert not discoveries(nan, 0.05).any()


def test_planted_trouble_is_found_and_laid_to_the_right_annotators():
    found, false = dict.fromkeys(("spammer", "adversary", "position", "length", "drift"), 0), 0
    for seed in range(5):
        world = crowd(seed, trouble=True)
        flags = audited(world)
        for kind in found:
            found[kind] += len(flags[kind] & set(world.planted[kind]))
            false += len(flags[kind] - set(world.planted[kind]))
    # 10 of each; exp_audit.py has the shares.
    assert min(found.values()) >= 8, found
    assert false <= 2


def test_copies_of_those_who_err_are_found():
    for seed in range(3):
        world = crowd(seed, trouble=True, source=0.85)
        flags = audited(world)["copies"]
        assert flags >= {tuple(sorted(pair)) for pair in world.copied}


def test_pairs_of_votes_laid_out_in_parts_say_the_same_in_less_memory(monkeypatch):
    rng = np.random.default_rng(0)
    n_items, n_annotators, n_classes = 25, 60, 3
    item, annotator = np.divmod(np.arange(n_items * n_annotators), n_annotators)
    label = rng.integers(n_classes, size=len(item))
    votes = answers(item, annotator, label, n_items, n_annotators, n_classes)
    confusion = rng.dirichlet(np.ones(n_classes), (n_annotators, n_classes))
    crowd_ = Crowd(votes, confusion, np.full(n_classes, 1 / n_classes))
    copies(crowd_)  # compiles
    found, peak = {}, {}
    for at_once in (10**9, 1):  # a part has no fewer than there are votes, 1,500
        monkeypatch.setattr("denoise.quality.copies.AT_ONCE", at_once)
        tracemalloc.start()
        found[at_once] = copies(crowd_)
        peak[at_once] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    whole, parts = found.values()
    assert len(whole.first) == 60 * 59 // 2 and np.isfinite(whole.finding.p_value).all()
    np.testing.assert_array_equal((whole.first, whole.second), (parts.first, parts.second))
    np.testing.assert_allclose(whole.finding, parts.finding, rtol=1e-9)
    assert whole.common == pytest.approx(parts.common, rel=1e-9)
    assert peak[1] < peak[10**9] / 2


def test_clean_crowds_have_no_flags():
    flags = [audited(crowd(seed, trouble=False)) for seed in range(10)]
    assert sum(any(found.values()) for found in flags) <= 1


def test_order_and_names_change_nothing():
    world = crowd(3, trouble=True)
    votes = world.votes
    rng = np.random.default_rng(0)
    names, order = rng.permutation(votes.n_annotators), rng.permutation(len(votes.label))
    again = answers(
        votes.item[order],
        names[votes.annotator[order]],
        votes.label[order],
        votes.n_items,
        votes.n_annotators,
        2,
    )
    back = np.lexsort((names[votes.annotator], votes.item))
    other = world._replace(
        votes=again, first=world.first[back], longer=world.longer[back], time=world.time[back]
    )
    here, there = audited(world), audited(other)
    for kind in ("spammer", "adversary", "position", "length"):
        assert {int(names[k]) for k in here[kind]} == there[kind]
    renamed = {tuple(sorted((int(names[a]), int(names[b])))) for a, b in here["copies"]}
    assert renamed == there["copies"]
