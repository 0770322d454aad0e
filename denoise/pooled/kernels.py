"""Passes over the votes, compiled. Each works on pairs `first` up to `last` and lets go of the GIL.

Names as in `ballots`: λ are the log-odds of the cells, [C]; s = τΔ + Σ vλ, and q = σ(s).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

FLUSH = 256
"""Factors multiplied before a logarithm is taken: each is between 1 and 2."""


@njit(nogil=True, cache=True)
def _log_odds(j, start, code, margin, tau, lam):
    s = tau * margin[j]
    for i in range(start[j], start[j + 1]):
        c = code[i]
        if c & 1:
            s += lam[c >> 1]
        else:
            s -= lam[c >> 1]
    return s


@njit(nogil=True, cache=True)
def _posterior(j, s, known):
    if len(known) and known[j] != 0:
        return 1.0 if known[j] > 0 else 0.0
    if s >= 0:
        return 1.0 / (1.0 + math.exp(-s))
    e = math.exp(s)
    return e / (1.0 + e)


@njit(nogil=True, cache=True)
def e_pass(first, last, start, code, margin, known, tau, lam, right):
    """Add Σw of each cell to `right`; return Σ_j log(2 cosh(s/2)), or ±s/2 where it is known."""
    total = 0.0
    product = 1.0
    pending = 0
    for j in range(first, last):
        s = _log_odds(j, start, code, margin, tau, lam)
        if len(known) and known[j] != 0:
            q = 1.0 if known[j] > 0 else 0.0
            total += known[j] * s / 2
        else:
            e = math.exp(-abs(s))
            q = 1.0 / (1.0 + e)
            if s < 0:
                q = e * q
            total += abs(s) / 2
            product *= 1.0 + e
            pending += 1
            if pending == FLUSH:
                total += math.log(product)
                product = 1.0
                pending = 0
        for i in range(start[j], start[j + 1]):
            c = code[i]
            right[c >> 1] += q if c & 1 else 1.0 - q
    return total + math.log(product)


@njit(nogil=True, cache=True)
def evidence_pass(first, last, margin, tau):
    """Σ_j log(2 cosh(τΔ/2))."""
    total = 0.0
    product = 1.0
    for j in range(first, last):
        x = abs(tau * margin[j])
        total += x / 2
        product *= 1.0 + math.exp(-x)
        if (j & (FLUSH - 1)) == 0:
            total += math.log(product)
            product = 1.0
    return total + math.log(product)


@njit(nogil=True, cache=True)
def posterior_pass(first, last, start, code, margin, known, tau, lam, log_odds, q):
    """Write s and q of each pair."""
    for j in range(first, last):
        s = _log_odds(j, start, code, margin, tau, lam)
        log_odds[j] = s
        q[j] = _posterior(j, s, known)


@njit(nogil=True, cache=True)
def cavity_pass(first, last, start, code, margin, known, tau, lam, place, cavity):
    """Write, at `place` of each vote, P(it is right) by all that is known but the vote itself."""
    for j in range(first, last):
        s = _log_odds(j, start, code, margin, tau, lam)
        for i in range(start[j], start[j + 1]):
            c = code[i]
            if len(known) and known[j] != 0:
                p = 1.0 if (known[j] > 0) == ((c & 1) == 1) else 0.0
            else:
                d = (s if c & 1 else -s) - lam[c >> 1]
                p = 1.0 / (1.0 + math.exp(-d)) if d > -700 else 0.0
            cavity[place[i]] = p


@njit(nogil=True, cache=True)
def node_pass(first, last, begin, end, cavity, eta, nodes, out):
    """Add Σ log of (Pη' + (1−P)(1−η')) over the same at η, at each node η' of each cell.

    Cells `first` up to `last`, whose votes are `begin[c]` up to `end[c]` of `cavity`; `eta` [C];
    `nodes` and `out` [C, Q].
    """
    n_nodes = nodes.shape[1]
    product = np.ones(n_nodes)
    for c in range(first, last):
        product[:] = 1.0
        here = eta[c]
        for i in range(begin[c], end[c]):
            p = cavity[i]
            scale = 1.0 / (p * here + (1.0 - p) * (1.0 - here))
            base = (1.0 - p) * scale
            slope = (2.0 * p - 1.0) * scale
            for n in range(n_nodes):
                product[n] *= base + slope * nodes[c, n]
            if (i & 7) == 7:
                for n in range(n_nodes):
                    out[c, n] += math.log(max(product[n], 1e-300))
                product[:] = 1.0
        for n in range(n_nodes):
            out[c, n] += math.log(max(product[n], 1e-300))


@njit(nogil=True, cache=True)
def wrong_pass(first, last, start, code, margin, known, tau, lam):
    """Σ(1−w) over the votes."""
    total = 0.0
    for j in range(first, last):
        q = _posterior(j, _log_odds(j, start, code, margin, tau, lam), known)
        for i in range(start[j], start[j + 1]):
            total += 1.0 - q if code[i] & 1 else q
    return total


@njit(nogil=True, cache=True)
def spread_pass(first, last, start, code, margin, known, tau, lam, of_tau, of_wrong):
    """What the uncertainty of a pair's truth ties together, as sums over pairs.

    Adds Σ q(1−q)·vΔ to `of_tau` and −Σ q(1−q)·v·Σv to `of_wrong`, [C] each; returns
    −Σ q(1−q)Δ·Σv and Σ q(1−q)(Σv)², the slope in τ and the variance of the number of wrong votes.
    """
    slope, variance = 0.0, 0.0
    for j in range(first, last):
        s = _log_odds(j, start, code, margin, tau, lam)
        q = _posterior(j, s, known)
        spread = q * (1.0 - q)
        for_a = 0
        for i in range(start[j], start[j + 1]):
            for_a += code[i] & 1
        n = start[j + 1] - start[j]
        lead = 2 * for_a - n
        delta = margin[j]
        slope -= spread * delta * lead
        variance += spread * lead * lead
        for i in range(start[j], start[j + 1]):
            c = code[i]
            v = 1.0 if c & 1 else -1.0
            of_tau[c >> 1] += spread * v * delta
            of_wrong[c >> 1] -= spread * v * lead
    return slope, variance


@njit(nogil=True, cache=True)
def coupling_pass(start, code, q, group, matrix):
    """Add Σ_j q(1−q) v_j v_jᵀ to `matrix`, [K, K]; `group` is the row of each cell."""
    for j in range(len(q)):
        spread = q[j] * (1.0 - q[j])
        for i in range(start[j], start[j + 1]):
            row = group[code[i] >> 1]
            v = spread if code[i] & 1 else -spread
            for m in range(start[j], start[j + 1]):
                matrix[row, group[code[m] >> 1]] += v if code[m] & 1 else -v


@njit(nogil=True, cache=True)
def own_coupling_pass(start, code, q, group, precision, own, second):
    """Diagonal of the matrix of `coupling_pass`, and Σ_j Σ_{l≠k} (q(1−q))²/precision_l, [K] each.

    The second is what the others' uncertainty adds to first order where two annotators seldom
    share more than one pair.
    """
    for j in range(len(q)):
        spread = q[j] * (1.0 - q[j])
        total = 0.0
        for i in range(start[j], start[j + 1]):
            total += 1.0 / precision[group[code[i] >> 1]]
        for i in range(start[j], start[j + 1]):
            row = group[code[i] >> 1]
            own[row] += spread
            second[row] += spread * spread * (total - 1.0 / precision[row])


@njit(nogil=True, cache=True)
def join(first, last, start, code, group, parent):
    """Union–find: annotators that voted on the same pair get the same root in `parent`, [K]."""
    for j in range(first, last):
        if start[j] == start[j + 1]:
            continue
        one = _root(parent, group[code[start[j]] >> 1])
        for i in range(start[j] + 1, start[j + 1]):
            other = _root(parent, group[code[i] >> 1])
            if one != other:
                low, high = min(one, other), max(one, other)
                parent[high] = low
                one = low


@njit(nogil=True, cache=True)
def _root(parent, k):
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k
