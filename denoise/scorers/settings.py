"""What can be set of a scoring run, with ranges."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from denoise.cluster import Workers
from denoise.errors import Fault, raise_any
from denoise.plain import without_credentials, without_secrets
from denoise.tokenise import RULES

BACKENDS = (
    *("auto", "transformers", "vllm", "server"),
    *("reward", "reward-transformers", "reward-vllm"),
)
TRUNCATE = ("none", "keep-start")
DTYPES = ("auto", "float32", "bfloat16", "float16")
MAX_LENGTH = 1024
"""TRL's own default (DPOConfig.max_length)."""

CONCURRENCY = 32
"""Pairs that a server is sent at once where nothing is said."""


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of `score`.

    The backend "reward" takes a reward model's rewards, the others a language model's log-probs.
    `tokenize` is the trainer whose token ids are scored ("trl-dpo" where it is None; of a reward
    model "reward", and no other), and `max_length` counts prompt + response;
    `truncate` is what becomes of a longer response: "none" skips its pair, "keep-start" cuts it.
    `shard` (i, n) scores part i of n, `limit` the first pairs only. A server's `base_url` may
    end in /v1 or not; `api_key_env` names the environment variable that holds its key.

    With `cluster` the workers of a Ray cluster score, each with the backend.

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
    base_url: str | None = field(default=None, repr=False)  # it may hold a password
    reference_base_url: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    concurrency: int | None = None
    cluster: Workers | None = None

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
            ("--concurrency", self.concurrency),
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
        wrong += [
            Fault(f"--engine-arg {key} has an option of its own", fix=f"give {_OWN_OPTIONS[key]}")
            for key in self.engine_args
            if key in _OWN_OPTIONS
        ]
        raise_any(wrong + self._idle() + (self._of_a_server() if self.engine == "server" else []))

    def _idle(self) -> list[Fault]:
        """What is given and means nothing to the backend."""
        possible = (self.engine,) if self.engine else ("transformers", "vllm")
        others = {
            option
            for engine, options in _OPTIONS_OF.items()
            if engine not in possible
            for option in options
        }
        return [
            Fault(
                f"--{name.replace('_', '-')} means nothing to --backend {self.backend}",
                fix="leave it out, or choose the --backend",
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
        """What computes: transformers, vllm or server; None where the machine decides."""
        return next((name for name in _OPTIONS_OF if self.backend.endswith(name)), None)

    @property
    def gpus(self) -> int:
        """GPUs that the copies of a model are spread over."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    def _of_a_server(self) -> list[Fault]:
        wrong = []
        for option, url in (
            ("--base-url", self.base_url),
            ("--reference-base-url", self.reference_base_url),
        ):
            if url is not None and not _is_address(url):
                # The address of a user and password without http:// must not be shown either.
                found = None if "@" in url else without_credentials(url)
                fix = "for instance http://127.0.0.1:8000/v1"
                wrong.append(Fault(f"{option} is no server's address", found=found, fix=fix))
        if self.base_url is None:
            fix = "for instance --base-url http://127.0.0.1:8000/v1"
            wrong.append(Fault("--backend server needs --base-url", fix=fix))
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            # Its name is not shown: somebody may have typed the key itself.
            problem = "the environment variable that --api-key-env names is not set"
            wrong.append(Fault(problem, fix="export it first"))
        if self.dtype != "auto":
            wrong.append(Fault("--dtype is the server's to set", fix="leave it out"))
        return wrong

    def of_the_numbers(self) -> dict[str, Any]:
        """What the scores depend on, for their provenance: no device, address or secret."""
        return {
            "backend": self.backend,
            "tokenize": self.tokenize,
            "max_length": self.max_length,
            "truncate": self.truncate,
            "dtype": self.dtype,
            "batch_tokens": self.batch_tokens,
            "limit": self.limit,
            "shard": list(self.shard) if self.shard else None,
            "engine_args": without_secrets(
                {k: v for k, v in self.engine_args.items() if k not in _OF_SPEED}
            ),
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
    "server": ("base_url", "reference_base_url", "api_key_env", "concurrency"),
}
"""What only one of the engines reads."""


_OWN_OPTIONS = {
    "model": "--policy or --reference",
    "dtype": "--dtype",
    "tensor_parallel_size": "--tensor-parallel",
    "pipeline_parallel_size": "--pipeline-parallel",
    "data_parallel_size": "--data-parallel",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "trust_remote_code": "--trust-remote-code",
}
"""Engine arguments that would contradict an option: the identity of the model in the provenance,
or the GPUs that an engine gets."""

_OF_SPEED = frozenset(
    {
        "block_size",
        "enable_prefix_caching",
        "enforce_eager",
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


def _is_address(url: str) -> bool:
    import httpx2

    try:
        address = httpx2.URL(url)
    except httpx2.InvalidURL:
        return False
    plain = not address.query and not address.fragment
    return address.scheme in ("http", "https") and bool(address.host) and plain
