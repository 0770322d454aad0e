"""What `import` makes and every other stage starts from: pairs with votes, or labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from denoise import schema, tables
from denoise.errors import Fault, raise_any, refuse
from denoise.places import Place
from denoise.tables import Provenance

PAIRS_FILE = "pairs.parquet"
VOTES_FILE = "votes.parquet"
LABELS_FILE = "labels.parquet"
TRUTH_FILE = "truth.parquet"
SKIPPED_FILE = "skipped.parquet"

SKIPPED_SCHEMA = {"source_row": pl.Int64, "reason": pl.String, "content": pl.String}
"""Rows of the source that became no vote or label: which, why, and the row as JSON."""

_SKIPPED = schema.Contract(
    "skipped",
    (
        schema.Column("source_row", "int"),
        schema.Column("reason", "text"),
        schema.Column("content", "text"),
    ),
    key=(),
)


@dataclass(frozen=True)
class Dataset:
    """Pairs with their votes, or else categorical labels, and the source rows that became neither.

    `truth` are the answers that the source marks as known, of pairs or of items; `notes` are
    sentences for the user: what was recognised, and what is worth knowing.
    """

    provenance: Provenance
    pairs: pl.DataFrame | None = None
    votes: pl.DataFrame | None = None
    labels: pl.DataFrame | None = None
    truth: pl.DataFrame | None = None
    skipped: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SKIPPED_SCHEMA))
    notes: tuple[str, ...] = ()

    @property
    def is_preference(self) -> bool:
        """Whether these are pairs with votes, and not categorical labels."""
        return self.pairs is not None

    def preferences(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The pairs and the votes.

        Raises:
            InputError: the data are categorical labels.
        """
        if self.pairs is None or self.votes is None:
            refuse(
                "these are categorical labels, where pairs of responses with votes are needed",
                file="pairs",
                fix="give data with two responses to a prompt, or import the votes with --texts",
            )
        return self.pairs, self.votes

    def tables(self) -> dict[str, pl.DataFrame]:
        """The tables that are there, by file name."""
        every = {
            PAIRS_FILE: self.pairs,
            VOTES_FILE: self.votes,
            LABELS_FILE: self.labels,
            TRUTH_FILE: self.truth,
            SKIPPED_FILE: self.skipped if len(self.skipped) else None,
        }
        return {name: frame for name, frame in every.items() if frame is not None}


def write_dataset(data: Dataset, out: Place) -> None:
    """Write the tables into a directory of their own, all of them or none."""
    with tables.staged_directory(out, data.provenance) as staging:
        for name, frame in data.tables().items():
            tables.write_table(frame, staging / name, data.provenance)


def is_dataset(directory: Place) -> bool:
    """Whether a directory holds the tables of `import`, or a user's own of the same names."""
    return (directory / PAIRS_FILE).exists() or (directory / LABELS_FILE).exists()


def read_dataset(directory: Place) -> Dataset:
    """The data set in a directory that `import` made, or that holds tables of the same contract.

    Raises:
        InputError: a table is missing or departs from its contract, or they are of two runs.
    """
    contracts = {
        PAIRS_FILE: schema.PAIRS,
        VOTES_FILE: schema.VOTE_ROWS,
        LABELS_FILE: schema.LABELS,
        SKIPPED_FILE: _SKIPPED,
    }
    wanted = [LABELS_FILE] if not (directory / PAIRS_FILE).exists() else [PAIRS_FILE, VOTES_FILE]
    contracts[TRUTH_FILE] = schema.TRUTH_LABELS if LABELS_FILE in wanted else schema.TRUTH_VOTES
    if tables.read_manifest(directory) is not None:  # a user's own files may mean something else
        optional = (TRUTH_FILE, SKIPPED_FILE)
        wanted += [name for name in optional if (directory / name).exists()]
    read = {name: tables.read_table(directory / name, contracts[name]) for name in wanted}
    made = {directory / name: provenance for name, (_, provenance) in read.items()}
    tables.same_run(made)
    frames = {name: frame for name, (frame, _) in read.items()}
    if PAIRS_FILE in frames:
        raise_any(_orphans(frames[PAIRS_FILE], frames[VOTES_FILE], directory / VOTES_FILE))
    provenance = next((p for p in made.values() if p is not None), None)
    if provenance is None:
        hashes = {name: tables.file_hash(directory / name) for name in wanted}
        provenance = Provenance("import", inputs=hashes)
    known = {"skipped": frames[SKIPPED_FILE]} if SKIPPED_FILE in frames else {}
    return Dataset(
        provenance,
        pairs=frames.get(PAIRS_FILE),
        votes=frames.get(VOTES_FILE),
        labels=frames.get(LABELS_FILE),
        truth=frames.get(TRUTH_FILE),
        **known,
    )


def _orphans(pairs: pl.DataFrame, votes: pl.DataFrame, file: Place) -> list[Fault]:
    known = pairs["pair_id"].cast(pl.String).implode()
    rows = (~votes["pair_id"].cast(pl.String).is_in(known)).arg_true()
    if not len(rows):
        return []
    return [
        Fault(
            f"{len(rows)} vote(s) on pairs that the pairs table does not have",
            file=file,
            row=rows[0],
            column="pair_id",
            found=votes["pair_id"][rows[0]],
            fix="import again, or add the pairs",
        )
    ]
