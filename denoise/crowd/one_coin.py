"""One-coin model: an annotator is right with probability η_k, else picks any other class evenly.

η_k ~ Beta(a, b), learned from all annotators.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from denoise.crowd.answers import Answers, Floats
from denoise.crowd.prior import learn
from denoise.noise import EDGE, log_odds, sigmoid


class OneCoin(NamedTuple):
    """eta: [K]; alpha: (a, b), [2]; n_classes: C."""

    eta: Floats
    alpha: Floats
    n_classes: int

    def confusion(self) -> Floats:
        """η on the diagonal and (1 − η)/(C − 1) elsewhere, [K, C, C]."""
        eye = np.eye(self.n_classes)
        wrong = (1.0 - self.eta) / max(self.n_classes - 1, 1)
        return self.eta[:, None, None] * eye + wrong[:, None, None] * (1.0 - eye)

    def log_penalty(self) -> Floats:
        """a log η + b log(1 − η), [K]."""
        return self.alpha[0] * np.log(self.eta) + self.alpha[1] * np.log1p(-self.eta)

    def maximised(self, counts: Floats) -> Self:
        """η = (Σw + a)/(n + a + b)."""
        tally = _tally(counts) + self.alpha
        return self._replace(eta=tally[:, 0] / tally.sum(1))

    def learned(self, counts: Floats) -> Self:
        """(a, b) at the maximum of the Beta-binomial likelihood."""
        return self._replace(alpha=learn(_tally(counts), self.alpha))

    def coordinates(self) -> Floats:
        """logit η, [K]."""
        return log_odds(self.eta)

    def moved(self, to: Floats) -> Self:
        """The same with logit η = `to`, [K]."""
        return self._replace(eta=np.clip(sigmoid(to), EDGE, 1.0 - EDGE))


def one_coin(votes: Answers) -> OneCoin:
    """The model before it has seen votes: Beta(2, 1)."""
    eta = np.full(votes.n_annotators, 2.0 / 3.0)
    return OneCoin(eta, np.array([2.0, 1.0]), votes.n_classes)


def _tally(counts: Floats) -> Floats:
    """Expected right and wrong votes, [K, 2]."""
    right = np.einsum("ktt->k", counts)
    return np.stack([right, np.maximum(counts.sum((1, 2)) - right, 0.0)], 1)
