"""Compiled loops over votes; every sum is float64 and in the order of the votes.

Confusions lie here as [K, label, truth], so that a vote reads one contiguous row of log
probabilities over the possible truths.
"""

from __future__ import annotations

import math

import numpy as np

from denoise.compiled import njit
from denoise.crowd.answers import Floats

LARGE = 1e200
"""Factors are multiplied up to about this before one logarithm is taken of all."""


@njit(nogil=True)
def e_pass(
    first: int,
    last: int,
    start: Floats,
    cell: Floats,
    evidence: Floats,
    log_prior: Floats,
    known: Floats,
    before: Floats,
    posterior: Floats,
    counts: Floats,
    classes: Floats,
) -> tuple[float, float]:
    """Posteriors of items `first` up to `last`, [J, C], and what they add to `counts`, `classes`.

    `cell` is annotator·C + label, [n]; `evidence` c·log π and `counts` have a row a cell and a
    column a truth, [KC, C]; `classes` gets the expected items of each class, [C]; `log_prior`
    [J or 1, C]. Returns Σ_j log of the sum over truths (of
    the known one alone, where there is one) and the largest change since `before`, [J, C].
    """
    n_classes = log_prior.shape[1]
    shared, any_known = log_prior.shape[0] == 1, known.shape[0] > 0
    total, moved, product = 0.0, 0.0, 1.0
    q = np.empty(n_classes)
    for j in range(first, last):
        row = 0 if shared else j
        for t in range(n_classes):
            q[t] = log_prior[row, t]
        for i in range(start[j], start[j + 1]):
            c = cell[i]
            for t in range(n_classes):
                q[t] += evidence[c, t]
        if any_known and known[j] >= 0:
            total += q[known[j]]
            q[:] = 0.0
            q[known[j]] = 1.0
        else:
            top, norm = q[0], 0.0
            for t in range(1, n_classes):
                top = max(top, q[t])
            for t in range(n_classes):
                q[t] = math.exp(q[t] - top)
                norm += q[t]
            total += top
            product *= norm
            if product > LARGE:
                total += math.log(product)
                product = 1.0
            for t in range(n_classes):
                q[t] /= norm
        for t in range(n_classes):
            moved = max(moved, abs(q[t] - before[j, t]))
            posterior[j, t] = q[t]
            classes[t] += q[t]
        for i in range(start[j], start[j + 1]):
            c = cell[i]
            for t in range(n_classes):
                counts[c, t] += q[t]
    return total + math.log(product), moved


@njit(nogil=True)
def e_pass_binary(
    first: int,
    last: int,
    start: Floats,
    cell: Floats,
    turn: Floats,
    log_prior: Floats,
    known: Floats,
    before: Floats,
    posterior: Floats,
    counts: Floats,
    classes: Floats,
) -> tuple[float, float]:
    """`e_pass` for two classes, several times as fast: one number a vote, one exponential an item.

    `turn` is the evidence for truth 1 less that for 0, [2K]; the evidence for 0, summed over all
    votes, is left out of the sum returned. `counts` gets the expected votes of truth 1, [2K].
    """
    shared, any_known = log_prior.shape[0] == 1, known.shape[0] > 0
    total, moved, product = 0.0, 0.0, 1.0
    zero, prior = log_prior[0, 0], log_prior[0, 1] - log_prior[0, 0]
    for j in range(first, last):
        if not shared:
            zero, prior = log_prior[j, 0], log_prior[j, 1] - log_prior[j, 0]
        odds = prior
        for i in range(start[j], start[j + 1]):
            odds += turn[cell[i]]
        if any_known and known[j] >= 0:
            one = float(known[j])
            other = 1.0 - one
            total += zero + one * odds
        else:
            small = math.exp(-abs(odds))
            total += zero + max(odds, 0.0)
            product *= 1.0 + small
            if product > LARGE:
                total += math.log(product)
                product = 1.0
            larger = 1.0 / (1.0 + small)
            smaller = small * larger
            one, other = (larger, smaller) if odds > 0 else (smaller, larger)
        moved = max(moved, abs(one - before[j, 1]))
        posterior[j, 0], posterior[j, 1] = other, one
        classes[0] += other
        classes[1] += one
        for i in range(start[j], start[j + 1]):
            counts[cell[i]] += one
    return total + math.log(product), moved


