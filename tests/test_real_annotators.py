"""The sums of the experiment with real annotators; its trainings run by hand (BENCHMARKS.md)."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import real_annotators as experiment

from denoise import em, import_data
from denoise.simulate import simulate
from denoise.stages.em import write_em


@pytest.fixture
def source(tmp_path):
    """Two items of three votes each; the second item has no estimate of the truth."""
    item = ["t|x_y"] * 3 + ["t|x_z"] * 3
    label = ["a1", "a2", "a1", "a2", "a2", "a1"]
    votes = {"x": "text x", "y": "text y", "z": "text z"}
    sides = [("x", i[-1]) if v == "a1" else (i[-1], "x") for i, v in zip(item, label, strict=True)]
    annotator = ["u", "v", "w"] * 2
    pl.DataFrame(
        {
            "item": item,
            "prompt": ["p"] * 6,
            "chosen": [votes[c] for c, _ in sides],
            "rejected": [votes[r] for _, r in sides],
            "annotator": annotator,
        }
    ).write_parquet(tmp_path / "pairs.parquet")
    labels = pl.DataFrame({"item": item, "annotator": annotator, "label": label})
    labels.write_parquet(tmp_path / "labels.parquet")
    gold = pl.DataFrame({"item": ["t|x_y", "t|x_z"], "label": ["a1", None]})
    gold.write_parquet(tmp_path / "mace_gold.parquet")
    rank = pl.DataFrame({"#id": ["x", "y", "z"], "rank": ["0.1", "0.3", "0.2"]})
    rank.write_parquet(tmp_path / "author_rank.parquet")
    return tmp_path


def test_what_is_known_is_told_along_response_a(source):
    votes, facts = experiment.read_source(source)
    assert facts.rows(named=True)[0] == {
        "item": "t|x_y",
        "prompt": "p",
        "topic": "t",
        "first": "text x",
        "second": "text y",
        "first_better": True,
        "first_rank": 0.1,
        "second_rank": 0.3,
    }
    seen = votes.unique("item", keep="first", maintain_order=True)
    hidden = votes.join(seen, on=["item", "annotator"], how="anti")
    data = import_data(seen.select("prompt", "chosen", "rejected", "annotator"))
    truth = experiment.known(data, facts, hidden)
    assert len(truth) == 2
    for row in truth.iter_rows(named=True):
        if "text y" in (row["a"], row["b"]):
            straight = row["a"] == "text x"
            assert row["a_better"] is straight
            assert row["for_a"] == row["against_a"] == 1
            assert (row["rank_a"] < row["rank_b"]) is straight
        else:
            straight = row["a"] == "text z"
            assert row["a_better"] is None
            assert (row["for_a"], row["against_a"]) == (1, 1)


def test_evidence_is_told_along_response_a(tmp_path):
    s = simulate(200, 10, 2, seed=1)
    data = s.dataset()
    write_em(em(data, margin_column="margin"), tmp_path / "em")
    found = experiment.evidence(data.pairs.select("pair_id"), tmp_path / "em")
    for_a = pl.Series(s.margin)  # of the simulation's pairs, in order
    assert found["margin"].to_list() == pytest.approx(for_a.to_list())
    sure = found.filter(pl.col("margin").abs() > 3)
    assert ((sure["posterior"] > 0.5) == (sure["margin"] > 0)).mean() > 0.9


@pytest.fixture
def told():
    """Four pairs: right, wrong, undecided, and one whose truth is not known."""
    return pl.DataFrame(
        {
            "prompt": ["p", "p", "q", "q"],
            "topic": ["t"] * 4,
            "a": ["x", "x", "y", "z"],
            "b": ["y", "z", "z", "w"],
            "rank_a": [0.1, 0.1, 0.2, 0.3],
            "rank_b": [0.2, 0.3, 0.3, 0.4],
            "a_better": [True, False, True, None],
            "posterior": [0.9, 0.8, 0.5, 0.3],
            "margin": [1.0, -1.0, 2.0, 1.0],
            "for_a": [3, 0, 0, 1],
            "against_a": [1, 0, 0, 3],
        }
    )


def test_figures_of_a_round(told):
    found = experiment.figures(told)
    assert found["accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["model"] == 1.0
    assert found["ranking"] is None  # too few arguments
    assert found["hidden"] == pytest.approx((3 + 3) / 8)
    assert found["brier"] == pytest.approx((0.01 + 0.64 + 0.25) / 3)
    unscored = experiment.figures(told.with_columns(margin=pl.lit(None, pl.Float64)))
    assert unscored["model"] is None


def test_the_ranking_follows_the_posteriors(told):
    """Twelve arguments that beat each other as they are ranked, then the other way round."""
    pairs = [(i, j) for i in range(12) for j in range(i + 1, 12)]
    frame = pl.DataFrame(
        {
            "topic": ["t"] * len(pairs),
            "a": [str(i) for i, _ in pairs],
            "b": [str(j) for _, j in pairs],
            "rank_a": [float(i) for i, _ in pairs],
            "rank_b": [float(j) for _, j in pairs],
            "posterior": [0.9] * len(pairs),
        }
    )
    assert experiment.ranking(frame) == pytest.approx(1.0)
    assert experiment.ranking(frame.with_columns(posterior=0.1)) == pytest.approx(-1.0)


def test_changes_are_bounded_over_stances(told):
    better = told.with_columns(posterior=pl.Series([0.9, 0.2, 0.9, 0.3]))
    found = experiment.changes(told, better, seed=0)
    # Stance p gains 1 of 2 pairs, q ½ of 1.
    assert found["accuracy_low"] == pytest.approx(0.5)
    assert found["accuracy_high"] == pytest.approx(0.5)
    same = experiment.changes(told, told, seed=0)
    assert same["hidden_low"] == same["hidden_high"] == 0.0
    worse = told.with_columns(posterior=pl.Series([0.1, 0.8, 0.5, 0.3]))
    found = experiment.changes(told, worse, seed=0)
    assert found["accuracy_low"] == pytest.approx(-0.5)
    assert found["accuracy_high"] == 0.0
    assert np.isfinite(found["hidden_low"])
