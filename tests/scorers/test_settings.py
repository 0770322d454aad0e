"""Settings of scoring: what does not go together, and what the numbers depend on."""

from __future__ import annotations

import pytest

from denoise.cli.app import key_values
from denoise.errors import InputError
from denoise.scorers.backends import settle
from denoise.scorers.settings import ScoreSettings


def test_what_means_nothing_to_the_backend_is_refused_all_at_once():
    with pytest.raises(InputError) as error:
        ScoreSettings(backend="transformers", tensor_parallel=2, engine_args={"seed": 1})
    assert len(error.value.faults) == 2
    with pytest.raises(InputError, match="--batch-tokens means nothing to --backend reward-vllm"):
        ScoreSettings(backend="reward-vllm", batch_tokens=512)
    with pytest.raises(InputError, match="--gpu-memory-utilization is out of range"):
        ScoreSettings(backend="vllm", gpu_memory_utilization=1.5)
    assert ScoreSettings(tensor_parallel=2, batch_tokens=512).backend == "auto"


def test_without_a_gpu_transformers_computes_in_float32():
    assert settle(ScoreSettings()).backend == "transformers"
    assert settle(ScoreSettings(backend="reward")).backend == "reward-transformers"
    assert settle(ScoreSettings(backend="vllm")).dtype == "float32"


def test_a_run_may_be_continued_with_other_engine_arguments_for_memory_and_speed():
    given = {"max_num_seqs": 4, "kv_cache_dtype": "fp8"}
    settings = ScoreSettings(backend="vllm", engine_args=given)
    assert settings.of_the_numbers()["engine_args"] == {"kv_cache_dtype": "fp8"}


def test_a_token_reaches_the_engine_and_not_the_provenance():
    settings = ScoreSettings(backend="vllm", engine_args={"hf_token": "mine", "seed": 1})
    assert settings.of_the_numbers()["engine_args"] == {"hf_token": "***", "seed": 1}
    assert settings.engine_args["hf_token"] == "mine"


def test_engine_arguments_are_json_or_text():
    words = ["max-num-seqs=4", "quantization=awq", 'hf_overrides={"a": true}']
    given = key_values("--engine-arg", words)
    assert given == {"max_num_seqs": 4, "quantization": "awq", "hf_overrides": {"a": True}}
    with pytest.raises(InputError, match="--engine-arg is not KEY=VALUE, found 'seed'"):
        key_values("--engine-arg", ["seed"])
    with pytest.raises(InputError, match=r"found '\*\*\*'"):
        key_values("--engine-arg", [f"hf_{30 * 'a'}"])
    with pytest.raises(InputError, match="--engine-arg max_num_seqs is given twice"):
        key_values("--engine-arg", ["max-num-seqs=4", "max_num_seqs=8"])


def test_an_engine_argument_does_not_contradict_an_option():
    """Else another model would be scored under this one's name, or on GPUs that it has not got."""
    given = {"model": "x", "tensor_parallel_size": 2, "max_num_seqs": 4}
    with pytest.raises(InputError) as error:
        ScoreSettings(backend="vllm", engine_args=given)
    assert str(error.value).splitlines() == [
        "--engine-arg model has an option of its own; give --policy or --reference",
        "--engine-arg tensor_parallel_size has an option of its own; give --tensor-parallel",
    ]
