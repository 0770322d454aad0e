"""Where files are: on this machine, or in a store behind a URL (s3://, gs://, hf://, memory://).

What a store holds is a `upath.UPath`, which has the methods of `pathlib.Path` without being one:
code that only asks a place for them serves both. A store has no rename of directories and no locks,
and a file in it appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeAlias, Union

from denoise.errors import RunError, refuse
from denoise.plain import plain, without_credentials

if TYPE_CHECKING:
    from upath import UPath

Place: TypeAlias = Union[Path, "UPath"]

CLIENTS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf", "memory": None}
"""The stores by the scheme of their URLs, and the extra that brings the client of each."""

AT_ONCE = 16
"""Files that a store is asked for at a time."""

_SMALL = 1 << 20

_PROBE = re.compile(r"\..+\.[0-9a-f]{8}\.probe")
"""A file of `check_writable`, which stays where nothing may be removed, or after a kill."""

_LIBRARIES = ("botocore", "aiobotocore", "s3fs", "gcsfs", "google", "huggingface_hub", "aiohttp")


def place(name: str | Place) -> Place:
    """The place of that name; a path of this machine unless it is the URL of a store.

    Raises:
        InputError: the URL is of no known store, or the store's client is not installed.
    """
    if not isinstance(name, str):
        return name
    scheme = scheme_of(name)
    if not scheme:
        return Path(name)
    if scheme not in CLIENTS:
        fix = "download the file, or give the hub id; s3://, gs://, hf:// and memory:// are known"
        refuse("addresses are not read", file=name, fix=fix)
    try:
        from upath import UPath

        # Others write too: what was there a moment ago is no answer.
        found = UPath(name, use_listings_cache=False)
        _ = found.fs
    except ImportError as error:
        fix = f"pip install 'denoise-prefs[{CLIENTS[scheme]}]'"
        refuse(f"the client of {scheme}:// is not installed", file=name, found=error, fix=fix)
    except Exception as error:
        refuse("not an address of the store", file=name, found=_reason(error), fix="check it")
    return found


def scheme_of(name: str) -> str:
    """`s3` of s3://bucket/key; nothing of a path."""
    scheme, found, _ = name.partition("://")
    return scheme if found and scheme.isalnum() else ""


def is_name(source: object) -> bool:
    """Whether this names something to read: text, a path, or a place in a store."""
    upath = sys.modules.get("upath")
    return isinstance(source, str | Path) or bool(upath and isinstance(source, upath.UPath))


def is_remote(where: Place) -> bool:
    """Whether the place is in a store."""
    return not isinstance(where, Path)


def shown(where: Place) -> str:
    """The place as it is named in a message."""
    return plain(without_credentials(str(where)))


def exists(where: Place) -> bool:
    """Whether there is a file or directory.

    Raises:
        InputError: it cannot be one here, or the store does not say.
    """
    try:
        return where.exists()
    except Exception as error:
        if isinstance(error, OSError) and not is_remote(where):
            fix = f"check the path ({error.strerror})"
            refuse("not the name of a file", found=str(where), fix=fix)
        _unreached(where, error)


def _unreached(where: Place, error: Exception) -> NoReturn:
    fix = "check the name, the network and your credentials"
    refuse("the store cannot be asked", file=where, found=_reason(error), fix=fix)


def _reason(error: BaseException) -> str:
    return plain(without_credentials(f"{type(error).__name__}: {error}"), 200)


def failed(error: BaseException, where: Place) -> None:
    """Raise a `RunError` where a store failed, and not the file that it holds."""
    of_arrow = isinstance(error, OSError) and error.errno is None  # which read what it was given
    if is_remote(where) and (
        not (of_arrow or isinstance(error, ValueError))
        or isinstance(error, TimeoutError)
        or is_of_a_store(error)
    ):
        raise RunError(f"{shown(where)}: the store failed ({_reason(error)})") from error


def is_of_a_store(error: BaseException) -> bool:
    """Whether an error comes from the client of a store: no credentials, for instance."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def opened(where: Place) -> Path | IO[bytes]:
    """What Arrow reads: a path, or a file that fetches the ranges that are asked for, no more.

    What is small is fetched at once, which takes no longer than any of its ranges.
    """
    if isinstance(where, Path):
        return where
    found = where.open("rb", cache_type="none")
    return found if found.size > _SMALL else io.BytesIO(found.read())


def files_below(directory: Place) -> dict[str, Place]:
    """All files in a directory and its folders by their names from there on, in their order.

    Raises:
        InputError: a store has a name there that no path of this machine can have.
    """
    if isinstance(directory, Path):
        found = [file for file in directory.rglob("*") if file.is_file()]
        named = {file.relative_to(directory).parts: file for file in found}
        return {"/".join(name): named[name] for name in sorted(named)}
    return {name: _at(directory, key) for name, (key, _) in _listed(directory).items()}


def _listed(directory: UPath) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The keys below a directory of a store, by their names from there on, and what it says."""
    above = directory.path.rstrip("/") + "/"
    directory.fs.invalidate_cache()  # the hub's client keeps listings whatever it is told
    found = directory.fs.find(directory.path, detail=True)
    keys = (key for key in found if key.startswith(above))
    named = {tuple(key.removeprefix(above).split("/")): key for key in keys}
    for name in list(named):
        # The mark of a folder, as the stores' own pages make it, or what is no part of a result.
        if not name[-1] or _PROBE.fullmatch(name[-1]):
            del named[name]
        elif set(name) & {"", ".", ".."}:
            fix = "rename it, or give a directory without it"
            refuse("no name for a file", file=directory, found="/".join(name), fix=fix)
    return {"/".join(name): (named[name], found[named[name]]) for name in sorted(named)}


