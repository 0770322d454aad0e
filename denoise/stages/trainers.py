"""The forms that other trainers read: their fields, and the configuration they otherwise want.

Read in their source: LLaMA-Factory 0.9.5 (data/converter.py), axolotl 0.19
(prompt_strategies/dpo), OpenRLHF 0.11.2 (datasets/reward_dataset.py), ms-swift 4.6
(dataset/preprocessor/core.py), torchtune 0.6.1 (data/_messages.py), NeMo-RL
(data/datasets/preference_datasets/preference_dataset.py). None of them reads a soft label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml

from denoise import schema, tables
from denoise.errors import refuse
from denoise.losses import BETA, GAMMA
from denoise.tables import Provenance

TEXTS = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
DATA_FILE = "train.jsonl"
FIGURES = {"weight": "weight", "reward_margin": "margin"}
"""What of a row's figures stands beside the trainer's own fields, and under which name. `margin`
of the policy does not: OpenRLHF and ms-swift take a field of that name for a reward model's."""

Made = Sequence[Provenance]
"""What made the rows, from stage to stage."""


class Training(NamedTuple):
    """The loss that a configuration says: that of the margins, so that both stages fit."""

    loss: str
    beta: float
    gamma: float

    @classmethod
    def after(cls, made: Made) -> Training:
        """The loss that EM took its margins from; DPO where it had none."""
        of_em = [each.settings for each in made if each.made_by == "em"]
        set_there = of_em[-1] if of_em else {}
        told = {name: value for name, value in set_there.items() if value is not None}
        loss = told.get("loss", "dpo")
        return cls(loss, told.get("beta", BETA[loss]), told.get("gamma", GAMMA))

    def among(self, losses: Sequence[str]) -> Training:
        """The same, or DPO where a trainer has only these losses."""
        return self if self.loss in losses else Training.after(())

    @property
    def margin_term(self) -> dict[str, float]:
        """SimPO's γ under the name that the trainers have for it; nothing of other losses."""
        return {"simpo_gamma": self.gamma} if self.loss == "simpo" else {}


def is_chat(frame: pl.DataFrame) -> bool:
    """Whether any of the texts is a list of messages."""
    return any(schema.is_chat(frame.schema[name]) for name in TEXTS)


