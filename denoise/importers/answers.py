"""What the exports of annotation tools have in common: answers to tasks, one question at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import polars as pl

from denoise import schema
from denoise.errors import InputError, refuse
from denoise.importers import content, winners
from denoise.importers.ballots import Ballots, LabelRows, Request
from denoise.importers.columns import Columns, without_collisions
from denoise.plain import quote

SEVERAL = " + "
"""What stands between the parts of an answer that chooses several."""


class Answer(NamedTuple):
    """One person's answer to one task: `at` is the task's row, `seconds` the time it took.

    `reason` says why it cannot be used; `truth` marks a known answer; `extras` are the columns that
    belong to the answer and not to the task.
    """

    at: int
    item: object
    annotator: object = None
    label: object = None
    seconds: object = None
    timestamp: object = None
    reason: str | None = None
    truth: bool = False
    extras: dict[str, Any] | None = None


def as_id(value: object) -> str | None:
    """An id or a label as text: 7 and 7.0 as '7', True as 'true', what is empty as None."""
    if value is None or value != value or value == "":  # NaN differs from itself
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def one_label(values: Iterable[object]) -> str | None:
    """One label of all that an answer chooses, in the order of the alphabet; None of nothing."""
    chosen = {text for value in values if (text := as_id(value)) is not None}
    return SEVERAL.join(sorted(chosen)) or None


def question(found: Sequence[str], request: Request) -> str:
    """The question to read: the aspect that was asked for, or the only one there is.

    Raises:
        InputError: there is no such question, or there are several and none was asked for.
    """
    if request.aspect in found:
        return request.aspect
    if request.aspect == "overall" and len(found) == 1:
        return found[0]
    names = ", ".join(map(quote, found))
    if not found:
        fix = "only choices, ratings and comparisons are read"
        refuse("there is no question that can be read", file=request.source.name, fix=fix)
    what = "several questions" if request.aspect == "overall" else "no such question"
    refuse(f"there are {what}", file=request.source.name, fix=f"give --aspect with one of {names}")


def as_rows(
    request: Request,
    answers: Iterable[Answer],
    tasks: pl.DataFrame,
    *,
    described: str,
    called: dict[str, str],
    notes: tuple[str, ...] = (),
) -> Ballots | LabelRows:
    """Votes where the tasks hold two responses and the labels name their sides, else labels.

    `tasks` has one row a row of the source; `called` says what the source calls annotator_id,
    label, item_id, seconds and timestamp.
    """
    rows = list(answers)
    core = _core(rows)
    if core["annotator_id"].null_count() == len(core):
        core = core.with_columns(annotator_id=pl.lit(schema.ALL_ANNOTATORS))
        called = {name: of for name, of in called.items() if name != "annotator_id"}
        notes = (*notes, f"nobody is named: all answers count as those of {schema.ALL_ANNOTATORS}")
    notes = (*notes, *_several(core), *_odd_times(rows, core))
    fields = _fields(rows, tasks, core["source_row"])
    answer = core.drop("source_row", "reason", "truth").to_struct("answer")
    shown = _beside([answer], fields)
    roles = {"annotator_id": "annotator", "item_id": "item", "label": "winner"}
    used = {roles.get(name, name): of for name, of in called.items() if name in core.columns}
    request.columns.used.update(used)
    votes = _votes(request, core, fields)
    if votes is None:
        return LabelRows(core, fields, shown, called, f"{described}, labels", notes)
    arranged, choice, names = votes
    return Ballots(
        core=core.select(
            "source_row",
            arranged.prompt.alias("prompt"),
            arranged.first.alias("first"),
            arranged.second.alias("second"),
            choice.alias("choice"),
            pl.col("annotator_id").alias("annotator"),
            *(name for name in ("seconds", "timestamp", "truth") if name in core.columns),
        ),
        reason=core["reason"],
        vote_columns=_beside([core["item_id"]], fields.drop(set(names.values()))),
        pair_columns=pl.DataFrame(),
        shown=shown,
        own_sides=True,
        called={
            **called,
            **names,
            "choice": called["label"],
            "annotator": called.get("annotator_id", "annotator"),
        },
        described=f"{described}, comparisons of {quote(names['first'])} and "
        f"{quote(names['second'])}",
        nested=True,
        notes=(*notes, *arranged.notes),
    )


def _core(rows: Sequence[Answer]) -> pl.DataFrame:
    core = pl.DataFrame(
        {
            "source_row": pl.Series([row.at for row in rows], dtype=pl.Int64),
            "item_id": pl.Series([as_id(row.item) for row in rows], dtype=pl.String),
            "annotator_id": pl.Series([as_id(row.annotator) for row in rows], dtype=pl.String),
            "label": pl.Series([as_id(row.label) for row in rows], dtype=pl.String),
            "seconds": pl.Series([number(row.seconds) for row in rows], dtype=pl.Float64),
            "timestamp": _times([row.timestamp for row in rows]),
            "reason": pl.Series([row.reason for row in rows], dtype=pl.String),
            "truth": pl.Series([row.truth for row in rows], dtype=pl.Boolean),
        }
    )
    empty = [name for name in ("seconds", "timestamp") if core[name].null_count() == len(core)]
    return core.drop(empty)


def _several(core: pl.DataFrame) -> list[str]:
    several = core["label"].str.contains(SEVERAL, literal=True) & ~core["truth"]
    what = "answers that choose several, each combination a class of its own"
    return [f"{what}: {several.sum():,}"] if several.any() else []


def _odd_times(rows: Sequence[Answer], core: pl.DataFrame) -> list[str]:
    given = sum(row.seconds not in (None, "") for row in rows)
    odd = given - (core["seconds"].count() if "seconds" in core.columns else 0)
    return [f"times taken that are no numbers, left out: {odd:,}"] if odd else []


def _fields(rows: Sequence[Answer], tasks: pl.DataFrame, at: pl.Series) -> pl.DataFrame:
    """The columns of each answer's task, and those of its own."""
    own = pl.DataFrame([row.extras or {} for row in rows], infer_schema_length=None)
    of_tasks = pl.DataFrame([column[at] for column in tasks.get_columns()])
    return _beside(own.get_columns(), of_tasks)


