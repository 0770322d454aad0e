"""Pairs and plans that the tests of the server scorer share."""

from __future__ import annotations

import random

from denoise.scorers.models import resolve
from denoise.scorers.server import ServerScorer
from denoise.scorers.settings import ScoreSettings
from denoise.stages.score import plan
from denoise.tokenise import TokenPair


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
