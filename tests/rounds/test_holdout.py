"""Plain against denoised on trusted pairs: counts by hand, and the errors of the interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from run_cases import COMMAND, labelled
from small_pairs import make

from denoise.dataset import Dataset
from denoise.errors import InputError
from denoise.rounds import run
from denoise.rounds.folds import assign_folds
from denoise.rounds.holdout import compare, compare_policies, trusted_sides
from denoise.scores import write_scores


def test_the_counts_of_a_hand_worked_comparison():
    """Ten pairs: both right on 5, plain alone on 1, denoised alone on 3, neither on 1.

    Accuracies 0.6 and 0.8. McNemar, exact: of 4 pairs 3 or more on one side, twice 5/16 = 0.625.
    Differences: three 1, one −1, six 0: mean 0.2, variance (4 − 10·0.04)/9 = 0.4, so the half
    width is 1.96·√0.04 = 0.392.
    """
    plain = np.array([1, 1, 1, 1, 1, 1, -1, -1, -1, -1.0])
    denoised = np.array([1, 1, 1, 1, 1, -1, 1, 1, 1, -1.0])
    found = compare(plain, denoised)
    assert (found.n, found.plain, found.denoised) == (10, 0.6, 0.8)
    assert (found.only_plain, found.only_denoised) == (1, 3)
    assert found.p_value == pytest.approx(0.625)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.392, 0.2 + 0.392))


def test_a_margin_of_0_is_half_right():
    assert compare(np.array([0.0, 1.0]), np.array([1.0, 1.0])).plain == 0.75


def test_the_interval_covers_the_true_difference():
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        plain = np.where(draw.random(300) < 0.7, 1.0, -1.0)
        denoised = np.where(draw.random(300) < 0.75, 1.0, -1.0)
        found = compare(plain, denoised)
        inside += found.low <= 0.05 <= found.high
    assert 0.93 <= inside / 400 <= 0.97


def test_only_pairs_whose_trusted_votes_agree_are_judged():
    data = make(3)
    votes = pl.DataFrame(
        {
            "vote_id": range(4),
            "pair_id": ["p0", "p1", "p1", "p2"],
            "annotator_id": "gold",
            "vote": ["b", "a", "b", "tie"],
        }
    )
    gold = Dataset(data.provenance, pairs=data.pairs, votes=votes)
    assert trusted_sides(gold).rows() == [("p0", -1.0)]
    margins = pl.DataFrame({"pair_id": ["p0", "p1", "p2"], "margin": [-2.0, 1.0, 1.0]})
    found = compare_policies(gold, margins, margins)
    assert (found.n, found.plain) == (1, 1.0)
    nothing = Dataset(data.provenance, pairs=data.pairs, votes=votes.tail(1))
    with pytest.raises(InputError, match="no pair of the held-out data"):
        trusted_sides(nothing)


def test_killed_while_it_scores_the_held_out_pairs_a_run_can_go_on_with_more_rounds(
    policy_dir, tmp_path, monkeypatch
):
    gold, out = make(3, seed=9), tmp_path / "run"
    given = {"model": str(policy_dir), "out": out, "holdout": gold, "tolerance": 0.0}
    given |= {"folds": 2, "train_command": COMMAND}

    def killed(scores: object, path: Path) -> None:
        if path.name == "holdout-policy.parquet":
            raise KeyboardInterrupt
        write_scores(scores, path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("denoise.stages.score.write_scores", killed)
        run(labelled(), rounds=1, **given)
    assert list((out / "holdout-policy.parquet.parts").glob("policy-*.parquet"))
    found = run(labelled(), rounds=2, **given)
    assert found.held_out.n == 3
    assert found.held_out == run(labelled(), rounds=2, **given | {"out": tmp_path / "new"}).held_out
    assert not list(out.rglob("*.parts"))


def of_fold(data, folds):
    """The pairs of one fold, as trusted ones."""
    fold = assign_folds(data.pairs, folds, 0).filter(fold=0)["pair_id"].implode()
    pairs = data.pairs.filter(pl.col("pair_id").is_in(fold))
    return Dataset(data.provenance, pairs=pairs, votes=data.votes.join(pairs, "pair_id", "semi"))


def test_other_held_out_prompts_are_refused_where_a_training_can_no_longer_start(
    policy_dir, tmp_path
):
    data = labelled()
    given = {"model": str(policy_dir), "out": tmp_path / "run", "tolerance": 0.0, "rounds": 2}
    given |= {"folds": 3, "train_command": COMMAND}
    run(data, **given)
    with pytest.raises(InputError, match="the policy of round 1, where fold 1 starts, is gone"):
        run(data, holdout=of_fold(data, 3), **given)


def test_held_out_prompts_that_leave_a_fold_without_rows_are_refused(policy_dir, tmp_path):
    data = labelled()
    given = {"model": str(policy_dir), "out": tmp_path / "run", "folds": 2}
    with pytest.raises(InputError, match="no row is left to train on without fold 2"):
        run(data, holdout=of_fold(data, 2), train_command=COMMAND, **given)
