"""Answers that are known for certain, of pairs or of items."""

from __future__ import annotations

import polars as pl

from denoise import schema
from denoise.errors import raise_any, refuse
from denoise.importers.columns import Columns
from denoise.schema import Contract

_ROLES = {"item_id": "item", "label": "label", "pair_id": "pair_id", "vote": "winner"}


def known_answers(truth: pl.DataFrame, contract: Contract, ids: pl.Series) -> pl.DataFrame:
    """The table's id and answer as text, of `schema.TRUTH_VOTES` or `schema.TRUTH_LABELS`.

    Raises:
        InputError: the table departs from its contract, or an id is none of `ids`.
    """
    truth = with_names(truth, contract)
    names = [column.name for column in contract.columns]
    # A CSV has no types: whole numbers may be the names of things.
    numbers = [n for n in names if n in truth.columns and truth[n].dtype.is_integer()]
    truth = truth.with_columns(pl.col(numbers).cast(pl.String))
    raise_any(schema.faults(truth, contract, "truth"))
    truth = truth.select(pl.col(names).cast(pl.String))
    key = names[0]
    foreign = (~truth[key].is_in(ids.implode())).arg_true()
    if len(foreign):
        what = key.removesuffix("_id")
        refuse(
            f"{len(foreign)} known answer(s) of {what}s that the data do not have",
            file="truth",
            row=foreign[0],
            column=key,
            found=truth[key][foreign[0]],
            fix=f"give the {what} ids of the data",
        )
    return truth


def with_names(truth: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """The table with the contract's names for columns that `import` would take for the same."""
    columns = Columns(truth.schema, None, "truth")
    missing = (c.name for c in contract.columns if c.name not in truth.columns)
    found = {columns.find(_ROLES[name]): name for name in missing}
    return truth.rename({old: new for old, new in found.items() if old is not None})


def truth_hash(truth: pl.DataFrame) -> str:
    """The identity of known answers, in any order, as 32 hex digits."""
    return schema.digest(*map(str, sorted(truth.rows()))).hex()
