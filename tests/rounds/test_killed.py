"""`denoise run` killed at ten random moments and continued ends where one ends that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from run_cases import COMMAND, labelled, rows_of

KILLS = 10


def command(source: Path, model: Path, out: Path) -> list[str]:
    words = ["run", source, "--model", model, "--out", out, "--folds", 3, "--rounds", 2]
    words += ["--tolerance", 0, "--train-command", COMMAND]
    return [sys.executable, "-m", "denoise", *map(str, words)]


def test_ten_kills_at_random_moments_change_nothing(policy_dir, tmp_path):
    source = tmp_path / "labels.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows_of(labelled(12))))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = time.monotonic()
    subprocess.run(command(source, policy_dir, whole), check=True, capture_output=True)
    seconds = time.monotonic() - started
    draw = random.Random(0)
    kills = 0
    for _ in range(5 * KILLS):
        # In a session of its own, so that the trainer it drives dies with it.
        running = subprocess.Popen(
            command(source, policy_dir, killed),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            _, said = running.communicate(timeout=draw.uniform(0.3, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
            kills += 1
            if kills == KILLS:
                break
            continue
        # It came to its end between the kills: begin again with another directory.
        assert running.returncode == 0, said
        same(whole, killed)
        killed = tmp_path / f"killed-{kills}"
    assert kills == KILLS
    subprocess.run(command(source, policy_dir, killed), check=True, capture_output=True)
    same(whole, killed)


def same(one: Path, other: Path) -> None:
    for name in (
        "round-1/scores.parquet",
        "round-2/em/confidences.parquet",
        "round-2/em/annotators.parquet",
        "policy/model.safetensors",
        "weighted/data/train-00000-of-00001.parquet",
        "summary.json",
        "report.html",
    ):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert not list(other.rglob("*.parts"))
