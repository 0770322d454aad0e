"""The batch results of Amazon Mechanical Turk (CSV).

Columns: https://docs.aws.amazon.com/AWSMechTurk/latest/RequesterUI/UnderstandingResultsFile.html
(from memory). Rejected work stays, as an audit wants it: AssignmentStatus is kept beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict

import polars as pl

from denoise.importers.answers import Answer, as_rows, one_label, question
from denoise.importers.ballots import Ballots, Form, LabelRows, Request
from denoise.importers.columns import Columns
from denoise.importers.content import as_text
from denoise.plain import quote

_ANSWER = "Answer."
_ZONES = {"PST": "-0800", "PDT": "-0700", "UTC": "+0000", "GMT": "+0000"}


def _matches(columns: Columns) -> bool:
    names = set(columns.schema)
    return {"HITId", "WorkerId"} <= names and any(name.startswith(_ANSWER) for name in names)


def _read(request: Request) -> Ballots | LabelRows:
    frame = request.source.frame
    questions = _questions(frame)
    asked = question(list(questions), request)
    items, again = _items(frame)
    labels = [
        one_label(row)
        for row in zip(*(_said(frame, asked, name) for name in questions[asked]), strict=True)
    ]
    seconds = _column(frame, "WorkTimeInSeconds")
    times = _submitted(frame)
    answers = (
        Answer(at, *values, reason=None if values[2] else "no answer to the question")
        for at, values in enumerate(
            zip(items, as_text(frame["WorkerId"]), labels, seconds, times, strict=True)
        )
    )
    taken = ["WorkerId", "WorkTimeInSeconds", "SubmitTime", *questions[asked]]
    tasks = frame.drop(taken, strict=False)
    inputs = {name: name.removeprefix("Input.") for name in tasks.columns}
    free = {old: new for old, new in inputs.items() if old == new or new not in tasks.columns}
    return as_rows(
        request,
        answers,
        tasks.rename(free),
        described=f"MTurk, question {quote(asked)}",
        called={
            "item_id": "HITId",
            "annotator_id": "WorkerId",
            "label": _ANSWER + asked,
            "seconds": "WorkTimeInSeconds",
            "timestamp": "SubmitTime",
        },
        notes=(f"republished HITs, one item with those of the same input: {again:,}",)
        if again
        else (),
    )


def _questions(frame: pl.DataFrame) -> dict[str, list[str]]:
    """The columns of each question; a radio button or tick box has a column of its own."""
    found: dict[str, list[str]] = {}
    ticks: dict[str, list[str]] = defaultdict(list)
    for name in (name for name in frame.columns if name.startswith(_ANSWER)):
        short = name.removeprefix(_ANSWER)
        stem, dot, _ = short.rpartition(".")
        if dot and _is_tick(frame[name]):
            ticks[stem].append(name)
        else:
            found[short] = [name]
    return found | ticks


def _is_tick(values: pl.Series) -> bool:
    said = as_text(values).drop_nulls().str.to_lowercase()
    return len(said) > 0 and said.is_in(["true", "false"]).all()


def _said(frame: pl.DataFrame, asked: str, name: str) -> pl.Series:
    """What a column says: its text, or the name of the button where it is ticked."""
    values = as_text(frame[name])
    if name == _ANSWER + asked:
        return values
    ticked = values.str.to_lowercase() == "true"
    return frame.select(pl.when(ticked).then(pl.lit(name.rpartition(".")[2]))).to_series()


def _items(frame: pl.DataFrame) -> tuple[pl.Series, int]:
    """The first HIT with the same input, for each row, and how many HITs repeat an earlier one."""
    inputs = [name for name in frame.columns if name.startswith("Input.")]
    hits = as_text(frame["HITId"])
    if not inputs:
        return hits, 0
    items = frame.select(pl.col("HITId").first().over(inputs))["HITId"]
    return as_text(items), hits.n_unique() - items.n_unique()


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    return frame[name] if name in frame.columns else pl.Series([None] * len(frame))


def _submitted(frame: pl.DataFrame) -> pl.Series:
    """When the work was handed in, as UTC where all are written 'Mon Sep 07 10:00:00 PDT 2020'."""
    given = _column(frame, "SubmitTime")
    if given.dtype != pl.String:
        return given
    zones = re.compile("|".join(_ZONES))
    plain = [value and zones.sub(lambda zone: _ZONES[zone[0]], value) for value in given]
    times = pl.Series(plain, dtype=pl.String).str.to_datetime(
        "%a %b %d %H:%M:%S %z %Y", strict=False, time_zone="UTC"
    )
    return times if times.null_count() == given.null_count() else given


MTURK = Form(
    name="mturk",
    needs="HITId, WorkerId and Answer.* (MTurk batch)",
    matches=_matches,
    read=_read,
    has_aspects=True,
)
