"""Passes over the votes, compiled. Each works on pairs `first` up to `last` and lets go of the GIL.

Names as in `ballots`: λ are the log-odds of the cells, [C]; s = τΔ + Σ vλ, and q = σ(s).
"""

from __future__ import annotations

import math

import numpy as np

from denoise.compiled import njit

FLUSH = 256
"""Factors multiplied before a logarithm is taken: each is between 1 and 2."""

MANY = 1 << 14
"""Votes of an annotator of which a part is enough to begin with."""


@njit(nogil=True)
def longest(start):
    """The most votes that a pair has; `start` as in `Ballots`, [J + 1]."""
    most = 0
    for j in range(len(start) - 1):
        most = max(most, start[j + 1] - start[j])
    return most


@njit(nogil=True)
def _log_odds(j, start, code, margin, tau, lam):
    s = tau * margin[j]
    for i in range(start[j], start[j + 1]):
        c = code[i]
        if c & 1:
            s += lam[c >> 1]
        else:
            s -= lam[c >> 1]
    return s


@njit(nogil=True)
def _posterior(j, s, known):
    if len(known) and known[j] != 0:
        return 1.0 if known[j] > 0 else 0.0
    if s >= 0:
        return 1.0 / (1.0 + math.exp(-s))
    e = math.exp(s)
    return e / (1.0 + e)


@njit(nogil=True)
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


@njit(nogil=True)
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


@njit(nogil=True)
def log_odds_pass(first, last, start, code, margin, tau, lam, log_odds):
    """Write s of each pair."""
    for j in range(first, last):
        log_odds[j] = _log_odds(j, start, code, margin, tau, lam)


@njit(nogil=True)
def posterior_pass(first, last, log_odds, known, q):
    """Write q of each pair, given s; `q` may be `log_odds` itself."""
    for j in range(first, last):
        q[j] = _posterior(j, log_odds[j], known)


@njit(nogil=True)
def cavity_pass(start, code, margin, known, tau, lam, wanted, cursor, cavity):
    """Write P(a vote is right) by all that is known but the vote itself, cell by cell.

    Only for the cells `wanted`, [C] bool; the next vote of cell c goes to `cavity[cursor[c]]`.
    """
    for j in range(len(margin)):
        s = _log_odds(j, start, code, margin, tau, lam)
        for i in range(start[j], start[j + 1]):
            c = code[i]
            cell = c >> 1
            if not wanted[cell]:
                continue
            if len(known) and known[j] != 0:
                p = 1.0 if (known[j] > 0) == ((c & 1) == 1) else 0.0
            else:
                d = (s if c & 1 else -s) - lam[cell]
                p = 1.0 / (1.0 + math.exp(-d)) if d > -700 else 0.0
            cavity[cursor[cell]] = p
            cursor[cell] += 1


@njit(nogil=True)
def slots(code, wanted, cursor):
    """Where each vote goes cell by cell, [n], −1 for cells not `wanted`, [C] bool.

    `cursor` [C] is where each cell begins.
    """
    out = np.empty(len(code), np.int32)
    for i in range(len(code)):
        cell = code[i] >> 1
        out[i] = cursor[cell] if wanted[cell] else -1
        cursor[cell] += wanted[cell]
    return out


@njit(nogil=True)
def _sent(i, slot, code, message, lam):
    return message[slot[i]] if slot[i] >= 0 else lam[code[i] >> 1]


@njit(nogil=True)
def message_pass(
    first, last, start, code, margin, known, slot, tau, message, lam, log_odds, cavity, right
):
    """Write s of each pair, and P(each vote is right) by all but itself at its slot of `cavity`.

    `message`: log-odds that each vote is right by its annotator's other votes, slot by slot; where
    a vote has no slot they are `lam` of its cell, and w is added to its `right`, [C] each.
    Returns Σ_j log(2 cosh(s/2)), or ±s/2 where it is known.
    """
    total = 0.0
    for j in range(first, last):
        s = tau * margin[j]
        for i in range(start[j], start[j + 1]):
            m = _sent(i, slot, code, message, lam)
            s += m if code[i] & 1 else -m
        log_odds[j] = s
        fixed = known[j] if len(known) else 0
        total += fixed * s / 2 if fixed else abs(s) / 2 + math.log1p(math.exp(-abs(s)))
        for i in range(start[j], start[j + 1]):
            along = s if code[i] & 1 else -s
            if slot[i] >= 0 and not fixed:
                along -= message[slot[i]]
            if fixed:
                p = 1.0 if (fixed > 0) == ((code[i] & 1) == 1) else 0.0
            else:
                p = 1.0 / (1.0 + math.exp(-along)) if along > -700 else 0.0
            if slot[i] >= 0:
                cavity[slot[i]] = p
            else:
                right[code[i] >> 1] += p
    return total


@njit(nogil=True)
def node_pass(first, last, begin, end, cavity, nodes, out):
    """Add Σ log(Pη + (1−P)(1−η)) at each node η of each cell.

    Cells `first` up to `last`, whose votes are `begin[c]` up to `end[c]` of `cavity`; `nodes` and
    `out` [C, Q].
    """
    n_nodes = nodes.shape[1]
    product = np.ones(n_nodes)
    for c in range(first, last):
        product[:] = 1.0
        for i in range(begin[c], end[c]):
            base = 1.0 - cavity[i]
            slope = 2.0 * cavity[i] - 1.0
            for n in range(n_nodes):
                product[n] *= base + slope * nodes[c, n]
            if (i & 7) == 7:
                for n in range(n_nodes):
                    out[c, n] += math.log(max(product[n], 1e-300))
                product[:] = 1.0
        for n in range(n_nodes):
            out[c, n] += math.log(max(product[n], 1e-300))


