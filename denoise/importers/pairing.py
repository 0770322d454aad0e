"""From votes in a source's order to pairs with votes: identity, orientation, repeats."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass

import polars as pl

from denoise import schema
from denoise.dataset import SKIPPED_SCHEMA
from denoise.errors import Fault, InputError, raise_any
from denoise.importers.ballots import Ballots, LabelRows
from denoise.importers.columns import typed, without_collisions
from denoise.importers.known import set_apart
from denoise.plain import quote

IDENTICAL = "identical responses"
_DETAILS = ("strength", "shown_first", "seconds", "timestamp")
_MAX_REASONS = 6
_MAX_FAULTS = 100


@dataclass(frozen=True)
class Built:
    """The tables of a data set, by name, the rows that became neither, and sentences about them."""

    tables: dict[str, pl.DataFrame | None]
    skipped: pl.DataFrame
    notes: tuple[str, ...]


def build(ballots: Ballots, file: str, *, untyped: bool) -> Built:
    """Pairs and votes; `untyped` reads the extra columns of a source without types as numbers.

    Raises:
        InputError: no row can be used, or one pair_id stands for different texts.
    """
    core = ballots.core.with_columns(reason=_reasons(ballots)).with_row_index("position")
    core = core.with_columns(vote_id=pl.col("position" if ballots.nested else "source_row"))
    core = _identities(core)
    kept = core.filter(pl.col("reason").is_null())
    if kept.is_empty():
        _refuse_all(core["reason"], file)
    if "pair_id" in kept.columns:
        raise_any(_mixed_ids(kept, file))
    else:
        kept = kept.with_columns(pair_id=pl.col("content"))
    kept = _orient(kept, own_sides=ballots.own_sides)
    kept, truth, unused = set_apart(kept, "pair_id", "vote")
    if kept.is_empty():
        _refuse_all(unused["reason"], file)
    firsts = kept.unique("pair_id", keep="first", maintain_order=True)
    kept, repeats = _collapse(kept)
    skipped = pl.concat([core.select("position", "reason"), repeats, unused])
    vote_extras, pair_extras, notes = _extras(ballots, kept, firsts, untyped=untyped)
    votes = _votes(ballots, kept).hstack(vote_extras.get_columns())
    pairs = _pairs(firsts).hstack(pair_extras.get_columns())
    rows = _skipped(skipped, ballots.core["source_row"], ballots.shown)
    notes = [_count(ballots, pairs, votes), *_why_skipped(rows), *_agreement(repeats), *notes]
    if len(repeats) > len(kept):
        notes.append(
            "most votes repeat an earlier one: if a column tells the pairs apart, map it to prompt "
            "or pair_id"
        )
    if "pair_id" in ballots.core.columns and (shared := _shared(kept)):
        notes.append(shared)
    notes += _known(truth)
    return Built({"pairs": pairs, "votes": votes, "truth": truth}, rows, tuple(notes))


def build_labels(rows: LabelRows, file: str, *, untyped: bool) -> Built:
    """The table of categorical labels.

    Raises:
        InputError: no row can be used.
    """
    core = rows.core.with_row_index("position")
    given = [pl.col("reason")] if "reason" in core.columns else []
    empty = (
        pl.when(_empty(core, name)).then(pl.lit(f"{quote(rows.called.get(name, name))} is empty"))
        for name in ("item_id", "annotator_id", "label")
    )
    reason = pl.coalesce(*given, *empty)
    core = core.with_columns(reason=reason)
    kept = core.filter(pl.col("reason").is_null())
    if kept.is_empty():
        _refuse_all(core["reason"], file)
    kept, truth, unused = set_apart(kept, "item_id", "label")
    if kept.is_empty():
        _refuse_all(unused["reason"], file)
    taken = [*(column.name for column in schema.LABELS.columns), "source_row"]
    extras, changed = without_collisions(_rows(rows.extras, kept["position"]), taken)
    extras = typed(extras) if untyped else extras
    labels = kept.drop("position", "reason").hstack(extras.get_columns())
    source_row = core["source_row" if "source_row" in core.columns else "position"]
    reasons = pl.concat([core.select("position", "reason"), unused])
    skipped = _skipped(reasons, source_row, rows.shown)
    counts = [
        f"{_number(source_row.n_unique(), 'row')} -> {_number(len(labels), 'label')}",
        _number(labels["item_id"].n_unique(), "item"),
        _number(labels["annotator_id"].n_unique(), "annotator"),
        _number(labels["label"].n_unique(), "class", "classes"),
    ]
    notes = [", ".join(counts), *_why_skipped(skipped), *_renamed(changed)]
    again = len(labels) - labels.select("item_id", "annotator_id").n_unique()
    if again:
        notes.append(f"repeated answers of an annotator to an item, which stay: {again:,}")
    notes += _known(truth)
    return Built({"labels": labels, "truth": truth}, skipped, tuple(notes))


def _rows(frame: pl.DataFrame, positions: pl.Series) -> pl.DataFrame:
    return frame.select(pl.all().gather(positions)) if frame.columns else frame


def _empty(frame: pl.DataFrame, name: str) -> pl.Expr:
    column = pl.col(name)
    is_id = name in ("pair_id", "annotator", "item_id", "annotator_id", "label")
    return column.is_null() | (column == "") if is_id else column.is_null()


def _reasons(ballots: Ballots) -> pl.Series:
    """Why a row makes no vote: the form's own reason, else the first core value it lacks."""
    core = ballots.core
    wanted = ("pair_id", "first", "second", "prompt", "annotator", "choice")
    parts = [
        pl.when(_empty(core, name)).then(
            pl.lit(f"{quote(ballots.called.get(name, name))} is empty")
        )
        for name in wanted
        if name in core.columns
    ]
    for name in ("prompt", "first", "second"):
        if schema.is_chat(core.schema[name]):
            broken = _broken(core.schema[name], name)
            what = f"a message in {quote(ballots.called.get(name, name))} lacks its role or content"
            parts.append(pl.when(broken).then(pl.lit(what)))
    for name in ("first", "second"):
        if schema.is_chat(core.schema[name]):
            what = f"{quote(ballots.called.get(name, name))} has no messages"
            parts.append(pl.when(pl.col(name).list.len() == 0).then(pl.lit(what)))
    return core.with_columns(reason=ballots.reason).select(reason=pl.coalesce("reason", *parts))[
        "reason"
    ]