def found_below(where: Place) -> dict[str, Place]:
    """The file itself under no name, or the files of the directory.

    Raises:
        InputError: there is neither.
    """
    if where.is_file():
        return {"": where}
    found = files_below(where)
    return found or refuse("there is no such file or directory", file=where, fix="check the path")


def versions(where: Place) -> dict[Place, str]:
    """What changes when a file is written again: of the file, or of all in the directory.

    Raises:
        InputError: there is neither.
    """
    if is_remote(where) and where.is_dir():  # at the price of the listing alone
        listed = _listed(where).values()
        return {_at(where, key): fingerprint(str(said)) for key, said in listed}
    return {file: _version(file) for file in found_below(where).values()}


def _version(file: Place) -> str:
    if not isinstance(file, Path):
        file.fs.invalidate_cache()
        return file.fs.ukey(file.path)
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def state(where: Place) -> str:
    """What changes with a file, or with the files of a directory and their names.

    Raises:
        InputError: there is neither.
    """
    return fingerprint("\n".join(f"{file}={version}" for file, version in versions(where).items()))


def fingerprint(text: str) -> str:
    """A text as 32 hex digits, for the name of a file or to be compared."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_hidden(name: str) -> bool:
    """Whether a name from a directory on is of work in progress or of notes, by custom."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def _at(there: UPath, path: str) -> UPath:
    """A path in the store that holds another place."""
    return there.with_segments(f"{there.protocol}://{path}")


def holds(outer: Place, inner: Place) -> bool:
    """Whether both are one place, or the second lies in the first."""
    outer, inner = (each.resolve() if isinstance(each, Path) else each for each in (outer, inner))
    return outer == inner or outer in inner.parents


def is_pattern(where: Place) -> bool:
    """Whether the name is a pattern such as part-*.jsonl, and no file of that very name."""
    return any(c in str(where) for c in "*?[") and not exists(where)


def matches(pattern: Place) -> list[Place]:
    """The files that a pattern names but for hidden ones, in the order of their names.

    Raises:
        InputError: there is none.
    """
    if is_remote(pattern):
        found = (_at(pattern, name) for name in pattern.fs.glob(pattern.path))
    else:
        anchor = Path(pattern.anchor or ".")
        found = anchor.glob(str(PurePosixPath(pattern).relative_to(pattern.anchor)))
    wants_hidden = is_hidden(pattern.name)
    files = [f for f in found if f.is_file() and (wants_hidden or not is_hidden(f.name))]
    fix = "check the pattern"
    return sorted(files, key=str) or refuse("no file has such a name", file=pattern, fix=fix)


def cache() -> Path:
    """Where denoise keeps what was fetched and what is being made, for this user alone."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made = base / "denoise"
    made.mkdir(parents=True, exist_ok=True, mode=0o700)
    return made


def download(where: Place, here: Path) -> None:
    """Copy a file or directory from a store to this machine, file by file.

    Raises:
        RunError: the store failed.
    """
    for name, file in found_below(where).items():
        target = here / name if name else here
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.fs.get_file(file.path, str(target))
        except Exception as error:
            raise RunError(f"{shown(file)}: cannot be read ({_reason(error)})") from error


def upload(file: Path, where: Place) -> None:
    """Put a file into a store, whole or not at all.

    Raises:
        RunError: the store failed.
    """
    try:
        where.fs.put_file(str(file), where.path)
        kept = where.fs.info(where.path)["size"]
    except Exception as error:
        _unwritten(where, _reason(error), error)
    size = file.stat().st_size
    if kept != size:
        _unwritten(where, f"of {size:,} bytes the store has {kept:,}")


def write(where: Place, text: str) -> None:
    """Put a text into a file of a store, whole or not at all.

    Raises:
        RunError: the store failed.
    """
    try:
        where.fs.pipe_file(where.path, text.encode())
    except Exception as error:
        _unwritten(where, _reason(error), error)


def _unwritten(where: Place, reason: str, error: Exception | None = None) -> NoReturn:
    raise RunError(f"{shown(where)}: cannot be written ({reason})") from error


def check_writable(where: Place) -> None:
    """Refuse a file of a store that may not be written, by writing one beside it.

    The hub, where each file is a commit, is asked; what is public there is refused.

    Raises:
        InputError: it may not, or the store cannot be reached.
    """
    if where.protocol == "hf":
        _check_hub(where)
        return
    probe = where.with_name(f".{where.name}.{uuid.uuid4().hex[:8]}.probe")
    try:
        write(probe, "denoise")
    except RunError as error:
        cause = _reason(error.__cause__ or error)
        refuse("cannot be written", file=where, found=cause, fix="give another --out")
    with contextlib.suppress(Exception):  # who may write may not always remove
        probe.fs.rm_file(probe.path)


def _check_hub(where: Place) -> None:
    from huggingface_hub import HfApi

    try:
        found = where.fs.resolve_path(where.path)
        api, of = HfApi(endpoint=where.fs.endpoint), {"repo_type": found.repo_type}
        api.auth_check(found.repo_id, write=True, **of)
        private = api.repo_info(found.repo_id, **of).private
    except Exception as error:
        fix = "give another --out; a repository that is not there is made by `hf repos create`"
        refuse("cannot be written", file=where, found=_reason(error), fix=fix)
    if not private:
        fix = "make it private, or give `denoise export --push-to-hub --public`, which hides them"
        refuse("the repository is public, and tables name annotators", file=where, fix=fix)


def remove(directory: Place) -> None:
    """Remove a directory with all that it holds, where it is there."""
    if isinstance(directory, Path):
        shutil.rmtree(directory, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        directory.fs.rm(directory.path, recursive=True)
