"""Exports read back by the trainers they are for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from datasets import load_dataset
from small_models import save_tokenizer
from small_pairs import as_messages, make

from denoise import em, export
from denoise.errors import InputError
from denoise.stages.export import Export, write_export
from denoise.stages.formats import FORMATS
from denoise.stages.strategies import for_reward_model, with_strategy
from denoise.tables import Provenance

LOADERS = Path(sys.prefix) / "loaders"
READ = Path(__file__).with_name("trainer_loaders.py")
TRAINERS = ("llamafactory", "axolotl", "openrlhf", "ms-swift", "torchtune")
TEXTS = ("prompt", "chosen", "rejected")


def exported(chat: bool, turns: int = 3) -> Export:
    """Five rows of text, or of a dialogue of a system's, a user's and further turns."""
    data = make(5, seed=2)
    if chat:
        said = [
            [{"role": "system", "content": "Be brief."}]
            + [
                {"role": ("user", "assistant")[i % 2], "content": f"{text} {i}"}
                for i in range(turns)
            ]
            for text in data.pairs["prompt"]
        ]
        data = as_messages(data, said)
    return export(data, em(data))


def drawn(chat: bool, turns: int = 3, seed: int = 1) -> Export:
    """The same with its labels drawn, of which this seed turns one round."""
    return with_strategy(exported(chat, turns), "sample", seed=seed)


def written(result: Export, out: Path, name: str) -> Path:
    write_export(result, out / name, name)
    return out / name


def read_by(name: str, tokenizer: Path, *directories: Path) -> list[list[list[Any]]]:
    """What the trainer makes of the rows of each directory."""
    if not LOADERS.is_dir():
        pytest.skip(f"the other trainers are not at {LOADERS}; `make test` puts them there")
    done = subprocess.run(
        [sys.executable, str(READ), name, str(tokenizer), *map(str, directories)],
        env={**os.environ, "PYTHONPATH": str(LOADERS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("read ")]
    return [json.loads(line.removeprefix("read ")) for line in lines]


def messages(value: object, role: str) -> object:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    return directory, save_tokenizer(directory)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_trainers_own_loader_reads_the_rows(name, tokenizer, tmp_path):
    directory, of_model = tokenizer
    results = drawn(chat=False), drawn(chat=True)
    places = [written(each, tmp_path / f"{i}", name) for i, each in enumerate(results)]
    text, chat = read_by(name, directory, *places)
    same_rows(text, results[0], of_model, chat=False)
    same_rows(chat, results[1], of_model, chat=True)


def same_rows(found: list[list[Any]], result: Export, of_model: Any, chat: bool) -> None:
    assert len(found) == len(result.frame)
    for read, row in zip(found, result.frame.select(TEXTS).iter_rows(), strict=True):
        if isinstance(read[0], str) and chat:  # it applies the model's chat template itself
            prompt, chosen, rejected = row
            start = of_model.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            assert read[0] == start
            assert [side.removesuffix("</s>") for side in read[1:]] == [
                chosen[0]["content"],
                rejected[0]["content"],
            ]
        elif isinstance(read[0], str):
            assert read == list(row)
        else:
            roles = ("user", "assistant", "assistant")
            assert read == [messages(v, role) for v, role in zip(row, roles, strict=True)]


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_nemo_rl_rows_are_in_its_rank_form(chat, tmp_path):
    """https://github.com/NVIDIA-NeMo/RL, nemo_rl/data/datasets/preference_datasets.

    `context`: messages; `completions`: each a `rank` (0 is preferred) and a `completion` of
    messages. Its wheel in the registry is empty, so this is the documented form alone.
    """
    result = drawn(chat)
    directory = written(result, tmp_path, "nemo-rl")
    rows = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    for row, (prompt, chosen, rejected) in zip(
        rows, result.frame.select(TEXTS).iter_rows(), strict=True
    ):
        assert row["context"] == messages(prompt, "user")
        assert row["completions"] == [
            {"rank": 0, "completion": messages(chosen, "assistant")},
            {"rank": 1, "completion": messages(rejected, "assistant")},
        ]
    assert yaml.safe_load((directory / "nemo-rl.yaml").read_text())["data"]["train_data_path"]


def test_parquet_is_one_file_with_every_column(tmp_path):
    result = exported(True)
    directory = written(result, tmp_path, "parquet")
    assert pl.read_parquet(directory / "train.parquet").equals(result.frame)
    read = load_dataset("parquet", data_files=str(directory / "train.parquet"), split="train")
    assert read["weight"][:] == result.frame["weight"].to_list()


def test_an_export_to_the_same_place_is_not_read_from_the_cache_of_the_last(tmp_path):
    for strategy in ("weight", "duplicate"):
        result = with_strategy(exported(False), strategy)
        directory = written(result, tmp_path, "hf")
        read = load_dataset(str(directory), split="train")
        assert read["weight"][:] == result.frame["weight"].to_list()


def test_trls_trainer_takes_a_step_on_drawn_labels(policy_dir, tmp_path):
    from trl import DPOConfig, DPOTrainer

    twice = with_strategy(exported(True), "sample", draws=2)
    directory = written(twice, tmp_path, "trl")
    rows = load_dataset(str(directory), split="train")
    trainer = DPOTrainer(
        model=str(policy_dir),
        args=DPOConfig(output_dir=str(tmp_path / "out"), max_steps=1, report_to="none", bf16=False),
        train_dataset=rows,
    )
    trainer.train()
    assert trainer.state.global_step == 1
    assert len(rows) == 10


def test_trls_reward_trainer_reads_the_margin(reward_dir, tmp_path):
    from trl import RewardConfig, RewardTrainer

    directory = written(for_reward_model(exported(True)), tmp_path, "trl")
    rows = load_dataset(str(directory), split="train")
    assert rows["margin"][:] == pytest.approx([0.8] * 5)
    trainer = RewardTrainer(
        model=str(reward_dir),
        args=RewardConfig(
            output_dir=str(tmp_path / "out"), max_steps=1, report_to="none", bf16=False
        ),
        train_dataset=rows,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["margin"].tolist() == pytest.approx([0.8] * len(batch["margin"]))
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize("name", ["openrlhf", "ms-swift"])
def test_a_reward_margin_is_in_the_field_that_is_read_and_the_policys_is_not(name, tmp_path):
    plain = written(with_strategy(exported(False), "flip"), tmp_path / "plain", name)
    rows = [json.loads(line) for line in (plain / "train.jsonl").read_text().splitlines()]
    assert all("margin" not in row and row["weight"] == pytest.approx(0.9) for row in rows)
    reward = written(for_reward_model(exported(False)), tmp_path / "reward", name)
    rows = [json.loads(line) for line in (reward / "train.jsonl").read_text().splitlines()]
    assert [row["margin"] for row in rows] == pytest.approx([0.8] * 5)


@pytest.mark.parametrize("name", [*TRAINERS, "nemo-rl"])
def test_the_card_says_what_to_do(name, tmp_path):
    card = (written(drawn(False), tmp_path, name) / "README.md").read_text()
    assert FORMATS[name].use in card
    assert f"{name} reads no soft labels: leave its label smoothing at 0" in card
    assert "drawn from its posterior" in card
    assert "It has no" not in card


@pytest.mark.parametrize("name", [*TRAINERS, "nemo-rl"])
def test_weights_that_a_trainer_would_not_read_are_refused(name, tmp_path):
    assert FORMATS[name].default_strategy == "sample"
    for strategy in ("weight", "duplicate"):
        with pytest.raises(InputError, match=r"reads no weights.*--strategy sample, flip or"):
            written(with_strategy(exported(False), strategy), tmp_path, name)
    assert not (tmp_path / name).exists()


def test_a_configuration_says_the_loss_of_the_margins_where_the_trainer_has_it(tmp_path):
    said = {
        ("llamafactory", "dpo"): "pref_loss: sigmoid\npref_beta: 0.25\n",
        ("llamafactory", "simpo"): "pref_loss: simpo\npref_beta: 0.25\nsimpo_gamma: 0.4\n",
        ("llamafactory", "cpo"): "pref_loss: sigmoid\npref_beta: 0.1\n",
        ("axolotl", "ipo"): "rl: ipo\nrl_beta: 0.25\n",
        ("axolotl", "simpo"): "rl: simpo\nrl_beta: 0.25\nsimpo_gamma: 0.4\n",
        ("openrlhf", "dpo"): "--model.beta 0.25",
        ("openrlhf", "ipo"): "--model.ipo_enable",
        ("openrlhf", "simpo"): "--model.beta 0.1",
        ("ms-swift", "dpo"): "--rlhf_type dpo --beta 0.25",
        ("ms-swift", "ipo"): "--rlhf_type dpo --loss_type ipo --beta 0.25",
        ("ms-swift", "simpo"): "--rlhf_type simpo --beta 0.25 --simpo_gamma 0.4",
        ("ms-swift", "cpo"): "--rlhf_type cpo --beta 0.25",
        ("nemo-rl", "dpo"): "reference_policy_kl_penalty: 0.25",
        ("torchtune", "dpo"): "beta: 0.25",
        ("torchtune", "ipo"): "beta: 0.1",
    }
    for (name, loss), words in said.items():
        rows = drawn(False)
        of_em = Provenance("em", {}, {"loss": loss, "beta": 0.25, "gamma": 0.4})
        directory = tmp_path / f"{name}-{loss}"
        write_export(replace(rows, made_from=(of_em,)), directory, name)
        texts = "".join(path.read_text() for path in sorted(directory.glob("*.*[lh]")))
        assert words in texts, (name, loss)
        lacks = f"It has no {loss} loss" in (directory / "README.md").read_text()
        assert lacks == (loss not in FORMATS[name].losses)


def test_what_llamafactory_would_leave_out_is_refused(tmp_path):
    with pytest.raises(InputError, match="do not alternate from user to user"):
        written(drawn(True, turns=2), tmp_path, "llamafactory")


def test_responses_of_several_messages_are_refused_where_one_is_taken(tmp_path):
    result = drawn(True)
    two = result.frame.with_columns(chosen=pl.concat_list("chosen", "rejected"))
    for name in ("llamafactory", "axolotl"):
        with pytest.raises(InputError, match=r"response\(s\) of several messages"):
            written(replace(result, frame=two), tmp_path, name)
