"""`denoise audit` as a user types it: what it prints, writes, refuses, and exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from audit_cases import labels

COMMAND = [sys.executable, "-m", "denoise", "audit"]


def denoise(*words: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [*COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    frame, truth = labels()
    frame.write_csv(folder / "labels.csv")
    truth.head(50).write_csv(folder / "truth.csv")
    truth.gather_every(10).write_csv(folder / "some.csv")
    frame.head(900).write_csv(folder / "may.csv")
    frame.tail(600).write_csv(folder / "june.csv")
    return folder


def test_one_command_writes_the_page_and_says_the_headline(folder):
    done = denoise("labels.csv", cwd=folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    for sentence in done.stdout.splitlines():
        if sentence.startswith(("1,500 votes by 12 annotators", "With one vote")):
            assert sentence.split(".")[0] in page
    assert "Krippendorff's alpha" in done.stdout
    assert "wrote report.html: open it in a browser" in done.stdout
    assert done.stdout.endswith("next: denoise audit labels.csv --clean clean.parquet\n")
    assert done.stderr == ""
    first = (folder / "report.html").read_bytes()
    denoise("labels.csv", cwd=folder)
    assert (folder / "report.html").read_bytes() == first


def test_every_output_at_once(folder):
    words = ("--truth", "truth.csv", "--slice", "topic", "--json", "audit.json", "--csv", "csv")
    words += ("--parquet", "tables", "--clean", "clean.parquet", "--out", "whole.html")
    done = denoise("labels.csv", *words, cwd=folder)
    assert "On 50 items with known answers" in done.stdout
    said = json.loads((folder / "audit.json").read_text())
    assert said["summary"]["n_votes"] == 1500 and len(said["annotators"]) == 12
    annotators = pl.read_csv(folder / "csv" / "annotators.csv")
    assert annotators["n_votes"].sum() == 1500 and annotators["n_known"].sum() > 0
    for name in ("annotators", "findings", "items", "votes", "slices", "annotator_slices", "plan"):
        table = pl.read_parquet(folder / "tables" / f"{name}.parquet")
        assert len(table) == len(pl.read_csv(folder / "csv" / f"{name}.csv"))
    clean = pl.read_parquet(folder / "clean.parquet")
    assert len(clean) == 300 and clean["confidence"].is_between(1 / 3, 1).all()
    denoise("labels.csv", *words, cwd=folder)  # its own outputs are replaced


@pytest.mark.parametrize(
    ("gate", "status"), [("reliability=0.5", 0), ("reliability=0.99,alpha=0.99", 3)]
)
def test_the_gate_is_an_exit_status_and_the_page_is_there(folder, gate, status):
    out = folder / f"gate{status}.html"
    done = denoise("labels.csv", "--fail-under", gate, "--out", out, cwd=folder, status=status)
    assert done.stdout.count("failed: ") == (2 if status else 0)
    assert out.exists()


def test_two_batches(folder):
    words = ("--compare", "may.csv", "june.csv", "--out", "compared.html", "--json", "both.json")
    words += ("--truth", "some.csv")  # items of either batch
    done = denoise(*words, cwd=folder)
    assert "Of 12 annotators in both" in done.stdout
    assert "Krippendorff's alpha" in done.stdout
    both = json.loads((folder / "both.json").read_text())
    assert both["a"]["n_votes"] == 900 and both["b"]["n_votes"] == 600
    denoise(*words, cwd=folder)  # its own outputs are replaced


def test_no_name_is_left_with_anonymize(folder):
    words = ("--anonymize", "--out", "hidden.html", "--csv", "hidden", "--json", "hidden.json")
    done = denoise("labels.csv", *words, "--slice", "topic", cwd=folder)
    written = [done.stdout, (folder / "hidden.html").read_text()]
    written += [path.read_text() for path in (folder / "hidden").iterdir()]
    written.append((folder / "hidden.json").read_text())
    for text in written:
        assert not any(f"w{k:02d}" in text for k in range(12))
    assert "annotator-" in done.stdout


def test_what_is_wrong_is_said_all_at_once(folder):
    done = denoise(cwd=folder, status=2)
    assert "give either SOURCE or --compare A B" in done.stderr
    words = ("labels.csv", "--compare", "may.csv", "june.csv", "--clean", "x", "--fail-under", "a")
    done = denoise(*words, cwd=folder, status=2)
    assert done.stderr.count("denoise: error: ") == 3
    done = denoise("labels.csv", "--slice", "language", cwd=folder, status=2)
    assert "column 'language'" in done.stderr and "'topic'" in done.stderr
    done = denoise("labels.csv", "--fail-under", "alpha=high", cwd=folder, status=2)
    assert "not NAME=NUMBER" in done.stderr
    done = denoise("labels.csv", "--margin", "m", "--loss", "dpo", cwd=folder, status=2)
    assert done.stderr.count("means nothing to labels") == 2
    (folder / "mine.html").write_text("my own page")
    done = denoise("labels.csv", "--out", "mine.html", cwd=folder, status=2)
    assert "was not written by `denoise audit`" in done.stderr
    assert (folder / "mine.html").read_text() == "my own page"
    assert "is a directory" in denoise("labels.csv", "--out", ".", cwd=folder, status=2).stderr


def test_outputs_that_would_replace_each_other_or_what_is_read_are_refused(folder, tmp_path):
    for name in ("labels.csv", "truth.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    pl.read_csv(folder / "labels.csv").write_parquet(tmp_path / "labels.parquet")
    (tmp_path / "link.csv").symlink_to("labels.csv")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    place = "would take the place of"
    onto = ("--json", "labels.csv", "--clean", "./link.csv", "--csv", "./truth.csv")
    for words, *said in (
        (("labels.csv", "--csv", "d", "--parquet", "./d"), f"--parquet {place} --csv"),
        (
            ("labels.csv", *onto, "--truth", "truth.csv"),
            f"--clean {place} SOURCE",
            f"--json {place} SOURCE",
            f"--json {place} --clean",
            f"--csv {place} --truth",
        ),
        (("labels.parquet", "--clean", "labels.parquet"), f"--clean {place} SOURCE"),
        (("labels.csv", "--out", "d/x.html", "--csv", "d"), f"--csv {place} --out"),
        (
            ("--compare", "labels.csv", "link.csv", "--json", "labels.csv"),
            f"--json {place} A",
            f"--json {place} B",
        ),
    ):
        done = denoise(*words, cwd=tmp_path, status=2)
        for part in said:
            assert part in done.stderr
        assert len(done.stderr.splitlines()) == len(said)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("option", ["--json", "--clean"])
def test_a_file_that_no_audit_made_is_not_replaced(option, folder, tmp_path):
    (tmp_path / "mine").write_text('{"annotators": []}')
    done = denoise(folder / "labels.csv", option, "mine", cwd=tmp_path, status=2)
    assert "`denoise audit`" in done.stderr and len(done.stderr.splitlines()) == 1
    assert (tmp_path / "mine").read_text() == '{"annotators": []}'
    assert "is a directory" in denoise("x", option, tmp_path, cwd=tmp_path, status=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_pairs_with_annotators_and_a_margin(folder):
    rows = []
    for i in range(200):
        texts = [f"A good answer to question {i % 40}, and a long one.", f"No. {i % 40}"]
        chosen, rejected = texts if i % 3 else reversed(texts)
        rows.append(
            {
                "prompt": f"Question {i % 40}?",
                "chosen": chosen,
                "rejected": rejected,
                "annotator": f"ann-{i % 7}",
                "margin": 0.5 if i % 3 else -0.5,
            }
        )
    pl.DataFrame(rows).write_ndjson(folder / "pairs.jsonl")
    done = denoise("pairs.jsonl", "--margin", "margin", "--out", "pairs.html", cwd=folder)
    assert "40 pairs" in done.stdout
    page = (folder / "pairs.html").read_text()
    assert "Question 1?" in page
    assert "which response was shown first" in page  # the source puts the chosen one first


def test_what_the_readme_shows_is_what_it_prints(tmp_path):
    root = Path(__file__).resolve().parents[2]
    readme = (root / "README.md").read_text(encoding="utf-8")
    shown = readme.split("$ denoise audit data/quickstart/preferences.jsonl\n")[1].split("```")[0]
    words = ("data/quickstart/preferences.jsonl", "--out", tmp_path / "report.html")
    said = [line.strip() for line in denoise(*words, cwd=root).stdout.splitlines()]
    for line in shown.replace("…", "").splitlines():
        assert line.strip() in said
