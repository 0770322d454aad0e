"""The vLLM engine: token ids in, log-probs of response tokens out, as requests finish.

It runs in a process of its own, which `denoise.scorers.vllm` starts.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from denoise.errors import RunError, refuse
from denoise.scorers.models import check_vocabulary
from denoise.scorers.settings import ScoreSettings
from denoise.tokenise import Ids, TokenPair

LOGITS_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
"""What the logits of one step may take. vLLM's memory profile leaves prompt log-probs out, and a
long prompt ran out of memory there (vllm-project/vllm#5907, #52054)."""

LOGITS_COPIES = 3
"""The logits, their log-softmax in float32, and the comparison that gives the rank."""

GPU_SHARE = 0.85
"""Of the GPU's memory, for weights and KV cache: less than vLLM's own, as logits come on top."""

CPU_CACHE_BYTES = 1 << 30
"""KV cache on the CPU, where vLLM's default is a share of all memory."""


class Job(NamedTuple):
    """What an engine has to know of all pairs: tokens of the longest sequence, the highest id."""

    longest: int
    highest: int


class VllmEngine:
    """One copy of a language model in vLLM; pairs are added, and come out finished from `step`.

    On the V2 runner, which asks for the response's rows only, the prompt is read from the prefix
    cache and so computed once a pair; elsewhere vLLM computes it for both responses.
    """

    def __init__(self, model: Path, settings: ScoreSettings, job: Job) -> None:
        from vllm import EngineArgs, LLMEngine
        from vllm.usage.usage_lib import UsageContext

        arguments = engine_arguments(model, settings, job)
        _fit_context(EngineArgs(**{**arguments, "max_model_len": None}), job)
        self.engine = LLMEngine.from_engine_args(
            EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS
        )
        self.reads_rows = reads_rows(self.engine)
        self.waiting: dict[int, tuple[TokenPair, dict[int, float]]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it is done."""
        if self.reads_rows:
            return ()
        return ("prompts are computed twice; this vLLM has not its V2 runner here",)

    def add(self, row: int, pair: TokenPair) -> None:
        """Hand a pair to the engine, its two responses next to each other."""
        self.waiting[row] = pair, {}
        for side in range(2):
            self._request(row, pair, side, from_cache=True)

    def _request(self, row: int, pair: TokenPair, side: int, from_cache: bool) -> None:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input

        ids, start = pair.sequence(side)
        how: dict[str, Any] = {"prompt_logprobs": 0, "flat_logprobs": True}
        if self.reads_rows:
            how = {
                "prompt_logprob_start": start - 1,
                "prompt_logprob_token_ids": np.array(ids[start:], dtype=np.int32)[:, None],
                "skip_reading_prefix_cache": not from_cache,
            }
        parameters = SamplingParams(max_tokens=1, temperature=0, detokenize=False, **how)
        name = f"{row}:{side}:{int(from_cache)}"
        self.engine.add_request(name, tokens_input(list(ids)), parameters)

    def step(self) -> list[tuple[int, tuple[float, float]]]:
        """Let the engine work for one step; the rows and values (a, b) of finished pairs."""
        finished = []
        for output in self.engine.step():
            if not output.finished:
                continue
            row, side, from_cache = map(int, output.request_id.split(":"))
            pair, values = self.waiting[row]
            value = self._read(output, pair, side, bool(from_cache))
            if value is None:
                # A cache hit past the first row drops the result: compute this one in full.
                print(f"computed again, without the prefix cache: row {row}, response {side}")
                self._request(row, pair, side, from_cache=False)
                continue
            values[side] = value
            if len(values) == 2:
                finished.append((row, (values[0], values[1])))
                del self.waiting[row]
        return finished

    def _read(self, output: Any, pair: TokenPair, side: int, from_cache: bool) -> float | None:
        """The sum of a response's log-probs, or None where the cache has swallowed them."""
        ids, start = pair.sequence(side)
        if not self.reads_rows:
            return flat_sum(output.prompt_logprobs, ids, start)
        logprobs = output.prompt_token_id_logprobs
        if logprobs is None and from_cache:
            return None
        if logprobs is None or np.size(logprobs) != len(ids) - start:
            raise RunError("vLLM returned no log-probs, or not one a token")
        return math.fsum(np.ravel(logprobs).tolist())


class VllmRewards(VllmEngine):
    """One copy of a reward model in vLLM's pooling runner: the logit of its one label.

    vLLM reads it at the very last token, and transformers, which such models are trained with, at
    the last that is not the padding token: what follows that is left out.
    """

    notes = ()

    def __init__(self, model: Path, settings: ScoreSettings, job: Job) -> None:
        super().__init__(model, settings, job)
        self.padding = self.engine.model_config.hf_text_config.pad_token_id

    def _request(self, row: int, pair: TokenPair, side: int, from_cache: bool) -> None:
        from vllm import PoolingParams
        from vllm.inputs.engine import tokens_input

        ids = list(pair.sequence(side)[0])
        while len(ids) > 1 and ids[-1] == self.padding:
            ids.pop()
        parameters = PoolingParams(task="classify", use_activation=False)
        self.engine.add_request(f"{row}:{side}:1", tokens_input(ids), parameters)

    def _read(self, output: Any, pair: TokenPair, side: int, from_cache: bool) -> float | None:
        return float(output.outputs.data.item())


def flat_sum(logprobs: Any, ids: Ids, start: int) -> float:
    """The sum of a `FlatLogprobs` from position `start` on, in float64.

    Raises:
        RunError: it is not of these ids: vLLM has changed the form.
    """
    if logprobs is None or len(logprobs.start_indices) != len(ids):
        raise RunError("vLLM returned no log-probs, or not one a token")
    first = logprobs.start_indices[start]
    if logprobs.token_ids[first:] != list(ids[start:]):
        raise RunError("vLLM returned log-probs of other tokens than were asked")
    return math.fsum(logprobs.logprobs[first:])


def reads_rows(engine: Any) -> bool:
    """Whether this engine scores given tokens from a given row on (`prompt_logprob_token_ids`).

    That takes vLLM's V2 runner, and is wrong where layers share their KV cache in the prefill
    (vllm/v1/engine/input_processor.py, `_validate_params`).
    """
    from vllm import SamplingParams

    known = "prompt_logprob_token_ids" in SamplingParams.__struct_fields__
    config = engine.vllm_config
    shares = getattr(config.cache_config, "kv_sharing_fast_prefill", False)
    return known and getattr(config, "use_v2_model_runner", False) and not shares


def engine_arguments(model: Path, settings: ScoreSettings, job: Job) -> dict[str, Any]:
    """The keywords of vLLM's `EngineArgs` for a job."""
    from transformers import AutoConfig
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    config = AutoConfig.from_pretrained(model, trust_remote_code=settings.trust_remote_code)
    vocabulary = config.get_text_config().vocab_size
    check_vocabulary(job.highest, vocabulary, settings.is_reward)
    if settings.is_reward:
        _check_head(config, model)
    arguments: dict[str, Any] = {
        "model": str(model),
        "dtype": _dtype(settings.dtype, config, model),
        "load_format": "safetensors",
        "skip_tokenizer_init": True,
        "trust_remote_code": settings.trust_remote_code,
        "tensor_parallel_size": settings.tensor_parallel,
        "pipeline_parallel_size": settings.pipeline_parallel,
        # The engine wants room for one more token than it is given.
        "max_model_len": job.longest + 1,
        # Nothing is generated, and compiled graphs are for decoding.
        "enforce_eager": True,
        "runner": "pooling" if settings.is_reward else "generate",
        "disable_log_stats": True,
        "seed": 0,
    }
    budget = LOGITS_BYTES["cpu" if on_cpu else "cuda"] // (4 * LOGITS_COPIES * vocabulary)
    if job.longest > budget and not settings.is_reward:
        arguments["max_num_batched_tokens"] = max(budget, 256)
    if settings.gpu_memory_utilization or not on_cpu:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization or GPU_SHARE
    elif "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        arguments["kv_cache_memory_bytes"] = CPU_CACHE_BYTES // settings.data_parallel
    return arguments | dict(settings.engine_args)


def _dtype(wanted: str, config: Any, model: Path) -> str:
    """The dtype asked for; vLLM's own `auto` would silently halve the precision of float32."""
    import torch
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    own = ModelArchConfigConvertorBase.get_torch_dtype(
        config, str(model), revision=None, config_format="hf"
    )
    return "float32" if wanted == "auto" and own == torch.float32 else wanted


def _check_head(config: Any, model: Path) -> None:
    """Refuse what is no reward model: vLLM would put a head of its own on it."""
    fix = "give a model for sequence classification with one label"
    if not any("SequenceClassification" in name for name in config.architectures or ()):
        refuse("the model has no score head", file=model, found=config.architectures, fix=fix)
    if config.num_labels != 1:
        refuse(f"the model has {config.num_labels} labels", file=model, fix=fix)


def _fit_context(arguments: Any, job: Job) -> None:
    """Refuse a sequence that is longer than the model's context, and let one fill it.

    The engine wants room for a token that it would generate. That token is never run, so a sequence
    as long as the context is fine, and vLLM has to be told.
    """
    context = arguments.create_model_config().max_model_len
    if job.longest > context:
        refuse(
            f"a prompt with its response has {job.longest:,} tokens, and the model's context is "
            f"{context:,}",
            fix=f"give --max-length {context}",
        )
    if job.longest == context:
        os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
