"""Parquet files, opened with their checksums verified: a table is one, or a directory of them.

In a directory the files are one table in the order of their names. Folders such as `language=de`
(Hive's partitions) give each row below them a column of text.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from denoise import places
from denoise.errors import refuse
from denoise.places import Place

ROWS_A_BYTE, ROWS_AT_LEAST = 200, 1 << 24
"""A file may hold so many rows a byte, once it holds so many: a table of who said what has a few,
one value over and over has hundreds, and a file made to fill the memory has millions."""

_ENDINGS = (".parquet", ".pq")


def files_of(table: Place) -> list[Place]:
    """The files of a table: itself, or those in its directory.

    Raises:
        InputError: there is none.
    """
    return list(versions(table))


def versions(table: Place) -> dict[Place, str]:
    """The files of a table, and what changes when one is written again.

    Raises:
        InputError: there is none.
    """
    found = {f: v for f, v in places.versions(table).items() if f == table or _is_part(f, table)}
    return found or refuse("is a directory without Parquet files", file=table, fix="name the file")


def _is_part(file: Place, table: Place) -> bool:
    return file.name.endswith(_ENDINGS) and not places.is_hidden(str(file.relative_to(table)))


def partition_of(file: Place, table: Place) -> dict[str, str | None]:
    """The columns that the folders between a table and its file give, and their value."""
    if file is table:
        return {}
    folders = file.relative_to(table).parts[:-1]
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> str | None:
    return None if text == "__HIVE_DEFAULT_PARTITION__" else urllib.parse.unquote(text)


def open_file(file: Place, **options: Any) -> pq.ParquetFile:
    """One Parquet file, its options those of `pyarrow.parquet.ParquetFile`.

    Raises:
        InputError: it is missing, cut short, or made to fill the memory.
        RunError: the store that holds it failed.
    """
    try:
        source = places.opened(file)
        found = pq.ParquetFile(source, page_checksum_verification=True, **options)
        size = source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)
        check_rows(found.metadata.num_rows, size, file)
        return found
    except FileNotFoundError:
        refuse("there is no such file", file=file, fix="check the path")
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        damaged(file, error, "not a whole Parquet file")


def check_rows(rows: int, size: int, file: Place) -> None:
    """Refuse a Parquet file of a few bytes that stands for more rows than fit into memory."""
    if rows > max(ROWS_AT_LEAST, ROWS_A_BYTE * size):
        refuse(
            f"{rows:,} rows in {size:,} bytes: no table of data, but one made to fill the memory",
            file=file,
            fix="get the file from a source that you trust",
        )


def damaged(
    file: Place, error: Exception, problem: str = "the Parquet file cannot be read"
) -> NoReturn:
    """Refuse a file that cannot be read, unless it is the store that failed."""
    places.failed(error, file)
    refuse(problem, file=file, found=str(error), fix="write it again")


class Footer(NamedTuple):
    """What a file of a table says at its end.

    columns: those that its folders give among them. groups: the rows of each row group. metadata:
    of the file.
    """

    columns: pa.Schema
    groups: tuple[int, ...]
    metadata: Mapping[bytes, bytes] | None


def footers(table: Place) -> dict[Place, Footer]:
    """What the files of a table say at their ends, some read at once; the next time kept ones.

    Raises:
        InputError: a file is missing or cut short, has other columns than the first, or one that
            its folders give too.
        RunError: the store that holds it failed.
    """
    files = versions(table)
    with ThreadPoolExecutor(min(places.AT_ONCE, len(files))) as pool:
        kept = pool.map(lambda file: _footer(file, table, files[file]), files)
        found = dict(zip(files, kept, strict=True))
    first = next(iter(found))
    for file, footer in found.items():
        _check_alike(first, found[first].columns, file, footer.columns)
    return found


@lru_cache(1 << 16)
def _footer(file: Place, table: Place, version: str) -> Footer:
    """`version` makes that what is kept is of the file as it is."""
    found = open_file(file)
    metadata = found.metadata
    groups = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    return Footer(_columns(found, file, table), tuple(groups), metadata.metadata)


def columns_of(table: Place) -> pa.Schema:
    """The columns of a table with their types, those of its folders among them, by its first file.

    Raises:
        InputError: a folder gives a column that the file has.
    """
    file, version = next(iter(versions(table).items()))
    return _footer(file, table, version).columns


def _columns(found: pq.ParquetFile, file: Place, table: Place) -> pa.Schema:
    columns = found.schema_arrow.remove_metadata()
    given = partition_of(file, table)
    _check_clash(file, columns.names, given)
    for name in given:
        columns = columns.append(pa.field(name, pa.large_string()))
    return columns


def _check_alike(first: Place, wanted: pa.Schema, other: Place, columns: pa.Schema) -> None:
    """Refuse a file of a table that has other columns than the first."""
    names = _named(wanted), _named(columns)
    if names[0] != names[1]:
        odd = ", ".join(" ".join(c) for c in sorted({*names[0]} ^ {*names[1]})) or "their order"
        fix = "give all files of the table the same columns"
        refuse(f"other columns than {first.name} has", file=other, found=odd, fix=fix)


def _named(columns: pa.Schema) -> list[tuple[str, str]]:
    return [(column.name, str(column.type)) for column in columns]


def _check_clash(file: Place, names: Collection[str], given: Collection[str]) -> None:
    for name in given:
        if name in names:
            fix = "rename one of them"
            refuse("a column that its folders give too", file=file, column=name, fix=fix)


def with_partition(
    frame: pl.DataFrame, file: Place, values: Mapping[str, str | None]
) -> pl.DataFrame:
    """The rows of a file with the columns that its folders give.

    Raises:
        InputError: the file has one of them.
    """
    _check_clash(file, frame.columns, values)
    return frame.with_columns(pl.lit(v, dtype=pl.String).alias(n) for n, v in values.items())


def read(table: Place) -> tuple[pl.DataFrame, dict[Place, Mapping[bytes, bytes] | None]]:
    """The rows of a table, and the metadata of each of its files, of one and the same version.

    Raises:
        InputError: a file is missing, cut short or damaged, or has other columns than the others.
        RunError: the store that holds it failed.
    """
    frames, metadata = [], {}
    first: tuple[Place, pa.Schema] | None = None
    for file in files_of(table):
        found = open_file(file)
        columns = _columns(found, file, table)
        first = first or (file, columns)
        _check_alike(*first, file, columns)
        try:
            frame = pl.DataFrame(pl.from_arrow(found.read()))
        except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
            damaged(file, error)
        metadata[file] = found.metadata.metadata
        frames.append(with_partition(frame, file, partition_of(file, table)))
    return pl.concat(frames), metadata
