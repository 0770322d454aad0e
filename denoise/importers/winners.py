"""What a winner column says: a side by name or number, a response, a model, or a tie."""

from __future__ import annotations

import re
from itertools import pairwise

import polars as pl

from denoise.errors import refuse
from denoise.importers.content import as_text
from denoise.plain import quote

UNDERSTOOD = (
    "a/b, left/right, 1/2, 0/1 where it is clear which is which, model_a/model_b, the name of a "
    "response column, the winning text or model itself, and tie, both, both_bad or equal"
)

_STEM = (
    r"(?:model|response|answer|completion|output|option|assistant|candidate|summary|system|text)"
)
_SIDE = re.compile(rf"^{_STEM}?(a|b|left|right|first|second|[012])$")
_FIRST, _SECOND = ("a", "left", "first"), ("b", "right", "second")
_TIES = {"tie", "ties", "tied", "draw", "equal", "equallygood", "equallybad", "same", "neither"}
_TIES |= {"both", "bothbad", "bothgood", "tiebothbad", "tiebothgood", "nopreference"}


def choices(
    values: pl.Series,
    first: pl.Series,
    second: pl.Series,
    models: tuple[pl.Series, pl.Series] | None,
    ending: tuple[str, str],
    *,
    index: bool,
) -> pl.Series:
    """The choice in each row: 'first', 'second', 'tie', or null where it is not understood.

    `ending` is how the names of the response columns end; `index` says that the column is known to
    name a winner, so that 0 and 1 side by side count the responses (and are no yes or no).

    Raises:
        InputError: nothing is understood, or what is can be read in two ways.
    """
    text = as_text(values).alias("choice")
    known = text.drop_nulls()
    words, ambiguous = _words(known.unique(maintain_order=True).to_list(), ending, index)
    ties = {value: side for value, side in words.items() if side == "tie"}
    by_side = text.replace_strict(words, default=None, return_dtype=pl.String)
    by_name = {}
    for what, names in (("as the winning text", (first, second)), ("as the winning model", models)):
        if names is not None and all(name.dtype == pl.String for name in names):
            by_name[what] = _named(text, ties, *names)
    said = {_key(value) for value, side in words.items() if side != "tie"}
    if said and said <= set(ending):  # the words that the columns' own names end in go first
        merged = _first_known(by_side, *by_name.values())
    else:
        full = {
            what: choice
            for what, choice in {"as the name of a side": by_side, **by_name}.items()
            if choice.null_count() == text.null_count()
        }
        for (what, choice), (other, otherwise) in pairwise(full.items()):
            if not choice.equals(otherwise):
                fix = "rename the values to 'a', 'b' and 'tie'"
                refuse(f"can be read {what} and {other}", column=values.name, fix=fix)
        merged = next(iter(full.values())) if full else _first_known(*by_name.values(), by_side)
    left = text.filter(merged.is_null() & text.is_not_null())
    if ambiguous and left.is_in(list(ambiguous)).any():
        _refuse_numbers(values.name, ambiguous)
    if len(known) and len(left) == len(known):
        found = ", ".join(known.unique(maintain_order=True).head(6).to_list())
        refuse("no value is understood", column=values.name, found=found, fix=f"give {UNDERSTOOD}")
    return merged


def _first_known(*readings: pl.Series) -> pl.Series:
    frame = pl.DataFrame([values.alias(str(at)) for at, values in enumerate(readings)])
    return frame.select(choice=pl.coalesce(pl.all()))["choice"]


def not_understood(values: pl.Series, choice: pl.Series) -> pl.Series:
    """The reason to skip a row whose winner is there but was not understood, else null."""
    text = as_text(values)
    odd = text.is_not_null() & choice.is_null()
    reasons = [
        f"{quote(values.name)} is {quote(value)}, which names no side" if is_odd else None
        for value, is_odd in zip(text, odd, strict=True)
    ]
    return pl.Series("reason", reasons, dtype=pl.String)


def _named(text: pl.Series, ties: dict[str, str], first: pl.Series, second: pl.Series) -> pl.Series:
    frame = pl.DataFrame(
        {"v": text, "t": text.replace_strict(ties, default=None), "f": first, "s": second},
        schema_overrides={"t": pl.String},
    )
    value = pl.col("v")
    is_first = (value == pl.col("f")) & (value != pl.col("s"))
    is_second = (value == pl.col("s")) & (value != pl.col("f"))
    side = pl.when(is_first).then(pl.lit("first")).when(is_second).then(pl.lit("second"))
    return frame.select(choice=pl.coalesce(side, "t"))["choice"]


def _key(value: str) -> str:
    return re.sub(r"[\W_]+", "", re.sub(r"^([012])\.0$", r"\1", value.strip())).casefold()


def _words(
    values: list[str], ending: tuple[str, str], index: bool
) -> tuple[dict[str, str | None], set[str]]:
    """The side that each value names, and the numbers of which it is not clear."""
    tokens: dict[str, str] = {}
    sides: dict[str, str | None] = {}
    for value in values:
        key = _key(value)
        if key in _TIES:
            sides[value] = "tie"
        elif match := _SIDE.match(key):
            tokens[value] = match[1]
    numbers = {token for token in tokens.values() if token.isdigit()}
    meaning = _numbers(numbers, ending, index)
    ambiguous = set()
    for value, token in tokens.items():
        if token in _FIRST or token in _SECOND:
            sides[value] = "first" if token in _FIRST else "second"
        elif meaning is None:
            ambiguous.add(value)
        else:
            sides[value] = meaning[token]
    return sides, ambiguous


def _numbers(found: set[str], ending: tuple[str, str], index: bool) -> dict[str, str] | None:
    """What 0, 1 and 2 mean where they stand together, or None where that is not clear."""
    if ending == ("0", "1"):
        return {"0": "first", "1": "second"} if "2" not in found else None
    if "2" in found or (found == {"1"} and ending == ("1", "2")):
        return {"0": "tie", "1": "first", "2": "second"}
    if found == {"0", "1"} and index and ending != ("1", "2"):
        return {"0": "first", "1": "second"}
    return None


def _refuse_numbers(column: str, found: set[str]) -> None:
    refuse(
        "it is not clear which response a number means",
        column=column,
        found=", ".join(sorted(found)),
        fix="rename the values to 'a', 'b' and 'tie'",
    )
