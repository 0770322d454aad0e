"""The scoring stage: layouts, shards, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from small_pairs import make, planned

from denoise import tables
from denoise.dataset import Dataset
from denoise.errors import InputError, RunError
from denoise.schema import pairs_hash
from denoise.scorers.settings import ScoreSettings
from denoise.scores import Scores, score_file, write_scores
from denoise.stages.score import plan, run, score, score_to_file
from denoise.tables import Provenance


def logp_of_one_row(model, prompt, response) -> float:
    """The response's log-prob by the plainest way: one row, no mask, log softmax, gather, sum."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0]
    logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logps.gather(1, torch.tensor(response)[:, None]).sum().item()


def test_shared_and_plain_rows_and_the_models_own_head_agree(policy_dir):
    from denoise.scorers.models import resolve
    from denoise.scorers.transformers import TransformersScorer

    pairs = planned(make(40), policy_dir).pairs
    scorer = TransformersScorer(resolve(str(policy_dir)))
    assert scorer.prepare(pairs) == ()
    assert scorer.layout == "shared"
    results = {}
    for layout in ("shared", "plain", "full"):
        scorer.layout = layout
        results[layout] = scorer.score_batch(pairs)
    np.testing.assert_allclose(results["shared"], results["full"], rtol=1e-5)
    np.testing.assert_allclose(results["plain"], results["full"], rtol=1e-5)


def test_logps_equal_a_sum_over_single_rows_in_float64(policy_dir):
    """Each side alone, no batch, no mask: log softmax of the float64 logits, summed."""
    from transformers import AutoModelForCausalLM

    work = planned(make(5), policy_dir)
    actual = run(work).scores
    model = AutoModelForCausalLM.from_pretrained(policy_dir, dtype="float64").eval()
    for row, pair in enumerate(work.pairs):
        for side, ids in (("a", pair.a), ("b", pair.b)):
            expected = logp_of_one_row(model, pair.prompt, ids)
            assert actual[f"policy_{side}_logps"][row] == pytest.approx(expected, rel=1e-5)


def test_the_result_does_not_depend_on_the_batch_size_and_keeps_the_inputs_order(policy_dir):
    data = make(60)
    small = score(data, policy=str(policy_dir), batch_tokens=64).scores
    large = score(data, policy=str(policy_dir), batch_tokens=4096).scores
    assert small["pair_id"].to_list() == data.pairs["pair_id"].to_list()
    np.testing.assert_allclose(
        small["policy_a_logps"].to_numpy(), large["policy_a_logps"].to_numpy(), rtol=1e-5
    )


def test_windowed_attention_is_scored_in_plain_rows(tmp_path, policy_dir):
    """A block mask would lift the window of 16 tokens; the plain path keeps it."""
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    AutoTokenizer.from_pretrained(policy_dir).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=16,
        initializer_range=0.3,
    )
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    said = []
    work = planned(make(6), tmp_path)
    result = run(work, announce=said.append).scores
    assert "prompts are computed twice" in said[0]
    pair = max(work.pairs, key=lambda p: len(p.prompt))
    row = work.pairs.index(pair)
    expected = logp_of_one_row(model, pair.prompt, pair.a)
    assert result["policy_a_logps"][row] == pytest.approx(expected, rel=1e-4)


def test_a_merged_adapter_scores_as_peft_does(policy_dir, tmp_path):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(policy_dir),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    model.save_pretrained(tmp_path)
    said = []
    work = plan(make(4), str(tmp_path), None, ScoreSettings(), said.append)
    assert said == [f"{tmp_path.name} is an adapter; its base model is {policy_dir}"]
    actual = run(work).scores
    live = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(policy_dir), tmp_path
    ).eval()
    for row, pair in enumerate(work.pairs):
        expected = logp_of_one_row(live, pair.prompt, pair.a)
        assert actual["policy_a_logps"][row] == pytest.approx(expected, rel=1e-4)


