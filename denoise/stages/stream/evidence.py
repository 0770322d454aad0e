"""What is known of streamed pairs but their votes: margins, answers, origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from denoise import dataset, parquet, schema, tables
from denoise.errors import refuse
from denoise.noise import Floats
from denoise.places import Place
from denoise.pooled.index import whole_numbers
from denoise.scores import score_files
from denoise.stages import evidence
from denoise.stages.evidence import Evidence
from denoise.stages.settings import EMSettings
from denoise.stages.stream.rows import (
    PairIds,
    batches,
    check_columns,
    read_margins,
    rows_of,
)
from denoise.stages.truth import known_answers, truth_hash, with_names
from denoise.tables import Provenance

_UNREAD = (
    "by row group the texts are not read: the scores are of pairs with these ids, and that they "
    "are of these very texts was not checked"
)


class Origin(NamedTuple):
    """Data that are read by and by. made: what made them. files: of each table at the start."""

    made: Future[Provenance]
    files: Mapping[Place, Mapping[Place, str]]

    def check(self) -> None:
        """Refuse data in whose place others were put since."""
        for table, files in self.files.items():
            if parquet.versions(table) != files:
                refuse("was replaced while it was read", file=table, fix="repeat this command")


@contextmanager
def origin(directory: Place) -> Iterator[Origin]:
    """What made the data, as `read_dataset` has it; where files are to be hashed, meanwhile."""
    names = [dataset.PAIRS_FILE, dataset.VOTES_FILE]
    files = {directory / name: parquet.versions(directory / name) for name in names}
    if (directory / dataset.SKIPPED_FILE).exists() and tables.read_manifest(directory) is not None:
        names.append(dataset.SKIPPED_FILE)
    made = {directory / name: tables.read_provenance(directory / name) for name in names}
    tables.same_run(made)
    known = next((p for p in made.values() if p is not None), None)

    def provenance() -> Provenance:
        if known is not None:
            return known
        hashes = {name: tables.file_hash(directory / name) for name in names}
        return Provenance("import", inputs=hashes)

    with ThreadPoolExecutor(1) as pool:
        yield Origin(pool.submit(provenance), files)


class Margins(NamedTuple):
    """Where Δ comes from.

    evidence: settings, inputs and notes; `inputs` is empty where it takes a hash over the votes,
    and without evidence. files, contract: the tables of scores; delta: Δ of each row of one, [n].
    values: Δ of the rows of pairs, [J], where it is a column of theirs.
    """

    evidence: Evidence
    files: Sequence[Place] = ()
    contract: schema.Contract = schema.SCORES
    values: Floats | None = None

    def delta(self, frame: pl.DataFrame) -> Floats:
        """Δ of each row of scores, [n]."""
        return evidence.delta(frame, self.evidence.settings)


def margins(
    pairs_file: Place,
    pairs: PairIds,
    scores: Place | Sequence[Place] | None,
    settings: EMSettings,
) -> tuple[Evidence, Floats]:
    """What `margins_of` says, and Δ of each pair, NaN for none, [J]."""
    found = margins_of(pairs_file, scores, settings)
    if found.files:
        threads = settings.n_threads
        return found.evidence, read_margins(
            found.files, found.contract, pairs, found.delta, threads
        )
    margin = np.zeros(len(pairs))
    if found.values is not None:
        for first, batch in batches(pairs_file, ["pair_id"]):
            codes = pairs.codes(batch.column(0), pairs_file, settings.n_threads)
            margin[codes] = found.values[first : first + len(batch)]
    return found.evidence, margin


def margins_of(
    pairs_file: Place, scores: Place | Sequence[Place] | None, settings: EMSettings
) -> Margins:
    """Where Δ of the pairs comes from; scores are not read yet.

    Raises:
        InputError: the settings do not go together, or a column is not there or out of range.
    """
    column = settings.margin_column or settings.prob_column
    settings.check_one_evidence(scores)
    loss, beta, gamma = settings.loss, settings.beta, settings.gamma
    empty = pl.Series(dtype=pl.Float64)
    if scores is not None:
        return _of_scores(scores, settings)
    evidence.check_without_scores(loss, beta, gamma, settings.ipo_sum)
    if column is None:
        return Margins(Evidence(empty, {"evidence": "none"}))
    if column not in parquet.columns_of(pairs_file).names:
        numeric = [f.name for f in parquet.columns_of(pairs_file) if _is_number(f.type)]
        fix = f"columns of numbers of the pairs are {', '.join(numeric) or 'not there'}"
        refuse("neither the votes nor the pairs have this column", column=column, fix=fix)
    is_prob = settings.prob_column is not None
    parts = [pl.from_arrow(batch.column(0)) for _, batch in batches(pairs_file, [column])]
    whole = pl.concat([pl.Series(column, part) for part in parts])
    rows = pl.int_range(len(whole), eager=True)
    values, notes = evidence.checked_values(whole, rows, "pairs", is_prob)
    said = {"evidence": "prob" if is_prob else "margin", "column": column, "table": "pairs"}
    margin = values.fill_null(np.nan).to_numpy()
    return Margins(Evidence(empty, said, {}, notes), values=margin)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _of_scores(given: Place | Sequence[Place], settings: EMSettings) -> Margins:
    files = score_files(given)
    contract = schema.scores_contract(parquet.columns_of(files[0]).names)
    said = evidence.score_settings(
        contract, settings.loss, settings.beta, settings.gamma, settings.ipo_sum
    )
    for file in files:
        if len(files) == 1 or rows_of(file):
            check_columns(file, contract)
    whole = evidence.whole_job(files, [tables.read_provenance(file) for file in files])
    inputs = {} if whole is None else {"scores": whole.run_id}
    notes = evidence.tokenisation_note(said.get("loss"), whole)
    if whole is not None and "pairs" in whole.inputs:
        notes += (_UNREAD,)
    empty = pl.Series(dtype=pl.Float64)
    return Margins(Evidence(empty, said, inputs, notes), files, contract)


class Known(NamedTuple):
    """sides: 1, −1 or 0 by pair, [J] int8, or of length 0; digest: of the answers."""

    sides: NDArray[np.int8]
    digest: str


def known_sides(truth: pl.DataFrame | None, pairs: PairIds) -> Known:
    """The known answers by pair; what `known_answers` refuses is refused."""
    if truth is None:
        return Known(np.empty(0, np.int8), "")
    truth = with_names(truth, schema.TRUTH_VOTES)
    ids = truth["pair_id"] if "pair_id" in truth.columns else pl.Series("pair_id", [], pl.String)

    def codes(ids: pl.Series) -> NDArray[np.int32]:
        ids = whole_numbers(ids) if pairs.whole else ids.cast(pl.String)
        here = np.full(len(ids), -1, np.int32)
        some = ids.is_not_null()
        column = ids.filter(some).to_arrow()
        here[some.to_numpy()] = pairs.codes(column, Path("truth"))
        return here

    there = ids.filter(codes(ids) >= 0).cast(pl.String)
    answers = known_answers(truth, schema.TRUTH_VOTES, there).filter(pl.col("vote") != "tie")
    sides = np.zeros(len(pairs), np.int8)
    sides[codes(answers["pair_id"])] = np.where(answers["vote"] == "a", 1, -1)
    return Known(sides if len(answers) else np.empty(0, np.int8), truth_hash(answers))
