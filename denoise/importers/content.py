"""Prompts and responses: text or chat messages, and prompts that lie inside the responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from denoise import schema
from denoise.errors import refuse

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"

_MESSAGE = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


@dataclass(frozen=True)
class Content:
    """Prompt and two responses row by row, of one kind, and what was done to make them so.

    `replaces_prompt` says that turns took the place of a prompt column of text, which is therefore
    to be kept as a column of the source.
    """

    prompt: pl.Series
    first: pl.Series
    second: pl.Series
    kind: str
    notes: tuple[str, ...] = ()
    replaces_prompt: bool = False


def common_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many leading elements two sequences share; halving, so that long texts are quick."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def split_prompt(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Where TRL's `extract_prompt` cuts two texts or message lists that begin with their prompt.

    At the first difference, or one before it where a space stands there; where one is the start of
    the other, the last common element stays with the responses.
    """
    cut = common_length(left, right)
    if cut == min(len(left), len(right)):
        return max(cut - 1, 0)
    return cut - 1 if cut and left[cut - 1] == " " else cut


def split_text(left: str, right: str) -> tuple[int, bool]:
    """Where the prompt ends in two texts, and whether they are transcripts in the HH style.

    The prompt of a transcript ends with the last common "Assistant:" and not at the first
    difference, so that responses which begin alike stay whole.
    """
    if left.startswith(HUMAN) and right.startswith(HUMAN):
        turn = left.rfind(ASSISTANT, 0, common_length(left, right))
        if turn >= 0:
            return turn + len(ASSISTANT), True
    return split_prompt(left, right), False


def as_text(values: pl.Series) -> pl.Series:
    """Ids, labels and other short values as text: 1.0 as '1', NaN as missing.

    Raises:
        InputError: the column holds lists or objects, or bytes that are not UTF-8.
    """
    dtype = values.dtype
    if dtype == pl.String:
        return values
    if dtype.is_nested() or dtype == pl.Object:
        refuse("wrong type", column=values.name, found=str(dtype), fix="give text or numbers")
    if dtype.is_float():
        values = values.fill_nan(None)
        whole = values.is_finite() & (values == values.round()) & (values.abs() < 2**53)
        if whole.fill_null(True).all():
            values = values.cast(pl.Int64)
    if dtype == pl.Binary:
        return _decoded(values)
    return values.cast(pl.String)


def _decoded(values: pl.Series) -> pl.Series:
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        for row, value in enumerate(values):
            try:
                _ = value and value.decode()
            except UnicodeDecodeError:
                fix = "give text in UTF-8"
                refuse("bytes that are no text", row=row, column=values.name, found=value, fix=fix)
        raise


def as_content(values: pl.Series) -> pl.Series:
    """A column of prompts or responses as text or as messages with role and content first.

    Messages written as JSON text, as in CSV files, are read.

    Raises:
        InputError: the column holds anything else.
    """
    if schema.is_chat(values.dtype):
        return values
    if values.dtype.is_nested():
        fix = "give text, or a list of messages with role and content"
        refuse("wrong type", column=values.name, found=str(values.dtype), fix=fix)
    text = as_text(values)
    return _messages_in_json(text) if text.dtype == pl.String else text


def _messages_in_json(text: pl.Series) -> pl.Series:
    start = text.drop_nulls().head(1)
    if not (len(start) and start.str.contains(r'^\s*\[\s*\{.*"role"').all()):
        return text
    try:
        parsed = [None if value is None else json.loads(value) for value in text]
    except ValueError:
        return text
    for messages in parsed:
        if messages is None:
            continue
        if not isinstance(messages, list) or not all(
            isinstance(m, dict) and m.keys() == {"role", "content"} for m in messages
        ):
            return text
    try:
        return pl.Series(text.name, parsed, dtype=_MESSAGE)
    except (TypeError, pl.exceptions.PolarsError):
        return text


