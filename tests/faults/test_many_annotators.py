"""As many annotators as votes, nearly: each has one vote or two.

`DENOISE_ANNOTATORS` says how many (2,000 unless set; the long mode has 10 million, which take half
an hour of one core and 7 GB).
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
import polars as pl

from denoise.noise import sigmoid

ANNOTATORS = int(os.environ.get("DENOISE_ANNOTATORS", "2000"))
GOOD, BAD = 0.85, 0.55
"""Planted reliabilities; every fifth annotator has the lower one."""

PEAK_OF = (
    "import resource, subprocess, sys\n"
    "done = subprocess.run(sys.argv[1:], stdout=sys.stderr)\n"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    "sys.exit(done.returncode)\n"
)
"""Runs a command and prints the most memory it held, in KiB.

A process of its own: a child's `ru_maxrss` begins with what its parent held when it was started,
and a test session holds more than EM does.
"""


def make(where, n_annotators: int) -> int:
    """The tables, three votes a pair; returns how many of the votes are wrong."""
    rng = np.random.default_rng(0)
    again = rng.choice(n_annotators, n_annotators // 2, replace=False)
    who = rng.permutation(np.concatenate([np.arange(n_annotators), again]))
    n_pairs = len(who) // 3
    pair = np.arange(len(who)) % n_pairs
    margin = rng.normal(0, 2, n_pairs)
    truth = rng.random(n_pairs) < sigmoid(margin)
    right = rng.random(len(who)) < np.where(who % 5 == 0, BAD, GOOD)
    where.mkdir()
    texts = {name: pl.lit(name) for name in ("prompt", "response_a", "response_b")}
    pairs = pl.DataFrame({"pair_id": np.arange(n_pairs), "margin": margin})
    pairs.with_columns(**texts).write_parquet(where / "pairs.parquet")
    names = pl.select(pl.format("annotator {}", pl.int_range(n_annotators))).to_series()
    votes = {
        "vote_id": np.arange(len(who)),
        "pair_id": pair,
        "annotator_id": names.gather(who),
        "vote": np.where(truth[pair] == right, "a", "b"),
    }
    pl.DataFrame(votes).write_parquet(where / "votes.parquet")
    return int((~right).sum())


def test_annotators_by_the_million_are_told_as_far_as_they_can_be(tmp_path):
    wrong = make(tmp_path / "data", ANNOTATORS)
    began = time.perf_counter()
    words = ["em", "data", "--stream", "--margin", "margin", "--out", "em"]
    command = [sys.executable, "-c", PEAK_OF, sys.executable, "-m", "denoise", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds = time.perf_counter() - began
    peak = int(done.stdout) * 1024
    print(f"{ANNOTATORS:,} annotators: {seconds:.0f} s, {peak / 2**30:.1f} GB")
    summary = json.loads((tmp_path / "em" / "summary.json").read_text())
    assert summary["expected_wrong_low"] < wrong < summary["expected_wrong_high"]
    found = pl.read_parquet(tmp_path / "em" / "annotators.parquet")
    assert len(found) == summary["n_annotators"] == ANNOTATORS
    bad = found["annotator_id"].str.slice(len("annotator ")).cast(pl.Int64) % 5 == 0
    means = [found.filter(who)["reliability"].mean() for who in (bad, ~bad)]
    assert BAD < means[0] < means[1] < GOOD
    rows = pl.read_parquet(tmp_path / "em" / "confidences.parquet", columns=["confidence"])
    off = len(rows) - rows["confidence"].sum() - wrong
    assert abs(off) < 0.05 * wrong
    assert peak < (1 << 30) + 1_600 * ANNOTATORS