def _beside(columns: Sequence[pl.Series], others: pl.DataFrame) -> pl.DataFrame:
    """The other columns, renamed where they have the names of these, and these."""
    others, _ = without_collisions(others, [column.name for column in columns])
    return pl.DataFrame([*others.get_columns(), *columns])


def _votes(
    request: Request, core: pl.DataFrame, fields: pl.DataFrame
) -> tuple[content.Content, pl.Series, dict[str, str]] | None:
    """The two responses and the choice between them, or None where the labels name no sides."""
    columns = Columns(fields.schema, None, request.source.name)
    names = {"prompt": "prompt", "first": "response_a", "second": "response_b"}
    if not columns.has(*names.values()):
        return None
    names = {name: columns.need(role) for name, role in names.items()}
    first, second = fields[names["first"]], fields[names["second"]]
    try:
        choice = winners.choices(core["label"], first, second, None, columns.ending(), index=False)
        if (choice.is_null() & core["label"].is_not_null()).any():
            return None
        arranged = content.arrange(fields[names["prompt"]], first, second, inside=False)
    except InputError:  # labels of another kind, about two responses all the same
        return None
    return arranged, choice, names


def number(value: object) -> float | None:
    """A finite number, also one that is written as text; None of anything else."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _times(values: list[object]) -> pl.Series:
    """Time stamps as the source has them, as text where they are of several types."""
    if len({type(value) for value in values if value is not None}) > 1:
        return pl.Series([as_id(value) for value in values], dtype=pl.String)
    return pl.Series([value if value != "" else None for value in values])
