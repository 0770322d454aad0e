"""What trains a policy on weighted rows: denoise's own trainer, or any command."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any, Protocol

from denoise import tables
from denoise.errors import Fault, RunError, raise_any, refuse
from denoise.plain import command_without_secrets, plain
from denoise.stages import formats
from denoise.stages.export import Export, write_export
from denoise.stages.strategies import with_strategy
from denoise.tables import Provenance
from denoise.trainers.settings import TrainSettings

Announce = Callable[[str], None]

PLACES = frozenset({"data", "model", "out", "reference", "seed"})
LOG_LINES = 15
CONFIGURATIONS = ("config.json", "adapter_config.json")
"""Of a model and of an adapter: one of them is in what a trainer writes."""


class Trainer(Protocol):
    """Makes policies; `settings` is what they depend on beside the rows and the model."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the policy depends on, for its provenance."""

    def train(self, rows: Export, model: str, out: Path, made_from: Provenance) -> None:
        """Train `model` on the rows into the directory `out`; nothing to do where that is done."""


@dataclass(frozen=True)
class OwnTrainer:
    """`denoise.train`, in this process."""

    options: TrainSettings
    reference: str | None
    announce: Announce
    progress: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the training."""
        return {"trainer": "denoise", **self.options.of_the_policy()}

    def train(self, rows: Export, model: str, out: Path, made_from: Provenance) -> None:
        """Train with TRL; the rows may hold the reference's log-probs."""
        from denoise.stages.train import train

        train(
            rows.frame,
            model=model,
            reference=self.reference,
            out=out,
            provenance=made_from,
            replace_unfinished=True,  # of a round that other settings have changed since
            announce=self.announce,
            progress=self.progress,
            **{f.name: getattr(self.options, f.name) for f in fields(self.options)},
        )


@dataclass(frozen=True)
class CommandTrainer:
    """Any program: `template` is its command line, split into arguments and never given to a shell.

    {data} is the weighted data in `format` (labels drawn from their posterior, where that is a
    trainer's own and has no weights), {model} where to start, {out} the directory to write,
    {reference} and {seed} are there for those who want them. What it prints goes to a log file.

    Raises:
        InputError: the command is empty, lacks {data} or {out}, or has another place in braces.
    """

    template: str
    format: str
    reference: str | None
    seed: int

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.template)
        except ValueError as error:
            refuse("--train-command is not whole", found=self._told, fix=f"mend it: {error}")
        try:
            named = {name for word in words for _, name, _, _ in Formatter().parse(word)} - {None}
        except ValueError as error:
            fix = f"{error}; a brace that is meant is written twice"
            refuse("--train-command has a stray brace", found=self._told, fix=fix)
        faults = [
            Fault(f"--train-command has no {{{name}}}", found=self._told, fix="say where it goes")
            for name in ("data", "out")
            if name not in named
        ]
        places = ", ".join(f"{{{name}}}" for name in sorted(PLACES))
        faults += [
            Fault("--train-command has an unknown place", found=f"{{{name}}}", fix=f"use {places}")
            for name in sorted(named - PLACES)
        ]
        raise_any(faults)
        if shutil.which(words[0]) is None:
            refuse(
                "there is no such program",
                found=command_without_secrets(words[0]),
                fix="check --train-command",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The command, as it was typed but for secrets, and what it reads."""
        told = {"trainer": self._told, "format": self.format, "seed": self.seed}
        return {**told, "strategy": "sample"} if self._draws else told

    @property
    def _told(self) -> str:
        return command_without_secrets(self.template)

    @property
    def _draws(self) -> bool:
        """Whether the labels are drawn, as the program would not read their weights."""
        return formats.find(self.format).default_strategy == "sample"

    def train(self, rows: Export, model: str, out: Path, made_from: Provenance) -> None:
        """Run the command; what an earlier, interrupted one left in `{out}` is there for it.

        Raises:
            RunError: it cannot be started, fails, or writes no model.
        """
        provenance = Provenance("train", {**made_from.inputs}, self.settings)
        made = tables.read_manifest(out)
        if made is not None and made.run_id == provenance.run_id:
            return
        work = out.with_name(f"{out.name}.parts")
        begun = tables.read_manifest(work)
        if begun is None or begun.run_id != provenance.run_id:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            tables.write_text(provenance.to_json() + "\n", work / tables.MANIFEST)
        data, unfinished = work / "data", work / "policy"
        unfinished.mkdir(exist_ok=True)
        rows = with_strategy(rows, "sample", seed=self.seed) if self._draws else rows
        write_export(rows, data, self.format)
        log = out.with_name(f"{out.name}.log")
        self._run(self._words(self._given(data), model, unfinished), log)
        if not any((unfinished / name).is_file() for name in CONFIGURATIONS):
            raise RunError(
                f"{plain(self._told)} ended well and left no model in {unfinished}; see {log}"
            )
        tables.write_text(provenance.to_json() + "\n", unfinished / tables.MANIFEST)
        shutil.rmtree(out, ignore_errors=True)
        unfinished.rename(out)
        shutil.rmtree(work)

    def _given(self, data: Path) -> Path:
        """What the program is handed: the one data file where the format has one."""
        name = formats.find(self.format).data_files
        return data if "*" in name else data / name

    def _words(self, data: Path, model: str, out: Path) -> list[str]:
        places = {"data": data, "model": model, "out": out, "seed": self.seed}
        places["reference"] = self.reference or model
        return [word.format_map(places) for word in shlex.split(self.template)]

    def _run(self, words: list[str], log: Path) -> None:
        with log.open("wb") as stream:
            try:
                done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
            except OSError as error:
                raise RunError(f"{words[0]} could not be started: {error.strerror}") from error
        code = done.returncode
        if code:
            ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            print("\n".join(plain(line) for line in last), file=sys.stderr)
            raise RunError(f"{words[0]} ended: {ended}; all it said is in {log}")
