"""Votes read from Parquet batch by batch: their pairs, their annotators and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from denoise import parquet, schema
from denoise.errors import refuse
from denoise.places import Place
from denoise.pooled import index as by_pair
from denoise.stages.stream.rows import PairIds, Split, batches, filled, rows_of

VOTES = {"b": by_pair.B, "a": by_pair.A, "tie": by_pair.TIE}
"""Votes in the order of their codes."""

_CODED = ("annotator_id", "vote")


class Annotators:
    """Codes of annotators in the order in which they come; `names` by code."""

    def __init__(self) -> None:
        self._values = pa.array([], pa.large_string())

    @property
    def names(self) -> pl.Series:
        """Their ids as text, by code."""
        return pl.Series(self._values.to_pylist(), dtype=pl.String)

    def codes(self, column: pa.Array) -> NDArray[np.int32]:
        """The code of each row's annotator, [n]."""
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        values = column.dictionary.cast(pa.large_string())
        new = pc.filter(values, pc.invert(pc.is_in(values, value_set=self._values)))
        if len(new):
            self._values = pa.concat_arrays([self._values, new])
        codes = pc.index_in(values, value_set=self._values).to_numpy()
        return codes[column.indices.to_numpy()]


def read_votes(
    file: Place,
    pairs: PairIds,
    keep: Callable[[NDArray[np.int32], NDArray[np.int32]], None],
    threads: int = 1,
) -> pl.Series:
    """Give the rows of the votes, batch by batch, to `keep`; returns the annotators by code.

    Raises:
        InputError: an empty value, an unknown vote or pair, a repeated `vote_id`.
    """
    annotators, ids = Annotators(), VoteIds()
    foreign, where = 0, {}
    for first, column, cell in vote_rows(file, annotators, ids):
        pair = pairs.codes(column, file, threads)
        unknown = np.flatnonzero(pair < 0)
        if len(unknown):
            row = int(unknown[0])
            where = where or {"row": first + row, "found": column[row].as_py()}
            foreign += len(unknown)
            pair[unknown] = 0
        keep(pair, cell)
    if foreign:
        refuse_foreign_votes(file, foreign, **where)
    if not ids.increasing:
        refuse_repeated_votes(file)
    return annotators.names


class VoteIds:
    """What is seen of vote ids, row after row: `first`, `last`, and whether they increase."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.last: int | None = None
        self.increasing = True

    def see(self, ids: NDArray[np.int64]) -> None:
        """The next rows' ids."""
        if self.first is None:
            self.first = int(ids[0])
        rising = self.last is None or ids[0] > self.last
        self.increasing &= bool(rising and (ids[1:] > ids[:-1]).all())
        self.last = int(ids[-1])


def vote_rows(
    file: Place, annotators: Annotators, ids: VoteIds, split: Split | None = None
) -> Iterator[tuple[int, pa.Array, NDArray[np.int32]]]:
    """The row at which each batch of votes begins, its pair ids, and `4 · annotator + vote`.

    Raises:
        InputError: an empty value or an unknown vote.
    """
    there = parquet.columns_of(file).names
    named = [n for n in ("vote_id", "pair_id", "annotator_id", "vote") if n in there]
    coded = [n for n in _CODED if n in there]
    for first, batch in batches(file, named, coded, split):
        filled(batch, first, file)
        if "vote_id" in there and len(batch):
            ids.see(batch.column("vote_id").to_numpy(zero_copy_only=False))
        cell = _votes(batch.column("vote"), first, file)
        if "annotator_id" in there:
            cell += 4 * annotators.codes(batch.column("annotator_id"))
        else:
            annotators.codes(pa.array([schema.ALL_ANNOTATORS]))
        yield first, batch.column("pair_id"), cell


def refuse_foreign_votes(file: Place, count: int, row: int, found: object = None) -> NoReturn:
    """Refuse votes on pairs that are not there."""
    refuse(
        f"{count} vote(s) on pairs that the pairs table does not have",
        file=file,
        row=row,
        column="pair_id",
        found=found,
        fix="import again, or add the pairs",
    )


def _votes(column: pa.Array, first: int, file: Place) -> NDArray[np.int32]:
    """A row's vote as `index` writes it, [n]."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = column.dictionary.to_pylist()
    votes = np.array([VOTES.get(v, -1) for v in values], np.int32)
    votes = votes[column.indices.to_numpy()]
    odd = np.flatnonzero(votes < 0)
    if len(odd):
        row = int(odd[0])
        found, fix = column[row].as_py(), "a vote is 'a', 'b' or 'tie'"
        refuse("unknown vote", file=file, row=first + row, column="vote", found=found, fix=fix)
    return votes


def refuse_repeated_votes(file: Place) -> None:
    """Refuse a repeated `vote_id`: eight bytes a vote, for ids that do not increase."""
    every = np.empty(rows_of(file), np.int64)
    for first, batch in batches(file, ["vote_id"]):
        every[first : first + len(batch)] = batch.column(0).to_numpy()
    every.sort()
    again = every[1:][every[1:] == every[:-1]]
    if not len(again):
        return
    rows = []
    for first, batch in batches(file, ["vote_id"]):
        rows += (first + np.flatnonzero(batch.column(0).to_numpy() == again[0])).tolist()
    fix = "each row of votes has its own"
    problem = f"{len(again)} repeated vote_id"
    refuse(problem, file=file, row=rows[1], found=str(again[0]), fix=fix)
