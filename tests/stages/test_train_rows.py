"""Which rows are trained on and evaluated on, from which model, and by which reference."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file
from small_pairs import make

from denoise.dataset import Dataset
from denoise.errors import InputError, RunError
from denoise.stages.score import score
from denoise.stages.train import train
from denoise.stages.training_rows import labelled_rows

OPTIONS = {"learning_rate": 1e-2, "batch_size": 4}


def rows(n: int = 8) -> pl.DataFrame:
    frame, _ = labelled_rows(make(n, seed=5))
    weight = pl.Series("weight", [0.1 + 0.8 * i / n for i in range(n)])
    names = pl.Series("annotator_id", [("ann", "bob", "cy")[i % 3] for i in range(n)])
    return frame.with_columns(weight, names)


def test_texts_are_those_of_the_pair_whatever_columns_the_votes_have():
    data = make(3)
    own = ("prompt", "response_a", "response_b", "chosen", "rejected")
    votes = data.votes.with_columns(pl.lit("the vote's own").alias(name) for name in own)
    frame, _ = labelled_rows(Dataset(data.provenance, pairs=data.pairs, votes=votes))
    texts = frame.select("prompt", "chosen", "rejected").rows()
    assert texts == data.pairs.select("prompt", "response_a", "response_b").rows()


def test_ids_of_pairs_may_be_numbers_in_one_table_and_text_in_the_other():
    data = make(3)
    pairs = data.pairs.with_columns(pair_id=pl.Series([5, 6, 7]))
    votes = data.votes.with_columns(pair_id=pl.Series(["7", "6", "5"]))
    frame, _ = labelled_rows(Dataset(data.provenance, pairs=pairs, votes=votes))
    assert frame["pair_id"].to_list() == ["7", "6", "5"]
    assert frame["prompt"].to_list() == pairs["prompt"].to_list()[::-1]


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_a_prompt_that_fills_the_length_is_left_out_and_named(loss, policy_dir, tmp_path):
    """TRL's DPOTrainer drops it silently; its CPOTrainer trains on no response, and SimPO on NaN"""
    third = pl.int_range(pl.len()) == 2
    long = rows().with_columns(
        prompt=pl.when(third).then(pl.lit("apples " * 200)).otherwise("prompt")
    )
    options = {**OPTIONS, "loss": loss, "max_length": 150}
    done = train(long, model=str(policy_dir), out=tmp_path / "p", **options)
    assert done.skipped.rows() == [(2, "the prompt alone fills max_length 150")]
    assert done.notes == ("1 row(s) not trained on: the prompt alone fills max_length 150",)
    kept = long.filter(~third)
    alone = train(kept, model=str(policy_dir), out=tmp_path / "alone", **options)
    assert done.log.equals(alone.log)
    again = train(long, model=str(policy_dir), out=tmp_path / "p", **options)
    assert not again.made_anew and again.skipped.equals(done.skipped)
    with pytest.raises(InputError, match="no row can be trained on"):
        only = long.filter(third)
        train(only, model=str(policy_dir), out=tmp_path / "none", **options)


def test_responses_that_are_cut_are_counted(policy_dir, tmp_path):
    long = rows().with_columns(chosen=pl.lit("a horse " * 100))
    options = {**OPTIONS, "max_length": 200}
    said: list[str] = []
    train(long, model=str(policy_dir), out=tmp_path / "p", announce=said.append, **options)
    assert said == ["8 row(s) are cut at 200 tokens; --max-length N raises that"]


def test_an_evaluation_has_its_own_reference_where_only_the_rows_bring_log_probs(
    policy_dir, reference_dir, tmp_path
):
    logps = score(make(8, seed=5), policy=str(reference_dir)).scores
    brought = rows().with_columns(
        ref_chosen_logps=logps["policy_a_logps"], ref_rejected_logps=logps["policy_b_logps"]
    )
    models = {"model": str(policy_dir), "reference": str(reference_dir)}
    found, expected = (
        train(frame, out=tmp_path / name, evaluation=rows(4), **models, **OPTIONS)
        for name, frame in (("brought", brought), ("computed", rows()))
    )
    loss = [done.log["eval_loss"].drop_nulls().item() for done in (found, expected)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-4)


@pytest.mark.parametrize("loss", ["dpo", "cpo"])
def test_an_evaluation_counts_labels_by_their_own_weight_whatever_the_method(
    loss, policy_dir, tmp_path
):
    gold = rows(4).drop("annotator_id", "weight")
    for method, options in (("online", {}), ("rdpo", {"flip_rate": 0.2})):
        options = {**OPTIONS, **options, "loss": loss, "method": method}
        done = train(
            rows(), model=str(policy_dir), out=tmp_path / method, evaluation=gold, **options
        )
        assert done.log["eval_weight"].drop_nulls().to_list() == [1.0]
        assert any("'weight' is not used" in note for note in done.notes)


