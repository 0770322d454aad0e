"""Scorers: token ids in, float64 sums of response log-probs out.

A scorer is built for one model, scores batches of `TokenPair`, and lets go of the model's memory
when it is closed. The stage plans the batches, keeps what is finished, and joins it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from denoise.tokenise import TokenPair


class Scorer(Protocol):
    """What a backend provides."""

    def batches(self, pairs: Sequence[TokenPair]) -> list[np.ndarray]:
        """Row numbers of `pairs`, grouped as they are best scored together, longest first."""
        ...

    def score(self, pairs: Sequence[TokenPair]) -> np.ndarray:
        """Sums of response log-probs in nats, shape [pairs, 2] (a, b), float64."""
        ...

    def close(self) -> None:
        """Let go of the model's memory."""
        ...
