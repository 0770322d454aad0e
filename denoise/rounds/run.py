"""The rounds of full EM: train a policy a fold, score what it never saw, infer, train again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from denoise import schema, tables
from denoise.dataset import Dataset
from denoise.errors import refuse
from denoise.parts import changes
from denoise.rounds import rows as training
from denoise.rounds.folds import assign_folds, first_turn
from denoise.rounds.holdout import HeldOut, compare_policies
from denoise.rounds.holdout import margins as policy_margins
from denoise.rounds.mean import average_weights, can_be_averaged
from denoise.rounds.report import write_report
from denoise.rounds.settings import RunSettings
from denoise.rounds.trainers import CommandTrainer, OwnTrainer, Trainer
from denoise.scores import Scores
from denoise.stages.em import EMResult, EMSettings, em, read_em, write_em
from denoise.stages.export import Export, write_export
from denoise.stages.score import Plan, plan, score_to_file, unfinished_work
from denoise.tables import Provenance

SUMMARY_FILE = "summary.json"


class Watcher(Protocol):
    """Who looks on while the rounds go."""

    def step(self, number: int, what: str) -> None:
        """A step of a round begins."""

    def finished(self, summary: dict[str, Any]) -> None:
        """A round is finished; `summary` is its entry in `summary.json`."""


class NoWatcher:
    """Nobody looks on."""

    def step(self, number: int, what: str) -> None:
        """Say nothing."""

    def finished(self, summary: dict[str, Any]) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class RunResult:
    """What the rounds ended with.

    policy: the directory of the policy that was trained on all pairs. em: the last round's weights.
    rounds: a summary of each round, the first of them without a model; `converged` says whether
    the weights had stopped moving. held_out: plain training against this one, where asked for.
    """

    policy: Path
    em: EMResult
    rounds: tuple[dict[str, Any], ...]
    converged: bool
    held_out: HeldOut | None = None

    def as_summary(self) -> dict[str, Any]:
        """What `summary.json` says."""
        held_out = self.held_out.as_dict() if self.held_out else None
        return {"rounds": self.rounds, "converged": self.converged, "held_out": held_out}


@dataclass(frozen=True)
class _Job:
    data: Dataset
    pairs: pl.DataFrame
    folds: pl.DataFrame
    model: str
    identity: str
    out: Path
    settings: RunSettings
    trainer: Trainer
    reference: pl.DataFrame | None
    held_out: frozenset[str]
    announce: Callable[[str], None]
    watcher: Watcher
    progress: bool


def run(
    data: Dataset,
    *,
    model: str,
    out: Path,
    reference: str | None = None,
    holdout: Dataset | None = None,
    announce: Callable[[str], None] = lambda _: None,
    watcher: Watcher | None = None,
    progress: bool = False,
    **options: Any,
) -> RunResult:
    """Rounds of training and inference, and the policy that comes of them.

    A round trains one policy a fold on the other folds' weights, from `model`, scores each pair
    with the policy that never saw its prompt, and infers weights of those scores. Round 0 has no
    model: its weights are what votes on the same pairs tell of each other, η₀ where they tell
    nothing. At last one policy is trained on all pairs.

    Everything is kept in `out`, each piece with what made it: a repeated call, after a kill or with
    more `rounds`, does what is missing.

    Args:
        data: pairs with votes.
        model: where training starts, as for `score`.
        reference: the reference of DPO and IPO; `model` where not given.
        holdout: pairs with trusted votes; no policy is trained on their prompts.
        out: the directory of the run.
        watcher: told of each step.
        options: fields of `RunSettings`, and of the settings of the stages.

    Raises:
        InputError: a setting, the data or the model is wrong, or `out` belongs to another run.
        RunError: training or scoring failed.
    """
    settings = RunSettings.of(options)
    settings.check()
    tables.check_out(out, "run")
    job = _open(
        data, model, reference, holdout, out, settings, announce, watcher or NoWatcher(), progress
    )
    result = _infer(job, 0, None)
    history = [_summary(0, result, None)]
    job.watcher.finished(history[0])
    converged = False
    for number in range(1, settings.rounds + 1):
        scores = _score_round(job, number, result)
        before, result = result, _infer(job, number, scores)
        history.append(_summary(number, result, before))
        job.watcher.finished(history[-1])
        if history[-1]["moved"] < settings.tolerance:
            converged = True
            break
    job.watcher.step(number, "the policy on all pairs")
    weighted = training.weighted_rows(data, result)
    policy = _last_policy(job, weighted, number)
    write_export(weighted, out / "weighted")
    held_out = _held_out(job, holdout, reference or model, result) if holdout else None
    found = RunResult(policy, result, tuple(history), converged, held_out)
    tables.write_json(found.as_summary(), out / SUMMARY_FILE)
    write_report(out, found, settings.folds)
    return found


def _open(
    data: Dataset,
    model: str,
    reference: str | None,
    holdout: Dataset | None,
    out: Path,
    settings: RunSettings,
    announce: Callable[[str], None],
    watcher: Watcher,
    progress: bool,
) -> _Job:
    """Settle what the run is, refuse a directory of another, and score the reference."""
    from denoise.scorers.models import resolve

    if reference and not settings.needs_reference:
        refuse(f"--reference means nothing to the loss {settings.loss}", fix="leave it out")
    pairs, _ = data.preferences()
    folds = assign_folds(pairs, settings.folds, settings.seed)
    start = reference or model
    source, of_reference = resolve(model, announce), resolve(start, announce)
    trainer: Trainer
    if settings.train_command is not None:
        command = settings.train_command
        trainer = CommandTrainer(command, settings.train_format, reference, settings.seed)
    else:
        trainer = OwnTrainer(settings.train(), reference, announce, progress)
    provenance = Provenance(
        "run",
        {
            "data": data.provenance.run_id,
            "model": source.identity,
            **({"reference": of_reference.identity} if settings.needs_reference else {}),
        },
        {
            "model": tables.without_credentials(source.name),
            "folds": settings.folds,
            "seed": settings.seed,
            "warm_start": settings.warm_start,
            **settings.margins(),
            **settings.em(),
            **trainer.settings,
        },
    )
    _claim(out, provenance)
    tables.write_table(folds, out / "folds.parquet", provenance)
    logps = None
    if settings.needs_reference:
        watcher.step(0, "scoring the reference")
        planned = plan(data, start, None, settings.score(), announce)
        score_to_file(planned, out / "reference.parquet", announce, progress)
        logps = pl.read_parquet(out / "reference.parquet", glob=False).select(
            "pair_id", ref_a_logps="policy_a_logps", ref_b_logps="policy_b_logps"
        )
    gold = frozenset(map(first_turn, holdout.preferences()[0]["prompt"] if holdout else ()))
    if gold >= set(map(first_turn, pairs["prompt"])):
        fix = "hold out some of them"
        refuse("every prompt of the data is in the held-out data", file="holdout", fix=fix)
    return _Job(
        data=data,
        pairs=pairs,
        folds=folds,
        model=model,
        identity=source.identity,
        out=out,
        settings=settings,
        trainer=trainer,
        reference=logps,
        held_out=gold,
        announce=announce,
        watcher=watcher,
        progress=progress,
    )


def _claim(out: Path, provenance: Provenance) -> None:
    """Make the directory this run's, or refuse one that is another's."""
    made = tables.read_manifest(out)
    if made is not None and made.run_id != provenance.run_id:
        refuse(
            f"the directory holds a run with other {changes(made, provenance)}",
            file=out,
            fix="repeat that command to continue it, or give another --out",
        )
    out.mkdir(parents=True, exist_ok=True)
    tables.write_text(provenance.to_json() + "\n", out / tables.MANIFEST)


def _score_round(job: _Job, number: int, weights: EMResult) -> Scores:
    """The pairs' log-probs under the policies that never saw them, from fold to fold."""
    directory = job.out / f"round-{number}"
    directory.mkdir(exist_ok=True)
    rows = _trainable(job, training.weighted_rows(job.data, weights))
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


