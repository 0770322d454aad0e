"""Dirichlet hyper-parameters learned from all annotators' expected counts (empirical Bayes)."""

from __future__ import annotations

import math

import numpy as np

from denoise.compiled import njit
from denoise.crowd.answers import Floats

SHAPE, RATE = 1.0, 0.01
"""Gamma prior of each Dirichlet parameter: flat up to a strength of about a hundred votes; it
keeps annotators that happen to agree from being taken for equal."""

LEAST, MOST = 1e-3, 1e4
"""Bounds of a Dirichlet parameter."""


TINY = 1e-300
"""Curvatures count as at least this."""

CLOSE = 1e-4
"""Newton steps in log α shorter than this are the last one: the next would be about its square."""

LONG = 2.0
"""No step in log α is longer than this: the curvature says little so far away."""


def marginal(counts: Floats, alpha: Floats) -> float:
    """Σ log of the Pólya (Dirichlet-multinomial) density of `counts` [m, L] and of alpha's prior.

    Up to the multinomial coefficients, which do not depend on `alpha`, [L].
    """
    return _derivatives(counts, alpha)[0]


def learn(counts: Floats, alpha: Floats, n_steps: int = 50) -> Floats:
    """The α, [L], of the maximum of `marginal` that is uphill of `alpha`, by Newton's method.

    Steps are in log α, and a quarter as long where they would lower `marginal`. The Dirichlet
    likelihood is in Minka, *Estimating a Dirichlet distribution*, 2000. Rows without votes say
    nothing.
    """
    counts = counts[counts.sum(1) > 0]
    if not len(counts):
        return alpha
    value, slope, curve, joint = _derivatives(counts, alpha)
    for _ in range(n_steps):
        step = _newton(alpha, slope, curve, joint)
        while True:
            after = np.clip(alpha * np.exp(step), LEAST, MOST)
            if np.abs(step).max() < CLOSE:
                return after
            there = _derivatives(counts, after)
            if there[0] >= value:
                break
            step = step / 4.0
        alpha = after
        value, slope, curve, joint = there
    return alpha


def _newton(alpha: Floats, slope: Floats, curve: Floats, joint: float) -> Floats:
    """Newton's step in log α from the derivatives in α, [L], uphill also where it is not concave.

    A parameter at a bound that it would leave stays there.
    """
    uphill = alpha * slope
    free = ~((alpha <= LEAST) & (uphill < 0)) & ~((alpha >= MOST) & (uphill > 0))
    a, u = alpha[free], uphill[free]
    values, axes = np.linalg.eigh(np.diag(a * a * curve[free] + u) + joint * np.outer(a, a))
    step = np.zeros_like(alpha)
    step[free] = axes @ (u @ axes / np.maximum(np.abs(values), TINY))
    return step * (LONG / max(np.abs(step).max(), LONG))


def _derivatives(counts: Floats, alpha: Floats) -> tuple[float, Floats, Floats, float]:
    """`marginal`; ∂/∂α, [L]; ∂²/∂α_l∂α_m: what it has for l = m alone, [L], and for all."""
    value, cells, curve, rows, joint = _sums(np.ascontiguousarray(counts), alpha)
    value += float(((SHAPE - 1.0) * np.log(alpha) - RATE * alpha).sum())
    slope = cells - rows + (SHAPE - 1.0) / alpha - RATE
    return value, slope, curve - (SHAPE - 1.0) / alpha**2, joint


@njit(nogil=True)
def _gammas(x: float) -> tuple[float, float, float]:
    """log Γ and its first two derivatives at x > 0, to about 1e-13: one recurrence for all three.

    Asymptotic series from x = 10 on (Abramowitz & Stegun, 6.1.41, 6.3.18 and 6.4.12).
    """
    product, first, second = 1.0, 0.0, 0.0
    while x < 10.0:
        y = 1.0 / x
        product *= x
        first += y
        second += y * y
        x += 1.0
    y = 1.0 / x
    z = y * y
    log = math.log(x)
    gamma = (x - 0.5) * log - x + 0.9189385332046727 - math.log(product)
    gamma += y * (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z * (1 / 1680 - z / 1188))))
    psi = log - 0.5 * y - first
    psi -= z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z / 132))))
    tri = y + 0.5 * z + second
    tri += y * z * (1 / 6 - z * (1 / 30 - z * (1 / 42 - z * (1 / 30 - z * (5 / 66)))))
    return gamma, psi, tri


@njit(nogil=True)
def _sums(counts: Floats, alpha: Floats) -> tuple[float, Floats, Floats, float, float]:
    """Σ over rows and labels of what log Γ and its derivatives gain by the counts."""
    n_rows, n = counts.shape
    cells, curve = np.zeros(n), np.zeros(n)
    value, rows, joint = 0.0, 0.0, 0.0
    none = np.empty((n, 3))
    for c in range(n):
        none[c] = _gammas(alpha[c])
    whole = _gammas(alpha.sum())
    for k in range(n_rows):
        total = 0.0
        for c in range(n):
            if counts[k, c] > 0:
                gamma, psi, tri = _gammas(alpha[c] + counts[k, c])
                value += gamma - none[c, 0]
                cells[c] += psi - none[c, 1]
                curve[c] += tri - none[c, 2]
                total += counts[k, c]
        gamma, psi, tri = _gammas(alpha.sum() + total)
        value -= gamma - whole[0]
        rows += psi - whole[1]
        joint -= tri - whole[2]
    return value, cells, curve, rows, joint
