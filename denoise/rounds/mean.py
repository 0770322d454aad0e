"""The mean of several policies' weights, as one policy.

Policies that were fine-tuned from one model can be averaged (Wortsman et al., arXiv 2203.05482).
The mean is where the last training starts; by itself it may be worse than the best of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denoise import tables

_INDEX = "model.safetensors.index.json"


def can_be_averaged(policy: Path) -> bool:
    """Whether a directory holds whole weights: not an adapter, whose factors have no mean."""
    return (policy / "model.safetensors").is_file() or (policy / _INDEX).is_file()


def average_weights(policies: Sequence[Path], out: Path) -> None:
    """Write the mean of the policies' weights, with the first one's tokenizer and configuration.

    One tensor of each policy is in memory at a time; sums are in float32.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    provenance = tables.Provenance("mean", {str(i): str(p) for i, p in enumerate(policies)})
    with tables.staged_directory(out, provenance) as staging:
        for path in policies[0].iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name != tables.MANIFEST:
                shutil.copy(path, staging / path.name)
        for file in weight_files(policies[0]):
            opened: list[Any] = [safe_open(policy / file, framework="pt") for policy in policies]
            mean = {}
            for name in opened[0].keys():  # noqa: SIM118, it is no mapping
                tensors = [each.get_tensor(name) for each in opened]
                total = torch.stack([tensor.float() for tensor in tensors]).mean(dim=0)
                mean[name] = total.to(tensors[0].dtype)
            save_file(mean, staging / file, metadata={"format": "pt"})


def weight_files(policy: Path) -> list[str]:
    """The names of the files that hold the weights."""
    if (policy / _INDEX).is_file():
        index = json.loads((policy / _INDEX).read_text(encoding="utf-8"))
        return sorted(set(index["weight_map"].values()))
    return ["model.safetensors"]
