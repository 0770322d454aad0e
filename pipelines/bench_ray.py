"""What Ray costs: EM and scoring on three nodes of this machine, against the same without Ray.

    python pipelines/bench_ray.py DIRECTORY [--votes 20000000] [--pairs 600]

Three nodes on two cores show what the cluster adds, not how it scales. From what is measured the
page benchmarks/cluster.md works out what a cluster of a hundred GPUs and ten thousand million votes
would need; what it takes for granted is said there. Makes its tables in DIRECTORY and removes them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from bench_em_files import make
from experiment import BENCHMARKS

from denoise.cluster import LOOPBACK, QUIET, Workers

QUICKSTART = Path(__file__).resolve().parent.parent / "data" / "quickstart"
NODES = 3
EMPTY = 50
"""Calls of nothing by which an answer of all workers is timed."""

GPUS, CORES, VOTES, PAIRS, TOKENS, ANNOTATORS = 100, 16, 10**10, 2.5e9, 600, 10**6
"""The cluster of the page, cores by node, and its job: tokens are of a pair, prompt once."""

GPU_RATE = 20_000
"""Tokens a second of one GPU, policy or reference: assumed, as nothing here has a GPU."""


@contextmanager
def nodes() -> Iterator[str]:
    """Three nodes on loopback; their address."""
    os.environ.update(LOOPBACK | QUIET)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def steps(work: Callable[[Callable[[str], None]], Any]) -> tuple[dict[str, float], Any]:
    """Seconds by step of what tells its steps, and what came of it."""
    marks: list[tuple[str, float]] = []
    done = work(lambda name: marks.append((name, time.perf_counter())))
    marks.append(("end", time.perf_counter()))
    return {name: end - begin for (name, begin), (_, end) in pairwise(marks)}, done


def em(directory: Path, n_votes: int, address: str) -> dict[str, float]:
    """Seconds by phase on one machine and on the nodes, and what an answer costs."""
    from denoise.pooled import solve
    from denoise.stages import pooled
    from denoise.stages.stream import em_stream
    from denoise.stages.stream.cluster import em_cluster
    from denoise.stages.stream.partitions import Partitions

    make(directory, n_votes, "integer")
    scores = directory / "scores.parquet"
    asked = {"passes": 0, "pass": 0.0, "empty": 0.0, "bytes": 0.0}
    estimate, call = pooled.estimate, Partitions._run

    def counted(*given: Any, **options: Any) -> Any:
        asked["passes"] += 1
        return call(*given, **options)

    def watched(votes: Any, *given: Any, **options: Any) -> Any:
        Partitions._run, asked["passes"] = counted, 0
        found = estimate(votes, *given, **options)
        Partitions._run = call
        lam = found.inference.reliability * 0.0 + 1.0
        began = time.perf_counter()
        for _ in range(5):
            solve.expectation(votes, 1.0, lam)
        asked["pass"] = (time.perf_counter() - began) / 5
        began = time.perf_counter()
        for _ in range(EMPTY):
            votes.each(_nothing)
        asked["empty"] = (time.perf_counter() - began) / EMPTY
        asked["bytes"] = sum(votes.each(_memory))
        return found

    pooled.estimate = watched
    out = {}
    for name, run in {
        "one": lambda step: em_stream(directory, directory / "one", scores, on_step=step),
        "ray": lambda step: em_cluster(
            directory, directory / "ray", scores, address=address, n_parts=NODES, on_step=step
        ),
    }.items():
        seconds, result = steps(run)
        fit = seconds.pop("fit")
        write = seconds.pop("write")
        out |= {f"{name} read": sum(seconds.values()), f"{name} fit": fit, f"{name} write": write}
        out |= {f"{name} {what}": value for what, value in asked.items()}
        out[f"{name} iterations"] = result.summary["iterations"]
    pooled.estimate = estimate
    return out


def _nothing(_: object) -> None:
    """What a worker is asked where only the asking is timed."""


def _memory(_: object) -> float:
    """Bytes that this process has of its own."""
    import psutil

    return float(psutil.Process().memory_full_info().uss)


def scoring(n_pairs: int, address: str) -> dict[str, float]:
    """Tokens a second by transformers with one thread here, and by one worker of one core."""
    import torch

    from denoise import import_data
    from denoise.stages.score import ScoreSettings, plan, run

    data = import_data(QUICKSTART / "preferences.jsonl")
    torch.set_num_threads(1)
    out = {}
    for name, cluster in {"one": None, "ray": Workers(address, count=1, cpus=1)}.items():
        settings = ScoreSettings(backend="transformers", limit=n_pairs, cluster=cluster)
        planned = plan(data, str(QUICKSTART / "policy"), None, settings, lambda _: None)
        began = time.perf_counter()
        run(planned)
        out[f"{name} score"] = time.perf_counter() - began
    return out


def table(measured: dict[str, float], n_votes: int, n_pairs: int) -> str:
    """One machine against the nodes."""
    rows = [
        ("read and deal out", "read"),
        ("fit", "fit"),
        ("write", "write"),
        ("of it one pass of EM", "pass"),
        ("of it one call of nothing", "empty"),
    ]
    lines = [
        f"EM of {n_votes:,} votes, seconds | one machine | {NODES} nodes | ÷ ",
        "--- | --: | --: | --:",
    ]
    for said, name in rows:
        one, ray = measured[f"one {name}"], measured[f"ray {name}"]
        ratio = f"{ray / one:.1f}" if one > 1e-4 else ""
        lines.append(f"{said} | {one:.4g} | {ray:.4g} | {ratio}")
    one, ray = measured["one score"], measured["ray score"]
    lines.append(
        f"scoring {n_pairs:,} pairs, one core, with start | {one:.1f} | {ray:.1f} | {ray / one:.1f}"
    )
    return "\n".join(f"| {line.strip()} |" for line in lines)


def page(measured: dict[str, float], n_votes: int) -> str:
    """What the cluster would need, step by step from what is measured."""
    cores, per_vote = GPUS * CORES, {}
    for what in ("read", "pass", "write"):
        # Three nodes had two cores to read and to pass with; one core writes.
        per_vote[what] = measured[f"ray {what}"] * (1 if what == "write" else 2) / n_votes
    memory, calls = measured["ray bytes"] / n_votes, measured["ray passes"]
    read, passed = (per_vote[what] * VOTES / cores for what in ("read", "pass"))
    answers = measured["ray empty"] / NODES * cores
    scored = 2 * PAIRS * TOKENS / (GPUS * GPU_RATE)
    per_core = f"core-nanoseconds a vote ÷ {cores:,} cores"
    rows = [
        (
            "memory of the workers",
            f"{memory:.0f} bytes a vote, measured, Python and libraries included",
            f"{memory * VOTES / GPUS / 2**30:.1f} GiB a node",
        ),
        (
            "memory of the driver",
            "16 bytes a pair, 200 bytes an annotator",
            f"{(16 * PAIRS + 200 * ANNOTATORS) / 2**30:.0f} GiB",
        ),
        ("read and deal out", f"{1e9 * per_vote['read']:.0f} {per_core}", f"{read:.0f} s"),
        ("one call", f"{1e9 * per_vote['pass']:.1f} {per_core}", f"{passed:.2f} s"),
        (
            "its answers",
            f"{1e3 * measured['ray empty'] / NODES:.1f} ms a worker, one after the other",
            f"{answers:.1f} s",
        ),
        (
            "the fit",
            f"{calls:.0f} calls as measured; calibration on a sample, on the driver",
            f"{calls * (passed + answers) / 60:.1f} min",
        ),
        (
            "write confidences",
            f"{1e9 * per_vote['write']:.0f} nanoseconds a vote, one writer of one file",
            f"{per_vote['write'] * VOTES / 3600:.1f} h",
        ),
        (
            "scores",
            f"2 models × pairs × {TOKENS} tokens ÷ ({GPUS} × {GPU_RATE:,} tokens/s, **assumed**)",
            f"{scored / 86400:.1f} days",
        ),
    ]
    lines = [f"| {' | '.join(row)} |" for row in (("what", "how", "needs"), ("---",) * 3, *rows)]
    return (
        "# A hundred GPUs and ten thousand million votes\n\n"
        f"`python pipelines/bench_ray.py` measured {NODES} Ray nodes on one machine of two cores "
        f"with {n_votes:,} votes. From that, for {GPUS} nodes of a GPU and {CORES} cores each, "
        f"{VOTES:,} votes on {PAIRS:,.0f} pairs by {ANNOTATORS:,} annotators.\n\n"
        "Taken for granted: work is shared evenly, network and disks keep up, a core is like one "
        "here, and answers are taken one after the other, a part a core (fewer parts of more "
        "threads take fewer answers). The rate of a GPU is assumed: nothing here has one.\n\n"
        + "\n".join(lines)
        + "\n\nSo the scores decide: at this size a part of the pairs is scored, or by a smaller "
        "model. Next is the one writer of `confidences.parquet`. A worker that dies costs reading "
        "the tables once more for its part; where messages are sent (annotators of few votes), "
        "also those sent so far.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--votes", type=int, default=20_000_000)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--out", type=Path, default=BENCHMARKS, help="where the page goes")
    given = parser.parse_args()
    work = given.directory / "bench-ray"
    try:
        with nodes() as address:
            measured = em(work, given.votes, address) | scoring(given.pairs, address)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(table(measured, given.votes, given.pairs))
    (given.out / "cluster.md").write_text(page(measured, given.votes), encoding="utf-8")
    print({name: float(np.round(value, 6)) for name, value in measured.items()})


if __name__ == "__main__":
    main()