@njit(nogil=True)
def shares(
    start: Floats, annotator: Floats, label: Floats, power: Floats, smoothing: float, spread: Floats
) -> Floats:
    """Powers of those who gave each item each label, with `smoothing` spread by `spread`, [J, C].

    Every row is divided by its sum; `spread` is [J or 1, C].
    """
    n_items, n_classes = start.shape[0] - 1, spread.shape[1]
    out = np.empty((n_items, n_classes))
    for j in range(n_items):
        row, total = 0 if spread.shape[0] == 1 else j, 0.0
        for t in range(n_classes):
            out[j, t] = smoothing * spread[row, t]
        for i in range(start[j], start[j + 1]):
            out[j, label[i]] += power[annotator[i]]
        for t in range(n_classes):
            total += out[j, t]
        for t in range(n_classes):
            out[j, t] /= total
    return out


@njit(nogil=True)
def count(
    start: Floats, annotator: Floats, label: Floats, posterior: Floats, n_annotators: int
) -> Floats:
    """Expected votes by annotator, label and truth, [K, C, C]."""
    n_classes = posterior.shape[1]
    counts = np.zeros((n_annotators, n_classes, n_classes))
    for j in range(start.shape[0] - 1):
        for i in range(start[j], start[j + 1]):
            k, c = np.uint32(annotator[i]), np.uint32(label[i])
            for t in range(n_classes):
                counts[k, c, t] += posterior[j, t]
    return counts


@njit(nogil=True)
def agreement(
    start: Floats, annotator: Floats, label: Floats, n_annotators: int, n_classes: int
) -> tuple[Floats, Floats]:
    """Votes for the label that most of the item's others gave, and votes where one leads, [K]."""
    agreed, decided = np.zeros(n_annotators), np.zeros(n_annotators)
    tally = np.empty(n_classes, np.int64)
    for j in range(start.shape[0] - 1):
        tally[:] = 0
        for i in range(start[j], start[j + 1]):
            tally[label[i]] += 1
        for i in range(start[j], start[j + 1]):
            most = 0
            for t in range(n_classes):
                if t != label[i]:
                    most = max(most, tally[t])
            lead = tally[label[i]] - 1 - most
            agreed[annotator[i]] += lead > 0
            decided[annotator[i]] += lead != 0
    return agreed, decided


@njit(nogil=True)
def left_out(
    start: Floats,
    annotator: Floats,
    label: Floats,
    probability: Floats,
    evidence: Floats,
    log_prior: Floats,
    shared_error: float,
) -> Floats:
    """log P(vote | the item's other votes), [n], which weigh 1/(1 + (n_j − 2)·shared_error)."""
    n_classes = log_prior.shape[1]
    out = np.zeros(annotator.shape[0])
    whole, q = np.empty(n_classes), np.empty(n_classes)
    for j in range(start.shape[0] - 1):
        row = 0 if log_prior.shape[0] == 1 else j
        whole[:] = 0.0
        others = max(start[j + 1] - start[j] - 2, 0)
        weight = 1.0 / (1.0 + others * shared_error)
        for i in range(start[j], start[j + 1]):
            for t in range(n_classes):
                whole[t] += evidence[annotator[i], label[i], t]
        for i in range(start[j], start[j + 1]):
            for t in range(n_classes):
                rest = whole[t] - evidence[annotator[i], label[i], t]
                q[t] = weight * (log_prior[row, t] + rest)
            top, norm, likely = q.max(), 0.0, 0.0
            for t in range(n_classes):
                share = np.exp(q[t] - top)
                norm += share
                likely += share * probability[annotator[i], label[i], t]
            out[i] = np.log(max(likely / norm, 1e-300))
    return out


@njit(nogil=True)
def information(
    start: Floats, annotator: Floats, label: Floats, posterior: Floats, diagonal: Floats
) -> Floats:
    """Observed information on each annotator's confusion diagonal, [K, C, C] (truth, truth).

    Each item's likelihood is linear in π_k[t, t] (the rest of the row shrinks in proportion), so
    −∂²ℓ/∂π_tt∂π_uu is the sum over the items of the product of the two first derivatives.
    """
    n_annotators, n_classes = diagonal.shape
    total = np.zeros((n_annotators, n_classes, n_classes))
    slope = np.empty(n_classes)
    for j in range(start.shape[0] - 1):
        for i in range(start[j], start[j + 1]):
            k = annotator[i]
            for t in range(n_classes):
                right = 1.0 / diagonal[k, t] if label[i] == t else -1.0 / (1.0 - diagonal[k, t])
                slope[t] = posterior[j, t] * right
            for t in range(n_classes):
                for u in range(n_classes):
                    total[k, t, u] += slope[t] * slope[u]
    return total
