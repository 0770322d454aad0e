"""Tables of several files: directories, patterns and Hive's partitions, here and in a store."""

import gzip
import json
from itertools import pairwise

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_stores import lines
from test_stream import compare, data, scores_of, write

from denoise import parquet, places, schema, tables
from denoise.dataset import read_dataset
from denoise.errors import InputError
from denoise.importers import import_data
from denoise.stages.em import em, join_scores, read_em
from denoise.stages.stream import em_stream
from denoise.stages.stream.rows import batches, pair_id_at, rows_of, splits
from denoise.tables import Provenance


def cut(frame: pl.DataFrame, n: int) -> list[pl.DataFrame]:
    """The rows in n lots of unequal length."""
    edges = [len(frame) * k * k // (n * n) for k in range(n + 1)]
    return [frame.slice(a, b - a) for a, b in pairwise(edges)]


def in_parts(table, frame, n=3, **options):
    """Write a table as a directory of n files, with what else such directories hold."""
    table.mkdir(parents=True)
    for number, some in enumerate(cut(frame, n)):
        some.write_parquet(table / f"part-{number:05d}.parquet", row_group_size=300, **options)
    (table / "_SUCCESS").write_text("")
    (table / "_metadata.parquet").write_text("no table")
    (table / ".part-00009.parquet.crc").write_text("x")
    return table


def there(directory, store: str, name: str):
    """The directory in a store."""
    place = places.place(f"{store}/{name}")
    for file, path in places.files_below(directory).items():
        places.upload(path, place / file)
    return place


@pytest.fixture(params=["here", "store"])
def moved(request, tmp_path):
    """Puts a directory of this machine where it is to be read from."""
    if request.param == "here":
        return lambda directory: directory
    bucket = request.getfixturevalue("bucket")
    return lambda directory: there(directory, bucket, directory.name)


def test_tables_in_parts_are_the_tables_whole(moved, tmp_path):
    pairs, votes = data(4, increasing=False)
    scores = scores_of(pairs)
    whole = write(tmp_path / "whole", pairs, votes)
    scores.write_parquet(tmp_path / "scores.parquet")
    parts = tmp_path / "parts"
    in_parts(parts / "pairs.parquet", pairs)
    in_parts(parts / "votes.parquet", votes, 5)
    in_parts(parts / "scores", scores, 2)
    parts = moved(parts)
    assert_frame_equal(tables.read_frame(parts / "votes.parquet"), votes)
    expected = em(read_dataset(whole), join_scores(tmp_path / "scores.parquet")[0], loss="dpo")
    found = em(read_dataset(parts), join_scores(parts / "scores")[0], loss="dpo")
    assert_frame_equal(found.confidences, expected.confidences)
    given = [parts / "scores", places.place(f"{parts}/scores/part-*.parquet")]
    for number, each in enumerate(given):
        em_stream(parts, tmp_path / f"em-{number}", each, loss="dpo")
        streamed = read_em(tmp_path / f"em-{number}")
        assert_frame_equal(streamed.confidences, expected.confidences, rel_tol=1e-9, abs_tol=1e-9)


def test_both_paths_of_em_agree_on_tables_in_parts(tmp_path):
    pairs, votes = data(6)
    directory = tmp_path / "data"
    in_parts(directory / "pairs.parquet", pairs)
    in_parts(directory / "votes.parquet", votes)
    (tmp_path / "out").mkdir()
    compare(directory, tmp_path / "out")


def test_rows_of_parts_are_counted_through(moved, tmp_path):
    _, votes = data(5)
    table = moved(in_parts(tmp_path / "votes.parquet", votes, 4))
    assert rows_of(table) == len(votes)
    for at_least in (1, 400, 1 << 20):
        found = splits(table, at_least)
        assert found[0].first == 0
        assert all(one.first + one.rows == next_.first for one, next_ in pairwise(found))
        assert found[-1].first + found[-1].rows == len(votes)
        for split in found:
            for first, batch in batches(table, ["pair_id"], split=split):
                ids = votes["pair_id"][first : first + len(batch)]
                assert batch.column(0).to_pylist() == ids.to_list()
    for row in (0, 299, 300, 1_000, len(votes) - 1):
        assert pair_id_at(table, row) == votes["pair_id"][row]


def test_a_part_that_is_written_again_is_read_again(moved, tmp_path):
    _, votes = data(5)
    table = moved(in_parts(tmp_path / "votes.parquet", votes, 4))
    assert rows_of(table) == len(votes)
    (tmp_path / "part").mkdir()
    votes.head(7).write_parquet(tmp_path / "part" / "part-00002.parquet")
    for file, path in places.files_below(tmp_path / "part").items():
        if places.is_remote(table):
            places.upload(path, table / file)
        else:
            path.replace(table / file)
    assert rows_of(table) == sum(map(len, cut(votes, 4))) - len(cut(votes, 4)[2]) + 7
    assert len(tables.read_frame(table)) == rows_of(table)


def test_folders_give_columns(moved, tmp_path):
    _, votes = data(7)
    annotators = votes["annotator_id"].unique().sort()[:3]
    for name in annotators:
        folder = (
            tmp_path / "votes.parquet" / f"annotator_id={name.replace(' ', '%20')}" / "bucket=1"
        )
        some = votes.filter(annotator_id=name).drop("annotator_id")
        in_parts(folder, some, 2)
    kept = votes.filter(pl.col("annotator_id").is_in(annotators.implode()))
    table = moved(tmp_path / "votes.parquet")
    frame = tables.read_table(table, schema.VOTE_ROWS)[0]
    assert frame["bucket"].unique().to_list() == ["1"]
    columns = ["vote_id", "pair_id", "annotator_id", "vote"]
    assert_frame_equal(frame.select(columns).sort("vote_id"), kept.select(columns).sort("vote_id"))
    assert set(parquet.columns_of(table).names) == {*columns, "bucket"}
    read = [
        pl.DataFrame(pl.from_arrow(batch))
        for _, batch in batches(table, ["annotator_id", "vote", "bucket"], coded=["annotator_id"])
    ]
    found = pl.concat(read).with_columns(pl.col("annotator_id").cast(pl.String))
    assert_frame_equal(found, frame.select("annotator_id", "vote", "bucket"))


def test_by_row_group_folders_give_what_they_give_in_memory(tmp_path):
    """A column of the contract and the one of strengths, which nothing may overlook."""
    pairs, votes = data(8)
    for name in ("one", "several"):
        in_parts(tmp_path / name / "pairs.parquet", pairs)
        strengths = ["strong"] if name == "one" else ["strong", "weak"]
        for number, strength in enumerate(strengths):
            some = votes.filter(pl.col("vote_id") % len(strengths) == number)
            in_parts(tmp_path / name / "votes.parquet" / f"strength={strength}", some)
    (tmp_path / "out").mkdir()
    compare(tmp_path / "one", tmp_path / "out")
    with pytest.raises(InputError, match="votes of different strength are not told apart"):
        em_stream(tmp_path / "several", tmp_path / "no")


def test_parts_that_do_not_belong_together_are_refused(moved, tmp_path):
    _, votes = data(1)
    odd = tmp_path / "odd.parquet"
    in_parts(odd, votes)
    votes.with_columns(pl.col("vote_id").cast(pl.String)).write_parquet(odd / "part-99.parquet")
    with pytest.raises(InputError, match=r"other columns than part-00000.parquet has.*vote_id"):
        tables.read_frame(moved(odd))
    runs = tmp_path / "runs.parquet"
    for name in "ab":
        tables.write_table(votes, runs / f"{name}.parquet", Provenance("import", {"of": name}))
    with pytest.raises(InputError, match="made by run"):
        tables.read_table(moved(runs), schema.VOTE_ROWS)
    none = tmp_path / "none.parquet"
    none.mkdir()
    (none / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="is a directory without Parquet files"):
        tables.read_frame(moved(none))
    twice = tmp_path / "twice.parquet" / "vote=a"
    in_parts(twice, votes)
    with pytest.raises(InputError, match="a column that its folders give too"):
        parquet.columns_of(moved(twice.parent))


ROWS = [
    {"prompt": f"p {i}", "chosen": f"a {i}", "rejected": f"b {i}", "annotator": f"who {i % 3}"}
    for i in range(30)
]


def test_a_pattern_is_one_table_in_the_order_of_names(moved, tmp_path):
    folder = tmp_path / "raw"
    (folder / "deep").mkdir(parents=True)
    (folder / "part-2.jsonl").write_text(lines(ROWS[20:]))
    (folder / "part-0.jsonl").write_text(lines(ROWS[:10]))
    with gzip.open(folder / "part-1.jsonl.gz", "wt") as stream:
        stream.write(lines(ROWS[10:20]))
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "deep" / "part-3.jsonl").write_text("no rows")
    where = moved(folder)
    (tmp_path / "all.jsonl").write_text(lines(ROWS))
    whole = import_data(tmp_path / "all.jsonl")
    found = import_data(f"{where}/part-*.jsonl*")
    assert_frame_equal(found.votes, whole.votes)
    assert_frame_equal(found.pairs, whole.pairs)
    assert "3 files as one table" in found.notes
    assert found.provenance.run_id == import_data(f"{where}/part-[0-9]*").provenance.run_id
    assert found.provenance.run_id != import_data(f"{where}/part-[01]*").provenance.run_id
    with pytest.raises(InputError, match="no file has such a name"):
        import_data(f"{where}/none-*.jsonl")
    with pytest.raises(InputError, match="some \\(CSV, TSV\\) have none"):
        import_data(f"{where}/*.*")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    for name in ("odd[1].jsonl", "odd1.jsonl"):
        (tmp_path / name).write_text(lines(ROWS[: 10 if "[" in name else 20]))
    assert len(import_data(tmp_path / "odd[1].jsonl").votes) == 10


