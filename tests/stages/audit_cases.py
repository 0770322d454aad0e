"""Labels and votes with planted trouble, small enough for every test."""

from __future__ import annotations

import numpy as np
import polars as pl

from denoise.dataset import Dataset
from denoise.tables import Provenance

LABELS = ("cat", "dog", "owl")


def labels(
    n_items: int = 300,
    n_annotators: int = 12,
    each: int = 5,
    *,
    reliability: np.ndarray | None = None,
    hostile: str = "",
    seed: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labels of annotators of 0.6 to 0.95, with seconds, a time stamp and a topic; and the truth.

    `hostile` is put behind every id and label.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n_items)
    eta = np.linspace(0.6, 0.95, n_annotators) if reliability is None else reliability
    item = np.repeat(np.arange(n_items), each)
    who = np.concatenate([rng.permutation(n_annotators)[:each] for _ in range(n_items)])
    right = rng.random(len(item)) < eta[who]
    other = (truth[item] + rng.integers(1, 3, size=len(item))) % 3
    label = np.where(right, truth[item], other)
    names = [f"{name}{hostile}" for name in LABELS]
    frame = pl.DataFrame(
        {
            "item_id": [f"i{j:04d}{hostile}" for j in item],
            "annotator_id": [f"w{k:02d}{hostile}" for k in who],
            "label": [names[c] for c in label],
            "seconds": rng.lognormal(2.0, 0.5, len(item)),
            "timestamp": np.arange(len(item), dtype=float),
            "topic": [("art", "law")[j % 2] for j in item],
        }
    )
    known = {
        "item_id": [f"i{j:04d}{hostile}" for j in range(n_items)],
        "label": [names[c] for c in truth],
    }
    return frame, pl.DataFrame(known)


def dataset(frame: pl.DataFrame) -> Dataset:
    """The labels as `import` would give them."""
    return Dataset(Provenance("import", {"source": "test"}, {"form": "test"}), labels=frame)
