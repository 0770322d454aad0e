"""The demo, from the checkout and from the files of a built wheel, against what was planted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def from_wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo run from an unpacked wheel, far from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "installed")
    code = "import denoise, sys; print(denoise.__file__); from denoise.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--out", "demo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "installed")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(folder / "installed"))
    return folder / "demo", done.stdout


def test_the_demo_goes_through_the_commands(from_wheel):
    _, said = from_wheel
    for command in ("import", "score", "em", "export", "run"):
        assert f"$ denoise {command} " in said


def test_the_demos_rounds_find_the_wrong_labels_too(from_wheel, quickstart):
    """From a reference that knows nothing of the task, on the labels alone."""
    demo, said = from_wheel
    planted = pl.read_parquet(quickstart / "annotators_truth.parquet")
    found = pl.read_parquet(demo / "run" / "round-2" / "em" / "annotators.parquet")
    both = found.join(planted, on="annotator_id", suffix="_planted")
    error = ((both["reliability"] - both["reliability_planted"]) ** 2).mean() ** 0.5
    assert error < 0.1
    assert "on 500 held-out pairs: plain training" in said
    assert "500 trusted pairs" in (demo / "run" / "report.html").read_text()


def test_the_demo_recovers_what_was_planted(from_wheel, quickstart):
    """Four labels of five that are doubted are wrong, and η is within 0.1 on average."""
    demo, said = from_wheel
    planted = pl.read_parquet(quickstart / "annotators_truth.parquet")
    found = pl.read_parquet(demo / "em" / "annotators.parquet")
    both = found.join(planted, on="annotator_id", suffix="_planted")
    assert len(both) == 24
    error = ((both["reliability"] - both["reliability_planted"]) ** 2).mean() ** 0.5
    assert error < 0.1
    said_error = re.search(r"RMSE over annotators\): ([\d.]+) points", said)
    assert float(said_error[1]) == pytest.approx(100 * error, abs=0.06)
    precision = re.search(r"([\d.]+) % precision, ([\d.]+) % of the wrong labels found", said)
    assert float(precision[1]) > 80
    assert float(precision[2]) > 50


def test_the_shipped_set_is_small_enough_to_ship(quickstart):
    assert sum(p.stat().st_size for p in quickstart.rglob("*") if p.is_file()) <= 8_000_000


def test_the_library_example_of_the_readme_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.S)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "reliability" in done.stdout
