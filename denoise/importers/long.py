"""Tables of item, annotator and label: votes where a table of texts is given, else labels."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from denoise.errors import Fault, raise_any, refuse
from denoise.importers import content
from denoise.importers.ballots import VOTE_ROLES, Ballots, Form, LabelRows, Request, timing
from denoise.importers.columns import Columns
from denoise.importers.comparisons import models_of, votes_from
from denoise.importers.content import Content, as_text
from denoise.importers.source import Source
from denoise.plain import quote

TEXT_ROLES = frozenset({"prompt", "response_a", "response_b", "model_a", "model_b"})
"""The roles that a map names in the table of texts and not in the votes."""

_KEYS = ("pair_id", "item")


def _answer(columns: Columns) -> str | None:
    return next((role for role in ("label", "winner") if columns.has(role)), None)


def _read_labels(request: Request) -> LabelRows:
    frame, columns = request.source.frame, request.columns
    role = _answer(columns)
    assert role is not None
    names = {
        "item_id": columns.need("item"),
        "annotator_id": columns.need("annotator"),
        "label": columns.need(role),
    }
    core = [as_text(frame[name]).alias(column) for column, name in names.items()]
    core += timing(columns, frame)
    return LabelRows(
        core=pl.DataFrame(core),
        extras=columns.others(frame),
        shown=frame,
        called=names,
        described=f"categorical labels: item in column {quote(names['item_id'])}, "
        f"label in column {quote(names['label'])}",
    )


def _read_votes(request: Request) -> Ballots:
    frame, columns = request.source.frame, request.columns
    assert request.texts is not None and request.text_columns is not None
    texts, of_texts = request.texts.frame, request.text_columns
    keys = sorted(_KEYS, key=lambda role: role not in columns.overrides)
    role = next(role for role in keys if columns.has(role))
    key = columns.need(role)
    columns.used["pair_id"] = columns.used.pop(role)
    ids = as_text(frame[key]).alias("pair_id")
    text_key = _text_key(key, request.texts, of_texts)
    prompt = of_texts.use("prompt")
    first, second = of_texts.need("response_a"), of_texts.need("response_b")
    arranged = content.arrange(
        None if prompt is None else texts[prompt], texts[first], texts[second], inside=False
    )
    at = _positions(ids, as_text(texts[text_key]), arranged, request.texts)
    # Rows without texts borrow the first ones; their reason keeps them from becoming votes.
    rows = at.fill_null(0)
    models = models_of(of_texts, texts)
    of_pairs = of_texts.others(texts)
    ballots = votes_from(
        request,
        Content(arranged.prompt[rows], arranged.first[rows], arranged.second[rows], arranged.kind),
        frame,
        _answer(columns) or "label",
        of_texts.ending(),
        described=f"votes on {quote(key)} with a table of texts",
        called={"prompt": prompt or "prompt", "first": first, "second": second},
        reason=_absent(ids, at, key),
        pair_columns=of_pairs[rows] if of_pairs.columns else None,
        models=models and (models[0][rows], models[1][rows]),
    )
    unused = len(texts) - at.drop_nulls().n_unique()
    note = f"rows of the texts that no vote is about, left out: {unused:,}"
    return replace(
        ballots,
        core=ballots.core.with_columns(ids),
        called={**ballots.called, "pair_id": key},
        notes=(*arranged.notes, *([note] if unused else [])),
    )


def _text_key(key: str, texts: Source, of_texts: Columns) -> str:
    if not of_texts.has("response_a", "response_b"):
        refuse(
            "the table of texts lacks the two responses",
            file=texts.name,
            found=", ".join(texts.frame.columns),
            fix="name them response_a and response_b, or give --map",
        )
    name = key if key in of_texts.schema else of_texts.find("pair_id") or of_texts.find("item")
    if name is None:
        fix = f"name its key {quote(key)}, as in the votes"
        refuse("the table of texts lacks a key", file=texts.name, fix=fix)
    of_texts.used["pair_id"] = name
    return name


def _positions(ids: pl.Series, text_ids: pl.Series, arranged: Content, texts: Source) -> pl.Series:
    """The row of the texts for each vote, or null."""
    columns = [arranged.prompt.alias("p"), arranged.first.alias("f"), arranged.second.alias("s")]
    known = pl.DataFrame([text_ids.alias("pair_id"), *columns]).with_row_index("at")
    known = known.filter(pl.col("pair_id").is_not_null())
    once = known.unique(["pair_id", "p", "f", "s"], keep="first", maintain_order=True)
    mixed = once.filter(~pl.col("pair_id").is_first_distinct())
    fix = "give each pair of texts an id of its own"
    problem = "this id has other texts in an earlier row"
    raise_any(
        Fault(problem, texts.name, row, found=found, fix=fix)
        for row, found in mixed.select("at", "pair_id").iter_rows()
    )
    places = once.select("pair_id", "at")
    at = ids.to_frame().join(places, on="pair_id", how="left", maintain_order="left")["at"]
    if at.null_count() == len(at):
        fix = "check that the two tables belong together"
        refuse("no vote is about one of these texts", file=texts.name, fix=fix)
    return at


def _absent(ids: pl.Series, at: pl.Series, key: str) -> pl.Series:
    known = ids.is_not_null() & (ids != "")
    reason = pl.when("absent").then(pl.lit(f"there are no texts for this {quote(key)}"))
    return pl.DataFrame({"absent": known & at.is_null()}).select(reason=reason)["reason"]


LONG_VOTES = Form(
    name="long votes",
    needs="item or pair_id, annotator, label, with --texts",
    matches=lambda columns: any(map(columns.has, _KEYS)) and _answer(columns) is not None,
    read=_read_votes,
    roles=VOTE_ROLES | TEXT_ROLES | {"item", "label", "winner"},
    needs_texts=True,
)
LABELS = Form(
    name="labels",
    needs="item, annotator, label",
    matches=lambda columns: columns.has("item", "annotator") and _answer(columns) is not None,
    read=_read_labels,
    roles=frozenset({"item", "annotator", "label", "winner", "seconds", "timestamp"}),
)
