"""The vLLM scorer: copies of the engine in processes of their own, and what their failures mean."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from denoise.errors import DenoiseError, Fault, InputError, RunError
from denoise.plain import plain
from denoise.scorers import Scored
from denoise.scorers.batching import highest_id
from denoise.scorers.checkpoint import readable_checkpoint
from denoise.scorers.models import ModelSource, load_model, load_reward_model
from denoise.scorers.process import Child, close, spread
from denoise.scorers.settings import ScoreSettings
from denoise.scorers.vllm_engine import Job
from denoise.tokenise import TokenPair

ENGINE = "denoise.scorers.vllm_engine:VllmEngine"
REWARDS = "denoise.scorers.vllm_engine:VllmRewards"


class VllmScorer:
    """Scores with vLLM on the GPUs of this machine, or on its CPU.

    What the engines print is kept in `logs` (a directory of the caller's), in files of the `role`,
    else in a temporary directory that stays after a failure.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: ScoreSettings,
        role: str = "policy",
        logs: Path | None = None,
    ) -> None:
        self.source = source
        self.settings = settings
        self.role = role
        self.own_logs = logs is None
        self.logs = logs or Path(tempfile.mkdtemp(prefix="denoise-vllm-"))
        self.opened = ExitStack()
        self.children: list[Child] = []

    def prepare(self, pairs: Sequence[TokenPair]) -> tuple[str, ...]:
        """Start the engines, once a checkpoint that vLLM can read is there.

        Raises:
            InputError: vLLM does not support the model, or a pair is longer than its context.
            RunError: there is too little memory, or too few GPUs.
        """
        environments = environments_of(self.settings)
        model = self.opened.enter_context(
            readable_checkpoint(
                self.source,
                load_reward_model if self.settings.is_reward else load_model,
                self.settings.dtype,
                self.settings.trust_remote_code,
            )
        )
        job = Job(max(pair.longest for pair in pairs), highest_id(pairs))
        arguments = {"model": model, "settings": self.settings, "job": job}
        self.opened.callback(close, self.children)
        for number, environment in enumerate(environments):
            log = self.logs / f"vllm-{self.role}-{number}.log"
            engine = REWARDS if self.settings.is_reward else ENGINE
            self.children.append(Child(engine, arguments, environment, log))
        with self._naming_the_log():
            notes = [note for child in self.children for note in child.receive(explain)]
        return tuple(dict.fromkeys(notes))

    def score(self, pairs: Sequence[TokenPair], rows: np.ndarray) -> Iterator[Scored]:
        """Pairs of one prompt next to each other, the longest first, as the engines finish them.

        Raises:
            RunError: an engine died.
        """
        with self._naming_the_log():
            yield from spread(self.children, pairs, by_prompt(pairs, rows), explain)

    def close(self) -> None:
        """End the engines, and remove the temporary checkpoint and logs."""
        self.opened.close()
        if self.own_logs:
            shutil.rmtree(self.logs, ignore_errors=True)

    @contextmanager
    def _naming_the_log(self) -> Iterator[None]:
        try:
            yield
        except RunError as error:
            self.own_logs = False
            raise RunError(f"{error}; what vLLM printed is in {self.logs}") from error


def by_prompt(pairs: Sequence[TokenPair], rows: np.ndarray) -> list[int]:
    """The rows with pairs of one prompt next to each other, the group of the longest pair first.

    Next to each other, so that the prefix cache still holds the prompt; longest first, so that
    running out of memory comes at the start.
    """
    prompts = {row: hash(array("i", pairs[row].prompt).tobytes()) for row in rows.tolist()}
    longest: dict[int, tuple[int, int]] = {}
    for row, prompt in prompts.items():
        longest[prompt] = min(longest.get(prompt, (0, row)), (-pairs[row].length, row))
    return sorted(prompts, key=lambda row: (longest[prompts[row]], row))


def environments_of(settings: ScoreSettings) -> list[dict[str, str]]:
    """The environment of each copy of the model: its GPUs, or its share of the cores.

    Raises:
        RunError: there are fewer GPUs, or cores, than asked for.
    """
    import torch

    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    copies = settings.data_parallel
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
            map(str, range(torch.cuda.device_count()))
        )
        # CUDA reads the list up to the first entry that is no device, "-1" for instance.
        gpus = visible.split(",")[: torch.cuda.device_count()]
        size = settings.tensor_parallel * settings.pipeline_parallel
        if len(gpus) < copies * size:
            raise RunError(
                f"{copies} × {size} GPUs are asked for and {len(gpus)} are there; lower "
                "--tensor-parallel, --pipeline-parallel or --data-parallel"
            )
        shares = [gpus[i * size : (i + 1) * size] for i in range(copies)]
        return [quiet | {"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]
    # In one process with the engine: a process of the engine's own takes half a minute more.
    quiet["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if copies == 1:
        return [quiet]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < copies:
        raise RunError(
            f"{copies} copies are asked for and {len(cores)} cores are there; lower --data-parallel"
        )
    shares = [",".join(map(str, share)) for share in np.array_split(cores, copies)]
    return [quiet | {"VLLM_CPU_OMP_THREADS_BIND": share} for share in shares]


def explain(error: str, log: str) -> DenoiseError:
    """What a failure of vLLM means to the person who typed the command.

    `error` is what was raised, `log` what the engine printed: it often names the cause there only.
    """
    text = f"{error}\n{log}"
    for pattern, kind, problem, fix in _FAILURES:
        found = re.search(pattern, text)
        if found:
            line = plain(text[found.start() :].splitlines()[0], 300)
            return (
                kind(Fault(problem, found=line, fix=fix))
                if kind is InputError
                else kind(f"{problem}: {line}; {fix}")
            )
    return RunError(f"vLLM failed: {plain(error, 300)}")


_CACHE_FIX = (
    "raise --gpu-memory-utilization or VLLM_CPU_KVCACHE_SPACE (GB), lower --max-length, or spread "
    "the model with --tensor-parallel"
)
_FAILURES = (
    (
        r"EngineArgs.{0,20} got an unexpected keyword argument .*",
        InputError,
        "vLLM has no such --engine-arg",
        "its documentation lists them under engine arguments",
    ),
    (
        r"Model architectures .{0,200}(not supported|failed)|.{0,80}has no vLLM implementation.*",
        InputError,
        "vLLM does not support this model",
        "score it with --backend transformers",
    ),
    (
        r"(To serve at least one request|No available memory for the cache blocks).*",
        RunError,
        "too little memory for the KV cache",
        _CACHE_FIX,
    ),
    (
        r"(Free memory on device|Available memory).{0,200}(less than|smaller).*",
        RunError,
        "too little free memory",
        "free some, or lower --gpu-memory-utilization",
    ),
    (
        r"[\w.]*(OutOfMemoryError|DefaultCPUAllocator: can't allocate).*",
        RunError,
        "out of memory",
        "lower --gpu-memory-utilization, or --engine-arg max_num_batched_tokens=512",
    ),
)
