"""Annotator ids replaced by names that nobody can trace back."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from denoise.plain import plain
from denoise.schema import ALL_ANNOTATORS

if TYPE_CHECKING:
    from denoise.stages.export import Export

_MOST = 0.5  # a column whose values are annotator ids in more than this share is one of ids


def with_pseudonyms(result: Export) -> Export:
    """The export with every annotator id replaced, in the rows, what was skipped, and the card.

    The names are a keyed hash whose random key is forgotten at once: one annotator has one name
    within an export, and another in the next. Columns of the source that hold annotator ids too,
    nested ones included, are left out and named in the notes. The virtual annotator `all` stays.
    """
    holders = [frame for frame in (result.frame, result.skipped, result.annotators) if _has(frame)]
    ids = pl.concat([f["annotator_id"].cast(pl.String) for f in holders]).drop_nulls().unique()
    ids = ids.filter(ids != ALL_ANNOTATORS)
    names = pseudonyms(ids, new_key())

    def renamed(frame: pl.DataFrame) -> pl.DataFrame:
        if not _has(frame):
            return frame
        return frame.with_columns(pl.col("annotator_id").cast(pl.String).replace(ids, names))

    leaking = [n for n in result.source_columns if holds_ids(result.frame[n], ids)]
    notes = list(result.notes)
    if leaking:
        shown = plain(", ".join(leaking))
        notes.append(f"Left out, as they hold annotator ids, or values that equal some: {shown}")
    settings = {**result.provenance.settings, "pseudonymise": True}
    return replace(
        result,
        frame=renamed(result.frame.drop(leaking)),
        skipped=renamed(result.skipped),
        annotators=None if result.annotators is None else renamed(result.annotators),
        provenance=replace(result.provenance, settings=settings),
        source_columns=tuple(n for n in result.source_columns if n not in leaking),
        pseudonymous=True,
        notes=tuple(notes),
    )


def _has(frame: pl.DataFrame | None) -> bool:
    return frame is not None and "annotator_id" in frame.columns


def new_key() -> bytes:
    """A random key, for `pseudonyms`; it is to be forgotten, never stored."""
    return secrets.token_bytes(32)


def pseudonyms(ids: pl.Series, key: bytes) -> pl.Series:
    """A name for each id, the same for the same id and key."""
    return pl.Series([_name(key, each) for each in ids], dtype=pl.String)


def _name(key: bytes, annotator: str) -> str:
    data = annotator.encode("utf-8", "surrogatepass")
    return "annotator-" + hashlib.blake2b(data, key=key, digest_size=8).hexdigest()


def holds_ids(column: pl.Series, ids: pl.Series) -> bool:
    """Whether most values within the column, at any depth, are among the ids."""
    for leaf in _leaves(column):
        known = leaf.is_in(ids.implode()).sum()
        if known > _MOST * len(leaf):
            return True
    return False


def _leaves(column: pl.Series) -> Iterator[pl.Series]:
    """The values within a column, at every depth, that may be ids: text and whole numbers."""
    dtype = column.dtype
    if isinstance(dtype, pl.List | pl.Array):
        yield from _leaves(column.explode())
    elif isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield from _leaves(column.struct.field(field.name))
    elif dtype in (pl.String, pl.Categorical, pl.Enum) or dtype.is_integer():
        yield column.drop_nulls().cast(pl.String)
