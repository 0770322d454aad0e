"""The only file input and output: tables with provenance, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from denoise import __version__, schema
from denoise.errors import Fault, InputError, raise_any, refuse
from denoise.locks import locked

METADATA_KEY = "denoise"
SCHEMA_KEY = "denoise_schema"
ROW_GROUP = 1 << 18
MANIFEST = "denoise.json"


@dataclass(frozen=True)
class Provenance:
    """What made a table, from which inputs (by hash) and with which settings; holds no time."""

    made_by: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__

    @property
    def run_id(self) -> str:
        """The same for equal work on equal inputs, and for all tables of one run."""
        return schema.digest(json.dumps(asdict(self), sort_keys=True, default=str)).hex()

    def to_json(self) -> str:
        """The text stored in Parquet metadata and manifests."""
        return json.dumps(
            {**asdict(self), "run_id": self.run_id}, sort_keys=True, indent=1, default=str
        )

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """The provenance that `to_json` wrote."""
        data = json.loads(text)
        data.pop("run_id", None)
        return cls(**data)


def without_credentials(source: str) -> str:
    """Text whose URLs have no user, password, query or fragment, and no token of a service."""
    source = re.sub(r"(\w+://)[^/\s@]*@", r"\1", source)
    source = re.sub(r"(\w+://[^\s?#]*)[?#]\S*", r"\1", source)
    return re.sub(r"\b(hf_[A-Za-z0-9]{16,}|gh[a-z]_\w{30,}|sk-[\w-]{20,})", "***", source)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the sorted names and bytes of a directory's files."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return schema.digest(*(f"{p.relative_to(path)}={file_hash(p)}" for p in files)).hex()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def frame_hash(frame: pl.DataFrame) -> str:
    """The identity of a table's columns and rows, in their order, as 32 hex digits."""
    state = hashlib.sha256()
    for batch in frame.iter_slices(1 << 16):
        buffer = io.BytesIO()
        batch.write_ipc(buffer)
        state.update(buffer.getvalue())
    return state.hexdigest()[:32]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for all attempts: what a killed one left is replaced by the next.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file whole or not at all, its keys in order."""
    write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", path)


def write_table(frame: pl.DataFrame, path: Path, provenance: Provenance) -> None:
    """Write a Parquet table whole or not at all, with its provenance in the metadata."""
    with atomic_path(path) as temporary:
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        kept = {**(table.schema.metadata or {}), **metadata_of(provenance)}
        # With checksums, so that a byte that flips on a disk is no other vote.
        pq.write_table(
            table.replace_schema_metadata(kept),
            temporary,
            compression="zstd",
            row_group_size=ROW_GROUP,
            write_page_checksum=True,
        )


def metadata_of(provenance: Provenance) -> dict[str, str]:
    """What a table's file says of itself: what made it, and the version of its columns."""
    return {METADATA_KEY: provenance.to_json(), SCHEMA_KEY: str(schema.VERSION)}


def read_provenance(path: Path) -> Provenance | None:
    """What the Parquet file's metadata says made it; None for a user's own table."""
    metadata = _parquet(path).metadata.metadata or {}
    _check_version(metadata.get(SCHEMA_KEY.encode()), path)
    text = metadata.get(METADATA_KEY.encode())
    if not text:
        return None
    try:
        return Provenance.from_json(text.decode())
    except (ValueError, TypeError, AttributeError):
        refuse(
            "the file says that denoise made it, and not how",
            file=path,
            found=text.decode("utf-8", "replace"),
            fix=f"write it again, or without the key '{METADATA_KEY}' in its metadata",
        )


def _check_version(text: bytes | None, path: Path) -> None:
    """Refuse a table whose columns a later version of denoise defined; none given is the first."""
    if text is None or (text.isdigit() and int(text[:9]) <= schema.VERSION):
        return
    version = text.decode("utf-8", "replace")
    refuse(
        f"the table is of schema {version}, and this denoise ({__version__}) reads up to "
        f"{schema.VERSION}",
        file=path,
        fix="pip install --upgrade denoise-prefs",
    )


def columns_of(path: Path) -> pa.Schema:
    """The columns of a Parquet file with their types."""
    return _parquet(path).schema_arrow


def _parquet(path: Path) -> pq.ParquetFile:
    if path.is_dir():
        refuse("is a directory, where a Parquet file is wanted", file=path, fix="name the file")
    try:
        found = pq.ParquetFile(path, page_checksum_verification=True)
        check_rows(found.metadata.num_rows, path.stat().st_size, path)
        return found
    except FileNotFoundError:
        refuse("there is no such file", file=path, fix="check the path")
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        refuse("not a whole Parquet file", file=path, found=str(error), fix="write it again")