def _score_fold(job: _Job, number: int, fold: int, rows: Export) -> tuple[pl.DataFrame, Provenance]:
    """The scores of one fold by the policy that is trained on the others."""
    directory = job.out / f"round-{number}"
    policy, file = directory / f"policy-{fold}", directory / f"scores-{fold}.parquet"
    seen = rows if job.settings.folds == 1 else training.outside_fold(rows, job.folds, fold)
    earlier = job.out / f"round-{number - 1}" / f"policy-{fold}"
    warm = job.settings.warm_start and number > 1
    made_from = _made_from(job, seen, _training_of(job, number - 1, fold) if warm else job.identity)
    key = Provenance("train", made_from.inputs, job.trainer.settings).run_id
    its = job.folds.filter(pl.col("fold") == fold)["pair_id"].implode()
    own = job.pairs.filter(pl.col("pair_id").cast(pl.String).is_in(its))
    made = tables.read_provenance(file) if file.exists() else None
    if made is None or made.inputs.get("training") != key:
        of = f"fold {fold + 1} of {job.settings.folds}"
        job.watcher.step(number, f"training without {of}")
        job.trainer.train(seen, str(earlier) if warm else job.model, policy, made_from)
        job.watcher.step(number, f"scoring {of}")
        subset = replace(job.data, pairs=own)
        planned = plan(subset, str(policy), None, job.settings.score(), job.announce)
        inputs = {**planned.provenance.inputs, "training": key}
        made = replace(planned.provenance, inputs=inputs)
        _score(replace(planned, provenance=made), file, job)
    _remove_policies(job, number, fold)
    frame = pl.read_parquet(file, glob=False).with_columns(fold=pl.lit(fold, pl.Int64))
    return frame, made


