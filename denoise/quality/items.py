"""Items: which are hard, and on which reliable people differ, which is no error of theirs."""

from __future__ import annotations

import numpy as np

from denoise.compiled import njit
from denoise.crowd.answers import Answers
from denoise.noise import Floats


def difficulty(posterior: Floats, counts: np.ndarray) -> Floats:
    """The share of an item's votes that is expected to be wrong, [J], NaN without votes.

    Args:
        posterior: P(truth), [J, C]. counts: votes of each class, [J, C].
    """
    n = counts.sum(1)
    right = (posterior * counts).sum(1)
    return 1.0 - np.divide(right, n, out=np.full(len(n), np.nan), where=n > 0)


def dissent(votes: Answers, confusion: Floats, posterior: Floats) -> tuple[Floats, Floats]:
    """Votes against each item's likeliest class, and P(as many or more | error rates), [J] each.

    Given that class t, vote i goes against it with probability 1 − π_i[t, t], independently, so
    their number is Poisson-binomial. Where it is larger than that explains, people who are known to
    be reliable stand on both sides: the item is ambiguous, and its minority is not in error.

    Args:
        confusion: P(label l | truth t), [K, C, C] (truth, label). posterior: P(truth), [J, C].
    """
    likeliest = posterior.argmax(1)
    truth = likeliest[votes.item]
    wrong = 1.0 - np.clip(confusion[votes.annotator, truth, truth], 0.0, 1.0)
    against = votes.label != truth
    counted = np.bincount(votes.item, against, votes.n_items)
    return counted, _tail(votes.start, wrong, against)


@njit(nogil=True)
def _tail(start: np.ndarray, wrong: Floats, against: np.ndarray) -> Floats:
    """P(number of wrong votes ≥ the number of votes against), [J], by convolution."""
    n_items = len(start) - 1
    out = np.ones(n_items)
    most = 0
    for j in range(n_items):
        most = max(most, start[j + 1] - start[j])
    chance = np.zeros(most + 2)
    for j in range(n_items):
        first, last = start[j], start[j + 1]
        seen = 0
        chance[: last - first + 2] = 0.0
        chance[0] = 1.0
        for i in range(first, last):
            seen += against[i]
            for d in range(i - first + 1, 0, -1):
                chance[d] += wrong[i] * (chance[d - 1] - chance[d])
            chance[0] *= 1.0 - wrong[i]
        total = 0.0
        for d in range(seen):
            total += chance[d]
        out[j] = min(max(1.0 - total, 0.0), 1.0)
    return out
