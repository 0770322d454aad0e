"""The questions of an audit, put to every annotator, and the answers as one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from denoise.crowd.answers import Floats
from denoise.errors import refuse
from denoise.quality.bias import bias, guesses
from denoise.quality.contrast import Speed, beyond_slice, contrast, speed
from denoise.quality.copies import copies
from denoise.quality.drift import drift
from denoise.quality.finding import LEVELS, Finding, discoveries
from denoise.quality.others import Crowd
from denoise.quality.skill import skill
from denoise.stages.audit_evidence import Judged, epoch_seconds, text_length
from denoise.stages.labels import codes

MOST_CLASSES = 20
"""So many of the commonest labels are asked for an annotator's leaning to them."""

MOST_SLICES = 100
"""So many of the largest slices of a column are compared."""

MATERIAL = {"position": 0.1, "length": 0.1, "label": 0.1, "fast": 0.1, "slice": 0.1, "copies": 0.5}
"""An effect on fewer answers than this share is not worth a flag, however sure. Two who share a few
mistakes have learned them together; one who copies shows in half of them or more (four in five that
are copied are estimated as 0.6 to 1)."""

COMMON = 0.05
"""Share of the compared pairs that err together above which the crowd as a whole does: at most 0.01
in simulated crowds with two copiers in fifty, 0.05 to 0.20 in zencrowd, ducks and llmbar_judges,
whose items mislead."""

OF_ALL = 0.1
"""Share of the answers that all pairs together seem to have in common above which it does too: at
most 0.03 in simulated crowds without common mistakes, 0.07 in face, 0.16 in fact_eval."""

FEW_PAIRS = 20
"""Pairs up to which so many of them may err together without the crowd as a whole doing so."""

TOGETHER = "this crowd errs together as a whole"

SCHEMA = {
    "question": pl.String,
    "annotator_id": pl.String,
    "other": pl.String,
    "effect": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p_value": pl.Float64,
    "n": pl.Int64,
    "flagged": pl.Boolean,
    "since": pl.Float64,
}


class Asked(NamedTuple):
    """asked: annotators (or pairs, labels or slices of them) that a question could be put to;
    flagged: of them; reason: why it was not asked, or why nobody is flagged, or ""."""

    asked: int
    flagged: int
    reason: str


@dataclass(frozen=True)
class Findings:
    """table: a row a question and annotator (`SCHEMA`); asked: by question; informed: the share of
    answers that follow the truth, [K]; speed: where the data say how long answers took; slices:
    columns with their value for every vote."""

    table: pl.DataFrame
    asked: Mapping[str, Asked]
    informed: Floats
    speed: Speed | None = None
    slices: Mapping[str, pl.Series] = field(default_factory=dict)


class _Answered(NamedTuple):
    question: str
    finding: Finding
    who: np.ndarray
    other: pl.Series | None = None
    since: Floats | None = None


def findings(
    crowd: Judged, *, time: str | None = None, slices: tuple[str, ...] = (), seed: int = 0
) -> Findings:
    """Put every question that the data allow to every annotator.

    Args:
        time: the column of when an answer was given; `timestamp` where there is one.
        slices: columns by whose values annotators are compared with themselves.

    Raises:
        InputError: there is no such column, or its values are no names of slices.
    """
    parts = {name: crowd.column(name) for name in slices}
    for name, values in parts.items():
        kind = values.dtype
        if kind.is_nested() or kind in (pl.Binary, pl.Duration, pl.Object):
            fix = "slice by text, numbers or dates"
            refuse("wrong type", column=name, found=str(kind), fix=fix)
    when = _times(crowd, time)
    nobody = np.full(len(crowd.annotators), np.nan)
    votes = crowd.votes
    if crowd.anonymous or not len(votes.label):
        reason = "no annotator is named" if crowd.anonymous else "there are no votes"
        asked = dict.fromkeys(LEVELS, Asked(0, 0, reason))
        return Findings(pl.DataFrame(schema=SCHEMA), asked, nobody, None, parts)
    evidence = crowd.crowd()
    truth = evidence.without_own()
    right = truth[np.arange(len(votes.label)), votes.label]
    told = skill(evidence, truth)
    every = np.arange(votes.n_annotators)
    pace = _speed(crowd, right, seed)
    answered = [
        _Answered("spammer", told.spammer, every),
        _Answered("adversary", told.adversary, every),
        *_sides(crowd, truth),
        *_labels(crowd, truth),
        *_drift(crowd, when, right, told.score, seed),
        *([_Answered("fast", pace.finding, every)] if pace else []),
        *_slices(crowd, parts, right, seed),
    ]
    alike, reason = _copies(crowd, evidence)
    why = _not_asked(crowd, when, pace, parts) | ({"copies": reason} if reason else {})
    tables, asked = [], {}
    for question in LEVELS:
        of_it = [each for each in [*answered, alike] if each.question == question]
        frames = [_rows(each, crowd.annotators) for each in of_it]
        frame = pl.concat([pl.DataFrame(schema=SCHEMA), *frames])
        p = frame["p_value"].fill_null(np.nan).to_numpy()
        flags = discoveries(p, LEVELS[question])
        if reason and question == "copies":
            flags[:] = False
        flags &= np.abs(frame["effect"].fill_null(0.0).to_numpy()) >= MATERIAL.get(question, 0.0)
        frame = frame.with_columns(flagged=pl.Series(flags))
        n = int(np.isfinite(p).sum())
        few = "" if n else "nobody has enough votes for it"
        asked[question] = Asked(n, int(flags.sum()), why.get(question, few))
        tables.append(frame.filter(pl.col("p_value").is_not_null()))
    return Findings(pl.concat(tables), asked, told.informed.value, pace, parts)


