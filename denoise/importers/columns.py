"""Which column of a source plays which role, by its name or by the user's map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import polars as pl

from denoise.errors import Fault, raise_any
from denoise.plain import quote

_ANNOTATOR = ["annotator", "worker", "judge", "rater", "evaluator", "performer"]
_ANNOTATOR += ["labeler", "labeller", "user"]
_ITEM = ["item", "item_id", "task", "task_id", "pair_id", "pair", "comparison_id"]
_ITEM += ["question_id", "example_id", "hit_id"]
ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "query"),
    "chosen": ("chosen", "chosen_response", "response_chosen"),
    "rejected": ("rejected", "rejected_response", "response_rejected"),
    "response_a": (),
    "response_b": (),
    "winner": ("winner", "preference", "preferred", "choice", "vote"),
    "annotator": tuple(f"{name}{end}" for name in _ANNOTATOR for end in ("", "_id")),
    "pair_id": ("pair_id", "comparison_id", "pair"),
    "item": tuple(_ITEM),
    "label": ("label", "answer", "response", "category"),
    "strength": ("strength",),
    "shown_first": ("shown_first",),
    "seconds": ("seconds", "time_spent", "lead_time", "work_time_in_seconds"),
    "timestamp": ("timestamp", "tstamp"),
    "model_a": (),
    "model_b": (),
    "conversation_a": ("conversation_a",),
    "conversation_b": ("conversation_b",),
}
"""The roles that a map can name, each with the column names that stand for it (compared without
case, spaces and underscores), the likeliest first. Two-sided roles are found by their endings."""

_SYNONYMS = {"left": "response_a", "right": "response_b", "worker": "annotator", "task": "item"}
_RESPONSES = ("response", "answer", "completion", "output", "candidate", "generation", "summary")
_RESPONSES += ("text", "option", "")
_MODELS = ("model", "system", "model_name", "source")
_SIDES = (("a", "b"), ("left", "right"), ("1", "2"), ("0", "1"))


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


class Columns:
    """The columns of a source by role; `used` are those asked for, as role to column."""

    def __init__(self, schema: pl.Schema, overrides: Mapping[str, str] | None, file: str) -> None:
        self.schema = schema
        self.overrides = {_SYNONYMS.get(r, r): name for r, name in (overrides or {}).items()}
        self.used: dict[str, str] = {}
        self._by_key = {_key(name): name for name in reversed(schema.names())}
        raise_any(self._map_faults(file))

    def _map_faults(self, file: str) -> Iterable[Fault]:
        for role, name in self.overrides.items():
            if role not in ALIASES:
                known = ", ".join(ALIASES)
                yield Fault("the map names an unknown role", file, found=role, fix=f"use {known}")
            if name not in self.schema:
                fix = f"the columns are {', '.join(map(quote, self.schema))}"
                problem = f"the map wants a column for {quote(role)} that is not there"
                yield Fault(problem, file, found=name, fix=fix)

    def find(self, role: str) -> str | None:
        """The column of a role, or None; does not mark it as used."""
        if role in self.overrides:
            return self.overrides[role]
        if role in ("response_a", "response_b"):
            sides = self._sides(_RESPONSES)
            return sides and sides[role == "response_b"]
        if role in ("model_a", "model_b"):
            sides = self._sides(_MODELS)
            return sides and sides[role == "model_b"]
        taken = self.overrides.values()
        names = (self._by_key.get(_key(alias)) for alias in ALIASES[role])
        return next((name for name in names if name is not None and name not in taken), None)

    def has(self, *roles: str) -> bool:
        """Whether every one of the roles has a column."""
        return all(self.find(role) is not None for role in roles)

    def use(self, role: str) -> str | None:
        """The column of a role, or None, marked as used."""
        name = self.find(role)
        if name is not None:
            self.used[role] = name
        return name

    def need(self, role: str) -> str:
        """The column of a role that `has` found, marked as used."""
        name = self.use(role)
        assert name is not None, role
        return name

    def ending(self) -> tuple[str, str]:
        """How the names of the two responses end: ('a', 'b'), ('1', '2') and so on."""
        names = [_key(self.find(role) or "") for role in ("response_a", "response_b")]
        found = (side for side in _SIDES if all(map(str.endswith, names, side)))
        return next(found, ("a", "b"))

    def _sides(self, stems: tuple[str, ...]) -> tuple[str, str] | None:
        for stem in stems:
            for first, second in _SIDES:
                for form in ("{stem}{side}", "{side}{stem}"):
                    keys = [_key(form.format(stem=stem, side=side)) for side in (first, second)]
                    names = [self._by_key.get(key) for key in keys]
                    if names[0] is not None and names[1] is not None:
                        return names[0], names[1]
        return None

    def others(self, frame: pl.DataFrame, keep: Iterable[str] = ()) -> pl.DataFrame:
        """The columns that play no role, and those to keep all the same."""
        taken = set(self.used.values()) - set(keep)
        return frame.select(name for name in frame.columns if name not in taken)


def without_collisions(
    frame: pl.DataFrame, taken: Iterable[str]
) -> tuple[pl.DataFrame, dict[str, str]]:
    """A table whose column names keep clear of `taken`, by `source_` before them; what changed."""
    reserved = set(taken)
    changed: dict[str, str] = {}
    for name in frame.columns:
        free = name
        while free in reserved or (free != name and free in frame.columns):
            free = f"source_{free}"
        if free != name:
            changed[name] = free
    return frame.rename(changed), changed


def typed(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of text that are numbers throughout, written plainly, as numbers.

    What would lose something stays text: '007' its zeros, a long id its last digits.
    """
    numbers = []
    for values in frame.get_columns():
        if values.dtype != pl.String or values.null_count() == len(values):
            continue
        if values.str.contains(r"^-?(0|[1-9]\d{0,17})$").all():
            numbers.append(values.cast(pl.Int64))
        elif values.str.contains(r"^-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d+)?$").all():
            number = values.cast(pl.Float64)
            if number.is_finite().all():
                numbers.append(number)
    return frame.with_columns(numbers)
