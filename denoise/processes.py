"""The processes of one training, as `accelerate launch` and torchrun tell of them."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this is the only process, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """How many processes share a step."""
    return int(os.environ.get("WORLD_SIZE", "1"))
