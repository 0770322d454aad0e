"""Dirichlet hyper-parameters learned from all annotators' expected counts (empirical Bayes)."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, gammaln

from denoise.crowd.answers import Floats

SHAPE, RATE = 1.0, 0.01
"""Gamma prior of each Dirichlet parameter: flat up to a strength of about a hundred votes; it
keeps annotators that happen to agree from being taken for equal."""

LEAST, MOST = 1e-3, 1e4
"""Bounds of a Dirichlet parameter."""


def marginal(counts: Floats, alpha: Floats) -> float:
    """Σ log of the Pólya (Dirichlet-multinomial) density of `counts` [m, L] and of alpha's prior.

    Up to the multinomial coefficients, which do not depend on `alpha`, [L].
    """
    total, strength = counts.sum(1), alpha.sum()
    rows = gammaln(strength) - gammaln(strength + total)
    cells = (gammaln(alpha + counts) - gammaln(alpha)).sum(1)
    penalty = (SHAPE - 1.0) * np.log(alpha) - RATE * alpha
    return float((rows + cells).sum() + penalty.sum())


def learn(counts: Floats, alpha: Floats, n_steps: int = 10) -> Floats:
    """Raise `marginal` by Minka's fixed point (*Estimating a Dirichlet distribution*, 2000), [L].

    Each step maximises a lower bound of it, so it never falls; rows without votes say nothing.
    """
    counts = counts[counts.sum(1) > 0]
    if not len(counts):
        return alpha
    total = counts.sum(1)
    for _ in range(n_steps):
        cells = (digamma(counts + alpha) - digamma(alpha)).sum(0)
        rows = float((digamma(total + alpha.sum()) - digamma(alpha.sum())).sum())
        alpha = np.clip((SHAPE - 1.0 + alpha * cells) / (rows + RATE), LEAST, MOST)
    return alpha
