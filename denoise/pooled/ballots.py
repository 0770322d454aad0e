"""The votes as the kernels read them: grouped by pair, four bytes a vote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from denoise.pooled import kernels

Floats = NDArray[np.float64]
Margins = NDArray[np.floating]
Codes = NDArray[np.integer]
T = TypeVar("T")

SMALL = 50_000
"""Votes below which one thread does it all."""


class Votes(Protocol):
    """The votes wherever they lie: in one `Ballots`, or in parts of whole pairs on other machines.

    The solver reads votes only through `each` and `hold`; whatever else it needs is small: the
    cells' `annotator`, `level` and number of `votes`, [C], and what all votes have in common.
    """

    annotator: Codes
    level: Codes
    votes: Floats
    n_annotators: int
    n_levels: int

    @property
    def n_votes(self) -> int:
        """Number of votes."""

    @property
    def single(self) -> bool:
        """Whether no pair has more than one vote."""

    @property
    def has_margins(self) -> bool:
        """Whether any margin is not 0."""

    @property
    def n_known(self) -> int:
        """Pairs whose truth is given."""

    def by_annotator(self, of_cells: Floats) -> Floats:
        """Sums over the cells of each annotator: [C] or [C, …] to [K] or [K, …]."""

    def each(self, statistic: Callable[..., T], *given: Any) -> list[T]:
        """`statistic(part, *given)` of every part, in the order of the pairs."""

    def hold(self, made: Callable[..., T], *given: Any) -> T:
        """`made(part, *given)`, which stays where the part is: only `each` and `hold` take it."""

    def again(self, work: Callable[[], T]) -> T:
        """`work()`, and once more where what it held was lost."""

    def sample(self, at_most: int) -> Ballots:
        """Every so many pairs, so that no more than about `at_most` votes remain; or all."""


class Ballots(NamedTuple):
    """Votes of J pairs, in C cells: a cell is an annotator, or an annotator at one strength.

    start: a pair's votes are `start[j]` up to `start[j + 1]`, [J + 1] int64; code: 2·cell + 1 for
    a, 2·cell for b, [n] int32; margin: Δ of a over b, 0 where there is none, [J]; known: the truth
    where it is given, 1 for a, −1 for b, else 0, [J] int8, or of length 0 where none is;
    annotator, level: those of each cell, [C]; votes: its number of votes, [C].
    """

    start: NDArray[np.int64]
    code: NDArray[np.int32]
    margin: Margins
    known: NDArray[np.int8]
    annotator: Codes
    level: Codes
    votes: Floats
    n_annotators: int
    n_levels: int
    threads: int = 1

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int32], Margins, NDArray[np.int8]]:
        """start, code, margin and known: what a pass over the pairs reads."""
        return self.start, self.code, self.margin, self.known

    @property
    def n_votes(self) -> int:
        """Number of votes."""
        return len(self.code)

    @property
    def single(self) -> bool:
        """Whether no pair has more than one vote."""
        return kernels.longest(self.start) <= 1

    @property
    def has_margins(self) -> bool:
        """Whether any margin is not 0."""
        return bool(self.margin.any())

    @property
    def n_known(self) -> int:
        """Pairs whose truth is given."""
        return int(np.count_nonzero(self.known))

    def by_annotator(self, of_cells: Floats) -> Floats:
        """Sums over the cells of each annotator: [C] or [C, …] to [K] or [K, …]."""
        if self.n_levels == 1:
            return of_cells
        total = np.zeros((self.n_annotators, *of_cells.shape[1:]))
        np.add.at(total, self.annotator, of_cells)
        return total

    def each(self, statistic: Callable[..., T], *given: Any) -> list[T]:
        """`statistic(self, *given)`, in a list."""
        return [statistic(self, *given)]

    def hold(self, made: Callable[..., T], *given: Any) -> T:
        """`made(self, *given)`."""
        return made(self, *given)

    def again(self, work: Callable[[], T]) -> T:
        """`work()`: nothing is lost here."""
        return work()

    def sample(self, at_most: int) -> Ballots:
        """Every so many pairs, so that no more than about `at_most` votes remain; or all."""
        if self.n_votes <= at_most:
            return self
        return self.of_pairs(sampled(len(self.margin), self.n_votes, at_most))

    def of_voters(self) -> tuple[Ballots, NDArray[np.int64]]:
        """The votes with codes for those annotators alone who have some, and who they are, [k]."""
        who = np.flatnonzero(self.by_annotator(self.votes) > 0)
        if len(who) in (0, self.n_annotators):
            return self, np.arange(self.n_annotators)
        cells = np.isin(self.annotator, who)
        renamed = np.cumsum(cells, dtype=np.int32) - 1
        votes = self._replace(
            code=2 * renamed[self.code >> 1] + (self.code & 1),
            annotator=np.searchsorted(who, self.annotator[cells]),
            level=self.level[cells],
            votes=self.votes[cells],
            n_annotators=len(who),
        )
        return votes, who

    def of_pairs(self, kept: NDArray[np.int64]) -> Ballots:
        """The votes on these pairs, codes in order."""
        counts = self.start[kept + 1] - self.start[kept]
        start = np.concatenate(([0], np.cumsum(counts)))
        votes = np.repeat(self.start[kept] - start[:-1], counts) + np.arange(start[-1])
        code = self.code[votes]
        return self._replace(
            start=start,
            code=code,
            margin=self.margin[kept],
            known=self.known[kept] if len(self.known) else self.known,
            votes=np.bincount(code >> 1, minlength=len(self.votes)).astype(np.float64),
        )


def ballots(
    pair: Codes,
    annotator: Codes,
    sign: Codes,
    margin: Margins,
    n_annotators: int,
    *,
    level: Codes | None = None,
    n_levels: int = 1,
    known: Codes | None = None,
    threads: int = 1,
) -> Ballots:
    """Group votes by their pair.

    Args:
        pair, annotator: codes, [n]. sign: above 0 for a, [n].
        margin: Δ of a over b in nats, [J]; NaN where there is none.
        level: codes of the strengths 0 … n_levels − 1, [n].
        known: 1, −1 or 0 (not known), [J].
    """
    cell = annotator if level is None else annotator * np.int64(n_levels) + level
    counts = np.bincount(pair, minlength=len(margin))
    cells = np.arange(n_annotators * n_levels)
    # Sorted by both, so that the order of the rows cannot matter, not even to rounding.
    key = (np.asarray(pair, np.int64) << 32) | (2 * np.asarray(cell, np.int64)) | (sign > 0)
    key.sort()
    return Ballots(
        np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        (key & 0xFFFFFFFF).astype(np.int32),
        np.nan_to_num(margin, nan=0.0),
        np.asarray(() if known is None or not np.any(known) else known, np.int8),
        cells // n_levels,
        cells % n_levels,
        np.bincount(cell, minlength=len(cells)).astype(np.float64),
        n_annotators,
        n_levels,
        threads,
    )


def sampled(n_pairs: int, n_votes: int, at_most: int) -> NDArray[np.int64]:
    """Codes of evenly spread pairs that have about `at_most` of the votes."""
    return np.linspace(0, n_pairs - 1, max(1, n_pairs * at_most // n_votes)).astype(np.int64)


def added(parts: Sequence[T]) -> T:
    """The sums over parts of numbers, of arrays, or of tuples of them."""
    if isinstance(parts[0], tuple):
        return tuple(map(added, zip(*parts, strict=True)))  # type: ignore[return-value]
    return sum(parts[1:], parts[0])  # type: ignore[arg-type, call-overload]


def over_pairs(votes: Ballots, work: Callable[[int, int], T]) -> list[T]:
    """`work(first, last)` on as many ranges of pairs as there are threads, in their order."""
    return over(len(votes.margin), votes.threads if len(votes.code) > SMALL else 1, work)


def over(n: int, threads: int, work: Callable[[int, int], T]) -> list[T]:
    """`work(first, last)` on `threads` ranges of 0 … n, results in the order of the ranges."""
    ranges = list(pairwise(np.linspace(0, n, threads + 1).astype(np.int64)))
    if threads == 1:
        return [work(*ranges[0])]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda ends: work(*ends), ranges))
