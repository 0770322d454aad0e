"""Guesser model: an annotator knows the truth with probability η_k, else guesses from a habit g_k.

π_k[t, l] = η_k·1[t = l] + (1 − η_k)·g_k[l] (MACE, Hovy et al., NAACL 2013). It holds one-coin as
g = uniform, and adds each annotator's leaning to a class with C rather than C² parameters.
η_k ~ Beta(a, b) is learned from all annotators; g_k ~ Dirichlet around all votes' label shares.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from denoise.crowd.answers import Answers, Floats, softmax
from denoise.crowd.prior import learn
from denoise.noise import EDGE, log_odds, sigmoid

HABIT_STRENGTH = 2.0
"""Votes that the prior of a habit weighs."""

INNER_STEPS = 3
"""EM steps on (η, g) for each E-step of the truth; every one of them raises the objective."""


class Guesser(NamedTuple):
    """eta: [K]; habit: g, [K, C]; alpha: (a, b), [2]; shares: of all votes, [C]."""

    eta: Floats
    habit: Floats
    alpha: Floats
    shares: Floats

    def confusion(self) -> Floats:
        """η·1[t = l] + (1 − η)·g[l], [K, C, C] (label, truth)."""
        known = self.eta[:, None, None] * np.eye(len(self.shares))
        return known + ((1.0 - self.eta)[:, None] * self.habit)[:, :, None]

    def log_penalty(self) -> Floats:
        """a log η + b log(1 − η) + strength·Σ shares·log g, [K]."""
        skill = self.alpha[0] * np.log(self.eta) + self.alpha[1] * np.log1p(-self.eta)
        return skill + HABIT_STRENGTH * (np.log(self.habit) @ self.shares)

    def maximised(self, counts: Floats) -> Self:
        """`INNER_STEPS` of EM over who knew and who guessed, given the expected votes."""
        model = self
        for _ in range(INNER_STEPS):
            knew, total = model._knew(counts)
            tally = np.stack([knew.sum(1), (total - knew).sum(1)], 1) + self.alpha
            guessed = total - knew + HABIT_STRENGTH * self.shares
            model = model._replace(
                eta=tally[:, 0] / tally.sum(1), habit=guessed / guessed.sum(1, keepdims=True)
            )
        return model

    def learned(self, counts: Floats) -> Self:
        """(a, b) at the maximum of the likelihood of knowing and guessing."""
        knew, total = self._knew(counts)
        tally = np.stack([knew.sum(1), (total - knew).sum(1)], 1)
        return self._replace(alpha=learn(tally, self.alpha))

    def coordinates(self) -> Floats:
        """logit η and log g, [K + KC]."""
        return np.concatenate([log_odds(self.eta), np.log(self.habit).ravel()])

    def moved(self, to: Floats) -> Self:
        """The same at other coordinates, [K + KC]."""
        eta = np.clip(sigmoid(to[: len(self.eta)]), EDGE, 1.0 - EDGE)
        logits = to[len(self.eta) :].reshape(self.habit.shape)
        return self._replace(eta=eta, habit=softmax(logits, 1))

    def _knew(self, counts: Floats) -> tuple[Floats, Floats]:
        """Expected votes of each label that were known, and all of that label, [K, C] each."""
        guess = (1.0 - self.eta)[:, None] * self.habit
        share = self.eta[:, None] / (self.eta[:, None] + guess)
        return np.einsum("ktt->kt", counts) * share, counts.sum(2)


def guesser(votes: Answers) -> Guesser:
    """The model before it has seen votes: η = 2/3, everyone guesses by the label shares."""
    shares = votes.label_shares()
    eta = np.full(votes.n_annotators, 2.0 / 3.0)
    return Guesser(eta, np.tile(shares, (len(eta), 1)), np.array([2.0, 1.0]), shares)
