"""One process at a time writes to a place; a lock goes with the process that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from denoise.errors import refuse
from denoise.places import Place

_HELD: dict[Path, int] = {}
"""The locks of this process, and how often each is taken: one that has a place may write to it."""


@contextmanager
def locked(out: Place) -> Iterator[None]:
    """Keep other processes from writing to `out`; the lock is a file beside it.

    Stores have no locks: of a directory in one, `published.publish` says in the end whether another
    command wrote there too; of a file, the last is there.

    Raises:
        InputError: another process is writing there, or nothing can be written beside it.
    """
    if not isinstance(out, Path):
        yield
        return
    out = out.resolve()  # two links to one place are one
    path = out.with_name(f".{out.name}.lock")
    _HELD[path] = _HELD.get(path, 0) + 1
    try:
        descriptor = _taken(path, out) if _HELD[path] == 1 else None
        try:
            yield
        finally:
            if descriptor is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)
    finally:
        _HELD[path] -= 1
        if not _HELD[path]:
            del _HELD[path]


def _taken(path: Path, out: Path) -> int:
    """The lock file, open and locked."""
    import fcntl

    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            refuse("cannot be written", file=out, found=error.strerror, fix="give another --out")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            fix = "wait until it has ended, or give another --out"
            refuse("another denoise command is writing here", file=out, fix=fix)
        except FileNotFoundError:
            pass
        os.close(descriptor)  # its holder has just removed it: once more
