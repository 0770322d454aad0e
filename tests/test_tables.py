"""Provenance, atomic writes, and directories that take their place whole or not at all."""

from __future__ import annotations

import polars as pl
import pytest

from denoise import schema, tables
from denoise.errors import InputError
from denoise.plain import without_credentials
from denoise.tables import Provenance

FRAME = pl.DataFrame({"pair_id": ["p"], "prompt": ["q"], "response_a": ["x"], "response_b": ["y"]})


def test_a_table_keeps_its_provenance(tmp_path):
    made = Provenance("import", {"source": "abc"}, {"columns": {"prompt": "q"}})
    tables.write_table(FRAME, tmp_path / "pairs.parquet", made)
    frame, read = tables.read_table(tmp_path / "pairs.parquet", schema.PAIRS)
    assert frame.equals(FRAME)
    assert (read.run_id, read.settings) == (made.run_id, made.settings)


def test_equal_runs_write_equal_bytes(tmp_path):
    for name in ("one", "two"):
        tables.write_table(FRAME, tmp_path / name, Provenance("import", {"source": "abc"}))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_users_own_table_is_taken_as_it_is(tmp_path):
    FRAME.write_parquet(tmp_path / "pairs.parquet")
    assert tables.read_table(tmp_path / "pairs.parquet", schema.PAIRS)[1] is None


def test_a_missing_vote_id_is_the_row_number(tmp_path):
    votes = pl.DataFrame({"pair_id": ["p", "p"], "annotator_id": ["x", "y"], "vote": ["a", "b"]})
    votes.write_parquet(tmp_path / "votes.parquet")
    frame, _ = tables.read_table(tmp_path / "votes.parquet", schema.VOTE_ROWS)
    assert frame["vote_id"].to_list() == [0, 1]


@pytest.mark.parametrize("keep", [0, 3, 50, -1])
def test_a_file_cut_short_is_named(tmp_path, keep):
    path = tmp_path / "pairs.parquet"
    tables.write_table(FRAME, path, Provenance("import"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"pairs\.parquet: not a whole Parquet file"):
        tables.read_table(path, schema.PAIRS)


def test_all_faults_of_a_table_are_said_at_once(tmp_path):
    frame = pl.DataFrame(
        {
            "pair_id": ["p", "p", "q"],
            "policy_a_logps": [-1.0, float("nan"), -2.0],
            "policy_b_logps": ["x", "y", "z"],
            "ref_a_logps": [None, None, None],
            "ref_b_logps": [-1.0, None, -2.0],
            "a_tokens": [1, 2, 3],
        }
    )
    frame.write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(InputError) as error:
        tables.read_table(tmp_path / "scores.parquet", schema.SCORES)
    said = str(error.value).splitlines()
    assert len(said) == 4
    for line, part in zip(
        said,
        (
            "row 1, column 'policy_a_logps'",
            "'policy_b_logps': wrong type",
            "'b_tokens'",
            "repeated",
        ),
        strict=True,
    ):
        assert part in line and "scores.parquet" in line


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    tables.write_text("old", path)
    with pytest.raises(ValueError), tables.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    out = tmp_path / "em"
    with tables.staged_directory(out, Provenance("em")) as staging:
        (staging / "a").write_text("1")
    with pytest.raises(ValueError), tables.staged_directory(out, Provenance("em")) as staging:
        (staging / "a").write_text("2")
        raise ValueError
    assert (out / "a").read_text() == "1"
    with tables.staged_directory(out, Provenance("em")) as staging:
        (staging / "b").write_text("3")
    assert sorted(p.name for p in out.iterdir()) == ["b", "denoise.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["em"]


def test_what_a_kill_between_the_two_renames_left_is_put_back(tmp_path):
    retired = tmp_path / ".em.old"
    retired.mkdir()
    (retired / "a").write_text("1")
    tables.write_text(Provenance("em").to_json(), retired / tables.MANIFEST)
    with (
        pytest.raises(ValueError),
        tables.staged_directory(tmp_path / "em", Provenance("em")),
    ):
        raise ValueError
    assert (tmp_path / "em" / "a").read_text() == "1"


@pytest.mark.parametrize("foreign", ["file", "files", "other command"])
def test_an_output_that_is_not_its_own_is_refused(tmp_path, foreign):
    out = tmp_path / "out"
    if foreign == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    if foreign == "other command":
        tables.write_text(Provenance("import").to_json(), out / tables.MANIFEST)
    with pytest.raises(InputError, match="give another --out"):
        tables.check_out(out, "em")


def test_tables_of_two_runs_are_refused(tmp_path):
    one, two = (Provenance("import", {"source": s}) for s in "ab")
    with pytest.raises(InputError, match="made by run"):
        tables.same_run({tmp_path / "x": one, tmp_path / "y": two, tmp_path / "z": None})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://user:secret@example.org/a/b?token=secret#x", "https://example.org/a/b"),
        ("hf_abcdefghijklmnop is no model", "*** is no model"),
        ("404 for https://me:secret@host/x?token=secret here", "404 for https://host/x here"),
        ("hf_datasets/api-feedback.jsonl", "hf_datasets/api-feedback.jsonl"),
        ("org/model", "org/model"),
    ],
)
def test_credentials_are_not_kept(given, kept):
    assert without_credentials(given) == kept


def test_the_pairs_hash_sees_texts_and_ids_and_not_the_order():
    two = pl.concat([FRAME, FRAME.with_columns(pl.lit("q").alias("pair_id"))])
    assert schema.pairs_hash(two) == schema.pairs_hash(two.reverse())
    changed = two.with_columns(pl.lit("other").alias("prompt"))
    assert schema.pairs_hash(changed) != schema.pairs_hash(two)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "sub", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot be written"):
            tables.check_out(out, "em")


def test_votes_without_annotators_belong_to_all(tmp_path):
    pl.DataFrame({"pair_id": ["p"], "vote": ["a"]}).write_parquet(tmp_path / "votes.parquet")
    frame, _ = tables.read_table(tmp_path / "votes.parquet", schema.VOTE_ROWS)
    assert frame["annotator_id"].to_list() == [schema.ALL_ANNOTATORS]
