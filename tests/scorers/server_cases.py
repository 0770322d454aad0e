"""Pairs and plans that the tests of the server scorer share."""

from __future__ import annotations

import random

import polars as pl

from denoise.dataset import Dataset
from denoise.scorers.models import resolve
from denoise.scorers.server import ServerScorer
from denoise.scorers.settings import ScoreSettings
from denoise.stages.score import plan
from denoise.tables import Provenance
from denoise.tokenise import TokenPair

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
    votes = pl.DataFrame({"vote_id": range(n), "pair_id": pairs["pair_id"], "vote": "a"})
    votes = votes.with_columns(annotator_id=pl.lit("all"))
    return Dataset(Provenance("import"), pairs=pairs, votes=votes)


def settings(url: str, **more) -> ScoreSettings:
    return ScoreSettings(backend="server", base_url=url, api_key_env="SERVER_KEY", **more)


def planned(data, policy, url, reference=None, **more):
    chosen = settings(url, **more)
    return plan(data, str(policy), str(reference) if reference else None, chosen, lambda _: None)


def scorer(policy, url, announce=lambda _: None, **more) -> ServerScorer:
    return ServerScorer(resolve(str(policy)), settings(url, **more), announce=announce)


def token_pairs(n: int) -> list[TokenPair]:
    draw = random.Random(1)
    ids = [[draw.randrange(3, 400) for _ in range(draw.randint(2, 9))] for _ in range(3 * n)]
    return [TokenPair(*ids[i : i + 3]) for i in range(0, 3 * n, 3)]
