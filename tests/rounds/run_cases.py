"""Small data and a quick trainer for the rounds."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import polars as pl
from small_pairs import make

from denoise.dataset import Dataset

PERTURB = Path(__file__).with_name("perturb.py")
COMMAND = shlex.join(
    [sys.executable, str(PERTURB), "--data", "{data}", "--model", "{model}", "--out", "{out}"]
)
QUICK = {"train_command": COMMAND, "folds": 3, "rounds": 2, "tolerance": 0.0}


def labelled(n: int = 12, seed: int = 0) -> Dataset:
    """Pairs of different prompts with one vote each, by three annotators in turn."""
    data = make(n, seed)
    votes = data.votes.with_columns(
        annotator_id=pl.Series([("ann", "bob", "cy")[i % 3] for i in range(n)]),
        vote=pl.Series(["a" if i % 4 else "b" for i in range(n)]),
    )
    prompts = [f"{prompt} {i}" for i, prompt in enumerate(data.pairs["prompt"])]
    pairs = data.pairs.with_columns(prompt=pl.Series(prompts))
    return Dataset(data.provenance, pairs=pairs, votes=votes)


def rows_of(data: Dataset) -> list[dict[str, str]]:
    """The data as a source file has them: prompt, chosen, rejected, annotator."""
    joined = data.votes.join(data.pairs, on="pair_id")
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["response_a" if row["vote"] == "a" else "response_b"],
            "rejected": row["response_b" if row["vote"] == "a" else "response_a"],
            "annotator": row["annotator_id"],
        }
        for row in joined.iter_rows(named=True)
    ]