def test_shards_together_are_the_whole(policy_dir, reference_dir, tmp_path):
    from denoise.stages.em import join_scores

    data = make(23)
    out = tmp_path / "scores.parquet"
    for index in range(12):  # with one pair or two each, some shards have nothing but skipped pairs
        work = planned(data, policy_dir, reference_dir, shard=(index, 12), max_length=60)
        score_to_file(work, score_file(out, (index, 12)))
    assert list(tmp_path.glob("*.skipped.parquet"))
    joined, _ = join_scores(out)
    whole = run(planned(data, policy_dir, reference_dir, max_length=60)).scores
    joined = whole.select("pair_id").join(joined, on="pair_id", maintain_order="left")
    for column in ("policy_a_logps", "policy_b_logps", "ref_a_logps", "ref_b_logps"):
        np.testing.assert_allclose(joined[column].to_numpy(), whole[column].to_numpy(), rtol=1e-5)


def test_the_identity_of_a_model_covers_its_template_and_tokenizer(policy_dir, tmp_path):
    import shutil

    from denoise.scorers.models import resolve

    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    assert resolve(str(copy)).identity == resolve(str(policy_dir)).identity
    config = copy / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "note": "changed"}))
    assert resolve(str(copy)).identity != resolve(str(policy_dir)).identity


def test_other_vocabularies_are_refused(policy_dir, tmp_path):
    import shutil

    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[f"{last}!"] = vocabulary.pop(last)
    merges.pop()
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="different vocabularies"):
        planned(make(3), policy_dir, copy)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./not-there", "there is no such model"),
        ("nobody/no-such-model", "there is no local model 'nobody/no-such-model'"),
        ("two words/of nothing", "neither a local directory nor a hub id"),
    ],
)
def test_a_model_that_is_not_there_is_named(model, message):
    with pytest.raises(InputError, match=message):
        planned(make(3), model)


def test_weights_cut_short_are_refused(policy_dir, tmp_path):
    import shutil

    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="the model cannot be loaded"):
        run(planned(make(3), copy))


def test_a_reward_model_is_not_scored_as_a_language_model_with_a_random_head(reward_dir):
    with pytest.raises(InputError, match=r"no language model: its weights lack lm_head.*reward"):
        run(planned(make(3), reward_dir))


def test_a_response_of_a_million_characters_is_skipped_with_its_reason(policy_dir):
    data = make(3)
    huge = data.pairs.with_columns(
        pl.when(pl.col("pair_id") == "p1")
        .then(pl.lit("x " * 500_000))
        .otherwise("response_a")
        .alias("response_a")
    )
    result = run(planned(Dataset(data.provenance, pairs=huge, votes=data.votes), policy_dir))
    assert result.skipped["pair_id"].to_list() == ["p1"]
    assert result.skipped["a_tokens"][0] >= 500_000


def test_chat_needs_a_template(policy_dir, tmp_path):
    import shutil

    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    data = make(2)
    chat = data.pairs.with_columns(
        pl.concat_list(pl.struct(pl.lit("user").alias("role"), pl.col(c).alias("content"))).alias(c)
        for c in ("prompt", "response_a", "response_b")
    )
    with pytest.raises(InputError, match="no chat template"):
        planned(Dataset(data.provenance, pairs=chat, votes=data.votes), copy)


def test_wrong_settings_are_all_named_at_once(policy_dir):
    with pytest.raises(InputError) as error:
        planned(make(2), policy_dir, tokenize="x", max_length=0, shard=(4, 4))
    assert len(error.value.faults) == 3


def test_provenance_holds_the_pairs_and_models_by_hash_and_no_path(policy_dir, tmp_path):
    data = make(4)
    path = tmp_path / "scores.parquet"
    score_to_file(planned(data, policy_dir), path)
    provenance = tables.read_provenance(path)
    assert provenance.inputs["pairs"] == pairs_hash(data.pairs)
    assert str(policy_dir.parent) not in provenance.to_json()


