"""How fast is Dawid–Skene on 1,000,000 labels, against crowd-kit's, and how likely what it finds?

    python pipelines/bench_dawid_skene.py --peer /path/to/python-with-crowd-kit

100,000 items with ten labels each by 1,000 annotators, their rows shuffled. Each run is from arrays
of codes to posteriors, so the sorting counts; the least of `--rounds`, in turn with crowd-kit's
(1.4.2, at most 100 iterations), which is timed inside its process. crowd-kit maximises the
log-likelihood, so that is what is compared, ours once without and once with a prior. Then the whole
stage `em_labels` on a table of strings, with as many threads as there are. Prints a Markdown table.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import typer

from denoise.crowd import em
from denoise.crowd.answers import Answers, answers
from denoise.crowd.dawid_skene import DawidSkene, dawid_skene
from denoise.dataset import Dataset
from denoise.stages.labels import em_labels
from denoise.tables import Provenance

N_ITEMS, N_ANNOTATORS, EACH = 100_000, 1000, 10
PEER = Path(__file__).with_name("crowdkit_dawid_skene.py")


class Run(NamedTuple):
    """seconds of sorting and of all; pi [K, C, C] (label, truth); label: likeliest, [J]."""

    sorting: float
    seconds: float
    iterations: int
    pi: np.ndarray
    class_prior: np.ndarray
    label: np.ndarray


def planted(n_classes: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Votes by annotators who are right 55 to 95 % of the time, and the truth."""
    generator = np.random.default_rng(2)
    truth = generator.integers(0, n_classes, N_ITEMS)
    item = np.repeat(np.arange(N_ITEMS), EACH)
    first = generator.integers(0, N_ANNOTATORS, N_ITEMS)
    annotator = (first[:, None] + np.arange(EACH)).ravel() % N_ANNOTATORS
    skill = generator.uniform(0.55, 0.95, N_ANNOTATORS)
    right = generator.random(len(item)) < skill[annotator]
    other = (truth[item] + generator.integers(1, n_classes, len(item))) % n_classes
    label = np.where(right, truth[item], other)
    order = generator.permutation(len(item))
    votes = {"item": item, "annotator": annotator, "label": label}
    return {name: codes[order] for name, codes in votes.items()}, truth


def ours(votes: dict[str, np.ndarray], n_classes: int, threads: int, learn: bool) -> Run:
    began = time.perf_counter()
    grouped = answers(**votes, **sizes(n_classes), threads=threads)
    sorting = time.perf_counter() - began
    model = dawid_skene(grouped)
    if not learn:
        model = model._replace(alpha=np.full_like(model.alpha, 1e-10))
    found = em.fit(grouped, em.evidence(grouped), model, learn=learn)
    label = found.posterior.argmax(1)
    seconds = time.perf_counter() - began
    iterations = found.trace[-1].iteration + 1
    return Run(sorting, seconds, iterations, found.annotators.pi, found.class_prior, label)


def peers(votes: dict[str, np.ndarray], python: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "votes.npz"), Path(folder, "found.npz")
        np.savez(source, **votes)
        subprocess.run([python, PEER, source, target], check=True)
        found = np.load(target)
        rest = (found[name] for name in ("pi", "class_prior", "label"))
        return Run(0.0, float(found["seconds"]), int(found["iterations"]), *rest)


def sizes(n_classes: int) -> dict[str, int]:
    return {"n_items": N_ITEMS, "n_annotators": N_ANNOTATORS, "n_classes": n_classes}


def log_likelihood(votes: Answers, run: Run) -> float:
    """Σ_j log Σ_t ρ_t Π π[t, l], no prior."""
    rho = np.tile(run.class_prior / run.class_prior.sum(), (votes.n_items, 1))
    model = DawidSkene(run.pi, np.zeros_like(run.pi[0]))
    return em.objective(votes, em.evidence(votes, prior=rho), model, run.class_prior)


def whole_stage(votes: dict[str, np.ndarray], model: str) -> float:
    """Seconds of `em_labels` on the same votes as a table of strings."""
    kinds = {"item_id": "item", "annotator_id": "annotator", "label": "label"}
    table = pl.DataFrame({new: votes[old] for new, old in kinds.items()}).cast(pl.String)
    data = Dataset(Provenance("import", {"source": "planted"}), labels=table)
    began = time.perf_counter()
    em_labels(data, model=model)
    return time.perf_counter() - began


def main(peer: str = "", classes: int = 2, threads: int = 1, rounds: int = 7) -> None:
    """Print the table."""
    votes, truth = planted(classes)
    ours(votes, classes, threads, True)  # compile
    kinds = {
        "denoise, no prior": lambda: ours(votes, classes, threads, False),
        "denoise, learned prior": lambda: ours(votes, classes, threads, True),
    }
    if peer:
        kinds["crowd-kit DawidSkene"] = lambda: peers(votes, peer)
    runs: dict[str, list[Run]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, work in kinds.items():
            runs[name].append(work())
    best = {name: min(each, key=lambda run: run.seconds) for name, each in runs.items()}
    grouped = answers(**votes, **sizes(classes))
    print("| Dawid–Skene, 1,000,000 labels | seconds | of it sorting | crowd-kit ÷ this |", end="")
    print(" iterations | log-likelihood | accuracy |\n|---|--:|--:|--:|--:|--:|--:|")
    for name, run in best.items():
        ratio = f"{best['crowd-kit DawidSkene'].seconds / run.seconds:.1f}" if peer else "–"
        print(
            f"| {name} | {run.seconds:.3f} | {run.sorting:.3f} | {ratio} | {run.iterations} |"
            f" {log_likelihood(grouped, run):,.3f} | {(run.label == truth).mean():.4f} |"
        )
    for model in ("majority", "dawid-skene", "auto"):
        seconds = min(whole_stage(votes, model) for _ in range(rounds))
        print(f"| the stage em_labels, {model} | {seconds:.3f} | | | | | |")


if __name__ == "__main__":
    typer.run(main)
