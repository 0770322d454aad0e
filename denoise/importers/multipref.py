"""MultiPref: a comparison a row, with lists of annotations by two groups of workers."""

from __future__ import annotations

import polars as pl

from denoise.errors import refuse
from denoise.importers import content
from denoise.importers.ballots import Ballots, Form, Request
from denoise.importers.columns import Columns
from denoise.importers.content import as_text
from denoise.plain import quote

_GROUPS = {
    "normal_worker_annotations": "normal",
    "expert_worker_annotations": "expert",
}
_PROMPTS = ("text", "prompt")
_SIDES = ("completion_a", "completion_b")
_LEVEL = r"(?i)^\s*([ab])[-_ ]is[-_ ](clearly|slightly)[-_ ]better\s*$"


def _matches(columns: Columns) -> bool:
    names = columns.schema
    lists = [name for name in _GROUPS if isinstance(names.get(name), pl.List)]
    prompt = any(name in names for name in _PROMPTS)
    return bool(lists) and prompt and all(side in names for side in _SIDES)


def _read(request: Request) -> Ballots:
    frame = request.source.frame
    lists = [name for name in _GROUPS if name in frame.columns]
    prompt = next(name for name in _PROMPTS if name in frame.columns)
    given = frame.with_row_index("_row").with_columns(pl.col("_row").cast(pl.Int64))
    parts = [_annotations(given, name) for name in lists]
    rows = pl.concat([part for part in parts if part is not None], how="diagonal_relaxed")
    bare = given.join(rows, on="_row", how="anti")
    rows = pl.concat([rows, bare.select("_row")], how="diagonal")
    rows = rows.sort("_row", maintain_order=True)
    asked = f"{request.aspect}_pref"
    if asked not in rows.columns or "evaluator" not in rows.columns:
        found = [name.removesuffix("_pref") for name in rows.columns if name.endswith("_pref")]
        fix = f"the annotations have {', '.join(found) or 'no *_pref field'}"
        refuse("there is no such aspect", file=request.source.name, found=request.aspect, fix=fix)
    level = as_text(rows[asked]).alias("level")
    side = pl.col("level").str.extract(_LEVEL, 1).str.to_lowercase()
    tie = pl.col("level").str.strip_chars().str.to_lowercase() == "tie"
    votes = level.to_frame().select(
        choice=pl.when(tie)
        .then(pl.lit("tie"))
        .otherwise(side.replace({"a": "first", "b": "second"})),
        strength=pl.col("level").str.extract(_LEVEL, 2).str.to_lowercase(),
    )
    arranged = content.arrange(frame[prompt], *(frame[side] for side in _SIDES), inside=False)
    at = rows["_row"]
    core = [
        at.alias("source_row"),
        arranged.prompt[at].alias("prompt"),
        arranged.first[at].alias("first"),
        arranged.second[at].alias("second"),
        votes["choice"],
        as_text(rows["evaluator"]).alias("annotator"),
        votes["strength"],
    ]
    used = {"annotator": "evaluator", "winner": asked, "prompt": prompt}
    used |= {"response_a": _SIDES[0], "response_b": _SIDES[1]}
    if "comparison_id" in frame.columns:
        core.append(as_text(frame["comparison_id"])[at].alias("pair_id"))
        used["pair_id"] = "comparison_id"
    if "time_spent" in rows.columns and rows["time_spent"].dtype.is_numeric():
        core.append(rows["time_spent"].cast(pl.Float64).fill_nan(None).alias("seconds"))
        used["seconds"] = "time_spent"
    if "timestamp" in rows.columns:
        core.append(rows["timestamp"].alias("timestamp"))
        used["timestamp"] = "timestamp"
    request.columns.used.update(used)
    gone = {"_row", *used.values()} - {asked}
    of_rows = frame.drop(prompt, *_SIDES, *lists, used.get("pair_id", prompt))
    return Ballots(
        core=pl.DataFrame(core),
        reason=_reasons(level, votes["choice"], rows["annotator_group"]),
        vote_columns=rows.select(name for name in rows.columns if name not in gone),
        pair_columns=of_rows[at] if of_rows.columns else pl.DataFrame(),
        shown=frame.drop(lists)[at].with_columns(annotation=rows.drop("_row").to_struct()),
        own_sides=True,
        called={**used, "first": _SIDES[0], "second": _SIDES[1], "choice": asked},
        described=f"MultiPref, aspect {quote(request.aspect)}, as {arranged.kind}",
        nested=True,
        notes=arranged.notes,
    )


def _annotations(frame: pl.DataFrame, name: str) -> pl.DataFrame | None:
    """One row an annotation of a list, its fields as columns; None where the lists are empty."""
    rows = frame.select("_row", entry=pl.col(name)).explode("entry")
    rows = rows.filter(pl.col("entry").is_not_null())
    if not isinstance(rows.schema["entry"], pl.Struct):
        return None
    return rows.unnest("entry").with_columns(annotator_group=pl.lit(_GROUPS[name]))


def _reasons(level: pl.Series, choice: pl.Series, group: pl.Series) -> pl.Series:
    reasons = [
        "no annotations"
        if of is None
        else f"the answer is {quote(value)}, which is no level"
        if value is not None and side is None
        else None
        for value, side, of in zip(level, choice, group, strict=True)
    ]
    return pl.Series("reason", reasons, dtype=pl.String)


MULTIPREF = Form(
    name="multipref",
    needs="text, completion_a, completion_b and normal_ or expert_worker_annotations",
    matches=_matches,
    read=_read,
    has_aspects=True,
)
