"""`denoise train` as a user types it."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from small_pairs import make

from denoise import tables
from denoise.cli import main

QUICK = ("--learning-rate", "1e-3", "--train-arg", "logging_steps=1")


class Said(NamedTuple):
    stdout: str
    stderr: str


def denoise(*words: object, cwd: Path, status: int = 0) -> Said:
    """The command in this process, which has paid for its imports."""
    out, err = io.StringIO(), io.StringIO()
    silent = redirect_stdout(out), redirect_stderr(err)
    with chdir(cwd), silent[0], silent[1], pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    said = Said(out.getvalue(), err.getvalue())
    assert ended.value.code == status, said
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory, policy_dir, reference_dir) -> Path:
    """Data whose A and B are its own, scored, with weights, and exported a row a vote."""
    folder = tmp_path_factory.mktemp("work")
    draw = random.Random(1)
    names = ("prompt", "response_a", "response_b")
    rows = [
        {**row, "winner": draw.choice("ab"), "annotator": draw.choice(["x", "y"])}
        for row in make(24, seed=5).pairs.select(names).iter_rows(named=True)
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    denoise("import", "mine.jsonl", "--out", "data", cwd=folder)
    score = ("score", "data", "--policy", policy_dir, "--reference", reference_dir)
    denoise(*score, "--truncate", "keep-start", cwd=folder)
    denoise("em", "data", "--scores", "scores.parquet", "--mode", "paper", cwd=folder)
    for form in ("hf", "trl", "jsonl"):
        words = ("--rows", "votes", "--format", form, "--out", form)
        denoise("export", "data", "em", *words, cwd=folder)
    return folder


def log_of(directory: Path) -> pl.DataFrame:
    return pl.read_parquet(directory / "log.parquet")


def test_an_export_is_trained_on_with_its_weights_and_the_next_command_is_printed(
    folder, policy_dir, reference_dir
):
    models = ("--model", policy_dir, "--reference", reference_dir)
    losses = []
    for form in ("hf", "trl", "jsonl"):
        done = denoise("train", form, *models, *QUICK, "--out", f"by-{form}", cwd=folder)
        assert f"wrote by-{form}: trained on 24 rows" in done.stdout
        assert f"next: denoise score NEW_DATA --policy by-{form}" in done.stdout
        losses.append(log_of(folder / f"by-{form}")["loss"].to_list())
        assert not (folder / f"by-{form}.parts").exists()
    assert losses[0] == losses[1] == losses[2]
    weight = pl.read_parquet(folder / "hf" / "data" / "*.parquet")["weight"]
    assert 0 < weight.mean() < 1
    assert log_of(folder / "by-hf")["weight"].mean() == pytest.approx(weight.mean(), rel=1e-5)
    again = denoise("train", "hf", *models, *QUICK, "--out", "by-hf", cwd=folder)
    assert "by-hf is there already, from the same rows and settings" in again.stdout


def test_on_a_pipe_it_prints_nothing_but_its_own_words(folder, policy_dir):
    words = ("train", "hf", "--model", policy_dir, "--lora-r", "2", "--out", "quiet")
    done = subprocess.run(
        [sys.executable, "-m", "denoise", *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert "{" not in done.stdout and "%|" not in done.stdout
    assert "wrote quiet: trained on 24 rows" in done.stdout


def test_labels_as_imported_count_as_right_and_a_note_says_so(folder, policy_dir):
    done = denoise("train", "data", "--model", policy_dir, "--out", "plain", cwd=folder)
    assert "no column 'weight': each label counts as right" in done.stdout
    assert log_of(folder / "plain")["weight"].to_list() == [1.0] * 3


def test_scores_serve_as_reference_for_an_export_by_the_texts(folder, policy_dir, reference_dir):
    """The export's chosen and rejected have no A and B, so by pair_id half would be swapped."""
    words = ("--model", policy_dir, "--reference", reference_dir, *QUICK)
    denoise("train", "trl", *words, "--out", "computed", cwd=folder)
    scored = ("--scores", "scores.parquet")
    for source, pairs in (("trl", ("--pairs", "data")), ("hf", ("--pairs", "mine.jsonl"))):
        denoise("train", source, *words, *scored, *pairs, "--out", f"s-{source}", cwd=folder)
        assert log_of(folder / f"s-{source}")["loss"][0] == pytest.approx(
            log_of(folder / "computed")["loss"][0], rel=1e-5
        )
    refused = denoise("train", "hf", *words, *scored, "--out", "no", cwd=folder, status=2)
    assert (
        "denoise: error: scores.parquet: made for other pairs than these; give --pairs, the data "
        "that were scored\n"
    ) in refused.stderr
    model = ("--model", policy_dir, *scored, "--pairs", "data", "--out", "no")
    refused = denoise("train", "hf", *model, cwd=folder, status=2)
    assert "made with another reference than" in refused.stderr
    refused = denoise("train", "hf", *model, "--loss", "cpo", cwd=folder, status=2)
    assert "the loss cpo has no reference" in refused.stderr
    assert not (folder / "no").exists()


