"""Finished pieces of a long job, kept beside its output so that a killed command continues."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from denoise import places, tables
from denoise.errors import refuse
from denoise.places import Place
from denoise.tables import Provenance


class Parts:
    """A directory of finished pieces, `NAME-00000.parquet` and so on, all of one provenance.

    Raises:
        InputError: the directory holds pieces of other inputs or settings, or something else.
    """

    def __init__(self, directory: Place, provenance: Provenance) -> None:
        self.directory = directory
        self.provenance = provenance
        kept = begun(directory, provenance.made_by)
        if not self._files(""):
            self._begin()
            return
        if kept is not None and kept.run_id != provenance.run_id:
            changed = changes(kept, provenance)
            refuse(
                f"holds the unfinished work of a run with other {changed}",
                file=directory,
                fix="repeat that command to finish it, remove the directory, or give another --out",
            )

    def _begin(self) -> None:
        tables.write_text(self.provenance.to_json() + "\n", self.directory / tables.MANIFEST)

    def read(self, name: str) -> list[pl.DataFrame]:
        """The finished pieces of that name."""
        return [tables.read_frame(file) for file in self._files(f"{name}-")]

    def add(self, name: str, frame: pl.DataFrame) -> None:
        """Keep one more piece."""
        number = len(self._files(f"{name}-"))
        file = self.directory / f"{name}-{number:05d}.parquet"
        tables.write_table(frame, file, self.provenance)

    def _files(self, start: str) -> list[Place]:
        """The pieces whose names start so, in their order."""
        found = places.files_below(self.directory).items()
        return [f for name, f in found if name.startswith(start) and name.endswith(".parquet")]


def begun(directory: Place, made_by: str) -> Provenance | None:
    """What the unfinished work of a command in a directory is made from; None where there is none.

    Raises:
        InputError: the directory holds something else.
    """
    kept = tables.read_manifest(directory)
    # A command may have been killed while it wrote the manifest, which comes first.
    others = places.files_below(directory).keys() - {f".{tables.MANIFEST}.tmp"}
    if others and (kept is None or kept.made_by != made_by):
        refuse(
            "is not unfinished work of denoise",
            file=directory,
            fix="remove it, or give another --out",
        )
    return kept


def remove(directory: Place) -> None:
    """Remove unfinished work, the manifest last: after a kill the rest is still known as such."""
    if isinstance(directory, Path) and directory.is_dir():
        for path in directory.iterdir():
            if path.is_dir():
                places.remove(path)
            elif path.name != tables.MANIFEST:
                path.unlink()
    places.remove(directory)


def changes(kept: Provenance, wanted: Provenance) -> str:
    """The names of the inputs and settings in which two differ."""
    names = []
    for mine, theirs in ((wanted.inputs, kept.inputs), (wanted.settings, kept.settings)):
        names += [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
    return ", ".join(sorted(set(names))) or "denoise version"
