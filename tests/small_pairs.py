"""Pairs of short random texts, with one vote each."""

from __future__ import annotations

import random

import polars as pl

from denoise.dataset import Dataset
from denoise.scorers.settings import ScoreSettings
from denoise.stages.score import Plan, plan
from denoise.tables import Provenance

WORDS = ["a mouse", "is", "larger", "than the horse", "kind", "apples", "naïve", "北京", "🙂"]


def make(n: int, seed: int = 0) -> Dataset:
    draw = random.Random(seed)

    def text(longest: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, longest)))

    pairs = pl.DataFrame(
        {
            "pair_id": [f"p{i}" for i in range(n)],
            "prompt": [text(30) for _ in range(n)],
            "response_a": [text(20) for _ in range(n)],
            "response_b": [text(20) for _ in range(n)],
        }
    )
    votes = pl.DataFrame(
        {
            "vote_id": range(n),
            "pair_id": pairs["pair_id"],
            "annotator_id": "all",
            "vote": "a",
        }
    )
    return Dataset(Provenance("import"), pairs=pairs, votes=votes)


def as_messages(data: Dataset, prompts: list[list[dict[str, str]]]) -> Dataset:
    """The data with these dialogues as prompts, each response one assistant turn."""
    answers = {
        name: [[{"role": "assistant", "content": text}] for text in data.pairs[name]]
        for name in ("response_a", "response_b")
    }
    columns = {"prompt": prompts, **answers}
    pairs = data.pairs.with_columns(pl.Series(name, each) for name, each in columns.items())
    return Dataset(data.provenance, pairs=pairs, votes=data.votes)


def planned(data: Dataset, policy: object, reference: object = None, **settings: object) -> Plan:
    """What is to be scored, by models in directories."""
    names = (str(policy), str(reference) if reference else None)
    return plan(data, *names, ScoreSettings(**settings), lambda _: None)
