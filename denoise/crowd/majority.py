"""Majority vote with soft posteriors: the baseline that every other model is held against."""

from __future__ import annotations

import numpy as np

from denoise.crowd import kernels
from denoise.crowd.answers import Answers
from denoise.crowd.em import Evidence, evidence, vote_shares
from denoise.crowd.result import CrowdFit, summary


def majority(votes: Answers, given: Evidence | None = None, *, smoothing: float = 0.0) -> CrowdFit:
    """Posterior = share of (weighted) votes, `smoothing` votes spread evenly or by the prior.

    Ties are split evenly. Confusions are the expected votes with one vote a row for the
    population's own; the objective is not defined, so the trace is empty.
    """
    given = evidence(votes) if given is None else given
    posterior = vote_shares(votes, given, smoothing)
    arrays = (votes.start, votes.annotator, votes.label, posterior)
    counts = kernels.count(*arrays, votes.n_annotators).transpose(0, 2, 1)
    rows = counts.sum(0) + 1.0 / votes.n_classes
    smoothed = counts + rows / rows.sum(1, keepdims=True)
    confusion = smoothed / smoothed.sum(2, keepdims=True)
    share = posterior.sum(0) + 1.0
    if given.class_prior == "uniform":
        share = np.ones(votes.n_classes)
    return summary(votes, posterior, confusion, share / share.sum())
