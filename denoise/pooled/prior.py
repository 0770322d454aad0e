"""The population of annotators: η ~ Beta(a, b), by its mean m and its strength a + b."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import betaln

from denoise.pooled.ballots import Floats

LEAST = 5
"""With fewer annotators their spread cannot be learned, and the prior is fixed."""

FIXED_STRENGTH = 5.0
"""Votes that the fixed prior weighs."""


class Prior(NamedTuple):
    """Beta(a, b) with a = mean · strength; strength 0 is no shrinkage at all."""

    mean: float
    strength: float

    @property
    def a(self) -> float:
        """Right votes it counts for."""
        return self.mean * self.strength

    @property
    def b(self) -> float:
        """Wrong votes it counts for."""
        return (1.0 - self.mean) * self.strength

    @classmethod
    def beta(cls, a: float, b: float) -> Prior:
        """Beta(a, b)."""
        return cls(a / (a + b), a + b)

    @property
    def integrable(self) -> Prior:
        """The same, or the even Beta(1, 1) where it is no shrinkage: what η is integrated over."""
        return self if self.strength > 0 else Prior(0.5, 2.0)


def log_hyperprior(prior: Prior) -> float:
    """log of p(m, log strength) up to a constant: m is even on (0, 1) and p(a, b) ∝ (a + b)^−5/2.

    It keeps a few annotators that happen to agree from being taken for equal (Gelman et al.,
    *Bayesian Data Analysis*, 3rd ed., section 5.3), in the coordinates logit m and log strength.
    """
    return float(np.log(prior.mean) + np.log1p(-prior.mean) - 0.5 * np.log(prior.strength))


def beta_nodes(prior: Prior, n: int) -> tuple[Floats, Floats]:
    """Gauss–Jacobi nodes and weights of Beta(a, b), [n] each: exact to degree 2n − 1.

    By the eigenvalues of the Jacobi matrix (Golub & Welsch, Math. Comp. 23, 1969).
    """
    alpha, beta = prior.b - 1.0, prior.a - 1.0  # on [−1, 1]: (1−x)^alpha (1+x)^beta
    k = np.arange(n, dtype=np.float64)
    total = 2 * k + alpha + beta
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = (beta**2 - alpha**2) / (total * (total + 2))
        square = 4 * k * (k + alpha) * (k + beta) * (k + alpha + beta)
        square /= total**2 * (total + 1) * (total - 1)
    centre[0] = (beta - alpha) / (alpha + beta + 2)
    if n > 1:  # written out, as alpha + beta = −1 makes the general form 0/0
        square[1] = 4 * (1 + alpha) * (1 + beta) / ((2 + alpha + beta) ** 2 * (3 + alpha + beta))
    off = np.sqrt(square[1:])
    x, vectors = eigh_tridiagonal(centre, off)
    return (1.0 + x) / 2.0, vectors[0] ** 2


def log_density(eta: Floats, prior: Prior) -> Floats:
    """log of the density of θ = logit η: a log η + b log(1−η) − log B(a, b), of any shape."""
    return prior.a * np.log(eta) + prior.b * np.log1p(-eta) - float(betaln(prior.a, prior.b))
