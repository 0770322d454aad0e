"""EM from Parquet to the written result, by row group: seconds by step and bytes a vote.

    python pipelines/bench_em_files.py DIRECTORY [--votes 100000000] [--ids integer text]

Makes the tables in DIRECTORY (four votes a pair in no order, 1,000 annotators, scores), runs
`denoise.stages.stream.em_stream` on them in a fresh process, prints a Markdown table, and removes
what it made. 100 M votes take 5 GB on disk with integer ids and 14 GB with text ids (32 hex
digits), the result half of it. `--ids running` are whole numbers of four bytes, with the margins
among the pairs and without vote ids: a billion such votes, their rows and the result take 60 GB.
"""

from __future__ import annotations

import argparse
import binascii
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from denoise.noise import sigmoid
from denoise.pooled.index import mixed

PER_PAIR = 4
ANNOTATORS = 1_000
CHUNK = 1 << 20
STRIDE = 2_654_435_761
"""A prime, so that the votes visit all pairs in turn, far apart."""

STEPS = (
    "read pairs",
    "read margins",
    "read votes",
    "sort",
    "calibrate",
    "fit",
    "uncertainty",
    "write",
)


def ids(codes: np.ndarray, kind: str) -> pa.Array:
    """Ids of pairs: 64-bit integers, 32 hex digits, or running numbers."""
    if kind == "running":
        return pa.array(codes.astype(np.int32))
    keys = mixed(codes.astype(np.int64))
    if kind == "integer":
        return pa.array(keys.view(np.int64))
    digits = binascii.hexlify(np.stack([keys, mixed(keys.view(np.int64))], axis=1).tobytes())
    offsets = np.arange(0, 32 * len(codes) + 1, 32, dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(digits)]
    return pa.Array.from_buffers(pa.large_string(), len(codes), buffers)


def chunks(n: int) -> Iterator[np.ndarray]:
    for first in range(0, n, CHUNK):
        yield np.arange(first, min(first + CHUNK, n))


def write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def make(directory: Path, n_votes: int, kind: str) -> np.ndarray:
    """The tables in `directory`; returns the annotators' reliabilities, [K]."""
    rng = np.random.default_rng(0)
    n_pairs = n_votes // PER_PAIR
    margin = rng.normal(0, 2, n_pairs).astype(np.float32)
    truth = rng.random(n_pairs, np.float32) < sigmoid(margin)
    eta = 0.5 + 0.5 * rng.beta(12, 2, ANNOTATORS)
    names = pa.array([f"annotator-{k:04d}" for k in range(ANNOTATORS)])
    sides = pa.array(["b", "a"])
    directory.mkdir(parents=True, exist_ok=True)
    running = kind == "running"

    def pairs() -> Iterator[pa.Table]:
        for at in chunks(n_pairs):
            texts = {
                n: pa.array(["text"] * len(at)) for n in ("prompt", "response_a", "response_b")
            }
            if running:
                texts["margin"] = pa.array(margin[at])
            yield pa.table({"pair_id": ids(at, kind), **texts})

    def scores() -> Iterator[pa.Table]:
        for at in chunks(n_pairs):
            base = rng.normal(-80, 20, (3, len(at)))
            yield pa.table(
                {
                    "pair_id": ids(at, kind),
                    "policy_a_logps": base[0],
                    "policy_b_logps": base[0] + base[2] - base[1] - 10.0 * margin[at],
                    "ref_a_logps": base[1],
                    "ref_b_logps": base[2],
                    "a_tokens": np.full(len(at), 50),
                    "b_tokens": np.full(len(at), 60),
                }
            )

    def votes() -> Iterator[pa.Table]:
        for at in chunks(n_votes):
            pair = at * STRIDE % n_pairs
            who = rng.integers(0, ANNOTATORS, len(at), np.int32)
            for_a = truth[pair] == (rng.random(len(at)) < eta[who])
            yield pa.table(
                ({} if running else {"vote_id": at})
                | {
                    "pair_id": ids(pair, kind),
                    "annotator_id": pa.DictionaryArray.from_arrays(who, names),
                    "vote": pa.DictionaryArray.from_arrays(for_a.astype(np.int32), sides),
                }
            )

    tables = {"pairs": pairs, "votes": votes} | ({} if running else {"scores": scores})
    for name, made in tables.items():
        write(directory / f"{name}.parquet", made())
    return eta


