"""Functions that numba compiles, kept for the next run where there is a place to keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def njit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` with what is compiled kept beside the source, or in the user's cache.

    Where neither may be written it is compiled again in every process.
    """

    def made(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba's "cannot cache function …: no locator available"
            return numba.njit(**options)(function)

    return made
