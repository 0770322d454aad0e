"""The rounds: what a policy sees, what scores it, what is skipped and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from run_cases import QUICK, labelled
from safetensors.numpy import load_file
from small_pairs import as_messages

from denoise import em, tables
from denoise.dataset import Dataset
from denoise.errors import InputError
from denoise.rounds import run
from denoise.rounds.mean import average_weights
from denoise.rounds.rows import outside_fold, weighted_rows
from denoise.rounds.run import RunResult
from denoise.stages.em import read_em
from denoise.stages.score import score


class Steps:
    """Remembers the steps."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.rounds: list[dict] = []

    def step(self, number: int, what: str) -> None:
        self.taken.append(f"{number}: {what}")

    def finished(self, summary: dict) -> None:
        self.rounds.append(summary)


@pytest.fixture(scope="module")
def finished(policy_dir, tmp_path_factory) -> tuple[Dataset, Path, RunResult]:
    data, out = labelled(), tmp_path_factory.mktemp("finished") / "run"
    return data, out, run(data, model=str(policy_dir), out=out, keep_policies=True, **QUICK)


def scores_of(out: Path, number: int) -> pl.DataFrame:
    return pl.read_parquet(out / f"round-{number}" / "scores.parquet")


def test_every_pair_is_scored_by_the_policy_that_never_saw_its_prompt(finished, policy_dir):
    data, out, _ = finished
    folds = pl.read_parquet(out / "folds.parquet")
    scores = scores_of(out, 1)
    assert scores["pair_id"].to_list() == data.pairs["pair_id"].to_list()
    assert scores.join(folds, on="pair_id")["fold"].equals(scores["fold"])
    for fold in range(3):
        own = scores.filter(pl.col("fold") == fold)
        policy = out / "round-1" / f"policy-{fold}"
        found = score(data, policy=str(policy), reference=str(policy_dir)).scores
        expected = found.filter(pl.col("pair_id").is_in(own["pair_id"].implode()))
        for name in ("policy_a_logps", "policy_b_logps", "ref_a_logps", "ref_b_logps"):
            np.testing.assert_allclose(own[name], expected[name], rtol=1e-5)


def test_a_policy_is_trained_on_the_other_folds_only(finished):
    data, out, _ = finished
    folds = pl.read_parquet(out / "folds.parquet")
    rows = weighted_rows(data, read_em(out / "round-0" / "em"))
    for fold in range(3):
        seen = outside_fold(rows, folds, fold).frame
        own = folds.filter(pl.col("fold") == fold)["pair_id"].to_list()
        assert len(seen) + len(own) == len(data.pairs)
        assert not set(seen["pair_id"]) & set(own)
        log = (out / "round-1" / f"policy-{fold}.log").read_text()
        assert log.strip() == f"trained on {len(seen)} rows"


def test_no_label_reaches_its_own_score(finished, policy_dir, tmp_path):
    """Before round 1 all weights are η₀: a turned label changes the scores of other folds only."""
    data, out, _ = finished
    before = scores_of(out, 1)
    turned = before["pair_id"][0]
    votes = data.votes.with_columns(
        vote=pl.when(pl.col("pair_id") == turned)
        .then(pl.col("vote").replace({"a": "b", "b": "a"}))
        .otherwise("vote")
    )
    run(replace(data, votes=votes), model=str(policy_dir), out=tmp_path / "run", **QUICK)
    after = scores_of(tmp_path / "run", 1)
    same = before["policy_a_logps"] == after["policy_a_logps"]
    in_its_fold = before["fold"] == before["fold"][0]
    assert same.filter(in_its_fold).all()
    assert not same.filter(~in_its_fold).any()


def test_each_round_infers_from_its_own_scores(finished):
    data, out, result = finished
    for number in (1, 2):
        expected = em(data, scores_of(out, number), loss="dpo").confidences
        found = read_em(out / f"round-{number}" / "em").confidences
        assert found["confidence"].equals(expected["confidence"])
    first = read_em(out / "round-0" / "em").confidences["confidence"]
    assert (first - 0.9).abs().max() < 1e-12
    last = result.em.confidences["confidence"]
    assert result.rounds[-1]["moved"] == pytest.approx(
        (last - read_em(out / "round-1" / "em").confidences["confidence"]).abs().mean()
    )
    assert [row["round"] for row in result.rounds] == [0, 1, 2]


def test_what_a_run_leaves(finished):
    _, out, result = finished
    assert result.policy == out / "policy"
    assert (out / "policy" / "model.safetensors").is_file()
    assert pl.read_parquet(out / "weighted" / "data" / "*.parquet")["weight"].is_between(0, 1).all()
    summary = json.loads((out / "summary.json").read_text())
    assert [row["round"] for row in summary["rounds"]] == [0, 1, 2]
    assert not list(out.rglob("*.parts"))
    assert tables.read_manifest(out).made_by == "run"


def test_work_left_by_a_kill_after_the_scores_were_written_is_removed(finished, policy_dir):
    data, out, _ = finished
    left = out / "round-2" / "scores-1.parquet.parts"
    left.mkdir()
    (left / "part.parquet").write_bytes(b"")
    run(data, model=str(policy_dir), out=out, keep_policies=True, **QUICK)
    assert not left.exists()