def _alike(columns: list[pl.Series]) -> list[pl.Series]:
    """Message columns with the same fields in the same order, role and content first."""
    fields: dict[str, Any] = {"role": pl.String, "content": pl.String}
    for column in columns:
        for field in column.dtype.inner.fields:  # type: ignore[attr-defined]
            known = fields.get(field.name)
            if known in (None, pl.Null) or (field.name == "content" and field.dtype.is_nested()):
                fields[field.name] = field.dtype
    element = pl.element().struct
    out = []
    for column in columns:
        there = {field.name for field in column.dtype.inner.fields}  # type: ignore[attr-defined]
        parts = [
            (element.field(name) if name in there else pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in fields.items()
        ]
        try:
            out.append(column.to_frame().select(pl.all().list.eval(pl.struct(parts))).to_series())
        except pl.exceptions.PolarsError as error:
            fix = "give every message the same fields"
            refuse("messages differ in kind", column=column.name, found=str(error), fix=fix)
    return out


def arrange(
    prompt: pl.Series | None, first: pl.Series, second: pl.Series, *, inside: bool
) -> Content:
    """Prompt and responses of one kind, with a prompt that the responses repeat taken out of them.

    `inside` says that text without a prompt column begins with its prompt; messages always do.

    Raises:
        InputError: the columns hold neither text nor messages, or one response column each.
    """
    first, second = as_content(first), as_content(second)
    prompt = None if prompt is None else as_content(prompt)
    if (first.dtype == pl.String) != (second.dtype == pl.String):
        problem = "one response is text where the other is messages"
        refuse(problem, column=second.name, found=str(second.dtype), fix="give both in one form")
    if first.dtype != pl.String:
        return _chat(prompt, first, second)
    if prompt is None:
        return _inside_text(first, second) if inside else _text(first, second)
    if prompt.dtype == pl.String:
        return _repeated_text(prompt, first, second)
    alike = _alike([prompt, _turns("assistant", first), _turns("assistant", second)])
    return Content(*alike, "chat messages", ("responses that are text became assistant turns",))


def _text(first: pl.Series, second: pl.Series) -> Content:
    empty = pl.Series("prompt", [""]).new_from_index(0, len(first))
    return Content(empty, first, second, "text", ("there is no prompt column: prompts are empty",))


def _turns(role: str, values: pl.Series) -> pl.Series:
    """Each text as the one message of a list."""
    message = pl.struct(role=pl.lit(role), content=pl.first())
    turns = pl.when(pl.first().is_not_null()).then(pl.concat_list(message))
    return values.to_frame().select(turns.alias(values.name)).to_series()


def _inside_text(first: pl.Series, second: pl.Series) -> Content:
    rows: list[tuple[str | None, str | None, str | None]] = []
    transcripts = 0
    for left, right in zip(first, second, strict=True):
        if left is None or right is None or left == right:
            rows.append(("", left, right))
            continue
        cut, transcript = split_text(left, right)
        transcripts += transcript
        rows.append((left[:cut], left[cut:], right[cut:]))
    note = "the prompt is what both responses begin with"
    if transcripts:
        note += f"; {transcripts:,} Human/Assistant transcripts are cut at their last common turn"
    prompt, left_part, right_part = (
        pl.Series(name, values, dtype=pl.String)
        for name, values in zip(("prompt", "first", "second"), zip(*rows, strict=True), strict=True)
    )
    return Content(prompt, left_part, right_part, "text", (note,))


def _repeated_text(prompt: pl.Series, first: pl.Series, second: pl.Series) -> Content:
    """Text as it is, save that transcripts which repeat their prompt lose it."""
    frame = pl.DataFrame({"p": prompt, "f": first, "s": second})
    text, f, s = pl.col("p"), pl.col("f"), pl.col("s")
    repeats = text.str.starts_with(HUMAN) & f.str.starts_with(text) & s.str.starts_with(text)
    frame = frame.with_columns(repeats=repeats.fill_null(False))
    count = frame["repeats"].sum()
    if not count:
        return Content(prompt, first, second, "text")
    short = pl.when("repeats").then(pl.col("f", "s").str.strip_prefix(text))
    frame = frame.with_columns(short.otherwise(pl.col("f", "s")))
    note = f"{count:,} rows repeat the prompt inside the responses; it is taken out of them"
    return Content(frame["p"], frame["f"], frame["s"], "text", (note,))


def _chat(prompt: pl.Series | None, first: pl.Series, second: pl.Series) -> Content:
    is_text = prompt is not None and prompt.dtype == pl.String
    if prompt is None:
        first, second = _alike([first, second])
    else:
        given = _turns("user", prompt) if is_text else prompt
        prompt, first, second = _alike([given, first, second])
    cuts = []
    prompts = [None] * len(first) if prompt is None else prompt.to_list()
    for turns, left, right in zip(prompts, first.to_list(), second.to_list(), strict=True):
        if left is None or right is None or left == right:  # such rows are skipped
            cuts.append(0)
        elif prompt is None or is_text:
            cuts.append(split_prompt(left, right))
        else:
            repeats = turns and left[: len(turns)] == right[: len(turns)] == turns
            cuts.append(len(turns) if repeats else 0)
    frame = pl.DataFrame({"f": first, "s": second, "cut": pl.Series(cuts, dtype=pl.Int64)})
    inside = frame.select(pl.col("f").list.head("cut")).to_series()
    if prompt is None:
        prompt, notes = inside, ("the prompt is the turns that both responses begin with",)
    else:
        repeated = (frame["cut"] > 0) & prompt.is_not_null()
        prompt = inside.zip_with(repeated, prompt)
        what = f"{repeated.sum():,} rows repeat the prompt inside the responses; it is taken out"
        notes = (what,) if repeated.any() else ()
    sides = frame.select(pl.col("f", "s").list.slice("cut"))
    replaced = is_text and bool(notes)
    return Content(prompt, sides["f"], sides["s"], "chat messages", notes, replaced)
