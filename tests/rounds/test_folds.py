"""Folds: by prompt, balanced, and of nothing but the texts and the seed."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoise.errors import InputError
from denoise.rounds.folds import assign_folds, first_turn


def pairs(prompts: list) -> pl.DataFrame:
    return pl.DataFrame({"pair_id": [f"p{i}" for i in range(len(prompts))], "prompt": prompts})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=8, max_size=60), st.integers(2, 4), st.integers(0, 3))
def test_a_prompt_is_in_one_fold_and_folds_are_as_even_as_prompts_allow(keys, folds, seed):
    prompts = [f"prompt {key}" for key in keys]
    if len(set(prompts)) < folds:
        with pytest.raises(InputError, match="folds by prompt need"):
            assign_folds(pairs(prompts), folds, seed)
        return
    found = assign_folds(pairs(prompts), folds, seed).with_columns(prompt=pl.Series(prompts))
    assert found.group_by("prompt").agg(pl.col("fold").n_unique())["fold"].max() == 1
    sizes = found["fold"].value_counts()["count"].to_list()
    largest_prompt = max(prompts.count(prompt) for prompt in prompts)
    assert len(sizes) == folds
    assert max(sizes) - min(sizes) <= largest_prompt


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(20)))
def test_the_order_of_the_rows_does_not_matter(order):
    frame = pairs([f"prompt {i // 2}" for i in range(20)])
    here = assign_folds(frame, 3)
    there = assign_folds(frame[list(order)], 3)
    assert here.sort("pair_id").equals(there.sort("pair_id"))


def test_the_seed_matters():
    frame = pairs([f"prompt {i}" for i in range(30)])
    assert not assign_folds(frame, 3, 0).equals(assign_folds(frame, 3, 1))


def test_dialogues_go_by_their_first_user_turn():
    def turns(*texts: str) -> list[dict[str, str]]:
        roles = ("system", "user", "assistant", "user")
        return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]

    same = turns("be brief", "hello"), turns("be kind", "hello", "hi", "how are you?")
    assert first_turn(same[0]) == first_turn(same[1])
    assert first_turn(same[0]) != first_turn(turns("be brief", "goodbye"))
    assert first_turn([]) == first_turn([])
