"""Pairs, scores and votes read from Parquet batch by batch, their ids turned into codes.

Nothing here holds a column of ids; only the columns that are needed are read, never the texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from denoise import parquet, places, schema, tables
from denoise.errors import InputError, raise_any, refuse
from denoise.noise import Floats
from denoise.places import Place
from denoise.pooled import index as by_pair
from denoise.pooled.index import Keys, PairIndex, Rows

T = TypeVar("T")

BATCH = 1 << 20
"""Rows read, and written as one row group, at a time."""

SEEDS = 4
"""Hashes of text ids that are tried before two ids with one hash are given up on."""

MOST_PAIRS = 2**31 - 1
"""A pair's code is an int32."""


def rows_of(file: Place) -> int:
    """How many rows a Parquet table has."""
    return sum(sum(footer.groups) for footer in parquet.footers(file).values())


class Split(NamedTuple):
    """Row groups of a file that are read together, from the table's row `first` on."""

    first: int
    rows: int
    part: Place
    groups: tuple[int, ...]


def splits(file: Place, at_least: int = BATCH) -> list[Split]:
    """The row groups of a table in lots of `at_least` rows, or of what its files have."""
    found: list[Split] = []
    first = row = 0
    for part, footer in parquet.footers(file).items():
        groups: list[int] = []
        for group, rows in enumerate(footer.groups):
            groups.append(group)
            row += rows
            enough = row - first >= at_least or group == len(footer.groups) - 1
            if enough and row > first:  # of a file without rows there is nothing to read
                found.append(Split(first, row - first, part, tuple(groups)))
                first, groups = row, []
    return found


