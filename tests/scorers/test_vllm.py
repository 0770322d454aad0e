"""The vLLM scorer with the real engine: agreement, both runners, adapters, deaths, and refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from commands import interruptible
from small_models import save_reward_model
from small_pairs import make

from denoise.dataset import write_dataset
from denoise.errors import InputError, RunError
from denoise.scorers import vllm
from denoise.scorers.models import resolve
from denoise.scorers.settings import ScoreSettings
from denoise.stages.score import plan, run
from denoise.tokenise import TokenPair

TOLERANCE = 5e-5
"""Nats a response token; vLLM's own log-softmax on the CPU is off by 1.6e-5."""


def ids(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 400, count).tolist()


def odd_pairs() -> list[TokenPair]:
    """Long prompts, prompts that repeat, responses that begin alike, a pair twice, no prompt."""
    pairs = []
    for i in range(8):
        prompt = ids(100 + i % 4, i % 4)
        a = ids(70, 10 + i)
        pairs.append(TokenPair(prompt, a, a[:40] + ids(3 + i, 20 + i)))
    pairs.append(pairs[0])
    pairs.append(TokenPair([], ids(80, 30), ids(3, 31)))
    pairs.append(TokenPair(ids(9, 32), ids(5, 33), ids(50, 34), 2, 1))
    pairs.append(TokenPair(ids(1, 35), ids(1, 36), ids(1, 37)))
    return pairs


def by_transformers(pairs: list[TokenPair], model: Path) -> np.ndarray:
    from denoise.scorers.transformers import TransformersScorer

    scorer = TransformersScorer(resolve(str(model)))
    scorer.prepare(pairs)
    return scorer.score_batch(pairs)


def by_vllm(
    pairs: list[TokenPair], model: Path, logs: Path | None = None, **settings: object
) -> tuple[np.ndarray, tuple[str, ...]]:
    # The models are of float32, which vLLM's own `auto` would make bfloat16 of.
    source = resolve(str(model))
    scorer = vllm.VllmScorer(source, ScoreSettings(**{"backend": "vllm", **settings}), logs=logs)
    values = np.full((len(pairs), 2), np.nan)
    try:
        notes = scorer.prepare(pairs)
        for rows, finished in scorer.score(pairs, np.arange(len(pairs))):
            values[rows] = finished
    finally:
        scorer.close()
    return values, notes


