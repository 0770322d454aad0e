"""Subtypes of items: the bound against enumeration, known answers and powers, planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from crowd_cases import drawn, misled
from scipy.special import gammaln

from denoise.crowd import em
from denoise.crowd.dawid_skene import dawid_skene
from denoise.crowd.subtypes import RIGHT, SPARSITY, WRONG, _run, left_out, subtypes


def polya(counts, alpha):
    """log of the Dirichlet-multinomial density of one sequence with these counts."""
    whole = gammaln(alpha.sum()) - gammaln(alpha.sum() + counts.sum())
    return whole + (gammaln(alpha + counts) - gammaln(alpha)).sum()


def log_evidence(votes, n_subtypes, allowed=lambda j, t: True):
    """log P(votes), parameters integrated out, over all classes and subtypes of all items."""
    n_classes, terms = votes.n_classes, []
    for joint in np.ndindex(*(n_classes * n_subtypes,) * votes.n_items):
        s = np.array(joint)
        t = s // n_subtypes
        if not all(allowed(j, t[j]) for j in range(votes.n_items)):
            continue
        term = polya(np.bincount(t, minlength=n_classes), np.ones(n_classes))
        sizes = np.bincount(s, minlength=n_classes * n_subtypes).reshape(n_classes, -1)
        term += sum(polya(row, np.full(n_subtypes, SPARSITY / n_subtypes)) for row in sizes)
        for k in range(votes.n_annotators):
            for u in range(n_classes * n_subtypes):
                there = (votes.annotator == k) & (s[votes.item] == u)
                beta = np.full(n_classes, WRONG)
                beta[u // n_subtypes] = RIGHT
                term += polya(np.bincount(votes.label[there], minlength=n_classes), beta)
        terms.append(term)
    return np.logaddexp.reduce(terms)


@pytest.mark.parametrize(("seed", "n_classes"), [(0, 2), (1, 2), (2, 3)])
def test_the_bound_rises_to_below_the_evidence_of_enumeration(seed, n_classes):
    votes, _ = drawn(seed, 4, 3, n_classes)
    fitted = subtypes(votes, em.evidence(votes), n_subtypes=2, tolerance=1e-10)
    assert (np.diff(fitted.bound) > -1e-9).all()
    exact = log_evidence(votes, 2)
    assert exact - 6.0 < fitted.bound[-1] < exact
    known = np.array([0, -1, 1, -1])
    fitted = subtypes(votes, em.evidence(votes, known=known), n_subtypes=2, tolerance=1e-10)
    exact = log_evidence(votes, 2, lambda j, t: known[j] in (-1, t))
    assert exact - 6.0 < fitted.bound[-1] < exact
    assert (fitted.posterior[[0, 2], known[[0, 2]]] == 1.0).all()


@pytest.mark.parametrize("seed", range(3))
def test_starts_and_moves_only_raise_the_bound(seed):
    votes, _ = misled(seed, 150, 10, 6)
    given = em.evidence(votes)
    one, more = (subtypes(votes, given, n_starts=n).bound[-1] for n in (1, 3))
    assert more >= one
    assert subtypes(votes, given, move=True).bound[-1] >= one


def test_moves_find_the_bound_that_the_truth_leads_to():
    votes, truth = misled(3, 1000, 24)
    given = em.evidence(votes)
    start = (
        np.eye(2)[truth][:, :, None] * np.random.default_rng(0).dirichlet(np.ones(4), 1000)[:, None]
    )
    told = _run(votes, given, start.reshape(1000, 8), 1e-3, 500)
    assert subtypes(votes, given).bound[-1] < told.bound[-1] - 5.0
    assert subtypes(votes, given, move=True).bound[-1] > told.bound[-1] - 1.0


def test_a_single_subtype_is_dawid_skene():
    votes, truth = drawn(4, 200, 10, 3)
    given = em.evidence(votes)
    ours = subtypes(votes, given, n_subtypes=1).posterior
    theirs = em.fit(votes, given, dawid_skene(votes)).posterior
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.97
    assert (ours.argmax(1) == truth).mean() > 0.95


def test_planted_misleading_items_do_not_become_a_class():
    votes, truth = misled(3, 1000, 24)
    given = em.evidence(votes)
    fitted = subtypes(votes, given, move=True)
    plain = em.fit(votes, given, dawid_skene(votes)).posterior
    found = (fitted.posterior.argmax(1) == truth).mean()
    assert found > (plain.argmax(1) == truth).mean() + 0.05
    assert fitted.bound[-1] > subtypes(votes, given, n_subtypes=1).bound[-1] + 20


def test_a_power_of_zero_silences_and_a_prior_of_the_items_speaks():
    votes, truth = drawn(6, 60, 6, 2)
    silent = subtypes(votes, em.evidence(votes, power=np.zeros(6)))
    assert np.ptp(silent.posterior, 0).max() < 0.05
    sure = np.where(np.eye(2)[truth] > 0, 0.999, 0.001)
    fitted = subtypes(votes, em.evidence(votes, prior=sure))
    assert (fitted.posterior.argmax(1) == truth).all()
    even = subtypes(votes, em.evidence(votes, class_prior="uniform"))
    level = subtypes(votes, em.evidence(votes, prior=np.full((60, 2), 0.5)))
    np.testing.assert_allclose(even.posterior, level.posterior, atol=1e-12)


def test_left_out_votes_are_predicted_by_the_mixture_of_subtypes():
    votes, _ = drawn(7, 12, 4, 3)
    given = em.evidence(votes)
    fitted = subtypes(votes, given, n_subtypes=2)
    pi = fitted.mu / fitted.mu.sum(1, keepdims=True)
    rho = np.repeat(fitted.nu / fitted.nu.sum(), 2)
    rho = rho * (fitted.eta / fitted.eta.sum(1, keepdims=True)).ravel()
    out = left_out(votes, given, fitted)
    for i, j in enumerate(votes.item):
        q = rho.copy()
        for m in np.flatnonzero(votes.item == j):
            if m != i:
                q *= pi[votes.annotator[m], votes.label[m]]
        expected = np.log(q / q.sum() @ pi[votes.annotator[i], votes.label[i]])
        assert out[i] == pytest.approx(expected, rel=1e-10)