def test_a_file_of_the_users_own_is_not_replaced(tmp_path):
    path = tmp_path / "scores.parquet"
    pl.DataFrame({"x": [1]}).write_parquet(path)
    with pytest.raises(InputError, match="is no whole table that `denoise score` made"):
        tables.check_table_out(path, "score")


def test_skipped_pairs_are_written_beside_the_scores(policy_dir, tmp_path):
    path = tmp_path / "scores.parquet"
    result = score_to_file(planned(make(30), policy_dir, max_length=60), path)
    skipped = pl.read_parquet(tmp_path / "scores.skipped.parquet")
    assert 0 < len(skipped) == 30 - len(result.scores)
    assert skipped["reason"].str.contains("max_length 60").all()
    write_scores(Scores(result.scores, skipped.clear(), result.provenance), path)
    assert not (tmp_path / "scores.skipped.parquet").exists()


def test_a_file_that_is_there_is_not_scored_again_and_its_parts_are_removed(policy_dir, tmp_path):
    """A kill can fall between the write of the file and the removal of its parts."""
    path, work = tmp_path / "scores.parquet", planned(make(6), policy_dir)
    score_to_file(work, path)
    parts = tmp_path / "scores.parquet.parts"
    run(work, parts)
    assert score_to_file(work, path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["scores.parquet"]


def test_a_log_prob_that_is_not_finite_is_a_failed_run(policy_dir, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="is not finite"):
        run(planned(make(3), copy))


def test_a_dialogue_that_the_template_refuses_is_skipped_with_its_words(policy_dir, tmp_path):
    import shutil

    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    template = copy / "chat_template.jinja"
    refusal = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    template.write_text(refusal + template.read_text())

    def turn(role):
        return [{"role": role, "content": "apples"}]

    pairs = pl.DataFrame(
        {
            "pair_id": ["fine", "odd"],
            "prompt": [turn("user"), turn("system") + turn("user")],
            "response_a": [turn("assistant")] * 2,
            "response_b": [[{"role": "assistant", "content": "kind"}]] * 2,
        }
    )
    data = Dataset(Provenance("import"), pairs=pairs, votes=make(2).votes)
    result = run(planned(data, copy))
    assert result.scores["pair_id"].to_list() == ["fine"]
    assert "no system role" in result.skipped["reason"][0]


def test_what_auto_means_is_part_of_the_provenance(policy_dir):
    assert planned(make(2), policy_dir).provenance.settings["dtype"] == "float32"


def test_a_failed_start_does_not_block_the_next_run(policy_dir, reference_dir, tmp_path):
    import shutil

    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"broken")
    path = tmp_path / "scores.parquet"
    with pytest.raises(InputError):
        score_to_file(planned(make(3), copy), path)
    score_to_file(planned(make(3), reference_dir), path)
    assert path.exists()


def test_nothing_to_score_is_refused(policy_dir):
    with pytest.raises(InputError, match="no pair can be scored"):
        planned(make(3), policy_dir, max_length=1)


@pytest.mark.parametrize("device", ["nonsense", "cuda"])
def test_a_device_that_is_not_there_is_refused(device, policy_dir):
    import torch

    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(InputError):
        planned(make(2), policy_dir, device=device)


def test_a_models_credentials_are_not_shown():
    with pytest.raises(InputError) as error:
        planned(make(2), "https://user:secret@example.org/m?token=secret")
    assert "secret" not in str(error.value)


def test_text_and_messages_in_one_pair_are_refused(policy_dir):
    data = make(2)
    chat = pl.struct(role=pl.lit("user"), content=pl.col("prompt"))
    mixed = data.pairs.with_columns(prompt=pl.concat_list(chat))
    with pytest.raises(InputError, match="some are messages"):
        planned(Dataset(data.provenance, pairs=mixed, votes=data.votes), policy_dir)
