"""A run that is going on: its data, its folds, and the directory that is its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from denoise import tables
from denoise.dataset import Dataset
from denoise.errors import refuse
from denoise.parts import changes
from denoise.plain import without_credentials
from denoise.rounds import rows as training
from denoise.rounds.folds import assign_folds, first_turn
from denoise.rounds.settings import RunSettings
from denoise.rounds.trainers import CommandTrainer, OwnTrainer, Trainer
from denoise.stages.export import Export
from denoise.stages.score import plan, score_to_file
from denoise.tables import Provenance


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
class Job:
    """What the steps of a run share.

    identity: of the model where training starts. reference: `pair_id` and its log-probs (nats),
    None for losses without one. held_out: prompts that no policy is trained on.
    """

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

    def trainable(self, rows: Export) -> Export:
        """The rows that policies may be trained on, with what their trainer needs."""
        if self.held_out:
            rows = training.without_prompts(rows, self.held_out)
        if self.reference is not None and isinstance(self.trainer, OwnTrainer):
            rows = training.with_reference(rows, self.pairs, self.reference)
        return rows

    def made_from(self, rows: Export, start: str) -> Provenance:
        """What a policy is made from: the rows, and where its training starts."""
        inputs = {"rows": tables.frame_hash(rows.frame), "start": start}
        return Provenance("export", inputs, rows.provenance.settings)


def open_job(
    data: Dataset,
    model: str,
    reference: str | None,
    holdout: Dataset | None,
    out: Path,
    settings: RunSettings,
    announce: Callable[[str], None],
    watcher: Watcher,
    progress: bool,
) -> Job:
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
            "model": without_credentials(source.name),
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
        logps = tables.read_frame(out / "reference.parquet").select(
            "pair_id", ref_a_logps="policy_a_logps", ref_b_logps="policy_b_logps"
        )
    gold = frozenset(map(first_turn, holdout.preferences()[0]["prompt"] if holdout else ()))
    if gold >= set(map(first_turn, pairs["prompt"])):
        fix = "hold out some of them"
        refuse("every prompt of the data is in the held-out data", file="holdout", fix=fix)
    return Job(
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
