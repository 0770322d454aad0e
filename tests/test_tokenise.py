"""Where a response starts and what is skipped; that the ids are TRL's is tested beside TRL."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from denoise.scorers import batching
from denoise.tokenise import Skip, TokenPair, _cut_cpo, _fit

IDS = st.lists(st.integers(5, 50), max_size=8)
SOME_IDS = st.lists(st.integers(5, 50), min_size=1, max_size=8)
PAIRS = st.tuples(IDS, IDS, IDS).map(lambda ids: TokenPair(*ids))
FULL_PAIRS = st.tuples(SOME_IDS, SOME_IDS, SOME_IDS).map(lambda ids: TokenPair(*ids))


class Tokenizer:
    bos_token_id, eos_token_id = 1, 2


def test_a_merge_across_the_boundary_moves_one_sides_start_back():
    """Prompt 5 6; with a the 6 merges into 9, with b it does not: only a's start moves."""
    pair = _cut_cpo(Tokenizer, [5, 6], [5, 9, 7], [5, 6, 8])
    assert pair == TokenPair([1, 5], [9, 7, 2], [6, 8, 2], a_skip=0, b_skip=1)
    assert (pair.a_tokens, pair.b_tokens) == (3, 2)


def test_what_stops_trls_cpo_trainer_is_skipped():
    assert isinstance(_cut_cpo(Tokenizer, [5, 6, 7], [5], [5, 6, 7, 8]), Skip)


def test_the_first_token_without_context_is_not_counted():
    pair = TokenPair([], [5, 6], [7])
    assert (pair.a_tokens, pair.b_tokens) == (1, 0)
    assert isinstance(_fit(pair, 10, True), Skip)


@given(PAIRS, st.integers(1, 20))
def test_what_is_scored_fits_and_keeps_the_start(pair, max_length):
    cut = _fit(pair, max_length, truncate=True)
    whole = _fit(pair, max_length, truncate=False)
    if isinstance(cut, Skip):
        assert isinstance(whole, Skip)
        return
    assert len(cut.prompt) + max(len(cut.a), len(cut.b)) <= max_length
    assert pair.a[: len(cut.a)] == cut.a and pair.b[: len(cut.b)] == cut.b
    fits = len(pair.prompt) + max(len(pair.a), len(pair.b)) <= max_length
    assert (whole == pair) if fits else isinstance(whole, Skip)


@given(st.lists(FULL_PAIRS, min_size=1))
def test_every_response_token_is_read_once_in_both_layouts(pairs):
    for build in (batching.shared_rows, batching.plain_rows):
        rows = build(pairs)
        for number, pair in enumerate(pairs):
            for side, ids in enumerate((pair.a, pair.b)):
                assert rows.target[rows.owner == 2 * number + side].tolist() == ids
        read = rows.segments[rows.row, rows.column]
        assert (read != batching.PADDING).all()


@given(st.lists(st.integers(1, 60)), st.integers(1, 200))
def test_batches_hold_every_row_once_longest_first_within_the_budget(lengths, budget):
    import numpy as np

    batches = batching.token_budget(np.array(lengths, dtype=np.int64), budget)
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    ordered = [lengths[row] for row in rows]
    assert ordered == sorted(ordered, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


def test_the_example_in_the_docstring():
    assert doctest.testmod(batching).failed == 0
