"""p-values among other orders of the same votes, exact whatever the votes are."""

from __future__ import annotations

from denoise.compiled import njit

PERMUTATIONS = 20_000
"""At most so many orders of an annotator's votes are tried."""

ENOUGH = 20
"""Orders as extreme as the real one after which no more are tried (Besag & Clifford, *Sequential
Monte Carlo p-values*, Biometrika 78, 1991)."""


@njit(nogil=True)
def sequential(as_extreme: int, tried: int, permutations: int, enough: int) -> float:
    """The p-value after `tried` of at most `permutations` orders, `as_extreme` of them so."""
    if as_extreme == enough and tried < permutations:
        return as_extreme / tried
    return (as_extreme + 1) / (tried + 1)
