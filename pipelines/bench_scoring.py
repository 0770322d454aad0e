"""Scoring speed against TRL's precompute and a plain padded batch, in one run.

    python pipelines/bench_scoring.py --model MODEL --data PAIRS.parquet --pairs 120

MODEL is a directory or a .gguf file (see smollm2.py); PAIRS has prompt, chosen, rejected. Every
scorer sees the same pairs in the same order; rounds interleave the scorers and the best round of
each counts, because a shared machine is noisy. fp32 on the CPU.

Useful operations are those of the shared layout without padding: 2 × the weights of the layers
for each token of prompt, a and b, and 2 × the LM head for each response token; attention is left
out. They are set against the machine's own rate at a square matrix product of 2,048, measured in
the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from denoise.scorers.models import load_tokenizer, resolve
from denoise.scorers.transformers import TransformersScorer
from denoise.tokenise import TokenPair, tokenise

MAX_LENGTH = 1024


def padded_batch_of_8(model: Any, pairs: Sequence[TokenPair]) -> np.ndarray:
    """What a first version does: rows in order, 8 pairs a batch, logits everywhere."""
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


def trl_precompute(model: Any, tokenizer: Any, rows: list[dict], folder: str) -> Callable:
    """TRL's own `precompute_ref_log_probs` over the same rows, without its tokenising."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=folder,
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
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    tokenised = trainer.train_dataset.remove_columns(["ref_chosen_logps", "ref_rejected_logps"])

    def run() -> np.ndarray:
        # Another fingerprint each time, so that TRL does not read its cache.
        tokenised._fingerprint = f"bench{time.perf_counter_ns()}"
        done = trainer._precompute_ref_logps(tokenised, "train", 8)
        return np.column_stack([done["ref_chosen_logps"], done["ref_rejected_logps"]])

    return run


def matrix_rate(seconds: float = 3.0) -> float:
    """The best GFLOP/s of a 2,048 square fp32 matrix product."""
    x = torch.randn(2048, 2048)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(x, x)
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    return best


def useful_operations(model: Any, pairs: Sequence[TokenPair]) -> float:
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
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()

    source = resolve(arguments.model)
    tokenizer = load_tokenizer(source)
    frame = pl.read_parquet(arguments.data).select("prompt", "chosen", "rejected")
    frame = frame.sample(min(arguments.pairs, len(frame)), seed=0, shuffle=True)
    kept, pairs = [], []
    for row, pair in zip(
        frame.to_dicts(),
        tokenise(tokenizer, frame.rows(), "trl-dpo", MAX_LENGTH, False),
        strict=True,
    ):
        if isinstance(pair, TokenPair):
            kept.append(row)
            pairs.append(pair)

    scorer = TransformersScorer(source)
    scorer.prepare(pairs)
    model = scorer.model

    def denoise() -> np.ndarray:
        logps = np.zeros((len(pairs), 2))
        for rows, values in scorer.score(pairs, np.arange(len(pairs))):
            logps[rows] = values
        return logps

    with tempfile.TemporaryDirectory() as folder:
        denoise()  # the first pass pays for warming up
        scorers: dict[str, Callable[[], np.ndarray]] = {
            "denoise, transformers": denoise,
            "padded batch of 8": lambda: padded_batch_of_8(model, pairs),
            "TRL precompute_ref_log_probs": trl_precompute(model, tokenizer, kept, folder),
        }
        seconds = dict.fromkeys(scorers, float("inf"))
        results = {}
        for _ in range(arguments.rounds):
            for name, run in scorers.items():
                start = time.perf_counter()
                results[name] = run()
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    report(model, pairs, seconds, results)


def report(
    model: Any,
    pairs: Sequence[TokenPair],
    seconds: dict[str, float],
    results: dict[str, np.ndarray],
) -> None:
    """Print the table, the agreement and the share of the machine's rate."""
    first = next(iter(seconds))
    responses = sum(p.a_tokens + p.b_tokens for p in pairs)
    print("| scorer | seconds | pairs/s | time against denoise | largest difference (relative) |")
    print("|---|---|---|---|---|")
    for name, spent in seconds.items():
        off = np.abs(results[name] / results[first] - 1).max()
        print(
            f"| {name} | {spent:.1f} | {len(pairs) / spent:.2f} | "
            f"{spent / seconds[first]:.2f}× | {off:.1e} |"
        )
    rate, operations = matrix_rate(), useful_operations(model, pairs)
    achieved = operations / seconds[first] / 1e9
    prompts = sum(len(p.prompt) for p in pairs)
    print(
        f"\n{len(pairs)} pairs, mean prompt {prompts / len(pairs):.0f} and response "
        f"{responses / 2 / len(pairs):.0f} tokens; {torch.get_num_threads()} threads, fp32. "
        f"Useful operations {achieved:.0f} GFLOP/s, {100 * achieved / rate:.0f} % of the "
        f"{rate:.0f} GFLOP/s of a 2,048 square matrix product."
    )


if __name__ == "__main__":
    main()
