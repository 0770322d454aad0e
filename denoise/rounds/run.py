"""The rounds of full EM: train a policy a fold, score what it never saw, infer, train again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoise import schema, tables
from denoise.cluster import connected
from denoise.dataset import Dataset
from denoise.errors import refuse
from denoise.locks import locked
from denoise.rounds import rows as training
from denoise.rounds.holdout import HeldOut, compare_policies
from denoise.rounds.holdout import margins as policy_margins
from denoise.rounds.job import Job, NoWatcher, Watcher, open_job
from denoise.rounds.mean import average_weights, can_be_averaged
from denoise.rounds.report import write_report
from denoise.rounds.scoring import score_round, training_of
from denoise.rounds.settings import RunSettings
from denoise.rounds.trainers import OwnTrainer
from denoise.scores import Scores
from denoise.stages.em import EMResult, EMSettings, em, read_em, write_em
from denoise.stages.export import Export, write_export
from denoise.tables import Provenance

SUMMARY_FILE = "summary.json"


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
    more `rounds`, does what is missing. One that ends earlier is refused where the policies of its
    last round were removed.

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
    with locked(out), connected(settings.score().cluster):
        tables.check_out(out, "run")
        job = open_job(
            data,
            model,
            reference,
            holdout,
            out,
            settings,
            announce,
            watcher or NoWatcher(),
            progress,
        )
        result = _infer(job, 0, None)
        history = [_summary(0, result, None)]
        job.watcher.finished(history[0])
        converged = False
        for number in range(1, settings.rounds + 1):
            scores = score_round(job, number, result)
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


def _train_on_all(
    job: Job, rows: Export, name: str, start: Path | None = None, identity: str | None = None
) -> Path:
    """A policy on all rows, in the directory of that name, from the model or another start."""
    rows = job.trainable(rows)
    policy = job.out / name
    made = job.made_from(rows, identity or job.identity)
    job.trainer.train(rows, str(start or job.model), policy, made)
    return policy


def _last_policy(job: Job, rows: Export, number: int) -> Path:
    """The policy on all pairs, from the mean of the last round's policies where they have one.

    Raises:
        InputError: they are gone, as a later round was begun and the run is now to end before it.
    """
    directory = job.out / f"round-{number}"
    policies = [directory / f"policy-{fold}" for fold in range(job.settings.folds)]
    adapters = isinstance(job.trainer, OwnTrainer) and job.trainer.options.lora_r is not None
    if not job.settings.warm_start or adapters:
        return _train_on_all(job, rows, "policy")
    if not all(policy.is_dir() for policy in policies):
        refuse(
            f"the policies of round {number}, where the last training starts, are gone",
            file=job.out,
            fix="give --rounds and --tolerance as before, or another --out",
        )
    if not all(can_be_averaged(policy) for policy in policies):
        return _train_on_all(job, rows, "policy")
    mean = directory / "mean"
    average_weights(policies, mean)
    trained = [training_of(job, number, fold) for fold in range(job.settings.folds)]
    policy = _train_on_all(job, rows, "policy", mean, schema.digest(*trained).hex())
    shutil.rmtree(mean)
    return policy


def _held_out(job: Job, gold: Dataset, reference: str, result: EMResult) -> HeldOut:
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


def _infer(job: Job, number: int, scores: Scores | None) -> EMResult:
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


def _is_of(made: Provenance, job: Job, scores: Scores | None, settings: EMSettings) -> bool:
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
