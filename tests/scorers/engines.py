"""Engines for `denoise.scorers.process` that compute nothing."""

from __future__ import annotations

import os
import time

from denoise.tokenise import TokenPair


class Naming:
    """Its values name the process that they come from."""

    notes = ()

    def __init__(self) -> None:
        self.waiting: dict[int, TokenPair] = {}

    def add(self, row: int, pair: TokenPair) -> None:
        self.waiting[row] = pair

    def step(self) -> list[tuple[int, tuple[int, int]]]:
        finished = [(row, (os.getpid(), os.getpid())) for row in self.waiting]
        self.waiting.clear()
        return finished


class Stuck:
    """It never gets ready."""

    def __init__(self) -> None:
        time.sleep(600)
