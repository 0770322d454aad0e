"""Does it help the policy? Training on noisy labels, by every method, on a small language model.

    python pipelines/noise_robustness.py --part 0/2 &
    python pipelines/noise_robustness.py --part 1/2 ; wait ; python pipelines/noise_robustness.py

Twenty annotators label 2,000 pairs of a small language (small_language.py), one label a pair; half
of them are right with 0.95, the others so often that a given share of all labels is wrong. A model
of half a million parameters is trained on them, and judged on 2,000 other pairs by how often it
prefers the truly better response. All trainings have the same length and learning rate; label
smoothing and rDPO are told the true share of wrong labels, the others nothing.

The rounds' last policy has behind it more training than a plain one, and a mean of policies. What
of its gain is due to that, and not to the weights, two controls say (DPO, 30 % noise): rounds whose
last policy is trained from the base model, as long as a plain one, and plain labels in the rounds'
trainings. The rounds without noise are the truth in the same trainings.

Each finished case is a line of noise_robustness.jsonl and is not done again; the last call, which
finds all of them there, writes the table and the picture.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from experiment import BENCHMARKS, progress
from noise_tables import ACCURACY, ERROR, METHODS, OTHER_NOISE, report
from small_language import Annotators, draw_annotators, draw_pairs, labelled, save_base_model

from denoise import import_data, run, score, train
from denoise.dataset import Dataset
from denoise.losses import NEEDS_REFERENCE, PairLogps, margin
from denoise.rounds.mean import average_weights
from denoise.stages.em import read_em

PAIRS, TEST_PAIRS = 2_000, 2_000
TRAINING = {
    "learning_rate": 1e-3,
    "epochs": 2,
    "batch_size": 32,
    "warmup": 0.1,
}
NOISES = (0.0, 0.1, 0.2, 0.3, 0.4)
OTHER_LOSSES = ("ipo", "simpo", "cpo")
OTHER_SEEDS = 3

CONTROLS = ("cold rounds", "plain as long")


class Case(NamedTuple):
    """What one line of the results is about."""

    loss: str
    objective: str
    noise: float
    method: str
    seed: int


class Given(NamedTuple):
    """What the command line says."""

    out: Path
    seeds: range
    noises: tuple[float, ...]
    losses: tuple[str, ...]
    methods: tuple[str, ...]
    folds: int
    rounds: int
    part: tuple[int, int]
    pairs: int
    epochs: float


class World(NamedTuple):
    """The pairs of a seed with who labelled them, and clean pairs to judge by."""

    pairs: pl.DataFrame
    labels: Annotators
    test: Dataset

    @property
    def rows(self) -> pl.DataFrame:
        """The labels as they were given."""
        return labelled(self.pairs, self.labels)


def main() -> None:
    given = _given()
    results = given.out / "noise_robustness.jsonl"
    done = _read(results)
    cases = list(planned(given))
    index, count = given.part
    todo = [case for case in cases[index::count] if case not in done]
    with tempfile.TemporaryDirectory() as work:
        base = save_base_model(Path(work) / "base")
        for case in progress(todo):
            figures = measure(case, base, Path(work) / "case", given)
            line = json.dumps({**case._asdict(), **figures})
            with results.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
            print(line, flush=True)
    done = _read(results)
    missing = [case for case in cases if case not in done]
    if missing:
        print(f"{len(missing)} of {len(cases)} cases are still to be done")
        return
    if set(given.methods) != set(METHODS):
        return
    rows = [{**case._asdict(), **done[case]} for case in cases]
    told = f"{given.pairs:,} pairs, {given.folds} folds, {given.rounds} rounds; {TRAINING}."
    report(rows, given, told)


def planned(given: Given) -> Iterator[Case]:
    """The cases, seed by seed, so that an unfinished table has whole seeds."""
    for loss in given.losses:
        noises, seeds = (OTHER_NOISE,), given.seeds[:OTHER_SEEDS]
        if loss == "dpo":
            noises, seeds = given.noises, given.seeds
        for seed in seeds:
            for noise in noises:
                for method in given.methods:
                    if noise == 0 and method in ("true labels", "smoothing", "rdpo"):
                        continue  # they are plain training
                    if method in CONTROLS and (loss != "dpo" or noise != OTHER_NOISE):
                        continue
                    told = method in ("smoothing", "rdpo")  # defined by the mixture
                    for objective in ("mixture", "gibbs"):
                        if objective == "mixture" or (loss != "dpo" and not told):
                            yield Case(loss, objective, noise, method, seed)


def world(noise: float, seed: int, n: int) -> World:
    """Pairs, labels and clean pairs of a seed; pairs are the same at every noise."""
    test = draw_pairs(TEST_PAIRS, 5_000 + seed).select("prompt", chosen="better", rejected="worse")
    return World(draw_pairs(n, 1_000 + seed), draw_annotators(n, noise, seed), import_data(test))


def measure(case: Case, base: Path, work: Path, given: Given) -> dict[str, Any]:
    """Train by the method: accuracy, error of the reliabilities, and the seconds it took."""
    here = world(case.noise, case.seed, given.pairs)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    options = {"loss": case.loss, "objective": case.objective, **TRAINING, "epochs": given.epochs}
    started = time.monotonic()
    reliability = None
    if case.method in ("in-sample", "cold rounds", "rounds"):
        shape: dict[str, Any] = {"folds": given.folds, "rounds": given.rounds}
        if case.method == "in-sample":
            shape = {"folds": 1, "rounds": 1}
        shape["warm_start"] = case.method == "rounds"
        data = import_data(here.rows)
        policy = run(
            data, model=str(base), out=work / "run", tolerance=0.0, **shape, **options
        ).policy
        last = work / "run" / f"round-{shape['rounds']}" / "em"
        reliability = read_em(last).annotators.select("annotator_id", "reliability")
    elif case.method == "plain as long":
        policy = as_long(here.rows, base, work, given, options)
    else:
        rows, method = here.rows.rename({"annotator": "annotator_id"}), {}
        match case.method:
            case "true labels":
                rows = here.pairs.select("prompt", chosen="better", rejected="worse")
            case "smoothing" | "rdpo":
                # At 40 % rDPO's weights are 3 and −2; at 50 % it has none.
                method = {"method": case.method, "flip_rate": case.noise}
            case "online":
                method = {"method": "online"}
        trained = train(rows, model=str(base), out=work / "policy", **method, **options)
        policy, reliability = trained.directory, trained.reliability
    seconds = time.monotonic() - started
    found = {
        ACCURACY.name: accuracy(policy, base, here.test, case.loss),
        "seconds": round(seconds, 1),
    }
    if reliability is not None:
        planted = here.labels.reliability
        estimates = reliability.sort("annotator_id")["reliability"].to_numpy().astype(float)
        if np.isfinite(estimates).all():  # in a small trial the votes may not tell
            found[ERROR.name] = float(np.sqrt(np.mean((estimates - planted) ** 2)))
    return found


def as_long(
    rows: pl.DataFrame, base: Path, work: Path, given: Given, options: dict[str, Any]
) -> Path:
    """What the rounds do with policies, without their weights."""
    fold_of = pl.Series(np.arange(len(rows)) % given.folds)
    ends = []
    for fold in range(given.folds):
        policy = base
        for number in range(1, given.rounds + 1):
            start, policy = policy, work / f"{fold}-{number}"
            seen = rows.filter(fold_of != fold)
            train(seen, model=str(start), reference=str(base), out=policy, **options)
        ends.append(policy)
    average_weights(ends, work / "mean")
    mean, last = str(work / "mean"), work / "policy"
    return train(rows, model=mean, reference=str(base), out=last, **options).directory


def accuracy(policy: Path, base: Path, test: Dataset, loss: str) -> float:
    """How often the policy's margin is on the side of the better response."""
    needs = loss in NEEDS_REFERENCE
    scores = score(
        test,
        policy=str(policy),
        reference=str(base) if needs else None,
        tokenize="trl-dpo" if needs else "trl-cpo",
    ).scores
    names = (
        "policy_a_logps",
        "policy_b_logps",
        "ref_a_logps",
        "ref_b_logps",
        "a_tokens",
        "b_tokens",
    )
    for_a = margin(loss, PairLogps(*(scores[name].cast(pl.Float64).to_numpy() for name in names)))
    return float(((for_a > 0) == (test.votes["vote"] == "a").to_numpy()).mean())


def _read(results: Path) -> dict[Case, dict[str, Any]]:
    if not results.exists():
        return {}
    found = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        case = Case(*(row.pop(name) for name in Case._fields))
        found[case] = row
    return found


def _given() -> Given:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=BENCHMARKS, help="where the files go")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--noises", type=float, nargs="+", default=list(NOISES))
    parser.add_argument("--losses", nargs="+", default=["dpo", *OTHER_LOSSES])
    help_ = "only these: their lines are written, and no table"
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help=help_)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--part", default="0/1", metavar="I/N", help="do every N-th case")
    parser.add_argument("--quick", action="store_true", help="a trial with few pairs and one seed")
    given = parser.parse_args()
    index, _, count = given.part.partition("/")
    given.out.mkdir(parents=True, exist_ok=True)
    return Given(
        out=given.out,
        seeds=range(1 if given.quick else given.seeds),
        noises=tuple(given.noises),
        losses=tuple(given.losses),
        methods=tuple(given.methods or METHODS),
        folds=given.folds,
        rounds=given.rounds,
        part=(int(index), int(count)),
        pairs=200 if given.quick else PAIRS,
        epochs=1 if given.quick else TRAINING["epochs"],
    )


if __name__ == "__main__":
    main()
