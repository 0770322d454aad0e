"""DICES: a row a rater and conversation, with an answer to each of many questions of safety.

Columns: https://github.com/google-research-datasets/dices-dataset (from memory). Unsure is an
answer; `safety_gold`, in the set of 350, is the known answer to Q_overall.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from denoise.errors import refuse
from denoise.importers.answers import Answer, as_rows, number
from denoise.importers.ballots import Ballots, Form, LabelRows, Request
from denoise.plain import quote

_OVERALL = "Q_overall"


def _read(request: Request) -> Ballots | LabelRows:
    frame = request.source.frame
    questions = [name for name in frame.columns if name.startswith("Q")]
    wanted = (request.aspect, f"Q_{request.aspect}")
    asked = next((name for name in wanted if name in questions), None)
    if asked is None:
        fix = f"give --aspect with one of {', '.join(questions)}"
        refuse("there is no such question", file=request.source.name, found=wanted[1], fix=fix)
    gone = ["rater_id", "item_id", asked, "answer_time_ms", "answer_timestamp"]
    return as_rows(
        request,
        _answers(frame, asked),
        frame.drop(gone, strict=False),
        described=f"DICES, question {quote(asked)}",
        called={
            "item_id": "item_id",
            "annotator_id": "rater_id",
            "label": asked,
            "seconds": "answer_time_ms",
            "timestamp": "answer_timestamp",
        },
    )


def _answers(frame: pl.DataFrame, asked: str) -> Iterator[Answer]:
    known = set()
    for at, row in enumerate(frame.iter_rows(named=True)):
        item, label = row["item_id"], row[asked]
        given = row.get("answer_time_ms")
        milliseconds = number(given)
        yield Answer(
            at,
            item,
            row["rater_id"],
            label,
            given if milliseconds is None else milliseconds / 1000,
            row.get("answer_timestamp"),
            None if label else "no answer to the question",
        )
        gold = row.get("safety_gold") if asked == _OVERALL else None
        if gold and (item, gold) not in known:
            known.add((item, gold))
            yield Answer(at, item, "safety_gold", gold, truth=True)


DICES = Form(
    name="dices",
    needs="rater_id, item_id and Q_overall (DICES)",
    matches=lambda columns: {"rater_id", "item_id", _OVERALL} <= set(columns.schema),
    read=_read,
    has_aspects=True,
)
