"""Parquet files, opened with their checksums verified: a table is one, or a directory of them.

In a directory the files are one table in the order of their names. Folders such as `language=de`
(Hive's partitions) give each row below them a column of text.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

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
        InputError: it is a directory without any.
    """
    if not table.is_dir():
        return [table]
    found = [
        file
        for name, file in places.files_below(table).items()
        if name.endswith(_ENDINGS) and not places.is_hidden(name)
    ]
    return found or refuse("is a directory without Parquet files", file=table, fix="name the file")


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
        found = pq.ParquetFile(places.opened(file), page_checksum_verification=True, **options)
        check_rows(found.metadata.num_rows, file.stat().st_size, file)
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


def columns_of(table: Place) -> pa.Schema:
    """The columns of a table with their types, those of its folders among them, by its first file.

    Raises:
        InputError: a folder gives a column that the file has.
    """
    return _columns(files_of(table)[0], table)


def _columns(file: Place, table: Place) -> pa.Schema:
    found = open_file(file).schema_arrow.remove_metadata()
    given = partition_of(file, table)
    _check_clash(file, found.names, given)
    for name in given:
        found = found.append(pa.field(name, pa.large_string()))
    return found


def check_alike(table: Place) -> None:
    """Refuse a table whose files have different columns."""
    _check_alike(files_of(table), table)


def _check_alike(files: list[Place], table: Place) -> None:
    first, *others = files
    if not others:
        return
    wanted = _named(_columns(first, table))
    for other in others:
        if (columns := _named(_columns(other, table))) != wanted:
            odd = ", ".join(" ".join(c) for c in sorted({*wanted} ^ {*columns})) or "their order"
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
    files = files_of(table)
    _check_alike(files, table)
    frames, metadata = [], {}
    for file in files:
        found = open_file(file)
        try:
            frame = pl.DataFrame(pl.from_arrow(found.read()))
        except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
            damaged(file, error)
        metadata[file] = found.metadata.metadata
        frames.append(with_partition(frame, file, partition_of(file, table)))
    return pl.concat(frames), metadata
