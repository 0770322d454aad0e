"""`denoise run` as a user types it: a configuration file, and what is typed beside it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from run_cases import COMMAND, labelled, rows_of

from denoise.cli.app import app
from denoise.errors import InputError


def parsed(*words: object) -> dict[str, object]:
    """The command's options as it gets them."""
    command = typer.main.get_command(app).commands["run"]
    return command.make_context("run", [str(word) for word in words]).params


def config(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_sets_the_options_and_what_is_typed_wins(tmp_path):
    file = config(
        tmp_path,
        "data: labels.jsonl\nmodel: some/model\nlearning_rate: 1e-6\nfolds: 5\nwarm_start: false\n"
        "train_arg:\n  report_to: none\n  optim: adafactor\nholdout:\n",
    )
    found = parsed(file, "--folds", 4)
    assert found["source"] == "labels.jsonl"
    assert found["model"] == "some/model"
    assert found["learning_rate"] == 1e-6  # which YAML reads as text
    assert found["folds"] == 4
    assert found["warm_start"] is False
    assert found["rounds"] == 3
    assert list(found["train_arg"]) == ["report_to=none", "optim=adafactor"]
    assert found["holdout"] is None


def test_every_unknown_key_is_named_with_what_was_meant(tmp_path):
    file = config(tmp_path, "data: x.jsonl\nlearning-rate: 1\nround: 3\n")
    with pytest.raises(InputError) as error:
        parsed(file)
    assert "found 'learning-rate'; learning_rate is meant?" in str(error.value)
    assert "found 'round'; rounds is meant?" in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: some/model\n", "names no data"),
        ("- a\n- b\n", "is no mapping"),
        ("data: [1\nmodel: x", r"line \d: is not YAML"),
        ("allow_commands: true\ndata: x\n", "no such option"),
    ],
)
def test_a_broken_file_is_refused(text, said, tmp_path):
    with pytest.raises(InputError, match=said):
        parsed(config(tmp_path, text))
    with pytest.raises(InputError, match="cannot be read"):
        parsed(tmp_path / "missing.yaml")


def typed(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "denoise", "run", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def labels(tmp_path) -> Path:
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(labelled(12))))
    return file


def test_a_files_command_needs_a_word_by_hand(labels, policy_dir, tmp_path):
    file = config(
        tmp_path,
        f"data: {labels}\nmodel: {policy_dir}\nout: run\nrounds: 1\nholdout: {labels}\n"
        f"train_command: {json.dumps(COMMAND)}\n",
    )
    refused = typed(file, cwd=tmp_path)
    assert refused.returncode == 2
    assert "sets train_command" in refused.stderr
    assert "--allow-commands" in refused.stderr
    assert not (tmp_path / "run").exists()
    every_prompt = typed(file, "--allow-commands", cwd=tmp_path)
    assert every_prompt.returncode == 2
    assert "every prompt of the data is in the held-out data" in every_prompt.stderr
    (tmp_path / "gold.jsonl").write_text("".join(labels.read_text().splitlines(True)[:3]))
    done = typed(file, "--allow-commands", "--holdout", "gold.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "round 1, " in said
    assert "on 3 held-out pairs: plain training" in said
    assert "next: denoise score NEW_DATA --policy run/policy" in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert "3 trusted pairs" in page


def test_one_fold_is_warned_of(labels, policy_dir, tmp_path):
    done = typed(
        labels,
        "--model",
        policy_dir,
        "--folds",
        1,
        "--rounds",
        1,
        "--train-command",
        COMMAND,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "a model confirms its own memory" in done.stdout
    assert "One fold:" in (tmp_path / "run" / "report.html").read_text()


def test_the_rounds_are_watched_on_a_terminal(labels, policy_dir, tmp_path):
    words = ["denoise", "run", labels, "--model", policy_dir, "--rounds", 1, "--folds", 2]
    command = [sys.executable, "-m", *map(str, words), "--train-command", COMMAND]
    shown = on_a_terminal(command, tmp_path)
    assert "round 1 of 1: training without fold 1 of 2" in shown
    assert "round 1 of 1: scoring fold 2 of 2" in shown
    last = shown[shown.rindex("mean reliability") :]
    assert [line.split()[0] for line in last.splitlines()[2:4]] == ["0", "1"]
    assert "wrote run: policy" in last


def on_a_terminal(command: list[str], folder: Path) -> str:
    """What a terminal of 100 columns is sent, without its colours and cursor movements."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as done:
        os.close(theirs)
        sent = b""
        with suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 1 << 16):
                sent += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent.decode()).replace("\r\n", "\n")
    assert done.returncode == 0, text
    return text


def test_the_rounds_are_not_started_as_several_processes(labels, policy_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = typed(labels, "--model", policy_dir, cwd=tmp_path)
    assert done.returncode == 2
    assert "accelerate launch -m denoise train" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_model_is_asked_for(labels, tmp_path):
    done = typed(labels, cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no model to start from; give --model" in done.stderr