def test_a_repeated_run_trains_and_scores_nothing(finished, policy_dir):
    data, out, result = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    again = run(data, model=str(policy_dir), out=out, keep_policies=True, **QUICK)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before
    assert again.em.confidences.equals(result.em.confidences)


def test_more_rounds_go_on_from_those_that_are_there(policy_dir, tmp_path):
    data, out = labelled(), tmp_path / "run"
    run(data, model=str(policy_dir), out=out, **{**QUICK, "rounds": 1})
    first = (out / "round-1" / "scores.parquet").stat().st_mtime_ns
    scores = {p: p.stat().st_mtime_ns for p in (out / "round-1").glob("scores-*.parquet")}
    steps = Steps()
    run(data, model=str(policy_dir), out=out, watcher=steps, **QUICK)
    assert {p: p.stat().st_mtime_ns for p in (out / "round-1").glob("scores-*.parquet")} == scores
    assert first
    assert not any(step.startswith("1: training") for step in steps.taken)
    assert sum(step.startswith("2: training") for step in steps.taken) == 3
    assert [row["round"] for row in steps.rounds] == [0, 1, 2]


def test_an_earlier_end_is_refused_where_its_policies_are_gone(policy_dir, tmp_path):
    data, out = labelled(), tmp_path / "run"
    run(data, model=str(policy_dir), out=out, **QUICK)
    left = ("policy/model.safetensors", "summary.json", "report.html")
    before = [(out / name).read_bytes() for name in left]
    for earlier in ({"rounds": 1}, {"tolerance": 0.9}):
        with pytest.raises(InputError, match=r"round 1, .* are gone; give --rounds .* as before"):
            run(data, model=str(policy_dir), out=out, **{**QUICK, **earlier})
    run(data, model=str(policy_dir), out=out, **QUICK)
    assert [(out / name).read_bytes() for name in left] == before


@pytest.mark.parametrize(
    "given",
    [
        {"keep_policies": True},
        {"warm_start": False},
        {"train_command": None, "lora_r": 2, "max_steps": 1},
    ],
)
def test_an_earlier_end_that_needs_none_of_them_is_that_of_fewer_rounds(
    given, policy_dir, tmp_path
):
    made = []
    for name, all_rounds in (("new", (1,)), ("earlier", (2, 1))):
        for rounds in all_rounds:
            options = {**QUICK, **given, "folds": 1, "rounds": rounds}
            done = run(labelled(), model=str(policy_dir), out=tmp_path / name, **options)
        made.append({file.name: file.read_bytes() for file in done.policy.glob("*.safetensors")})
    assert made[0]
    assert made[0] == made[1]


@pytest.mark.parametrize("warm", [False, True])
def test_policies_that_no_later_round_starts_from_are_removed(warm, policy_dir, tmp_path):
    run(labelled(), model=str(policy_dir), out=tmp_path / "run", **{**QUICK, "warm_start": warm})
    left = {p.parent.name for p in (tmp_path / "run").glob("round-*/policy-?")}
    assert left == ({"round-2"} if warm else set())


def test_the_last_policy_starts_from_the_mean_of_the_folds_policies(finished, tmp_path):
    _, out, _ = finished
    policies = [out / "round-2" / f"policy-{fold}" for fold in range(3)]
    average_weights(policies, tmp_path / "mean")
    tensors = [load_file(policy / "model.safetensors") for policy in policies]
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    for name, tensor in mean.items():
        np.testing.assert_allclose(tensor, np.mean([t[name] for t in tensors], axis=0), atol=1e-6)
    # What `perturb.py` makes of the mean is the last policy.
    made = tables.read_manifest(out / "policy")
    assert made.inputs["start"] != tables.read_manifest(out).inputs["model"]
    moved = load_file(out / "policy" / "model.safetensors")
    for name, tensor in moved.items():
        assert np.abs(tensor - mean[name]).mean() < 0.03


def test_warm_start_goes_on_from_the_folds_own_policy(policy_dir, tmp_path):
    data = labelled()
    options = {**QUICK, "keep_policies": True}
    run(data, model=str(policy_dir), out=tmp_path / "warm", **{**options, "warm_start": True})
    cold = tmp_path / "cold"
    run(data, model=str(policy_dir), out=cold, **{**options, "warm_start": False})
    first, second = (
        [(tmp_path / kind / f"round-{n}" / "scores-0.parquet") for kind in ("warm", "cold")]
        for n in (1, 2)
    )
    logps = [pl.read_parquet(p)["policy_a_logps"] for p in (*first, *second)]
    assert logps[0].equals(logps[1])
    assert not logps[2].equals(logps[3])


def test_it_stops_when_the_weights_stop_moving(policy_dir, tmp_path):
    options = {**QUICK, "rounds": 5, "tolerance": 0.9}
    result = run(labelled(), model=str(policy_dir), out=tmp_path / "run", **options)
    assert result.converged
    assert len(result.rounds) == 2


