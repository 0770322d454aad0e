"""Which annotators hang together, and which way round, where nothing but the votes tells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from denoise.pooled import kernels
from denoise.pooled.ballots import Ballots
from denoise.pooled.solve import Parameters


def components(votes: Ballots) -> NDArray[np.int64]:
    """The connected component of each annotator in the graph of annotators and pairs, [K]."""
    parent = np.arange(votes.n_annotators)
    group = np.asarray(votes.annotator)
    kernels.join(0, len(votes.margin), votes.start, votes.code, group, parent)
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return parent


def oriented(votes: Ballots, tau: float, at: Parameters) -> tuple[Parameters, int]:
    """The parameters with each component the way round that the prior likes, and how many turned.

    Without margins, all η and their complements explain a component's votes equally well; a prior
    whose mean is above ½ prefers the one with Σ logit η above 0. A component with known answers,
    or votes with strengths, stays as it is.
    """
    if (tau != 0 and votes.margin.any()) or votes.n_levels > 1:
        return at, 0
    root = components(votes)
    fixed = np.zeros(votes.n_annotators, bool)
    if len(votes.known):
        pair = np.repeat(votes.known != 0, np.diff(votes.start))
        fixed[np.asarray(votes.annotator)[votes.code[pair] >> 1]] = True
    anchored = np.bincount(root, fixed, votes.n_annotators) > 0
    lean = np.bincount(root, at.theta, votes.n_annotators)
    turned = (lean[root] < 0) & ~anchored[root]
    theta = np.where(turned, -at.theta, at.theta)
    return at._replace(theta=theta), len(np.unique(root[turned]))
