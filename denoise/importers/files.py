"""A file as a table: JSONL, JSON, CSV, TSV or Parquet, plain or gzip or zstd compressed."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from denoise import parquet, places
from denoise.errors import Fault, InputError, raise_any, refuse
from denoise.places import Place

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq")
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
UNPACKED, UNPACKED_AT_LEAST = 300, 1 << 28
"""A compressed file may unpack to so many times its size, once it is so many bytes: text does to
some 20 times, and gzip can make of nothing a thousand times as much."""

_STEP = 1 << 22
_MAX_FAULTS = 100
_DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
# How a list or an object begins that polars has turned into text.
_NESTED = r'^\s*(\{\s*["}]|\[\s*["\[{\]])'
# An escaped half of a surrogate pair without the other half: polars reads it as a NUL.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F].."
)


@dataclass(frozen=True)
class Read:
    """A file's table; `untyped` where every value is text only because the format has no types.

    `mixed` has the first row in which a column of text held a list or an object, by column;
    `sha256` is that of the file's bytes.
    """

    frame: pl.DataFrame
    untyped: bool = False
    notes: tuple[str, ...] = ()
    mixed: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""


def is_data_file(name: str) -> bool:
    """Whether a name ends as the files do that can be read."""
    return _suffix(Path(name)) in SUFFIXES


def _suffix(path: Place) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_file(path: Place) -> Read:
    """The table in a file, by the ending of its name, or by its first bytes.

    Raises:
        InputError: the file is empty, cut short or malformed, or is of another kind.
    """
    packed = _bytes(path)
    data = _unpacked(packed, path)
    if not data.strip():
        refuse("the file is empty", file=path, fix="give a file with rows")
    return replace(_by_kind(data, path), sha256=hashlib.sha256(packed).hexdigest())


def _by_kind(data: bytes, path: Place) -> Read:
    match _suffix(path):
        case ".jsonl" | ".ndjson":
            return _json_lines(data, path)
        case ".json":
            return _json(data, path)
        case ".csv":
            return _separated(data, path, ",")
        case ".tsv":
            return _separated(data, path, "\t")
        case ".parquet" | ".pq":
            return _parquet(data, path)
    if data.startswith(b"PAR1"):
        return _parquet(data, path)
    if data.lstrip().startswith((b"{", b"[")):
        return _json(data, path)
    refuse(
        "the kind of file is not known",
        file=path,
        fix=f"name it as one of {', '.join(SUFFIXES)} (.gz and .zst may follow)",
    )


def _bytes(path: Place) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        refuse("the file may not be read", file=path, fix="check its permissions")
    except OSError as error:
        _cut(error, path)


def _cut(error: Exception, path: Place) -> NoReturn:
    places.failed(error, path)
    fix = "copy it again, whole"
    refuse("the file cannot be read whole", file=path, found=str(error), fix=fix)


def _unpacked(packed: bytes, path: Place) -> bytes:
    """What a compressed file holds, unless it holds what no text does; another as it is."""
    compression = next((kind for magic, kind in _MAGIC.items() if packed.startswith(magic)), None)
    named = COMPRESSED.get(path.suffix.lower())
    if named and packed and compression is None:
        refuse(f"not a {named} file, though its name says so", file=path, fix="rename it")
    if compression is None:
        return packed
    most = max(UNPACKED_AT_LEAST, UNPACKED * len(packed))
    parts, size = [], 0
    try:
        with pa.input_stream(pa.BufferReader(packed), compression=compression) as stream:
            while part := stream.read(_STEP):
                parts.append(part)
                size += len(part)
                if size > most:
                    break
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        _cut(error, path)
    if size > most:
        refuse(
            f"unpacks to more than {UNPACKED} times its size: no data, but a file made to fill "
            "the memory",
            file=path,
            fix="get it from a source that you trust, or unpack it yourself",
        )
    return b"".join(parts)


def _parquet(data: bytes, path: Place) -> Read:
    try:
        found = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        parquet.check_rows(found.metadata.num_rows, len(data), path)
        return Read(pl.DataFrame(pl.from_arrow(found.read())))
    except (
        *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
        *(OSError, ValueError, pa.ArrowException),
    ) as error:
        refuse("not a whole Parquet file", file=path, found=str(error), fix="write it again")


def _undecodable(data: bytes, path: Place) -> list[Fault]:
    """A fault for each line that is not UTF-8."""
    try:
        data.decode()
        return []
    except UnicodeDecodeError:
        pass
    faults = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            found = line[max(error.start - 20, 0) : error.end + 20].decode("utf-8", "replace")
            fix = "save the file as UTF-8"
            faults.append(Fault("the text is not UTF-8", path, line=number, found=found, fix=fix))
            if len(faults) == _MAX_FAULTS:
                break
    return faults


def _json_lines(data: bytes, path: Place) -> Read:
    data = data.removeprefix(b"\xef\xbb\xbf")
    raise_any(_undecodable(data, path))
    # The search for any escaped half first, as it is forty times as quick.
    escaped = b"\\ud" in data or b"\\uD" in data
    # What begins as a compressed file does, however short, polars would unpack.
    if data.lstrip().startswith(b"{") and not (escaped and _LONE_SURROGATE.search(data)):
        try:
            frame = _from_json_lines(data)
            return Read(frame, mixed=_mixed(frame, lambda: _parsed(data)))
        except pl.exceptions.PolarsError:
            pass  # read again line by line, to name the lines or to mend what JSON allows
    records, faults = [], []
    for number, line in enumerate(data.decode().split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = _loads(line)
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", str(error))
            faults.append(
                Fault(
                    f"not JSON ({what})",
                    path,
                    line=number,
                    found=line,
                    fix="mend or remove the line",
                )
            )
        else:
            records.append(record)
            if not isinstance(record, dict):
                fix = "a line holds one {…} with the columns as keys"
                faults.append(Fault("not a JSON object", path, line=number, found=line, fix=fix))
        if len(faults) == _MAX_FAULTS:
            break
    raise_any(faults)
    return _from_records(records, path)


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=lambda _: None)  # NaN and Infinity are missing values


def _parsed(data: bytes) -> list[dict[str, Any]]:
    return [_loads(line) for line in data.decode().split("\n") if line.strip()]


def _mixed(frame: pl.DataFrame, records: Callable[[], list[dict[str, Any]]]) -> dict[str, int]:
    """The first row, by column of text, whose value was a list or an object and became text."""
    found: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for column in frame.select(pl.col(pl.String)):
        suspects = column.str.contains(_NESTED).fill_null(False).arg_true()
        if len(suspects):
            rows = rows or records()
            nested = (row for row in suspects if isinstance(rows[row][column.name], list | dict))
            if (first := next(nested, None)) is not None:
                found[column.name] = first
    return found


def _from_json_lines(data: bytes) -> pl.DataFrame:
    return pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)


def _from_records(records: list[dict[str, Any]], path: Place) -> Read:
    """Parsed rows as a table, with half surrogate pairs, which no table can hold, replaced."""
    text = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    text, replaced = re.subn("[\ud800-\udfff]", "\ufffd", text)
    try:
        frame = _from_json_lines(text.encode())
    except pl.exceptions.PolarsError as error:
        fix = "give each column one type"
        refuse("the rows do not make a table", file=path, found=str(error), fix=fix)
    note = f"replaced {replaced:,} invalid character(s) (half surrogate pairs) by U+FFFD"
    mixed = _mixed(frame, lambda: records)
    return Read(frame, notes=(note,) if replaced else (), mixed=mixed)


def _json(data: bytes, path: Place) -> Read:
    raise_any(_undecodable(data, path))
    try:
        content = _loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if data.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and "Extra data" in str(error):
            return _json_lines(data, path)  # JSON lines under the name .json
        fix = "write the file again, whole"
        line = getattr(error, "lineno", None)
        refuse(f"not JSON ({getattr(error, 'msg', error)})", file=path, line=line, fix=fix)
    records = _records(content)
    if records is None:
        fix = "give an array of objects, an object of equally long columns, or JSON lines"
        refuse("the JSON holds no table", file=path, fix=fix)
    if not records:
        refuse("the JSON holds no rows", file=path, fix="give a file with rows")
    wrong = [
        Fault("not a JSON object", path, row=row, found=record, fix="mend or remove it")
        for row, record in enumerate(records)
        if not isinstance(record, dict)
    ]
    raise_any(wrong)
    return _from_records(records, path)


def _records(content: Any) -> list[Any] | None:
    """The rows in parsed JSON: an array, an object of columns, or an object of records."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        return None
    values = list(content.values())
    if values and all(isinstance(value, dict) for value in values):
        names = [str(number) for number in range(len(values[0]))]
        if names and all(list(value) == names for value in values):  # as pandas writes columns
            values = [list(value.values()) for value in values]
        else:
            return values
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) == len(values) > 0 and len({len(value) for value in lists}) == 1:
        inside = lists[0]
        if len(lists) > 1 or not all(isinstance(value, dict) for value in inside):
            return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    if len(lists) == 1:  # {"data": [...], "version": ...}
        return lists[0]
    return [content] if not lists and values else None


