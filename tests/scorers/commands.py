"""Commands in a process of their own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


def interruptible(command: Sequence[object], cwd: Path) -> subprocess.Popen:
    """A silent command that takes an interrupt as one typed at a terminal does.

    What runs in the background of a shell ignores the signal, and so do its children.
    """
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
