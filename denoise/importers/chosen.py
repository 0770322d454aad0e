"""Rows of prompt, chosen and rejected, as text or as chat messages (TRL, UltraFeedback, HH)."""

from __future__ import annotations

import polars as pl

from denoise.errors import refuse
from denoise.importers import content
from denoise.importers.ballots import (
    VOTE_ROLES,
    Ballots,
    Form,
    Request,
    no_reason,
    vote_details,
)
from denoise.importers.columns import Columns


def _matches(columns: Columns) -> bool:
    return columns.has("chosen", "rejected")


def _read(request: Request) -> Ballots:
    frame, columns = request.source.frame, request.columns
    chosen, rejected = columns.need("chosen"), columns.need("rejected")
    prompt = columns.use("prompt")
    arranged = content.arrange(
        None if prompt is None else frame[prompt], frame[chosen], frame[rejected], inside=True
    )
    details = vote_details(columns, frame)
    if (shown := columns.find("shown_first")) and frame[shown].dtype == pl.String:
        sides = {"chosen": "first", "rejected": "second"}
        values = frame[shown].replace_strict(sides, default=None, return_dtype=pl.String)
        if values.null_count() == frame[shown].null_count():
            details.append(values.alias("shown_first"))
            columns.use("shown_first")
    core = pl.DataFrame(
        [
            pl.int_range(len(frame), dtype=pl.Int64, eager=True).alias("source_row"),
            arranged.prompt.alias("prompt"),
            arranged.first.alias("first"),
            arranged.second.alias("second"),
            pl.Series("choice", ["first"]).new_from_index(0, len(frame)),
            *details,
        ]
    )
    keep = [prompt] if prompt and arranged.replaces_prompt else []
    called = {"prompt": prompt or "prompt", "first": chosen, "second": rejected}
    return Ballots(
        core=core,
        reason=no_reason(len(frame)),
        vote_columns=columns.others(frame, keep),
        pair_columns=pl.DataFrame(),
        shown=frame,
        own_sides=False,
        called=called | {role: columns.used[role] for role in VOTE_ROLES & columns.used.keys()},
        described=f"{'prompt/' if prompt else ''}chosen/rejected as {arranged.kind}",
        notes=arranged.notes,
    )


def _read_checked(request: Request) -> Ballots:
    columns = request.columns
    if columns.find("chosen") == columns.find("rejected"):
        refuse("chosen and rejected are one column", file=request.source.name, fix="mend the --map")
    return _read(request)


CHOSEN = Form(
    name="chosen",
    needs="chosen, rejected (and prompt, annotator)",
    matches=_matches,
    read=_read_checked,
    roles=VOTE_ROLES | {"prompt", "chosen", "rejected"},
)
