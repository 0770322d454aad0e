"""Log-probs and margins against TRL's own trainers, on the same model and the same rows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from datasets import Dataset as Rows

from denoise import losses
from denoise.dataset import Dataset
from denoise.stages.score import score
from denoise.tables import Provenance

LONG = "A horse is larger than a mouse, and kind to it. " * 12

TEXT = [
    ("Is a mouse larger than a horse?", " No, a horse is larger.", " Yes!"),
    ("Please be kind.", " I would be glad to help you with that!", ""),
    ("Wie ist das Wetter in 北京?", " schön 🙂 — naïve café", " \u202eodd\u0000 text é"),
    ("How many apples are left? ", "Three.", "I will not answer."),
    ("Tell me a story.", LONG, " Go away."),
    ("", "Three apples are left.", "None."),
]


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


CHAT = [(_user(p), _assistant(a), _assistant(b)) for p, a, b in TEXT]
CHAT.append(
    (
        [*_user("Hello"), *_assistant("Hi!"), *_user("How many?")],
        _assistant("Three."),
        _assistant("Go away, please."),
    )
)


CHAT.append(
    (
        [*_user("How many?"), *_assistant("I would say")],
        _assistant("Three apples."),
        _assistant("I will not answer."),
    )
)


def dataset(rows) -> Dataset:
    columns = list(zip(*rows, strict=True))
    pairs = pl.DataFrame(
        {
            "pair_id": [f"p{i}" for i in range(len(rows))],
            "prompt": columns[0],
            "response_a": columns[1],
            "response_b": columns[2],
        }
    )
    votes = pl.DataFrame(
        {
            "vote_id": range(len(rows)),
            "pair_id": pairs["pair_id"],
            "annotator_id": ["all"] * len(rows),
            "vote": ["a"] * len(rows),
        }
    )
    return Dataset(Provenance("import"), pairs=pairs, votes=votes)


def trl_rows(rows) -> Rows:
    return Rows.from_list(
        [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    )


def dpo_trainer(model_dir, rows, tmp_path, max_length=1024, **options):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=str(tmp_path / "out"),
        precompute_ref_log_probs=True,
        max_length=max_length,
        bf16=False,
        use_cpu=True,
        report_to=[],
        per_device_train_batch_size=2,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **options,
    )
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_dir, dtype="float32"),
        args=config,
        train_dataset=trl_rows(rows),
        processing_class=AutoTokenizer.from_pretrained(model_dir),
    )


@pytest.mark.parametrize(
    ("rows", "max_length"), [(TEXT, 1024), (CHAT, 1024), (TEXT, 64), (CHAT, 64)]
)
def test_logps_equal_the_dpo_trainers_precomputed_ones(rows, max_length, policy_dir, tmp_path):
    trainer = dpo_trainer(policy_dir, rows, tmp_path, max_length)
    expected = np.column_stack(
        [trainer.train_dataset[f"ref_{side}_logps"] for side in ("chosen", "rejected")]
    )

    settings = {"max_length": max_length, "truncate": "keep-start"}
    result = score(dataset(rows), policy=str(policy_dir), **settings)

    assert result.skipped.is_empty()
    actual = result.scores.select("policy_a_logps", "policy_b_logps").to_numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_an_overlong_pair_is_skipped_and_named(policy_dir):
    result = score(dataset(TEXT), policy=str(policy_dir), max_length=64)
    assert result.skipped["pair_id"].to_list() == ["p4"]
    assert "exceed max_length 64" in result.skipped["reason"][0]
    assert len(result.scores) == len(TEXT) - 1
    assert any("--truncate keep-start" in note for note in result.notes)


@pytest.mark.parametrize("rows", [TEXT, CHAT], ids=["text", "chat"])
@pytest.mark.parametrize("max_length", [1024, 64])
def test_cpo_logps_and_margins_equal_the_cpo_trainers(rows, max_length, policy_dir, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    def trainer(loss_type, swap):
        turned = [(p, b, a) if swap else (p, a, b) for p, a, b in rows]
        return CPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(policy_dir, dtype="float32"),
            args=CPOConfig(
                output_dir=str(tmp_path / "out"),
                loss_type=loss_type,
                cpo_alpha=0.0,
                beta=2.0,
                simpo_gamma=1.0,
                max_length=max_length,
                bf16=False,
                use_cpu=True,
                report_to=[],
                remove_unused_columns=False,
                disable_tqdm=True,
            ),
            train_dataset=trl_rows(turned),
            processing_class=AutoTokenizer.from_pretrained(policy_dir),
        )

    def forward(trained):
        batch = trained.data_collator(list(trained.train_dataset))
        with torch.no_grad():
            return trained.concatenated_forward(trained.model.eval(), batch)[:2]

    settings = {"tokenize": "trl-cpo", "max_length": max_length, "truncate": "keep-start"}
    scores = score(dataset(rows), policy=str(policy_dir), **settings).scores
    a, b = (scores[f"policy_{side}_logps"].to_numpy() for side in "ab")
    sums = forward(trainer("sigmoid", swap=False))
    np.testing.assert_allclose(a, sums[0].numpy(), rtol=1e-4)
    np.testing.assert_allclose(b, sums[1].numpy(), rtol=1e-4)

    def losses_of(loss_type, swap):
        trained = trainer(loss_type, swap)
        return trained.cpo_loss(*forward(trained))[0].numpy()

    simpo = losses_of("simpo", swap=True) - losses_of("simpo", swap=False)
    tokens = scores["a_tokens"].to_numpy(), scores["b_tokens"].to_numpy()
    logps = losses.PairLogps(a, b, None, None, *tokens)
    margin = losses.simpo_margin(logps, beta=2.0, gamma=1.0)
    np.testing.assert_allclose(margin, simpo, rtol=1e-4, atol=1e-4)
    cpo = losses_of("sigmoid", swap=True) - losses_of("sigmoid", swap=False)
    np.testing.assert_allclose(2.0 * (a - b), cpo, rtol=1e-4, atol=1e-4)
