"""What can be set of a scoring run, with ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from denoise.errors import Fault, raise_any
from denoise.tokenise import RULES

BACKENDS = ("auto", "transformers", "vllm", "reward", "reward-transformers", "reward-vllm")
TRUNCATE = ("none", "keep-start")
DTYPES = ("auto", "float32", "bfloat16", "float16")
MAX_LENGTH = 1024
"""TRL's own default (DPOConfig.max_length)."""


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of `score`.

    The backend "reward" takes a reward model's rewards, the others a language model's log-probs.
    `tokenize` is the trainer whose token ids are scored ("trl-dpo" where it is None; of a reward
    model "reward", and no other), and `max_length` counts prompt + response;
    `truncate` is what becomes of a longer response: "none" skips its pair, "keep-start" cuts it.
    `shard` (i, n) scores part i of n, `limit` the first pairs only.

    Of vLLM: a model is spread over `tensor_parallel` × `pipeline_parallel` GPUs, with
    `data_parallel` copies; `engine_args` are vLLM's own.

    Raises:
        InputError: a setting is unknown or out of range; all of them are named.
    """

    backend: str = "auto"
    tokenize: str | None = None
    max_length: int = MAX_LENGTH
    truncate: str = "none"
    dtype: str = "auto"
    batch_tokens: int | None = None
    limit: int | None = None
    shard: tuple[int, int] | None = None
    device: str = "auto"
    trust_remote_code: bool = False
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    gpu_memory_utilization: float | None = None
    engine_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = []
        if self.tokenize is None:
            rule = "reward" if self.is_reward else "trl-dpo"
            object.__setattr__(self, "tokenize", rule)
        for option, value, known in (
            ("--backend", self.backend, BACKENDS),
            ("--tokenize", self.tokenize, RULES),
            ("--truncate", self.truncate, TRUNCATE),
            ("--dtype", self.dtype, DTYPES),
        ):
            if value not in known:
                wrong.append(
                    Fault(f"{option} is unknown", found=value, fix=f"give {' or '.join(known)}")
                )
        if self.tokenize in RULES and self.is_reward != (self.tokenize == "reward"):
            rule = "a reward model has a rule of its own"
            fix = f"leave it out: {rule}" if self.is_reward else f"{rule}: give --backend reward"
            found = f"--tokenize {self.tokenize} --backend {self.backend}"
            wrong.append(Fault("--tokenize does not go with --backend", found=found, fix=fix))
        if self.is_reward and self.truncate == "keep-start":
            problem = "--truncate keep-start would cut off the end, where a reward is read"
            wrong.append(Fault(problem, fix="raise --max-length, or let such pairs be skipped"))
        for option, number in (
            ("--max-length", self.max_length),
            ("--limit", self.limit),
            ("--batch-tokens", self.batch_tokens),
            ("--tensor-parallel", self.tensor_parallel),
            ("--pipeline-parallel", self.pipeline_parallel),
            ("--data-parallel", self.data_parallel),
        ):
            if number is not None and number < 1:
                wrong.append(Fault(f"{option} must be at least 1", found=number))
        if self.shard and not 0 <= self.shard[0] < self.shard[1]:
            fix = "give i/n with i from 0 to n - 1"
            wrong.append(
                Fault("--shard is out of range", found="/".join(map(str, self.shard)), fix=fix)
            )
        share = self.gpu_memory_utilization
        if share is not None and not 0 < share <= 1:
            fix = "give a share above 0, at most 1"
            wrong.append(Fault("--gpu-memory-utilization is out of range", found=share, fix=fix))
        raise_any(wrong + self._idle())

    def _idle(self) -> list[Fault]:
        """What is given and means nothing to the backend."""
        others = {
            option
            for engine, options in _OPTIONS_OF.items()
            if self.engine not in (engine, None)
            for option in options
        }
        return [
            Fault(
                f"--{name.replace('_', '-')} means nothing to --backend {self.backend}",
                fix="leave it out",
            )
            for name in sorted(others)
            if getattr(self, name) != _default(name)
        ]

    @property
    def is_reward(self) -> bool:
        """Whether the model is a reward model."""
        return self.backend.startswith("reward")

    @property
    def engine(self) -> str | None:
        """What computes: transformers or vllm; None where the machine decides."""
        return next((name for name in _OPTIONS_OF if self.backend.endswith(name)), None)

    def of_the_numbers(self) -> dict[str, Any]:
        """What the scores depend on, for their provenance; the device is not part of it."""
        return {
            "backend": self.backend,
            "tokenize": self.tokenize,
            "max_length": self.max_length,
            "truncate": self.truncate,
            "dtype": self.dtype,
            "batch_tokens": self.batch_tokens,
            "limit": self.limit,
            "shard": list(self.shard) if self.shard else None,
            "engine_args": {k: v for k, v in self.engine_args.items() if k not in _OF_SPEED},
        }


_OPTIONS_OF = {
    "transformers": ("batch_tokens", "device"),
    "vllm": (
        "tensor_parallel",
        "pipeline_parallel",
        "data_parallel",
        "gpu_memory_utilization",
        "engine_args",
    ),
}
"""What only one of the engines reads."""


_OF_SPEED = frozenset(
    {
        "block_size",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_seqs",
        "swap_space",
    }
)
"""Engine arguments that a continued run may change: after running out of memory, say."""


def _default(name: str) -> Any:
    of_field = next(f for f in fields(ScoreSettings) if f.name == name)
    return {} if name == "engine_args" else of_field.default
