"""Files that are damaged, or made to harm: a clear error or the right table, never another one."""

import gzip
import io
import random

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from denoise import schema, tables
from denoise.errors import DenoiseError, InputError
from denoise.importers.files import read_file
from denoise.stages.audit_outputs import flat
from denoise.tables import Provenance

FLIPS = 400


@pytest.fixture(scope="module")
def votes() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    n = 3_000
    return pl.DataFrame(
        {
            "vote_id": np.arange(n),
            "pair_id": [f"pair {i}" for i in rng.integers(0, 900, n)],
            "annotator_id": [f"who {i}" for i in rng.integers(0, 40, n)],
            "vote": rng.choice(["a", "b", "tie"], n),
            "seconds": rng.exponential(10, n),
        }
    )


def damaged_reads(path, whole: bytes, changed, frame, read):
    """How often damage was refused, and how often it did not matter; anything else fails."""
    refused = harmless = 0
    for data in changed:
        path.write_bytes(data)
        try:
            found = read(path)
        except DenoiseError as error:
            assert "Traceback" not in str(error)
            refused += 1
        else:
            assert_frame_equal(found, frame)
            harmless += 1
    return refused, harmless


def read_votes(path):
    return tables.read_table(path, schema.VOTE_ROWS)[0]


def test_a_flipped_bit_is_refused_or_does_not_matter(votes, tmp_path):
    path = tmp_path / "votes.parquet"
    tables.write_table(votes, path, Provenance("import", {"source": "x"}))
    whole = path.read_bytes()
    assert_frame_equal(read_votes(path), votes)
    chosen = random.Random(0)

    def flipped():
        for _ in range(FLIPS):
            data = bytearray(whole)
            data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
            yield bytes(data)

    refused, harmless = damaged_reads(path, whole, flipped(), votes, read_votes)
    assert refused > 0.8 * FLIPS
    print(f"{refused} flips refused, {harmless} harmless, 0 wrong tables")


def test_a_table_cut_short_anywhere_is_refused(votes, tmp_path):
    path = tmp_path / "votes.parquet"
    tables.write_table(votes, path, Provenance("import", {"source": "x"}))
    whole = path.read_bytes()
    cuts = [whole[: len(whole) * k // 100] for k in range(1, 100)] + [whole[:-1]]
    refused, harmless = damaged_reads(path, whole, cuts, votes, read_votes)
    assert (refused, harmless) == (100, 0)


def test_a_changed_byte_in_the_footer_of_anybodys_parquet_is_refused_or_read(tmp_path):
    """Without checksums, as most writers leave them; polars panics at some of these."""
    path = tmp_path / "pairs.parquet"
    frame = pl.DataFrame({name: ["p", "q"] for name in ("prompt", "chosen", "rejected", "who")})
    frame.write_parquet(path)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for at in range(footer, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x1F]) + whole[at + 1 :])
        try:
            assert len(read_file(path).frame) == 2
        except InputError:
            refused += 1
    assert refused > 0.2 * (len(whole) - footer)


def test_a_gzip_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb") as stream:
        for _ in range(300):
            stream.write(b" " * (1 << 20))
    assert path.stat().st_size < 1 << 19
    with pytest.raises(InputError, match="unpacks to more than 300 times its size"):
        read_file(path)


def test_a_parquet_of_a_few_bytes_and_a_hundred_million_rows_is_refused(tmp_path):
    path = tmp_path / "bomb.parquet"
    schema_ = pa.schema([("pair_id", pa.int8())])
    column = pa.DictionaryArray.from_arrays(np.zeros(1 << 22, np.int32), pa.array(["x"]))
    schema_ = pa.schema([("pair_id", column.type)])
    with pq.ParquetWriter(path, schema_, compression="zstd") as writer:
        for _ in range(25):
            writer.write_table(pa.table({"pair_id": column}, schema=schema_))
    for read in (read_file, read_votes):
        with pytest.raises(InputError, match="made to fill the memory"):
            read(path)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ('=HYPERLINK("http://x","y")', '\'=HYPERLINK("http://x","y")'),
        ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("＝1+1", "'＝1+1"),
        ("-1", "-1"),
        ("+2.5", "+2.5"),
        ("worker-7", "worker-7"),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_of_a_csv_is_a_formula(cell, written):
    frame = pl.DataFrame({"annotator_id": [cell], "reliability": [-0.5], "flags": [["drift"]]})
    back = pl.read_csv(io.StringIO(flat(frame).write_csv()), infer_schema=False)
    assert back["annotator_id"][0] == written
    assert back["reliability"][0] == "-0.5"


def test_a_table_of_a_later_schema_says_what_it_needs(votes, tmp_path, monkeypatch):
    path = tmp_path / "votes.parquet"
    monkeypatch.setattr(schema, "VERSION", 2)
    tables.write_table(votes, path, Provenance("import", {"source": "x"}))
    assert_frame_equal(read_votes(path), votes)
    monkeypatch.setattr(schema, "VERSION", 1)
    with pytest.raises(InputError, match=r"of schema 2, and this denoise .* reads up to 1"):
        read_votes(path)


def test_metadata_that_only_pretends_is_refused(votes, tmp_path):
    path = tmp_path / "votes.parquet"
    for text in ("{", "[]", '{"made_by": 1, "extra": 2}', "1"):
        votes.write_parquet(path, metadata={tables.METADATA_KEY: text})
        with pytest.raises(InputError, match="and not how"):
            read_votes(path)
