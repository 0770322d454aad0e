"""The sums of the audit on real tables, by hand, and its command line on planted ones."""

from __future__ import annotations

import sys

import audit_real as experiment
import numpy as np
import polars as pl
import pytest
from audit_cases import labels


def rows(*triples: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(triples, schema=["item_id", "annotator_id", "label"], orient="row")


def test_shares_by_hand():
    """x: two of three are right; y: a tie counts half; z: none is right; v has no label."""
    votes = rows(
        ("x", "a", "1"),
        ("x", "b", "1"),
        ("x", "c", "0"),
        ("y", "a", "0"),
        ("y", "b", "1"),
        ("z", "a", "0"),
    )
    truth = pl.DataFrame({"item_id": ["v", "x", "y", "z"], "truth": ["1", "1", "1", "1"]})
    np.testing.assert_array_equal(experiment.by_share(votes, truth), [np.nan, 1.0, 0.5, 0.0])
    weighted = votes.with_columns(weight=pl.Series([1.0, 1.0, 3.0, 1.0, 2.0, -1.0]))
    np.testing.assert_array_equal(experiment.by_share(weighted, truth), [np.nan, 0.0, 1.0, 0.0])
    items = pl.DataFrame({"item_id": ["x", "y", "z"], "label": ["1", "0", "1"]})
    np.testing.assert_array_equal(experiment.right(items, truth), [np.nan, 1.0, 0.0, 1.0])


def test_a_change_is_of_the_items_that_both_have():
    before, after = np.array([1.0, 0.0, 0.0, np.nan]), np.array([1.0, 1.0, np.nan, 1.0])
    change, low, high = experiment.changed(before, after)
    assert change == 0.5 and low == 0.0 and high == 1.0


def test_those_with_fewer_known_answers_are_not_ranked():
    votes = rows(*((str(i), "a", "1") for i in range(10)), *((str(i), "b", "0") for i in range(9)))
    truth = pl.DataFrame({"item_id": [str(i) for i in range(10)], "truth": ["1"] * 10})
    assert experiment.on_known(votes, truth).rows() == [("a", 1.0)]


def test_the_command_line_on_planted_tables(monkeypatch, tmp_path, capsys):
    reliability = np.append(np.linspace(0.7, 0.95, 11), 1 / 3)
    for seed, name in enumerate(("one", "two")):
        frame, truth = labels(300, 12, each=6, reliability=reliability, seed=seed)
        names = {"item_id": "item", "annotator_id": "annotator"}
        (tmp_path / name).mkdir()
        frame.rename(names).write_parquet(tmp_path / name / "labels.parquet")
        truth.rename({"item_id": "item"}).write_parquet(tmp_path / name / "truth.parquet")
    words = ["audit_real.py", str(tmp_path), "--sets", "one", "two", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    experiment.main()
    capsys.readouterr()
    table = pl.read_csv(tmp_path / "out" / "audit_real.csv")
    assert table["set"].to_list() == ["one", "two", "mean"]
    assert table["reliability"].min() > 0.7 and table["expected_right"].min() > 0.7
    text = (tmp_path / "out" / "audit_real.md").read_text(encoding="utf-8")
    assert "Of 12 changes of accuracy" in text
    assert (tmp_path / "out" / "audit_real.svg").exists()


@pytest.mark.parametrize("words", [["--labels", "2000", "--annotators", "10"]])
def test_the_benchmark_of_a_million_runs_on_fewer(monkeypatch, capsys, words):
    import bench_audit

    monkeypatch.setattr(sys, "argv", ["bench_audit.py", *words])
    bench_audit.main()
    said = capsys.readouterr().out
    assert said.count("\n| ") == 6 and "2,000 labels, 10 annotators" in said
