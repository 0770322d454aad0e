"""Progress of long work on the terminal: done, rate and time left; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Update = Callable[[int, int], None]


@cache
def console() -> Console:
    """Standard error: one console for all that is live on it, so that views nest."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def waiting(label: str, shown: bool) -> Iterator[None]:
    """A moving sign while something of unknown length goes on, a model's loading for instance."""
    if not shown or not sys.stderr.isatty():
        yield
        return
    from rich.markup import escape

    with console().status(escape(label)):
        yield


def _bar() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console(),
    )


@contextmanager
def scoring_progress(label: str, pairs: int, tokens: int, shown: bool) -> Iterator[Update]:
    """A progress bar over tokens; the function it gives takes the pairs and tokens just done."""
    if not shown or not sys.stderr.isatty():
        yield lambda _pairs, _tokens: None
        return
    done = [0, 0]
    with _bar() as progress:
        task = progress.add_task(label, total=tokens, rate="")

        def update(new_pairs: int, new_tokens: int) -> None:
            done[0] += new_pairs
            done[1] += new_tokens
            elapsed = max(progress.tasks[task].elapsed or 0.0, 1e-9)
            rate = f"{done[0]:,}/{pairs:,} pairs, {done[0] / elapsed:,.1f} pairs/s, "
            rate += f"{done[1] / elapsed:,.0f} tokens/s"
            progress.update(task, completed=done[1], rate=rate)

        yield update


def row_progress(
    label: str, rows: int, shown: bool
) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar over rows; the function it gives takes the rows just done."""
    return _counted(label, rows, "rows", shown)


def training_progress(
    label: str, steps: int, shown: bool
) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar over the steps of a training."""
    return _counted(label, steps, "steps", shown)


@contextmanager
def _counted(label: str, total: int, unit: str, shown: bool) -> Iterator[Callable[[int], None]]:
    if not shown or not sys.stderr.isatty():
        yield lambda _rows: None
        return
    with _bar() as progress:
        task = progress.add_task(label, total=total, rate="")

        def update(done: int) -> None:
            progress.advance(task, done)
            rate = progress.tasks[task].completed / max(progress.tasks[task].elapsed or 0.0, 1e-9)
            progress.update(task, rate=f"{rate:,.1f} {unit}/s")

        yield update