def _broken(dtype: pl.DataType, name: str) -> pl.Expr:
    message = pl.element().struct
    broken = message.field("role").is_null()
    if len(dtype.inner.fields) == 2:  # type: ignore[attr-defined]
        # With further fields, such as tool calls, a message may well have no content.
        broken = broken | message.field("content").is_null()
    return pl.col(name).list.eval(broken).list.any()


def _identities(core: pl.DataFrame) -> pl.DataFrame:
    """Adds `content`, the hash of the pair, and `ordered`, whether first comes before second."""
    content: list[str | None] = []
    ordered: list[bool | None] = []
    reasons: list[str | None] = []
    digest, canonical = schema.digest, schema.canonical
    chat = core.schema["first"] != pl.String
    columns = core.select("prompt", "first", "second", "reason").iter_rows()
    for prompt, first, second, reason in columns:
        if reason is None and chat:
            prompt, first, second = canonical(prompt), canonical(first), canonical(second)
        if reason is None and first == second:
            reason = IDENTICAL
        reasons.append(reason)
        if reason is not None:
            content.append(None)
            ordered.append(None)
            continue
        parts = (first, second) if first <= second else (second, first)
        content.append(digest(prompt, *parts).hex())
        ordered.append(digest(first) < digest(second))
    return core.with_columns(
        pl.Series("content", content, dtype=pl.String),
        pl.Series("ordered", ordered, dtype=pl.Boolean),
        pl.Series("reason", reasons, dtype=pl.String),
    )


