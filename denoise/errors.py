"""Every error that denoise raises on purpose.

    DenoiseError
    ├── InputError   what was given is wrong or does not fit together   exit status 2
    └── RunError     what was given is right, the work failed           exit status 1

An `InputError` carries one `Fault` a thing that is wrong, so that all of them are read at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import NoReturn

from denoise.plain import plain, quote, without_credentials

MAX_SHOWN = 10


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: what, where, what was found there, and how to mend it.

    `row` counts from 0, as `vote_id` does; `line` counts from 1, as an editor does.
    """

    problem: str
    file: str | PathLike[str] | None = None
    row: int | None = None
    line: int | None = None
    column: str | None = None
    found: object = None
    fix: str = ""

    def __str__(self) -> str:
        where = []
        if self.row is not None:
            where.append(f"row {self.row}")
        if self.line is not None:
            where.append(f"line {self.line}")
        if self.column is not None:
            where.append(f"column {quote(self.column)}")
        text = plain(without_credentials(str(self.file))) + ": " if self.file is not None else ""
        text += ", ".join(where) + ": " if where else ""
        text += self.problem
        if self.found is not None:
            text += f", found {quote(self.found)}"
        return plain(text + (f"; {self.fix}" if self.fix else ""))


class DenoiseError(Exception):
    """Any error that denoise raises on purpose; `exit_status` is what the command ends with."""

    exit_status = 1


class RunError(DenoiseError):
    """The input was right and the work failed."""


class InputError(DenoiseError):
    """What was given is wrong, or does not fit together; `faults` says each thing once."""

    exit_status = 2

    def __init__(self, *faults: Fault | str) -> None:
        self.faults = tuple(Fault(f) if isinstance(f, str) else f for f in faults)
        super().__init__(*self.faults)

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults[:MAX_SHOWN]]
        if len(self.faults) > MAX_SHOWN:
            lines.append(f"and {len(self.faults) - MAX_SHOWN} more of the kind")
        return "\n".join(lines)


def refuse(problem: str, **where: object) -> NoReturn:
    """Raise an `InputError` with one `Fault`; the keywords are the fault's fields."""
    raise InputError(Fault(problem, **where))  # type: ignore[arg-type]


def raise_any(faults: Iterable[Fault]) -> None:
    """Raise one `InputError` with all the faults, or return where there are none."""
    found = list(faults)
    if found:
        raise InputError(*found)


@contextmanager
def naming_files(**files: str | PathLike[str] | None) -> Iterator[None]:
    """Give faults the files they lie in: a stage knows a table only by its role, as in `scores`."""
    try:
        yield
    except InputError as error:
        named = (
            replace(fault, file=files.get(str(fault.file)) or fault.file) for fault in error.faults
        )
        raise InputError(*named) from None
