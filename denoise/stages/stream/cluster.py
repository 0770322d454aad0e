"""EM by row group on a Ray cluster: the votes are dealt out by pair, and an iteration is a sum.

The same solver as on one machine (`pooled.ballots.Votes`) and the same tables; estimates agree up
to the order in which numbers are added. Files have to be where every node can read them.

The driver holds what is known of each annotator and 16 bytes a pair; the workers hold 30 bytes a
vote. Pairs go to workers by ranges of their keys, so that the sample with which the model is
calibrated is the same, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from denoise import schema, tables
from denoise.cluster import got, session
from denoise.errors import RunError, refuse
from denoise.noise import Floats
from denoise.places import Place, place
from denoise.pooled.index import Keys, keys_of, whole_numbers
from denoise.progress import row_progress
from denoise.stages import em, pooled, stream
from denoise.stages.em import EMResult
from denoise.stages.settings import EMSettings
from denoise.stages.stream import rows as files
from denoise.stages.stream.confidences import write_confidences
from denoise.stages.stream.evidence import Margins, margins_of, origin
from denoise.stages.stream.partitions import Common, Part, Partitions, Pieces, Report, total
from denoise.stages.stream.rows import Split, rows_of, splits
from denoise.stages.stream.tally import Tally, concluded
from denoise.stages.stream.votes import (
    Annotators,
    VoteIds,
    refuse_foreign_votes,
    refuse_repeated_votes,
    vote_rows,
)
from denoise.stages.truth import known_answers, truth_hash, with_names

SPREAD = {"scheduling_strategy": "SPREAD"}

ATTEMPTS = 8
"""Workers of one part that may die before the command gives up."""

Reader = Callable[..., tuple[tuple[NDArray[Any], ...], Any]]
"""What a task reads: arrays of equal length, keys first, and what it has to say beside them."""


def em_cluster(
    source: str | Place,
    out: Place,
    scores: Place | Sequence[Place] | None = None,
    *,
    address: str | None = None,
    n_parts: int | None = None,
    truth: pl.DataFrame | None = None,
    on_step: Callable[[str], None] | None = None,
    **options: Any,
) -> EMResult:
    """Write what `em_stream` writes, by the workers of a Ray cluster.

    Returns the result but for the rows of `confidences`.

    Args:
        scores, truth, on_step, options: as of `em_stream`.
        address: of the cluster; one on this machine is made where it is not given.
        n_parts: into how many the votes go; as many as there are cores in the cluster.

    Raises:
        InputError: what `em_stream` refuses.
        RunError: there is no cluster, or its workers keep dying.
    """
    settings = EMSettings(**options)
    directory = place(source).absolute()
    pairs_file, votes_file = stream.checked(directory, out, settings, "--engine ray")
    step = on_step or (lambda _: None)
    with origin(directory) as data, session(address) as ray:
        n = rows_of(votes_file)
        step("read")
        margins = margins_of(pairs_file, scores, settings)
        # Workers stand in other directories.
        margins = margins._replace(files=[file.absolute() for file in margins.files])
        answers = _answers(truth)
        deal = _Deal(ray, pairs_file, votes_file, margins, answers, n_parts)
        votes, tally, names = deal.votes()
        inputs = {"data": data.made.result().run_id, **_identity(margins)}
        inputs |= {} if answers is None else {"truth": truth_hash(answers)}
        if not votes.n_votes:
            refuse("there is nothing to learn from: all are ties", file="votes")
        step("fit")
        estimate = pooled.estimate(votes, settings)
        found = margins.evidence
        result = concluded(names, tally, votes.n_votes, estimate.inference, inputs, found, settings)
        step("write")
        votes.conclude(estimate.log_odds, estimate.temperature)
        with (
            tables.staged_directory(out, result.provenance) as staging,
            row_progress("confidences", n, on_step is not None) as done,
        ):
            path = staging / em.CONFIDENCES_FILE
            write_confidences(path, votes_file, votes.values, names, result.provenance, done)
            em.write_but_rows(result, staging)
            data.check()
    return result


def _identity(margins: Margins) -> Mapping[str, str]:
    """The inputs of the margins; those that bring no provenance by what is in their files."""
    if margins.values is not None:
        return {"margin": schema.digest(margins.values.tobytes().hex()).hex()}
    if margins.evidence.inputs or not margins.files:
        return margins.evidence.inputs
    return {"scores": schema.digest(*map(tables.file_hash, margins.files)).hex()}


def _answers(truth: pl.DataFrame | None) -> pl.DataFrame | None:
    """The known answers but for ties; whether there are such pairs is not known yet."""
    if truth is None:
        return None
    named = with_names(truth, schema.TRUTH_VOTES)
    ids = named["pair_id"].cast(pl.String) if "pair_id" in named.columns else pl.Series([""])
    return known_answers(truth, schema.TRUTH_VOTES, ids).filter(pl.col("vote") != "tie")


class _Lot(NamedTuple):
    """What one task reads: `kind` is pairs, scores or votes; `given` are `reader`'s arguments."""

    kind: str
    reader: Reader
    given: tuple[Any, ...]


