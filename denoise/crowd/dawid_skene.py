"""Dawid–Skene with a hierarchical Dirichlet prior on every confusion row.

π_k[t, ·] ~ Dirichlet(α[·, t]) (Dawid & Skene, Appl. Stat. 28, 1979; Kim & Ghahramani, AISTATS
2012). α is learned from all annotators, for each class of its own.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from denoise.crowd.answers import Answers, Floats, softmax
from denoise.crowd.prior import learn


class DawidSkene(NamedTuple):
    """pi: [K, C, C] (label, truth); alpha: [C, C] (label, truth)."""

    pi: Floats
    alpha: Floats

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
        """α at the maximum of the Dirichlet-multinomial likelihood of all rows, class by class."""
        n = len(self.alpha)
        if n < 2:
            return self
        rows = [learn(counts[:, :, t], self.alpha[:, t]) for t in range(n)]
        return self._replace(alpha=np.stack(rows, 1))

    def coordinates(self) -> Floats:
        """log π, [KCC]."""
        return np.log(self.pi).ravel()

    def moved(self, to: Floats) -> Self:
        """The same at other coordinates, [KCC]."""
        return self._replace(pi=softmax(to.reshape(self.pi.shape), 1))


def dawid_skene(votes: Answers) -> DawidSkene:
    """The model before it has seen votes: a diagonal that weighs 2.5 votes, the rest ½ each."""
    n = votes.n_classes
    alpha = np.full((n, n), 0.5) + 2.0 * np.eye(n)
    pi = np.tile(alpha / alpha.sum(0), (votes.n_annotators, 1, 1))
    return DawidSkene(pi, alpha)