def _rows(answered: _Answered, names: pl.Series) -> pl.DataFrame:
    found, n = answered.finding, len(answered.who)
    floats = {
        name: pl.Series(getattr(found, name), dtype=pl.Float64, nan_to_null=True)
        for name in ("effect", "low", "high", "p_value")
    }
    since = answered.since
    nothing = pl.Series([None] * n, dtype=pl.String)
    return pl.DataFrame(
        {
            "question": pl.Series([answered.question] * n, dtype=pl.String),
            "annotator_id": names.gather(answered.who),
            "other": nothing if answered.other is None else answered.other.cast(pl.String),
            **floats,
            "n": pl.Series(np.nan_to_num(found.n), dtype=pl.Int64),
            "flagged": pl.Series([False] * n, dtype=pl.Boolean),
            "since": pl.Series(np.full(n, np.nan) if since is None else since, nan_to_null=True),
        },
        schema=SCHEMA,
    )


def _sides(crowd: Judged, truth: Floats) -> Iterator[_Answered]:
    """Leaning to the response shown first, and to the longer one."""
    if crowd.pairs is None:
        return
    for question, a_has_it, known in (("position", *_first(crowd)), ("length", *_longer(crowd))):
        if not known.any():
            continue
        chose = (crowd.votes.label == 0) == a_has_it
        on_side = np.where(a_has_it, truth[:, 0], truth[:, 1])
        who = crowd.votes.annotator[known]
        found = bias(who, chose[known], on_side[known], crowd.votes.n_annotators)
        yield _Answered(question, found, np.arange(crowd.votes.n_annotators))


