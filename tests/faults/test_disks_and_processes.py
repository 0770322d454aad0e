"""A disk that is full, a place that may not be written, and two commands with one output."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from faulty import COMMANDS, EVERY, LONG, denoise

from denoise.errors import InputError
from denoise.locks import locked

WORKING = EVERY if LONG else COMMANDS
"""Commands that are run to their end."""


@pytest.mark.parametrize("name", WORKING)
def test_a_full_disk_is_said_in_a_line_and_nothing_is_left(name, workplace):
    """No file may grow beyond 2 kB, which is how a process can be given a full disk."""
    command, here = EVERY[name], workplace("full")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    done = denoise(*command.words, cwd=here, preexec_fn=limited)
    assert done.returncode in (1, 2), done.stdout
    assert "Traceback" not in done.stderr
    assert "too large" in done.stderr or "cannot be written" in done.stderr, done.stderr
    assert name == "run" or not (here / command.out).exists(), "only run keeps what is finished"
    assert denoise(*command.words, cwd=here).returncode == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_place_that_may_not_be_written_is_refused_before_any_work(name, workplace):
    command, here = EVERY[name], workplace("read-only")
    words = [f"/proc/denoise/{w}" if w == command.out else w for w in command.words]
    done = denoise(*words, cwd=here)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def as_nobody(words, here):
    """The command as a user who may read everything and write where the permissions say so.

    The interpreter may lie in a place that is root's alone, hence the capability.
    """
    command = [sys.executable, "-m", "denoise", *words]
    if os.getuid() == 0:
        only = "dac_read_search"
        command = [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *(f"--bounding-set=-all,+{only}", f"--inh-caps=+{only}", f"--ambient-caps=+{only}"),
            *command,
        ]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)


needs_another_user = pytest.mark.skipif(
    os.getuid() == 0 and shutil.which("setpriv") is None,
    reason="root may write everywhere, and there is no setpriv to be somebody else with",
)


@pytest.fixture
def public(folder):
    """A folder with the inputs that every user can reach; those of pytest are their owner's."""
    with tempfile.TemporaryDirectory() as name:
        here = Path(name) / "here"
        shutil.copytree(folder, here)
        Path(name).chmod(0o755)
        yield here
        here.chmod(0o755)


@needs_another_user
@pytest.mark.parametrize("name", EVERY)
def test_a_read_only_directory_is_refused_before_any_work(name, public):
    command, here = EVERY[name], public
    here.chmod(0o555)
    done = as_nobody(command.words, here)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr and "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(here.glob("*out*")) and not list(here.glob(".*"))


@needs_another_user
@pytest.mark.parametrize("name", [*COMMANDS, "train"] if LONG else ["em"])
def test_nothing_but_the_output_needs_to_be_writable(name, public):
    """Not the installation, for compiled code, nor a home, for the libraries' caches.

    Without `run`, whose trainer is a program that such a user may not see, as the interpreter is.
    """
    command, here = EVERY[name], public
    here.chmod(0o777)
    done = as_nobody(command.words, here)
    assert done.returncode == 0, done.stderr
    assert (here / command.out).exists()


@pytest.mark.parametrize("name", WORKING)
def test_the_second_of_two_commands_with_one_output_is_refused(name, workplace):
    command, here = EVERY[name], workplace("twice")
    program = (
        "import sys, time; from pathlib import Path; from denoise.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)\n"
    )
    words = [sys.executable, "-c", program, str(here / command.out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "mine\n"
        done = denoise(*command.words, cwd=here)
        first.kill()
    assert done.returncode == 2
    assert "another denoise command is writing here" in done.stderr
    assert not (here / command.out).exists()
    assert denoise(*command.words, cwd=here).returncode == 0, "the lock went with its process"


def test_a_lock_is_gone_with_what_it_was_taken_for(tmp_path):
    out = tmp_path / "out"
    with locked(out), locked(out):
        assert (tmp_path / ".out.lock").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "other name").symlink_to(out)
    with locked(tmp_path / "other name"):
        assert (tmp_path / ".out.lock").exists()
    (tmp_path / ".link.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "link"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_clock_that_goes_backwards_changes_nothing(workplace, monkeypatch):
    """Rates and kept work go by a clock that cannot."""
    from denoise import tables
    from denoise.dataset import read_dataset
    from denoise.stages import score as stage

    here = workplace("clock")
    back = iter(range(10**6, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(back)))
    settings = stage.ScoreSettings(batch_tokens=64)
    given = (read_dataset(here / "data"), str(here / "policy"), None, settings, lambda _: None)
    out = here / "out.parquet"
    stage.score_to_file(stage.plan(*given), out, progress=True)
    assert len(tables.read_frame(out)) == 200