def test_partitions_of_a_source_are_columns_of_it(moved, tmp_path):
    folder = tmp_path / "raw"
    for language, some in (("de", ROWS[:10]), ("pt%2FBR", ROWS[10:])):
        (folder / f"language={language}").mkdir(parents=True)
        rows = [{**row, "score": None if language == "de" else 1.5} for row in some]
        (folder / f"language={language}" / "part.jsonl").write_text(lines(rows))
    found = import_data(moved(folder)).votes
    assert found["language"].to_list() == ["de"] * 10 + ["pt/BR"] * 20
    assert found["score"].to_list() == [None] * 10 + [1.5] * 20


def test_the_run_of_a_source_is_told_by_what_its_folders_give(tmp_path):
    runs = {}
    for name in ("language=de/x", "language=pt/x", "language=pt/y"):
        file = tmp_path / str(len(runs)) / f"{name}.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(lines(ROWS))
        runs[name] = import_data(file.parent.parent).provenance.run_id
    assert runs["language=de/x"] != runs["language=pt/x"] == runs["language=pt/y"]


def test_a_directory_without_partitions_is_a_data_set(moved, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for split, some in (("train", ROWS[:20]), ("test", ROWS[20:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    where = moved(folder)
    assert len(import_data(where).votes) == 20
    assert len(import_data(where, split="test").votes) == 10
