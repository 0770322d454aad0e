"""Annotators who err together: how many independent ones they weigh like."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from denoise.crowd.answers import Answers, Floats

SHARED = 10
"""Items that two annotators must share to be compared."""

SURE = 4.0
"""Standard errors by which two annotators' residuals must go together to count as dependent."""


class Dependence(NamedTuple):
    """compared: pairs of annotators with enough shared items; dependent: those who err together.

    effective: K²/Σ of the correlations, dependent pairs only: how many independent annotators the
    K weigh like where all label the same items (Kish, *Survey Sampling*, 1965).
    """

    compared: int
    dependent: int
    effective: float


def dependence(votes: Answers, posterior: Floats, confusion: Floats) -> Dependence:
    """Correlate what annotators answered beyond what the posterior of the truth lets expect.

    The residual of a label is its indicator less Σ_t P(truth t)·P(label | t), [C]. Given the truth,
    independent annotators' residuals do not go together. An item that is hard for everyone shows
    as dependence too: nothing in the labels tells it from copying.

    Args:
        posterior: P(truth), [J, C]. confusion: P(label l | truth t), [K, C, C] (truth, label).
    """
    shape = (votes.n_annotators, votes.n_items)
    place = (votes.annotator, votes.item)
    together = same = mine = sparse.csr_array((votes.n_annotators, votes.n_annotators))
    voted = sparse.csr_array((np.ones(len(votes.label)), place), shape=shape)
    # Of two classes each has the other's residuals, with the sign turned.
    labels = range(votes.n_classes) if votes.n_classes > 2 else range(1)
    for label in labels:
        expected = (posterior[votes.item] * confusion[votes.annotator, :, label]).sum(1)
        residual = sparse.csr_array(((votes.label == label) - expected, place), shape=shape)
        square = residual.multiply(residual).tocsr()
        together = together + residual @ residual.T
        same = same + votes.n_classes * (square @ square.T)
        mine = mine + square @ voted.T
    together, same, mine = (votes.n_classes / len(labels) * each for each in (together, same, mine))
    shared = sparse.triu(voted @ voted.T, k=1).tocoo()
    enough = shared.data >= SHARED
    k, m = shared.coords[0][enough], shared.coords[1][enough]
    if not len(k):
        return Dependence(0, 0, float(votes.n_annotators))

    def at(matrix: sparse.csr_array, rows: np.ndarray, columns: np.ndarray) -> Floats:
        return np.asarray(matrix[rows, columns]).ravel()

    product = at(together, k, m)
    error = np.sqrt(at(same, k, m))
    size = np.sqrt(at(mine, k, m) * at(mine, m, k))
    sure = product > SURE * error
    correlation = np.where(sure, product / np.maximum(size, 1e-300), 0.0)
    total = votes.n_annotators + 2.0 * correlation.sum()
    return Dependence(len(k), int(sure.sum()), float(votes.n_annotators**2 / total))
