"""Training: weighted rows in, a policy out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from denoise import processes, schema, tables
from denoise.errors import Fault, raise_any, refuse
from denoise.parts import begun, changes, remove
from denoise.stages.training_rows import REFERENCE, SKIPPED_SCHEMA, trainable
from denoise.tables import Provenance
from denoise.trainers.settings import TrainSettings

LOG_FILE = "log.parquet"
RELIABILITY_FILE = "reliability.parquet"
TRACE_FILE = "reliability_trace.parquet"
SKIPPED_FILE = "skipped.parquet"

_TEXTS = ("prompt", "chosen", "rejected")
_TEMPLATE = ("tools", "chat_template_kwargs")
_AS_GIVEN = {"method": "weighted", "flip_rate": None}
"""Settings by which a label counts by the weight of its row."""


@dataclass(frozen=True)
class Trained:
    """A policy and how it came to be.

    directory: its weights and tokenizer. log: what TRL logged, a row a logged step. reliability:
    `annotator_id` and `reliability` (η) at the end of the online method, else None; the directory
    also has η by `step`. skipped: rows that were not trained on, with their `reason`. made_anew:
    False where it was there already.
    """

    directory: Path
    log: pl.DataFrame
    reliability: pl.DataFrame | None
    skipped: pl.DataFrame
    provenance: Provenance
    made_anew: bool
    notes: tuple[str, ...] = ()


def train(
    rows: pl.DataFrame,
    *,
    model: str,
    out: Path,
    reference: str | None = None,
    evaluation: pl.DataFrame | None = None,
    provenance: Provenance | None = None,
    replace_unfinished: bool = False,
    announce: Callable[[str], None] = lambda _: None,
    progress: bool = False,
    **options: Any,
) -> Trained:
    """Train `model` on weighted pairs with TRL, into the directory `out`.

    Killed and called again, it continues from its last checkpoint, beside `out`, to the same
    weights; where `out` is finished, from the same inputs and settings, nothing is done. Where
    `accelerate launch` or torchrun starts several processes, the first one writes.

    Args:
        rows: `prompt`, `chosen`, `rejected` (text or messages); `weight`, the probability that
            `chosen` is truly preferred, without which it is the loss itself that is trained, as
            TRL does; `annotator_id` for the online method; `ref_chosen_logps` and
            `ref_rejected_logps` (nats), without which a reference model computes them.
        reference: the reference model of DPO and IPO; `model` where not given.
        evaluation: rows to evaluate on after each epoch, of the same columns; their labels count
            by their own `weight`, whatever the method.
        provenance: what made the rows; their values where not given.
        replace_unfinished: whether to discard another training's unfinished work beside `out`.
        options: fields of `TrainSettings`.

    Raises:
        InputError: a setting or the rows are wrong, there is no such model, or `out` is another's.
        RunError: the training does not fit into memory, or diverges.
    """
    settings = TrainSettings(**options)
    if (settings.method, settings.objective) == ("weighted", None) and "weight" not in rows.columns:
        settings = replace(settings, objective="mixture")  # which is the loss itself at w = 1
    tables.check_out(out, "train")
    rows, notes = _checked(rows, settings, "rows")
    if evaluation is not None:
        evaluation, _ = _checked(evaluation, replace(settings, **_AS_GIVEN), "evaluation")
    if reference and not settings.in_dpo_trainer:
        refuse(f"a reference means nothing to the loss {settings.loss}", fix="leave it out")
    from denoise.scorers.models import resolve

    source = resolve(model, announce)
    of_reference = resolve(reference, announce) if reference else None
    made = Provenance(
        "train",
        {
            **(provenance.inputs if provenance else {}),
            "rows": tables.frame_hash(rows),
            "model": source.identity,
            **({"reference": of_reference.identity} if of_reference else {}),
            **({} if evaluation is None else {"evaluation": tables.frame_hash(evaluation)}),
            **_files(settings),
        },
        settings.of_the_policy() | _processes(),
    )
    work = out.with_name(f"{out.name}.parts")
    earlier = tables.read_manifest(out)
    if earlier is not None and earlier.run_id == made.run_id:
        if processes.is_first() and earlier == tables.read_manifest(work):
            remove(work)  # killed after the policy took its place
        for note in notes:
            announce(note)
        return _read(out, made, notes)
    if processes.is_first():
        _claim(work, made, replace_unfinished)
    from denoise.scorers.models import load_tokenizer

    tokenizer = load_tokenizer(source, settings.trust_remote_code)
    rows, skipped, more = trainable(rows, tokenizer, settings, "rows")
    if evaluation is not None:
        evaluation, _, of_evaluation = trainable(evaluation, tokenizer, settings, "evaluation")
        more += tuple(f"evaluation: {note}" for note in of_evaluation)
    for note in (*notes, *more):
        announce(note)
    names = rows["annotator_id"].unique().sort() if settings.method == "online" else None
    from denoise.trainers.fit import fit

    weights = work / "weights"
    done = fit(
        _coded(rows, names),
        settings,
        source,
        None if _bring_reference(rows, evaluation) else of_reference,
        weights,
        work,
        annotators=0 if names is None else len(names),
        evaluation=evaluation,
        progress=progress,
    )
    log = pl.DataFrame(done.log, infer_schema_length=None)
    log = log.select("step", "epoch", *sorted(set(log.columns) - {"step", "epoch"}))
    eta = None
    if names is not None:
        eta = pl.DataFrame({"annotator_id": names, "reliability": done.reliability})
    if done.writes:
        with tables.staged_directory(out, made) as staging:
            for path in weights.iterdir():
                path.rename(staging / path.name)
            tables.write_table(log, staging / LOG_FILE, made)
            if len(skipped):
                tables.write_table(skipped, staging / SKIPPED_FILE, made)
            if names is not None and eta is not None:
                tables.write_table(eta, staging / RELIABILITY_FILE, made)
                tables.write_table(_trace(names, done.trace), staging / TRACE_FILE, made)
        remove(work)
    return Trained(out, log, eta, skipped, made, True, notes + more)


def _read(out: Path, made: Provenance, notes: tuple[str, ...]) -> Trained:
    """What is there already."""
    eta, skipped = (
        tables.read_frame(file) if file.exists() else None
        for file in (out / RELIABILITY_FILE, out / SKIPPED_FILE)
    )
    log = tables.read_frame(out / LOG_FILE)
    nothing = pl.DataFrame(schema=SKIPPED_SCHEMA)
    return Trained(out, log, eta, nothing if skipped is None else skipped, made, False, notes)


def _files(settings: TrainSettings) -> dict[str, str]:
    """Hashes of the files that further arguments name, DeepSpeed's configuration for instance."""
    given = {name: v for name, v in settings.trainer_args.items() if isinstance(v, str)}
    return {name: tables.file_hash(Path(v)) for name, v in given.items() if Path(v).is_file()}


