"""Run crowd-kit's `DawidSkene` and time it: for `bench_dawid_skene.py`, in crowd-kit's own Python.

python pipelines/crowdkit_dawid_skene.py votes.npz found.npz
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd
from crowdkit.aggregation import DawidSkene


def main(source: str, target: str) -> None:
    """Votes `item`, `annotator`, `label` [n] to seconds, confusions [K, C, C] and class prior."""
    votes = np.load(source)
    names = {"item": "task", "annotator": "worker", "label": "label"}
    frame = pd.DataFrame({new: votes[old] for old, new in names.items()})
    DawidSkene(n_iter=2).fit(frame.head(1000))
    model = DawidSkene(n_iter=100)
    began = time.perf_counter()
    model.fit(frame)
    seconds = time.perf_counter() - began
    classes = sorted(frame["label"].unique())
    every = pd.MultiIndex.from_product([sorted(frame["worker"].unique()), classes])
    pi = model.errors_.reindex(every)[classes].to_numpy().reshape(-1, len(classes), len(classes))
    np.savez(
        target,
        seconds=seconds,
        iterations=len(model.loss_history_),
        pi=np.nan_to_num(pi, nan=1e-10),
        class_prior=model.priors_[classes].to_numpy(),
        label=model.labels_.sort_index().to_numpy(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
