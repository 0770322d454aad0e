"""Small random tables, drawn by hypothesis or by a planted Dawid–Skene model."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import strategies as st

from denoise.crowd import em
from denoise.crowd.answers import Answers, answers
from denoise.crowd.dawid_skene import dawid_skene
from denoise.crowd.guesser import guesser
from denoise.crowd.one_coin import one_coin

MODELS = {
    "one-coin": one_coin,
    "guesser": guesser,
    "dawid-skene": dawid_skene,
}


def drawn(seed: int, n_items: int, n_annotators: int, n_classes: int, share: float = 0.7):
    """Random votes with some missing, by which every annotator is a bit better than chance."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_classes, size=n_items)
    item, annotator = np.nonzero(rng.random((n_items, n_annotators)) < share)
    right = rng.random(len(item)) < rng.uniform(0.5, 0.95, n_annotators)[annotator]
    label = np.where(right, truth[item], rng.integers(n_classes, size=len(item)))
    return answers(item, annotator, label, n_items, n_annotators, n_classes), truth


def misled(seed: int, n_items: int, n_annotators: int, each: int = 10):
    """Two classes, the second rare; half of the annotators take hard items of the first for it."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n_items) < 0.2).astype(np.int64)
    hard = (truth == 0) & (rng.random(n_items) < 0.3)
    seen, clean = rng.uniform(0.6, 0.95, (2, n_annotators))
    fooled = np.where(np.arange(n_annotators) % 2 == 0, 0.8, 0.15)
    item = np.repeat(np.arange(n_items), each)
    annotator = rng.permuted(np.tile(np.arange(n_annotators), (n_items, 1)), axis=1)[:, :each]
    annotator = annotator.ravel()
    says_one = np.where(truth[item] == 1, seen[annotator], 1.0 - clean[annotator])
    says_one = np.where(hard[item], fooled[annotator], says_one)
    label = (rng.random(len(item)) < says_one).astype(np.int64)
    return answers(item, annotator, label, n_items, n_annotators, 2), truth


SWITCHES = list(product(sorted(MODELS), *([False, True],) * 3, ["learned", "uniform"]))
"""Model, known answers, items' own priors, powers, class prior: every combination."""


def case(seed: int, switches) -> tuple[Answers, em.Evidence, em.Point]:
    """Up to 4 items, 3 annotators and 3 classes, what is given, and random parameters."""
    name, known, priors, powers, class_prior = switches
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 4))
    votes, truth = drawn(seed, int(rng.integers(1, 5)), int(rng.integers(1, 4)), n_classes)
    some = np.where(rng.random(votes.n_items) < 0.3, truth, -1)
    given = em.evidence(
        votes,
        power=rng.uniform(0.2, 1.0, votes.n_annotators) if powers else None,
        known=some if known else None,
        prior=rng.dirichlet(np.ones(n_classes), votes.n_items) if priors else None,
        class_prior=class_prior,
    )
    counts = rng.gamma(1.0, 3.0, (votes.n_annotators, n_classes, n_classes))
    model = MODELS[name](votes).learned(counts).maximised(counts)
    return votes, given, em.Point(model, rng.dirichlet(np.full(n_classes, 3.0)))


@st.composite
def cases(draw):
    """A `case` with drawn switches."""
    return case(draw(st.integers(0, 10_000)), draw(st.sampled_from(SWITCHES)))


def enumerated(votes: Answers, given: em.Evidence, model, class_prior):
    """log Σ over all truths of all items together, and each item's posterior, term by term."""
    pi = model.confusion()
    total, posterior = 0.0, np.zeros((votes.n_items, votes.n_classes))
    for truths in np.ndindex(*(votes.n_classes,) * votes.n_items):
        term = 1.0
        for j, t in enumerate(truths):
            if len(given.known) and given.known[j] not in (-1, t):
                term = 0.0
            term *= class_prior[t] if given.prior is None else given.prior[j, t]
        for j, k, label in zip(votes.item, votes.annotator, votes.label, strict=True):
            term *= pi[k, label, truths[j]] ** given.power[k]
        total += term
        posterior[np.arange(votes.n_items), truths] += term
    return np.log(total), posterior / total
