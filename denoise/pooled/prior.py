"""The population of annotators: η ~ (1−ω)·Beta(a, b) + ω·Beta(g, g), most of whom care.

A share ω guesses: their η is near ½. One Beta for both is too wide for those who care, which takes
weight from them, and biases the temperature.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.special import betaln, digamma, expit

from denoise.noise import log_odds
from denoise.pooled.ballots import Floats

LEAST = 5
"""With fewer annotators their spread cannot be learned, and the prior is fixed."""

FIXED_STRENGTH = 5.0
"""Votes that the fixed prior weighs."""


MEAN_VOTES = 4.0
"""Annotators that the belief in a mean reliability of η_0 weighs."""

OFF = 2.0
"""Standard deviation of log τ beforehand: margins are meant to be log-odds, so that τ is 1."""

PILE = 0.5
"""Power of the belief that reliabilities do not pile up at 0 or 1."""

GUESSING = 40.0
"""Strength of the Beta about ½ that guessers' η come from, beforehand: 0.5 ± 0.08."""

SPREAD = 1.0
"""Standard deviation of the logarithm of that strength, beforehand."""

GUESSERS = 0.1
"""Share of guessers that is expected before anything is known, with the weight of
`GUESSER_VOTES` annotators."""

GUESSER_VOTES = 2.0


class Shrinkage(NamedTuple):
    """Right and wrong votes that an annotator's η counts beside its own: each a number or [K]."""

    a: Floats | float
    b: Floats | float

    @property
    def strength(self) -> Floats | float:
        """a + b."""
        return self.a + self.b


class Prior(NamedTuple):
    """mean m and strength s of Beta(a, b), a = m·s; guessers: ω; guessing: 2g, strength of theirs.

    Strength 0 is no shrinkage.
    """

    mean: float
    strength: float
    guessers: float = 0.0
    guessing: float = GUESSING

    @property
    def a(self) -> float:
        """Right votes it counts for."""
        return self.mean * self.strength

    @property
    def population(self) -> float:
        """Mean η of all annotators, of those who guess too."""
        return (1.0 - self.guessers) * self.mean + self.guessers / 2

    @property
    def b(self) -> float:
        """Wrong votes it counts for."""
        return (1.0 - self.mean) * self.strength

    @classmethod
    def beta(cls, a: float, b: float) -> Prior:
        """Beta(a, b)."""
        return cls(a / (a + b), a + b)

    @classmethod
    def at(cls, point: Floats) -> Prior:
        """The prior whose `coordinates` are `point`, [4]."""
        (mean, guessers), (strength, guessing) = expit(point[::2]), np.exp(point[1::2])
        return cls(float(mean), float(strength), float(guessers), float(guessing))

    @property
    def coordinates(self) -> Floats:
        """logit m, log s, logit ω and log 2g, [4]: where its maximum is looked for."""
        logits = log_odds(np.array([self.mean, self.guessers]))
        return np.array([logits[0], np.log(self.strength), logits[1], np.log(self.guessing)])

    def shrinkage(self, guesses: Floats | float) -> Shrinkage:
        """What annotators count beside their votes, who guess with a probability of `guesses`.

        With Σ_i w_i right votes of n, (Σw + a)/(n + a + b) is then the mean of η over both kinds.
        """
        half = guesses * self.guessing / 2
        return Shrinkage((1 - guesses) * self.a + half, (1 - guesses) * self.b + half)

    @property
    def integrable(self) -> Prior:
        """The same, or the even Beta(1, 1) where it is no shrinkage: what η is integrated over."""
        return self if self.strength > 0 else Prior(0.5, 2.0)


def log_hyperprior(prior: Prior, eta0: float) -> float:
    """log of the density of the prior's coordinates up to a constant, before there are votes.

    p(a, b) ∝ (a + b)^−5/2 keeps a few annotators that happen to agree from being taken for equal
    (Gelman et al., *Bayesian Data Analysis*, 3rd ed., section 5.3). m is about `eta0`, as if
    `MEAN_VOTES` annotators said so, ω about `GUESSERS`, and 2g about `GUESSING`. √(a/(1+a)) and
    √(b/(1+b)) are against reliabilities that pile up at 0 or 1: whoever is never wrong stands for
    a model that says too little, and τ comes out too low.
    """
    mean = MEAN_VOTES * eta0 + 1
    value = mean * np.log(prior.mean) + (MEAN_VOTES + 2 - mean) * np.log1p(-prior.mean)
    value -= 0.5 * np.log(prior.strength)
    share = GUESSER_VOTES * GUESSERS
    value += share * np.log(prior.guessers) + (GUESSER_VOTES - share) * np.log1p(-prior.guessers)
    value -= 0.5 * (np.log(prior.guessing / GUESSING) / SPREAD) ** 2
    return float(value - PILE * (np.log1p(1 / prior.a) + np.log1p(1 / prior.b)))


