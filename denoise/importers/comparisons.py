"""Rows of two responses and a winner: comparisons, Chatbot Arena, summarize_from_feedback."""

from __future__ import annotations

import polars as pl

from denoise import schema
from denoise.errors import refuse
from denoise.importers import content, winners
from denoise.importers.ballots import VOTE_ROLES, Ballots, Form, Request, vote_details
from denoise.importers.columns import Columns
from denoise.importers.content import Content
from denoise.plain import quote

_SIDES = ("response_a", "response_b")
_CONVERSATIONS = ("conversation_a", "conversation_b")


def models_of(columns: Columns, frame: pl.DataFrame) -> tuple[pl.Series, pl.Series] | None:
    """The models that wrote the two responses; the columns stay among the source's own."""
    first, second = columns.find("model_a"), columns.find("model_b")
    if first is None or second is None:
        return None
    return content.as_text(frame[first]), content.as_text(frame[second])


def _winner(columns: Columns) -> str | None:
    return "winner" if columns.has("winner") else "label" if columns.has("label") else None


def votes_from(
    request: Request,
    arranged: Content,
    frame: pl.DataFrame,
    role: str,
    ending: tuple[str, str],
    *,
    described: str,
    called: dict[str, str],
    keep: tuple[str, ...] = (),
    reason: pl.Series | None = None,
    pair_columns: pl.DataFrame | None = None,
    models: tuple[pl.Series, pl.Series] | None = None,
) -> Ballots:
    """Votes of a flat source whose column of `role` names the winner of the two responses."""
    columns = request.columns
    winner = frame[columns.need(role)]
    first, second = arranged.first, arranged.second
    # '0' and '1' in a column called label may as well be a no and a yes.
    index = role == "winner" or role in columns.overrides
    choice = winners.choices(winner, first, second, models, ending, index=index)
    details = vote_details(columns, frame)
    if (shown := columns.find("shown_first")) and frame[shown].dtype == pl.String:
        sides = _shown_first(frame[shown], first, second, ending)
        if sides is not None:
            details.append(sides)
            columns.use("shown_first")
    core = pl.DataFrame(
        [
            pl.int_range(len(frame), dtype=pl.Int64, eager=True).alias("source_row"),
            arranged.prompt.alias("prompt"),
            first.alias("first"),
            second.alias("second"),
            choice.alias("choice"),
            *details,
        ]
    )
    odd = winners.not_understood(winner, choice)
    reasons = odd if reason is None else reason.to_frame("r").select(pl.coalesce("r", odd))["r"]
    names = {role: columns.used[role] for role in VOTE_ROLES & columns.used.keys()}
    return Ballots(
        core=core,
        reason=reasons.alias("reason"),
        vote_columns=columns.others(frame, (winner.name, *keep)),
        pair_columns=pl.DataFrame() if pair_columns is None else pair_columns,
        shown=frame,
        own_sides=True,
        called=names | called | {"choice": winner.name},
        described=f"{described} as {arranged.kind}; winner in column {quote(winner.name)}",
        notes=arranged.notes,
    )


def _shown_first(
    values: pl.Series, first: pl.Series, second: pl.Series, ending: tuple[str, str]
) -> pl.Series | None:
    if values.null_count() == len(values):
        return None
    sides = winners.choices(values, first, second, None, ending, index=True)
    whole = sides.null_count() == values.null_count() and not (sides == "tie").any()
    return sides.alias("shown_first") if whole else None


def _read(request: Request) -> Ballots:
    frame, columns = request.source.frame, request.columns
    left, right = (columns.need(role) for role in _SIDES)
    if left == right:
        refuse("both responses are one column", file=request.source.name, fix="mend the --map")
    prompt = columns.use("prompt")
    arranged = content.arrange(
        None if prompt is None else frame[prompt], frame[left], frame[right], inside=False
    )
    role = _winner(columns)
    assert role is not None
    return votes_from(
        request,
        arranged,
        frame,
        role,
        columns.ending(),
        described=f"comparisons of {quote(left)} and {quote(right)}",
        called={"prompt": prompt or "prompt", "first": left, "second": right},
        keep=(prompt,) if prompt and arranged.replaces_prompt else (),
        models=models_of(columns, frame),
    )


