"""What a form reads from a source, before pairs are told apart, and what a form is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl

from denoise.importers.columns import Columns
from denoise.importers.content import as_text
from denoise.importers.source import Source


@dataclass(frozen=True)
class Ballots:
    """Votes in the source's order, one row each; every table here has the same rows.

    `core` has source_row, prompt, first, second and choice and, where the source has them, pair_id,
    annotator, strength, shown_first, seconds, timestamp and truth (a known answer). `first` and
    `second` are the responses as the source orders them; `choice` and `shown_first` are 'first',
    'second' or (choice) 'tie'.
    `called` says what the source calls a core column. `own_sides` says that first and second are
    the source's own A and B and not the outcome. `shown` is what is kept of a row that is skipped;
    `reason` is why it must be, or null. `nested` says that a source row may hold many votes.
    """

    core: pl.DataFrame
    reason: pl.Series
    vote_columns: pl.DataFrame
    pair_columns: pl.DataFrame
    shown: pl.DataFrame
    own_sides: bool
    called: Mapping[str, str]
    described: str
    nested: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelRows:
    """Categorical answers in the source's order; `extras` and `shown` have the same rows.

    `core` has item_id, annotator_id and label and, where the source has them, seconds, timestamp,
    truth (a known answer), reason (why the answer cannot be used, or null), and source_row where a
    source row may hold many answers.
    """

    core: pl.DataFrame
    extras: pl.DataFrame
    shown: pl.DataFrame
    called: Mapping[str, str]
    described: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a form reads: the source, its columns by role, and what the user asked for."""

    source: Source
    columns: Columns
    aspect: str = "overall"
    texts: Source | None = None
    text_columns: Columns | None = None


@dataclass(frozen=True)
class Form:
    """A form of source: when columns have it, and how it is read.

    `needs` names the columns in a sentence; `roles` are those that a map may name for it;
    `readable` says when columns suffice that would not be recognised, where the form is named.
    `by_file` says that its files are named after annotators, whose column is "file" then.
    """

    name: str
    needs: str
    matches: Callable[[Columns], bool]
    read: Callable[[Request], Ballots | LabelRows]
    roles: frozenset[str] = field(default_factory=frozenset)
    has_aspects: bool = False
    needs_texts: bool = False
    by_file: bool = False
    readable: Callable[[Columns], bool] | None = None


VOTE_ROLES = frozenset({"annotator", "pair_id", "strength", "shown_first", "seconds", "timestamp"})


def no_reason(rows: int) -> pl.Series:
    """A column of reasons in which no row has one yet."""
    return pl.Series("reason", [None], dtype=pl.String).new_from_index(0, rows)


def vote_details(columns: Columns, frame: pl.DataFrame) -> list[pl.Series]:
    """The optional columns of a vote that a flat source has, under their core names.

    A column that is not what its name says (seconds that are no numbers), or is empty in every row,
    is left to the extras.
    """
    details = []
    for role in ("pair_id", "annotator", "strength"):
        name = columns.find(role)
        if name and not frame[name].dtype.is_nested() and frame[name].null_count() < len(frame):
            details.append(as_text(frame[columns.need(role)]).alias(role))
    return details + timing(columns, frame)


def timing(columns: Columns, frame: pl.DataFrame) -> list[pl.Series]:
    """The seconds and the timestamp of each answer, where a flat source has them."""
    details = []
    if (name := columns.find("seconds")) and (number := _numbers(frame[name])) is not None:
        columns.use("seconds")
        details.append(number.alias("seconds"))
    if columns.find("timestamp"):
        details.append(frame[columns.need("timestamp")].alias("timestamp"))
    return details


def _numbers(values: pl.Series) -> pl.Series | None:
    if not (values.dtype.is_numeric() or values.dtype == pl.String):
        return None
    number = values.cast(pl.Float64, strict=False)
    if number.null_count() > values.null_count():
        return None
    return number.to_frame().select(pl.when(pl.all().is_finite()).then(pl.all())).to_series()
