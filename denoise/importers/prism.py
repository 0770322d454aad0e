"""PRISM utterances: several responses to a turn, one of them chosen by the person who wrote it.

Fields: https://huggingface.co/datasets/HannahRoseKirk/prism-alignment (from memory). The chosen
response is compared with each of the others; `within_turn_id` is random and no position shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from denoise.importers.answers import as_id
from denoise.importers.ballots import Ballots, Form, Request

_NEEDED = {"interaction_id", "user_id", "user_prompt", "model_response", "if_chosen"}
_DETAILS = ("score", "model_name", "model_provider")
_OWN = ("interaction_id", "conversation_id", "turn", "conversation_type")

Messages = list[dict[str, str]]


class _Comparison(NamedTuple):
    at: int
    prompt: Messages
    first: dict[str, Any]
    second: dict[str, Any] | None
    choice: str | None = None
    reason: str | None = None


def _read(request: Request) -> Ballots:
    frame = request.source.frame
    rows = sorted(_comparisons(frame), key=lambda row: row.at)
    chat = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
    core = pl.DataFrame(
        {
            "source_row": [row.at for row in rows],
            "prompt": [row.prompt for row in rows],
            "first": [_said(row.first) for row in rows],
            "second": [_said(row.second) for row in rows],
            "choice": [row.choice for row in rows],
            "annotator": [as_id(row.first["user_id"]) for row in rows],
        },
        schema={
            "source_row": pl.Int64,
            "prompt": chat,
            "first": chat,
            "second": chat,
            "choice": pl.String,
            "annotator": pl.String,
        },
    )
    at = core["source_row"]
    sides = {"first": [row.first for row in rows], "second": [row.second for row in rows]}
    own = frame.select(name for name in _OWN if name in frame.columns)[at].with_columns(
        pl.Series(f"{name}_{side}", [record and record[name] for record in records])
        for name in _DETAILS
        if name in frame.columns
        for side, records in sides.items()
    )
    request.columns.used.update(prompt="user_prompt", annotator="user_id", winner="if_chosen")
    return Ballots(
        core=core,
        reason=pl.Series("reason", [row.reason for row in rows], dtype=pl.String),
        vote_columns=own,
        pair_columns=pl.DataFrame(),
        shown=frame[at],
        own_sides=True,
        called={
            "prompt": "user_prompt",
            "first": "model_response",
            "second": "model_response",
            "choice": "if_chosen",
            "annotator": "user_id",
        },
        described="PRISM, the chosen response against each of the others of its turn",
        nested=True,
    )


def _comparisons(frame: pl.DataFrame) -> Iterator[_Comparison]:
    """Each turn's chosen response against the others, in the source's order of the two."""
    turns: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for at, row in enumerate(frame.iter_rows(named=True)):
        turns.setdefault(row["interaction_id"], []).append((at, row))
    before: dict[Any, Messages] = {}
    for shown in sorted(turns.values(), key=lambda of: of[0][1].get("turn") or 0):
        at, row = shown[0]
        earlier = before.get(row.get("conversation_id"), [])
        asked = [*earlier, {"role": "user", "content": row["user_prompt"]}]
        chosen = [one for _, one in shown if _is_true(one["if_chosen"])]
        if len(chosen) != 1 or len(shown) < 2:
            what = "only one response" if len(shown) < 2 else f"{len(chosen)} responses are chosen"
            for at, one in shown:
                yield _Comparison(at, asked, one, None, reason=f"{what} in this turn")
        else:
            place = next(at for at, one in shown if one is chosen[0])
            for at, other in shown:
                if at < place:
                    yield _Comparison(at, asked, other, chosen[0], "second")
                elif at > place:
                    yield _Comparison(at, asked, chosen[0], other, "first")
        if len(chosen) == 1 and row.get("conversation_id") is not None:
            before[row["conversation_id"]] = asked + (_said(chosen[0]) or [])


def _is_true(value: object) -> bool:
    return str(value).lower() in ("true", "1")


def _said(record: dict[str, Any] | None) -> Messages | None:
    if record is None or record["model_response"] is None:
        return None
    return [{"role": "assistant", "content": record["model_response"]}]


PRISM = Form(
    name="prism",
    needs="interaction_id, user_id, user_prompt, model_response, if_chosen (PRISM utterances)",
    matches=lambda columns: set(columns.schema) >= _NEEDED,
    read=_read,
)