def peak_bytes() -> int:
    """The most memory this process has held; `ru_maxrss` would begin with what its parent held."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) * 1024


def run(directory: Path, threads: int) -> None:
    """One run, in this process: prints seconds by step and the peak of its memory as JSON."""
    # The compiled code is read from the cache, and everything imported, before the clock starts.
    from denoise.stages import pooled, stream

    marks: list[tuple[str, float, float, int]] = []

    def step(name: str) -> None:
        marks.append((name, time.perf_counter(), time.process_time(), peak_bytes()))

    calibrate, uncertainty = pooled.calibrate.calibrate, pooled.uncertainty

    def timed(*args: object, **options: object) -> object:
        step("calibrate")
        found = calibrate(*args, **options)
        step("fit")
        return found

    def timed_uncertainty(*args: object) -> object:
        step("uncertainty")
        return uncertainty(*args)

    pooled.calibrate.calibrate, pooled.uncertainty = timed, timed_uncertainty
    scores = directory / "scores.parquet"
    given = {"scores": scores} if scores.exists() else {"margin_column": "margin"}
    result = stream.em_stream(directory, directory / "em", threads=threads, on_step=step, **given)
    step("end")
    seconds = dict.fromkeys(STEPS, 0.0)
    cpu, peaks = dict(seconds), dict.fromkeys(STEPS, 0)
    for (name, begin, busy, _), (_, end, busy_end, peak) in pairwise(marks):
        seconds[name] += end - begin
        cpu[name] += busy_end - busy
        peaks[name] = peak
    said = {"seconds": seconds, "cpu": cpu, "peaks": peaks, "peak": marks[-1][3]}
    said |= {"iterations": result.summary["iterations"], "converged": result.summary["converged"]}
    print(json.dumps(said))


def error_of(directory: Path, eta: np.ndarray) -> float:
    """Root mean square error of the reliabilities."""
    found = pl.read_parquet(directory / "em" / "annotators.parquet").sort("annotator_id")
    return float(np.sqrt(np.mean((found["reliability"].to_numpy() - eta) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--votes", type=int, default=100_000_000)
    parser.add_argument("--ids", nargs="+", default=["integer", "text"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", action="store_true", help="run on tables that are there")
    given = parser.parse_args()
    if given.run:
        run(given.directory, given.threads)
        return
    print(f"{given.votes:,} votes, {given.votes // PER_PAIR:,} pairs, {given.threads} threads\n")
    print("| ids | " + " | ".join(STEPS) + " | all, s | bytes a vote | RMSE of η |")
    print("|---" * (len(STEPS) + 4) + "|")
    for kind in given.ids:
        directory = given.directory / f"bench-{kind}"
        try:
            eta = make(directory, given.votes, kind)
            words = [sys.executable, __file__, str(directory), "--run"]
            words += ["--threads", str(given.threads)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            said = json.loads(done.stdout.splitlines()[-1])
            row = [f"{s:.1f}" for s in said["seconds"].values()]
            row += [f"{sum(said['seconds'].values()):.1f}", f"{said['peak'] / given.votes:.1f}"]
            row += [f"{error_of(directory, eta):.5f}"]
            print(f"| {kind} | {' | '.join(row)} |", flush=True)
            by_step = {n: round(p / given.votes, 1) for n, p in said["peaks"].items()}
            busy = {n: round(s, 1) for n, s in said["cpu"].items()}
            print(f"<!-- {said['iterations']} iterations; bytes a vote so far: {by_step}")
            print(f"CPU seconds: {busy}, {sum(busy.values()):.1f} in all -->", flush=True)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
