"""Where files are: on this machine, or in a store behind a URL (s3://, gs://, hf://, memory://).

What a store holds is a `upath.UPath`, which has the methods of `pathlib.Path` without being one:
code that only asks a place for them serves both. A store has no rename of directories and no locks,
and a file in it appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, NoReturn, TypeAlias, Union

from denoise.errors import RunError, refuse
from denoise.plain import plain, without_credentials

if TYPE_CHECKING:
    from upath import UPath

Place: TypeAlias = Union[Path, "UPath"]

CLIENTS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": None, "memory": None}
"""The stores by the scheme of their URLs, and the extra that brings the client of each."""

_PATTERN = "*?["


def place(name: str | Place) -> Place:
    """The place of that name; a path of this machine unless it is the URL of a store.

    Raises:
        InputError: the URL is of no known store, or the store's client is not installed.
    """
    if not isinstance(name, str) or not (scheme := scheme_of(name)):
        return Path(name) if isinstance(name, str) else name
    shown = without_credentials(name)
    if scheme not in CLIENTS:
        fix = "download the file, or give the hub id; s3://, gs://, hf:// and memory:// are known"
        refuse("addresses are not read", file=shown, fix=fix)
    try:
        from upath import UPath

        # Others write too: what was there a moment ago is no answer.
        found = UPath(name, use_listings_cache=False)
        _ = found.fs
    except ImportError as error:
        fix = f"pip install 'denoise-prefs[{CLIENTS[scheme]}]'"
        refuse(f"the client of {scheme}:// is not installed", file=shown, found=error, fix=fix)
    except Exception as error:
        refuse("not an address of the store", file=shown, found=_reason(error), fix="check it")
    return found


def scheme_of(name: str) -> str:
    """`s3` of s3://bucket/key; nothing of a path."""
    scheme, found, _ = name.partition("://")
    return scheme.lower() if found and scheme.isalnum() else ""


def is_name(source: object) -> bool:
    """Whether this names something to read: text, a path, or a place in a store."""
    upath = sys.modules.get("upath")
    return isinstance(source, str | Path) or (upath and isinstance(source, upath.UPath)) or False


def is_remote(where: Place) -> bool:
    """Whether the place is in a store."""
    return not isinstance(where, Path)


def exists(where: Place) -> bool:
    """Whether there is a file or directory.

    Raises:
        InputError: it cannot be one here, or the store does not say.
    """
    try:
        return where.exists()
    except OSError as error:
        if not is_remote(where):
            name, why = without_credentials(str(where)), error.strerror
            refuse("not the name of a file", found=name, fix=f"check the path ({why})")
        _unreached(where, error)
    except Exception as error:
        _unreached(where, error)


def _unreached(where: Place, error: Exception) -> NoReturn:
    fix = "check the name, the network and your credentials"
    refuse("the store cannot be asked", file=where, found=_reason(error), fix=fix)


def _reason(error: BaseException) -> str:
    return plain(without_credentials(f"{type(error).__name__}: {error}"), 200)


def failed(error: BaseException, where: Place) -> None:
    """Raise a `RunError` where a store failed, and not the file that it holds."""
    if is_remote(where) and getattr(error, "errno", None) is not None:
        raise RunError(f"{plain(str(where))}: the store failed ({_reason(error)})") from error


_LIBRARIES = ("botocore", "aiobotocore", "s3fs", "gcsfs", "google", "huggingface_hub", "aiohttp")


def is_of_a_store(error: BaseException) -> bool:
    """Whether an error comes from the client of a store: no credentials, for instance."""
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def opened(where: Place) -> Path | IO[bytes]:
    """What Arrow reads: a path, or a file that fetches the ranges that are asked for, no more."""
    return where if isinstance(where, Path) else where.open("rb", cache_type="none")


def files_below(directory: Place) -> dict[str, Place]:
    """All files in a directory and its folders by their names from there on, in their order."""
    if isinstance(directory, Path):
        found = [file for file in directory.rglob("*") if file.is_file()]
        named = {file.relative_to(directory).parts: file for file in found}
    else:
        above = directory.path.rstrip("/") + "/"
        names = (n for n in directory.fs.find(directory.path) if n.startswith(above))
        named = {tuple(n.removeprefix(above).split("/")): _at(directory, n) for n in names}
    return {"/".join(name): named[name] for name in sorted(named)}