def _mixed_ids(kept: pl.DataFrame, file: str) -> list[Fault]:
    earlier = pl.col("source_row", "content").first().over("pair_id").name.suffix("_first")
    rows = kept.select("source_row", "pair_id", "content", earlier)
    mixed = rows.filter(pl.col("content") != pl.col("content_first")).head(_MAX_FAULTS)
    fix = "give each pair of texts an id of its own"
    return [
        Fault(
            f"this pair_id has other texts than in row {row['source_row_first']}",
            file,
            row["source_row"],
            found=row["pair_id"],
            fix=fix,
        )
        for row in mixed.to_dicts()
    ]


def _orient(kept: pl.DataFrame, *, own_sides: bool) -> pl.DataFrame:
    """Adds `first_is_a`: the source's first orientation of a pair, else the order of hashes."""
    a_is_first = pl.col("ordered")
    if own_sides:
        a_is_first = pl.col("ordered") == pl.col("ordered").first().over("pair_id")
    kept = kept.with_columns(first_is_a=a_is_first)
    kept = kept.with_columns(vote=_side("choice"))
    if "shown_first" in kept.columns:
        kept = kept.with_columns(shown_first=_side("shown_first"))
    return kept


def _side(name: str) -> pl.Expr:
    """'first' and 'second' of the source as 'a' and 'b' of the pair."""
    column = pl.col(name)
    is_a = (column == "first") == pl.col("first_is_a")
    return (
        pl.when(column.is_in(["first", "second"]))
        .then(pl.when(is_a).then(pl.lit("a")).otherwise(pl.lit("b")))
        .otherwise(column)
    )


