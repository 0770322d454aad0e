"""What a test of every annotator, or of every pair of them, tells; and which findings count."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from denoise.noise import Floats

LEVELS = {
    "spammer": 0.005,
    "adversary": 0.005,
    "position": 0.005,
    "length": 0.005,
    "label": 0.005,
    "copies": 0.005,
    "drift": 0.05,
    "fast": 0.005,
    "slice": 0.005,
}
"""Share of the flags that may be false, by question. A clean crowd that is asked all of them has a
flag in at most the sum of cases, 9 %; drift, the hardest to see in 100 votes, has the most of it.
"""


class Finding(NamedTuple):
    """One question put to each of K annotators (or pairs).

    p_value: of the hypothesis that nothing is wrong, [K], NaN where it could not be asked; effect,
    low, high: how large, with its 95 % interval, [K]; n: votes that it rests on, [K].
    """

    p_value: Floats
    effect: Floats
    low: Floats
    high: Floats
    n: Floats


def discoveries(p_value: Floats, level: float) -> NDArray[np.bool_]:
    """Which hypotheses of p-values [K] are rejected, [K], a share `level` of them falsely at most.

    NaN, where a question could not be asked, never is. Benjamini & Hochberg, *Controlling the false
    discovery rate*, JRSS B 57, 1995.
    """
    asked = np.isfinite(p_value)
    flagged = np.zeros(len(asked), bool)
    if asked.any():
        flagged[asked] = false_discovery_control(p_value[asked]) <= level
    return flagged
