"""The pooled model in plain Python, by summing over every state of the hidden truth."""

import itertools
import math

import numpy as np
from hypothesis import strategies as st

from denoise.pooled.ballots import ballots
from denoise.pooled.prior import Prior
from denoise.pooled.solve import Parameters


def enumerate_truths(pair, cell, sign, margin, known, tau, lam):
    """Posterior of a per pair, w per vote, and log-likelihood, from all 2^J truths.

    Known answers are data like the votes: their states are the only ones left.
    """
    eta = 1 / (1 + np.exp(-np.asarray(lam)))
    total, right_a, right = 0.0, np.zeros(len(margin)), np.zeros(len(pair))
    for state in itertools.product([1, -1], repeat=len(margin)):
        if any(k not in (0, z) for k, z in zip(known, state, strict=True)):
            continue
        joint = 1.0
        for delta, z in zip(margin, state, strict=True):
            joint *= 1 / (1 + math.exp(-z * tau * delta))
        for j, c, v in zip(pair, cell, sign, strict=True):
            joint *= eta[c] if v == state[j] else 1 - eta[c]
        total += joint
        z = np.array(state)
        right_a += joint * (z > 0)
        right += joint * (np.asarray(sign) == z[pair])
    return right_a / total, right / total, math.log(total)


@st.composite
def small_votes(draw, pairs=4, votes=8):
    """A few votes of three annotators at one or two strengths: the arrays, and their `Ballots`."""
    n_pairs, n = draw(st.integers(1, pairs)), draw(st.integers(1, votes))
    n_levels = draw(st.integers(1, 2))

    def column(low, high, length=n):
        values = st.lists(st.integers(low, high), min_size=length, max_size=length)
        return np.array(draw(values))

    margins = st.lists(st.floats(-6, 6), min_size=n_pairs, max_size=n_pairs)
    pair, annotator, level = column(0, n_pairs - 1), column(0, 2), column(0, n_levels - 1)
    sign = 2 * column(0, 1) - 1
    margin = np.array(draw(margins))
    known = np.maximum(column(0, 3, n_pairs) - 1, 0)  # 0, 0, 1 or 2
    known = np.where(known == 2, -1, known)
    made = ballots(pair, annotator, sign, margin, 3, level=level, n_levels=n_levels, known=known)
    arrays = (pair, annotator * n_levels + level, sign, margin, known)
    return arrays, made


def parameters(draw_theta, draw_delta, votes):
    """Parameters with Σ n·δ = 0 from any numbers."""
    n = np.bincount(votes.level, votes.votes, votes.n_levels)
    delta = np.array(draw_delta[: votes.n_levels])
    delta = delta - (n @ delta) / n.sum() if votes.n_levels > 1 else np.zeros(1)
    return Parameters(np.array(draw_theta), delta)


thetas = st.lists(st.floats(-4, 4), min_size=3, max_size=3)
deltas = st.lists(st.floats(-1, 1), min_size=2, max_size=2)
priors = st.one_of(
    st.just(Prior(0.9, 0.0)),
    st.builds(Prior, st.floats(0.2, 0.95), st.floats(0.5, 20)),
)