def test_the_online_method_shows_the_annotators(folder, policy_dir):
    words = ("train", "data", "--model", policy_dir, "--online", "--loss", "simpo", *QUICK)
    done = denoise(*words, "--out", "online", cwd=folder)
    assert "Least reliable of 2 " in done.stdout
    trace = pl.read_parquet(folder / "online" / "reliability_trace.parquet")
    assert trace["step"].unique().sort().to_list() == [1, 2, 3]
    last = trace.filter(pl.col("step") == 3).drop("step")
    assert last.equals(pl.read_parquet(folder / "online" / "reliability.parquet"))


FAULTS = {
    ("--loss", "dop"): "loss is out of range",
    ("--beta", "0"): "beta is out of range",
    ("--online", "--rdpo", "0.2"): "exclude each other",
    ("--rdpo", "0.5"): "flip_rate is out of range",
    ("--scheduler", "zigzag"): "it is one of linear",
    ("--lora-dropout", "0.1"): "lora_dropout means nothing without lora_r",
    ("--train-arg", "nonsense"): "--train-arg is not KEY=VALUE",
    ("--train-arg", "nonsense=1"): "unexpected keyword argument 'nonsense'",
    ("--train-arg", "cpo_alpha=0.5"): "denoise sets this argument itself",
    ("--train-arg", "beta=1"): "give beta",
    ("--pairs", "data"): "--pairs means nothing without --scores",
    ("--scores", "not-there.parquet"): "not-there.parquet",
    ("--model", "./not-there"): "there is no such model",
    ("--loss", "cpo", "--reference", "x"): "a reference means nothing to the loss cpo",
}


@pytest.mark.parametrize("words", FAULTS, ids=" ".join)
def test_a_fault_is_a_line_with_status_2_and_nothing_is_written(words, folder, policy_dir):
    given = ("train", "data", "--model", policy_dir, "--out", "no", *words)
    done = denoise(*given, cwd=folder, status=2)
    faults = [line for line in done.stderr.splitlines() if line.startswith("denoise: ")]
    assert len(faults) == 1 and FAULTS[words] in faults[0]
    assert not (folder / "no").exists()


def test_a_directory_of_something_else_is_not_replaced(folder, policy_dir):
    done = denoise("train", "data", "--model", policy_dir, "--out", "em", cwd=folder, status=2)
    assert "was made by `denoise em`, and `denoise train` would replace it" in done.stderr


def test_a_model_that_the_policy_would_replace_is_refused(folder, policy_dir):
    """Repeated, the command would train what it made further and further."""
    model = shutil.copytree(policy_dir, folder / "again")
    tables.write_text(tables.Provenance("train").to_json(), model / tables.MANIFEST)
    for option in ("--model", "--reference"):
        words = ("--model", policy_dir, option, "./again", "--out", "again")
        done = denoise("train", "data", *words, cwd=folder, status=2)
        assert f"--out would take the place of {option}" in done.stderr
