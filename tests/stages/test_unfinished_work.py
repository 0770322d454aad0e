"""Work that is kept beside an output: whose it is, and when it goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from small_pairs import make

from denoise import tables
from denoise.errors import InputError
from denoise.parts import Parts, remove
from denoise.scorers.settings import ScoreSettings
from denoise.stages.score import Plan, plan, run, score_to_file
from denoise.stages.train import train
from denoise.stages.training_rows import labelled_rows
from denoise.tables import Provenance


def planned(policy: Path, **settings: object) -> Plan:
    return plan(make(4), str(policy), None, ScoreSettings(**settings), lambda _: None)


def trained(policy: Path, out: Path) -> None:
    rows, _ = labelled_rows(make(4, seed=5))
    train(rows, model=str(policy), out=out, max_steps=1, batch_size=2)


COMMANDS = {
    "score": lambda policy, out: score_to_file(planned(policy), out),
    "train": trained,
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("manifest", [None, "{", Provenance("import").to_json()])
def test_a_directory_beside_the_output_that_is_none_of_its_work_is_left(
    name, manifest, policy_dir, tmp_path
):
    work = tmp_path / "out.parts"
    work.mkdir()
    (work / "mine.txt").write_text("years of work")
    if manifest:
        (work / tables.MANIFEST).write_text(manifest)
    before = {file.name: file.read_text() for file in work.iterdir()}
    with pytest.raises(InputError, match="is not unfinished work of denoise"):
        COMMANDS[name](policy_dir, tmp_path / "out")
    assert {file.name: file.read_text() for file in work.iterdir()} == before


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_before_its_manifest_is_written_a_command_goes_on(name, policy_dir, tmp_path):
    work = tmp_path / "out.parts"
    work.mkdir()
    (work / f".{tables.MANIFEST}.tmp").write_text("{")
    COMMANDS[name](policy_dir, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def spared(directory: Path) -> Callable[..., None]:
    """`shutil.rmtree` that leaves this directory alone."""
    rmtree = shutil.rmtree
    return lambda path, **options: None if path == directory else rmtree(path, **options)


def test_the_manifest_of_unfinished_work_goes_last(tmp_path, monkeypatch):
    """Killed in between, what is left is still known as denoise's own."""
    parts = Parts(tmp_path / "x.parts", Provenance("score"))
    parts.add("policy", pl.DataFrame({"row": [1]}))
    (parts.directory / "deep").mkdir()
    (parts.directory / "deep" / "log").write_text("said")
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", spared(parts.directory))
        remove(parts.directory)
    assert [path.name for path in parts.directory.iterdir()] == [tables.MANIFEST]
    remove(parts.directory)
    assert not parts.directory.exists()


def test_a_finished_file_leaves_the_unfinished_work_of_other_settings(policy_dir, tmp_path):
    """Else a command that does nothing would cost the hours of the other one."""
    path, work = tmp_path / "scores.parquet", tmp_path / "scores.parquet.parts"
    finished, other = (planned(policy_dir, max_length=length) for length in (512, 256))
    score_to_file(finished, path)
    run(other, work)
    kept = sorted(file.name for file in work.iterdir())
    assert score_to_file(finished, path) is None
    assert sorted(file.name for file in work.iterdir()) == kept
    score_to_file(other, path)
    assert not work.exists()
