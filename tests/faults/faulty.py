"""The commands under test, and what each writes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from run_cases import COMMAND

KILLS = int(os.environ.get("DENOISE_KILLS", "20"))
LONG = KILLS >= 200


class Command(NamedTuple):
    """Words of a command; `out` is what it writes, within the folder it runs in."""

    words: tuple[str, ...]
    out: str


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COMMANDS = {
    "import": Command(("import", "votes.jsonl", "--out", "out"), "out"),
    "em": Command(("em", "data", "--margin", "margin", "--out", "out"), "out"),
    "em by row group": Command(("em", "data", "--stream", "--out", "out"), "out"),
    "export": Command(("export", "data", "em", "--format", "trl", "--out", "out"), "out"),
    "audit": Command(("audit", "data", "--out", "out.html", "--parquet", "out"), "out"),
    "score": Command(
        ("score", "data", "--policy", "policy", "--batch-tokens", "64", "--out", "out.parquet"),
        "out.parquet",
    ),
}
SLOW = {
    "train": Command(
        words("train few.jsonl --model policy --batch-size 8 --save-steps 1 --out out"), "out"
    ),
    "run": Command(
        (
            *words("run few.jsonl --model policy --folds 2 --rounds 2 --tolerance 0 --out out"),
            *("--train-command", COMMAND),
        ),
        "out",
    ),
}
EVERY = COMMANDS | SLOW
"""All commands that write but `demo`, which runs others."""


def denoise(*words: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "denoise", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)
