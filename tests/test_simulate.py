"""The simulator plants what it says: shares are counted on many votes, to 4 standard errors."""

from __future__ import annotations

import numpy as np
import pytest

from denoise.noise import sigmoid
from denoise.simulate import (
    NOISES,
    planted_reliability,
    reversed_margins,
    simulate,
    simulate_noise,
)

N_PAIRS = 20_000


def near(share: float, expected: float, n: int) -> bool:
    return abs(share - expected) < 4 * np.sqrt(0.25 / n)


@pytest.mark.parametrize("votes_per_pair", [1, 3, 5])
def test_a_pairs_annotators_differ_and_are_drawn_evenly(votes_per_pair):
    world = simulate(N_PAIRS, 5, votes_per_pair)
    by_pair = np.sort(world.annotator.reshape(N_PAIRS, votes_per_pair), axis=1)
    assert (np.diff(by_pair, axis=1) > 0).all()
    for count in np.bincount(world.annotator, minlength=5):
        assert near(count / N_PAIRS, votes_per_pair / 5, N_PAIRS)


def test_more_votes_than_annotators_are_refused():
    with pytest.raises(ValueError, match="4 votes a pair by 3"):
        simulate(10, 3, 4)


def test_truth_follows_the_margin_and_votes_the_reliability():
    world = simulate(N_PAIRS, reliability=np.array([0.95, 0.7, 0.5, 0.2]))
    assert near(world.truth.mean(), sigmoid(world.margin).mean(), N_PAIRS)
    sure = world.margin > 2
    assert near(world.truth[sure].mean(), sigmoid(world.margin[sure]).mean(), sure.sum())
    for annotator, reliability in enumerate(world.reliability):
        wrong = world.wrong[world.annotator == annotator]
        assert near(wrong.mean(), 1 - reliability, len(wrong))


def test_planted_annotators_are_skilled_but_for_the_careless():
    planted = planted_reliability(N_PAIRS, np.random.default_rng(0), careless=0.15)
    assert near((planted < 0.6).mean(), 0.15, N_PAIRS)
    assert planted[planted > 0.6].mean() == pytest.approx(0.5 + 0.5 * 12 / 14, abs=0.005)


@pytest.mark.parametrize("kind", NOISES)
def test_with_each_kind_of_noise_a_fifth_of_the_votes_is_wrong(kind):
    # The truth of a pair, or the annotators, are shared: the shares scatter more than votes do.
    world = simulate_noise(kind, N_PAIRS, 1000)
    assert world.wrong.mean() == pytest.approx(0.2, abs=0.015)
    right = np.bincount(world.annotator, ~world.wrong, 1000) / np.bincount(world.annotator)
    assert np.mean(right - world.reliability) == pytest.approx(0, abs=0.005)


def test_noise_depends_on_what_its_name_says():
    world = simulate_noise("class", N_PAIRS)
    preferred = world.truth[world.pair]
    assert near(world.wrong[preferred].mean(), 0.05, preferred.sum())
    assert near(world.wrong[~preferred].mean(), 0.35, (~preferred).sum())

    # Votes on one pair err together where the longer response draws them all, and not where the
    # response shown first differs from vote to vote.
    wrong = {kind: simulate_noise(kind, N_PAIRS).wrong.reshape(-1, 4) for kind in NOISES}
    together = {kind: np.corrcoef(each[:, 0], each[:, 1])[0, 1] for kind, each in wrong.items()}
    assert together["length"] > 0.05
    assert abs(together["position"]) < 0.03
    assert abs(together["random"]) < 0.03

    world = simulate_noise("drift", N_PAIRS, 4, 4)
    early = world.pair < N_PAIRS // 10
    late = world.pair >= N_PAIRS - N_PAIRS // 10
    assert near(world.wrong[early].mean(), 0.065, early.sum())
    assert near(world.wrong[late].mean(), 0.335, late.sum())


def test_an_unknown_kind_of_noise_is_refused():
    with pytest.raises(ValueError, match="unknown kind of noise 'colour'"):
        simulate_noise("colour")


def test_a_share_of_the_margins_is_reversed():
    margin = np.random.default_rng(1).normal(size=N_PAIRS)
    turned = reversed_margins(margin, 0.6, seed=2)
    assert (np.abs(turned) == np.abs(margin)).all()
    assert near((turned != margin).mean(), 0.6, N_PAIRS)


def test_the_dataset_says_what_the_arrays_say():
    world = simulate(50, 6, 2, seed=3)
    data = world.dataset()
    pairs, votes = data.preferences()
    assert pairs["margin"].to_list() == world.margin.tolist()
    assert votes["vote_id"].to_list() == list(range(100))
    assert votes["pair_id"].to_list() == [f"pair-{j:07d}" for j in world.pair]
    assert votes["annotator_id"].to_list() == [f"annotator-{k:06d}" for k in world.annotator]
    assert ((votes["vote"] == "a").to_numpy() == (world.sign > 0)).all()


def test_a_seed_gives_one_world_and_another_seed_another():
    first, again, other = simulate(100, seed=1), simulate(100, seed=1), simulate(100, seed=2)
    for mine, theirs in zip(first, again, strict=True):
        assert (mine == theirs).all()
    assert (first.margin != other.margin).any()
