"""The `denoise` command: one file a command, each thin over its stage."""

from __future__ import annotations

import sys

from denoise.cli.app import app


def main() -> None:
    """Run the command; errors made on purpose are one message and an exit status."""
    sys.exit(app())
