"""How long does an audit of 1,000,000 labels take, and its coefficients of agreement?

    python pipelines/bench_audit.py

1,000 annotators, five labels an item, three classes. The peer is the `krippendorff` package on the
same counts, without intervals, which it does not have; `denoise`'s are with 1,000 replicates.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import krippendorff
import numpy as np
import polars as pl

from denoise import audit
from denoise.dataset import Dataset
from denoise.quality.agreement import fleiss_kappa, gwet_ac1, krippendorff_alpha
from denoise.report.audit import page
from denoise.tables import Provenance

CLASSES = ("bird", "cat", "dog")


def crowd(n_labels: int, n_annotators: int, each: int = 5) -> pl.DataFrame:
    """Labels by annotators who are right with 0.6 to 0.95, with seconds, times and topics."""
    rng = np.random.default_rng(0)
    n_items = n_labels // each
    truth = rng.integers(len(CLASSES), size=n_items)
    item = np.repeat(np.arange(n_items), each)
    who = rng.integers(n_annotators, size=len(item))
    right = rng.random(len(item)) < rng.uniform(0.6, 0.95, n_annotators)[who]
    wrong = (truth[item] + rng.integers(1, len(CLASSES), size=len(item))) % len(CLASSES)
    return pl.DataFrame(
        {
            "item_id": "item-" + pl.Series(item).cast(pl.String),
            "annotator_id": "worker-" + pl.Series(who).cast(pl.String),
            "label": pl.Series(CLASSES)[np.where(right, truth[item], wrong)],
            "seconds": rng.lognormal(2.0, 1.0, len(item)),
            "timestamp": rng.random(len(item)),
            "topic": pl.Series(["art", "law", "maths", "sport"])[item % 4],
        }
    )


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds, and what came of it."""
    began = time.perf_counter()
    result = what()
    return time.perf_counter() - began, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--annotators", type=int, default=1_000)
    given = parser.parse_args()
    small = crowd(2_000, 10)
    audit(Dataset(Provenance("import"), labels=small), slices=("topic",))  # compiles
    frame = crowd(given.labels, given.annotators)
    seconds, result = timed(
        lambda: audit(Dataset(Provenance("import"), labels=frame), slices=("topic",))
    )
    rows = [("audit, every question", seconds)]
    seconds, html = timed(lambda: page(result, "labels"))
    rows.append((f"page ({len(html.encode()) / 1e6:.2f} MB)", seconds))
    counts = result.judged.counts
    peer, value = timed(
        lambda: krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
    )
    rows.append(("krippendorff's alpha, without interval", peer))
    for name, function in (
        ("alpha", krippendorff_alpha),
        ("Fleiss' kappa", fleiss_kappa),
        ("Gwet's AC1", gwet_ac1),
    ):
        seconds, found = timed(lambda function=function: function(counts))
        rows.append((f"{name}, with interval", seconds))
        if function is krippendorff_alpha:
            assert abs(found.value - value) < 1e-9
    print("| what | seconds | ÷ peer |\n|---|--:|--:|")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.2f} | {seconds / peer:.2f} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{given.labels:,} labels, {given.annotators:,} annotators; {peak:.1f} GB at most")


if __name__ == "__main__":
    main()