def _first(crowd: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Whether a was shown first, and whether that is known, [n] each.

    `shown_first` says so; else it is the first response of the source's row, where the source does
    not order them by the choice.
    """
    rows = crowd.source
    if "shown_first" in rows.columns:
        shown = rows["shown_first"].cast(pl.String)
        return (shown == "a").fill_null(False).to_numpy(), shown.is_in(["a", "b"]).to_numpy()
    if not crowd.in_shown_order:
        return np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    swapped = rows.get_column("swapped", default=pl.Series([False] * len(rows)))
    return ~swapped.cast(pl.Boolean).fill_null(False).to_numpy(), np.ones(len(rows), bool)


def _longer(crowd: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Whether a is the longer response, and whether they differ in length, [n] each."""
    assert crowd.pairs is not None
    by_pair = crowd.pairs.select(
        item_id=pl.col("pair_id").cast(pl.String),
        more=pl.Series(
            text_length(crowd.pairs["response_a"]) - text_length(crowd.pairs["response_b"])
        ),
    )
    ids = crowd.rows.select("item_id")
    more = ids.join(by_pair, on="item_id", how="left", maintain_order="left")["more"]
    values = more.fill_null(0.0).to_numpy()
    return values > 0, values != 0


def _labels(crowd: Judged, truth: Floats) -> Iterator[_Answered]:
    """Leaning to a label more than the crowd does; of two labels one tells all."""
    if crowd.is_preference:
        return
    votes = crowd.votes
    by_size = np.argsort(-np.bincount(votes.label, minlength=votes.n_classes), kind="stable")
    every = np.arange(votes.n_annotators)
    usual = guesses(crowd.typical())
    for c in by_size[: 1 if votes.n_classes == 2 else MOST_CLASSES]:
        chose, k = votes.label == c, votes.n_annotators
        found = bias(votes.annotator, chose, truth[:, c], k, guess=float(usual[c]))
        yield _Answered("label", found, every, pl.Series([crowd.classes[int(c)]] * len(every)))


def _times(crowd: Judged, column: str | None) -> Floats | None:
    """When each answer was given, in seconds, [n]; None where the data do not say.

    Raises:
        InputError: the column that was named holds no times.
    """
    values = crowd.column(column) if column else crowd.source.get_column("timestamp", default=None)
    seconds = None if values is None else epoch_seconds(values)
    if seconds is not None and np.isfinite(seconds).any():
        return seconds
    if column:
        fix = "name a column of dates, of ISO 8601 times, or of seconds"
        refuse("this column holds no times", column=column, fix=fix)
    return None


def _drift(
    crowd: Judged, when: Floats | None, right: Floats, score: Floats, seed: int
) -> Iterator[_Answered]:
    if when is None:
        return
    k = crowd.votes.n_annotators
    found = drift(crowd.votes.annotator, when, right, k, score=score, seed=seed)
    yield _Answered("drift", found.finding, np.arange(k), since=found.changed)


def _speed(crowd: Judged, right: Floats, seed: int) -> Speed | None:
    if "seconds" not in crowd.source.columns:
        return None
    seconds = crowd.source["seconds"].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    if not (np.isfinite(seconds) & (seconds > 0)).any():
        return None
    votes = crowd.votes
    return speed(votes.annotator, seconds, right, votes.n_annotators, seed=seed)


def _slices(
    crowd: Judged, parts: Mapping[str, pl.Series], right: Floats, seed: int
) -> Iterator[_Answered]:
    """Whether an annotator is worse in one slice than in the others, beyond what all are."""
    votes = crowd.votes
    for column, values in parts.items():
        values = values.cast(pl.String).alias("value")  # its own name may be the count's
        largest = (
            values.drop_nulls()
            .value_counts(sort=True, name="count")
            .sort("count", "value", descending=[True, False])
        )
        names = largest["value"].head(MOST_SLICES)
        kept = values.is_in(names.implode()).fill_null(False).to_numpy()
        part = codes(values.filter(pl.Series(kept)), names)
        who = votes.annotator[kept].astype(np.int64)
        beyond = beyond_slice(who, part, right[kept], votes.n_annotators, len(names))
        told = np.isfinite(beyond)
        for s, name in enumerate(names):
            where = (who[told], (part == s)[told])
            found, plainly = (
                contrast(*where, values[told], votes.n_annotators, seed=seed)
                for values in (beyond, right[kept])
            )
            # Both must hold. What is left after the others' mean differs between slices even for
            # someone who is always right, and what he gets right is less in a slice hard for all.
            found = found._replace(p_value=np.maximum(found.p_value, plainly.p_value))
            shown = pl.Series([f"{column} = {name}"] * votes.n_annotators)
            yield _Answered("slice", found, np.arange(votes.n_annotators), shown)


def _copies(crowd: Judged, evidence: Crowd) -> tuple[_Answered, str]:
    """Pairs of annotators who give the same wrong answers, and why none is flagged, or ""."""
    found = copies(evidence)
    other = crowd.annotators.gather(found.second)
    flags = discoveries(found.finding.p_value, LEVELS["copies"])
    compared, alike = int(np.isfinite(found.finding.p_value).sum()), int(flags.sum())
    reason = ""
    many = alike > COMMON * compared and compared > FEW_PAIRS
    if many or found.common > OF_ALL:
        reason = (
            f"{alike:,} of {compared:,} pairs of annotators agree on answers that the others deny, "
            f"and in all pairs {100 * found.common:.0f} % of the answers seem to be shared, so "
            f"{TOGETHER} (the same items mislead many): copying cannot be told from that"
        )
    return _Answered("copies", found.finding, found.first, other), reason


def _not_asked(
    crowd: Judged,
    when: Floats | None,
    pace: Speed | None,
    parts: Mapping[str, pl.Series],
) -> dict[str, str]:
    """Why a question is not asked of these data."""
    why = {}
    if crowd.pairs is None:
        why = dict.fromkeys(("position", "length"), "these are labels, not pairs of responses")
    else:
        why["label"] = "which response is a and which b means nothing"
        if not _first(crowd)[1].any():
            why["position"] = "the data do not say which response was shown first (shown_first)"
    if when is None:
        why["drift"] = "the data do not say when an answer was given (timestamp, or --time COLUMN)"
    if pace is None:
        why["fast"] = "the data do not say how long an answer took (a column seconds)"
    if not parts:
        why["slice"] = "no --slice COLUMN was given"
    return why
