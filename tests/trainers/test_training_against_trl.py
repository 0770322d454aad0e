"""The trainers against TRL's own, step for step, and against losses from scored log-probs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from small_pairs import make
from transformers import AutoModelForCausalLM, AutoTokenizer

from denoise import losses
from denoise.dataset import Dataset as Pairs
from denoise.scorers.models import resolve
from denoise.stages.score import score
from denoise.trainers.fit import fit
from denoise.trainers.settings import TrainSettings

STEPS, BATCH = 3, 4
RATE = 1e-3
MOVED = STEPS * RATE
"""About how far Adam moves a weight: two trainings that agree stay within a small share of it."""


def pairs_and_rows(n: int = STEPS * BATCH, chat: bool = False) -> tuple[Pairs, pl.DataFrame]:
    data = make(n, seed=3)
    rows = data.pairs.select("prompt", chosen="response_a", rejected="response_b")
    if chat:
        rows = rows.select(
            pl.concat_list(pl.struct(role=pl.lit(role), content=pl.col(name))).alias(name)
            for name, role in (
                ("prompt", "user"),
                ("chosen", "assistant"),
                ("rejected", "assistant"),
            )
        )
    return data, rows.with_columns(weight=pl.lit(1.0, pl.Float32))


def fitted(
    rows: pl.DataFrame, model: Path, out: Path, reference: Path | None = None, **options: Any
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    options = {"learning_rate": RATE, "batch_size": BATCH, **options}
    settings = TrainSettings(
        **options, trainer_args={"logging_steps": 1, **options.pop("trainer_args", {})}
    )
    source = resolve(str(model))
    of_reference = resolve(str(reference)) if reference else None
    done = fit(rows, settings, source, of_reference, out, out.with_suffix(".work"))
    return done.log, load_file(next(out.glob("*.safetensors")))


def trl_arguments(loss: str, out: Path) -> tuple[type, type, dict[str, Any]]:
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    common = {
        "output_dir": str(out),
        "beta": losses.BETA[loss],
        "learning_rate": RATE,
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH,
        "max_length": 1024,
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": 0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    match loss:
        case "dpo":
            loss_type = "sigmoid"
        case "ipo":
            loss_type = "ipo"
        case "simpo":
            simpo = {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": losses.GAMMA}
            return CPOTrainer, CPOConfig, common | simpo
        case _:
            return CPOTrainer, CPOConfig, common
    # As ours does: the same numbers but for their last bits, which Adam's signs would magnify.
    common["precompute_ref_log_probs"] = True
    return DPOTrainer, DPOConfig, common | {"loss_type": loss_type}


def by_trl(
    loss: str, rows: pl.DataFrame, model: Path, out: Path, **more: Any
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    trainer_class, config_class, arguments = trl_arguments(loss, out)
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=config_class(**arguments | more),
        train_dataset=Dataset.from_polars(rows.select("prompt", "chosen", "rejected")),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    trainer.save_model(str(out))
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return log, load_file(out / "model.safetensors")


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_with_weight_1_every_step_is_that_of_trls_own_trainer(loss, policy_dir, tmp_path):
    _, rows = pairs_and_rows(chat=loss in ("dpo", "cpo"))
    expected, weights = by_trl(loss, rows, policy_dir, tmp_path / "trl")
    log, found = fitted(rows, policy_dir, tmp_path / "ours", loss=loss, objective="mixture")
    assert len(log) == STEPS
    for ours, theirs in zip(log, expected, strict=True):
        names = set(theirs) - {"epoch", "step", "num_tokens"}
        assert {"loss", "rewards/margins", "rewards/accuracies", "grad_norm"} <= names
        assert {n: ours[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-6)
    assert found.keys() == weights.keys()
    for name in weights:
        torch.testing.assert_close(found[name], weights[name], rtol=0, atol=0)


def test_rdpo_is_trls_robust_loss(policy_dir, tmp_path):
    _, rows = pairs_and_rows()
    rate = 0.2
    expected, weights = by_trl(
        "dpo", rows, policy_dir, tmp_path / "trl", loss_type="robust", label_smoothing=rate
    )
    rows = rows.with_columns(weight=pl.lit((1 - rate) / (1 - 2 * rate), pl.Float32))
    log, found = fitted(
        rows, policy_dir, tmp_path / "ours", loss="dpo", method="rdpo", flip_rate=rate
    )
    assert [e["loss"] for e in log] == pytest.approx([e["loss"] for e in expected], rel=1e-5)
    for name in weights:
        torch.testing.assert_close(found[name], weights[name], rtol=0, atol=MOVED / 10)


@pytest.mark.parametrize("objective", ["mixture", "gibbs"])
@pytest.mark.parametrize("loss", ["dpo", "ipo", "simpo", "cpo"])
def test_the_first_loss_is_that_of_the_scored_log_probs(
    loss, objective, policy_dir, reference_dir, tmp_path
):
    data, rows = pairs_and_rows(BATCH)
    rule = "trl-dpo" if loss in ("dpo", "ipo") else "trl-cpo"
    needs = loss in losses.NEEDS_REFERENCE
    scores = score(
        data,
        policy=str(policy_dir),
        reference=str(reference_dir) if needs else None,
        tokenize=rule,
    ).scores
    weight = np.array([0.9, 0.2, 0.6, 0.0])
    log, _ = fitted(
        rows.with_columns(weight=pl.Series(weight, dtype=pl.Float32)),
        policy_dir,
        tmp_path / "ours",
        reference_dir if needs else None,
        loss=loss,
        objective=objective,
    )
    names = ("policy_a_logps", "policy_b_logps", "ref_a_logps", "ref_b_logps")
    columns = [scores[name].to_numpy() for name in (*names, "a_tokens", "b_tokens")]
    logps = losses.PairLogps(*columns)
    if objective == "gibbs":
        margin = losses.margin(loss, logps)
        minus_log_p, minus_log_1_p = np.logaddexp(0, -margin), np.logaddexp(0, margin)
        expected = np.mean(weight * minus_log_p + (1 - weight) * minus_log_1_p)
    else:
        own, other = (losses.loss_value(loss, each) for each in (logps, logps.swapped()))
        if loss == "cpo":
            own, other = own + logps.policy_w, other + logps.policy_l
        expected = np.mean(weight * own + (1 - weight) * other)
        if loss == "cpo":
            total = weight @ logps.policy_w + (1 - weight) @ logps.policy_l
            expected -= total / (weight @ logps.tokens_w + (1 - weight) @ logps.tokens_l)
    assert log[0]["loss"] == pytest.approx(expected, rel=2e-5)


def test_reference_log_probs_that_the_rows_bring_are_used(policy_dir, reference_dir, tmp_path):
    data, rows = pairs_and_rows(BATCH)
    scores = score(data, policy=str(reference_dir)).scores
    brought = rows.with_columns(
        scores["policy_a_logps"].cast(pl.Float32).alias("ref_chosen_logps"),
        scores["policy_b_logps"].cast(pl.Float32).alias("ref_rejected_logps"),
    )
    computed, weights = fitted(rows, policy_dir, tmp_path / "computed", reference_dir, loss="dpo")
    log, found = fitted(brought, policy_dir, tmp_path / "brought", loss="dpo")
    assert log[0]["loss"] == pytest.approx(computed[0]["loss"], rel=1e-5)
    for name in weights:
        torch.testing.assert_close(found[name], weights[name], rtol=0, atol=MOVED / 10)
    wrong = brought.with_columns(pl.col("ref_chosen_logps") + 10)
    log, _ = fitted(wrong, policy_dir, tmp_path / "wrong", loss="dpo")
    assert log[0]["loss"] > computed[0]["loss"] + 0.1
