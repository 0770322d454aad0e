"""The commands as a user types them: output, exit status, and what lies on disk afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

COMMAND = [sys.executable, "-m", "denoise"]

ROWS = [
    {
        "prompt": f"Which is larger, number {i}?",
        "chosen": f" A horse, {i} times.",
        "rejected": " Go away.",
        "annotator": f"ann-{i % 3}",
        "topic": "sizes",
    }
    for i in range(12)
]


def denoise(*words, cwd: Path, status: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [*COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def write_jsonl(path: Path, rows=ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def worked(tmp_path_factory, policy_dir, reference_dir) -> tuple[Path, dict[str, str]]:
    """The four commands in a fresh folder, and what each printed."""
    folder = tmp_path_factory.mktemp("work")
    write_jsonl(folder / "mine.jsonl")
    said = {}
    for words in (
        ("import", "mine.jsonl", "--out", "data"),
        ("score", "data", "--policy", policy_dir, "--reference", reference_dir),
        ("em", "data", "--scores", "scores.parquet"),
        ("export", "data", "em"),
    ):
        said[words[0]] = denoise(*words, cwd=folder).stdout
    return folder, said


def test_each_command_says_what_it_wrote_and_the_next_command(worked):
    folder, said = worked
    for command, following in (("import", "score"), ("score", "em"), ("em", "export")):
        assert "wrote" in said[command]
        assert f"next: denoise {following}" in said[command]
    assert sorted(p.name for p in folder.iterdir()) == [
        *("data", "em", "mine.jsonl", "scores.parquet", "weighted")
    ]


def test_the_export_is_the_source_with_weights(worked):
    from datasets import load_dataset

    folder, _ = worked
    exported = load_dataset(str(folder / "weighted"), split="train")
    assert exported["prompt"] == [row["prompt"] for row in ROWS]
    assert set(exported["topic"]) == {"sizes"}
    assert all(0.5 <= weight <= 1 for weight in exported["weight"])


def test_em_prints_annotators_and_doubtful_labels(worked):
    _, said = worked
    assert "Least reliable of 3 annotators" in said["em"]
    assert "Most doubtful labels" in said["em"]
    assert "ann-0" in said["em"]


def test_a_raw_source_is_imported_on_the_way_with_the_same_result(worked, policy_dir):
    folder, _ = worked
    denoise("em", "mine.jsonl", "--scores", "scores.parquet", "--out", "em2", cwd=folder)
    one, two = (pl.read_parquet(folder / d / "confidences.parquet") for d in ("em", "em2"))
    assert one.equals(two)


def test_scoring_again_does_nothing_and_says_so(worked, policy_dir, reference_dir):
    folder, _ = worked
    before = (folder / "scores.parquet").stat().st_mtime_ns
    words = ("score", "data", "--policy", policy_dir, "--reference", reference_dir)
    assert "is there already" in denoise(*words, cwd=folder).stdout
    assert (folder / "scores.parquet").stat().st_mtime_ns == before


def test_scores_of_other_pairs_are_refused(worked, tmp_path):
    folder, _ = worked
    write_jsonl(tmp_path / "other.jsonl", ROWS[:5])
    done = denoise(
        "em", "other.jsonl", "--scores", folder / "scores.parquet", cwd=tmp_path, status=2
    )
    assert len(done.stderr.splitlines()) == 1
    assert "scores.parquet" in done.stderr


def test_a_dry_run_counts_pairs_and_tokens_and_writes_nothing(tmp_path, policy_dir):
    write_jsonl(tmp_path / "mine.jsonl")
    done = denoise("score", "mine.jsonl", "--policy", policy_dir, "--dry-run", cwd=tmp_path)
    assert "12 pairs" in done.stdout and "tokens/s here" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["mine.jsonl"]


def test_a_reward_model_from_source_to_export(tmp_path, reward_dir, policy_dir):
    write_jsonl(tmp_path / "mine.jsonl")
    words = ("score", "mine.jsonl", "--policy", reward_dir, "--backend", "reward")
    for shard in ("0/2", "1/2"):
        said = denoise(*words, "--shard", shard, cwd=tmp_path).stdout
    assert "one user turn" in said
    assert "next: denoise em mine.jsonl --scores scores.parquet --out em\n" in said
    assert "3 annotators" in denoise(*said.split("next: denoise ")[1].split(), cwd=tmp_path).stdout
    denoise("export", "mine.jsonl", "em", cwd=tmp_path)
    assert "tokens/s here" in denoise(*words, "--dry-run", cwd=tmp_path).stdout
    options = ("--loss", "dpo", "--beta", "0.1", "--out", "no")
    refused = denoise(
        "em", "mine.jsonl", "--scores", "scores.parquet", *options, cwd=tmp_path, status=2
    )
    assert (
        len(refused.stderr.splitlines()) == 2 and "loss means nothing to rewards" in refused.stderr
    )
    words = ("score", "mine.jsonl", "--policy", policy_dir, "--backend", "reward", "--out", "no")
    refused = denoise(*words, cwd=tmp_path, status=2)
    assert len(refused.stderr.splitlines()) == 1 and "is no reward model" in refused.stderr


def test_scores_tokenised_for_another_trainer_are_warned_of(worked):
    folder, _ = worked
    words = ("em", "data", "--scores", "scores.parquet", "--loss", "simpo", "--out", "em3")
    said = denoise(*words, cwd=folder).stdout
    assert "trl-cpo" in said


BROKEN = {
    "an empty table": ("", "mine.jsonl"),
    "a line that is no JSON": ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"pro', "line 2"),
    "a missing column": ('{"prompt": "a", "chosen": "b"}\n', "rejected"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_one_line_with_the_file_and_status_2(name, tmp_path):
    text, part = BROKEN[name]
    (tmp_path / "mine.jsonl").write_text(text)
    done = denoise("import", "mine.jsonl", "--out", "data", cwd=tmp_path, status=2)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("denoise: error: mine.jsonl")
    assert part in lines[0]
    assert [p.name for p in tmp_path.iterdir()] == ["mine.jsonl"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda f: f.with_columns(pl.lit(float("nan")).alias("policy_a_logps")), "not finite"),
        (lambda f: f.drop("b_tokens"), "b_tokens"),
        (lambda f: pl.concat([f, f.head(1)]), "repeated pair_id"),
        (lambda f: f.clear(), "no rows"),
        (lambda f: f.with_columns(pair_id=pl.lit("x-") + pl.col("pair_id")), "pair_id"),
    ],
    ids=["nan", "missing column", "duplicate ids", "empty", "unknown pairs"],
)
def test_wrong_scores_are_one_line_with_the_file_and_status_2(change, part, worked, tmp_path):
    folder, _ = worked
    change(pl.read_parquet(folder / "scores.parquet")).write_parquet(tmp_path / "own.parquet")
    done = denoise("em", folder / "data", "--scores", "own.parquet", cwd=tmp_path, status=2)
    assert len(done.stderr.splitlines()) == 1
    assert "own.parquet" in done.stderr and part in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["own.parquet"]


def test_several_votes_a_pair_are_exported_by_vote_in_paper_mode(tmp_path):
    rows = [{**ROWS[0], "annotator": name} for name in ("x", "y")] + ROWS[1:]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    said = denoise("em", "mine.jsonl", "--mode", "paper", cwd=tmp_path).stdout
    assert "next: denoise export mine.jsonl em --rows votes" in said
    refused = denoise("export", "mine.jsonl", "em", cwd=tmp_path, status=2)
    assert "--rows votes" in refused.stderr
    denoise("export", "mine.jsonl", "em", "--rows", "votes", cwd=tmp_path)


def test_own_weights_are_exported(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl")
    own = pl.DataFrame({"vote_id": range(12), "confidence": [0.25] * 12})
    own.write_parquet(tmp_path / "own.parquet")
    words = ("export", "mine.jsonl", "own.parquet", "--rows", "votes", "--format", "jsonl")
    denoise(*words, cwd=tmp_path)
    lines = (tmp_path / "weighted" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["weight"] for line in lines] == [0.25] * 12


def test_a_trainer_without_weights_is_exported_drawn_labels(tmp_path):
    write_jsonl(tmp_path / "mine.jsonl")
    own = pl.DataFrame({"vote_id": range(12), "confidence": [0.25] * 12})
    own.write_parquet(tmp_path / "own.parquet")
    words = ("export", "mine.jsonl", "own.parquet", "--rows", "votes", "--format", "axolotl")
    assert "rows drawn against their label (seed 0)" in denoise(*words, cwd=tmp_path).stdout
    refused = denoise(*words, "--strategy", "weight", "--out", "new", cwd=tmp_path, status=2)
    assert "axolotl reads no weights" in refused.stderr
    drawn = ("--strategy", "sample", "--for", "reward", "--out", "new")
    refused = denoise(*words, *drawn, cwd=tmp_path, status=2)
    assert "which undoes --strategy sample; give" in refused.stderr
    assert not (tmp_path / "new").exists()


def test_an_output_that_would_replace_what_is_read_is_refused(worked, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(worked[0], folder)
    (folder / "data" / "raw.jsonl").write_bytes((folder / "mine.jsonl").read_bytes())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for words, part in (
        (("import", "data", "--out", "./data"), "--out would take the place of SOURCE"),
        (("import", "data/raw.jsonl", "--out", "data"), "--out would take the place of SOURCE"),
        (("import", "data/*.jsonl", "--out", "data"), "--out would take the place of SOURCE"),
        (("em", "data", "--init", "em", "--out", "em"), "--out would take the place of --init"),
        (("export", "data", "em", "--out", "em"), "--out would take the place of EM_DIR"),
    ):
        done = denoise(*words, cwd=folder, status=2)
        assert part in done.stderr and len(done.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_unknown_options_are_status_2(tmp_path):
    assert "--no-such" in denoise("em", "x", "--no-such", cwd=tmp_path, status=2).stderr


def test_debug_shows_where_an_error_comes_from(tmp_path):
    done = subprocess.run(
        [*COMMAND, "em", "not-there.jsonl", "--debug"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "Traceback" in done.stderr


def test_text_from_data_is_shown_without_controls_and_markup(tmp_path):
    nasty = {"prompt": "a\x1b[31m[red]b[/]\u202ec", "annotator": "[bold]x[/bold]\x07"}
    write_jsonl(tmp_path / "mine.jsonl", [{**row, **nasty} for row in ROWS])
    said = denoise("em", "mine.jsonl", "--mode", "paper", cwd=tmp_path).stdout
    assert not {"\x1b", "\u202e", "\x07"} & set(said)
    assert "[bold]x[/bold]" in said


def test_a_named_format_is_imported_and_em_reads_what_it_made(tmp_path):
    rows = [
        f"{item},{a},{a},{b}" for item in range(9) for a, b in [("yn"[item % 2], "yyn"[item % 3])]
    ]
    (tmp_path / "wide.csv").write_text("\n".join(["key,ann,bob,cy", *rows]))
    words = ("import", "wide.csv", "--map", "item=key", "--out", "data")
    assert "of no known form" in denoise(*words, cwd=tmp_path, status=2).stderr
    done = denoise(*words, "--format", "wide", cwd=tmp_path)
    assert "9 rows -> 27 labels, 9 items, 3 annotators, 2 classes" in done.stdout + done.stderr
    denoise("em", "data", "--out", "em", cwd=tmp_path)
    annotators = pl.read_parquet(tmp_path / "em" / "annotators.parquet")
    assert sorted(annotators["annotator_id"]) == ["ann", "bob", "cy"]


def test_options_that_mean_nothing_are_refused_together(worked, tmp_path):
    folder, _ = worked
    rows = [f"item-{i},worker-{k},{'ab'[i % 2]}" for i in range(9) for k in range(3)]
    (tmp_path / "labels.csv").write_text("\n".join(["item,annotator,label", *rows]))
    words = ("--loss", "dpo", "--no-pool", "--margin", "m", "--out", "refused")
    said = denoise("em", "labels.csv", *words, cwd=tmp_path, status=2).stderr
    for name in ("--loss", "--no-pool", "--margin"):
        assert f"{name} means nothing to labels" in said
    for way in ([], ["--stream"]):
        said = denoise("em", "data", "--model", "majority", *way, cwd=folder, status=2).stderr
        assert "--model means nothing to votes on pairs" in said
    words = ("--stream", "--aspect", "helpfulness", "--out", tmp_path / "refused")
    said = denoise("em", "data", *words, cwd=folder, status=2).stderr
    assert "--aspect is for `denoise import`, and --stream reads what that wrote" in said
    assert not (tmp_path / "refused").exists()