ROWS_A_BYTE, ROWS_AT_LEAST = 200, 1 << 24
"""A file may hold so many rows a byte, once it holds so many: a table of who said what has a few,
one value over and over has hundreds, and a file made to fill the memory has millions."""


def check_rows(rows: int, size: int, path: Path) -> None:
    """Refuse a Parquet file of a few bytes that stands for more rows than fit into memory."""
    if rows > max(ROWS_AT_LEAST, ROWS_A_BYTE * size):
        refuse(
            f"{rows:,} rows in {size:,} bytes: no table of data, but one made to fill the memory",
            file=path,
            fix="get the file from a source that you trust",
        )


def read_frame(path: Path) -> pl.DataFrame:
    """The rows of a Parquet file, its checksums verified where it has some.

    Raises:
        InputError: the file is missing, cut short or damaged.
    """
    try:
        return pl.DataFrame(pl.from_arrow(_parquet(path).read()))
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        refuse("the Parquet file cannot be read", file=path, found=str(error), fix="write it again")


def read_table(
    path: Path, contract: schema.Contract, *, may_be_empty: bool = False
) -> tuple[pl.DataFrame, Provenance | None]:
    """A table that keeps its contract, and its provenance (None for a user's own table).

    Raises:
        InputError: the file is missing, cut short, or departs from its contract.
    """
    provenance, frame = read_provenance(path), read_frame(path)
    if contract is schema.VOTE_ROWS and "vote_id" not in frame.columns:
        frame = frame.with_row_index("vote_id").with_columns(pl.col("vote_id").cast(pl.Int64))
    if contract is schema.VOTE_ROWS and "annotator_id" not in frame.columns:
        frame = frame.with_columns(annotator_id=pl.lit(schema.ALL_ANNOTATORS))
    raise_any(schema.faults(frame, contract, path, may_be_empty=may_be_empty))
    return frame, provenance


def read_manifest(directory: Path) -> Provenance | None:
    """What made a directory, from its manifest; None where there is no readable one."""
    try:
        return Provenance.from_json((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def check_writable(out: Path) -> None:
    """Refuse an output that could not be written, before any work is done for it."""
    out = out.absolute()
    try:
        nearest = next(path for path in (out, *out.parents) if path.exists())
        # A file without a name, so that the answer is the file system's own and nothing is left.
        with tempfile.TemporaryFile(dir=out.parent if nearest == out else nearest):
            pass
    except OSError as error:
        refuse("cannot be written", file=out, found=error.strerror, fix="give another --out")


def check_out(out: Path, made_by: str) -> None:
    """Refuse an output directory that is neither empty nor an earlier output of the same command.

    Called before the work starts, so that hours are not lost to a name.
    """
    check_writable(out)
    if out.is_file():
        refuse("is a file, where a directory is to be written", file=out, fix="give another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    manifest = read_manifest(out)
    if manifest is None or manifest.made_by != made_by:
        maker = f"was made by `denoise {manifest.made_by}`" if manifest else "is not empty"
        refuse(
            f"the directory {maker}, and `denoise {made_by}` would replace it",
            file=out,
            fix="give another --out, or remove it",
        )


@contextlib.contextmanager
def staged_directory(out: Path, provenance: Provenance) -> Iterator[Path]:
    """A sibling directory that takes the place of `out` when the block ends without an error.

    What a killed command left beside `out` is removed first. The manifest is written last.
    """
    with locked(out):
        yield from _staged(out, provenance)


def _staged(out: Path, provenance: Provenance) -> Iterator[Path]:
    check_out(out, provenance.made_by)
    out = out.resolve()  # behind a link, the directory itself is replaced, and the link stays
    out.parent.mkdir(parents=True, exist_ok=True)
    staging, retired = (out.parent / f".{out.name}.{what}" for what in ("new", "old"))
    if retired.exists() and not out.exists():  # killed between the two renames below
        retired.rename(out)
    for leftover in (staging, retired):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        write_text(provenance.to_json() + "\n", staging / MANIFEST)
        for path in staging.rglob("*"):
            _sync(path)
        _sync(staging)
        if out.exists():
            out.rename(retired)
        staging.rename(out)
        _sync(out.parent)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def same_run(provenances: Mapping[Path, Provenance | None]) -> None:
    """Refuse tables of one directory that different runs made; tables without provenance pass."""
    known = {path: p for path, p in provenances.items() if p is not None}
    if len({p.run_id for p in known.values()}) > 1:
        raise InputError(
            *(
                Fault(
                    f"made by run {p.run_id[:12]} of `denoise {p.made_by}`, the others by another",
                    file=path,
                    fix="run that command again, so that its tables belong together",
                )
                for path, p in known.items()
            )
        )
