"""Rewards against a plain forward pass of transformers, one row at a time, and against TRL."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
from datasets import Dataset as Rows
from small_models import save_reward_model

from denoise.dataset import Dataset
from denoise.errors import InputError, RunError
from denoise.scorers.settings import ScoreSettings
from denoise.stages.score import plan, run, score, score_to_file
from denoise.tables import Provenance
from denoise.tokenise import Skip, TokenPair, tokenise

LONG = "A horse is larger than a mouse, and kind to it. " * 12
TEXT = [
    ("Is a mouse larger than a horse?", "No, a horse is larger.", "Yes!"),
    ("Please be kind.", "I would be glad to help you with that!", ""),
    ("Wie ist das Wetter in 北京?", "schön 🙂 — naïve café", "\u202eodd\u0000 text é"),
    ("Tell me a story.", LONG, "Go away."),
    ("How many apples are left?", "Three.", "Three."),
    ("", "Three apples.", "Three apples are left."),
]


def turn(role, text):
    return [{"role": role, "content": text}]


CHAT = [(turn("user", p), turn("assistant", a), turn("assistant", b)) for p, a, b in TEXT]
CHAT.append(
    (
        [*turn("user", "Hello"), *turn("assistant", "Hi!"), *turn("user", "How many?")],
        turn("assistant", "Three."),
        turn("assistant", "Go away, please."),
    )
)


def dataset(rows) -> Dataset:
    prompts, a, b = zip(*rows, strict=True)
    ids = [f"p{i}" for i in range(len(rows))]
    pairs = pl.DataFrame({"pair_id": ids, "prompt": prompts, "response_a": a, "response_b": b})
    votes = pl.DataFrame(
        {"vote_id": range(len(rows)), "pair_id": ids, "annotator_id": "all", "vote": "a"}
    )
    return Dataset(Provenance("import"), pairs=pairs, votes=votes)


def rewards(rows, model, **options) -> np.ndarray:
    table = score(dataset(rows), policy=str(model), backend="reward", **options).scores
    return table.select("a_reward", "b_reward").to_numpy()


def plain_rewards(model_dir, rows) -> np.ndarray:
    """`apply_chat_template` to ids and one row at a time through the model, as a card shows it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    return one_by_one(
        model,
        [
            [
                tokenizer.apply_chat_template([*prompt, *side], return_dict=True)["input_ids"]
                for side in sides
            ]
            for prompt, *sides in rows
        ],
        torch,
    )


def one_by_one(model, ids, torch) -> np.ndarray:
    with torch.no_grad():
        return np.array(
            [[model(torch.tensor([list(side)])).logits.item() for side in pair] for pair in ids]
        )


def test_rewards_equal_one_row_at_a_time_of_transformers(reward_dir):
    actual = rewards(CHAT, reward_dir)
    np.testing.assert_allclose(actual, plain_rewards(reward_dir, CHAT), atol=1e-5)
    assert actual[4, 0] == actual[4, 1]  # the same response twice
    assert np.ptp(actual) > 1


def test_text_is_wrapped_as_two_turns_and_that_is_said(reward_dir):
    result = score(dataset(TEXT), policy=str(reward_dir), backend="reward")
    wrapped = result.scores.select("a_reward", "b_reward").to_numpy()
    np.testing.assert_allclose(wrapped, plain_rewards(reward_dir, CHAT[: len(TEXT)]), atol=1e-5)
    assert any("one user turn" in note for note in result.notes)


