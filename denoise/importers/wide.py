"""A table with a column an annotator, an item a row; an empty cell is no answer.

Recognised by itself where the columns are called annotator_1, annotator_2 and the like; else
`--format wide` reads every column but that of the item. A header is needed.
"""

from __future__ import annotations

import re

import polars as pl

from denoise.errors import refuse
from denoise.importers.ballots import Form, LabelRows, Request
from denoise.importers.columns import Columns
from denoise.importers.content import as_text

_NUMBERED = re.compile(
    r"(?i)^(annotator|worker|rater|judge|coder|labell?er|evaluator|user)[\W_]*\d+$"
)


def _numbered(names: list[str]) -> list[str]:
    return [name for name in names if _NUMBERED.match(name)]


def _read(request: Request) -> LabelRows:
    frame, columns = request.source.frame, request.columns
    item = columns.use("item") or ("id" if "id" in frame.columns else None)
    people = _numbered(frame.columns)
    people = people if len(people) > 1 else [name for name in frame.columns if name != item]
    if len(people) < 2:
        refuse("fewer than two columns of annotators", fix="give a column an annotator")
    columns.used["annotator"] = ", ".join(people)
    rows = pl.int_range(len(frame), dtype=pl.Int64, eager=True)
    ids = rows.cast(pl.String) if item is None else as_text(frame[item])
    cells = pl.DataFrame([rows.alias("source_row"), ids.alias("item_id")]).hstack(
        [as_text(frame[name]).alias(f"of {name}") for name in people]
    )
    core = cells.unpivot(
        index=["source_row", "item_id"], variable_name="annotator_id", value_name="label"
    ).with_columns(pl.col("annotator_id").str.strip_prefix("of "))
    core = core.filter(pl.col("label").is_not_null() & (pl.col("label") != ""))
    core = core.sort("source_row", maintain_order=True)
    bare = cells.select("source_row", "item_id").join(core, on="source_row", how="anti")
    core = pl.concat(
        [
            core.with_columns(reason=pl.lit(None, dtype=pl.String)),
            bare.with_columns(reason=pl.lit("nobody answered")),
        ],
        how="diagonal",
    )
    others = frame.drop(people, *([item] if item else []))
    extras = others[core["source_row"]] if others.columns else others
    return LabelRows(
        core=core,
        extras=extras,
        shown=frame[core["source_row"]],
        called={"item_id": item or "row", "annotator_id": "column", "label": "cell"},
        described=f"a column an annotator, {len(people)} of them",
    )


def _matches(columns: Columns) -> bool:
    return len(_numbered(columns.schema.names())) > 1 and not columns.has("annotator")


WIDE = Form(
    name="wide",
    needs="annotator_1, annotator_2, … (or any columns with --format wide)",
    matches=_matches,
    readable=lambda columns: len(columns.schema) > 1,
    read=_read,
    roles=frozenset({"item"}),
)