def test_an_adapter_is_trained_further_and_names_the_same_base(policy_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(policy_dir.parent)
    lora = {"lora_r": 4, "batch_size": 4}
    first = train(rows(), model=policy_dir.name, out=tmp_path / "1", learning_rate=1e-2, **lora)
    second = train(
        rows(), model=str(tmp_path / "1"), out=tmp_path / "2", learning_rate=1e-9, **lora
    )
    names = [
        json.loads((done.directory / "adapter_config.json").read_text())["base_model_name_or_path"]
        for done in (first, second)
    ]
    assert names == [str(policy_dir.resolve())] * 2
    assert second.log["loss"][0] == pytest.approx(math.log(2))  # its reference is the first
    logps = {
        path: score(make(4), policy=str(path)).scores["policy_a_logps"]
        for path in (policy_dir, first.directory, second.directory)
    }
    base, of_first, of_second = logps.values()
    assert (of_first - base).abs().min() > 1e-3
    assert (of_second - of_first).abs().max() < 1e-3
    weights = [load_file(d.directory / "adapter_model.safetensors").keys() for d in (first, second)]
    assert weights[0] == weights[1] and not (second.directory / "ref").exists()
    with pytest.raises(InputError, match="an adapter with another lora_r, found 8; give 4"):
        train(rows(), model=str(tmp_path / "1"), out=tmp_path / "3", lora_r=8)


def test_an_adapter_without_lora_r_is_merged_and_trained_whole(policy_dir, tmp_path):
    first = train(rows(), model=str(policy_dir), out=tmp_path / "1", lora_r=4, **OPTIONS)
    whole = train(
        rows(), model=str(first.directory), out=tmp_path / "2", batch_size=4, learning_rate=1e-9
    )
    assert (whole.directory / "model.safetensors").is_file()
    merged, trained = (
        score(make(4), policy=str(done.directory)).scores["policy_a_logps"]
        for done in (first, whole)
    )
    assert (merged - trained).abs().max() < 1e-3


@pytest.mark.parametrize("loss", ["dpo", "cpo"])
def test_a_tokenizer_without_padding_will_do(loss, policy_dir, tmp_path):
    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    config = copy / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    del settings["pad_token"]
    config.write_text(json.dumps(settings))
    with_one, without = (
        train(rows(), model=str(path), out=tmp_path / name, loss=loss, **OPTIONS)
        for name, path in (("with", policy_dir), ("without", copy))
    )
    assert with_one.log["loss"].to_list() == pytest.approx(without.log["loss"].to_list(), rel=1e-5)


def test_a_training_that_diverges_ends_at_once(policy_dir, tmp_path):
    options = {"batch_size": 4, "learning_rate": 1e30}
    with pytest.raises(RunError, match=r"no longer finite at step \d; try a smaller"):
        train(rows(), model=str(policy_dir), out=tmp_path / "p", **options)
    assert not (tmp_path / "p").exists()


def test_the_parts_of_an_accumulated_batch_move_a_reliability_once(policy_dir, tmp_path):
    """Two batches of 4 and one of 8 are one step of Eq. 7, so η ends alike."""

    def eta(name: str, **options: int) -> list[float]:
        done = train(rows(), model=str(policy_dir), out=tmp_path / name, method="online", **options)
        trace = pl.read_parquet(tmp_path / name / "reliability_trace.parquet")
        assert trace.drop("step").equals(done.reliability) and trace["step"].unique().item() == 1
        return done.reliability["reliability"].to_list()

    parts = eta("parts", batch_size=4, gradient_accumulation=2)
    whole = eta("whole", batch_size=8)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert max(parts) < 0.9


def test_settings_of_an_adapter_and_of_the_schedule_reach_trl(policy_dir, tmp_path):
    options = {"lora_r": 2, "lora_targets": ("q_proj",), "lora_dropout": 0.1, "lora_alpha": 3}
    more = {"warmup": 2, "scheduler": "constant_with_warmup", "epochs": 2}
    trainer_args = {"logging_steps": 1}
    done = train(
        rows(),
        model=str(policy_dir),
        out=tmp_path / "p",
        trainer_args=trainer_args,
        **options,
        **more,
        **OPTIONS,
    )
    kept = json.loads((done.directory / "adapter_config.json").read_text())
    names = ("r", "target_modules", "lora_dropout", "lora_alpha")
    assert [kept[name] for name in names] == [2, ["q_proj"], 0.1, 3]
    assert done.log["learning_rate"].to_list() == pytest.approx([0.0, 0.005, 0.01, 0.01])


def test_the_files_of_equal_trainings_are_equal(policy_dir, tmp_path):
    directories: list[Path] = [
        train(
            rows(),
            model=str(policy_dir),
            out=tmp_path / name,
            method="online",
            evaluation=rows(4),
            **OPTIONS,
        ).directory
        for name in "ab"
    ]
    first, second = ({p.name: p.read_bytes() for p in d.iterdir()} for d in directories)
    assert first == second
