"""The report: its figures by hand, its text from data inert, and the page in a browser."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from denoise import em
from denoise.rounds.holdout import compare
from denoise.rounds.report import agreement_curve, reliability_lines, write_report
from denoise.rounds.run import RunResult
from denoise.simulate import simulate
from denoise.stages.em import EMResult, write_em

HOSTILE = "<script>alert('annotator')</script>"
ROUND = {
    "round": 0,
    "temperature": None,
    "objective": -1.0,
    "mean_reliability": None,
    "expected_wrong_share": 0.1,
    "doubted": 0,
    "labels": 1200,
    "moved": None,
}


@pytest.fixture(scope="module")
def inferred() -> EMResult:
    return em(simulate(1200, 12, 1, seed=3).dataset(), margin_column="margin")


def report(result: EMResult, out: Path, **more: object) -> str:
    """The page of a run of two rounds that found the same."""
    for number in (0, 1):
        write_em(result, out / f"round-{number}" / "em")
    second = ROUND | {"round": 1, "temperature": 1.2, "mean_reliability": 0.9, "moved": 0.05}
    found = RunResult(out / "policy", result, (ROUND, second), converged=False, **more)
    write_report(out, found, folds=3)
    return (out / "report.html").read_text(encoding="utf-8")


def test_the_calibration_curve_of_votes_from_the_model_lies_on_the_diagonal(inferred):
    curve = agreement_curve(inferred)
    assert len(curve) == 10
    expected = np.array([point.expected for point in curve])
    assert (np.diff(expected) > 0).all()
    far = [abs(p.observed - p.expected) / max(p.error, 1e-3) for p in curve]
    assert np.mean(np.array(far) < 2) >= 0.8


def test_a_point_of_the_curve_by_hand():
    """Two votes of an annotator with η = 0.8 where the policy says 0.9 for one side.

    Expected: 0.9·0.8 + 0.1·0.2 = 0.74 for each; one of the two sides with the policy.
    """
    confidences = pl.DataFrame({"annotator_id": ["k", "k"], "prob": [0.9, 0.1]})
    annotators = pl.DataFrame({"annotator_id": ["k"], "reliability": [0.8]})
    base = em(simulate(50, 5, 1).dataset(), margin_column="margin")
    (point,) = agreement_curve(
        replace(base, confidences=confidences, annotators=annotators), points=1
    )
    assert point.expected == pytest.approx(0.74)
    assert point.observed == 0.5
    assert point.error == pytest.approx((0.25 / 2) ** 0.5)


def test_few_annotators_have_a_line_each_and_many_their_quantiles(inferred):
    names = [line.name for line in reliability_lines([inferred, inferred])]
    assert names == ["highest", "90 % below", "median", "10 % below", "lowest"]
    few = replace(inferred, annotators=inferred.annotators.head(3))
    lines = reliability_lines([few, few])
    assert [line.name for line in lines] == sorted(few.annotators["annotator_id"])
    assert lines[0].y == [few.annotators["reliability"][0]] * 2


class Text(HTMLParser):
    """What a page says, and its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said, self.elements = "", set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload"}

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_answers_whether_it_helped_and_runs_nothing(inferred, tmp_path):
    hostile = inferred.annotators.with_columns(
        annotator_id=pl.col("annotator_id") + HOSTILE, reliability=pl.lit(0.7)
    )
    right, wrong = np.ones(80), -np.ones(20)
    held_out = compare(
        np.concatenate([right, wrong]), np.concatenate([right, np.ones(15), wrong[:5]])
    )
    page = Text(report(replace(inferred, annotators=hostile), tmp_path, held_out=held_out))
    assert "script" not in page.elements
    assert "is right on 80.0 %" in " ".join(page.said.split())
    assert "on 95.0 %: +15.0 points" in " ".join(page.said.split())
    assert "It helped." in page.said
    assert HOSTILE in page.said  # as text
    unsure = compare(np.ones(10), np.ones(10))
    page = Text(report(inferred, tmp_path / "unsure", held_out=unsure))
    assert "do not tell whether it helped" in page.said


def test_without_trusted_labels_it_says_how_to_ask(inferred, tmp_path):
    page = Text(report(inferred, tmp_path))
    assert "10.0 % of the labels are expected to be wrong" in " ".join(page.said.split())
    assert "--holdout" in page.said
    assert "more --rounds go on from here" in page.said


def test_the_page_in_a_browser(inferred, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    report(inferred, tmp_path)
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,2400"]
    words += [f"--screenshot={tmp_path / 'page.png'}", "--dump-dom"]
    address = (tmp_path / "report.html").as_uri()
    done = subprocess.run([*words, address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("<svg") == 3
    from PIL import Image

    with Image.open(tmp_path / "page.png") as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 50  # lines, bars and letters, not an empty page