def _collapse(kept: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One vote for each named annotator and pair, and the position and reason of the others."""
    if "annotator" not in kept.columns:
        kept = kept.with_columns(annotator=pl.lit(schema.ALL_ANNOTATORS))
    key = ("pair_id", "annotator")
    kept = kept.with_columns(
        earlier=pl.col("vote_id").first().over(key), answers=pl.col("vote").n_unique().over(key)
    )
    named = pl.col("annotator") != schema.ALL_ANNOTATORS
    again = named & (pl.col("vote_id") != pl.col("earlier"))
    torn = pl.col("answers") > 1
    reason = (
        pl.when(torn)
        .then(pl.format("contradicts vote {}, which counts as a tie", "earlier"))
        .otherwise(pl.format("repeats vote {}", "earlier"))
    )
    repeats = kept.filter(again).select("position", reason=reason)
    kept = kept.filter(~again)
    tie = named & torn
    changes = [pl.when(tie).then(pl.lit("tie")).otherwise("vote").alias("vote")]
    if "strength" in kept.columns:
        changes.append(pl.when(~tie).then("strength").alias("strength"))
    return kept.with_columns(changes), repeats


def _votes(ballots: Ballots, kept: pl.DataFrame) -> pl.DataFrame:
    columns = [
        pl.col("vote_id").cast(pl.Int64),
        pl.col("pair_id"),
        pl.col("annotator").alias("annotator_id"),
        pl.col("vote"),
        *(pl.col(name) for name in _DETAILS if name in kept.columns),
        *([pl.col("source_row").cast(pl.Int64)] if ballots.nested else []),
    ]
    # What a source says of its first response, it says of b where a row has the sides the other
    # way round than the pair; where the first is the chosen one, the vote tells as much.
    if ballots.own_sides and not kept["first_is_a"].all():
        columns.append((~pl.col("first_is_a")).alias("swapped"))
    return kept.select(columns)


def _pairs(firsts: pl.DataFrame) -> pl.DataFrame:
    is_a = pl.col("first_is_a")
    return firsts.select(
        "pair_id",
        "prompt",
        response_a=pl.when(is_a).then("first").otherwise("second"),
        response_b=pl.when(is_a).then("second").otherwise("first"),
    )


def _extras(
    ballots: Ballots, kept: pl.DataFrame, firsts: pl.DataFrame, *, untyped: bool
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """The source's own columns beside votes and pairs, and what had to be renamed or moved."""
    of_votes = _rows(ballots.vote_columns, kept["position"])
    of_pairs = ballots.pair_columns
    notes = []
    # A column of the source row can only stand beside the pair where all its rows agree.
    pair_row = kept.select("pair_id").join(
        firsts.select("pair_id", "position"), on="pair_id", how="left", maintain_order="left"
    )["position"]
    differing = []
    for name in of_pairs.columns:
        column = of_pairs[name]
        if not column[kept["position"]].eq_missing(column[pair_row]).all():
            differing.append(name)
    if differing:
        names = ", ".join(map(quote, differing))
        notes.append(f"kept with the votes, as rows of one pair differ: {names}")
        moved = _rows(of_pairs.select(differing), kept["position"])
        moved, _ = without_collisions(moved, of_votes.columns)
        of_votes = of_votes.hstack(moved.get_columns())
        of_pairs = of_pairs.drop(differing)
    of_pairs = _rows(of_pairs, firsts["position"])
    taken = [column.name for table in (schema.PAIRS, schema.VOTE_ROWS) for column in table.columns]
    of_votes, changed = without_collisions(of_votes, [*taken, "swapped", "source_row"])
    of_pairs, changed_too = without_collisions(of_pairs, taken)
    notes += _renamed(changed | changed_too)
    if untyped:
        of_votes, of_pairs = typed(of_votes), typed(of_pairs)
    return of_votes, of_pairs, notes


def _skipped(reasons: pl.DataFrame, source_row: pl.Series, shown: pl.DataFrame) -> pl.DataFrame:
    reasons = reasons.filter(pl.col("reason").is_not_null()).sort("position")
    content = [
        json.dumps(row, ensure_ascii=False, default=str)
        for row in shown[reasons["position"]].iter_rows(named=True)
    ]
    rows = source_row[reasons["position"]].cast(pl.Int64)
    return pl.DataFrame(
        {"source_row": rows, "reason": reasons["reason"], "content": content},
        schema=SKIPPED_SCHEMA,
    )


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _count(ballots: Ballots, pairs: pl.DataFrame, votes: pl.DataFrame) -> str:
    rows = int(ballots.core["source_row"].n_unique())
    annotators = votes["annotator_id"].n_unique()
    counts = [
        f"{_number(rows, 'row')} -> {_number(len(pairs), 'pair')}",
        _number(len(votes), "vote"),
        _number(annotators, "annotator"),
    ]
    ties = int((votes["vote"] == "tie").sum())
    return ", ".join(counts) + (f" ({_number(ties, 'tie')})" if ties else "")


def _tally(reasons: pl.Series) -> str:
    kinds = Counter(re.sub(r" vote \d+", " an earlier vote", reason) for reason in reasons)
    shown = [f"{count:,} × {kind}" for kind, count in kinds.most_common(_MAX_REASONS)]
    if len(kinds) > _MAX_REASONS:
        shown.append(f"{len(kinds) - _MAX_REASONS:,} other reasons")
    return ", ".join(shown)


def _why_skipped(skipped: pl.DataFrame) -> list[str]:
    if skipped.is_empty():
        return []
    return [f"skipped {_number(len(skipped), 'row')}: {_tally(skipped['reason'])}"]


def _agreement(repeats: pl.DataFrame) -> list[str]:
    torn = repeats["reason"].filter(repeats["reason"].str.starts_with("contradicts"))
    if torn.is_empty():
        return []
    count = _number(torn.n_unique(), "vote")
    return [f"{count} became a tie: the same annotator said otherwise on the same pair"]


def _known(truth: pl.DataFrame | None) -> list[str]:
    return [] if truth is None else [f"known answers, kept apart: {len(truth):,}"]


def _renamed(changed: dict[str, str]) -> list[str]:
    names = ", ".join(f"{quote(old)} -> {quote(new)}" for old, new in changed.items())
    return [f"renamed columns whose names have a meaning here: {names}"] if changed else []


def _shared(kept: pl.DataFrame) -> str | None:
    apart = kept["pair_id"].n_unique() - kept["content"].n_unique()
    if not apart:
        return None
    return f"pair_ids with the texts of another pair_id, which stay apart: {apart:,}"


def _refuse_all(reasons: pl.Series, file: str) -> None:
    fix = "mend the rows, or say with --map which columns to read"
    raise InputError(Fault(f"no row can be used: {_tally(reasons)}", file, fix=fix))
