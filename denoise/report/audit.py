"""The audit as a page: what it found, in the order in which someone who runs annotators asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from denoise.plain import plain
from denoise.plot import Line, Panel, histogram_svg, lines_svg
from denoise.report.page import render_with_tables
from denoise.report.words import QUESTIONS, agreement_in_words, effect, headline, interval
from denoise.schema import content_text
from denoise.stages.audit import AuditResult
from denoise.stages.audit_tables import NEEDS_A_LOOK, USELESS, WORTH_A_TALK, has_flag

MOST_ANNOTATORS = 1_000
"""Rows of the table of annotators; the others are in `--csv`."""

MOST_ITEMS = 200
MOST_FINDINGS = 50
MOST_SLICES = 100
MOST_CLASSES = 12
BINS = 20
NAMED = 5
LOOKED_AT = 100
NAME = 60


def page(result: AuditResult, source: str) -> str:
    """The report as HTML, under 1 MB whatever the size of the data; `source` is what it is of."""
    people = _those_that_matter(result.annotators)
    return render_with_tables(
        "audit.html.jinja",
        source=plain(source, 200),
        summary=result.summary,
        headline=headline(dict(result.summary)),
        actions=actions(result),
        people=[_person(row) for row in people.iter_rows(named=True)],
        n_people=len(result.annotators),
        has_known="n_known" in result.annotators.columns,
        has_speed="median_seconds" in result.annotators.columns,
        questions=_questions(result),
        agreement=result.agreement._asdict(),
        agreement_in_words=agreement_in_words(result.agreement.alpha.value),
        items=doubtful(result, MOST_ITEMS),
        n_items=len(result.items),
        item="pair" if result.judged.is_preference else "item",
        contested=_contested(result, "contested"),
        known_doubtful=_contested(result, "known_doubtful"),
        slices=result.slices.head(MOST_SLICES).rows(named=True),
        n_slices=len(result.slices),
        confusion=_confusion(result),
        plots=_plots(result),
        enough=enough(result),
        buying=buying(result),
    )


def actions(result: AuditResult) -> list[str]:
    """What to do first, a sentence each: whom to leave out, whom to talk to, what to look at."""
    said = []
    people = result.annotators.sort("n_votes", "annotator_id", descending=[True, False])
    useless = people.filter(has_flag(USELESS))
    rest = people.filter(has_flag(WORTH_A_TALK) & ~has_flag(USELESS))
    if len(useless):
        votes = useless["n_votes"].sum() / max(people["n_votes"].sum(), 1)
        said.append(
            f"Leave out the votes of {_names(useless)}: they are {100 * votes:.1f} % of all, and "
            "tell nothing of the truth, or the contrary. Confidences hardly count them already."
        )
    if len(rest):
        said.append(f"Talk to {_names(rest, flags=True)}.")
    top = result.items.filter(pl.col("worth_of_a_look") > 0).head(LOOKED_AT)
    if len(top):
        wrong = top["worth_of_a_look"].sum()
        said.append(
            f"Look again at the first {len(top):,} labels below: about {wrong:,.0f} of them are "
            "wrong."
        )
    if n := result.summary["n_contested"]:
        said.append(f"Make the guideline clearer for what {n:,} contested items have in common.")
    if n := result.summary["n_known_doubtful"]:
        said.append(f"Check {n:,} known answers: more votes go against them than errors explain.")
    return said


def _names(people: pl.DataFrame, *, flags: bool = False) -> str:
    """The first few, those with most votes first, and how many more there are."""
    shown = [
        plain(row["annotator_id"], 30)
        + (f" ({', '.join(f for f in row['flags'] if f in WORTH_A_TALK)})" if flags else "")
        for row in people.head(NAMED).iter_rows(named=True)
    ]
    more = len(people) - len(shown)
    if more:
        return f"{', '.join(shown)} and {more:,} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def enough(result: AuditResult) -> str:
    """How many votes an item are enough, in a sentence."""
    curve = result.by_votes
    if len(curve.votes) < 2:
        return "Too few items have two votes or more to say."
    accuracy = 100 * curve.expected
    last, votes = accuracy[-1], len(curve.votes)
    near = int(curve.votes[np.flatnonzero(accuracy >= last - 1.0)[0]])
    step = (accuracy[-1] - accuracy[-3]) / 2 if votes > 2 else accuracy[-1] - accuracy[-2]
    said = (
        f"With one vote an item {accuracy[0]:.1f} % of the labels are right, with all {votes} "
        f"{last:.1f} %. "
    )
    if near < votes:
        said += f"{near} votes come within a point of that. "
    return said + f"The last votes brought about {max(step, 0.0):.1f} points each."


def buying(result: AuditResult) -> str:
    """What further labels would be worth, in a sentence."""
    plan = result.plan
    if len(plan) < 2 or plan["planned"][-1] <= 0:
        return "No further votes of this crowd are expected to change a label for the better."
    half = plan.filter(pl.col("planned") >= 0.5 * plan["planned"][-1]).row(0, named=True)
    item = "pairs" if result.judged.is_preference else "items"
    return (
        f"{half['labels']:,} further votes, on the {item} that need them most, would put about "
        f"{half['planned']:,.0f} labels right; as many on random {item}, "
        f"{half['at_random']:,.0f}. All {plan['labels'][-1]:,} votes that are worth anything would "
        f"put {plan['planned'][-1]:,.0f} right."
    )


def _those_that_matter(table: pl.DataFrame) -> pl.DataFrame:
    """As many as are shown: the flagged, then the least reliable; in the table's own order."""
    kept = table.with_row_index("place")
    kept = kept.sort(has_flag(NEEDS_A_LOOK), descending=True, maintain_order=True)
    return kept.head(MOST_ANNOTATORS).sort("place").drop("place")