def _separated(data: bytes, path: Place, delimiter: str) -> Read:
    raise_any(_undecodable(data, path))
    text = data.decode("utf-8-sig")
    try:
        header, found = _header(text, delimiter)
    except csv.Error as error:
        fix = "close the quote in the header"
        refuse(f"bad quoting ({error})", file=path, line=1, fix=fix)
    notes = () if found == delimiter else (f"the columns are separated by {_DELIMITERS[found]}",)
    delimiter = found
    if repeated := sorted(name for name, times in Counter(header).items() if times > 1):
        fix = "give each column a name of its own"
        refuse("the header names a column twice", file=path, found=", ".join(repeated), fix=fix)
    if odd := [name for name in header if "\0" in name]:  # polars would cut it off there
        fix = "rename the column"
        refuse("the name of a column has a NUL in it", file=path, found=odd[0], fix=fix)
    # An odd number of quotes may be one that is never closed, which swallows the rows after it.
    if data.count(b'"') % 2:
        _refuse_csv(text, path, delimiter, len(header))
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(data),
            # Arrow threads that outlive a short command may abort it as it ends.
            read_options=arrow_csv.ReadOptions(
                block_size=min(len(data) + 16, 2**31 - 1), use_threads=False
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: pa.large_string() for name in header},
                strings_can_be_null=True,
                null_values=[""],
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        _refuse_csv(text, path, delimiter, len(header))
        refuse("the table cannot be read", file=path, found=str(error), fix="write it again")
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return Read(frame, untyped=True, notes=notes)