def as_messages(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with all three texts as messages: text is one user turn, or one assistant turn."""
    return frame.with_columns(
        pl.concat_list(pl.struct(role=pl.lit(role), content=pl.col(name))).alias(name)
        for name, role in TEXTS.items()
        if frame.schema[name] == pl.String
    )


def write_llamafactory(frame: pl.DataFrame, directory: Path, training: Training) -> None:
    """`dataset_info.json` with its rows, Alpaca's form of texts and ShareGPT's of messages."""
    if is_chat(frame):
        frame = as_messages(frame)
        _refuse_long_responses(frame, "LLaMA-Factory")
        _refuse_broken_turns(frame, "LLaMA-Factory")
        rows = [
            {
                "conversations": [_share_gpt(turn) for turn in row["prompt"]],
                "chosen": _share_gpt(row["chosen"][0]),
                "rejected": _share_gpt(row["rejected"][0]),
                **_figures(row),
            }
            for row in frame.iter_rows(named=True)
        ]
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
        form = {"formatting": "sharegpt", "columns": columns}
    else:
        rows = [
            {"instruction": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}
            | _figures(row)
            for row in frame.iter_rows(named=True)
        ]
        columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
        form = {"formatting": "alpaca", "columns": columns}
    _write_rows(rows, directory)
    info = {"denoise": {"file_name": DATA_FILE, "ranking": True, **form}}
    tables.write_json(info, directory / "dataset_info.json")
    _write_yaml(
        {
            "stage": "dpo",
            "do_train": True,
            "model_name_or_path": "MODEL",
            "template": "TEMPLATE",
            "dataset_dir": ".",
            "dataset": "denoise",
            "pref_loss": "sigmoid" if training.loss == "dpo" else training.loss,
            "pref_beta": training.beta,
            **training.margin_term,
            "finetuning_type": "lora",
            "output_dir": "policy",
        },
        directory / "llamafactory.yaml",
    )


def write_axolotl(frame: pl.DataFrame, directory: Path, training: Training) -> None:
    """Rows and `axolotl.yaml`: `chat_template.default` of messages, `user_defined` of texts."""
    if is_chat(frame):
        frame = as_messages(frame)
        _refuse_long_responses(frame, "axolotl")
        rows = [
            {"messages": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]}
            | _figures(row)
            for row in frame.iter_rows(named=True)
        ]
        form: object = "chat_template.default"
    else:
        rows = _plain_rows(frame)
        form = {"field_prompt": "prompt", "field_chosen": "chosen", "field_rejected": "rejected"}
    _write_rows(rows, directory)
    _write_yaml(
        {
            "base_model": "MODEL",
            "chat_template": "tokenizer_default",
            "rl": training.loss,
            "rl_beta": training.beta,
            **training.margin_term,
            "datasets": [{"path": DATA_FILE, "ds_type": "json", "split": "train", "type": form}],
            "output_dir": "policy",
        },
        directory / "axolotl.yaml",
    )


def write_openrlhf(frame: pl.DataFrame, directory: Path, training: Training) -> None:
    """Rows with prompt, chosen and rejected, and the command that reads them."""
    chat = is_chat(frame)
    _write_rows(_plain_rows(as_messages(frame) if chat else frame), directory)
    words = [
        "deepspeed --module openrlhf.cli.train_dpo",
        "--model.model_name_or_path MODEL",
        f"--model.beta {training.beta:g}",
        *(["--model.ipo_enable"] if training.loss == "ipo" else []),
        f"--data.dataset {DATA_FILE}",
        "--data.prompt_key prompt --data.chosen_key chosen --data.rejected_key rejected",
        *(["--data.apply_chat_template"] if chat else []),
    ]
    tables.write_text(" \\\n    ".join(words) + "\n", directory / "openrlhf.sh")


def write_swift(frame: pl.DataFrame, directory: Path, training: Training) -> None:
    """`messages` that end on the chosen response, and `rejected_messages`, with the command."""
    rows = [
        {
            "messages": row["prompt"] + row["chosen"],
            "rejected_messages": row["prompt"] + row["rejected"],
            **_figures(row),
        }
        for row in as_messages(frame).iter_rows(named=True)
    ]
    _write_rows(rows, directory)
    kind = "dpo --loss_type ipo" if training.loss == "ipo" else training.loss
    gamma = "".join(f" --{name} {value:g}" for name, value in training.margin_term.items())
    loss = f"--rlhf_type {kind} --beta {training.beta:g}{gamma}"
    command = f"swift rlhf {loss} --model MODEL --dataset {DATA_FILE}"
    tables.write_text(command + "\n", directory / "swift.sh")


def write_nemo(frame: pl.DataFrame, directory: Path, training: Training) -> None:
    """The rank form: `context`, and `completions` with rank 0 (chosen) and 1."""
    rows = [
        {
            "context": row["prompt"],
            "completions": [
                {"rank": rank, "completion": row[name]}
                for rank, name in enumerate(("chosen", "rejected"))
            ],
            **_figures(row),
        }
        for row in as_messages(frame).iter_rows(named=True)
    ]
    _write_rows(rows, directory)
    data = {"dataset_name": "PreferenceDataset", "train_data_path": DATA_FILE}
    dpo = {"reference_policy_kl_penalty": training.beta}
    _write_yaml({"data": data, "dpo": dpo}, directory / "nemo-rl.yaml")


def write_torchtune(frame: pl.DataFrame, directory: Path, training: Training) -> None:
    """Whole dialogues as `chosen` and `rejected`, and the part of a recipe that reads them."""
    rows = [
        {
            "chosen": row["prompt"] + row["chosen"],
            "rejected": row["prompt"] + row["rejected"],
            **_figures(row),
        }
        for row in as_messages(frame).iter_rows(named=True)
    ]
    _write_rows(rows, directory)
    dataset = {
        "_component_": "torchtune.datasets.preference_dataset",
        "source": "json",
        "data_files": DATA_FILE,
        "split": "train",
    }
    loss = {"_component_": "torchtune.rlhf.loss.DPOLoss", "beta": training.beta}
    _write_yaml({"dataset": dataset, "loss": loss}, directory / "torchtune.yaml")


def _share_gpt(turn: dict[str, Any]) -> dict[str, str]:
    names = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
    return {"from": names.get(turn["role"], turn["role"]), "value": turn["content"]}


def _plain_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: row[name] for name in TEXTS} | _figures(row) for row in frame.iter_rows(named=True)
    ]


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    return {new: row[name] for name, new in FIGURES.items() if row.get(name) is not None}


def kept(frame: pl.DataFrame) -> list[str]:
    """The columns of a frame that these formats keep beside the texts."""
    return [name for name in FIGURES if name in frame.columns]


def _refuse_long_responses(frame: pl.DataFrame, trainer: str) -> None:
    """Refuse responses of several messages, where a trainer takes one."""
    for name in ("chosen", "rejected"):
        several = (frame[name].list.len() != 1).arg_true()
        if len(several):
            refuse(
                f"{len(several):,} response(s) of several messages, and {trainer} takes one",
                row=several[0],
                column=name,
                fix="give --format trl or ms-swift",
            )


def _refuse_broken_turns(frame: pl.DataFrame, trainer: str) -> None:
    """Refuse prompts that do not go user, assistant, …, user: the trainer would leave them out."""
    for number, turns in enumerate(frame["prompt"]):
        roles = [turn["role"] for turn in turns]
        roles = roles[1:] if roles[:1] == ["system"] else roles
        if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            refuse(
                f"the prompt's turns do not alternate from user to user, as {trainer} wants them",
                row=number,
                column="prompt",
                found=" ".join(roles),
                fix="give --format trl, or leave such rows out of the source",
            )


def _write_rows(rows: list[dict[str, Any]], directory: Path) -> None:
    with tables.atomic_path(directory / DATA_FILE) as path, path.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_yaml(content: dict[str, Any], path: Path) -> None:
    tables.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), path)