def test_text_without_a_template_is_plain_text_with_the_default_special_tokens(
    reward_dir, tmp_path
):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    copy = shutil.copytree(reward_dir, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    result = score(dataset(TEXT), policy=str(copy), backend="reward")
    assert any("no chat template" in note for note in result.notes)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    model = AutoModelForSequenceClassification.from_pretrained(copy).eval()
    ids = [[tokenizer(p + side)["input_ids"] for side in sides] for p, *sides in TEXT]
    expected = one_by_one(model, ids, torch)
    actual = result.scores.select("a_reward", "b_reward").to_numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    lengths = result.scores.select("a_tokens", "b_tokens").rows()
    assert lengths == [tuple(map(len, sides)) for sides in ids]
    with pytest.raises(InputError, match="no chat template"):
        rewards(CHAT, copy)


@pytest.mark.parametrize("padding", [0, 2, None, -1], ids=["own", "eos", "none", "no id"])
def test_padding_and_batches_change_nothing(padding, tmp_path):
    """`eos`: every row ends in the padding token, and the model reads the token before it."""
    model = save_reward_model(tmp_path, pad_token_id=padding)
    expected = plain_rewards(model, CHAT)
    for batch_tokens in (1, 200, 4096):
        actual = rewards(CHAT, model, batch_tokens=batch_tokens)
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    said = []
    score(dataset(CHAT), policy=str(model), backend="reward", announce=said.append)
    assert any("at the token before" in note for note in said) == (padding == 2)


def test_a_model_that_reads_both_ways_does_not_see_the_padding(reward_dir, tmp_path):
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    AutoTokenizer.from_pretrained(reward_dir).save_pretrained(tmp_path)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=400,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=2048,
        initializer_range=0.3,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    actual = rewards(CHAT, tmp_path, batch_tokens=4096)
    np.testing.assert_allclose(actual, plain_rewards(tmp_path, CHAT), atol=2e-5)


def test_a_batch_that_does_not_fit_is_halved_down_to_one_pair():
    import torch

    from denoise.scorers.transformers import DeviceScorer

    tried = []

    class Counting(DeviceScorer):
        most = 2

        def forward(self, pairs):
            tried.append(len(pairs))
            if len(pairs) > self.most:
                raise torch.OutOfMemoryError
            return np.array([[len(pair.a), len(pair.b)] for pair in pairs])

    scorer = Counting("cpu", None)
    pairs = [TokenPair([1], [2] * n, [3]) for n in range(1, 8)]
    whole = scorer.score_batch(pairs)
    assert whole[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert tried == [7, 3, 1, 2, 4, 2, 2]
    scorer.most = 0
    with pytest.raises(RunError, match="a pair of 3 tokens does not fit into the memory of cpu"):
        scorer.score_batch(pairs)


def test_swapped_responses_have_swapped_rewards(reward_dir):
    swapped = [(p, b, a) for p, a, b in CHAT]
    np.testing.assert_allclose(
        rewards(swapped, reward_dir), rewards(CHAT, reward_dir)[:, ::-1], atol=1e-6
    )


def test_the_ids_are_those_of_trls_reward_trainer(reward_dir, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(reward_dir)
    names = ("prompt", "chosen", "rejected")
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(reward_dir),
        args=RewardConfig(
            output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to=[], max_length=None
        ),
        train_dataset=Rows.from_list([dict(zip(names, row, strict=True)) for row in CHAT]),
        processing_class=tokenizer,
    )
    ours = tokenise(tokenizer, CHAT, "reward", 1024, truncate=False)
    assert [list(p.prompt + p.a) for p in ours] == trainer.train_dataset["chosen_ids"][:]
    assert [list(p.prompt + p.b) for p in ours] == trainer.train_dataset["rejected_ids"][:]


def test_a_template_that_writes_the_bos_token_has_it_once(reward_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward_dir)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    for pair in tokenise(tokenizer, [*CHAT], "reward", 1024, truncate=False):
        ids = list(pair.prompt + pair.a)
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


class Letters:
    """A tokenizer without a template or special tokens: a letter, an id."""

    chat_template = eos_token = None

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(c) for c in text] for text in texts]}


def reward_ids(a, b, prompt="", max_length=9):
    return tokenise(Letters(), [(prompt, a, b)], "reward", max_length, truncate=False)[0]


def test_each_side_keeps_a_token_and_nothing_is_cut():
    def ids(pair):
        return [bytes(part).decode() for part in map(list, pair[:3])]

    assert ids(reward_ids("ab", "ac", "x")) == ["xa", "b", "c"]
    assert ids(reward_ids("ab", "ab", "x")) == ["xa", "b", "b"]
    assert ids(reward_ids("", "ab", "x")) == ["", "x", "xab"]
    assert isinstance(reward_ids("a" * 8, "b", "x"), TokenPair)
    skip = reward_ids("a" * 9, "b", "x")
    assert skip == Skip("prompt and response exceed max_length 9", 1, 9, 1)
    assert "response b have no token" in reward_ids("a", "").reason


def test_an_overlong_pair_is_skipped_without_advice_to_cut_it(reward_dir):
    result = score(dataset(CHAT), policy=str(reward_dir), backend="reward", max_length=64)
    assert result.skipped["pair_id"].to_list() == ["p3"]
    said = " ".join(result.notes)
    assert "exceed max_length 64" in said and "--max-length N" in said
    assert "keep-start" not in said and "--reference" not in said


def test_a_language_model_has_no_reward_head(policy_dir, capfd):
    with pytest.raises(InputError, match=r"no reward model: its weights lack score\.weight"):
        rewards(CHAT, policy_dir)
    assert capfd.readouterr() == ("", "")