def _processes() -> dict[str, int]:
    """How many processes share a step, where they are several: its batch is so much larger."""
    count = processes.count()
    return {"processes": count} if count > 1 else {}


def _bring_reference(rows: pl.DataFrame, evaluation: pl.DataFrame | None) -> bool:
    """Whether all rows have the reference's log-probs, so that no reference model is needed."""
    return all(set(REFERENCE) <= set(f.columns) for f in (rows, evaluation) if f is not None)


def _trace(names: pl.Series, trace: Sequence[tuple[int, list[float]]]) -> pl.DataFrame:
    """η by `step` and `annotator_id`."""
    columns = {"step": pl.Int64, "annotator_id": names.dtype, "reliability": pl.Float64}
    rows = [(step, *row) for step, eta in trace for row in zip(names, eta, strict=True)]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _claim(work: Path, made: Provenance, replace_unfinished: bool) -> None:
    """Make the directory of checkpoints this training's, or refuse that of another."""
    kept = begun(work, "train")
    if kept is not None and kept.run_id != made.run_id:
        if any(work.glob("checkpoint-*")) and not replace_unfinished:
            refuse(
                f"holds the unfinished training with other {changes(kept, made)}",
                file=work,
                fix="repeat that command to finish it, remove the directory, or give another --out",
            )
        remove(work)
    work.mkdir(parents=True, exist_ok=True)
    tables.write_text(made.to_json() + "\n", work / tables.MANIFEST)
    shutil.rmtree(work / "weights", ignore_errors=True)


def _checked(
    rows: pl.DataFrame, settings: TrainSettings, file: str
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The columns that training reads, `weight` among them, and notes.

    Raises:
        InputError: a column is missing, has empty values, or a weight is no probability.
    """
    online = settings.method == "online"
    contract = schema.Contract(
        "training",
        (
            *(schema.Column(name, "content") for name in _TEXTS),
            schema.Column("weight", "float", required=False),
            schema.Column("annotator_id", "id", required=online, null=not online),
            *(schema.Column(name, "float", required=False) for name in REFERENCE),
        ),
        key=(),
    )
    found = schema.faults(rows, contract, file)
    kinds = {schema.is_chat(rows.schema[name]) for name in _TEXTS if name in rows.columns}
    if len(kinds) > 1:
        fix = "give all three in one form; `denoise export --format trl` does"
        found.append(Fault("some of the texts are text and some are messages", file, fix=fix))
    present = [name for name in REFERENCE if name in rows.columns]
    if len(present) == 1:
        fix = "give both, or neither"
        found.append(Fault("one reference log-prob without the other", file, fix=fix))
    raise_any(found)
    notes = []
    if settings.method in ("smoothing", "rdpo", "online"):
        if "weight" in rows.columns:
            notes.append(f"the column 'weight' is not used: {settings.method} has its own")
        rows = rows.with_columns(weight=pl.lit(_constant_weight(settings)))
    elif "weight" not in rows.columns:
        notes.append("the rows have no column 'weight': each label counts as right")
        rows = rows.with_columns(weight=pl.lit(1.0))
    weight = rows["weight"]
    outside = (~weight.is_between(0, 1)).arg_true() if settings.method == "weighted" else ()
    if len(outside):
        row = outside[0]
        fix = "a weight is the probability that chosen is truly preferred"
        problem = f"{len(outside)} value(s) outside 0 to 1"
        refuse(problem, file=file, row=row, column="weight", found=weight[row], fix=fix)
    used = present if settings.in_dpo_trainer else []
    names = [*_TEXTS, "weight", *used, *(["annotator_id"] if online else [])]
    names += [name for name in _TEMPLATE if name in rows.columns]
    rows = rows.select(names).with_columns(pl.col("weight", *used).cast(pl.Float32))
    return rows, tuple(notes)


def _constant_weight(settings: TrainSettings) -> float:
    """w of every label: cDPO's 1 − ε, rDPO's (1 − ε)/(1 − 2ε), or 1, which online w replaces."""
    rate = settings.flip_rate or 0.0
    return (1 - rate) / (1 - 2 * rate) if settings.method == "rdpo" else 1 - rate


def _coded(rows: pl.DataFrame, names: pl.Series | None) -> pl.DataFrame:
    """The rows with annotators as codes into `names`."""
    if names is None:
        return rows
    codes = rows["annotator_id"].replace_strict(names, pl.int_range(len(names), eager=True))
    return rows.drop("annotator_id").with_columns(annotator=codes.cast(pl.Int64))
