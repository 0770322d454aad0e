"""Pair ids to codes, and rows to votes by pair, against dictionaries and sets."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denoise.pooled import index
from denoise.pooled.ballots import ballots


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=300), st.data())
@settings(deadline=None, max_examples=40)
def test_codes_are_the_ranks_of_the_keys(ids, data):
    keys = index.mixed(np.array(ids, np.int64))
    assert len(set(keys.tolist())) == len(ids)
    found = index.build_index(keys.copy())
    assert not len(index.repeated_keys(found))
    np.testing.assert_array_equal(found.codes(keys), np.argsort(np.argsort(keys)))
    others = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1).filter(lambda i: i not in ids)))
    assert (found.codes(index.mixed(np.array(others, np.int64))) == -1).all()


def test_keys_at_the_ends_and_many_in_one_bucket():
    keys = np.array([0, 1, 2, 3, 4, 5, 2**64 - 1], np.uint64)
    found = index.build_index(keys.copy())
    np.testing.assert_array_equal(found.codes(keys), np.arange(7))
    assert (found.codes(np.array([6, 2**63, 2**64 - 2], np.uint64)) == -1).all()
    twice = index.build_index(np.array([7, 5, 7, 9, 9, 9], np.uint64))
    assert index.repeated_keys(twice).tolist() == [7, 9]


@pytest.mark.parametrize("threads", [1, 2])
def test_many_keys_on_several_threads(threads):
    ids = np.random.default_rng(0).permutation(100_000)
    keys = index.mixed(ids)
    found = index.build_index(keys.copy())
    codes = found.codes(keys, threads)
    np.testing.assert_array_equal(found.keys[codes], keys)


def test_the_first_value_that_was_written_before_is_told():
    into = np.full(4, np.nan)
    assert index.fill(np.array([2, 0], np.int32), np.array([1.0, 2.0]), into) == -1
    assert index.fill(np.array([1, 1, 0], np.int32), np.array([3.0, 4.0, 5.0]), into) == 1
    np.testing.assert_array_equal(into, [5.0, 4.0, 1.0, np.nan])


def expected(pair, who, vote, margin, shared):
    """What `group` keeps and counts, by dictionaries."""
    own = defaultdict(list)
    for row, key in enumerate(zip(pair, who, strict=True)):
        own[(*key, row) if key[1] == shared else (*key, 0)].append(vote[row])
    kept, counts = defaultdict(list), Counter(n_pairs=len(set(pair)))
    contradicted = set()
    for (j, k, _), said in own.items():
        counts["n_repeated"] += len(said) - 1
        if len(set(said)) > 1:
            counts["n_contradicted"] += len(said)
            contradicted.add((j, k))
        elif said[0] != index.TIE:
            kept[j].append((k, said[0]))
            counts["n_unscored"] += len(said) * np.isnan(margin[j])
            continue
        counts["n_ties"] += len(said)
    told, agree = Counter(), Counter()
    for votes in kept.values():
        sides = [side for _, side in votes]
        counts["n_pairs_several"] += len(votes) > 1
        counts["n_pairs_conflicting"] += len(set(sides)) > 1
        for i, (k, side) in enumerate(votes):
            lead = sum(2 * s - 1 for m, s in enumerate(sides) if m != i)
            told[k] += lead != 0
            agree[k] += lead != 0 and side == (lead > 0)
    return kept, counts, contradicted, told, agree


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_what_counts_of_the_votes_is_kept_by_pair(threads, seed):
    rng = np.random.default_rng(seed)
    n, n_pairs, n_annotators, shared = 900, (40, 400)[seed % 2], 7, 3
    pair = rng.integers(0, n_pairs, n).astype(np.int32)
    pair[rng.random(n) < 0.2] = 5  # more than `SMALL_SEGMENT` on one
    who, vote = rng.integers(0, n_annotators, n), rng.integers(0, 3, n)
    margin = np.where(rng.random(n_pairs) < 0.3, np.nan, 1.0)
    rank = rng.permutation(n_annotators)
    rows = index.to_rows(pair, (4 * who + vote).astype(np.int32))
    start = np.zeros(n_pairs + 1, np.int64)
    index.count(pair, start, threads)
    found = index.group(lambda: (rows[:400], rows[400:]), start, rank, shared, margin, threads)
    kept, counts, contradicted, told, agree = expected(pair, rank[who], vote, margin, shared)
    assert {k: v for k, v in found.counts.items() if v} == {k: v for k, v in counts.items() if v}
    flat = [(j, k, side) for j in sorted(kept) for k, side in sorted(kept[j])]
    j, k, side = (np.array(column) for column in zip(*flat, strict=True))
    grouped = ballots(j, k, 2 * side - 1, np.zeros(n_pairs), n_annotators)
    np.testing.assert_array_equal(found.start, grouped.start)
    np.testing.assert_array_equal(found.code, grouped.code)
    np.testing.assert_array_equal(found.used, grouped.votes)
    np.testing.assert_array_equal(found.rows, np.bincount(rank[who], minlength=n_annotators))
    np.testing.assert_array_equal(found.told, [told[k] for k in range(n_annotators)])
    np.testing.assert_array_equal(found.agree, [agree[k] for k in range(n_annotators)])
    keys = sorted(j * n_annotators + k for j, k in contradicted)
    np.testing.assert_array_equal(found.contradicted, keys)
    there = np.bincount(pair, minlength=n_pairs) > 0
    np.testing.assert_array_equal(found.state & index.EMPTY == 0, there)
    np.testing.assert_array_equal(found.state & index.UNSCORED > 0, np.isnan(margin))
