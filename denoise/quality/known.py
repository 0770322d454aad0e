"""Accuracy where the answers are known."""

from __future__ import annotations

import numpy as np

from denoise.noise import Z95, Floats


def wilson(right: np.ndarray, n: np.ndarray) -> tuple[Floats, Floats]:
    """95 % interval of a share, `right` of `n`, [K] each; NaN where n is 0.

    Wilson, *Probable inference, the law of succession, and statistical inference*, JASA 22, 1927.
    """
    counts = n.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = right / counts
        scale = 1.0 + Z95**2 / counts
        middle = (share + Z95**2 / (2.0 * counts)) / scale
        width = Z95 * np.sqrt(share * (1.0 - share) / counts + Z95**2 / (4.0 * counts**2)) / scale
    return middle - width, middle + width