def _person(row: dict[str, Any]) -> dict[str, Any]:
    serious = any(flag in NEEDS_A_LOOK for flag in row["flags"])
    return row | {"annotator_id": plain(row["annotator_id"], NAME), "serious": serious}


def _questions(result: AuditResult) -> list[dict[str, Any]]:
    """Each question with how often it was asked and who is flagged."""
    out = []
    for name, words in QUESTIONS.items():
        asked = result.asked[name]
        flagged = result.findings.filter("flagged", question=name).sort("p_value", "annotator_id")
        rows = [
            {
                "who": plain(row["annotator_id"], NAME),
                "other": plain(row["other"] or "", NAME),
                "effect": effect(name, row["effect"]),
                "interval": interval(name, row["low"], row["high"]),
                "n": row["n"],
            }
            for row in flagged.head(MOST_FINDINGS).iter_rows(named=True)
        ]
        out.append(
            {
                "name": name,
                "words": words,
                "asked": asked.asked,
                "flagged": asked.flagged,
                "reason": asked.reason,
                "rows": rows,
                "other": {"copies": "and", "label": "label", "slice": "slice"}.get(name, ""),
            }
        )
    return out


def doubtful(result: AuditResult, most: int) -> list[dict[str, Any]]:
    """The items to look at first, as they are shown: of pairs the prompt and better response."""
    top = result.items.filter(pl.col("worth_of_a_look") > 0).head(most)
    return _shown(result, top)


def _shown(result: AuditResult, items: pl.DataFrame) -> list[dict[str, Any]]:
    texts = _texts(result, items["item_id"])
    rows = []
    for row in items.iter_rows(named=True):
        prompt, *responses = texts.get(row["item_id"], ("", row["label"], row["label"]))
        label = responses[row["label"] == "b"]
        shown = {"item_id": plain(row["item_id"], NAME), "label": plain(label, NAME)}
        rows.append({**row, **shown, "text": plain(prompt, 90)})
    return rows