def slope_of_hyperprior(prior: Prior, eta0: float) -> Floats:
    """Derivatives of `log_hyperprior` by the coordinates, [4]."""
    mean = MEAN_VOTES * eta0 + 1 - (MEAN_VOTES + 2) * prior.mean
    guessing = -np.log(prior.guessing / GUESSING) / SPREAD**2
    of_a, of_b = PILE / (1 + prior.a), PILE / (1 + prior.b)
    mean += (1 - prior.mean) * of_a - prior.mean * of_b
    share = GUESSER_VOTES * (GUESSERS - prior.guessers)
    return np.array([mean, of_a + of_b - 0.5, share, guessing])


def log_belief(tau: float) -> float:
    """log of the density of log τ up to a constant, before there are votes; 0 for τ = 0."""
    return -0.5 * (np.log(tau) / OFF) ** 2 if tau > 0 else 0.0


def slope_of_belief(tau: float) -> float:
    """∂/∂τ of `log_belief`."""
    return -np.log(tau) / (OFF**2 * tau) if tau > 0 else 0.0


@lru_cache(maxsize=256)
def beta_nodes(a: float, b: float, n: int) -> tuple[Floats, Floats]:
    """Gauss–Jacobi nodes and weights of Beta(a, b), [n] each: exact to degree 2n − 1.

    By the eigenvalues of the Jacobi matrix (Golub & Welsch, Math. Comp. 23, 1969).
    """
    alpha, beta = b - 1.0, a - 1.0  # on [−1, 1]: (1−x)^alpha (1+x)^beta
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


class Nodes(NamedTuple):
    """Quadrature of the population: η and weights, [Q]; guesses: P(of a guesser) of each, [Q]."""

    eta: Floats
    weight: Floats
    guesses: Floats


def nodes(prior: Prior, n: int) -> Nodes:
    """The nodes of those who care and, if there may be some, of those who guess, n each."""
    eta, weight = beta_nodes(prior.a, prior.b, n)
    if prior.guessers == 0:
        return Nodes(eta, weight, np.zeros(n))
    chance, even = beta_nodes(prior.guessing / 2, prior.guessing / 2, n)
    return Nodes(
        np.concatenate([eta, chance]),
        np.concatenate([(1 - prior.guessers) * weight, prior.guessers * even]),
        np.repeat([0.0, 1.0], n),
    )


def log_densities(eta: Floats, prior: Prior) -> tuple[Floats, Floats]:
    """log of the densities of θ = logit η, times 1−ω and ω: of who cares and of who guesses."""
    log_eta, log_not = np.log(eta), np.log1p(-eta)
    cares = prior.a * log_eta + prior.b * log_not - float(betaln(prior.a, prior.b))
    half = prior.guessing / 2
    guesses = half * (log_eta + log_not) - float(betaln(half, half))
    with np.errstate(divide="ignore"):
        return cares + np.log1p(-prior.guessers), guesses + np.log(prior.guessers)


def log_density(eta: Floats, prior: Prior) -> Floats:
    """log of the population's density of θ = logit η, of any shape."""
    return np.logaddexp(*log_densities(eta, prior))


def guesses(eta: Floats, prior: Prior) -> Floats:
    """P(an annotator guesses | η), of any shape."""
    cares, chance = log_densities(eta, prior)
    return expit(chance - cares)


def slopes(eta: Floats, prior: Prior) -> Floats:
    """Derivatives of `log_density` by the prior's coordinates, [4, …] for η of any shape."""
    guess = guesses(eta, prior)
    log_eta, log_not = np.log(eta), np.log1p(-eta)
    m, s, half = prior.mean, prior.strength, prior.guessing / 2
    of_a, of_b = log_eta - digamma(prior.a) + digamma(s), log_not - digamma(prior.b) + digamma(s)
    chance = half * (log_eta + log_not - 2 * digamma(half) + 2 * digamma(2 * half))
    cares = [m * (1 - m) * s * (of_a - of_b), s * (m * of_a + (1 - m) * of_b)]
    return np.stack(
        [*((1 - guess) * part for part in cares), guess - prior.guessers, guess * chance]
    )
