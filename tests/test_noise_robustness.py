"""The downstream benchmark's world and sums; its trainings are run by hand (BENCHMARKS.md)."""

from __future__ import annotations

import json
import sys

import noise_robustness as benchmark
import numpy as np
import polars as pl
import pytest
import small_language as language
from noise_tables import won_back


def worth(prompt: str, response: str) -> float:
    """The sum that decides which response is better, from the spelled words."""
    number = {language.spelling(i): i for i in range(language.N_WORDS)}
    topic = {number[word] // language.WORDS for word in prompt.split()}
    assert len(topic) == 1
    words = np.array([number[word] for word in response.split()])
    on_topic = (words // language.WORDS == topic.pop()).sum()
    return language.QUALITY[words].sum() + language.ON_TOPIC * on_topic


def test_the_better_response_is_better_by_the_gap_at_least():
    pairs = language.draw_pairs(50, seed=1)
    for prompt, better, worse in pairs.iter_rows():
        assert worth(prompt, better) - worth(prompt, worse) >= language.GAP
    assert language.draw_pairs(50, seed=1).equals(pairs)
    assert len({language.spelling(i) for i in range(language.N_WORDS)}) == language.N_WORDS


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 0.4])
def test_that_share_of_the_labels_is_wrong(noise):
    n = 20_000
    labels = language.draw_annotators(n, noise, seed=0)
    assert 1 - labels.right.mean() == pytest.approx(noise, abs=4 * 0.5 / np.sqrt(n))
    assert 1 - labels.reliability.mean() == pytest.approx(noise)
    assert np.bincount(labels.annotator).tolist() == [n // 20] * 20
    pairs = language.draw_pairs(20, seed=2)
    few = language.draw_annotators(20, noise, seed=0)
    rows = language.labelled(pairs, few)
    assert (rows["chosen"] == pairs["better"]).to_list() == few.right.tolist()


def test_the_share_that_is_won_back_is_a_ratio_of_sums():
    """Plain 0.6 and 0.7, truth 0.9 and 0.8, a method 0.75 and 0.8: (1.55 − 1.3) / (1.7 − 1.3)."""
    table = pl.DataFrame(
        {
            "method": ["plain", "plain", "true labels", "true labels", "rounds", "rounds"],
            "seed": [0, 1, 0, 1, 0, 1],
            "accuracy": [0.6, 0.7, 0.9, 0.8, 0.75, 0.8],
        }
    )
    assert won_back(table, "rounds") == pytest.approx(0.25 / 0.4)


def test_finished_cases_are_not_done_again_and_the_last_call_writes_the_table(
    monkeypatch, tmp_path, capsys
):
    words = ["x", "--out", str(tmp_path), "--seeds", "2", "--losses", "dpo", "--noises", "0", "0.3"]
    monkeypatch.setattr(sys, "argv", words)
    given = benchmark._given()
    cases = list(benchmark.planned(given))
    assert len(cases) == 2 * (4 + 9)
    lines = [
        {**case._asdict(), "accuracy": 0.6 + 0.05 * i % 0.3, "seconds": 1.0}
        for i, case in enumerate(cases)
    ]
    for line in lines:
        if line["method"] in ("online", "in-sample", "cold rounds", "rounds"):
            line["reliability_error"] = 0.05
    results = tmp_path / "noise_robustness.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(benchmark, "save_base_model", lambda directory: directory)
    benchmark.main()
    text = (tmp_path / "noise_robustness.md").read_text()
    assert "The rounds win back" in text
    assert "plain labels in the rounds' trainings end at" in text
    assert "nan" not in text
    assert (tmp_path / "noise_robustness.svg").read_text().startswith("<svg")
    assert len(results.read_text().splitlines()) == len(cases)
