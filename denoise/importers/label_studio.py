"""Label Studio: tasks with annotations (JSON), or a row an annotation (CSV and JSON-MIN).

Fields: https://labelstud.io/guide/export and, for the spelling of answers in CSV, `prettify_result`
in label_studio_sdk/converter/utils.py. A single choice is its text; all else is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl

from denoise.importers.answers import Answer, as_id, as_rows, one_label, question
from denoise.importers.ballots import Ballots, Form, LabelRows, Request
from denoise.importers.columns import Columns
from denoise.plain import quote

_LISTS = ("annotations", "completions")  # the second before version 1.0
_KINDS = ("choices", "selected", "rating")
_OF_ROW = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")


def _list(columns: Columns) -> str | None:
    return next((n for n in _LISTS if isinstance(columns.schema.get(n), pl.List)), None)


def _matches(columns: Columns) -> bool:
    return _list(columns) is not None and isinstance(columns.schema.get("data"), pl.Struct)


def _read(request: Request) -> Ballots | LabelRows:
    frame = request.source.frame
    name = _list(request.columns)
    assert name is not None
    names = {
        result["from_name"]
        for (annotations,) in frame.select(name).iter_rows()
        for annotation in annotations or []
        for result in annotation.get("result") or []
        if result.get("from_name") and _chosen(result.get("value"))
    }
    asked = question(sorted(names), request)
    tasks = frame.select("data").unnest("data")
    drafts = _drafts(frame)
    return as_rows(
        request,
        _annotations(frame, name, asked),
        tasks,
        described=f"Label Studio, question {quote(asked)}",
        called={
            "item_id": "id",
            "annotator_id": "completed_by",
            "label": asked,
            "seconds": "lead_time",
            "timestamp": "created_at",
        },
        notes=(f"drafts, which are no answers: {drafts:,}",) if drafts else (),
    )


def _drafts(frame: pl.DataFrame) -> int:
    if not isinstance(frame.schema.get("drafts"), pl.List):
        return 0
    return int(frame["drafts"].list.len().sum())


def _annotations(frame: pl.DataFrame, name: str, asked: str) -> Iterator[Answer]:
    tasks = frame.select(column for column in ("id", name) if column in frame.columns)
    for at, task in enumerate(tasks.iter_rows(named=True)):
        item = task.get("id", at)
        if not task[name]:
            yield Answer(at, item, reason="no annotations")
        for annotation in task[name] or []:
            label = one_label(
                value
                for result in annotation.get("result") or []
                if result.get("from_name") == asked
                for value in _chosen(result.get("value"))
            )
            cancelled = annotation.get("was_cancelled") or annotation.get("skipped")
            reason = "cancelled or skipped" if cancelled else None
            if reason is None and label is None:
                reason = "no answer to the question"
            reviews = annotation.get("reviews") or []
            accepted = reviews[-1].get("accepted") if reviews else None
            extras = {"annotation_id": annotation.get("id"), "accepted": accepted}
            yield Answer(
                at,
                item,
                _person(annotation.get("completed_by")),
                label,
                annotation.get("lead_time"),
                annotation.get("created_at"),
                reason,
                bool(annotation.get("ground_truth") or annotation.get("honeypot")),
                {key: value for key, value in extras.items() if value is not None},
            )


def _chosen(value: Any) -> list[object]:
    """What the value of a result chooses: choices, a side or a rating."""
    if not isinstance(value, dict):
        return []
    found = next((value[kind] for kind in _KINDS if value.get(kind) is not None), [])
    return found if isinstance(found, list) else [found]


def _person(completed_by: Any) -> str | None:
    """Who answered: a number, or an object with an email address and an id."""
    if isinstance(completed_by, str) and completed_by.startswith("{"):
        completed_by = json.loads(completed_by)  # numbers elsewhere made the column text
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return as_id(completed_by)


def _read_flat(request: Request) -> Ballots | LabelRows:
    frame = request.source.frame
    names = frame.columns
    # The converter writes the task's data, its id, the answers, and then the annotator.
    start = names.index("id") + 1 if names.index("id") < names.index("annotator") else 0
    asked = question(
        [n for n in names[start : names.index("annotator")] if n not in _OF_ROW], request
    )
    answers = (
        Answer(
            at,
            row["id"],
            _person(row["annotator"]),
            label := one_label(_flat(row[asked])),
            row.get("lead_time"),
            row.get("created_at"),
            None if label else "no answer to the question",
        )
        for at, row in enumerate(frame.iter_rows(named=True))
    )
    return as_rows(
        request,
        answers,
        frame.drop("id", "annotator", asked, "lead_time", "created_at", strict=False),
        described=f"Label Studio rows, question {quote(asked)}",
        called={
            "item_id": "id",
            "annotator_id": "annotator",
            "label": asked,
            "seconds": "lead_time",
            "timestamp": "created_at",
        },
    )


def _flat(value: Any) -> list[object]:
    """What an answer in a row chooses: plain text, or JSON such as [{"rating": 4}]."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    parts = value if isinstance(value, list) else [value]
    return [one for part in parts for one in (_chosen(part) if isinstance(part, dict) else [part])]


LABEL_STUDIO = Form(
    name="label-studio",
    needs="data, annotations with completed_by and result (Label Studio JSON)",
    matches=_matches,
    read=_read,
    has_aspects=True,
)
LABEL_STUDIO_ROWS = Form(
    name="label-studio-rows",
    needs="id, annotator, annotation_id, lead_time (Label Studio CSV or JSON-MIN)",
    matches=lambda columns: (
        {"id", "annotator", "annotation_id", "lead_time"} <= set(columns.schema)
    ),
    read=_read_flat,
    has_aspects=True,
)
