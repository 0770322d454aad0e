"""Two audits side by side, as a page."""

from __future__ import annotations

from typing import Any

import polars as pl

from denoise.plain import plain
from denoise.report.audit import MOST_ANNOTATORS, NAME
from denoise.report.page import render_with_tables
from denoise.stages.audit_compare import Comparison


def page(found: Comparison, a: str, b: str) -> str:
    """The comparison of the sources `a` and `b` as HTML."""
    table = found.annotators.sort("p_value", "annotator_id", nulls_last=True)
    return render_with_tables(
        "compare.html.jinja",
        a=plain(a, 120),
        b=plain(b, 120),
        headline=headline(found),
        measures=[_measure(row) for row in found.measures.iter_rows(named=True)],
        people=[
            row | {"annotator_id": plain(row["annotator_id"], NAME)}
            for row in table.head(MOST_ANNOTATORS).iter_rows(named=True)
        ],
        n_people=len(table),
    )


def headline(found: Comparison) -> list[str]:
    """What changed, in sentences."""
    counts = found.counts
    moved = filter(_is_sure, found.measures.iter_rows(named=True))
    said = [
        f"{plain(row['measure'])} {'rose' if row['change'] > 0 else 'fell'} from {row['a']:.3f} to "
        f"{row['b']:.3f}"
        for row in moved
    ]
    first = f"{'; '.join(said)}." if said else "No overall measure changed for certain."
    people = (
        f"Of {counts['both']:,} annotators in both, {counts['better']:,} became more reliable and "
        f"{counts['worse']:,} less; {counts['gone']:,} are gone and {counts['new']:,} new."
    )
    return [first[:1].upper() + first[1:], people]


def _measure(row: dict[str, Any]) -> dict[str, Any]:
    """The row as text: whole numbers as such."""
    counts = row["measure"] in COUNTS

    def shown(value: float | None, sign: str = "") -> str:
        if value is None or value != value:
            return "–"
        return f"{value:{sign},.0f}" if counts else f"{value:{sign}.3f}"

    between = "–" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}"
    return {
        "measure": row["measure"],
        "a": shown(row["a"]),
        "b": shown(row["b"]),
        "change": shown(row["change"], "+"),
        "interval": between,
        "sure": _is_sure(row),
    }


def _is_sure(row: dict[str, Any]) -> bool:
    """Whether the interval of the change leaves out zero."""
    return row["low"] is not None and (row["low"] > 0 or row["high"] < 0)


COUNTS = {"votes", "items", "annotators", "annotators who need a look"}


def rows_of(found: Comparison) -> list[tuple[str, ...]]:
    """The measures as rows of text, for the terminal."""
    rows = (_measure(row) for row in found.measures.iter_rows(named=True))
    return [(r["measure"], r["a"], r["b"], r["change"], r["interval"]) for r in rows]


def changed(found: Comparison) -> pl.DataFrame:
    """The annotators whose reliability changed for certain, the most certain first."""
    return found.annotators.filter("changed").sort("p_value", "annotator_id")
