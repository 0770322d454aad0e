"""What the others say is true: an annotator is never held against his own votes."""

from __future__ import annotations

import numpy as np

from denoise.crowd.answers import Answers
from denoise.noise import Floats

TINY = 1e-12


class Crowd:
    """A crowd's evidence by vote and by item, for truths without one annotator, or without two.

    Args:
        votes: n votes of K annotators on J items.
        confusion: P(label l | truth t), [K, C, C] (truth, label).
        class_prior: ρ, [C], or of each item, [J, C].
        shared_error: correlation of errors that is allowed for: m others weigh like
            m/(1 + (m − 1)·shared_error) independent ones (Kish, *Survey Sampling*, 1965).
    """

    def __init__(
        self, votes: Answers, confusion: Floats, class_prior: Floats, shared_error: float = 0.0
    ) -> None:
        self.votes = votes
        self.confusion = np.maximum(confusion, TINY)
        self._own = np.log(self.confusion)[votes.annotator, :, votes.label]
        sums = np.concatenate([np.zeros((1, votes.n_classes)), np.cumsum(self._own, axis=0)])
        self._whole = sums[votes.start[1:]] - sums[votes.start[:-1]]
        prior = np.broadcast_to(class_prior, (votes.n_items, votes.n_classes))
        self._log_prior = np.log(np.maximum(prior, TINY))
        self._item = votes.item
        self._shared_error = shared_error

    def without(self, *ballots: np.ndarray) -> Floats:
        """P(truth | the item's votes but these), [m, C]; `ballots`: votes of one item, [m] each."""
        item = self._item[ballots[0]]
        rest = self._whole[item] - sum(self._own[ballot] for ballot in ballots)
        left = self.votes.votes_per_item[item] - len(ballots)
        weight = 1.0 / (1.0 + np.maximum(left - 1, 0) * self._shared_error)
        logits = self._log_prior[item] + weight[:, None] * rest
        truth = np.exp(logits - logits.max(1, keepdims=True))
        return truth / truth.sum(1, keepdims=True)

    def without_own(self) -> Floats:
        """P(truth | the others' votes on the item), by vote, [n, C]."""
        return self.without(np.arange(len(self.votes.label)))