def test_several_labels_are_refused(tmp_path):
    with pytest.raises(InputError, match="no reward model: it has 2 labels"):
        rewards(CHAT, save_reward_model(tmp_path, num_labels=2))


def save_adapter(base, directory, num_labels=1, **options):
    """A LoRA adapter for rewards with a random head; returns the live model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(4)
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=num_labels),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options),
    )
    model.save_pretrained(directory)
    return model.eval()


@pytest.mark.parametrize("base", ["reward_dir", "policy_dir"])
def test_an_adapter_brings_the_head(base, tmp_path, request):
    """As RewardTrainer saves it: on a language model, whose own configuration has two labels."""
    import torch
    from transformers import AutoTokenizer

    base = request.getfixturevalue(base)
    live = save_adapter(base, tmp_path, task_type="SEQ_CLS")
    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = tokenise(tokenizer, CHAT, "reward", 1024, truncate=False)
    expected = one_by_one(live, [(p.prompt + p.a, p.prompt + p.b) for p in pairs], torch)
    np.testing.assert_allclose(rewards(CHAT, tmp_path), expected, atol=1e-4)


def test_an_adapter_without_the_head_on_a_language_model_is_refused(policy_dir, tmp_path):
    save_adapter(policy_dir, tmp_path)
    with pytest.raises(InputError, match="no reward model: its weights lack"):
        rewards(CHAT, tmp_path)


def test_an_adapter_with_two_labels_is_refused(policy_dir, tmp_path):
    save_adapter(policy_dir, tmp_path, num_labels=2, task_type="SEQ_CLS")
    with pytest.raises(InputError, match="it has 2 labels"):
        rewards(CHAT, tmp_path)


def test_a_reward_that_is_not_finite_is_a_failed_run(reward_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(reward_dir, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["score.weight"][0, 0] = float("nan")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="the score of pair p3 is not finite"):
        rewards(CHAT, copy)


def test_a_token_that_the_model_does_not_have_is_refused(tmp_path):
    with pytest.raises(InputError, match="outside the model's vocabulary of 100"):
        rewards(CHAT, save_reward_model(tmp_path, vocab_size=100))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenize": "trl-dpo"}, "a reward model has a rule of its own"),
        ({"truncate": "keep-start"}, "where a reward is read"),
        ({"tokenize": "reward", "backend": "transformers"}, "give --backend reward"),
        ({"reference": "x"}, "--reference means nothing to a reward model"),
    ],
)
def test_what_means_nothing_to_a_reward_model_is_refused(options, message, reward_dir):
    with pytest.raises(InputError, match=message):
        score(dataset(CHAT), policy=str(reward_dir), **{"backend": "reward", **options})


def test_the_rule_follows_the_backend_and_is_in_the_provenance(reward_dir):
    assert ScoreSettings().tokenize == "trl-dpo"
    planned = plan(dataset(CHAT), str(reward_dir), None, ScoreSettings(backend="reward"), print)
    told = planned.provenance.settings
    assert (told["backend"], told["tokenize"]) == ("reward-transformers", "reward")
    again = ScoreSettings(backend="reward", tokenize="reward")
    assert plan(dataset(CHAT), str(reward_dir), None, again, print).provenance.settings == told


def test_finished_work_is_continued_and_a_finished_file_is_left(reward_dir, tmp_path):
    planned = plan(
        dataset(CHAT),
        str(reward_dir),
        None,
        ScoreSettings(backend="reward", batch_tokens=200),
        print,
    )
    run(planned, tmp_path / "parts")
    (part,) = (tmp_path / "parts").glob("reward-*.parquet")
    kept = pl.read_parquet(part)
    assert len(kept) == len(CHAT)
    first, second = planned.ids[:2]
    marked = kept.with_columns(a=pl.when(pl.col("pair_id") == first).then(7.0).otherwise("a"))
    marked.filter(pl.col("pair_id") != second).write_parquet(part)
    # What is kept is taken as it is, and what is missing is scored.
    result = run(planned, tmp_path / "parts").scores
    assert result["a_reward"][0] == 7.0
    assert result["a_reward"][1] == pytest.approx(kept.filter(pair_id=second)["a"][0])
    path = tmp_path / "scores.parquet"
    assert score_to_file(planned, path) is not None
    assert score_to_file(planned, path) is None
    made = json.loads(pl.read_parquet_metadata(path)["denoise"])
    assert made["run_id"] == planned.provenance.run_id
