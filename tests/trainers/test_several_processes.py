"""Two processes with half the batch each train the policy that one process trains."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file
from small_models import save_llama
from small_pairs import make

FSDP = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_state_dict_type: FULL_STATE_DICT
num_machines: 1
num_processes: 2
use_cpu: true
"""
ZERO = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
    "gradient_clipping": "auto",
    "zero_optimization": {"stage": 2},
}


def rows() -> Iterator[dict[str, object]]:
    texts = make(12, seed=3).pairs.select("prompt", "response_a", "response_b")
    for i, (prompt, chosen, rejected) in enumerate(texts.iter_rows()):
        named = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        yield {**named, "weight": 0.6 + 0.03 * i, "annotator_id": "xyz"[i % 3]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (folder / "fsdp.yaml").write_text(FSDP)
    (folder / "zero.json").write_text(json.dumps(ZERO))
    save_llama(folder / "model", seed=0)
    return folder


def trained(folder: Path, name: str, launcher: tuple[str, ...], *options: object) -> Path:
    """The policy that `denoise train` writes under a launcher."""
    words = ["-m", *launcher, "-m", "denoise"] if launcher else ["-m", "denoise"]
    words += ["train", "rows.jsonl", "--model", "model", "--epochs", 1, "--learning-rate", 1e-3]
    words += ["--train-arg", "use_cpu=true", *options, "--out", name]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained on 12 rows") == 1  # one process speaks
    return folder / name


TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--config_file", "fsdp.yaml")
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


@pytest.fixture(scope="module")
def alone(folder) -> Path:
    return trained(folder, "alone", (), "--batch-size", 4)


@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        pytest.param(TORCHRUN, (), id="torchrun"),
        pytest.param(ACCELERATE, (), id="fsdp"),
        pytest.param(
            TORCHRUN, ("--train-arg", "deepspeed=zero.json"), id="deepspeed", marks=needs_deepspeed
        ),
    ],
)
def test_the_policy_is_the_same(folder, alone, launcher, options, request):
    name = request.node.callspec.id
    together = trained(folder, name, launcher, "--batch-size", 2, *options)
    same_weights(alone, together)
    log, of_two = (pl.read_parquet(each / "log.parquet") for each in (alone, together))
    assert of_two["loss"].to_list() == pytest.approx(log["loss"].to_list(), abs=1e-5)


def test_the_reliabilities_are_the_same_online(folder):
    options = ("--online", "--alpha", 0.5)
    alone = trained(folder, "online", (), "--batch-size", 4, *options)
    together = trained(folder, "online-2", TORCHRUN, "--batch-size", 2, *options)
    same_weights(alone, together)
    one, two = (pl.read_parquet(each / "reliability.parquet") for each in (alone, together))
    assert one["annotator_id"].to_list() == ["x", "y", "z"]
    assert two["reliability"].to_list() == pytest.approx(one["reliability"].to_list(), abs=1e-5)
    assert max(abs(one["reliability"] - 0.9)) > 0.01


def same_weights(one: Path, other: Path) -> None:
    start = load_file(one.parent / "model" / "model.safetensors")
    first, second = (load_file(each / "model.safetensors") for each in (one, other))
    assert first.keys() == second.keys()
    assert max(np.abs(first[name] - start[name]).max() for name in first) > 1e-3
    assert max(np.abs(first[name] - second[name]).max() for name in first) < 1e-4