class _Deal:
    """Deals the rows of the tables out to the workers, and once more where one has died."""

    def __init__(
        self,
        ray: Any,
        pairs_file: Place,
        votes_file: Place,
        margins: Margins,
        answers: pl.DataFrame | None,
        n_parts: int | None,
    ) -> None:
        self.ray = ray
        self.pairs_file, self.votes_file = pairs_file, votes_file
        self.margins, self.answers = margins, answers
        cores = int(ray.cluster_resources().get("CPU", 1))
        # No part without a pair: 64 are so many that by chance none is empty.
        self.n_parts = max(1, min(n_parts or cores, rows_of(pairs_file) // 64))
        self.whole = files.has_whole_ids(pairs_file)
        self.died = 0

    def votes(self) -> tuple[Partitions, Tally, pl.Series]:
        """The votes in parts, their tally and the annotators' names.

        Raises:
            InputError: a table is wrong, as `em_stream` says.
        """
        for seed in range(files.SEEDS):
            self.lots = self._lots(seed)
            tasks = [self._task(lot, None) for lot in self.lots]
            said = [got(self.ray, task[-1]) for task in tasks]
            names = self._tell(seed, [each for each in said if each is not None])
            refs = [
                self._pieces([task[number] for task in tasks]) for number in range(self.n_parts)
            ]
            parts = [self._part(pieces) for pieces in refs]
            reports = [self._said(parts, number) for number in range(self.n_parts)]
            again = np.concatenate([report.repeated for report in reports])
            if not len(again):
                self._check(reports)
                made = Partitions(self.ray, self._again, parts, reports)
                return made, total([r.tally for r in reports if r.tally is not None]), names
            files.refuse_repeated(self.pairs_file, seed, again)
        files.refuse_hash(self.pairs_file)

    def _lots(self, seed: int) -> list[_Lot]:
        values = self.margins.values
        lots = [
            _Lot("pairs", _read_pairs, (self.pairs_file, split, seed, self._some(values, split)))
            for split in splits(self.pairs_file)
        ]
        for number, file in enumerate(self.margins.files):
            lots += [
                _Lot("scores", _read_scores, (file, split, seed, self.whole, self.margins, number))
                for split in splits(file)
            ]
        lots += [
            _Lot("votes", _read_votes, (self.votes_file, split, seed, self.whole))
            for split in splits(self.votes_file)
        ]
        return lots

    def _some(self, values: Floats | None, split: Split) -> Any:
        """The margins of a lot of pairs: NaN, or 0 where there is no evidence at all."""
        if values is None:
            return np.nan if self.margins.files else 0.0
        return self.ray.put(values[split.first : split.first + split.rows])

    def _task(self, lot: _Lot, only: int | None) -> list[Any]:
        count = self.n_parts if only is None else 1
        read = self.ray.remote(_dealt).options(num_returns=count + 1, **SPREAD)
        return read.remote(lot.reader, self.n_parts, only, *lot.given)

    def _tell(self, seed: int, said: Sequence[tuple[pl.Series, VoteIds]]) -> pl.Series:
        """Work out what all workers are told; returns the annotators' names."""
        ids = [each for _, each in said if each.first is not None]
        rising = all(each.increasing for each in ids)
        if not rising or any(b.first <= a.last for a, b in pairwise(ids)):
            refuse_repeated_votes(self.votes_file)
        names = pl.concat([own for own, _ in said]).unique().sort()
        shared = names.index_of(schema.ALL_ANNOTATORS)
        kind = pl.Enum(names)
        codes = [own.cast(kind).to_physical().to_numpy().astype(np.int32) for own, _ in said]
        common = Common(
            codes, len(names), -1 if shared is None else shared, self._known(seed), threads=1
        )
        self.common = self.ray.put(common)
        return names

    def _known(self, seed: int) -> tuple[Keys, NDArray[np.int8]]:
        if self.answers is None:
            return np.empty(0, np.uint64), np.empty(0, np.int8)
        sides = np.where(self.answers["vote"] == "a", 1, -1).astype(np.int8)
        ids = self.answers["pair_id"]
        if not self.whole:
            return keys_of(ids, seed), sides
        ids = whole_numbers(ids)
        return keys_of(ids.fill_null(0), seed), np.where(ids.is_null(), 0, sides).astype(np.int8)

    def _check_answers(self, reports: Sequence[Report]) -> None:
        """Refuse answers to pairs that are not there."""
        if self.answers is None:
            return
        found = np.any([report.answered for report in reports], axis=0)
        there = self.answers.filter(pl.Series(found & (self._known(0)[1] != 0)))
        known_answers(self.answers, schema.TRUTH_VOTES, there["pair_id"])

    def _pieces(self, refs: Sequence[Any]) -> Pieces:
        kinds: dict[str, list[Any]] = {"pairs": [], "scores": [], "votes": []}
        for lot, ref in zip(self.lots, refs, strict=True):
            kinds[lot.kind].append(ref)
        return Pieces(**kinds)

    def _part(self, pieces: Pieces) -> Any:
        return self.ray.remote(Part).options(**SPREAD).remote(pieces, self.common)

    def _said(self, parts: list[Any], number: int) -> Report:
        while True:
            try:
                return got(self.ray, parts[number].said.remote())
            except self.ray.exceptions.RayActorError:
                parts[number] = self._again(number)

    def _again(self, number: int) -> Any:
        """A worker in place of one that died, which reads its rows from the files again."""
        self.died += 1
        if self.died > ATTEMPTS * self.n_parts:
            raise RunError(
                f"{self.died} workers died, one after the other: each needs about 30 bytes a vote "
                "of its part; give the cluster more memory, or more nodes"
            )
        return self._part(self._pieces([self._task(lot, number)[0] for lot in self.lots]))

    def _check(self, reports: Sequence[Report]) -> None:
        """Refuse what is wrong with the rows, the first of the files' order."""
        self._check_answers(reports)
        for problem, wrong in (
            ("foreign_score", files.FOREIGN),
            ("second_score", files.SECOND),
        ):
            found = [getattr(r, problem) for r in reports if getattr(r, problem) is not None]
            if found:
                number, row = min(found)
                file = self.margins.files[number]
                files.refuse_score(wrong, file, row, files.pair_id_at(file, row))
        foreign = [r.foreign_votes for r in reports if r.foreign_votes is not None]
        if foreign:
            row = min(row for _, row in foreign)
            found = files.pair_id_at(self.votes_file, row)
            refuse_foreign_votes(self.votes_file, sum(n for n, _ in foreign), row, found)


def _dealt(reader: Reader, n_parts: int, only: int | None, *given: Any) -> tuple[Any, ...]:
    """The rows of each part, or of one, by the ranges of their keys; and what was said."""
    (keys, *columns), said = reader(*given)
    part = ((keys >> np.uint64(32)) * np.uint64(n_parts)) >> np.uint64(32)
    if only is not None:
        mine = part == only
        return tuple(column[mine] for column in (keys, *columns)), said
    order = np.argsort(part, kind="stable")
    edges = np.searchsorted(part[order], np.arange(n_parts + 1))
    ordered = [column[order] for column in (keys, *columns)]
    pieces = (tuple(c[first:last] for c in ordered) for first, last in pairwise(edges))
    return (*pieces, said)


def _read_pairs(
    file: Place, split: Split, seed: int, margin: Floats | float
) -> tuple[tuple[Keys, Floats], None]:
    keys = np.concatenate([keys for _, _, keys in files.pair_keys(file, seed, split)])
    return (keys, np.broadcast_to(np.float64(margin), keys.shape)), None


def _read_scores(
    file: Place, split: Split, seed: int, whole: bool, margins: Margins, number: int
) -> tuple[tuple[Keys, Floats, NDArray[np.int64], NDArray[np.int32]], None]:
    keys, delta = [], []
    for _, ids, values in files.score_rows(file, margins.contract, margins.delta, split):
        keys.append(files.keys_of(ids, seed, whole, file))
        delta.append(values)
    rows = np.arange(split.first, split.first + split.rows)
    return (np.concatenate(keys), np.concatenate(delta), rows, np.full(len(rows), number)), None


def _read_votes(
    file: Place, split: Split, seed: int, whole: bool
) -> tuple[tuple[Keys, NDArray[np.int32], NDArray[np.int64]], tuple[pl.Series, VoteIds]]:
    annotators, ids = Annotators(), VoteIds()
    keys, cells = [], []
    for _, column, cell in vote_rows(file, annotators, ids, split):
        keys.append(files.keys_of(column, seed, whole, file))
        cells.append(cell)
    rows = np.arange(split.first, split.first + split.rows)
    return (np.concatenate(keys), np.concatenate(cells), rows), (annotators.names, ids)
