"""What the commands print: sentences, and tables of values from data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from denoise import processes
from denoise.plain import plain


def say(text: str) -> None:
    """Print one line to standard output, control and bidirectional characters stripped."""
    print(plain(text), flush=True)


def let_the_first_process_speak() -> None:
    """Silence the others that `accelerate launch` or torchrun starts beside it."""
    if not processes.is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for as long as it runs


def command(*words: object) -> str:
    """A command line as one types it, the words quoted where they need it."""
    import shlex

    return " ".join(shlex.quote(str(word)) for word in words)


def next_step(*words: object) -> None:
    """Print the command to type next."""
    print(f"\nnext: {plain(command(*words))}", flush=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns whose name starts with `>` are set to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name.startswith(">")
        text_wraps = name.endswith("…")
        shown.add_column(
            name.strip(">…"),
            justify="right" if right else "left",
            no_wrap=not text_wraps,
            overflow="fold" if text_wraps else "ellipsis",
        )
    for row in rows:
        shown.add_row(*(Text(plain(str(value))) for value in row))
    console = Console()
    if not console.is_terminal:
        console.width = 110
    print()
    console.print(shown)


def block(heading: str, fields: Mapping[str, str]) -> None:
    """Print a heading and named texts under it, each on a line, the middle of a long one left out.

    The end of a prompt is what a response answers, so it is shown with the start.
    """
    import shutil

    print(f"\n  {plain(heading)}")
    width = min(shutil.get_terminal_size((110, 24)).columns, 160) - 16
    for name, text in fields.items():
        print(f"    {name:<10}{_ends(plain(text), max(width, 20))}", flush=True)


def _ends(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    tail = width // 3
    return f"{text[: width - tail - 3]} … {text[-tail:]}"


def percent(share: float | None) -> str:
    """A share as a percentage with a digit, or a dash."""
    return "–" if share is None else f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """The bounds of a share as whole percentages, or a dash."""
    return "–" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f} %"
