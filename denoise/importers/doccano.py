"""Doccano: a JSON line a document.

Since version 1.3 an export is a file an annotator, named after them, with the labels of a document
in a list; earlier, one file with `annotations`, each with its `label` and `user`. See
https://github.com/doccano/doccano/blob/master/docs/tutorial.md (both from memory).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import polars as pl

from denoise.errors import refuse
from denoise.importers import files
from denoise.importers.answers import Answer, as_rows, one_label
from denoise.importers.ballots import Ballots, Form, LabelRows, Request
from denoise.importers.columns import Columns

_LABELS = ("label", "labels", "annotations")
_SHOWN = 5


def _inside(columns: Columns) -> bool:
    """Whether the annotations name their users."""
    held = columns.schema.get("annotations")
    inner = held.inner if isinstance(held, pl.List) else None
    keys = {field.name for field in inner.fields} if isinstance(inner, pl.Struct) else set()
    return {"label", "user"} <= keys


def _readable(columns: Columns) -> bool:
    return any(name in columns.schema for name in _LABELS)


def _read(request: Request) -> Ballots | LabelRows:
    frame, columns = request.source.frame, request.columns
    inside = _inside(columns)
    name = "annotations" if inside else next(n for n in _LABELS if n in frame.columns)
    person = None if inside else columns.find("annotator")
    people: list[str] = []
    notes: tuple[str, ...] = ()
    if not inside and person is None:
        people = _people(request)
        names = list(dict.fromkeys(people))
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        notes = (f"the annotator is the name of the file: {shown}",)
    return as_rows(
        request,
        _documents(frame, name, frame[person] if person else people, inside=inside),
        frame.drop("id", name, *([person] if person else []), strict=False),
        described="Doccano",
        called={
            "item_id": "id",
            "annotator_id": "user" if inside else person or "file",
            "label": name,
        },
        notes=notes,
    )


def _people(request: Request) -> list[str]:
    """Each row's annotator, after whom its file is named.

    Raises:
        InputError: it is not known which file a row is of.
    """
    source = request.source
    if not source.files:
        fix = "give the files by a pattern such as 'DIR/*.jsonl', or a column annotator"
        refuse("nothing names the annotators", file=source.name, fix=fix)
    return [person for name, rows in source.files for person in repeat(_stem(name), rows)]


def _stem(name: str) -> str:
    """The name of a file without what says its kind: a person's name may have dots too."""
    path = Path(name)
    while path.suffix.lower() in (*files.SUFFIXES, *files.COMPRESSED):
        path = path.with_suffix("")
    return path.name


def _documents(
    frame: pl.DataFrame, name: str, people: Sequence[Any] | pl.Series, *, inside: bool
) -> Iterator[Answer]:
    for at, row in enumerate(frame.iter_rows(named=True)):
        item, held = row.get("id", at), row[name]
        by_user: dict[Any, list[Any]] = {}
        if inside:
            for one in held or []:
                by_user.setdefault(one["user"], []).append(one["label"])
        else:
            values = held if isinstance(held, list) else [held]
            by_user[people[at]] = values
        if not by_user:
            yield Answer(at, item, reason="no labels")
        for user, values in by_user.items():
            spans = any(isinstance(value, list | dict) for value in values)
            label = None if spans else one_label(values)
            reason = "labels of spans, not of the text" if spans else "no labels"
            yield Answer(at, item, user, label, reason=None if label else reason)


DOCCANO = Form(
    name="doccano",
    needs="annotations with label and user, or with --format doccano a list of labels (Doccano)",
    matches=_inside,
    readable=_readable,
    read=_read,
    roles=frozenset({"annotator"}),
    by_file=True,
)
