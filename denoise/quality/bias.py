"""Who leans to one side (the first response, the longer one) beyond what the truth explains."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from denoise.noise import Z95, Floats
from denoise.quality.finding import Finding
from denoise.quality.mixture import share

EDGE = 0.01
"""How near to certain an expected answer may be."""

LEAST_VOTES = 20
"""Votes that an annotator must have to be asked: with fewer the score is not near enough to normal.
"""

LEAST_LEFT = 0.01
"""Share of the variance that fitting s must leave: where the others tell the same of all items, a
leaning cannot be told from a share of answers that follow the truth."""


def bias(
    annotator: np.ndarray,
    chose: np.ndarray,
    truth: Floats,
    n_annotators: int,
    *,
    guess: float = 0.5,
) -> Finding:
    """Test each annotator's leaning to a side against the truth that the others tell.

    Without a leaning he chooses the side with probability E = g + s(q − g), where q is P(the truth
    is on that side | the others' votes), g that of a guess, and s his own, fitted. The statistic
    is Rao's score Σ(chosen − E), its variance less what fitting s takes of it; `effect` is its
    mean: how many more of his answers are on that side than the truth explains.

    Args:
        annotator: codes, [n]. chose: whether the answer is on the side, [n] bool. truth: q, [n].
        guess: g; of a label, how often others give it where it is not the truth (`guesses`).
    """
    own = np.where(chose, truth, 1.0 - truth)
    base = np.where(chose, guess, 1.0 - guess)
    s = share(annotator, base, own - base, n_annotators).value[annotator]
    lean = truth - guess
    expected = np.clip(guess + s * lean, EDGE, 1.0 - EDGE)
    variance = expected * (1.0 - expected)

    def total(values: Floats) -> Floats:
        return np.bincount(annotator, values, n_annotators)

    n = total(np.ones(len(own)))
    score = total(chose - expected)
    told = total(lean**2 / variance)
    taken = np.divide(total(lean) ** 2, told, out=np.zeros(n_annotators), where=told > 0)
    left = total(variance) - taken
    asked = (left > LEAST_LEFT * total(variance)) & (n >= LEAST_VOTES)
    error = np.sqrt(np.where(asked, left, 0.0))
    z = np.divide(score, error, out=np.full(n_annotators, np.nan), where=asked)
    effect, width = (
        np.divide(x, n, out=np.full(n_annotators, np.nan), where=asked) for x in (score, error)
    )
    low, high = np.maximum(effect - Z95 * width, -1.0), np.minimum(effect + Z95 * width, 1.0)
    return Finding(2.0 * norm.sf(np.abs(z)), effect, low, high, n)


def guesses(confusion: Floats) -> Floats:
    """How often each class is given where it is not the truth, normalised, [C]; `confusion` is that
    of the whole crowd, [C, C] (truth, label)."""
    into = confusion.sum(0) - np.diag(confusion)
    total = into.sum()
    return into / total if total > 0 else np.full(len(into), 1.0 / len(into))
