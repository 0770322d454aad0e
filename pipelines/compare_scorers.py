"""Do the backends agree? The same pairs through transformers, vLLM and a vLLM server.

    python pipelines/compare_scorers.py --model MODEL --data hh_harmless_test --pairs 500

MODEL is a directory (see smollm2.py). Prints the largest difference of a log-prob per response
token against transformers, and of the confidences and reliabilities that EM makes of it in paper
mode, which takes SimPO's margins at face value. float32 on the CPU; the server is started here.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import polars as pl

from denoise import em, import_data, score
from denoise.dataset import Dataset
from denoise.scores import Scores

SERVER_STARTS = 300.0
"""Seconds."""


@contextmanager
def served(model: str) -> Iterator[str]:
    """The address of a vLLM server with the model, while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "1025", "--kv-cache-memory-bytes", str(1 << 30)),
    ]
    log = Path(tempfile.gettempdir(), "compare_scorers.log")
    print(f"starting the server; what it prints is in {log}", file=sys.stderr)
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + SERVER_STARTS
        while time.monotonic() < end and process.poll() is None:
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(1)
        else:
            sys.exit(f"the server did not start: see {log}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def compare(data: Dataset, first: Scores, other: Scores) -> tuple[float, float, float]:
    """The largest differences: nats a token, confidence, reliability."""
    per_token = max(
        ((first.scores[name] - other.scores[name]).abs() / first.scores[tokens]).max()
        for name, tokens in (("policy_a_logps", "a_tokens"), ("policy_b_logps", "b_tokens"))
    )
    one, two = (em(data, s.scores, loss="simpo", mode="paper") for s in (first, other))
    confidence = (one.confidences["confidence"] - two.confidences["confidence"]).abs().max()
    reliability = (one.annotators["reliability"] - two.annotators["reliability"]).abs().max()
    return per_token, confidence, reliability


def main() -> None:
    """Score with each backend and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=int, default=500)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    whole = import_data(arguments.data)
    pairs = whole.preferences()[0].sample(arguments.pairs, seed=0)
    votes = whole.preferences()[1].filter(pl.col("pair_id").is_in(pairs["pair_id"].implode()))
    data = Dataset(whole.provenance, pairs=pairs, votes=votes)

    def scored(backend: str, **options: object) -> Scores:
        start = time.perf_counter()
        result = score(data, policy=arguments.model, backend=backend, tokenize="trl-cpo", **options)
        print(f"{backend}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        return result

    first = scored("transformers")
    tokens = first.scores.select(pl.sum("a_tokens", "b_tokens")).sum_horizontal().item()
    print(f"{len(first.scores)} pairs, {tokens:,} response tokens, against transformers:\n")
    print("| backend | nats a response token | confidence | reliability |")
    print("|---|--:|--:|--:|")

    def show(name: str, other: Scores) -> None:
        differences = " | ".join(f"{value:.1e}" for value in compare(data, first, other))
        print(f"| {name} | {differences} |", flush=True)

    show("vllm", scored("vllm"))
    with served(arguments.model) as address:
        show("server", scored("server", base_url=address))


if __name__ == "__main__":
    main()
