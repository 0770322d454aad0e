"""A checkpoint that vLLM can read, of an adapter or a `.gguf` file: written, used and removed.

An adapter is merged and never scored through vLLM's `LoRARequest`: with prompt log-probs that
crashes on the CPU, and elsewhere it has silently scored the base model (vllm-project/vllm#16668,
#29955, #51594).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from denoise.errors import RunError
from denoise.scorers.models import ModelSource, call_plain

Load = Callable[[ModelSource, str, str, bool], Any]

PREFIX = "denoise-checkpoint-"
_LOCK = ".lock"
_UNLOCKED_SECONDS = 60.0
"""How long a directory may be there without a lock: its owner has just made it."""


@contextmanager
def readable_checkpoint(
    source: ModelSource, load: Load, dtype: str, trust_remote_code: bool = False
) -> Iterator[Path]:
    """A directory with the model's weights as safetensors: its own, or a temporary one (0700).

    `load` is `models.load_model` or `models.load_reward_model`.

    A temporary one is removed at the end, also after a failure, and one that a kill left at the
    next start: its owner holds a lock for as long as it lives.

    Raises:
        InputError: the weights cannot be loaded, or the adapter cannot be merged.
        RunError: there is no room for them.
    """
    remove_orphans()
    if source.base is None and source.gguf is None:
        yield source.directory
        return
    import fcntl

    from safetensors import SafetensorError

    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (directory / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            model = load(source, dtype, "cpu", trust_remote_code)
            call_plain(model, source)
            try:
                model.save_pretrained(directory)
            except (OSError, SafetensorError) as error:  # the latter where the disk is full
                raise RunError(
                    f"the merged model could not be written to {directory}: {error}; TMPDIR names "
                    "the directory for it"
                ) from error
            del model
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def remove_orphans() -> None:
    """Remove checkpoints of this user whose owner is no more."""
    import fcntl

    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            status = directory.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            lock_file = directory / _LOCK
            if not lock_file.exists() and time.time() - status.st_mtime < _UNLOCKED_SECONDS:
                continue
            with lock_file.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            continue  # its owner lives, or has just removed it
