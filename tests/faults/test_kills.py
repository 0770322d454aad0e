"""Kill −9 at random moments of every command: what is there afterwards is whole or not there.

`DENOISE_KILLS` says how many kills at least (20 unless set; the long mode has 200 or more); those
that come after a command has ended do not count. `run` is in the long mode only, as
`tests/rounds/test_killed.py` has ten kills of it.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from faulty import EVERY, KILLS, LONG, SLOW, denoise

from denoise import tables

KILLED = [name for name in EVERY if LONG or name != "run"]
EACH = -(-KILLS // len(KILLED))


def kills_of(name):
    """Those that take long to start get fewer where all are to be done soon."""
    return EACH if LONG or name not in SLOW else EACH - 1


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


def killed_within(words, here, seconds):
    """Whether the command, and what it had started, was killed after so long."""
    run = subprocess.Popen(
        [sys.executable, "-m", "denoise", *words],
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    return run.wait() == -signal.SIGKILL


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_command_leaves_nothing_half_written_and_ends_when_repeated(name, workplace):
    command = EVERY[name]
    whole = workplace("whole")
    for _ in range(1 if name in SLOW else 2):  # the first may compile what a cache then has
        began = time.perf_counter()
        assert denoise(*command.words, cwd=whole).returncode == 0
        seconds = time.perf_counter() - began
    expected = contents(whole / command.out)
    chosen = random.Random(name)
    here = workplace("killed")
    made = here / command.out
    wanted = kills_of(name)
    killed = tries = 0
    hit = True
    while killed < wanted and tries < 4 * wanted:
        # Python starts in the first third, which is no moment of ours; the end is where it writes.
        share = 0.97 if hit and tries % 2 == 0 else chosen.uniform(0.3, 1.0)
        hit = killed_within(command.words, here, share * seconds)
        tries, killed = tries + 1, killed + hit
        seconds *= 1.0 if hit else 0.9  # whatever else the machine does, it does less of it now
        if not made.exists():
            continue
        found = contents(made)
        if name == "run" and hit:  # it keeps what is finished, and continues
            kept = [n for n in found if n.endswith((".parquet", ".safetensors")) and n in expected]
            assert [found[n] for n in kept] == [expected[n] for n in kept]
        else:  # the kill came too late, or just after the rename
            assert found == expected
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    done = denoise(*command.words, cwd=here)
    assert done.returncode == 0, done.stderr
    assert contents(made) == expected
    leftovers = [p.name for p in here.iterdir() if p.name.startswith(".") or ".parts" in p.name]
    assert leftovers == []
    print(f"{name}: {killed} kills, {tries - killed} came too late")
    assert killed == wanted, "most kills came after the command had ended"
