"""Which annotators hang together, and which way round, where nothing but the votes tells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from denoise.pooled import kernels
from denoise.pooled.ballots import Ballots, Votes
from denoise.pooled.solve import Parameters


def components(votes: Votes) -> NDArray[np.int64]:
    """The connected component of each annotator in the graph of annotators and pairs, [K].

    Its name is the least of its annotators' codes.
    """
    every = np.arange(votes.n_annotators)
    parents = votes.each(_joined)
    edges = np.tile(every, len(parents)), np.concatenate(parents)
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(len(every), len(every)))
    n_components, label = connected_components(graph, directed=False)
    name = np.full(n_components, len(every))
    np.minimum.at(name, label, every)
    return name[label]


def _joined(part: Ballots) -> NDArray[np.int64]:
    parent = np.arange(part.n_annotators)
    group = np.asarray(part.annotator)
    kernels.join(0, len(part.margin), part.start, part.code, group, parent)
    return parent


def _anchored(part: Ballots) -> NDArray[np.bool_]:
    """Who voted on a pair with a known answer, [K]."""
    fixed = np.zeros(part.n_annotators, bool)
    if len(part.known):
        pair = np.repeat(part.known != 0, np.diff(part.start))
        fixed[np.asarray(part.annotator)[part.code[pair] >> 1]] = True
    return fixed


def oriented(votes: Votes, tau: float, at: Parameters) -> tuple[Parameters, int]:
    """The parameters with each component the way round that the prior likes, and how many turned.

    Without margins, all η and their complements explain a component's votes equally well; a prior
    whose mean is above ½ prefers the one with Σ logit η above 0. A component with known answers,
    or votes with strengths, stays as it is.
    """
    if (tau != 0 and votes.has_margins) or votes.n_levels > 1:
        return at, 0
    root = components(votes)
    fixed = np.any(votes.each(_anchored), axis=0)
    anchored = np.bincount(root, fixed, votes.n_annotators) > 0
    lean = np.bincount(root, at.theta, votes.n_annotators)
    turned = (lean[root] < 0) & ~anchored[root]
    theta = np.where(turned, -at.theta, at.theta)
    return at._replace(theta=theta), len(np.unique(root[turned]))
