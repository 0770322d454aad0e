"""The tables that stages exchange: their columns, what each means, and the check of a table.

Column names are a public contract. A table may hold further columns (the source's own); those a
contract names must be there, of the right kind, unless they are optional.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike

import polars as pl

from denoise.errors import Fault

VERSION = 1
"""Of the tables below; it goes up where a column changes its meaning, or must be there."""

ALL_ANNOTATORS = "all"
"""The virtual annotator of votes that name none (the paper's K = 1)."""

VOTES = ("a", "b", "tie")


@dataclass(frozen=True)
class Column:
    """A column: `kind` is text, id (text or int), content (text or chat), int, float, list, any."""

    name: str
    kind: str
    required: bool = True
    null: bool = False


@dataclass(frozen=True)
class Contract:
    """A table of the public contract: `key` columns are unique together."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]


PAIRS = Contract(
    "pairs",
    (
        Column("pair_id", "id"),
        Column("prompt", "content"),
        Column("response_a", "content"),
        Column("response_b", "content"),
    ),
    key=("pair_id",),
)
VOTE_ROWS = Contract(
    "votes",
    (
        Column("vote_id", "int"),
        Column("pair_id", "id"),
        Column("annotator_id", "id"),
        Column("vote", "text"),
        Column("strength", "text", required=False, null=True),
        Column("shown_first", "text", required=False, null=True),
        Column("seconds", "float", required=False, null=True),
        Column("timestamp", "any", required=False, null=True),
    ),
    key=("vote_id",),
)
LABELS = Contract(
    "labels",
    (
        Column("item_id", "id"),
        Column("annotator_id", "id"),
        Column("label", "text"),
        Column("timestamp", "any", required=False, null=True),
        Column("seconds", "float", required=False, null=True),
    ),
    key=(),
)
SCORES = Contract(
    "scores",
    (
        Column("pair_id", "id"),
        Column("policy_a_logps", "float"),
        Column("policy_b_logps", "float"),
        Column("ref_a_logps", "float", null=True),
        Column("ref_b_logps", "float", null=True),
        Column("a_tokens", "int"),
        Column("b_tokens", "int"),
    ),
    key=("pair_id",),
)
REWARDS = Contract(
    "rewards",
    (
        Column("pair_id", "id"),
        Column("a_reward", "float"),
        Column("b_reward", "float"),
        # Of prompt and response together: a reward model reads both. No margin needs them.
        Column("a_tokens", "int", required=False),
        Column("b_tokens", "int", required=False),
    ),
    key=("pair_id",),
)
"""What `score` writes in place of `SCORES` where the model is a reward model."""

_REWARDS = frozenset({"a_reward", "b_reward"})
_LOGPS = frozenset({"policy_a_logps", "policy_b_logps", "ref_a_logps", "ref_b_logps"})
TRUTH_VOTES = Contract("truth", (Column("pair_id", "id"), Column("vote", "text")), key=("pair_id",))
TRUTH_LABELS = Contract(
    "truth", (Column("item_id", "id"), Column("label", "text")), key=("item_id",)
)
CONFIDENCES = Contract(
    "confidences",
    (
        # A user's own weights need no more than vote_id and confidence.
        Column("vote_id", "int"),
        Column("pair_id", "id", required=False),
        Column("annotator_id", "id", required=False),
        Column("vote", "text", required=False),
        Column("margin", "float", required=False, null=True),
        Column("prob", "float", required=False, null=True),
        Column("confidence", "float", null=True),
        Column("pair_posterior", "float", required=False, null=True),
    ),
    key=("vote_id",),
)
ANNOTATORS = Contract(
    "annotators",
    (
        Column("annotator_id", "id"),
        Column("reliability", "float", null=True),
        Column("reliability_low", "float", null=True),
        Column("reliability_high", "float", null=True),
        Column("n_votes", "int"),
        Column("agreement", "float", null=True),
        Column("flags", "list"),
    ),
    key=("annotator_id",),
)
TRACE = Contract(
    "trace",
    (
        Column("stage", "text"),
        Column("iteration", "int"),
        Column("objective", "float", null=True),
        Column("max_change", "float", null=True),
        Column("temperature", "float"),
        Column("mean_reliability", "float"),
    ),
    key=("stage", "iteration"),
)


def is_chat(dtype: pl.DataType) -> bool:
    """Whether a column holds chat message lists: a list of structs with role and content."""
    return (
        isinstance(dtype, pl.List)
        and isinstance(dtype.inner, pl.Struct)
        and {"role", "content"} <= {field.name for field in dtype.inner.fields}
    )


def scores_contract(columns: Iterable[str]) -> Contract:
    """`REWARDS` for a table of scores with rewards and no log-probs, else `SCORES`."""
    names = set(columns)
    return REWARDS if names & _REWARDS and not names & _LOGPS else SCORES


def _fits(dtype: pl.DataType, kind: str) -> bool:
    text = dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum)
    match kind:
        case "text":
            return text
        case "id":
            return text or dtype.is_integer()
        case "content":
            return dtype == pl.String or is_chat(dtype)
        case "int":
            return dtype.is_integer()
        case "float":
            return dtype.is_numeric()
        case "list":
            return isinstance(dtype, pl.List)
    return True


def faults(
    frame: pl.DataFrame,
    contract: Contract,
    file: str | PathLike[str],
    *,
    may_be_empty: bool = False,
) -> list[Fault]:
    """Everything in which a table departs from its contract, the first row of each kind named."""
    found: list[Fault] = []
    if frame.is_empty() and not may_be_empty:
        found.append(Fault(f"the {contract.name} table has no rows", file=file))
    for column in contract.columns:
        if column.name not in frame.columns:
            if column.required:
                found.append(
                    Fault(
                        f"the {contract.name} table lacks the column '{column.name}'",
                        file=file,
                        fix=f"its columns are {', '.join(frame.columns)}",
                    )
                )
            continue
        values = frame[column.name]
        if not _fits(values.dtype, column.kind):
            if values.null_count() == len(values) and column.null:
                continue
            fix = f"give {_KINDS[column.kind]}"
            found.append(
                Fault("wrong type", file, column=column.name, found=str(values.dtype), fix=fix)
            )
            continue
        found += _bad_values(values, column, file)
    found += _repeated(frame, contract, file)
    if contract in (VOTE_ROWS, TRUTH_VOTES) and not found:
        odd = (~frame["vote"].cast(pl.String).is_in(VOTES)).arg_true()
        if len(odd):
            row = odd[0]
            fix = "a vote is 'a', 'b' or 'tie'"
            value = frame["vote"][row]
            found.append(Fault("unknown vote", file, row, column="vote", found=value, fix=fix))
    return found


_KINDS = {
    "text": "text",
    "id": "text or whole numbers",
    "content": "text, or a list of messages with role and content",
    "int": "whole numbers",
    "float": "numbers",
    "list": "lists",
}


def _bad_values(values: pl.Series, column: Column, file: str | PathLike[str]) -> list[Fault]:
    if not column.null and values.null_count():
        row = values.is_null().arg_true()[0]
        count = values.null_count()
        fix = "fill or remove such rows"
        return [Fault(f"{count} empty value(s)", file, row, column=column.name, fix=fix)]
    if column.kind == "float" and values.dtype.is_float():
        wrong = (~values.is_finite()).fill_null(False)
        if wrong.any():
            row = wrong.arg_true()[0]
            problem = f"{int(wrong.sum())} value(s) that are not finite"
            fix = "remove the rows, or compute them again"
            return [Fault(problem, file, row, column=column.name, found=values[row], fix=fix)]
    return []


def _repeated(frame: pl.DataFrame, contract: Contract, file: str | PathLike[str]) -> list[Fault]:
    key = [name for name in contract.key if name in frame.columns]
    if not key or len(key) < len(contract.key):
        return []
    again = frame.select(pl.struct(key).is_duplicated() & ~pl.struct(key).is_first_distinct())
    rows = again.to_series().arg_true()
    if not len(rows):
        return []
    row = rows[0]
    return [
        Fault(
            f"{len(rows)} repeated {' + '.join(key)}",
            file,
            row,
            found=", ".join(str(frame[name][row]) for name in key),
            fix=f"each row of {contract.name} has its own",
        )
    ]


def canonical(content: object) -> str:
    """One spelling of a prompt or response, text or messages, to hash and to compare by."""
    if isinstance(content, str):
        return content
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def content_text(content: object) -> str:
    """A prompt or response as one text to read: messages with their roles."""
    if isinstance(content, str):
        return content
    messages = content if isinstance(content, list) else [content]
    return " ".join(f"{m.get('role')}: {m.get('content')}" for m in messages)


def digest(*parts: str) -> bytes:
    """128 bits of SHA-256 over length-prefixed parts, so that no two lists of parts collide."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()[:16]


def pairs_hash(pairs: pl.DataFrame) -> str:
    """The identity of what is scored: pair ids and texts, in any row order, as 32 hex digits."""
    total = 0
    columns = ("pair_id", "prompt", "response_a", "response_b")
    for batch in pairs.select(columns).iter_slices(8192):
        for row in batch.iter_rows():
            total += int.from_bytes(digest(*map(canonical, row)), "little")
    return f"{total % (1 << 128):032x}"
