"""Parquet files, opened with their checksums verified: a table is one, or a directory of them.

In a directory the files are one table in the order of their names. Folders such as `language=de`
(Hive's partitions) give each row below them a column of text.
"""

from __future__ import annotations

import urllib.parse
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
    found = places.files_below(table)
    # What begins so is work in progress or notes, by the custom of those who write such tables.
    shown = [
        file
        for name, file in found.items()
        if name.endswith(_ENDINGS) and not any(p[0] in "_." for p in name.split("/"))
    ]
    return shown or refuse("is a directory without Parquet files", file=table, fix="name the file")


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
        # The size first: a store tells it when the file is opened.
        source = places.opened(file)
        found = pq.ParquetFile(source, page_checksum_verification=True, **options)
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
    """The columns of a table with their types, those of its folders among them.

    Raises:
        InputError: its files have different columns.
    """
    first, *others = files = files_of(table)
    columns = {file: _columns(file, table) for file in files}
    for other in others:
        if not columns[other].equals(columns[first]):
            mine, theirs = (
                {(c.name, str(c.type)) for c in columns[file]} for file in (first, other)
            )
            odd = ", ".join(" ".join(c) for c in sorted(mine ^ theirs)) or "their order"
            fix = "give all files of the table the same columns"
            refuse(f"other columns than {first.name} has", file=other, found=odd, fix=fix)
    return columns[first]


def _columns(file: Place, table: Place) -> pa.Schema:
    found = open_file(file).schema_arrow.remove_metadata()
    for name in partition_of(file, table):
        if name in found.names:
            fix = "rename one of them"
            refuse("a column that its folders give too", file=file, column=name, fix=fix)
        found = found.append(pa.field(name, pa.large_string()))
    return found


def read_rows(file: Place, table: Place) -> pl.DataFrame:
    """The rows of a file of a table, with what its folders give.

    Raises:
        InputError: it is missing, cut short or damaged.
        RunError: the store that holds it failed.
    """
    try:
        frame = pl.DataFrame(pl.from_arrow(open_file(file).read()))
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        damaged(file, error)
    values = partition_of(file, table)
    return frame.with_columns(pl.lit(v, dtype=pl.String).alias(n) for n, v in values.items())
