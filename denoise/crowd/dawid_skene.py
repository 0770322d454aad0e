"""Dawid–Skene with a hierarchical Dirichlet prior on every confusion row.

π_k[t, ·] ~ Dirichlet(α[·, t]) (Dawid & Skene, Appl. Stat. 28, 1979; Kim & Ghahramani, AISTATS
2012). α is learned from all annotators: per class, its row mean times a concentration
(`structure="full"`), or one diagonal and one off-diagonal value for all classes ("diagonal").
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import numpy as np

from denoise.crowd.answers import Answers, Floats
from denoise.crowd.prior import learn

Structure = Literal["full", "diagonal"]


class DawidSkene(NamedTuple):
    """pi: [K, C, C] (label, truth); alpha: [C, C] (label, truth); structure: of alpha."""

    pi: Floats
    alpha: Floats
    structure: Structure

    def confusion(self) -> Floats:
        """π, [K, C, C] (label, truth)."""
        return self.pi

    def log_penalty(self) -> Floats:
        """Σ α log π, [K]."""
        return np.einsum("lt,klt->k", self.alpha, np.log(self.pi))

    def maximised(self, counts: Floats) -> Self:
        """π ∝ expected votes + α: the mean of the Dirichlet posterior."""
        pi = counts + self.alpha
        return self._replace(pi=pi / pi.sum(1, keepdims=True))

    def learned(self, counts: Floats) -> Self:
        """α closer to the maximum of the Dirichlet-multinomial likelihood of all rows."""
        n = len(self.alpha)
        if n < 2:
            return self
        if self.structure == "full":
            rows = [learn(counts[:, :, t], self.alpha[:, t]) for t in range(n)]
            return self._replace(alpha=np.stack(rows, 1))
        right = np.einsum("ktt->kt", counts)
        wrong = np.maximum(counts.sum(1) - right, 0.0)
        pair = np.array([self.alpha[0, 0], self.alpha[1, 0] * (n - 1)])
        pair = learn(np.stack([right.ravel(), wrong.ravel()], 1), pair)
        return self._replace(alpha=_diagonal(pair, n))


def dawid_skene(votes: Answers, structure: Structure = "full") -> DawidSkene:
    """The model before it has seen votes: a diagonal that weighs 2.5 votes, the rest ½ each."""
    n = votes.n_classes
    alpha = _diagonal(np.array([2.5, 0.5 * (n - 1)]), n)
    pi = np.tile(alpha / alpha.sum(0), (votes.n_annotators, 1, 1))
    return DawidSkene(pi, alpha, structure)


def _diagonal(pair: Floats, n: int) -> Floats:
    """α with pair[0] on the diagonal and pair[1] shared by the rest of the row, [C, C]."""
    eye = np.eye(n)
    return pair[0] * eye + pair[1] / max(n - 1, 1) * (1.0 - eye)
