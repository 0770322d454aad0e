"""Argilla records, flat (`{q}.responses`, `.users`, `.status`) or nested (`responses.{q}`).

Fields: https://docs.argilla.io/latest/how_to_guides/import_export (the nested form from memory).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import polars as pl

from denoise.importers.answers import Answer, as_id, as_rows, one_label, question
from denoise.importers.ballots import Ballots, Form, LabelRows, Request
from denoise.importers.columns import Columns
from denoise.plain import quote

_END = ".responses"
_IDS = ("id", "_server_id")
_UNUSED = {"draft": "a draft", "discarded": "discarded", "pending": "pending"}


def _flat(columns: Columns) -> list[str]:
    names = [n for n, t in columns.schema.items() if n.endswith(_END) and isinstance(t, pl.List)]
    return [n.removesuffix(_END) for n in names if f"{n}.users" in columns.schema]


def _nested(columns: Columns) -> list[str]:
    """The questions in `responses`, each a list of objects with a value and a user."""
    held = columns.schema.get("responses")
    lists = {f.name: f.dtype for f in held.fields} if isinstance(held, pl.Struct) else {}
    found = []
    for name, dtype in lists.items():
        inner = dtype.inner if isinstance(dtype, pl.List) else None
        keys = {f.name for f in inner.fields} if isinstance(inner, pl.Struct) else set()
        if {"value", "user_id"} <= keys:
            found.append(name)
    return found


def _read(request: Request) -> Ballots | LabelRows:
    frame = request.source.frame
    flat = _flat(request.columns)
    asked = question(flat or _nested(request.columns), request)
    users = f"{asked}{_END}.users" if flat else "user_id"
    gone = ["responses", *(n for n in frame.columns if n.startswith(f"{asked}{_END}"))]
    tasks = frame.drop([n for n in gone if n in frame.columns and (n != "responses" or not flat)])
    for name in ("fields", "metadata"):
        held = tasks.schema.get(name)
        if isinstance(held, pl.Struct):
            names = {field.name for field in held.fields}
            tasks = tasks.unnest(name) if not names & set(tasks.columns) else tasks
    return as_rows(
        request,
        _responses(frame, asked, flat=bool(flat)),
        tasks.drop(_IDS, strict=False),
        described=f"Argilla, question {quote(asked)}",
        called={"item_id": "id", "annotator_id": users, "label": asked},
    )


def _responses(frame: pl.DataFrame, asked: str, *, flat: bool) -> Iterator[Answer]:
    key = next((name for name in _IDS if name in frame.columns), None)
    for at, record in enumerate(frame.iter_rows(named=True)):
        item = record[key] if key else at
        answers = list(_parallel(record, asked) if flat else _objects(record, asked))
        if not answers:
            yield Answer(at, item, reason="no responses")
        for value, user, status in answers:
            label = one_label(_values(value))
            reason = _UNUSED.get(status or "")
            if reason is None and label is None:
                reason = "no answer to the question"
            yield Answer(at, item, user, label, reason=reason)


def _parallel(record: dict[str, Any], asked: str) -> Iterator[tuple[Any, Any, Any]]:
    values = record[asked + _END] or []
    users = record[f"{asked}{_END}.users"] or []
    states = record.get(f"{asked}{_END}.status") or []
    return zip_longest(values, users, states)


def _objects(record: dict[str, Any], asked: str) -> Iterator[tuple[Any, Any, Any]]:
    for one in (record["responses"] or {}).get(asked) or []:
        yield one["value"], one["user_id"], one.get("status")


def _values(value: Any) -> list[object]:
    """What a response chooses: a value, several, or a ranking, whose order is the answer."""
    if not isinstance(value, list):
        return [value]
    if value and isinstance(value[0], dict):
        ranked = sorted(value, key=lambda one: one.get("rank") or 0)
        return [" > ".join(filter(None, (as_id(one.get("value")) for one in ranked)))]
    return value


ARGILLA = Form(
    name="argilla",
    needs="{question}.responses and {question}.responses.users (Argilla)",
    matches=lambda columns: bool(_flat(columns) or _nested(columns)),
    read=_read,
    has_aspects=True,
)
