"""Kill −9 at random moments of every command: what is there afterwards is whole or not there.

`DENOISE_KILLS` says how many kills in all (20 unless set; the long mode has 200 or more).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from faulty import COMMANDS, denoise

from denoise import tables

KILLS = int(os.environ.get("DENOISE_KILLS", "20"))
EACH = -(-KILLS // len(COMMANDS))


def contents(path):
    """The tables in a file or directory by name, and other files' bytes."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found = {}
    for file in files:
        name = str(file.relative_to(path))
        if file.suffix == ".parquet":
            found[name] = tables.frame_hash(pl.read_parquet(file, glob=False))
        else:
            found[name] = file.read_bytes()
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_nothing_half_written_and_ends_when_repeated(name, workplace):
    command = COMMANDS[name]
    whole = workplace("whole")
    for _ in range(2):  # the first may compile what the second finds in a cache
        began = time.perf_counter()
        assert denoise(*command.words, cwd=whole).returncode == 0
        seconds = time.perf_counter() - began
    expected = contents(whole / command.out)
    chosen = random.Random(name)
    here = workplace("killed")
    killed = 0
    for number in range(EACH):
        words = [sys.executable, "-m", "denoise", *command.words]
        run = subprocess.Popen(
            words, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Python starts in the first third, which is no moment of ours; the end is where it writes.
        time.sleep(seconds * chosen.uniform(0.3, 1.0) if number % 2 else seconds * 0.97)
        run.send_signal(signal.SIGKILL)
        killed += run.wait() == -signal.SIGKILL
        made = here / command.out
        if made.exists():  # the kill came too late, or just after the rename
            assert contents(made) == expected
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    done = denoise(*command.words, cwd=here)
    assert done.returncode == 0, done.stderr
    assert contents(here / command.out) == expected
    leftovers = [p.name for p in here.iterdir() if p.name.startswith(".") or ".parts" in p.name]
    assert leftovers == []
    assert killed, "no kill came while the command ran"
    print(f"{name}: {killed} of {EACH} kills hit")