def _texts(result: AuditResult, ids: pl.Series) -> dict[str, tuple[str, str, str]]:
    """Prompt and responses of pairs, by id."""
    pairs = result.judged.pairs
    if pairs is None:
        return {}
    rows = pairs.select(pl.col("pair_id").cast(pl.String), "prompt", "response_a", "response_b")
    rows = rows.filter(pl.col("pair_id").is_in(ids.implode()))
    return {pair: tuple(map(content_text, texts)) for pair, *texts in rows.iter_rows()}  # type: ignore[misc]


def _contested(result: AuditResult, which: str) -> list[dict[str, Any]]:
    rows = result.items.filter(which).sort("n_against", "item_id", descending=[True, False])
    return _shown(result, rows.head(MOST_FINDINGS))


def _confusion(result: AuditResult) -> dict[str, Any] | None:
    """What the crowd as a whole calls each class, where there are few enough."""
    crowd = result.judged
    if crowd.is_preference or not 2 <= len(crowd.classes) <= MOST_CLASSES:
        return None
    names = [plain(name, 24) for name in crowd.classes]
    return {"names": names, "rows": list(zip(names, crowd.typical().tolist(), strict=True))}


def _plots(result: AuditResult) -> dict[str, str]:
    made = {}
    if (points := _reliabilities(result.annotators)) is not None:
        made["reliability"] = points
    values = result.items["confidence"].to_numpy()
    if result.items["worth_of_a_look"].sum() > 0:
        classes = max(len(result.judged.classes), 2)
        counts, edges = np.histogram(values, BINS, (1.0 / classes, 1.0))
        ticks = [v for v in (0.2, 0.4, 0.5, 0.6, 0.8, 1.0) if v >= edges[0]]
        made["confidence"] = histogram_svg(
            counts.tolist(),
            edges.tolist(),
            title="How sure are the labels?",
            x_label="probability that the label is right",
            y_label="items",
            ticks=ticks,
        )
    curve = result.by_votes
    if len(curve.votes) > 1:
        x = curve.votes.tolist()
        drawn = [Line("expected", x, curve.expected.tolist())]
        if np.isfinite(curve.known).any():
            drawn.append(Line("on known answers", x, curve.known.tolist()))
        every = max(len(x) // 10, 1)
        ticks = [(v, str(v)) for v in x if v == 1 or v % every == 0]
        panel = Panel("", "votes an item", "share of labels right", drawn, ticks)
        made["enough"] = lines_svg([panel], title="How many votes are enough?")
    plan = result.plan
    if len(plan) > 1 and plan["planned"][-1] > 0:
        x = plan["labels"].to_list()
        drawn = [
            Line("where worth most", x, plan["planned"].to_list()),
            Line("at random", x, plan["at_random"].to_list()),
        ]
        step = _step(x[-1])
        ticks = [(v, f"{v:,}") for v in range(0, x[-1] + 1, step)]
        panel = Panel("", "further votes bought", "labels put right", drawn, ticks)
        made["plan"] = lines_svg([panel], title="What are further votes worth?")
    return made


def _step(most: int) -> int:
    """A round number of which about five make `most`."""
    power = 10 ** max(len(str(most)) - 2, 0)
    return next(s * power for s in (1, 2, 5, 10, 20, 50, 100) if most <= 6 * s * power)


def _reliabilities(table: pl.DataFrame) -> str | None:
    """Reliability against votes; the least sure are drawn where not all can be."""
    told = table.filter(pl.col("reliability").is_not_null() & (pl.col("n_votes") > 0))
    if len(told) < 2:
        return None
    told = _those_that_matter(told)
    raised = has_flag(NEEDS_A_LOOK)
    drawn = []
    for name, part in (("not flagged", told.filter(~raised)), ("flagged", told.filter(raised))):
        if len(part):
            x, y = part["n_votes"].to_list(), part["reliability"].to_list()
            drawn.append(Line(name, x, y, joined=False))
    panel = Panel("", "votes (equal steps are equal ratios)", "reliability", drawn, TICKS, True)
    return lines_svg([panel], title="Who can be trusted, and on how many votes?")


TICKS: Sequence[tuple[float, str]] = [
    (s * 10**e, f"{s * 10**e:,}") for e in range(8) for s in (1, 2, 5)
]
