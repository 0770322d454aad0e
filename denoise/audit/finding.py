"""What a test of every annotator, or of every pair of them, tells; and which findings count."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from denoise.noise import Floats

FALSE_DISCOVERIES = 0.05
"""Share of the flags that may be false, over all questions together."""


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


def discoveries(finding: Finding, questions: int = 1) -> NDArray[np.bool_]:
    """Whom the question is answered against, [K], at most `FALSE_DISCOVERIES` of them falsely.

    Benjamini & Hochberg, *Controlling the false discovery rate*, JRSS B 57, 1995, at the level
    `FALSE_DISCOVERIES`/`questions`, so that a clean crowd that is asked all of them has a flag in
    at most that share of cases.
    """
    asked = np.isfinite(finding.p_value)
    flagged = np.zeros(len(asked), bool)
    if asked.any():
        adjusted = false_discovery_control(finding.p_value[asked])
        flagged[asked] = adjusted <= FALSE_DISCOVERIES / questions
    return flagged
