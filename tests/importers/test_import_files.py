"""Files, directories and hub ids: what can be read, and what is said of what cannot."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys

import datasets
import polars as pl
import pyarrow as pa
import pytest

from denoise.errors import InputError
from denoise.importers import import_data

ROWS = [
    {"prompt": "p", "chosen": "good ✓", "rejected": "bad", "worker": "w1", "n": 1},
    {"prompt": 'q, "r"\nand more', "chosen": "", "rejected": "bad", "worker": "w2", "n": 2},
]
FRAME = pl.DataFrame(ROWS)


def csv_text(separator=","):
    return FRAME.write_csv(separator=separator, quote_style="non_numeric").encode()


def parquet():
    buffer = io.BytesIO()
    FRAME.write_parquet(buffer)
    return buffer.getvalue()


CONTENTS = {
    "jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "ndjson": ("\r\n".join(map(json.dumps, ROWS)) + "\r\n\r\n").encode("utf-8-sig"),
    "json": json.dumps(ROWS).encode(),
    "csv": csv_text(),
    "tsv": csv_text("\t"),
    "parquet": parquet(),
}
COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


def refused(source, **options):
    with pytest.raises(InputError) as caught:
        import_data(source, **options)
    return str(caught.value)


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_every_kind_of_file_gives_the_same_pairs(write, kind, ending):
    data = import_data(write(f"rows.{kind}{ending}", COMPRESS[ending](CONTENTS[kind])))
    expected = import_data(FRAME)
    assert data.pairs.equals(expected.pairs)
    assert data.votes.equals(expected.votes)  # also the types of the extra columns
    assert data.skipped.is_empty()


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_the_first_bytes_tell_the_kind_where_the_name_does_not(write, kind):
    assert len(import_data(write("rows", gzip.compress(CONTENTS[kind]))).votes) == 2


@pytest.mark.parametrize(
    "content",
    [
        {name: [row[name] for row in ROWS] for name in ROWS[0]},
        {name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]},
        {"x7": ROWS[0], "x8": ROWS[1]},
        {"data": ROWS, "version": 2},
    ],
)
def test_json_objects_of_columns_and_of_records(write, content):
    assert import_data(write("d.json", json.dumps(content))).votes["n"].to_list() == [1, 2]


def test_json_lines_under_the_name_json(write):
    assert len(import_data(write("d.json", CONTENTS["jsonl"])).votes) == 2


def test_every_malformed_json_line_is_named(write):
    good = json.dumps(ROWS[0])
    message = refused(write("d.jsonl", f"{good}\n\nnope\n{good}\n[1]\n{good[:-9]}"))
    lines = message.splitlines()
    assert len(lines) == 3
    assert "d.jsonl: line 3: not JSON" in lines[0] and "found 'nope'" in lines[0]
    assert "line 5: not a JSON object" in lines[1]
    assert "line 6: not JSON" in lines[2]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("d.json", '[{"chosen": "x"', "line 1: not JSON"),
        ("d.json", "[1, 2]", "row 0: not a JSON object"),
        ("d.json", "[]", "no rows"),
        ("d.json", "7", "holds no table"),
        ("d.jsonl", "", "the file is empty"),
        ("d.jsonl", b"x\x01\0\0\0\0L1\n", "line 1: not JSON"),
        ("d.jsonl.gz", gzip.compress(b""), "the file is empty"),
        ("d.csv", "chosen,rejected\n", "there are no rows"),
        ("d.csv", "chosen,rejected\nx,y\nx\nx,y,z\n", "line 3: 1 field(s), where the header has 2"),
        ("d.csv", 'chosen,rejected\nx,"y\nx,y\n', "line 2: bad quoting"),
        ("d.csv", "chosen,chosen\nx,y\n", "names a column twice, found 'chosen'"),
        ("d.csv", "chosen,chosen\0b,rejected\nx,y,z\n", "a column has a NUL in it"),
        ("d.csv", b"chosen,rejected\nx,y\ncaf\xe9,y\n", "line 3: the text is not UTF-8"),
        ("d.jsonl", b'{"chosen": "\xff"}\n', "line 1: the text is not UTF-8"),
        ("d.parquet", parquet()[:-40], "not a whole Parquet file"),
        ("d.jsonl.gz", b'{"chosen": "x"}', "not a gzip file"),
        ("d.jsonl.gz", gzip.compress(os.urandom(4000))[:-500], "cannot be read whole"),
        ("d.jsonl.zst", pa.compress(os.urandom(4000), "zstd", asbytes=True)[:-500], "read whole"),
        ("d.xlsx", b"PK\x03\x04", "the kind of file is not known"),
    ],
)
def test_what_cannot_be_read_is_said_in_lines_that_name_the_file(write, name, text, said):
    message = refused(write(name, text))
    assert said in message
    assert all(name in line and ";" in line for line in message.splitlines())


def test_numbers_that_json_does_not_know_are_missing_values(write):
    text = '{"chosen": "x", "rejected": "y", "worker": NaN}\n'
    text += '{"chosen": "x", "rejected": "z", "worker": 1}'
    data = import_data(write("d.jsonl", text))
    assert data.votes["annotator_id"].to_list() == ["1"]
    assert data.skipped["reason"].to_list() == ["'worker' is empty"]


def test_half_surrogate_pairs_are_replaced_and_counted_and_whole_ones_kept(write):
    text = r'{"chosen": "x\ud800", "rejected": "y\ud83d\ude42"}'
    data = import_data(write("d.jsonl", text))
    pair = data.pairs.row(0, named=True)
    assert {pair["response_a"], pair["response_b"]} == {"x\ufffd", "y🙂"}
    assert any(note.startswith("replaced 1 invalid") for note in data.notes)


def test_csv_keeps_leading_zeros_and_tells_an_empty_text_from_a_missing_one(write):
    text = 'chosen,rejected,worker,code,score\nx,"",007,01,1.5\n"x\ny",z,7,2,2\n,z,7,2,\n'
    data = import_data(write("d.csv", text))
    assert data.votes["annotator_id"].to_list() == ["007", "7"]
    assert data.votes["code"].to_list() == ["01", "2"]
    assert data.votes["score"].to_list() == [1.5, 2.0]
    assert data.skipped["reason"].to_list() == ["'chosen' is empty"]


def test_numbers_in_csv_that_a_number_cannot_hold_stay_text(write):
    long, short = "12345678901234567890", "1234567890123456789"
    text = f"chosen,rejected,id,big,tiny\nx,y,{long},1e999,1e-300\nv,w,{short},2,3\n"
    votes = import_data(write("d.csv", text)).votes
    assert votes["id"].to_list() == [long, short]
    assert votes["big"].to_list() == ["1e999", "2"]
    assert votes["tiny"].to_list() == [1e-300, 3.0]


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_csv_as_spreadsheets_write_it_in_many_countries(write, separator, name):
    data = import_data(write("d.csv", csv_text(separator)))
    assert data.pairs.equals(import_data(write("e.csv", csv_text())).pairs)
    assert f"the columns are separated by {name}" in data.notes


def test_messages_in_csv_are_read_from_json(write):
    chat = [json.dumps([{"role": "assistant", "content": text}]) for text in "xy"]
    frame = pl.DataFrame({"prompt": ["p"], "chosen": chat[:1], "rejected": chat[1:]})
    pair = import_data(write("d.csv", frame.write_csv())).pairs.row(0, named=True)
    assert pair["prompt"] == [{"role": "user", "content": "p"}]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_response_of_a_million_characters(tmp_path, kind):
    long = "wörd " * 200_000
    frame = pl.DataFrame({"prompt": ["p"], "chosen": [long], "rejected": [long + "!"]})
    path = tmp_path / f"d.{kind}"
    if kind == "jsonl":
        frame.write_ndjson(path)
    else:
        getattr(frame, f"write_{kind}")(path)
    assert import_data(path).pairs["response_a"].str.len_chars()[0] >= 1_000_000


MESSAGES = [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize("kind", ["jsonl", "json"])
@pytest.mark.parametrize("order", [1, -1])
def test_messages_in_a_column_of_text_are_refused_and_not_read_as_text(write, kind, order):
    rows = [ROWS[0], ROWS[1] | {"chosen": MESSAGES}][::order]
    text = json.dumps(rows) if kind == "json" else "\n\n".join(map(json.dumps, rows))
    where = f"row {rows.index(ROWS[1] | {'chosen': MESSAGES})}, column 'chosen'"
    message = refused(write(f"d.{kind}", text))
    assert where in message and "give every row of the column in one form" in message


def test_text_that_is_json_and_other_columns_of_two_kinds_are_kept(write):
    written = json.dumps(MESSAGES[0])
    rows = [ROWS[0] | {"chosen": written, "extra": "x"}, ROWS[1] | {"extra": [1]}]
    data = import_data(write("d.jsonl", "\n".join(map(json.dumps, rows))))
    assert written in data.pairs.row(0)
    assert data.votes["extra"].to_list() == ["x", "[1]"]


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_json_too_deep_to_read_is_one_line(write, kind):
    message = refused(write(f"d.{kind}", '{"a":' * 50_000 + "1" + "}" * 50_000))
    assert "not JSON (maximum recursion depth" in message and "\n" not in message


@pytest.mark.parametrize("name", ["x" * 5000, "user/" + "x" * 300])
def test_a_name_that_is_too_long_is_one_line(name):
    assert "\n" not in refused(name)


def test_no_name_at_all_is_not_this_directory():
    assert refused("") == "no source is given; give a file, a directory or a hub id"


def test_a_short_command_ends_in_peace_where_arrow_has_one_thread(write):
    path = write("d.csv", "chosen,rejected\n")
    for _ in range(4):  # a thread of Arrow's that outlived the command aborted it 3 times of 4
        run = subprocess.run(
            [sys.executable, "-m", "denoise", "import", str(path), "--out", str(path) + ".d"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert run.returncode == 2


@pytest.mark.parametrize("name", ["nowhere.jsonl", "user/data.csv.gz", "/no/such/place"])
def test_a_path_that_is_not_there(name):
    assert refused(name) == f"{name}: there is no such file or directory; check the path"


def test_an_address_is_refused_without_its_credentials():
    message = refused("https://me:secret@example.org/d.jsonl?token=hf_abcdefghijklmn")
    assert message.startswith("https://example.org/d.jsonl: addresses are not read")
    assert "secret" not in message and "hf_" not in message


def test_a_hub_id_that_cannot_be_loaded_is_one_line():
    message = refused("nobody-here/nothing-there")
    assert message.startswith("nobody-here/nothing-there: there is no such file or directory")
    assert "\n" not in message


def test_saved_data_sets_and_their_splits(tmp_path):
    held = datasets.Dataset.from_list(ROWS)
    held.save_to_disk(tmp_path / "one")
    assert import_data(tmp_path / "one").pairs.equals(import_data(FRAME).pairs)
    both = datasets.DatasetDict({"train": held, "test": held.select([1])})
    both.save_to_disk(tmp_path / "two")
    data = import_data(tmp_path / "two")
    assert len(data.votes) == 2 and any("took the split 'train'" in note for note in data.notes)
    test = import_data(tmp_path / "two", split="test")
    assert len(test.votes) == 1 and test.provenance.settings["split"] == "test"
    message = refused(tmp_path / "two", split="validation")
    assert "no such split" in message and "train, test" in message


def test_several_splits_without_a_train_must_be_named(tmp_path):
    held = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"prefs": held, "sft": held}).save_to_disk(tmp_path / "d")
    assert "give --split with one of prefs, sft" in refused(tmp_path / "d")


def test_directories_of_files_that_datasets_reads(tmp_path):
    FRAME.write_parquet(tmp_path / "train.parquet")
    FRAME.head(1).write_parquet(tmp_path / "test.parquet")
    assert len(import_data(tmp_path).votes) == 2
    assert len(import_data(tmp_path, split="test").votes) == 1
    (tmp_path / "empty").mkdir()
    assert "the data set cannot be loaded" in refused(tmp_path / "empty")


def test_data_sets_in_memory_as_they_are_selected():
    held = datasets.Dataset.from_list(ROWS)
    assert import_data(held.select([1])).votes["n"].to_list() == [2]
    assert import_data(held.to_iterable_dataset()).votes["n"].to_list() == [1, 2]


def test_a_file_has_no_splits(write):
    assert "a file has no splits" in refused(write("d.jsonl", CONTENTS["jsonl"]), split="train")


def test_a_cut_directory_of_a_saved_data_set_is_one_line(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "d")
    next((tmp_path / "d").glob("*.arrow")).write_bytes(b"cut")
    assert "the data set cannot be loaded" in refused(tmp_path / "d")


def test_the_run_is_told_by_the_content_and_not_by_the_name(write):
    first = import_data(write("a.jsonl", CONTENTS["jsonl"]))
    second = import_data(write("b.jsonl", CONTENTS["jsonl"]))
    assert first.provenance == second.provenance
    assert first.provenance.run_id != import_data(write("c.csv", csv_text())).provenance.run_id


def test_bytes_that_are_no_text_are_refused_with_their_row():
    frame = pl.DataFrame({"chosen": [b"a", None, b"\xff"], "rejected": ["x", "y", "z"]})
    assert "row 2, column 'chosen': bytes that are no text" in refused(frame)
    data = import_data(frame.filter(pl.col("rejected") != "z"))
    assert "a" in data.pairs.row(0) and len(data.skipped) == 1


def test_bytes_in_a_table_do_not_stop_the_import():
    data = import_data(FRAME.with_columns(image=pl.lit(b"\xff\x00")))
    assert data.votes["image"].to_list() == [b"\xff\x00"] * 2


def test_a_file_is_imported_without_datasets(write):
    path = write("d.jsonl", CONTENTS["jsonl"])
    code = f"import sys, denoise; denoise.import_data({str(path)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"datasets", "torch", "huggingface_hub"} & set(done.stdout.split())