@njit(nogil=True)
def bend_pass(first, last, begin, end, cavity, eta, slope, bend):
    """Write the first and minus the second derivative of Σ log(Pη+(1−P)(1−η)) in θ, [C] each."""
    for c in range(first, last):
        x = eta[c]
        one, two = 0.0, 0.0
        for i in range(begin[c], end[c]):
            lean = 2.0 * cavity[i] - 1.0
            g = lean * x * (1.0 - x) / max(1.0 - cavity[i] + lean * x, 1e-300)
            one += g
            two += g * (g - (1.0 - 2.0 * x))
        slope[c] = one
        bend[c] = two


@njit(nogil=True)
def leave_one_out_pass(first, last, begin, end, cavity, nodes, mass, kept, message):
    """Write logit E[η without the vote itself] of each vote of the cells `first` up to `last`.

    Of the old message a share of `kept` stays.

    `mass`: posterior of each node of the cell, [C, Q]. Returns Σ ½ log μ(1−μ) − log(Pμ +
    (1−P)(1−μ)), μ that mean, and the largest change of a μ.
    """
    n_nodes = nodes.shape[1]
    total, change = 0.0, 0.0
    for c in range(first, last):
        for i in range(begin[c], end[c]):
            p = cavity[i]
            base = 1.0 - p
            slope = 2.0 * p - 1.0
            whole, right = 0.0, 0.0
            for n in range(n_nodes):
                share = mass[c, n] / max(base + slope * nodes[c, n], 1e-30)
                whole += share
                right += share * nodes[c, n]
            mu = min(max(right / whole, 1e-12), 1.0 - 1e-12)
            before = 1.0 / (1.0 + math.exp(-message[i]))
            change = max(change, abs(mu - before))
            mu += kept * (before - mu)
            message[i] = math.log(mu / (1.0 - mu))
            total += 0.5 * math.log(mu * (1.0 - mu)) - math.log(max(base + slope * mu, 1e-300))
    return total, change


@njit(nogil=True)
def wrong_pass(first, last, start, code, known, log_odds):
    """Σ(1−w) over the votes, given s of each pair."""
    total = 0.0
    for j in range(first, last):
        q = _posterior(j, log_odds[j], known)
        for i in range(start[j], start[j + 1]):
            total += 1.0 - q if code[i] & 1 else q
    return total


@njit(nogil=True)
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


@njit(nogil=True)
def coupling_pass(start, code, q, group, matrix):
    """Add Σ_j q(1−q) v_j v_jᵀ to `matrix`, [K, K]; `group` is the row of each cell."""
    for j in range(len(q)):
        spread = q[j] * (1.0 - q[j])
        for i in range(start[j], start[j + 1]):
            row = group[code[i] >> 1]
            v = spread if code[i] & 1 else -spread
            for m in range(start[j], start[j + 1]):
                matrix[row, group[code[m] >> 1]] += v if code[m] & 1 else -v


@njit(nogil=True)
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


@njit(nogil=True)
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


@njit(nogil=True)
def _root(parent, k):
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _slopes(first, last, advantage, eta):
    """Σt and Σt² with t = d/(½ + d(η − ½)), d = 2P − 1: ℓ' and −ℓ'' of one annotator."""
    lean = eta - 0.5
    slope, bend = 0.0, 0.0
    for i in range(first, last):
        d = np.float64(advantage[i])
        t = d / (0.5 + d * lean)
        slope += t
        bend += t * t
    return slope, bend


@njit(nogil=True)
def slope_pass(first, last, ends, advantage, eta, slope, bend):
    """Write `_slopes` of annotators `first` up to `last`, [K] each."""
    for k in range(first, last):
        slope[k], bend[k] = _slopes(ends[k], ends[k + 1], advantage, eta[k])


@njit(nogil=True)
def _newton(first, last, advantage, a, b, edge, tolerance, most, x):
    """The root of ℓ'(η) + a/η − b/(1−η), and the passes it took, −1 where `most` did not do.

    Newton's method within a bracket that closes in on the root, halved where a step would leave
    it. The error falls with the square of the step, so the last step may be the root of it.
    """
    low, high = edge, 1.0 - edge
    for step in range(most):
        slope, bend = _slopes(first, last, advantage, x)
        slope += a / x - b / (1.0 - x)
        bend += a / (x * x) + b / ((1.0 - x) * (1.0 - x))
        if bend == 0.0:
            return x, step + 1
        if slope > 0:
            low = x
        else:
            high = x
        after = x + slope / bend
        halved = not low < after < high
        if halved:
            after = (low + high) / 2
        moved = abs(after - x)
        x = after
        if moved <= tolerance or (not halved and moved <= 1e-2 * math.sqrt(tolerance)):
            return x, step + 1
    return x, -1


@njit(nogil=True)
def newton_pass(first, last, ends, advantage, a, b, edge, tolerance, most, eta, steps):
    """`_newton` for annotators `first` up to `last`, from `eta`, in place; `steps` gets the passes.

    `a` and `b` are of each annotator, [K].
    Of many votes, a sixteenth gives the start.
    """
    for k in range(first, last):
        x = min(max(eta[k], edge), 1.0 - edge)
        begin, n = ends[k], ends[k + 1] - ends[k]
        if n > MANY:
            few = begin + n // 16
            x, _ = _newton(begin, few, advantage, a[k] / 16, b[k] / 16, edge, 1e-3, most, x)
        end = begin + n
        eta[k], steps[k] = _newton(begin, end, advantage, a[k], b[k], edge, tolerance, most, x)
