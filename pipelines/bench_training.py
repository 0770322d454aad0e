"""What soft labels cost: denoise's trainers against TRL's own, alternating in one process.

    python pipelines/bench_training.py [--model MODEL] [--data PAIRS] [--steps 20] [--rounds 9]

MODEL is a directory (the quick-start policy unless told: the smaller the model, the more any
overhead shows), PAIRS what `denoise import` understands. For each loss TRL's trainer, denoise's
with weights and denoise's online method train the same rows from the same start, with the same
arguments; a round trains each of them for some steps, in an order that turns. Counted is the
process's CPU time, because a shared machine's clock is noisy, of the training loop alone: models
are loaded, rows cut into tokens and the reference's log-probs computed before. The ratio of a round
is against TRL in that round; the table has the median and the quartiles.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

LOSSES = ("dpo", "ipo", "simpo", "cpo")
TRL = "TRL"
METHODS = ("weighted", "online")
QUICKSTART = Path(__file__).resolve().parent.parent / "data" / "quickstart"
BATCH = 8
EPOCHS = 1_000
"""More than are needed: `max_steps` ends a training."""


def rows_of(data: str, count: int) -> pl.DataFrame:
    """The first labels with their annotators as codes, and weights drawn with a fixed seed."""
    from denoise import import_data
    from denoise.stages.training_rows import labelled_rows

    rows = labelled_rows(import_data(data))[0].head(count)
    return rows.select(
        "prompt",
        "chosen",
        "rejected",
        pl.Series("weight", np.random.default_rng(0).random(len(rows)), dtype=pl.Float32),
        pl.col("annotator_id").rank("dense").cast(pl.Int64).alias("annotator") - 1,
    )


def trainer(loss: str, method: str, model: str, rows: pl.DataFrame, steps: int, out: str) -> Any:
    """TRL's trainer of the loss, or denoise's with that method, ready to train."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    from denoise.scorers.models import load_model, load_tokenizer, resolve
    from denoise.trainers.settings import TrainSettings
    from denoise.trainers.soft_labels import SoftCPOTrainer, SoftDPOTrainer, SoftLabels

    settings = TrainSettings(loss=loss, method="weighted" if method == TRL else method)
    beta, gamma = settings.constants
    arguments: dict[str, Any] = {
        "output_dir": out,
        "beta": beta,
        "max_steps": steps,
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": 0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    if settings.in_dpo_trainer:
        kind, soft = DPOTrainer, SoftDPOTrainer
        loss_type = {"dpo": "sigmoid", "ipo": "ipo"}[loss]
        config = DPOConfig(loss_type=loss_type, precompute_ref_log_probs=True, **arguments)
    else:
        kind, soft = CPOTrainer, SoftCPOTrainer
        simpo = {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": gamma}
        of_loss = simpo if loss == "simpo" else {}
        config = CPOConfig(remove_unused_columns=False, **of_loss, **arguments)
    source = resolve(model)
    common = {
        "model": load_model(source, "float32", "cpu", False).requires_grad_(True),
        "args": config,
        "processing_class": load_tokenizer(source),
    }
    texts = rows.select("prompt", "chosen", "rejected")
    if method == TRL:
        return _silent(kind(train_dataset=Dataset.from_polars(texts), **common))
    soft_labels = SoftLabels(settings, int(rows["annotator"].max()) + 1)
    used = rows if method == "online" else rows.drop("annotator")
    made = soft(train_dataset=Dataset.from_polars(used), soft_labels=soft_labels, **common)
    return _silent(made)


def _silent(made: Any) -> Any:
    from transformers.trainer_callback import PrinterCallback

    made.remove_callback(PrinterCallback)
    return made


def measure(loss: str, model: str, rows: pl.DataFrame, steps: int, rounds: int) -> np.ndarray:
    """CPU seconds a step, [rounds, trainers], of TRL and each method in that order."""
    with tempfile.TemporaryDirectory() as out:
        trainers = [trainer(loss, m, model, rows, steps, out) for m in (TRL, *METHODS)]
        for each in trainers:
            each.train()  # the first pass pays for warming up
        seconds = np.empty((rounds, len(trainers)))
        for number in range(rounds):
            for which in np.roll(np.arange(len(trainers)), number):
                start = time.process_time()
                trainers[which].train()
                seconds[number, which] = (time.process_time() - start) / steps
    return seconds


def main() -> None:
    """Measure each loss and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(QUICKSTART / "policy"))
    parser.add_argument("--data", default=str(QUICKSTART / "preferences.jsonl"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--losses", nargs="+", default=LOSSES, choices=LOSSES)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    import torch

    rows = rows_of(arguments.data, arguments.steps * BATCH)
    print("| loss | trainer | CPU ms a step | against TRL | quartiles |", flush=True)
    print("|---|---|--:|--:|--:|", flush=True)
    for loss in arguments.losses:
        seconds = measure(loss, arguments.model, rows, arguments.steps, arguments.rounds)
        for name, spent in zip((TRL, *METHODS), seconds.T, strict=True):
            low, ratio, high = np.quantile(spent / seconds[:, 0], (0.25, 0.5, 0.75)) - 1
            change = "" if name == TRL else f"{100 * ratio:+.1f} %"
            spread = "" if name == TRL else f"{100 * low:+.1f} to {100 * high:+.1f} %"
            row = (loss, name, f"{1000 * np.median(spent):.1f}", change, spread)
            print(f"| {' | '.join(row)} |", flush=True)
    print(
        f"\nBatches of {BATCH}, {arguments.steps} steps a training, {arguments.rounds} rounds; "
        f"{torch.get_num_threads()} thread(s), float32."
    )


if __name__ == "__main__":
    main()
