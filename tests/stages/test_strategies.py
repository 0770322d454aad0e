"""Strategies for trainers without weights: by hand, and against the loss they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from small_pairs import make

from denoise import em, export
from denoise.errors import InputError
from denoise.stages.export import Export
from denoise.stages.strategies import STRATEGIES, for_reward_model, turned, with_strategy

WEIGHTS = [0.9, 0.5, 0.2, 1.0, 0.0, 0.65]


def exported(rows: str = "votes") -> Export:
    """Six rows with those weights, their texts told apart by the margin along `chosen`."""
    data = make(6)
    result = em(data)
    confidences = result.confidences.with_columns(
        confidence=pl.Series(WEIGHTS), margin=pl.Series([1.0, 2, 3, 4, 5, 6])
    )
    if rows == "pairs":
        posterior = (
            pl.when(pl.col("vote") == "a").then("confidence").otherwise(1 - pl.col("confidence"))
        )
        confidences = confidences.with_columns(pair_posterior=posterior)
    return export(data, confidences, rows=rows)


def loss(frame: pl.DataFrame) -> np.ndarray:
    """L of a row's `chosen` over its `rejected`, for a model whose margin is that column."""
    return np.logaddexp(0, -frame["margin"].to_numpy())


def weighted_loss() -> float:
    frame = exported().frame
    other = turned(frame, pl.repeat(True, len(frame), eager=True))
    w = frame["weight"].to_numpy()
    return float(np.sum(w * loss(frame) + (1 - w) * loss(other)))


def test_weight_changes_nothing():
    result = exported()
    assert with_strategy(result, "weight") is result


def test_filter_keeps_what_is_sure_and_says_what_is_not():
    found = with_strategy(exported(), "filter", threshold=0.65)
    assert found.frame["weight"].to_list() == [0.9, 1.0, 0.65]
    assert found.skipped["reason"].to_list() == ["its weight is below 0.65"] * 3
    assert set(found.skipped["vote_id"]) == {1, 2, 4}
    assert found.provenance.settings["threshold"] == 0.65


def test_flip_turns_the_unlikely_labels_round():
    before, after = exported().frame, with_strategy(exported(), "flip").frame
    assert after["weight"].to_list() == pytest.approx([0.9, 0.5, 0.8, 1.0, 1.0, 0.65])
    assert after["margin"].to_list() == [1, 2, -3, 4, -5, 6]
    for row in (2, 4):
        assert after["chosen"][row] == before["rejected"][row]
        assert after["rejected"][row] == before["chosen"][row]
    assert after["chosen"][0] == before["chosen"][0]


def test_flip_has_nothing_to_turn_among_pairs():
    found = with_strategy(exported("pairs"), "flip")
    assert found.frame.equals(exported("pairs").frame)
    assert any("nothing to turn" in note for note in found.notes)


def test_duplicate_is_the_weighted_loss_exactly():
    frame = with_strategy(exported(), "duplicate").frame
    total = float(np.sum(frame["row_weight"].to_numpy() * loss(frame)))
    assert total == pytest.approx(weighted_loss(), rel=1e-12)
    assert len(frame) == 2 * 6 - 2  # a weight of 0 or 1 leaves one orientation
    assert (frame["row_weight"] > 0).all()


def test_sample_is_the_weighted_loss_on_average():
    """The mean over 2,000 seeds lies within four standard errors."""
    result = exported()
    totals = [loss(with_strategy(result, "sample", seed=s).frame).sum() for s in range(2000)]
    error = np.std(totals) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - weighted_loss()) < 4 * error
    assert error > 0


def test_draws_are_numbered_and_differ():
    frame = with_strategy(exported(), "sample", draws=50, seed=1).frame
    assert len(frame) == 300
    assert frame["draw"].to_list()[:50] == list(range(50))
    shares = frame.with_columns(row=pl.int_range(pl.len()) // 50).group_by(
        "row", maintain_order=True
    )
    kept = shares.agg((pl.col("margin") > 0).mean())["margin"].to_list()
    assert kept[3] == 1.0
    assert kept[4] == 0.0
    assert np.abs(np.array(kept) - WEIGHTS).max() < 4 * 0.5 / np.sqrt(50)


def test_equal_seeds_draw_equal_rows():
    one, two, other = (with_strategy(exported(), "sample", seed=s).frame for s in (3, 3, 4))
    assert one.equals(two)
    assert not one.equals(other)


def test_rows_for_a_reward_model_have_a_margin_of_0_to_1():
    frame = for_reward_model(exported()).frame
    assert frame["reward_margin"].to_list() == pytest.approx([0.8, 0, 0.6, 1, 1, 0.3])
    assert (frame["weight"] >= 0.5).all()


@pytest.mark.parametrize("strategy", ["sample", "duplicate"])
def test_rows_in_drawn_or_in_both_orientations_are_not_for_a_margin(strategy):
    said = rf"--for reward.*{strategy}; give --strategy filter or flip, or leave --for out"
    with pytest.raises(InputError, match=said):
        for_reward_model(with_strategy(exported(), strategy))
    with pytest.raises(InputError, match=said):
        with_strategy(for_reward_model(exported()), strategy)


def test_rows_for_a_reward_model_may_be_filtered_and_flipped():
    for strategy, margins in (("filter", [0.8, 0, 1, 0.3]), ("flip", [0.8, 0, 0.6, 1, 1, 0.3])):
        frame = for_reward_model(with_strategy(exported(), strategy)).frame
        assert frame["reward_margin"].to_list() == pytest.approx(margins)


@pytest.mark.parametrize(
    ("strategy", "options", "said"),
    [
        ("weigh", {}, "no such strategy"),
        ("filter", {"threshold": 2.0}, "threshold is out of range"),
        ("sample", {"draws": 0}, "draws is out of range"),
        ("flip", {"seed": 3}, "seed or draws means nothing to flip"),
        ("sample", {"threshold": 0.9}, "threshold means nothing to sample"),
    ],
)
def test_wrong_settings_are_refused(strategy, options, said):
    with pytest.raises(InputError, match=said):
        with_strategy(exported(), strategy, **options)


def test_a_threshold_that_leaves_nothing_is_refused():
    result = exported()
    low = result.frame.with_columns(weight=pl.lit(0.4))
    with pytest.raises(InputError, match=r"no row has a weight of 0.5, found '?0.4"):
        with_strategy(replace(result, frame=low), "filter")


def test_every_strategy_has_a_name_that_is_told():
    for strategy in STRATEGIES[1:]:
        settings = with_strategy(exported(), strategy).provenance.settings
        assert settings["strategy"] == strategy
