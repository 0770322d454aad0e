"""A scorer in processes of its own: an engine that dies takes nothing with it, and one that ends
gives all its memory back.

The parent sends blocks of (row, pair) and receives blocks of (row, values); each copy of the model
has a few blocks ahead, so that it never waits.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from denoise.errors import DenoiseError, RunError
from denoise.scorers import BLINK, Scored
from denoise.tokenise import TokenPair

BLOCK = 64
"""Pairs in one message, at most."""

AHEAD = 8
"""Blocks that a copy of the model has been given and not finished: with two sequences a pair
four times what vLLM schedules at once."""

PATIENCE = 10.0
"""Seconds that the children have to end by themselves."""

_CHILD = (
    "import sys; fd, *sys.path = sys.argv[1:]; "
    "from denoise.scorers.process import main; main(int(fd))"
)
"""On the parent's path: Python would put the working directory first, and a file of the user's
there might be called `datasets.py`."""

Explain = Callable[[str, str], DenoiseError]
"""What an error and the end of the log mean to the user."""


class Failure(NamedTuple):
    """An error in the child that is not one of denoise's own."""

    text: str


class Child:
    """One process with one engine, `module:name` called with `arguments`."""

    def __init__(
        self, engine: str, arguments: dict[str, Any], environment: dict[str, str], log: Path
    ) -> None:
        self.log = log
        self.unfinished = 0
        self.connection, theirs = Pipe()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # an interrupt is the parent's to handle
            )
        theirs.close()
        self.connection.send((engine, arguments))

    def give(self, block: list[tuple[int, TokenPair]], explain: Explain) -> None:
        """Send rows with their pairs.

        Raises:
            DenoiseError: the child died.
        """
        try:
            self.connection.send(block)
        except OSError:
            raise self._death(explain) from None
        self.unfinished += len(block)

    def receive(self, explain: Explain) -> Any:
        """The next message.

        Raises:
            DenoiseError: the child failed, or died.
        """
        try:
            while not self.connection.poll(BLINK):
                pass
            message = self.connection.recv()
        except (EOFError, OSError):
            raise self._death(explain) from None
        if isinstance(message, DenoiseError):
            raise message
        if isinstance(message, Failure):
            raise explain(message.text, self.printed())
        return message

    def printed(self) -> str:
        """The end of what the child printed."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 16)))
            return file.read().decode("utf-8", "replace")

    def _death(self, explain: Explain) -> DenoiseError:
        status = self.process.wait()
        if status >= 0:
            return explain(f"its process ended with status {status}", self.printed())
        name = signal.Signals(-status).name
        hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
        return RunError(
            f"the engine was killed ({name}{hint}); what is finished is kept, and the same "
            "command continues"
        )

    def kill(self) -> None:
        """End the process, and those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def close(children: Sequence[Child]) -> None:
    """Hang up on all children, and kill those that do not end by themselves."""
    for child in children:
        child.connection.close()
    end = time.monotonic() + PATIENCE
    try:
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, end - time.monotonic()))
    finally:  # also where a second Ctrl-C cuts the patience short
        for child in children:
            child.kill()


def spread(
    children: Sequence[Child], pairs: Sequence[TokenPair], rows: Sequence[int], explain: Explain
) -> Iterator[Scored]:
    """Hand the rows of `pairs` to the children in this order, and yield what they finish.

    Raises:
        DenoiseError: a child failed or died.
    """
    size = max(1, min(BLOCK, math.ceil(len(rows) / len(children))))
    blocks = iter([rows[start : start + size] for start in range(0, len(rows), size)])

    def top_up(child: Child, most: int) -> None:
        while child.unfinished + size <= most and (block := next(blocks, None)):
            child.give([(row, pairs[row]) for row in block], explain)

    for ahead in range(1, AHEAD + 1):  # in turns: the first would take all of a small job
        for child in children:
            top_up(child, ahead * size)
    while busy := {child.connection: child for child in children if child.unfinished}:
        for connection in wait(list(busy), timeout=BLINK):
            child = busy[connection]
            finished = child.receive(explain)
            child.unfinished -= len(finished)
            top_up(child, AHEAD * size)
            yield Scored(
                np.array([row for row, _ in finished]), np.array([value for _, value in finished])
            )


def serve(connection: Connection) -> None:
    """The child: build the engine that is asked for, and let it work until the parent hangs up.

    An engine has `notes` for the user, `add(row, pair)`, `step()` that gives what it finished, and
    `waiting`, which is empty where there is nothing to do.
    """
    path, arguments = connection.recv()
    module, _, name = path.partition(":")
    engine = getattr(import_module(module), name)(**arguments)
    connection.send(engine.notes)
    while True:
        while connection.poll(0 if engine.waiting else None):
            for row, pair in connection.recv():
                engine.add(row, pair)
        if finished := engine.step():
            connection.send(finished)


def main(descriptor: int) -> None:
    """Serve the connection of this file descriptor, and report what goes wrong."""
    connection = Connection(descriptor)
    try:
        serve(connection)
    except EOFError:
        return  # the parent has what it wanted, or is no more
    except DenoiseError as error:
        connection.send(error)
    except Exception as error:
        traceback.print_exc()
        connection.send(Failure(f"{type(error).__name__}: {error}"))
