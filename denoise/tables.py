"""The only file input and output: tables with provenance, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from denoise import __version__, parquet, places, schema
from denoise.errors import Fault, InputError, raise_any, refuse
from denoise.locks import locked
from denoise.places import Place
from denoise.published import MANIFEST, UNFINISHED, check, manifest, publish

METADATA_KEY = "denoise"
SCHEMA_KEY = "denoise_schema"
ROW_GROUP = 1 << 18


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
        return cls._of(json.loads(text))

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Provenance:
        return cls(**{name: data[name] for name in data.keys() - {"run_id", UNFINISHED}})


def file_hash(path: Place) -> str:
    """SHA-256 of a file's bytes, or of the sorted names and bytes of a directory's files."""
    if path.is_dir():
        files = places.files_below(path)
        return schema.digest(*(f"{name}={file_hash(file)}" for name, file in files.items())).hex()
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
def atomic_path(path: Place) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends without an error.

    What a store gets lies in the temporary directory of this machine first.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory(prefix="denoise-") as scratch:
            temporary = Path(scratch) / path.name
            yield temporary
            places.upload(temporary, path)
        return
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


def write_text(text: str, path: Place) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(content: Mapping[str, Any], path: Place) -> None:
    """Write a JSON file whole or not at all, its keys in order."""
    write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", path)


def write_table(frame: pl.DataFrame, path: Place, provenance: Provenance) -> None:
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


def read_provenance(table: Place) -> Provenance | None:
    """What the metadata of a Parquet table says made it; None for a user's own."""
    return _made({file: footer.metadata for file, footer in parquet.footers(table).items()})


def _made(metadata: Mapping[Place, Mapping[bytes, bytes] | None]) -> Provenance | None:
    """What made a table, of the metadata of its files."""
    made = {file: _provenance(of or {}, file) for file, of in metadata.items()}
    same_run(made)
    return next((each for each in made.values() if each is not None), None)


def _provenance(metadata: Mapping[bytes, bytes], path: Place) -> Provenance | None:
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


def _check_version(text: bytes | None, path: Place) -> None:
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


def read_frame(table: Place) -> pl.DataFrame:
    """The rows of a Parquet file, or of all in a directory, their checksums verified.

    Raises:
        InputError: a file is missing, cut short or damaged, or has other columns than the others.
        RunError: the store that holds it failed.
    """
    return parquet.read(table)[0]


def read_table(
    path: Place, contract: schema.Contract, *, may_be_empty: bool = False
) -> tuple[pl.DataFrame, Provenance | None]:
    """A table that keeps its contract, and its provenance (None for a user's own table).

    Raises:
        InputError: the file is missing, cut short, or departs from its contract.
    """
    frame, metadata = parquet.read(path)
    provenance = _made(metadata)
    if contract is schema.VOTE_ROWS and "vote_id" not in frame.columns:
        frame = frame.with_row_index("vote_id").with_columns(pl.col("vote_id").cast(pl.Int64))
    if contract is schema.VOTE_ROWS and "annotator_id" not in frame.columns:
        frame = frame.with_columns(annotator_id=pl.lit(schema.ALL_ANNOTATORS))
    raise_any(schema.faults(frame, contract, path, may_be_empty=may_be_empty))
    return frame, provenance


def read_manifest(directory: Place) -> Provenance | None:
    """What made a directory, from its manifest; None where there is no readable one."""
    try:
        return Provenance._of(manifest(directory))
    except (TypeError, AttributeError):
        return None


def check_writable(out: Place) -> None:
    """Refuse an output that could not be written, before any work is done for it."""
    if not isinstance(out, Path):
        places.check_writable(out)
        return
    out = out.absolute()
    try:
        nearest = next(path for path in (out, *out.parents) if path.exists())
        # A file without a name, so that the answer is the file system's own and nothing is left.
        with tempfile.TemporaryFile(dir=out.parent if nearest == out else nearest):
            pass
    except OSError as error:
        refuse("cannot be written", file=out, found=error.strerror, fix="give another --out")


def check_out(out: Place, made_by: str) -> None:
    """Refuse an output directory that is neither empty nor an earlier output of the same command.

    Called before the work starts, so that hours are not lost to a name.
    """
    check_writable(out / MANIFEST if places.is_remote(out) else out)
    if out.is_file():
        refuse("is a file, where a directory is to be written", file=out, fix="give another --out")
    if not out.is_dir() or _is_empty(out):
        return
    made = read_manifest(out)
    if made is None or made.made_by != made_by:
        maker = f"was made by `denoise {made.made_by}`" if made else "is not empty"
        refuse(
            f"the directory {maker}, and `denoise {made_by}` would replace it",
            file=out,
            fix="give another --out, or remove it",
        )


def check_table_out(out: Place, made_by: str) -> None:
    """Refuse to replace a file that is no whole table of the same command."""
    check_writable(out)
    if out.is_dir():
        refuse("is a directory, where a file is to be written", file=out, fix="give a .parquet")
    if out.exists():
        try:
            made = read_provenance(out)
        except InputError:
            made = None
        if made is None or made.made_by != made_by:
            fix = "remove it, or give another name"
            refuse(f"is no whole table that `denoise {made_by}` made", file=out, fix=fix)


def _is_empty(directory: Place) -> bool:
    # In a store an empty folder is a file of its name.
    remote = places.is_remote(directory)
    return not (places.files_below(directory) if remote else any(directory.iterdir()))


@contextlib.contextmanager
def staged_directory(out: Place, provenance: Provenance) -> Iterator[Path]:
    """A sibling directory that takes the place of `out` when the block ends without an error.

    What a killed command left beside `out` is removed first. The manifest is written last.
    """
    if not isinstance(out, Path):
        check_out(out, provenance.made_by)
        with tempfile.TemporaryDirectory(prefix="denoise-") as scratch:
            yield Path(scratch)
            publish(Path(scratch), out, provenance.to_json() + "\n")
        return
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


def same_run(provenances: Mapping[Place, Provenance | None]) -> None:
    """Refuse tables of one directory that different runs made; tables without provenance pass.

    Of a store, a directory whose files are not all there is refused as well.
    """
    known = {path: p for path, p in provenances.items() if p is not None}
    for directory in {path.parent for path in known if places.is_remote(path)}:
        check(directory)
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