def batches(
    file: Place, columns: Sequence[str], coded: Sequence[str] = (), split: Split | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The row at which each batch begins, and the batch; the next is read meanwhile.

    Text columns of `coded` come as dictionaries.
    """
    parts = parquet.files_of(file) if split is None else [split.part]
    at, row = parts[0], 0 if split is None else split.first

    def numbered() -> Iterator[tuple[int, pa.RecordBatch]]:
        nonlocal at, row
        for at in parts:
            for batch in _of_part(at, file, columns, coded, split):
                yield row, batch
                row += len(batch)

    try:
        yield from _ahead(numbered())
    except (pa.ArrowException, OSError) as error:
        parquet.damaged(at, error)


def _of_part(
    part: Place, table: Place, columns: Sequence[str], coded: Sequence[str], split: Split | None
) -> Iterator[pa.RecordBatch]:
    """The batches of one file of a table, the columns in the order in which they are named."""
    values = parquet.partition_of(part, table)
    inside = [name for name in columns if name not in values]
    # Buffered, so that a row group of any size is no more than its pages in memory; a store is
    # asked for more at once, as each question takes as long as some megabytes.
    size = 1 << (23 if places.is_remote(part) else 20)
    dictionaries = [name for name in coded if name not in values]
    source = parquet.open_file(
        part, read_dictionary=dictionaries, buffer_size=size, pre_buffer=False
    )
    groups = None if split is None else list(split.groups)
    for batch in source.iter_batches(BATCH, row_groups=groups, columns=inside):
        for name in values.keys() & set(columns):
            column = pa.array([values[name]] * len(batch), pa.large_string())
            column = column.dictionary_encode() if name in coded else column
            batch = batch.append_column(name, column)
        yield batch if not values else batch.select(list(columns))


def _ahead(items: Iterator[T]) -> Iterator[T]:
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


@contextmanager
def _at_row(first: int) -> Iterator[None]:
    """Faults in a batch, with their rows in the whole table."""
    try:
        yield
    except InputError as error:
        faults = (
            fault if fault.row is None else replace(fault, row=fault.row + first)
            for fault in error.faults
        )
        raise InputError(*faults) from None


def check_columns(file: Place, contract: schema.Contract, absent: Sequence[str] = ()) -> None:
    """Refuse a table that is empty, lacks columns (but for `absent` ones) or has wrong types."""
    tables.read_provenance(file)  # refuses a later schema, and files that differ
    footers = list(parquet.footers(file).values())
    if not any(any(footer.groups) for footer in footers):
        refuse(f"the {contract.name} table has no rows", file=file)
    frame = pl.DataFrame(pl.from_arrow(footers[0].columns.empty_table()))
    optional = set(absent) - set(frame.columns)
    needed = [column for column in contract.columns if column.name not in optional]
    loose = schema.Contract(contract.name, tuple(needed), key=())
    raise_any(schema.faults(frame, loose, file, may_be_empty=True))


def pair_id_at(file: Place, row: int) -> object:
    """The pair id in a row of a file."""
    split = next(s for s in splits(file, 1) if row < s.first + s.rows)
    ids = pa.concat_arrays([batch.column(0) for _, batch in batches(file, ["pair_id"], (), split)])
    return ids[row - split.first].as_py()


def filled(batch: pa.RecordBatch, first: int, file: Place) -> None:
    """Refuse an empty value in any column of the batch."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            fix = "fill or remove such rows"
            refuse("an empty value", file=file, row=row, column=name, fix=fix)


def _text(column: pa.Array) -> pl.Series:
    return pl.Series(pl.from_arrow(column)).cast(pl.String)


class PairIds(NamedTuple):
    """What tells the code of a pair from its id; `whole`: ids are whole numbers, else text."""

    index: PairIndex
    seed: int
    whole: bool

    def __len__(self) -> int:
        return len(self.index.keys)

    def codes(self, column: pa.Array, file: Place, threads: int = 1) -> NDArray[np.int32]:
        """The codes of ids, −1 for pairs that are not there, [n].

        Raises:
            InputError: the ids are text here and whole numbers there.
        """
        return self.index.codes(keys_of(column, self.seed, self.whole, file), threads)


def keys_of(column: pa.Array, seed: int, whole: bool, file: Place) -> Keys:
    """The keys of ids, [n].

    Raises:
        InputError: the ids are no whole numbers where the pairs' are, or the other way round.
    """
    if pa.types.is_integer(column.type) != whole:
        found, other = str(column.type), "whole numbers" if whole else "text"
        fix = f"give {other}, as in the pairs"
        refuse("another type of id than the pairs have", file=file, found=found, fix=fix)
    return _keys(column, seed)


def _keys(column: pa.Array, seed: int) -> Keys:
    return by_pair.keys_of(pl.Series(pl.from_arrow(column)), seed)


def pair_keys(
    file: Place, seed: int, split: Split | None = None
) -> Iterator[tuple[int, pa.RecordBatch, Keys]]:
    """The row at which each batch of pairs begins, its ids and their keys.

    Raises:
        InputError: an id is empty.
    """
    for first, batch in batches(file, ["pair_id"], split=split):
        filled(batch, first, file)
        yield first, batch, _keys(batch.column(0), seed)


def read_pairs(file: Place) -> PairIds:
    """The pairs of a table by their ids.

    Raises:
        InputError: an id is empty or repeated.
    """
    if rows_of(file) > MOST_PAIRS:
        refuse(f"more than {MOST_PAIRS:,} pairs", file=file, fix="split the data")
    for seed in range(SEEDS):
        keys = np.empty(rows_of(file), np.uint64)
        for first, batch, some in pair_keys(file, seed):
            keys[first : first + len(batch)] = some
        found = by_pair.build_index(keys)
        again = by_pair.repeated_keys(found)
        if not len(again):
            return PairIds(found, seed, has_whole_ids(file))
        refuse_repeated(file, seed, again)
    refuse_hash(file)


def has_whole_ids(file: Place) -> bool:
    """Whether the column `pair_id` is of whole numbers."""
    return pa.types.is_integer(parquet.columns_of(file).field("pair_id").type)


def refuse_hash(file: Place) -> NoReturn:
    """Refuse ids of which two have the same hash for every seed."""
    refuse("too many pair ids have the same hash", file=file, fix="give whole numbers as ids")


def refuse_repeated(file: Place, seed: int, again: Keys) -> None:
    """Refuse ids with the same hash that are the same; others are for another seed."""
    parts = []
    for first, batch, keys in pair_keys(file, seed):
        rows = np.flatnonzero(np.isin(keys, again))
        ids = _text(batch.column(0).take(pa.array(rows)))
        parts.append(pl.DataFrame({"row": rows + first, "pair_id": ids}))
    alike = pl.concat(parts)
    same = alike.filter(~pl.col("pair_id").is_first_distinct())
    if len(same):
        row, value = same.row(0)
        fix = "each row of pairs has its own"
        refuse(f"{len(same)} repeated pair_id", file=file, row=row, found=value, fix=fix)


def read_margins(
    files: Sequence[Place],
    contract: schema.Contract,
    pairs: PairIds,
    delta: Callable[[pl.DataFrame], Floats],
    threads: int = 1,
) -> Floats:
    """Δ of a over b of each pair from tables of scores, NaN where there is none, [J].

    Args:
        contract: that of the tables, `pair_id` its first column.
        delta: Δ of each row of scores, [n]; raises for what it cannot use.

    Raises:
        InputError: a score departs from the contract, is of a foreign pair or given twice.
    """
    margin = np.full(len(pairs), np.nan)
    for file in files:
        for first, ids, values in score_rows(file, contract, delta):
            codes = pairs.codes(ids, file, threads)
            foreign = np.flatnonzero(codes < 0)
            if len(foreign):
                row = int(foreign[0])
                refuse_score(FOREIGN, file, first + row, ids[row].as_py())
            again = by_pair.fill(codes, values, margin)
            if again >= 0:
                refuse_score(SECOND, file, first + again, ids[again].as_py())
    return margin


def score_rows(
    file: Place,
    contract: schema.Contract,
    delta: Callable[[pl.DataFrame], Floats],
    split: Split | None = None,
) -> Iterator[tuple[int, pa.Array, Floats]]:
    """The row at which each batch of scores begins, its ids and Δ; arguments of `read_margins`."""
    columns = tuple(column for column in contract.columns if column.required)
    loose = schema.Contract(contract.name, columns[1:], key=())
    for first, batch in batches(file, [column.name for column in columns], split=split):
        filled(batch.select(["pair_id"]), first, file)
        frame = pl.DataFrame(pl.from_arrow(batch.drop_columns(["pair_id"])))
        with _at_row(first):
            raise_any(schema.faults(frame, loose, file, may_be_empty=True))
            values = delta(frame)
        yield first, batch.column("pair_id"), values


FOREIGN = ("a score of a pair that the data do not have", "run `denoise score` on these data")
SECOND = ("a pair is scored again", "give each pair's scores once")


def refuse_score(wrong: tuple[str, str], file: Place, row: int, found: object) -> NoReturn:
    """Refuse a row of scores: `FOREIGN` or `SECOND`, and the pair that it names."""
    problem, fix = wrong
    refuse(problem, file=file, row=row, column="pair_id", found=found, fix=fix)


class RowStore:
    """`n` rows in file order, 8 bytes each, in memory or in a file without a name.

    The file is gone with the process, however that ends.
    """

    def __init__(self, n: int, directory: Path | None) -> None:
        self._n, self._at = n, 0
        self._kept = np.empty(n if directory is None else 0, np.int64)
        self._file = None if directory is None else tempfile.TemporaryFile(dir=directory)  # noqa: SIM115

    def add(self, rows: Rows) -> None:
        """Append rows."""
        if self._file is None:
            self._kept[self._at : self._at + len(rows)] = rows
        else:
            self._file.write(rows.data)
        self._at += len(rows)

    def rewind(self) -> None:
        """Read from the first row on."""
        self._at = 0
        if self._file is not None:
            self._file.seek(0)

    def read(self, n: int) -> Rows:
        """The next `n` rows."""
        begin, self._at = self._at, self._at + n
        if self._file is None:
            return self._kept[begin : self._at]
        return np.frombuffer(self._file.read(8 * n), np.int64)

    def batches(self) -> Iterator[Rows]:
        """All rows from the first on."""
        self.rewind()
        for first in range(0, self._n, BATCH):
            yield self.read(min(BATCH, self._n - first))