def _header(text: str, delimiter: str) -> tuple[list[str], str]:
    """The names of the columns, and what separates them: spreadsheets write `;` in many countries.

    Raises:
        csv.Error: a quote is not closed.
    """
    for each in (delimiter, *_DELIMITERS):
        with contextlib.suppress(csv.Error):
            header = _first_record(text, each)
            if len(header) > 1:
                return header, each
    return _first_record(text, delimiter), delimiter


def _first_record(text: str, delimiter: str) -> list[str]:
    return next(row for _, row in _csv_rows(text, delimiter) if row)


def _csv_rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line on which each record ends, and its fields."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            yield reader.line_num, row
    finally:
        csv.field_size_limit(before)


def _refuse_csv(text: str, path: Place, delimiter: str, width: int) -> None:
    """Raise an `InputError` that names each line without the header's number of fields, if any."""
    faults = []
    line = 0
    try:
        for line, row in _csv_rows(text, delimiter):
            if row and len(row) != width:
                problem = f"{len(row)} field(s), where the header has {width}"
                fix = "quote fields that hold the separator or a line break"
                found = delimiter.join(row)
                faults.append(Fault(problem, path, line=line, found=found, fix=fix))
                if len(faults) == _MAX_FAULTS:
                    break
    except csv.Error as error:
        fix = "close the quote, and double quotes inside a quoted field"
        faults.append(Fault(f"bad quoting ({error})", path, line=line + 1, fix=fix))
    if faults:
        raise InputError(*faults)