def _read_arena(request: Request) -> Ballots:
    frame, columns = request.source.frame, request.columns
    left, right = (columns.need(role) for role in _CONVERSATIONS)
    for name in (left, right):
        if not schema.is_chat(content.as_content(frame[name]).dtype):
            fix = "give lists of messages with role and content"
            refuse("wrong type", column=name, found=str(frame.schema[name]), fix=fix)
    return votes_from(
        request,
        content.arrange(None, frame[left], frame[right], inside=True),
        frame,
        "winner",
        ("a", "b"),
        described=f"Chatbot Arena, {quote(left)} and {quote(right)}",
        called={"first": left, "second": right},
        models=models_of(columns, frame),
    )


def _read_summaries(request: Request) -> Ballots:
    frame = request.source.frame
    fields = {field.name for field in frame.schema["info"].fields}  # type: ignore[attr-defined]
    info = pl.col("info").struct
    parts = [
        pl.when(info.field(name).cast(pl.String).str.len_chars() > 0).then(
            pl.format(f"{title}: {{}}", info.field(name))
        )
        for name, title in _INFO.items()
        if name in fields
    ]
    response = pl.col("summaries").list.get
    prompts = pl.concat_str([*parts, pl.lit("TL;DR:")], separator="\n\n", ignore_nulls=True)
    read = frame.select(
        prompt=pl.when(pl.any_horizontal(part.is_not_null() for part in parts)).then(prompts),
        first=response(0, null_on_oob=True).struct.field("text"),
        second=response(1, null_on_oob=True).struct.field("text"),
        count=pl.col("summaries").list.len().fill_null(0),
    )
    problem = pl.when(pl.col("count") != 2).then(
        pl.format("'summaries' holds {} summaries, not 2", "count")
    )
    return votes_from(
        request,
        content.arrange(read["prompt"], read["first"], read["second"], inside=False),
        frame,
        "winner",
        ("0", "1"),
        described="summarize_from_feedback",
        called={"prompt": "info", "first": "summaries", "second": "summaries"},
        keep=("info", "summaries"),
        reason=read.select(reason=problem)["reason"],
    )


_INFO = {"subreddit": "SUBREDDIT", "title": "TITLE", "post": "POST", "article": "ARTICLE"}


def _is_summaries(columns: Columns) -> bool:
    info, summaries = columns.schema.get("info"), columns.schema.get("summaries")
    if not (isinstance(info, pl.Struct) and isinstance(summaries, pl.List)):
        return False
    inner = summaries.inner
    has_post = {field.name for field in info.fields} & {"post", "article"}
    has_text = isinstance(inner, pl.Struct) and "text" in {field.name for field in inner.fields}
    return bool(has_post) and has_text and columns.has("winner")


COMPARISONS = Form(
    name="comparisons",
    needs="two responses (left, right; response_a, response_b; …), winner (and prompt, annotator)",
    matches=lambda columns: columns.has(*_SIDES) and _winner(columns) is not None,
    read=_read,
    roles=VOTE_ROLES | {"prompt", "winner", "label", "model_a", "model_b", *_SIDES},
)
ARENA = Form(
    name="arena",
    needs="conversation_a, conversation_b, winner (and judge)",
    matches=lambda columns: columns.has(*_CONVERSATIONS, "winner"),
    read=_read_arena,
    roles=VOTE_ROLES | {"winner", "model_a", "model_b", *_CONVERSATIONS},
)
SUMMARIES = Form(
    name="summaries",
    needs="info with post or article, summaries with text, choice (and worker)",
    matches=_is_summaries,
    read=_read_summaries,
    roles=VOTE_ROLES | {"winner"},
)
