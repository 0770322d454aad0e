"""The scores of a job as files: one, or one a shard, and the pairs that have none beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from denoise import parquet, places, tables
from denoise.errors import refuse
from denoise.places import Place
from denoise.tables import Provenance

_BESIDE = re.compile(r"\.skipped(\.[^./]+)?$|\.parts/")

SKIPPED_SCHEMA = {
    "pair_id": pl.String,
    "reason": pl.String,
    "prompt_tokens": pl.Int64,
    "a_tokens": pl.Int64,
    "b_tokens": pl.Int64,
}


@dataclass(frozen=True)
class Scores:
    """The `scores` table, the pairs that were not scored with their reasons, and their origin."""

    scores: pl.DataFrame
    skipped: pl.DataFrame
    provenance: Provenance
    notes: tuple[str, ...] = ()


def score_file(out: Place, shard: tuple[int, int] | None) -> Place:
    """Where a run writes its scores: `out`, or a numbered file beside it for one shard of many."""
    if shard is None:
        return out
    return out.with_name(f"{out.stem}-{shard[0]:05d}-of-{shard[1]:05d}{out.suffix}")


def score_files(paths: Place | Sequence[Place]) -> list[Place]:
    """The files of scores that each path stands for.

    It is a file, a directory of them, a pattern, or the name of which shards lie beside it, as
    `NAME-00000-of-00004.parquet` and so on.

    Raises:
        InputError: there is no path.
    """
    given = [paths] if places.is_name(paths) else paths
    if not given:
        refuse("no scores are given", fix="give the file that `denoise score` wrote")
    return [file for path in given for file in _stands_for(places.place(path))]


def _stands_for(path: Place) -> list[Place]:
    if path.is_file():
        return [path]
    if path.is_dir() or places.is_pattern(path):
        files = parquet.files_of(path) if path.is_dir() else places.matches(path)
        # What `score` writes beside: who was skipped, and what it is at.
        return [f for f in files if not _BESIDE.search(f"{f.parent.name}/{f.name}")] or [path]
    name = re.compile(rf"{re.escape(path.stem)}-\d{{5}}-of-\d{{5}}{re.escape(path.suffix)}")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted((file for file in beside if name.fullmatch(file.name)), key=str) or [path]


def write_scores(result: Scores, path: Place) -> None:
    """Write the scores, and the pairs that have none beside them, the scores last."""
    skipped = path.with_name(f"{path.stem}.skipped{path.suffix}")
    if len(result.skipped):
        tables.write_table(result.skipped, skipped, result.provenance)
    else:
        skipped.unlink(missing_ok=True)
    tables.write_table(result.scores, path, result.provenance)