def test_held_out_prompts_are_in_no_training_and_the_answer_is_there(policy_dir, tmp_path):
    data = labelled(12)
    gold = replace(
        data,
        pairs=data.pairs.head(4),
        votes=data.votes.head(4).with_columns(annotator_id=pl.lit("gold")),
    )
    out = tmp_path / "run"
    result = run(data, model=str(policy_dir), out=out, holdout=gold, **QUICK)
    assert (out / "policy.log").read_text().strip() == "trained on 8 rows"
    assert (out / "plain.log").read_text().strip() == "trained on 8 rows"
    assert result.held_out.n == 4
    scores = score(
        gold, policy=str(out / "policy"), reference=str(policy_dir), truncate="keep-start"
    ).scores
    h = scores["policy_a_logps"] - scores["ref_a_logps"]
    h = h - (scores["policy_b_logps"] - scores["ref_b_logps"])
    right = (h > 0) == (gold.votes["vote"] == "a")
    assert result.held_out.denoised == right.mean()


def test_another_run_in_the_directory_is_refused(finished, policy_dir):
    data, out, _ = finished
    with pytest.raises(InputError, match="holds a run with other folds"):
        run(data, model=str(policy_dir), out=out, **{**QUICK, "folds": 2})


@pytest.mark.parametrize("loss", ["simpo", "cpo"])
def test_losses_without_a_reference(loss, policy_dir, tmp_path):
    out = tmp_path / "run"
    result = run(labelled(), model=str(policy_dir), out=out, **{**QUICK, "loss": loss})
    assert not (out / "reference.parquet").exists()
    assert scores_of(out, 1)["ref_a_logps"].null_count() == 12
    assert result.em.summary["settings"]["loss"] == loss
    with pytest.raises(InputError, match="reference means nothing to the loss"):
        run(labelled(), model=str(policy_dir), out=out, reference="x", **{**QUICK, "loss": loss})


def test_without_pooling_the_rows_are_votes(policy_dir, tmp_path):
    data, out = labelled(), tmp_path / "run"
    more = data.votes.with_columns(pl.col("vote_id") + 12, annotator_id=pl.lit("dee"))
    data = replace(data, votes=pl.concat([data.votes, more]))
    run(data, model=str(policy_dir), out=out, pool=False, **{**QUICK, "rounds": 1})
    assert (out / "policy.log").read_text().strip() == "trained on 24 rows"


def test_denoises_own_trainer_drives_the_rounds(policy_dir, tmp_path):
    out = tmp_path / "run"
    options = {"folds": 2, "rounds": 1, "learning_rate": 1e-3, "batch_size": 4}
    result = run(labelled(), model=str(policy_dir), out=out, **options)
    log = pl.read_parquet(out / "policy" / "log.parquet")
    assert log["loss"].is_finite().all()
    assert result.em.summary["temperature"] is not None
    trained = tables.read_manifest(out / "policy")
    assert trained.made_by == "train"
    assert "reference" not in trained.inputs  # its log-probs came with the rows


def dialogues(n: int = 12) -> Dataset:
    """Answers at the end of a dialogue, of which two at a time begin with the same turn."""
    data = labelled(n)
    said = [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"question {i // 2}"},
            {"role": "assistant", "content": f"answer {i}"},
            {"role": "user", "content": text},
        ]
        for i, text in enumerate(data.pairs["prompt"])
    ]
    return as_messages(data, said)


@pytest.mark.parametrize(("loss", "lora"), [("dpo", {}), ("simpo", {"lora_r": 2})])
def test_dialogues_go_through_the_rounds(loss, lora, policy_dir, tmp_path):
    data, out = dialogues(), tmp_path / "run"
    options = {"folds": 2, "rounds": 2, "tolerance": 0.0, "learning_rate": 1e-2, "batch_size": 4}
    result = run(data, model=str(policy_dir), out=out, loss=loss, **options, **lora)
    folds = pl.read_parquet(out / "folds.parquet")["fold"].to_list()
    assert folds[::2] == folds[1::2]
    first, second = (scores_of(out, number) for number in (1, 2))
    assert len(first) == 12
    assert (first["policy_a_logps"] != second["policy_a_logps"]).all()
    assert result.em.summary["temperature"] is not None
    again = score(data, policy=str(out / "policy"), tokenize="trl-dpo").scores
    assert again["policy_a_logps"].is_finite().all()


def test_all_wrong_settings_at_once(policy_dir, tmp_path):
    with pytest.raises(InputError) as error:
        run(labelled(), model=str(policy_dir), out=tmp_path / "r", folds=0, rounds=0)
    assert "rounds is out of range" in str(error.value)
    assert "folds is out of range" in str(error.value)
    with pytest.raises(InputError, match="no such setting of the rounds, found 'fold'"):
        run(labelled(), model=str(policy_dir), out=tmp_path / "r", fold=3)
    with pytest.raises(InputError, match="learning_rate is out of range"):
        run(labelled(), model=str(policy_dir), out=tmp_path / "r", learning_rate=-1.0)
