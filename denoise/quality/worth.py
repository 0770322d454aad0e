"""What more labels are worth: a second look by someone who knows, and another vote of the crowd."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import comb

from denoise.crowd.answers import Answers
from denoise.noise import Floats

AHEAD = 5
"""At most so many further votes on an item are planned together."""

LEAST_ITEMS = 50
"""Items that must have as many votes for accuracy by votes to be told."""

DRAWS = 4_000
"""Orders of votes that accuracy by votes is a mean over, at least, counted by item."""


class Purchase(NamedTuple):
    """labels: how many further votes on the item pay best, [J]; gain: by how much they raise the
    probability that its label is right, all together, [J]."""

    labels: np.ndarray
    gain: Floats

    @property
    def each(self) -> Floats:
        """The gain a vote, [J]."""
        return self.gain / np.maximum(self.labels, 1)


class ByVotes(NamedTuple):
    """votes: 1 … m a item; expected: mean P(the likeliest class is right); known: share of known
    answers that it equals, NaN without any; n: items that it is a mean over."""

    votes: np.ndarray
    expected: Floats
    known: Floats
    n: int


def purchase(posterior: Floats, confusion: Floats, ahead: int = AHEAD) -> Purchase:
    """Which items another vote, or a few, by a typical annotator would most likely put right.

    Before votes the label is right with probability max_t p_t. After b votes of which s are for the
    likeliest class it is the larger of p₁·P(s | 1) and p₂·P(s | 2), the other classes being left
    out: the expected maximum less the present one is what the b votes are worth. One vote often
    cannot turn an item and is worth nothing, where three are; so b is what pays best a vote.

    Args:
        posterior: P(truth), [J, C]. confusion: of a typical annotator, [C, C] (truth, label).
    """
    j = np.arange(len(posterior))
    order = np.argsort(-posterior, axis=1, kind="stable")[:, :2]
    one, two = order[:, 0], order[:, -1]
    p, q = posterior[j, one], posterior[j, two]
    if posterior.shape[1] < 2:
        q = np.zeros(len(p))
    likes = _either(confusion[one, one], confusion[one, two])
    errs = _either(confusion[two, one], confusion[two, two])
    labels, gain = np.ones(len(p), np.int64), np.zeros(len(p))
    for b in range(1, ahead + 1):
        after = np.zeros(len(p))
        for s in range(b + 1):
            ways = comb(b, s)
            for_one = p * ways * likes**s * (1.0 - likes) ** (b - s)
            for_two = q * ways * errs**s * (1.0 - errs) ** (b - s)
            after += np.maximum(for_one, for_two)
        here = np.maximum(after - p, 0.0)
        better = here / b > gain / labels + 1e-12
        labels, gain = np.where(better, b, labels), np.where(better, here, gain)
    return Purchase(labels, gain)


def _either(a: Floats, b: Floats) -> Floats:
    """a/(a + b), ½ where both are 0."""
    return np.divide(a, a + b, out=np.full(a.shape, 0.5), where=a + b > 0)


def spent(bought: Purchase, budgets: np.ndarray) -> tuple[Floats, Floats]:
    """Expected items put right by so many votes, [B]: where worth most, and on random items."""
    order = np.argsort(-bought.each, kind="stable")
    order = order[bought.gain[order] > 0]
    labels = np.concatenate([[0], np.cumsum(bought.labels[order])])
    gain = np.concatenate([[0.0], np.cumsum(bought.gain[order])])
    best = np.interp(budgets, labels, gain)
    whole = bought.labels.sum()
    return best, bought.gain.sum() * np.minimum(budgets / max(whole, 1), 1.0)


def by_votes(
    votes: Answers,
    confusion: Floats,
    class_prior: Floats,
    *,
    known: np.ndarray | None = None,
    shared_error: float = 0.0,
    seed: int = 0,
) -> ByVotes:
    """How right the labels would be with fewer votes an item, as random ones of them tell.

    All numbers of votes are asked of the same items: those that have the most that enough items
    have. `shared_error` as in `crowd.result.softened`.

    Args:
        confusion: [K, C, C] (truth, label). class_prior: [C], or of each item, [J, C].
        known: class of each item, −1 where it is not known, [J].
    """
    per_item = votes.votes_per_item
    enough = max(LEAST_ITEMS, int(0.2 * (per_item > 0).sum()))
    ranked = np.sort(per_item)[::-1]
    most = int(ranked[enough - 1]) if len(ranked) >= enough else 0
    kept = np.flatnonzero(per_item >= most) if most else np.zeros(0, np.int64)
    expected, right = np.zeros(most), np.zeros(most)
    told = np.zeros(len(kept), bool) if known is None else known[kept] >= 0
    if not most:
        return ByVotes(np.arange(0), expected, right, 0)
    prior = np.broadcast_to(class_prior, (votes.n_items, votes.n_classes))[kept]
    prior = np.log(np.maximum(prior, 1e-12))
    log_pi = np.log(np.maximum(confusion, 1e-12))
    generator = np.random.default_rng(seed)
    draws = max(-(-DRAWS // len(kept)), 1)
    for _ in range(draws):
        shuffled = np.lexsort((generator.random(len(votes.label)), votes.item))
        total = np.zeros_like(prior)
        for k in range(most):
            vote = shuffled[votes.start[kept] + k]
            total += log_pi[votes.annotator[vote], :, votes.label[vote]]
            logits = prior + total / (1.0 + k * shared_error)
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            expected[k] += p.max(1).mean() / draws
            if told.any():
                right[k] += (p.argmax(1) == known[kept])[told].mean() / draws
    if not told.any():
        right[:] = np.nan
    return ByVotes(np.arange(1, most + 1), expected, right, len(kept))
