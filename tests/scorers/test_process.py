"""Processes with engines: how work is shared, what they import, and how they end."""

from __future__ import annotations

import time

import numpy as np

from denoise.scorers import process
from denoise.scorers.process import Child, close, spread
from denoise.scorers.vllm import explain
from denoise.tokenise import TokenPair


def start(engine: str, count: int, logs) -> list[Child]:
    return [Child(f"engines:{engine}", {}, {}, logs / f"{n}.log") for n in range(count)]


def test_a_small_job_is_shared_and_a_file_in_the_working_directory_is_not_imported(
    tmp_path, monkeypatch
):
    (tmp_path / "numpy.py").write_text("raise ImportError('a file of the user')")
    monkeypatch.chdir(tmp_path)
    pairs = [TokenPair([1], [2], [3])] * 11
    children = start("Naming", 2, tmp_path)
    try:
        assert [child.receive(explain) for child in children] == [(), ()]
        finished = list(spread(children, pairs, range(11), explain))
    finally:
        close(children)
    rows, values = (np.concatenate(parts) for parts in zip(*finished, strict=True))
    assert sorted(rows) == list(range(11))
    counts = [(values[:, 0] == child.process.pid).sum() for child in children]
    assert sorted(counts) == [5, 6]


def test_engines_that_do_not_end_are_killed_after_one_patience_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 1.0)
    children = start("Stuck", 3, tmp_path)
    began = time.monotonic()
    close(children)
    assert time.monotonic() - began < 2
    assert all(child.process.returncode is not None for child in children)
