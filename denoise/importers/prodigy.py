"""Prodigy: a JSON line an answer. Fields: https://prodi.gy/docs/api-interfaces (from memory).

With `accept` (the choice interface) the label is what was chosen; else the question is whether
`label` fits, and the answer is accept or reject. An ignored task is no answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from denoise.importers.answers import Answer, as_rows, one_label
from denoise.importers.ballots import Ballots, Form, LabelRows, Request

_IDS = ("_task_hash", "_input_hash")
_PEOPLE = ("_annotator_id", "_session_id")


def _read(request: Request) -> Ballots | LabelRows:
    frame = request.source.frame
    people = next((n for n in _PEOPLE if n in frame.columns), _PEOPLE[0])
    chooses = isinstance(frame.schema.get("accept"), pl.List)
    label = "accept" if chooses else "answer"
    # Two labels for one input are two questions, unless all are asked at once.
    key = "_input_hash" if chooses or "_task_hash" not in frame.columns else "_task_hash"
    return as_rows(
        request,
        _answers(frame, key, chooses=chooses),
        frame.drop(key, *_PEOPLE, "_timestamp", label, strict=False),
        described="Prodigy, what was chosen" if chooses else "Prodigy, accept or reject",
        called={
            "item_id": key,
            "annotator_id": people,
            "label": label,
            "timestamp": "_timestamp",
        },
    )


def _answers(frame: pl.DataFrame, key: str, *, chooses: bool) -> Iterator[Answer]:
    for at, row in enumerate(frame.iter_rows(named=True)):
        answer, chosen = row["answer"], row.get("accept")
        person = next((row[name] for name in _PEOPLE if row.get(name)), None)
        label = one_label(chosen or []) if chooses else answer
        reason = None
        if answer == "ignore":
            reason = "ignored"
        elif chooses and answer == "reject":
            reason = "rejected, so that none of the options is chosen"
        elif label is None:
            reason = "no option is chosen" if chooses else "no answer"
        yield Answer(at, row[key], person, label, timestamp=row.get("_timestamp"), reason=reason)


PRODIGY = Form(
    name="prodigy",
    needs="_input_hash and answer (Prodigy)",
    matches=lambda columns: {"_input_hash", "answer"} <= set(columns.schema),
    read=_read,
)
