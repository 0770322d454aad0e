"""HelpSteer3: a context, two responses, and the preferences of several people who are not named.

Fields: https://huggingface.co/datasets/nvidia/HelpSteer3 (preference; from memory). A score runs
from -3 (response 1 is much better) to 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from denoise.importers import content
from denoise.importers.answers import number
from denoise.importers.ballots import Ballots, Form, Request
from denoise.plain import quote

_SIDES = ("response1", "response2")
_STRENGTHS = {1: "slightly", 2: "better", 3: "much"}
_OVERALL, _EACH = "overall_preference", "individual_preference"


def _read(request: Request) -> Ballots:
    frame = request.source.frame
    each = isinstance(frame.schema.get(_EACH), pl.List)
    rows = list(_scores(frame, each=each))
    at = pl.Series([row[0] for row in rows], dtype=pl.Int64)
    votes = [_vote(score) for _, score, _ in rows]
    arranged = content.arrange(
        frame["context"], frame["response1"], frame["response2"], inside=False
    )
    core = [
        at.alias("source_row"),
        arranged.prompt[at].alias("prompt"),
        arranged.first[at].alias("first"),
        arranged.second[at].alias("second"),
        pl.Series("choice", [choice for choice, _, _ in votes], dtype=pl.String),
        pl.Series("strength", [strength for _, strength, _ in votes], dtype=pl.String),
    ]
    own = pl.DataFrame(
        {
            "score": pl.Series([number(row[1]) for row in rows], dtype=pl.Float64),
            "reasoning": pl.Series([row[2] for row in rows], dtype=pl.String),
        }
    )
    of_rows = frame.drop("context", *_SIDES, _EACH, strict=False)
    name = _EACH if each else _OVERALL
    request.columns.used.update(
        prompt="context", response_a="response1", response_b="response2", winner=name
    )
    return Ballots(
        core=pl.DataFrame(core),
        reason=pl.Series("reason", [reason for _, _, reason in votes], dtype=pl.String),
        vote_columns=own,
        pair_columns=of_rows[at] if of_rows.columns else pl.DataFrame(),
        shown=frame.drop(_EACH, strict=False)[at].hstack(own.get_columns()),
        own_sides=True,
        called={"prompt": "context", "first": _SIDES[0], "second": _SIDES[1], "choice": name},
        described=f"HelpSteer3, a vote for each {quote(name)}",
        nested=True,
        notes=arranged.notes,
    )


def _scores(frame: pl.DataFrame, *, each: bool) -> Iterator[tuple[int, Any, str | None]]:
    names = [_OVERALL, *([_EACH] if each else [])]
    for at, (overall, *held) in enumerate(frame.select(names).iter_rows()):
        if not each:
            yield at, overall, None
            continue
        for one in held[0] or []:
            yield at, one["score"], one.get("reasoning")
        if not held[0]:
            yield at, None, None


def _vote(given: object) -> tuple[str | None, str | None, str | None]:
    """The choice and how strong it is, or why there is none."""
    if given is None:
        return None, None, "there is no score"
    score = number(given)
    if score is None or abs(score) > 3 or score != round(score):
        return None, None, f"the score is {quote(given)}, which is none of -3 to 3"
    if score == 0:
        return "tie", None, None
    return ("first" if score < 0 else "second"), _STRENGTHS[int(abs(score))], None


HELPSTEER3 = Form(
    name="helpsteer3",
    needs="context, response1, response2, overall_preference (HelpSteer3)",
    matches=lambda columns: {"context", *_SIDES, _OVERALL} <= set(columns.schema),
    read=_read,
)
