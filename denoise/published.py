"""Directories of a store: put there so that none is read by half, and fetched from there.

A store renames no directories. So the manifest of one says first that its files are being written,
which readers refuse, and says last that they are whole.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from denoise import places
from denoise.errors import RunError, refuse
from denoise.locks import locked
from denoise.places import Place

MANIFEST = "denoise.json"
UNFINISHED = "being_written"
"""A key of the manifest while files are being put there: by whom."""

_ABOVE = 3
"""A result may lie in one that is published as a whole: a policy in a run."""


def manifest(directory: Place) -> dict[str, Any]:
    """What a directory's manifest says; nothing where there is no readable one.

    Raises:
        RunError: the store does not say.
    """
    return _read(directory / MANIFEST)


def _read(file: Place) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, PermissionError):  # who may not list is told the latter
        return {}
    except (OSError, ValueError) as error:
        places.failed(error, file)
        return {}
    return found if isinstance(found, dict) else {}


def is_whole(directory: Place) -> bool:
    """Whether a manifest says that all files of a directory are there."""
    found = manifest(directory)
    return bool(found) and UNFINISHED not in found


def check(directory: Place) -> None:
    """Refuse a directory of a store whose files are not all there yet.

    Raises:
        InputError: they are not.
    """
    if not places.is_remote(directory):
        return
    for each in (directory, *list(directory.parents)[:_ABOVE]):
        if UNFINISHED in manifest(each):
            refuse(
                "is being written, or the command that wrote it was killed",
                file=each,
                fix="wait until it has ended, or repeat it",
            )


def publish(directory: Path, out: Place, text: str, mark: str | None = None) -> None:
    """Put a directory of this machine in a store, in the place of an earlier one.

    `text` is the manifest; `mark` says whose files are being written, anybody's unless given.

    Raises:
        RunError: the store failed, or another command wrote there meanwhile.
    """
    files = places.files_below(directory)
    files.pop(MANIFEST, None)
    mark = mark or uuid.uuid4().hex
    unfinished = json.dumps({**json.loads(text), UNFINISHED: mark})
    places.write(out / MANIFEST, unfinished)
    for name, file in files.items():
        places.upload(file, out / name)
    for name, stale in places.files_below(out).items():
        if name not in files and name != MANIFEST:
            stale.unlink()
    if manifest(out).get(UNFINISHED) != mark:
        places.write(out / MANIFEST, unfinished)
        where = places.shown(out)
        raise RunError(f"{where}: another command wrote there at the same time; repeat this one")
    places.write(out / MANIFEST, text)


def fetch(where: Place, here: Path) -> str:
    """Copy a file or directory from a store to this machine; the state of what was copied.

    Raises:
        InputError: there is none, or it is being written.
        RunError: the store failed, or what it holds changed meanwhile.
    """
    before = _state(where)
    here.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".denoise-", dir=here.parent) as scratch:
        made = Path(scratch) / "whole"
        places.download(where, made)
        if _state(where) != before:
            raise RunError(f"{places.shown(where)}: changed while it was read; repeat this")
        try:
            made.rename(here)
        except OSError:
            if not here.exists():  # else another process was first
                raise
    return before


def _state(where: Place) -> str:
    """What changes with the files in a place, which are all there."""
    check(where)
    return places.state(where)


@contextlib.contextmanager
def local_copy(where: Place) -> Iterator[Path]:
    """A file or directory on this machine, for as long as it is needed; errors as of `fetch`."""
    if isinstance(where, Path):
        yield where
        return
    with tempfile.TemporaryDirectory(prefix="denoise-") as scratch:
        here = Path(scratch) / where.name
        fetch(where, here)
        yield here


def kept_copy(where: Place) -> Path:
    """A file or directory in this machine's cache, fetched unless it is there as it is now.

    Raises:
        InputError: there is none, or it is being written.
        RunError: the store failed, or what it holds changed meanwhile.
    """
    if not places.exists(where):
        refuse("there is no such file or directory", file=where, fix="check the address")
    address = places.fingerprint(str(where))[:16]
    kept = places.cache() / "fetched" / f"{address}-{_state(where)}" / where.name
    if not kept.exists():
        fetch(where, kept)
    return kept


@contextlib.contextmanager
def workshop(out: Place) -> Iterator[Path]:
    """Where a command makes the directory `out` over hours: there, or here for one of a store.

    What is in the store is here first, so that the command goes on from it; at the end it is
    published, if anything changed. Killed in between, the command finds its work here.

    Raises:
        InputError: the work here went on from what the store no longer has.
        RunError: the store failed, or what it has changed meanwhile.
    """
    if isinstance(out, Path):
        yield out
        return
    name = places.fingerprint(str(out))
    here = places.cache() / "work" / name / out.name
    with locked(here):
        origin, before = here.parent / "origin.json", None
        if not here.exists():
            began = {"store": _state(out) if is_whole(out) else None, "mark": uuid.uuid4().hex}
            origin.write_text(json.dumps(began), encoding="utf-8")
            if began["store"] and fetch(out, here) != began["store"]:
                places.remove(here)
                raise RunError(f"{places.shown(out)}: changed while it was read; repeat this")
            before = _times(here)
        elif not _goes_on(out, began := _read(origin)):
            refuse(f"changed since the work in {here} began", file=out, fix=_both(here))
        yield here
        if here.exists() and _times(here) != before:
            if not _goes_on(out, began):
                where = places.shown(out)
                raise RunError(f"{where}: changed since the work in {here} began; {_both(here)}")
            text = (here / MANIFEST).read_text(encoding="utf-8")
            publish(here, out, text, began.get("mark"))
            # For a kill before the work here is gone.
            origin.write_text(json.dumps({"store": _state(out)}), encoding="utf-8")
        places.remove(here)
        origin.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        here.parent.rmdir()


def _both(here: Path) -> str:
    return (
        f"copy {here} elsewhere to keep it, and remove it to go on from what the store has; or "
        "give another --out"
    )


def _goes_on(out: Place, began: Mapping[str, str | None]) -> bool:
    """Whether nothing is lost when work that began so takes the place of what the store has.

    That is so where the store has nothing, or what it had then, or a part of that very work.
    """
    there = manifest(out)
    if UNFINISHED in there:
        return began.get("store") is None or there[UNFINISHED] == began.get("mark")
    return not there or _state(out) == began.get("store")


def _times(directory: Path) -> dict[str, tuple[int, int]]:
    states = {n: file.stat() for n, file in places.files_below(directory).items()}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}
