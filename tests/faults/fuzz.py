"""The importers or the table reader on inputs that a fuzzer finds by what they reach of the code.

    pip install -c constraints.txt atheris    # where it has a build; nothing else needs it
    python tests/faults/fuzz.py importers --seconds 300
    python tests/faults/fuzz.py tables --seconds 300

Prints how many inputs were tried and what became of them. Whatever is neither a `DenoiseError`
nor a table that keeps its contract ends it, with the input in a file `crash-…` beside.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["denoise"], enable_loader_override=False):
    from denoise import schema, tables
    from denoise.errors import DenoiseError
    from denoise.importers import import_data

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from test_fuzz import ODD, SEEDS, must_be_clear

CONTRACTS = (
    schema.VOTE_ROWS,
    schema.PAIRS,
    schema.LABELS,
    schema.SCORES,
    schema.TRUTH_VOTES,
    schema.TRUTH_LABELS,
)
TEXTS = ["a", "b", "tie", "", "x", "\u202e", "\u200b", "a\x00", "p" * 300]
NUMBERS = [0, 1, -1, 2**31, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 0.5, 1.0, -3.0, 1e308, 5e-324, math.nan, math.inf, -math.inf]


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


PAIRS = pl.read_ndjson(SEEDS["pairs.jsonl"])
FILES = SEEDS | {
    "pairs.parquet": parquet(PAIRS),
    "pairs.jsonl.gz": gzip.compress(SEEDS["pairs.jsonl"], mtime=0),
    "labels.tsv": SEEDS["labels.csv"].replace(b",", b"\t"),
}
NAMES = tuple(FILES)


def must_keep(frame: pl.DataFrame, contract: schema.Contract) -> None:
    """Every column of the contract is there, without empty values, and its key is unique."""
    assert len(frame) and schema.faults(frame, contract, "table") == []
    for wanted in contract.columns:
        assert wanted.name in frame.columns or not wanted.required
        assert wanted.null or not frame[wanted.name].null_count()
    assert not contract.key or not frame.select(contract.key).is_duplicated().any()


def import_file(data: bytes, folder: Path) -> str:
    """The first byte says the file's name, the rest is the file."""
    path = folder / NAMES[data[0] % len(NAMES)] if data else folder / NAMES[0]
    path.write_bytes(data[1:])
    try:
        found = import_data(str(path))
    except DenoiseError as error:
        must_be_clear(error)
        return "refused"
    finally:
        path.unlink()
    if found.is_preference:
        kept = ((found.pairs, schema.PAIRS), (found.votes, schema.VOTE_ROWS))
        assert set(found.votes["pair_id"]) <= set(found.pairs["pair_id"])
    else:
        kept = ((found.labels, schema.LABELS),)
    for frame, contract in kept:
        must_keep(frame, contract)
    return "imported"


def plain_column(wanted: schema.Column, n: int) -> pa.Array:
    """What the contract asks for."""
    if wanted.kind in ("int", "float"):
        return pa.array(range(n), pa.int64() if wanted.kind == "int" else pa.float64())
    return pa.array(["a"] * n if wanted.name == "vote" else [f"x{i}" for i in range(n)])


def odd_column(given: atheris.FuzzedDataProvider, n: int) -> pa.Array:
    """Values of some type, some of them empty."""

    def values(one: Callable[[], object]) -> list[object]:
        return [None if given.ConsumeProbability() < 0.1 else one() for _ in range(n)]

    def text() -> str:
        if given.ConsumeBool():
            return given.PickValueInList(TEXTS)
        return given.ConsumeUnicodeNoSurrogates(given.ConsumeIntInRange(0, 6))

    def number() -> int:
        return given.PickValueInList(NUMBERS) if given.ConsumeBool() else given.ConsumeInt(2)

    def real() -> float:
        return given.PickValueInList(FLOATS) if given.ConsumeBool() else given.ConsumeFloat()

    kinds: list[Callable[[], pa.Array]] = [
        lambda: pa.array(values(text), pa.string()),
        lambda: pa.array(values(text), pa.string()).dictionary_encode(),
        lambda: pa.array(values(number), pa.int64()),
        lambda: pa.array([v and v % 200 for v in values(number)], pa.uint8()),
        lambda: pa.array(values(real), pa.float64()),
        lambda: pa.array(values(given.ConsumeBool), pa.bool_()),
        lambda: pa.array(values(lambda: text().encode()), pa.binary()),
        lambda: pa.array(values(lambda: [text()]), pa.list_(pa.string())),
        lambda: pa.array(
            values(lambda: [{"role": text(), "content": text()}]),
            pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        ),
        lambda: pa.array(values(lambda: {"a": number()}), pa.struct({"a": pa.int64()})),
        lambda: pa.array([v and v % 10**6 for v in values(number)], pa.date32()),
        lambda: pa.nulls(n),
    ]
    return given.PickValueInList(kinds)()


def read_table(data: bytes, folder: Path) -> str:
    """A table that the bytes describe, with metadata of theirs, or the bytes themselves as one."""
    given = atheris.FuzzedDataProvider(data)
    contract = given.PickValueInList(list(CONTRACTS))
    path = folder / "table.parquet"
    if given.ConsumeBool():
        n = given.ConsumeIntInRange(0, 5)
        columns = {
            c.name: plain_column(c, n) if given.ConsumeProbability() < 0.8 else odd_column(given, n)
            for c in contract.columns
            if given.ConsumeProbability() < 0.95
        }
        if given.ConsumeBool():
            name = given.PickValueInList(["other", "vote_id", "strength", "prompt "])
            columns[name] = odd_column(given, n)
        metadata = {}
        if given.ConsumeProbability() < 0.2:
            metadata[tables.METADATA_KEY] = given.ConsumeUnicodeNoSurrogates(30)
        if given.ConsumeProbability() < 0.2:
            metadata[tables.SCHEMA_KEY] = given.ConsumeUnicodeNoSurrogates(4)
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    else:
        path.write_bytes(given.ConsumeBytes(given.remaining_bytes()))
    try:
        frame, _ = tables.read_table(path, contract)
    except DenoiseError as error:
        must_be_clear(error)
        return "refused"
    finally:
        path.unlink()
    must_keep(frame, contract)
    return "read"


def first_inputs(target: str) -> Iterator[bytes]:
    """What the fuzzer begins with."""
    if target == "importers":
        yield from (bytes([i]) + FILES[name] for i, name in enumerate(NAMES))
    else:
        votes = pl.DataFrame({"pair_id": ["p"], "annotator_id": ["x"], "vote": ["a"]})
        yield from (parquet(votes), bytes(range(256)), b"\x01" * 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=("importers", "tables"))
    parser.add_argument("--seconds", type=float, default=300)
    given = parser.parse_args()
    one = {"importers": import_file, "tables": read_table}[given.target]
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(first_inputs(given.target)):
        (corpus / str(number)).write_bytes(data)
    words = folder / "words"
    quoted = ("".join(f"\\x{byte:02x}" for byte in odd[:60]) for odd in ODD)
    words.write_text("\n".join(f'"{word}"' for word in quoted))
    counts: Counter[str] = Counter()
    until = time.monotonic() + given.seconds

    def tried(data: bytes) -> None:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            counts[one(data, folder)] += 1
        if time.monotonic() > until:
            became = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
            print(f"{given.target}: {counts.total():,} inputs in {given.seconds:.0f} s: {became}")
            sys.stdout.flush()
            os._exit(0)  # libFuzzer has no other end

    options = [
        "-max_len=4096",
        "-rss_limit_mb=6000",
        "-timeout=60",
        f"-dict={words}",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *options], tried)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