def _score(planned: Plan, file: Path, job: _Job) -> None:
    """Score into the file; unfinished work of another policy is discarded."""
    work = unfinished_work(file)
    kept = tables.read_manifest(work)
    if kept is not None and kept.run_id != planned.provenance.run_id:
        shutil.rmtree(work)
    score_to_file(planned, file, job.announce, job.progress)


def _training_of(job: _Job, number: int, fold: int) -> str:
    """What trained the fold's policy in that round."""
    made = tables.read_provenance(job.out / f"round-{number}" / f"scores-{fold}.parquet")
    assert made is not None
    return made.inputs["training"]


def _remove_policies(job: _Job, number: int, fold: int) -> None:
    """Remove what no later round starts from."""
    if job.settings.keep_policies:
        return
    done = number - 1 if job.settings.warm_start else number
    shutil.rmtree(job.out / f"round-{done}" / f"policy-{fold}", ignore_errors=True)


def _trainable(job: _Job, rows: Export) -> Export:
    """The rows that policies may be trained on, with what their trainer needs."""
    if job.held_out:
        rows = training.without_prompts(rows, job.held_out)
    if job.reference is not None and isinstance(job.trainer, OwnTrainer):
        rows = training.with_reference(rows, job.pairs, job.reference)
    return rows


def _made_from(job: _Job, rows: Export, start: str) -> Provenance:
    return Provenance(
        "export", {"rows": tables.frame_hash(rows.frame), "start": start}, rows.provenance.settings
    )


def _train_on_all(
    job: _Job, rows: Export, name: str, start: Path | None = None, identity: str | None = None
) -> Path:
    """A policy on all rows, in the directory of that name, from the model or another start."""
    rows = _trainable(job, rows)
    policy = job.out / name
    made_from = _made_from(job, rows, identity or job.identity)
    job.trainer.train(rows, str(start or job.model), policy, made_from)
    return policy


def _last_policy(job: _Job, rows: Export, number: int) -> Path:
    """The policy on all pairs, from the mean of the last round's policies where they are kept."""
    directory = job.out / f"round-{number}"
    policies = [directory / f"policy-{fold}" for fold in range(job.settings.folds)]
    if not job.settings.warm_start or not all(can_be_averaged(policy) for policy in policies):
        return _train_on_all(job, rows, "policy")
    mean = directory / "mean"
    average_weights(policies, mean)
    trained = [_training_of(job, number, fold) for fold in range(job.settings.folds)]
    policy = _train_on_all(job, rows, "policy", mean, schema.digest(*trained).hex())
    shutil.rmtree(mean)
    return policy


def _held_out(job: _Job, gold: Dataset, reference: str, result: EMResult) -> HeldOut:
    """Both policies on the trusted pairs: this one, and one trained on the labels as given."""
    job.watcher.step(0, "plain training, to compare")
    _train_on_all(job, training.plain_rows(job.data, result), "plain")
    job.watcher.step(0, "scoring the held-out pairs")
    settings, loss = job.settings.score(), job.settings.margins()
    start = reference if job.settings.needs_reference else None
    margins = {
        name: policy_margins(
            gold,
            job.out / name,
            start,
            job.out / f"holdout-{name}.parquet",
            settings,
            loss,
            job.announce,
            job.progress,
        )
        for name in ("plain", "policy")
    }
    return compare_policies(gold, margins["plain"], margins["policy"])


def _infer(job: _Job, number: int, scores: Scores | None) -> EMResult:
    """EM on a round's scores, or on the votes alone; read where it is there already."""
    job.watcher.step(number, "EM")
    directory = job.out / f"round-{number}" / "em"
    options = job.settings.em() | (job.settings.margins() if scores else {})
    settings = EMSettings(**options)
    made = tables.read_manifest(directory)
    if made is not None and _is_of(made, job, scores, settings):
        return read_em(directory)
    result = em(job.data, scores, **options)
    write_em(result, directory)
    return result


def _is_of(made: Provenance, job: _Job, scores: Scores | None, settings: EMSettings) -> bool:
    inputs = {"data": job.data.provenance.run_id}
    if scores:
        inputs["scores"] = scores.provenance.run_id
    return made.inputs == inputs and settings.of_the_fit().items() <= made.settings.items()


def _summary(number: int, result: EMResult, before: EMResult | None) -> dict[str, Any]:
    """A round in figures; `moved` is the mean change of a label's weight."""
    told = result.summary
    names = ("temperature", "objective", "mean_reliability", "expected_wrong_share")
    summary = {"round": number, **{name: told.get(name) for name in names}}
    weights = result.confidences["confidence"]
    summary["doubted"] = int((weights < 0.5).sum())
    summary["labels"] = int(weights.is_not_null().sum())
    if before is None:
        return summary | {"moved": None}
    change = (weights - before.confidences["confidence"]).abs().mean()
    return summary | {"moved": change}
