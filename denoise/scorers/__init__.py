"""Scorers: token ids in, float64 sums of response log-probs (or rewards) out.

A scorer is built for one model, is told all pairs of the job, scores those that are not finished,
and lets go of the model's memory when it is closed. The stage keeps what is finished and joins it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from denoise.tokenise import TokenPair

BLINK = 0.2
"""Seconds after which a wait is begun anew: polars' handler of SIGINT restarts the system's calls,
so that Ctrl-C never ends a wait without a limit."""


class Scored(NamedTuple):
    """Finished pairs: their row numbers [n], and a number a response, float64 [n, 2] (a, b)."""

    rows: np.ndarray
    values: np.ndarray


class Scorer(Protocol):
    """What a backend provides; the values are sums of response log-probs in nats, or rewards."""

    def prepare(self, pairs: Sequence[TokenPair]) -> tuple[str, ...]:
        """Make ready for the pairs of a job, and say what the user should know of how it is done.

        Raises:
            InputError: the model cannot score these pairs.
        """
        ...

    def score(self, pairs: Sequence[TokenPair], rows: np.ndarray) -> Iterator[Scored]:
        """Score these rows of `pairs`, in the scorer's own order, as they finish.

        Raises:
            RunError: the work failed; what was yielded before stands.
        """
        ...

    def close(self) -> None:
        """Let go of the model's memory."""
        ...
