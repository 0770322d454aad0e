"""Folds by prompt, so that no policy scores a pair whose label or prompt it was trained on."""

from __future__ import annotations

import polars as pl

from denoise import schema
from denoise.errors import refuse


def assign_folds(pairs: pl.DataFrame, folds: int, seed: int = 0) -> pl.DataFrame:
    """The fold of each pair: `pair_id` and `fold` (0 to folds − 1), in the order of the pairs.

    Pairs that share a prompt, dialogues those that share their first user turn, are in one fold.
    The prompts are taken in an order that `seed` and their text decide, each into the fold that has
    the fewest pairs: neither the rows' order nor other columns matter.

    Raises:
        InputError: there are fewer prompts than folds.
    """
    keys = pl.Series("prompt", map(first_turn, pairs["prompt"]), dtype=pl.String)
    sizes = keys.value_counts().rows()
    if len(sizes) < folds:
        refuse(
            f"{folds} folds by prompt need {folds} prompts",
            file="pairs",
            column="prompt",
            found=f"{len(sizes)}",
            fix=f"give --folds {len(sizes)}" if len(sizes) > 1 else "give data of several prompts",
        )
    sizes.sort(key=lambda row: schema.digest(str(seed), row[0]))
    held = [0] * folds
    fold_of: dict[str, int] = {}
    for prompt, size in sizes:
        fold_of[prompt] = smallest = held.index(min(held))
        held[smallest] += size
    fold = pl.Series("fold", [fold_of[key] for key in keys], dtype=pl.Int64)
    return pairs.select(pl.col("pair_id").cast(pl.String), fold)


def first_turn(prompt: object) -> str:
    """What groups the pairs of a prompt: its text, or the first user turn of a dialogue."""
    if isinstance(prompt, str):
        return prompt
    turns = [message for message in prompt if message.get("role") == "user"]
    return schema.canonical((turns or prompt or [""])[0])
