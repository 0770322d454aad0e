"""Rounds whose policies another program trains: how it fails, and what it is given."""

from __future__ import annotations

import json

import pytest
from run_cases import COMMAND, QUICK, labelled

from denoise.errors import InputError, RunError
from denoise.rounds import run


def test_a_failing_trainer_says_where_its_log_is(policy_dir, tmp_path, capsys):
    command = "python -c 'import sys; print(\"no GPU here\"); sys.exit(3)' {data} {out}"
    with pytest.raises(RunError, match=r"status 3; all it said is in .*policy-0.log"):
        run(
            labelled(),
            model=str(policy_dir),
            out=tmp_path / "run",
            **{**QUICK, "train_command": command},
        )
    assert "no GPU here" in capsys.readouterr().err


def test_a_killed_trainer_is_named(policy_dir, tmp_path):
    command = "python -c 'import os; os.kill(os.getpid(), 9)' {data} {out}"
    with pytest.raises(RunError, match="ended: killed by SIGKILL"):
        run(
            labelled(),
            model=str(policy_dir),
            out=tmp_path / "run",
            **{**QUICK, "train_command": command},
        )


@pytest.mark.parametrize("written", ["", "generation_config.json"])
def test_a_trainer_that_writes_no_model_is_noticed(written, policy_dir, tmp_path):
    code = f'import sys; name = "{written}"; name and open(sys.argv[2] + "/" + name, "w")'
    command = f"python -c '{code}' {{data}} {{out}}"
    with pytest.raises(RunError, match="left no model"):
        run(
            labelled(),
            model=str(policy_dir),
            out=tmp_path / "run",
            **{**QUICK, "train_command": command},
        )


def test_a_secret_in_the_command_reaches_the_program_and_nothing_that_is_kept(policy_dir, tmp_path):
    """The rounds go on with another one."""
    out = tmp_path / "run"
    code = "import os; print(os.environ['HUB_TOKEN'])"
    for secret in ("my-secret", "my-secret-of-today"):
        command = f'env HUB_TOKEN={secret} python -c "{code}" {{data}} {{out}} --api-key {secret}'
        options = {**QUICK, "train_command": command}
        with pytest.raises(RunError, match="left no model") as failed:
            run(labelled(), model=str(policy_dir), out=out, **options)
        assert "env HUB_TOKEN=*** python" in str(failed.value)
        logs = [file.read_text() for file in out.rglob("*.log")]
        assert logs == [f"{secret}\n"]  # what the program says is its own
        kept = [file for file in out.rglob("*") if file.is_file() and file.suffix != ".log"]
        for told in (str(failed.value).encode(), *(file.read_bytes() for file in kept)):
            assert b"my-secret" not in told
    command = "HUB_TOKEN=my-secret python {data} {out}"
    with pytest.raises(InputError, match=r"no such program, found 'HUB_TOKEN=\*\*\*'"):
        run(labelled(), model=str(policy_dir), out=tmp_path / "r", train_command=command)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("nosuchprogram {data} {out}", "there is no such program"),
        ("python {data}", "has no {out}"),
        ("python {data} {out} {weights}", "unknown place"),
        ("python '{data} {out}", "not whole"),
        ("python {data} {out} {", "stray brace"),
        ("", "has no {data}"),
    ],
)
def test_a_command_is_checked_before_any_work(command, said, policy_dir, tmp_path):
    with pytest.raises(InputError, match=said.replace("{", r"\{")):
        run(labelled(), model=str(policy_dir), out=tmp_path / "r", train_command=command)


def test_a_command_is_no_shell(policy_dir, tmp_path):
    touched = tmp_path / "touched"
    command = f"{COMMAND} ; touch {touched}"
    with pytest.raises(RunError):
        run(labelled(), model=str(policy_dir), out=tmp_path / "r", train_command=command)
    assert not touched.exists()


def test_a_trainer_without_weights_is_given_drawn_labels(policy_dir, tmp_path):
    """The program keeps what it is given; its policies are the model itself."""
    code = (
        "import pathlib, shutil, sys; data, model, out, seen = sys.argv[1:]; "
        "shutil.copytree(model, out, dirs_exist_ok=True); "
        "open(seen, 'a').write(pathlib.Path(data).read_text())"
    )
    seen = tmp_path / "seen.jsonl"
    command = f'python -c "{code}" {{data}} {{model}} {{out}} {seen}'
    options = {"folds": 3, "rounds": 1, "train_command": command, "train_format": "openrlhf"}
    run(labelled(), model=str(policy_dir), out=tmp_path / "run", **options)
    rows = [json.loads(line) for line in seen.read_text().splitlines()]
    assert {"prompt", "chosen", "rejected", "weight"} == set(rows[0])
    assert any(row["weight"] < 0.5 for row in rows)  # drawn against the likelier side
