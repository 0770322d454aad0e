"""A trainer that any data and model drive, in a third of a second: weights moved by a hash.

    python perturb.py --data FILE --model DIR --out DIR

Every weight moves by normal noise that the data and the weights seed, so that a policy tells what
it was made from, and equal inputs give equal files.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--data", "--model", "--out"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args()
    weights = (given.model / "model.safetensors").read_bytes()
    seed = hashlib.sha256(given.data.read_bytes() + weights).digest()[:8]
    draw = np.random.default_rng(int.from_bytes(seed, "little"))
    tensors = load_file(given.model / "model.safetensors")
    moved = {
        name: tensor + 0.02 * draw.standard_normal(tensor.shape, dtype=np.float32)
        for name, tensor in sorted(tensors.items())
    }
    for path in given.model.glob("*.j*"):
        if path.name != "denoise.json":
            shutil.copy(path, given.out / path.name)
    save_file(moved, given.out / "model.safetensors", metadata={"format": "pt"})
    print(f"trained on {len(given.data.read_text().splitlines())} rows")


if __name__ == "__main__":
    main()
