"""One annotator or a few, where the temperature is averaged over: its scale, and who counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from denoise.simulate import simulate
from denoise.stages.em import em

OF_THE_LABELS = ["expected_wrong", "expected_wrong_low", "expected_wrong_high"]
OF_ANNOTATORS = ["reliability_low", "reliability_high"]


def few(n: int, seed: int = 0, votes: int = 1):
    return simulate(600, n, votes, reliability=np.full(n, 0.85), seed=seed)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0, 3000.0])
def test_margins_in_any_unit_are_told_from_votes_as_far_as_they_can_be(n, scale):
    """The belief in the temperature beforehand is about 1, so the unit matters a little."""
    s = few(n)
    scaled = s._replace(margin=s.margin * scale)
    result = em(scaled.dataset(), margin_column="margin")
    low, at, high = (result.summary[f"temperature{end}"] for end in ("_low", "", "_high"))
    assert low < at < high
    assert low < 1 / scale < high
    assert 0.5 < at * scale < 2
    assert result.summary["expected_wrong_low"] < s.wrong.sum()
    assert s.wrong.sum() < result.summary["expected_wrong_high"]
    assert (result.annotators["reliability_low"] < 0.85).all()
    assert (result.annotators["reliability_high"] > 0.85).all()


@pytest.mark.parametrize("scale", [1e-12, 1e-9, 1e-6, 5e-4, 1e9, 1e12])
def test_margins_of_any_size_have_an_interval(scale):
    """Rounding errors, as of a policy that is its reference, or nonsense."""
    for n, pairs in ((1, 600), (3, 600), (3, 12)):
        s = simulate(pairs, n, 1, reliability=np.full(n, 0.85), seed=n)
        scaled = s._replace(margin=s.margin * scale).dataset()
        summary = em(scaled, margin_column="margin").summary
        assert 0 <= summary["expected_wrong_low"] <= summary["expected_wrong_high"] <= pairs


def test_who_only_called_ties_makes_nobody_better_known():
    data = few(1, seed=3).dataset()
    idle = pl.DataFrame({"vote_id": range(600, 604), "pair_id": data.votes["pair_id"][:4]})
    idle = idle.with_columns(annotator_id="idle-" + pl.col("vote_id").cast(pl.String))
    idle = idle.with_columns(vote=pl.lit("tie")).cast(
        {name: kind for name, kind in data.votes.schema.items() if name in idle.columns}
    )
    more = replace(data, votes=pl.concat([data.votes, idle], how="diagonal"))
    one, other = (em(each, margin_column="margin") for each in (data, more))
    for key in ("temperature_low", "temperature_high", *OF_THE_LABELS):
        assert other.summary[key] == pytest.approx(one.summary[key], rel=1e-6), key
    known = other.annotators.filter(annotator_id="annotator-000000")
    for column in OF_ANNOTATORS:
        assert known[column].to_list() == pytest.approx(one.annotators[column].to_list())


def test_margins_that_are_taken_as_they_are_have_temperature_1():
    seen = 0
    for seed in range(12):
        s = simulate(40, 8, 2, spread=0.5, seed=seed)
        result = em(s.dataset(), margin_column="margin")
        if "taken as they are" in " ".join(result.notes):
            seen += 1
            assert result.summary["temperature"] == 1.0
    assert seen
