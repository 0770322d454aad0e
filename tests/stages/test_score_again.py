"""Scoring that goes on from what is finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from polars.testing import assert_frame_equal
from small_pairs import make, planned

from denoise.dataset import read_dataset, write_dataset
from denoise.errors import InputError
from denoise.scores import score_file
from denoise.stages.em import join_scores
from denoise.stages.score import run, score_to_file

SCORE = """
import sys
import denoise.stages.score as stage
stage.KEEP_SECONDS = 0.0
from denoise.cli import main
main(sys.argv[1:])
"""


def test_killed_at_any_moment_and_run_again_gives_the_identical_file(
    policy_dir, reference_dir, tmp_path
):
    """Kill the command by SIGKILL while it loads, scores and writes; at last let it finish."""
    write_dataset(make(300), tmp_path / "data")

    def command(out):
        return [
            *(sys.executable, "-c", SCORE, "score", str(tmp_path / "data")),
            *("--policy", str(policy_dir), "--reference", str(reference_dir)),
            *("--batch-tokens", "128", "--out", str(out)),
        ]

    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    subprocess.run(command(whole), check=True, env=env, capture_output=True)
    parts = tmp_path / "killed.parquet.parts"
    resumed_from = []
    # Kill once some parts are there, at a moment that differs from time to time.
    for wanted in (0, 3, 12, 40):
        process = subprocess.Popen(
            command(killed), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(parts.glob("*.parquet"))) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        resumed_from.append(len(list(parts.glob("*.parquet"))))
        assert not killed.exists()
    assert resumed_from[-1] >= 40
    subprocess.run(command(killed), check=True, env=env, capture_output=True)
    assert killed.read_bytes() == whole.read_bytes()
    assert not parts.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "killed.parquet", "whole.parquet"]


def test_unfinished_work_of_another_model_is_refused(policy_dir, reference_dir, tmp_path):
    data, work = make(5), tmp_path / "parts"
    run(planned(data, policy_dir), work)
    with pytest.raises(InputError, match="unfinished work of a run with other policy"):
        run(planned(data, reference_dir), work)
    with pytest.raises(InputError, match="max_length"):
        run(planned(data, policy_dir, max_length=99), work)


def test_finished_scores_stay_with_their_pairs_in_another_order(policy_dir, tmp_path):
    data = make(30)
    whole = run(planned(data, policy_dir), tmp_path / "parts").scores
    assert list((tmp_path / "parts").glob("policy-*.parquet"))
    turned = replace(data, pairs=data.pairs.reverse())
    again = run(planned(turned, policy_dir), tmp_path / "parts").scores
    assert_frame_equal(again, whole.reverse())


def test_some_of_the_pairs_in_another_order_are_other_pairs(policy_dir, tmp_path):
    data = make(30)
    turned = replace(data, pairs=data.pairs.reverse())
    run(planned(data, policy_dir, limit=5), tmp_path / "parts")
    with pytest.raises(InputError, match="unfinished work of a run with other order"):
        run(planned(turned, policy_dir, limit=5), tmp_path / "parts")
    out = tmp_path / "scores.parquet"
    for index, of in enumerate((data, turned)):
        score_to_file(planned(of, policy_dir, shard=(index, 2)), score_file(out, (index, 2)))
    with pytest.raises(InputError, match=r"of another job than .*: other order"):
        join_scores(out)
    score_to_file(planned(data, policy_dir, shard=(1, 2)), score_file(out, (1, 2)))
    write_dataset(data, tmp_path / "data")
    again = read_dataset(tmp_path / "data")
    score_to_file(planned(again, policy_dir, shard=(1, 2)), score_file(out, (1, 2)))
    joined, made = join_scores(out)
    assert set(joined["pair_id"]) == set(data.pairs["pair_id"])
    assert made.run_id == planned(data, policy_dir).provenance.run_id
