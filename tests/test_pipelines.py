"""Each experiment runs from its command line, on small cases, and its figures are sane.

What the numbers are held against is stated for two seeds and few votes, so the limits are wide; the
full runs are in `benchmarks/`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import experiment
import numpy as np
import polars as pl
import pytest

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run an experiment as its command line would, and read what it wrote: text and figures."""

    def run_script(name: str, *options: str) -> tuple[str, pl.DataFrame]:
        script = PIPELINES / f"exp_{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), "--quick", "--out", str(tmp_path), *options])
        runpy.run_path(str(script), run_name="__main__")
        text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
        picture = ElementTree.parse(tmp_path / f"{name}.svg")
        assert f"]({name}.svg)" in text
        assert f"`python pipelines/exp_{name}.py --quick" in text
        assert "nan" not in text
        assert len(list(picture.iter("{http://www.w3.org/2000/svg}path"))) >= 2
        assert f"{name}.csv" in capsys.readouterr().out
        return text, pl.read_csv(tmp_path / f"{name}.csv")

    return run_script


def figure(table: pl.DataFrame, column: str, **where) -> float:
    return table.filter(**where)[column].item()


def test_recovery_finds_what_was_planted(run):
    _, table = run("recovery")
    # A single vote a pair tells auto mode the product of temperature and reliability better than
    # either, and with 1,000 votes it may call a reliability not identified.
    told = table.filter(
        (pl.col("mode") == "paper") | pl.col("world").str.ends_with("two votes a pair")
    )
    assert (told["estimate"] - told["planted"]).abs().max() < 0.1
    assert (told["told"] == 1).all()
    assert table["seeds"].unique().to_list() == [2]


def test_miscalibration_reproduces_the_design_page_and_harms_only_in_paper_mode(run):
    text, table = run("miscalibration", "--modes", "paper", "auto", "ignore")
    dense = table.filter(votes_a_pair=4)
    for distortion, error, auc in (("as is", 0.045, 0.907), ("× 10", 0.160, 0.869)):
        row = {"distortion": distortion, "mode": "paper"}
        assert figure(dense, "reliability_error", **row) == pytest.approx(error, abs=0.03)
        assert figure(dense, "auc", **row) == pytest.approx(auc, abs=0.03)
    assert dense.filter(mode="auto")["gain"].min() > -0.005
    assert figure(dense, "gain", mode="paper", distortion="60 % reversed") < -0.4
    assert figure(dense, "auc", mode="known", distortion="as is") >= dense["auc"].max()
    assert "| 60 % reversed | 4 | 50 | 0.461 / 0.415 | 0.028 / 0.990 |" in text


def test_sparsity_errs_less_with_more_votes(run):
    _, table = run("sparsity", "--modes", "paper", "auto")
    for mode in ("paper", "auto"):
        for votes in (4, 1):
            here = {"mode": mode, "votes_a_pair": votes}
            few = figure(table, "reliability_error", votes_an_annotator=2, **here)
            assert figure(table, "reliability_error", votes_an_annotator=100, **here) < few
    sparse = {"votes_a_pair": 4, "votes_an_annotator": 2}
    assert figure(table, "auc", mode="auto", **sparse) > figure(
        table, "auc", mode="paper", **sparse
    )


def test_long_tail_finds_the_good_among_many_bad(run):
    _, table = run("long_tail", "--modes", "paper", "auto")
    for mode in ("paper", "auto"):
        assert figure(table, "ranking", mode=mode, good=0.5) > 0.95
        assert figure(table, "found", mode=mode, good=0.2) > 0.6


def test_ablation_has_every_pair_of_settings_beside_full_batch(run):
    _, table = run("ablation")
    assert set(table["schedule"]) == {"α = 0.1", "α = 1", "full batch", "auto mode"}
    full = table.filter(schedule="full batch")["reliability_error"]
    assert full.max() - full.min() < 0.01  # EM finds the same maximum from any start
    assert figure(table, "reliability_error", schedule="α = 1", eta0=0.9) > full.max()


def test_noise_kinds_are_all_there_and_pooling_helps_with_each(run):
    _, table = run("noise_kinds", "--modes", "auto", "no-pool")
    pooled = table.filter(votes_a_pair=4, mode="auto").sort("noise")
    alone = table.filter(votes_a_pair=4, mode="no-pool").sort("noise")
    assert len(pooled) == 6
    assert (pooled["auc"] > alone["auc"]).all()


def test_coverage_counts_intervals_and_wrong_labels(run):
    _, table = run("coverage")
    assert table["covered"].is_between(0.75, 1.0).all()
    assert (table["present"] > 0.5).all()
    auto = table.filter(mode="auto")
    assert auto["wrong_covered"].is_between(0, 1).all()
    assert auto["width"].min() > 0


def test_a_mode_can_be_left_out(run):
    _, table = run("sparsity", "--modes", "paper", "--seeds", "1")
    assert set(table["mode"]) == {"paper"}
    assert set(table["seeds"]) == {1}


def test_auc_is_the_share_of_pairs_in_the_right_order():
    generator = np.random.default_rng(0)
    score = generator.integers(0, 5, 40).astype(float)
    positive = generator.random(40) < 0.4
    gap = score[positive][:, None] - score[~positive][None, :]
    expected = ((gap > 0) + 0.5 * (gap == 0)).mean()
    assert experiment.auc(score, positive) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(experiment.auc(score, np.ones(40, bool)))


def test_figures_are_averaged_over_seeds_with_a_standard_error():
    column = experiment.Column("x", "X")
    values = [1.0, 2.0, 6.0]
    rows = [{"case": 1, "mode": "auto", "seed": s, "x": v} for s, v in enumerate(values)]
    rows.append({"case": 2, "mode": "auto", "seed": 0, "x": float("nan")})
    table = experiment.over_seeds(rows, ["case", "mode"], [column])
    assert experiment.value(table, column, case=1) == 3.0
    assert table["x_se"][0] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    text = experiment.markdown(experiment.wide(table, ["case"], column))
    assert text.splitlines()[2:] == ["| 1 | 3.000 ± 1.528 |", "| 2 | – |"]


def test_the_audit_finds_what_was_planted(run):
    text, table = run("audit")
    for kind in ("spammer", "adversary", "position", "length", "copies of one at 0.85"):
        assert figure(table, "found", votes=100, kind=kind) >= 0.5
    assert "## Clean crowds, of 2, with a flag" in text
