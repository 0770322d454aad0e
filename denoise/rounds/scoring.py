"""A round's scores: each pair's, by the policy that never saw its prompt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from denoise import schema, tables
from denoise.errors import refuse
from denoise.parts import remove
from denoise.rounds import rows as training
from denoise.rounds.job import Job
from denoise.scores import Scores
from denoise.stages.em import EMResult
from denoise.stages.export import Export
from denoise.stages.score import Plan, plan, score_to_file, unfinished_work
from denoise.tables import Provenance


def score_round(job: Job, number: int, weights: EMResult) -> Scores:
    """The pairs' log-probs under the policies that never saw them, from fold to fold."""
    directory = job.out / f"round-{number}"
    directory.mkdir(exist_ok=True)
    rows = job.trainable(training.weighted_rows(job.data, weights))
    of_folds = [_score_fold(job, number, fold, rows) for fold in range(job.settings.folds)]
    scores = pl.concat([frame for frame, _ in of_folds])
    if job.reference is not None:
        scores = scores.drop("ref_a_logps", "ref_b_logps").join(job.reference, on="pair_id")
    order = job.folds.select("pair_id")
    columns = [column.name for column in schema.SCORES.columns]
    scores = order.join(scores, on="pair_id", maintain_order="left").select(*columns, "fold")
    inputs = {f"fold-{fold}": made.run_id for fold, (_, made) in enumerate(of_folds)}
    made = of_folds[0][1]
    provenance = Provenance(
        "score",
        {"pairs": schema.pairs_hash(job.pairs), **inputs},
        {name: made.settings.get(name) for name in ("tokenize", "max_length", "truncate")},
    )
    tables.write_table(scores, directory / "scores.parquet", provenance)
    return Scores(scores, pl.DataFrame(), provenance)


def _score_fold(job: Job, number: int, fold: int, rows: Export) -> tuple[pl.DataFrame, Provenance]:
    """The scores of one fold by the policy that is trained on the others."""
    directory = job.out / f"round-{number}"
    policy, file = directory / f"policy-{fold}", directory / f"scores-{fold}.parquet"
    seen = rows if job.settings.folds == 1 else training.outside_fold(rows, job.folds, fold)
    if seen.frame.is_empty():
        fix = "hold out fewer prompts, or give more --folds"
        refuse(f"no row is left to train on without fold {fold + 1}", file=job.out, fix=fix)
    earlier = job.out / f"round-{number - 1}" / f"policy-{fold}"
    warm = job.settings.warm_start and number > 1
    start = training_of(job, number - 1, fold) if warm else job.identity
    trained_on = job.made_from(seen, start)
    key = Provenance("train", trained_on.inputs, job.trainer.settings).run_id
    its = job.folds.filter(pl.col("fold") == fold)["pair_id"].implode()
    own = job.pairs.filter(pl.col("pair_id").cast(pl.String).is_in(its))
    made = tables.read_provenance(file) if file.exists() else None
    if made is None or made.inputs.get("training") != key:
        if warm and not earlier.is_dir():
            refuse(
                f"the policy of round {number - 1}, where fold {fold + 1} starts, is gone",
                file=job.out,
                fix="give the same --holdout as before, or another --out",
            )
        of = f"fold {fold + 1} of {job.settings.folds}"
        job.watcher.step(number, f"training without {of}")
        job.trainer.train(seen, str(earlier) if warm else job.model, policy, trained_on)
        job.watcher.step(number, f"scoring {of}")
        subset = replace(job.data, pairs=own)
        planned = plan(subset, str(policy), None, job.settings.score(), job.announce)
        inputs = {**planned.provenance.inputs, "training": key}
        made = replace(planned.provenance, inputs=inputs)
        rescore(replace(planned, provenance=made), file, job.announce, job.progress)
    # Killed after the file was written, the work that it was made from is still there.
    remove(unfinished_work(file))
    _remove_policies(job, number, fold)
    frame = tables.read_frame(file).with_columns(fold=pl.lit(fold, pl.Int64))
    return frame, made


def rescore(planned: Plan, file: Path, announce: Callable[[str], None], progress: bool) -> None:
    """Score into the file; unfinished work of another policy is discarded."""
    work = unfinished_work(file)
    kept = tables.read_manifest(work)
    if kept is not None and kept.run_id != planned.provenance.run_id:
        remove(work)
    score_to_file(planned, file, announce, progress)


def training_of(job: Job, number: int, fold: int) -> str:
    """What trained the fold's policy in that round."""
    made = tables.read_provenance(job.out / f"round-{number}" / f"scores-{fold}.parquet")
    assert made is not None
    return made.inputs["training"]


def _remove_policies(job: Job, number: int, fold: int) -> None:
    """Remove what no later round starts from."""
    if job.settings.keep_policies:
        return
    done = number - 1 if job.settings.warm_start else number
    shutil.rmtree(job.out / f"round-{done}" / f"policy-{fold}", ignore_errors=True)
