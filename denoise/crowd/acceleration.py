"""Anderson's acceleration of a fixed-point iteration x ← g(x), for whoever checks its proposals.

Anderson, *Iterative procedures for nonlinear integral equations*, J. ACM 12, 1965, as in Walker &
Ni, SIAM J. Numer. Anal. 49, 2011; for EM, Henderson & Varadhan, *Damped Anderson acceleration with
restarts and monotonicity control*, J. Comput. Graph. Stat. 28, 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from denoise.crowd.answers import Floats

DEPTH = 5
"""Differences of iterates that are mixed."""

RIDGE = 1e-10
"""Added to the normal equations, as a share of their largest entry: keeps rounding out."""


class Path(NamedTuple):
    """The last points, x, and their images, g(x), [m, d] each, oldest first."""

    points: Floats
    images: Floats


def extended(path: Path | None, point: Floats, image: Floats) -> Path:
    """The path with one more point, [d], and its image, [d]; no more than `DEPTH` + 1 of them."""
    if path is None:
        return Path(point[None], image[None])
    points, images = path
    return Path(
        np.concatenate([points[-DEPTH:], point[None]]),
        np.concatenate([images[-DEPTH:], image[None]]),
    )


def proposal(path: Path) -> Floats | None:
    """g(x) less the combination of its last changes that best undoes g(x) − x, [d]."""
    if len(path.points) < 2:
        return None
    residual = path.images - path.points
    turns = np.diff(residual, axis=0)
    gram = turns @ turns.T
    gram[np.diag_indices_from(gram)] += RIDGE * gram.max() + np.finfo(float).tiny
    weights = np.linalg.solve(gram, turns @ residual[-1])
    return path.images[-1] - weights @ np.diff(path.images, axis=0)
