"""Votes by the hundred million: pair ids to codes, and rows in file order to votes by pair.

A pair's code is the rank of its 64-bit key, so neither the order of the rows nor the cut into
batches changes it. A row is one int64: the pair's code in the upper half, and in the lower
`4 · annotator + vote`, vote 0 for b, 1 for a and 2 for a tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise.compiled import njit
from denoise.pooled.ballots import Codes, Floats, over

Keys = NDArray[np.uint64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Rows = Int64

B, A, TIE = 0, 1, 2
"""How a vote is written in a row."""

UNSCORED, CONTRADICTED, EMPTY = 1, 2, 4
"""What `Grouped.state` says of a pair: no margin, a contradiction on it, no row at all."""

PER_BUCKET, BLOCK = 4, 256
SMALL_SEGMENT = 48


def to_rows(pair: Int32, cell: Int32) -> Rows:
    """Rows of pair codes and `4 · annotator + vote`, [n]."""
    return (pair.astype(np.int64) << 32) | cell


class PairIndex(NamedTuple):
    """Sorted keys, [J]; bucket `key >> shift` begins at `first[bucket]`, [2^b + 1] int32."""

    keys: Keys
    first: Int32
    shift: int

    def codes(self, keys: Keys, threads: int = 1) -> Int32:
        """The code of each key, −1 where there is none, [n]."""
        out = np.empty(len(keys), np.int32)
        over(len(keys), threads, lambda f, e: _find_pass(f, e, *self, keys, out))
        return out


def keys_of(ids: pl.Series, seed: int = 0) -> Keys:
    """A number evenly spread over 64 bits for each id, whole number or text, [n]."""
    if ids.dtype.is_integer():
        return mixed(whole_numbers(ids).to_numpy())
    return ids.cast(pl.String).hash(seed).to_numpy()


def whole_numbers(ids: pl.Series) -> pl.Series:
    """Ids as int64, [n], those from 2⁶³ on as the negative numbers of the same bits.

    What is no whole number of 64 bits is null.
    """
    if ids.dtype == pl.UInt64:
        return ids.reinterpret(signed=True)
    signed = ids.cast(pl.Int64, strict=False)
    if ids.dtype.is_integer():
        return signed
    return signed.fill_null(ids.cast(pl.UInt64, strict=False).reinterpret(signed=True))


def build_index(keys: Keys) -> PairIndex:
    """The index of keys that are evenly spread over 64 bits; sorts them in place."""
    keys.sort()
    bits = max(1, int(len(keys) // PER_BUCKET).bit_length())
    first = np.empty((1 << bits) + 1, np.int32)
    _bucket_pass(keys, 64 - bits, first)
    return PairIndex(keys, first, 64 - bits)


def repeated_keys(index: PairIndex) -> Keys:
    """The keys that are there more than once."""
    return np.unique(index.keys[1:][index.keys[1:] == index.keys[:-1]])


@njit(nogil=True)
def mixed(ids: Int64) -> Keys:
    """Whole numbers spread over 64 bits, one to one (the finaliser of SplitMix64), [n]."""
    out = np.empty(len(ids), np.uint64)
    for i in range(len(ids)):
        x = np.uint64(ids[i]) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = x ^ (x >> np.uint64(31))
    return out


@njit(nogil=True)
def _bucket_pass(keys: Keys, shift: int, first: Int32) -> None:
    i = 0
    for bucket in range(len(first) - 1):
        while i < len(keys) and (keys[i] >> np.uint64(shift)) < np.uint64(bucket):
            i += 1
        first[bucket] = i
    first[-1] = len(keys)


@njit(nogil=True)
def _find_pass(
    begin: int, end: int, keys: Keys, first: Int32, shift: int, wanted: Keys, out: Int32
) -> None:
    """Block by block in three loops, so that the cache misses of a block overlap."""
    at = np.empty(BLOCK, np.int32)
    head = np.empty(BLOCK, np.uint64)
    for block in range(begin, end, BLOCK):
        n = min(BLOCK, end - block)
        for i in range(n):
            at[i] = first[wanted[block + i] >> np.uint64(shift)]
        for i in range(n):
            head[i] = keys[min(at[i], len(keys) - 1)]
        for i in range(n):
            key = wanted[block + i]
            found = at[i]
            if head[i] != key:
                while found < len(keys) and keys[found] < key:
                    found += 1
                if found == len(keys) or keys[found] != key:
                    found = -1
            out[block + i] = found


@njit(nogil=True)
def fill(codes: Int32, values: Floats, into: Floats) -> int:
    """Write values [n] at their codes; return the row of the first that was written before, or −1.

    `into` [J] is NaN where nothing was written.
    """
    again = -1
    for i in range(len(codes)):
        if again < 0 and not np.isnan(into[codes[i]]):
            again = i
        into[codes[i]] = values[i]
    return again


@njit(nogil=True)
def _count_pass(first: int, last: int, pair: Int32, start: Int64) -> None:
    for i in range(len(pair)):
        if first <= pair[i] < last:
            start[pair[i] + 1] += 1


def count(pair: Int32, start: Int64, threads: int = 1) -> None:
    """Add the rows of pair j to `start[j + 1]`, each thread for pairs of its own."""
    over(len(start) - 1, threads, lambda f, e: _count_pass(f, e, pair, start))


class Grouped(NamedTuple):
    """The votes that count, by pair as in `Ballots`, and what was seen on the way.

    start [J + 1], code [n]: 2·annotator + (for a); state: of each pair, [J] uint8; contradicted:
    pair · K + annotator of those that contradict themselves, sorted. By annotator, [K]: used,
    votes that count; told, those on pairs where the other votes lead to one side, and agree, those
    that side with them; rows. counts: `n_ties` and so on, as `summary.json` has them.
    """

    start: Int64
    code: Int32
    state: NDArray[np.uint8]
    contradicted: Int64
    used: Int64
    told: Int64
    agree: Int64
    rows: Int64
    counts: dict[str, int]


_COUNTS = (
    "n_ties",
    "n_contradicted",
    "n_repeated",
    "n_unscored",
    "n_pairs",
    "n_pairs_several",
    "n_pairs_conflicting",
)


def group(
    batches: Callable[[], Iterable[Rows]],
    start: Int64,
    rank: Codes,
    shared: int,
    margin: Floats,
    threads: int = 1,
) -> Grouped:
    """Sort rows by pair, and keep what counts: each annotator's vote on a pair once, no ties.

    An annotator's votes on one pair that contradict each other are ties, all of them.

    Args:
        batches: the rows, from the beginning at each call.
        start: rows of each pair as `count` leaves them, [J + 1]; used up.
        rank: the annotator's code in the result by that in the rows, [K].
        shared: the result's code of the annotator whose votes on a pair are several people's, −1
            for none.
        margin: Δ of each pair, NaN where there is none, [J].
    """
    n_annotators = len(rank)
    code = np.empty(_to_starts(start), np.int32)
    rank = np.ascontiguousarray(rank, np.int32)
    for rows in batches():
        # Each thread scatters to pairs of its own.
        over(len(margin), threads, partial(_scatter_pass, rows, rank, start, code))
    state = np.zeros(len(margin), np.uint8)
    edges = np.linspace(0, len(margin), threads + 1).astype(np.int64)
    begins = start[edges].copy()
    tallies = np.zeros((threads, 4, n_annotators), np.int64)

    def work(first: int, last: int) -> list[tuple[Int64, Int64]]:
        arrays = (start, code, margin, state, shared)
        return [
            _settle_pass(edges[t], edges[t + 1], begins[t], *arrays, tallies[t])
            for t in range(first, last)
        ]

    parts = [part for each in over(threads, threads, work) for part in each]
    filled = 0
    for t, (first, last) in enumerate(pairwise(edges)):
        ends, gap = start[first + 1 : last + 1], begins[t] - filled
        kept = int(ends[-1] - begins[t]) if len(ends) else 0
        if gap:
            code[filled : filled + kept] = code[begins[t] : begins[t] + kept]
            ends -= gap
        filled += kept
    used, told, agree, rows = tallies.sum(axis=0)
    counts = dict(zip(_COUNTS, sum(c for c, _ in parts).tolist(), strict=True))
    contradicted = np.concatenate([found for _, found in parts])
    return Grouped(start, code[:filled], state, contradicted, used, told, agree, rows, counts)


@njit(nogil=True)
def _to_starts(start: Int64) -> int:
    """Counts at `start[j + 1]` to the sums before them, in place; returns the whole sum."""
    total = 0
    for j in range(1, len(start)):
        n = start[j]
        start[j] = total
        total += n
    return total


@njit(nogil=True)
def _scatter_pass(
    rows: Rows, rank: Int32, start: Int64, code: Int32, first: int, last: int
) -> None:
    """Rows of pairs `first` up to `last` to where `start[pair + 1]` points, which moves on."""
    for i in range(len(rows)):
        j = rows[i] >> 32
        if first <= j < last:
            cell = rows[i] & 0xFFFFFFFF
            code[start[j + 1]] = 4 * rank[cell >> 2] + (cell & 3)
            start[j + 1] += 1


@njit(nogil=True)
def _sort(segment: Int32) -> None:
    if len(segment) > SMALL_SEGMENT:
        segment.sort()
        return
    for i in range(1, len(segment)):
        x = segment[i]
        m = i
        while m > 0 and segment[m - 1] > x:
            segment[m] = segment[m - 1]
            m -= 1
        segment[m] = x


@njit(nogil=True)
def _settle_pass(
    first: int,
    last: int,
    begin: int,
    start: Int64,
    code: Int32,
    margin: Floats,
    state: NDArray[np.uint8],
    shared: int,
    tally: Int64,
) -> tuple[Int64, Int64]:
    """Keep what counts of pairs `first` up to `last`, from `code[begin]` on, in place.

    `tally` is used, told, agree and rows, [4, K]; returns the sums of `_COUNTS` and the
    contradicted.
    """
    counts = np.zeros(7, np.int64)
    found = np.empty(16, np.int64)
    n_found = 0
    n_annotators = tally.shape[1]
    write = begin
    for j in range(first, last):
        end = start[j + 1]
        kept = write
        if begin == end:
            state[j] |= EMPTY
        else:
            counts[4] += 1
            _sort(code[begin:end])
        if np.isnan(margin[j]):
            state[j] |= UNSCORED
        oriented, for_a = 0, 0
        i = begin
        while i < end:
            k = code[i] >> 2
            last_own = i + 1
            if k != shared:
                while last_own < end and code[last_own] >> 2 == k:
                    last_own += 1
            own = last_own - i
            vote = code[i] & 3
            tally[3, k] += own
            counts[2] += own - 1
            if vote != code[last_own - 1] & 3:
                counts[1] += own
                counts[0] += own
                state[j] |= CONTRADICTED
                if n_found == len(found):
                    longer = np.empty(2 * n_found, np.int64)
                    longer[:n_found] = found
                    found = longer
                found[n_found] = np.int64(j) * n_annotators + k
                n_found += 1
            elif vote == TIE:
                counts[0] += own
            else:
                oriented += own
                for_a += vote == A
                code[write] = 2 * k + vote
                write += 1
            i = last_own
        if state[j] & UNSCORED:
            counts[3] += oriented
        n = write - kept
        for m in range(kept, write):
            k, side = code[m] >> 1, code[m] & 1
            tally[0, k] += 1
            lead = 2 * (for_a - side) - (n - 1)
            if lead != 0:
                tally[1, k] += 1
                tally[2, k] += side == (lead > 0)
        counts[5] += n > 1
        counts[6] += 0 < for_a < n
        start[j + 1] = write
        begin = end
    return counts, found[:n_found]


@njit(nogil=True)
def row_pass(
    first: int,
    last: int,
    rows: Rows,
    rank: Int32,
    truth: Floats,
    known: NDArray[np.int8],
    contradicted: Int64,
    tau: float,
    who: Int32,
    vote: Int32,
    along: Floats,
    prob: Floats,
    confidence: Floats,
    posterior: Floats,
) -> None:
    """Write of rows `first` up to `last`: annotator, vote as it counts, Δ along it, σ(τΔ), w, q.

    `truth` is s and Δ of each pair, [J, 2], so that a row is one cache miss; Δ is NaN where there
    is none, and so is what is written for nothing.
    """
    for block in range(first, last, BLOCK):
        end = min(block + BLOCK, last)
        for i in range(block, end):
            j = rows[i] >> 32
            confidence[i] = truth[j, 0]
            along[i] = truth[j, 1]
        for i in range(block, end):
            j = rows[i] >> 32
            who[i] = (rows[i] & 0xFFFFFFFF) >> 2
            says = rows[i] & 3
            if len(contradicted):
                key = j * len(rank) + rank[who[i]]
                m = np.searchsorted(contradicted, key)
                if m < len(contradicted) and contradicted[m] == key:
                    says = TIE
            vote[i] = says
            q, other = _sides(confidence[i])
            if len(known) and known[j] != 0:
                q, other = (1.0, 0.0) if known[j] > 0 else (0.0, 1.0)
            posterior[i] = q
            if says == TIE:
                along[i] = prob[i] = confidence[i] = np.nan
                continue
            delta = along[i] if says == A else -along[i]
            along[i] = delta
            prob[i] = 0.5 if np.isnan(delta) else _sides(tau * delta)[0]
            confidence[i] = q if says == A else other


@njit(nogil=True)
def _sides(s: float) -> tuple[float, float]:
    """σ(s) and σ(−s), the smaller one not lost to rounding."""
    e = math.exp(-abs(s))
    more, less = 1.0 / (1.0 + e), e / (1.0 + e)
    return (more, less) if s >= 0 else (less, more)