def _at(there: UPath, path: str) -> UPath:
    """A path in the store that holds another place."""
    return there.with_segments(f"{there.protocol}://{path}")


def is_pattern(where: Place) -> bool:
    """Whether the name is a pattern such as part-*.jsonl, and no file of that very name."""
    return any(c in where.name or c in str(where.parent) for c in _PATTERN) and not exists(where)


def matches(pattern: Place) -> list[Place]:
    """The files that a pattern names, in the order of their names.

    Raises:
        InputError: there is none.
    """
    if is_remote(pattern):
        found = (_at(pattern, name) for name in pattern.fs.glob(pattern.path))
    else:
        anchor = Path(pattern.anchor or ".")
        found = anchor.glob(str(PurePosixPath(pattern).relative_to(pattern.anchor)))
    files = sorted((each for each in found if each.is_file()), key=str)
    return files or refuse("no file has such a name", file=pattern, fix="check the pattern")


@contextlib.contextmanager
def local_copy(where: Place) -> Iterator[Path]:
    """The file or directory on this machine, for as long as it is needed."""
    if isinstance(where, Path):
        yield where
        return
    with tempfile.TemporaryDirectory(prefix="denoise-") as scratch:
        here = Path(scratch) / where.name
        fetch(where, here)
        yield here


def fetch(where: Place, here: Path) -> None:
    """Copy a file or directory from a store to this machine.

    Raises:
        RunError: the store failed.
    """
    try:
        files = {"": where} if where.is_file() else files_below(where)
        if not files:
            raise FileNotFoundError("there is no such file or directory")
        for name, file in files.items():
            target = here / name
            target.parent.mkdir(parents=True, exist_ok=True)
            where.fs.get_file(file.path, str(target))
    except Exception as error:
        raise RunError(f"{plain(str(where))}: cannot be read ({_reason(error)})") from error


def cache() -> Path:
    """Where denoise keeps what it can get again, for this user alone."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made = base / "denoise"
    made.mkdir(parents=True, exist_ok=True, mode=0o700)
    return made


def kept_copy(where: Place) -> Path:
    """The file or directory in the cache of this machine, fetched unless it is there as it is now.

    Raises:
        InputError: there is none, or the store cannot be asked.
        RunError: the store failed.
    """
    if not exists(where):
        refuse("there is no such file or directory", file=where, fix="check the address")
    files = {"": where} if where.is_file() else files_below(where)
    states = (f"{name}={file.fs.ukey(file.path)}" for name, file in sorted(files.items()))
    key = hashlib.sha256("\n".join([str(where), *states]).encode()).hexdigest()[:32]
    kept = cache() / "fetched" / key
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=kept.parent) as scratch:
            made = Path(scratch) / "whole"
            made.mkdir()
            fetch(where, made / where.name)
            with contextlib.suppress(OSError):  # another process was first
                made.rename(kept)
    return kept / where.name


def upload(file: Path, where: Place) -> None:
    """Put a file into a store, whole or not at all.

    Raises:
        RunError: the store failed.
    """
    try:
        where.fs.put_file(str(file), where.path)
        size = where.fs.info(where.path)["size"]
    except Exception as error:
        raise RunError(f"{plain(str(where))}: cannot be written ({_reason(error)})") from error
    if size != file.stat().st_size:
        raise RunError(f"{plain(str(where))}: the store kept {size:,} bytes of another length")


def check_writable(where: Place) -> None:
    """Refuse a place in a store that may not be written, by writing there.

    The hub, where each file is a commit, is asked; what is public there is refused.

    Raises:
        InputError: it may not, or the store cannot be reached.
    """
    if where.protocol == "hf":
        _check_hub(where)
        return
    probe = where.with_name(f".{where.name}.{uuid.uuid4().hex[:8]}.probe")
    try:
        probe.fs.pipe_file(probe.path, b"denoise")
    except Exception as error:
        refuse("cannot be written", file=where, found=_reason(error), fix="give another --out")
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


def remove(where: Place) -> None:
    """Remove a file or directory with all that it holds, where it is there."""
    import shutil

    if isinstance(where, Path):
        shutil.rmtree(where, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        where.fs.rm(where.path, recursive=True)
