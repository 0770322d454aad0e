"""EM in auto mode over tables that are read and written by row group: votes by the hundred million.

The same files as `denoise.stages.em` gives, and the same estimates up to rounding; with more votes
than `calibrate.SAMPLE` up to which pairs are in the sample as well, as pairs are in another order
here. Memory is about 26 bytes a vote at four votes a pair, less where the rows go to disk. Pair ids
and annotator ids may be whole numbers; whole pair ids are written as they are, annotators as text.

Where margins bring no provenance their hash is over the rows as they lie, so that the run id is
that of the other path only where `vote_id` increases. Texts are not read: that scores are of these
very texts is not checked, only that they are of these pairs.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise import dataset, parquet, schema, tables
from denoise.errors import refuse
from denoise.noise import Floats
from denoise.places import Place, place
from denoise.pooled import index
from denoise.pooled.index import Grouped
from denoise.progress import row_progress
from denoise.stages import em, pooled
from denoise.stages.em import EMResult
from denoise.stages.evidence import Evidence
from denoise.stages.settings import EMSettings
from denoise.stages.stream.confidences import Columns, of_rows, write_confidences
from denoise.stages.stream.evidence import known_sides, margins, origin
from denoise.stages.stream.rows import (
    PairIds,
    RowStore,
    batches,
    check_columns,
    read_pairs,
    rows_of,
)
from denoise.stages.stream.tally import Tally, concluded, of_every_pair, voted_pairs
from denoise.stages.stream.votes import read_votes

LARGE = 20_000_000
"""Votes from which the command takes this path by itself."""

IN_MEMORY = 1 << 27
"""Votes up to which the rows stay in memory, 8 bytes each; those of more lie in a file."""

Told = Callable[[str], None]


def unsupported(source: str | Place, settings: EMSettings, init: object = None) -> str | None:
    """Why EM over these data cannot stream, or None where it can."""
    directory = place(source)
    files = directory / dataset.PAIRS_FILE, directory / dataset.VOTES_FILE
    if not all(file.exists() for file in files):
        return "only a directory with pairs.parquet and votes.parquet is read by row group"
    if settings.mode != "auto" or not settings.pool:
        return "only auto mode with pooling works by row group"
    if init is not None:
        return "votes of an earlier run are not joined by row group"
    if "strength" in parquet.columns_of(files[1]).names and _strengths(files[1]) > 1:
        return "votes of different strength are not told apart by row group"
    column = settings.margin_column or settings.prob_column
    if column is not None and column in parquet.columns_of(files[1]).names:
        return "a margin or probability by vote is not read by row group, only one by pair"
    return None


def suits(source: str | Place, settings: EMSettings, init: object = None) -> bool:
    """Whether the votes are so many that they are streamed unasked."""
    votes = place(source) / dataset.VOTES_FILE
    if not votes.exists() or rows_of(votes) <= LARGE:
        return False
    return unsupported(source, settings, init) is None


def _strengths(votes: Place) -> int:
    """How many different strengths there are, an empty one counted; two stand for more."""
    seen: set[object] = set()
    for _, batch in batches(votes, ["strength"], coded=["strength"]):
        seen |= {value or "" for value in batch.column(0).unique().to_pylist()}
        if len(seen) > 1:
            break
    return len(seen)


def em_stream(
    source: str | Place,
    out: Place,
    scores: Place | Sequence[Place] | None = None,
    *,
    truth: pl.DataFrame | None = None,
    on_step: Told | None = None,
    in_memory: int = IN_MEMORY,
    **options: Any,
) -> EMResult:
    """Write what `em` would return for the tables in a directory, all of it or nothing.

    Returns it too, but for the rows of `confidences`.

    Args:
        scores: the files that `score` wrote, shards of one job.
        truth: known answers, `pair_id` and `vote`.
        on_step: is told what is done next, "read pairs" and so on.
        in_memory: votes above which the rows wait in a file beside `out`.
        options: fields of `EMSettings`.

    Raises:
        InputError: what `em` refuses, or what cannot be done by row group.
    """
    settings = EMSettings(**options)
    pairs_file, votes_file = checked(place(source), out, settings, "--stream")
    step, threads = on_step or (lambda _: None), settings.n_threads
    with origin(place(source)) as data:
        n = rows_of(votes_file)
        step("read pairs")
        pairs = read_pairs(pairs_file)
        step("read margins")
        found, margin = margins(pairs_file, pairs, scores, settings)
        known = known_sides(truth, pairs)
        store = RowStore(n, None if n <= in_memory else _beside(out))
        step("read votes")
        with row_progress("votes", n, on_step is not None) as done:
            rows, start, seen, found = _read(votes_file, store, pairs, margin, threads, found, done)
        inputs = {"data": data.made.result().run_id, **found.inputs}
        inputs |= {} if truth is None else {"truth": known.digest}
    del pairs
    step("sort")
    names = seen.sort()
    rank = seen.rank("dense").to_numpy().astype(np.int32) - 1
    shared = names.index_of(schema.ALL_ANNOTATORS)
    shared = -1 if shared is None else shared
    grouped = index.group(rows.batches, start, rank, shared, margin, threads)
    del start
    if not len(grouped.code):
        refuse("there is nothing to learn from: all are ties", file="votes")
    step("fit")
    estimate, log_odds = _estimate(grouped, margin, known.sides, settings)
    tally = Tally(grouped.rows, grouped.told, grouped.agree, grouped.counts)
    n_counted = len(grouped.code)
    result = concluded(names, tally, n_counted, estimate.inference, inputs, found, settings)
    margin[grouped.state & index.UNSCORED > 0] = np.nan
    contradicted = grouped.contradicted
    del grouped
    by_pair = np.stack([log_odds, margin], axis=1)
    del log_odds, margin
    step("write")
    with (
        tables.staged_directory(out, result.provenance) as staging,
        row_progress("confidences", n, on_step is not None) as done,
    ):
        columns = Columns(rank, by_pair, known.sides, contradicted, estimate.temperature)
        rows.rewind()

        def values_of(_: int, count: int) -> tuple[NDArray[np.generic], ...]:
            return of_rows(rows.read(count), columns, threads)

        path = staging / em.CONFIDENCES_FILE
        write_confidences(path, votes_file, values_of, seen, result.provenance, done)
        em.write_but_rows(result, staging)
        data.check()
    return result


def checked(directory: Place, out: Place, settings: EMSettings, by: str) -> tuple[Place, Place]:
    """The files of pairs and votes; what cannot be done with them by row group is refused."""
    reason = unsupported(directory, settings)
    if reason is not None:
        refuse(reason, file=directory, fix=f"leave out {by}")
    tables.check_out(out, "em")
    pairs_file, votes_file = directory / dataset.PAIRS_FILE, directory / dataset.VOTES_FILE
    check_columns(pairs_file, schema.PAIRS)
    check_columns(votes_file, schema.VOTE_ROWS, absent=("vote_id", "annotator_id"))
    return pairs_file, votes_file


class _Read(NamedTuple):
    """The rows, how many each pair has as `index.count` leaves them, the annotators by code."""

    rows: RowStore
    start: NDArray[np.int64]
    names: pl.Series
    evidence: Evidence


def _read(
    file: Place,
    rows: RowStore,
    pairs: PairIds,
    margin: Floats,
    threads: int,
    found: Evidence,
    done: Callable[[int], None],
) -> _Read:
    """The rows of the votes, how many each pair has, the annotators, and the margins' identity."""
    start = np.zeros(len(pairs) + 1, np.int64)
    to_hash = not found.inputs and found.settings["evidence"] != "none"
    state = hashlib.sha256((16 * rows_of(file)).to_bytes(8, "little"))

    def hashed(pair: NDArray[np.int32]) -> None:
        state.update(margin[pair].tobytes().hex().encode())

    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[None]] = []

        def keep(pair: NDArray[np.int32], cell: NDArray[np.int32]) -> None:
            rows.add(index.to_rows(pair, cell))
            index.count(pair, start, threads)
            if to_hash:
                for before in waiting:
                    before.result()
                waiting[:] = [pool.submit(hashed, pair)]
            done(len(pair))

        names = read_votes(file, pairs, keep, threads)
    inputs = found.inputs
    if to_hash:
        name = "scores" if found.settings["evidence"] in ("scores", "rewards") else "margin"
        inputs = {name: state.digest()[:16].hex()}
    return _Read(rows, start, names, Evidence(found.margin, found.settings, inputs, found.notes))


def _beside(out: Place) -> Path:
    """Where rows wait: beside what is written, or among this machine's temporary files."""
    if not isinstance(out, Path):
        return Path(tempfile.gettempdir())
    directory = out.absolute().parent
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _estimate(
    grouped: Grouped, margin: Floats, known: NDArray[np.int8], settings: EMSettings
) -> tuple[pooled.Estimate, Floats]:
    """What `pooled.estimate` finds, and s of every pair, [J], voted on or not.

    Margins that no vote takes part in are set to 0, in place.
    """
    votes, voted = voted_pairs(grouped, margin, known, settings.n_threads)
    found = pooled.estimate(votes, settings)
    return found, of_every_pair(found.log_odds, voted)