def differences(pairs: list[TokenPair], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Nats a response token."""
    return np.abs(one - other) / [[pair.a_tokens, pair.b_tokens] for pair in pairs]


def test_it_agrees_with_transformers_on_pairs_of_every_shape(policy_dir):
    pairs = odd_pairs()
    values, notes = by_vllm(pairs, policy_dir)
    assert differences(pairs, values, by_transformers(pairs, policy_dir)).max() < TOLERANCE
    assert notes == ("prompts are computed twice; this vLLM has not its V2 runner here",)


def test_the_v2_runner_reads_prompts_from_its_cache_and_what_that_drops_is_repaired(
    policy_dir, monkeypatch, tmp_path
):
    """The GPU's runner, its kernels in Triton's interpreter.

    Responses that begin alike make the cache reach past the first scored token, and then vLLM
    returns nothing.
    """
    hook = Path(__file__).parent / "triton_on_cpu"
    monkeypatch.setenv("PYTHONPATH", str(hook), prepend=os.pathsep)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    pairs = odd_pairs()
    values, notes = by_vllm(pairs, policy_dir, tmp_path, engine_args={"block_size": 32})
    assert differences(pairs, values, by_transformers(pairs, policy_dir)).max() < TOLERANCE
    assert notes == ()
    (log,) = tmp_path.iterdir()
    assert log.read_text().count("computed again, without the prefix cache") >= 8


def test_two_copies_share_the_work_and_small_steps_give_the_same(policy_dir):
    """Prompts are cut into chunks of at most 64 tokens."""
    pairs = odd_pairs() * 3
    arguments = {"max_num_batched_tokens": 64, "max_num_seqs": 8}
    values, _ = by_vllm(pairs, policy_dir, data_parallel=2, engine_args=arguments)
    assert differences(pairs, values, by_transformers(pairs, policy_dir)).max() < TOLERANCE


SCORE = """
import sys
import denoise.stages.score as stage
stage.KEEP_SECONDS = 0.0
from denoise.cli import main
main(sys.argv[1:])
"""


def engines_of(process: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.Error):  # it may have ended in the meantime
            found += [child] if "denoise.scorers.process" in " ".join(child.cmdline()) else []
    return found


def test_an_engine_or_a_command_that_is_killed_leaves_what_is_finished(policy_dir, tmp_path):
    """Kill the engine, then the command; the third time it finishes."""
    data = make(500)
    write_dataset(data, tmp_path / "data")
    out = tmp_path / "scores.parquet"
    parts = tmp_path / "scores.parquet.parts"
    command = [
        *(sys.executable, "-c", SCORE, "score", str(tmp_path / "data"), "--backend", "vllm"),
        *("--policy", str(policy_dir), "--engine-arg", "max_num_seqs=16", "--out", str(out)),
    ]

    def until_killed(victim: str) -> tuple[int, str]:
        before = len(list(parts.glob("*.parquet")))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while process.poll() is None and len(list(parts.glob("*.parquet"))) <= before + 2:
            time.sleep(0.01)
        (engine,) = engines_of(process)
        (engine if victim == "engine" else process).send_signal(signal.SIGKILL)
        printed = process.communicate(timeout=60)[0].decode()
        engine.wait(timeout=60)  # it does not outlive the command
        return process.returncode, printed

    status, printed = until_killed("engine")
    assert status == 1
    assert "the engine was killed (SIGKILL, perhaps for want of memory)" in printed
    assert "the same command continues; what vLLM printed is in" in " ".join(printed.split())
    assert "Traceback" not in printed
    kept = len(list(parts.glob("*.parquet")))
    assert kept >= 3

    status, _ = until_killed("command")
    assert status == -signal.SIGKILL
    assert len(list(parts.glob("*.parquet"))) > kept

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not parts.exists()
    import polars as pl

    found = pl.read_parquet(out)
    expected = run(plan(data, str(policy_dir), None, ScoreSettings(), print)).scores
    assert found["pair_id"].equals(expected["pair_id"])
    for side in "ab":
        off = found[f"policy_{side}_logps"] - expected[f"policy_{side}_logps"]
        assert (off.abs() / expected[f"{side}_tokens"]).max() < TOLERANCE


@pytest.mark.parametrize("loading", [True, False], ids=["loading", "scoring"])
def test_an_interrupt_ends_the_command_and_its_engine(loading, policy_dir, tmp_path):
    write_dataset(make(500), tmp_path / "data")
    parts = tmp_path / "scores.parquet.parts"
    process = interruptible(
        [
            *(sys.executable, "-c", SCORE, "score", "data", "--backend", "vllm"),
            *("--policy", str(policy_dir), "--engine-arg", "max_num_seqs=8"),
        ],
        tmp_path,
    )
    try:
        engines: list[psutil.Process] = []
        while not engines or not (loading or list(parts.glob("*.parquet"))):
            assert process.poll() is None
            engines = engines_of(process)
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert not engines[0].is_running()
    finally:
        process.kill()
        process.wait()


def adapter(base: Path, directory: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(directory)
    return directory


def test_more_copies_than_cores_are_refused():
    with pytest.raises(RunError, match=r"1000000 copies .* lower --data-parallel"):
        vllm.environments_of(ScoreSettings(data_parallel=1_000_000))


def test_an_adapter_is_merged_into_a_private_checkpoint_that_does_not_stay(
    policy_dir, tmp_path, monkeypatch
):
    from denoise.scorers import checkpoint

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    orphan = temporary / f"{checkpoint.PREFIX}of-a-killed-run"
    orphan.mkdir()
    (orphan / ".lock").touch()
    model = adapter(policy_dir, tmp_path / "adapter")
    pairs = odd_pairs()
    scorer = vllm.VllmScorer(resolve(str(model)), ScoreSettings(dtype="float32"))
    scorer.prepare(pairs)
    (directory,) = temporary.glob(f"{checkpoint.PREFIX}*")
    assert directory != orphan
    assert directory.stat().st_mode & 0o777 == 0o700
    checkpoint.remove_orphans()
    assert directory.exists()  # its owner lives
    ((_, values),) = scorer.score(pairs[:1], np.arange(1))
    scorer.close()
    assert not [path for path in temporary.iterdir() if path.name.startswith(checkpoint.PREFIX)]

    expected = by_transformers(pairs[:1], model)
    assert differences(pairs[:1], values, expected).max() < TOLERANCE
    base = by_transformers(pairs[:1], policy_dir)
    assert np.abs(base - expected).min() > 0.1


def test_rewards_are_those_of_transformers_also_where_rows_end_in_the_padding_token(tmp_path):
    """vLLM reads the very last token; transformers the last that is not padding, 2 here."""
    from denoise.scorers.reward import RewardScorer

    model = save_reward_model(tmp_path, pad_token_id=2)
    pairs = [
        TokenPair(ids(30, 0), [*ids(9, 1), 2], [*ids(40, 2), 2, 2]),
        TokenPair(ids(3, 3), ids(5, 4), [2]),
    ]
    scorer = RewardScorer(resolve(str(model)), dtype="float32")
    expected = scorer.score_batch(pairs)
    values, notes = by_vllm(pairs, model, backend="reward-vllm")
    np.testing.assert_allclose(values, expected, atol=2e-5)
    assert notes == ()


def test_a_model_without_one_score_is_no_reward_model_for_vllm(policy_dir, tmp_path):
    with pytest.raises(InputError, match=r"has no score head.*'LlamaForCausalLM'"):
        by_vllm(odd_pairs(), policy_dir, backend="reward-vllm")
    with pytest.raises(InputError, match="has 2 labels"):
        by_vllm(odd_pairs(), save_reward_model(tmp_path, num_labels=2), backend="reward-vllm")


def test_a_checkpoint_that_fails_is_removed_and_one_of_a_killed_owner_at_the_next_start(
    policy_dir, tmp_path
):
    model = adapter(policy_dir, tmp_path / "adapter")
    program = (
        "import os, signal, sys\n"
        "from denoise.scorers.checkpoint import readable_checkpoint\n"
        "from denoise.scorers.models import load_model, resolve\n"
        "with readable_checkpoint(resolve(sys.argv[1]), load_model, 'float32') as directory:\n"
        "    print(directory, flush=True)\n"
        "    if sys.argv[2] == 'fail': raise ValueError\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    def owner(how: str) -> Path:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", program, str(model), how]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return Path(done.stdout.strip())

    left = owner("die")
    assert (left / "model.safetensors").exists()
    failed = owner("fail")
    assert failed.name.startswith("denoise-checkpoint-")
    assert not failed.exists()
    assert not left.exists()


def test_a_checkpoint_that_the_disk_has_no_room_for_names_the_directory(policy_dir, tmp_path):
    model = adapter(policy_dir, tmp_path / "adapter")
    program = (
        "import resource, sys\n"
        "from denoise.scorers.checkpoint import readable_checkpoint\n"
        "from denoise.scorers.models import load_model, resolve\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))\n"
        "with readable_checkpoint(resolve(sys.argv[1]), load_model, 'float32'): pass\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "RunError: the merged model could not be written to" in done.stderr
    assert not list(tmp_path.glob("denoise-checkpoint-*"))


def test_a_model_that_vllm_does_not_know_is_refused_with_the_way_out(policy_dir, tmp_path):
    """XLNet is a language model of transformers that vLLM has no code for."""
    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    config = {"model_type": "xlnet", "architectures": ["XLNetLMHeadModel"], "vocab_size": 400}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"vLLM does not support this model.*--backend transf"):
        by_vllm(odd_pairs(), copy)


def test_a_log_prob_that_is_not_finite_ends_the_run(policy_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(policy_dir, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    settings = ScoreSettings(backend="vllm", engine_args={"max_num_seqs": 8})
    with pytest.raises(RunError, match="is not finite"):
        run(plan(make(3), str(copy), None, settings, print))


def test_an_engine_argument_that_vllm_has_not_is_refused(policy_dir):
    with pytest.raises(InputError, match=r"no such --engine-arg.*unexpected keyword"):
        by_vllm(odd_pairs(), policy_dir, engine_args={"nonsense": 1})


def test_too_little_memory_for_the_cache_says_what_to_change_and_keeps_the_log(
    policy_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(
        RunError, match=r"too little memory for the KV cache.*--max-length"
    ) as error:
        by_vllm(odd_pairs(), policy_dir, engine_args={"kv_cache_memory_bytes": 4096})
    (log,) = tmp_path.glob("denoise-vllm-*/vllm-policy-0.log")
    assert str(log.parent) in str(error.value)
    assert "Traceback" in log.read_text()


def test_a_pair_may_fill_the_models_context_and_not_exceed_it(policy_dir):
    pairs = [TokenPair(ids(2000, 0), ids(48, 1), ids(2, 2))]
    values, _ = by_vllm(pairs, policy_dir)
    assert differences(pairs, values, by_transformers(pairs, policy_dir)).max() < TOLERANCE
    with pytest.raises(InputError, match=r"2,049 tokens, and the model's context is 2,048.*--max"):
        by_vllm([TokenPair(ids(2000, 0), ids(49, 1), [5])], policy_dir)


def test_the_messages_that_are_explained_are_those_of_this_vllm():
    """What a GPU alone can raise is looked up in vLLM's source."""
    import vllm as package

    source = "\n".join(
        (Path(package.__file__).parent / name).read_text()
        for name in ("v1/worker/utils.py", "v1/core/kv_cache_utils.py", "config/model.py")
    )
    for words in ("Free memory on device", "No available memory for the cache blocks"):
        assert words in source
        assert not str(vllm.explain(f"ValueError: {words} x is less than y", "")).startswith(
            "vLLM failed"
        )
    assert "vLLM failed: KeyError: 'x'" in str(vllm.explain("KeyError: 'x'", "all is well"))


def test_pairs_of_one_prompt_stay_together_the_longest_first():
    pairs = [TokenPair([n], [1] * length, [1]) for n, length in ((1, 2), (2, 9), (1, 5), (3, 5))]
    assert vllm.by_prompt(pairs, np.array([0, 1, 2, 3])) == [1, 0, 2, 3]
    assert vllm.by_prompt(pairs, np.array([0, 3])) == [3, 0]
