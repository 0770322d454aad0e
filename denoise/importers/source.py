"""Where the rows come from: a file, a directory, a hub data set or a table in memory."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import polars as pl

from denoise import parquet, places, published, schema, tables
from denoise.errors import InputError, refuse
from denoise.importers import files
from denoise.places import Place
from denoise.plain import plain, without_credentials

if TYPE_CHECKING:
    import datasets

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_HASH_ROWS = 4096


@dataclass(frozen=True)
class Source:
    """A table as it was given: its `name` in messages, the SHA-256 of its content, its split.

    `files` has the name of each file and how many rows are of it, where files were read one by one;
    `untyped` says that every value is text only because the file format has no types; `mixed` has
    the first row in which a column of text held a list or an object, by column.
    """

    frame: pl.DataFrame
    name: str
    sha256: str
    split: str | None = None
    untyped: bool = False
    notes: tuple[str, ...] = ()
    mixed: Mapping[str, int] = field(default_factory=dict)
    files: tuple[tuple[str, int], ...] = ()


def load(source: str | Place | pl.DataFrame | datasets.Dataset, split: str | None = None) -> Source:
    """The rows of a path or pattern, of the URL of one in a store, of a hub id or a table.

    A hub id is `user/name`, or `user/name:config`.

    Raises:
        InputError: there is no such thing, it cannot be read, or it has no rows.
    """
    if places.is_name(source):
        loaded = _named(source, split)
    elif isinstance(source, pl.DataFrame):
        _no_split(split, "a table in memory")
        loaded = Source(source, "the table", content_hash(source))
    elif type(source).__module__.partition(".")[0] == "datasets":
        loaded = _held(source, "the data set", split)
    else:
        what = "a path, a hub id, a polars.DataFrame or a datasets.Dataset"
        refuse("this cannot be imported", found=type(source).__name__, fix=f"give {what}")
    if loaded.frame.is_empty():
        refuse("there are no rows", file=loaded.name, fix="give a table with rows")
    return loaded


def named(source: str | Place) -> Place:
    """The place that a source names, which may not be there, as where it is a hub id.

    Raises:
        InputError: nothing is given, or there can be no such name.
    """
    if not str(source).strip():
        refuse("no source is given", fix="give a file, a directory or a hub id")
    found = places.place(source)
    places.exists(found)
    return found


def content_hash(frame: pl.DataFrame) -> str:
    """SHA-256 of a table's column names, types and values, however it lies in memory."""
    state = hashlib.sha256(json.dumps([(n, str(t)) for n, t in frame.schema.items()]).encode())
    # polars cannot write bytes and Python objects as JSON.
    plain_types = not re.search("Binary|Object", str(frame.schema))
    for batch in frame.iter_slices(_HASH_ROWS):
        if plain_types:
            state.update(batch.write_ndjson().encode())
        else:
            state.update(json.dumps(batch.rows(), default=repr).encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def _named(source: str | Place, split: str | None) -> Source:
    name = without_credentials(str(source))
    path = named(source)
    if places.is_pattern(path):
        _no_split(split, "a pattern of files")
        return _several({file: {} for file in places.matches(path)}, name)
    if path.is_file():
        _no_split(split, "a file")
        read = files.read_file(path)
        return Source(
            read.frame,
            name,
            read.sha256,
            untyped=read.untyped,
            notes=read.notes,
            mixed=read.mixed,
            files=((path.name, len(read.frame)),),
        )
    if path.is_dir():
        if partitioned := _partitioned(path):
            _no_split(split, "a partitioned table")
            return _several(partitioned, name)
        with published.local_copy(path) as here:
            return _directory(here, name, split)
    if _HUB_ID.fullmatch(str(source)) and not files.is_data_file(str(source)):
        return _hub(str(source), name, split)
    refuse("there is no such file or directory", file=name, fix="check the path")


def _partitioned(directory: Place) -> dict[Place, dict[str, str | None]]:
    """The files of a directory that has folders such as `language=de`, and what these say."""
    if not any("=" in each.name and each.is_dir() for each in directory.iterdir()):
        return {}
    return {
        file: parquet.partition_of(file, directory)
        for name, file in places.files_below(directory).items()
        if files.is_data_file(name) and not places.is_hidden(name)
    }


def _several(parts: Mapping[Place, Mapping[str, str | None]], name: str) -> Source:
    """The rows of several files, one after the other, as one table."""
    read = {file: files.read_file(file) for file in parts}
    for directory in {file.parent for file in parts}:
        published.check(directory)
    if len({each.untyped for each in read.values()}) > 1:
        fix = "give files of one kind"
        refuse("some of the files have types, and some (CSV, TSV) have none", file=name, fix=fix)
    frames, told, mixed, first = [], [], {}, 0
    for file, values in parts.items():
        # What folders give is in the rows, and not in the file.
        told.append(read[file].sha256 + (json.dumps(values) if values else ""))
        frame = parquet.with_partition(read[file].frame, file, values)
        frames.append(frame)
        mixed = {column: first + row for column, row in read[file].mixed.items()} | mixed
        first += len(frame)
    try:
        # Where a column is empty in one file, or whole numbers there, the others have its type.
        frame = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        fix = "give files with the same columns"
        refuse("the files do not make one table", file=name, found=str(error), fix=fix)
    notes = tuple(dict.fromkeys(note for each in read.values() for note in each.notes))
    return Source(
        frame,
        name,
        schema.digest(*told).hex(),
        untyped=next(iter(read.values())).untyped,
        notes=(f"{len(parts):,} files as one table", *notes),
        mixed=mixed,
        files=tuple((file.name, len(each.frame)) for file, each in read.items()),
    )


def _no_split(split: str | None, what: str) -> None:
    if split is not None:
        refuse(f"{what} has no splits", found=split, fix="leave --split out")


def _directory(path: Path, name: str, split: str | None) -> Source:
    import datasets

    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        try:
            held = datasets.load_from_disk(str(path))
        except Exception as error:
            _cannot(name, error, "save the data set again")
        return _held(held, name, split, tables.file_hash(path))
    with tempfile.TemporaryDirectory(prefix="denoise-") as cache:
        try:
            held = datasets.load_dataset(str(path), cache_dir=cache)
        except Exception as error:
            _cannot(name, error, "give one file, or a directory of Parquet, JSONL or CSV files")
        return _held(held, name, split, tables.file_hash(path))


def _hub(source: str, name: str, split: str | None) -> Source:
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repository, _, config = source.partition(":")
    try:
        # One short question first: `load_dataset` without a network tries for half a minute.
        HfApi().dataset_info(repository, timeout=10)
    except (HfHubHTTPError, HFValidationError) as error:
        _cannot(name, error, "check the name; log in with `hf auth login` if it is private")
    except Exception as error:
        stored = Path(datasets.config.HF_DATASETS_CACHE) / repository.replace("/", "___")
        if not stored.is_dir():
            fix = "check the path, or the network"
            _cannot(
                name, error, fix, "there is no such file or directory, nor can the hub be asked"
            )
    try:
        held = datasets.load_dataset(repository, config or None)
    except Exception as error:
        _cannot(
            name, error, "check the name and the network; a config is given as user/name:config"
        )
    return _held(held, name, split)


def _cannot(
    name: str, error: Exception, fix: str, problem: str = "the data set cannot be loaded"
) -> NoReturn:
    if isinstance(error, InputError):
        raise error
    reason = without_credentials(plain(f"{type(error).__name__}: {error}", 160))
    raise InputError(f"{plain(name)}: {problem} ({reason}); {fix}") from error


def _held(held: Any, name: str, split: str | None, sha256: str | None = None) -> Source:
    """A loaded data set, or the wanted split of one that has several, as a table."""
    notes: tuple[str, ...] = ()
    if isinstance(held, dict):  # DatasetDict
        splits = list(held)
        chosen = split or (splits[0] if len(splits) == 1 else "train")
        if chosen not in splits:
            what = "there is no such split" if split else "there are several splits"
            fix = f"give --split with one of {', '.join(map(plain, splits))}"
            refuse(what, file=name, found=split, fix=fix)
        if len(splits) > 1 and split is None:
            notes = (f"took the split 'train' of {', '.join(map(plain, splits))}",)
        held, split = held[chosen], chosen
    elif split is not None and str(getattr(held, "split", None)) != split:
        _no_split(split, "the saved data set")
    try:
        frame = held.to_polars()
    except Exception as error:
        _cannot(name, error, "remove columns that are no text, number or list", "no table")
    return Source(frame, name, sha256 or content_hash(frame), split, notes=notes)
