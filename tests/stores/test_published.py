"""What readers of a store are kept from: half-written directories, names that lead elsewhere."""

import json
import threading

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from small_pairs import make
from test_stores import ROWS, denoise, lines

from denoise import parquet, places, published, schema, tables
from denoise.dataset import write_dataset
from denoise.errors import Fault, InputError, RunError
from denoise.importers import import_data
from denoise.parts import Parts
from denoise.scorers.models import resolve
from denoise.scores import SKIPPED_SCHEMA, Scores, score_files, write_scores
from denoise.stages.em import em, read_em, write_em
from denoise.stages.stream import em_stream
from denoise.tables import Provenance

TEXT = Provenance("run").to_json()


@pytest.fixture
def store(request) -> places.Place:
    """A folder of this program's memory."""
    return places.place(f"memory://{request.node.name.replace('[', '-').replace(']', '')}")


def put(where: places.Place, files: dict[str, str]) -> None:
    for name, text in files.items():
        places.write(where / name, text)


def half_written(out: places.Place, text: str = TEXT) -> None:
    """As `publish` leaves a directory when it is killed."""
    places.write(out / published.MANIFEST, json.dumps({**json.loads(text), "being_written": "me"}))


def test_a_directory_that_is_being_written_is_read_by_nobody(store, policy_dir, tmp_path):
    for file in policy_dir.iterdir():
        places.upload(file, store / "run" / "policy" / file.name)
    put(store / "run" / "weighted", {"train.jsonl": lines(ROWS), "d=1/x.jsonl": lines(ROWS)})
    put(store / "run" / "plain", {"train.jsonl": lines(ROWS)})
    readers = (
        lambda: resolve(str(store / "run" / "policy")),
        lambda: import_data(store / "run" / "plain"),
        lambda: import_data(store / "run" / "weighted"),
        lambda: import_data(f"{store}/run/plain/*.jsonl"),
        lambda: published.fetch(store / "run", tmp_path / "run"),
    )
    for read in readers:
        read()
    half_written(store / "run")  # what lies in it says nothing of itself
    assert not published.is_whole(store / "run")
    for read in readers[:-1]:
        with pytest.raises(InputError, match="is being written"):
            read()
    with pytest.raises(InputError, match="is being written"):
        published.fetch(store / "run", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    places.write(store / "run" / published.MANIFEST, TEXT)
    for read in readers[:-1]:
        read()


def test_the_mark_is_a_key_of_the_manifest_and_no_word_of_it(store):
    made = Provenance("import", settings={"columns": {"annotator": published.UNFINISHED}})
    with tables.staged_directory(store / "data", made) as staging:
        (staging / "x").write_text("x")
    assert published.is_whole(store / "data")
    published.check(store / "data")
    assert tables.read_manifest(store / "data") == made


def test_what_changes_while_it_is_fetched_is_not_kept(store, tmp_path, monkeypatch):
    """The directory is replaced between the first file and the last, which is a pipe."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put(store / "model", {"config.json": "old", "model.safetensors": "old"})
    state = published._state(store / "model")
    kept = published.kept_copy(store / "model")
    assert (kept / "config.json").read_text() == "old"
    assert published.kept_copy(store / "model") == kept
    assert published.fetch(store / "model", kept) == state, "as where another process was first"
    put(store / "model", {"config.json": "new one"})
    assert published._state(store / "model") != state
    other = published.kept_copy(store / "model")
    assert other != kept and (other / "config.json").read_text() == "new one"
    stop = threading.Event()

    def replacing() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            put(store / "model", {"model.safetensors": "x" * number})

    writer = threading.Thread(target=replacing)
    writer.start()
    try:
        with pytest.raises(RunError, match="changed while it was read; repeat this"):
            for attempt in range(200):
                published.fetch(store / "model", tmp_path / f"{attempt}")
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("name", ["../../escaped.txt", "a/../../escaped.txt", "/tmp/escaped.txt"])
def test_names_that_lead_out_of_the_directory_are_refused(name, bucket, tmp_path):
    where = places.place(f"{bucket}/evil")
    where.fs.pipe_file(f"{where.path}/config.json", b"{}")
    where.fs.call_s3("put_object", Bucket=bucket[5:], Key=f"evil/{name}", Body=b"x")
    for read in (
        lambda: published.fetch(where, tmp_path / "deep" / "er" / "model"),
        lambda: resolve(str(where)),
        lambda: import_data(where),
    ):
        with pytest.raises(InputError, match="no name for a file, found"):
            read()
    assert not list(tmp_path.rglob("escaped.txt"))


def test_folders_as_the_pages_of_stores_make_them_are_empty(bucket, tmp_path):
    where = places.place(f"{bucket}/new")
    for key in ("new/", "new/sub/"):
        where.fs.call_s3("put_object", Bucket=bucket[5:], Key=key, Body=b"")
    assert places.files_below(where) == {}
    (tmp_path / "votes.jsonl").write_text(lines(ROWS))
    denoise("import", tmp_path / "votes.jsonl", "--out", where)
    assert set(places.files_below(where)) == {"denoise.json", "pairs.parquet", "votes.parquet"}
    said = denoise("em", where, "--out", f"{bucket}/em")
    assert "denoise export" in said


def test_scores_in_a_directory_leave_out_who_was_skipped_and_what_goes_on(tmp_path):
    scores = pl.DataFrame({"pair_id": ["p"], "a_reward": [1.0], "b_reward": [0.5]})
    skipped = pl.DataFrame([("q", "too long", 1, 1, 1)], schema=SKIPPED_SCHEMA, orient="row")
    made = Provenance("score")
    for number in range(2):
        file = tmp_path / "scores" / f"s-{number:05d}-of-00002.parquet"
        write_scores(Scores(scores, skipped, made), file)
    Parts(tmp_path / "scores" / "s.parquet.parts", made).add("policy", scores)
    expected = [f"s-{number:05d}-of-00002.parquet" for number in range(2)]
    folder = tmp_path / "scores"
    write_scores(Scores(scores, skipped, made), tmp_path / "other" / "s.pq")
    assert [file.name for file in score_files(tmp_path / "other")] == ["s.pq"]
    for given in (folder, folder / "s-*.parquet", str(folder)):
        assert [file.name for file in score_files(given)] == expected


def test_who_may_write_and_not_remove_repeats_a_command(store, monkeypatch):
    """What shows that a directory can be written stays there, as after a kill."""

    def denied(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(type(store.fs), "rm_file", denied)
    out, state = store / "em", set()
    for _ in range(2):
        with tables.staged_directory(out, Provenance("em")) as staging:
            (staging / "summary.json").write_text("{}")
        state.add(tuple(places.versions(out)))
    assert sum(key.endswith(".probe") for key in out.fs.find(out.path)) == 2
    assert set(places.files_below(out)) == {"summary.json", tables.MANIFEST}
    assert len(state) == 1


def test_a_folder_replaces_no_column(tmp_path):
    table = tmp_path / "votes.parquet"
    (table / "vote=a").mkdir(parents=True)
    pl.DataFrame({"vote": ["b"]}).write_parquet(table / "vote=a" / "x.parquet")
    with pytest.raises(InputError, match="a column that its folders give too"):
        tables.read_frame(table)
    (tmp_path / "raw" / "chosen=a").mkdir(parents=True)
    (tmp_path / "raw" / "chosen=a" / "x.jsonl").write_text(lines(ROWS))
    with pytest.raises(InputError, match="a column that its folders give too"):
        import_data(tmp_path / "raw")


def test_files_that_differ_in_what_may_be_empty_are_one_table(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = tmp_path / "votes.parquet"
    table.mkdir()
    for number, nullable in enumerate((True, False)):
        columns = pa.schema([pa.field("pair_id", pa.string(), nullable=nullable)])
        rows = pa.table({"pair_id": ["p"]}, schema=columns)
        pq.write_table(rows, table / f"{number}.parquet")
    parquet.footers(table)
    assert len(tables.read_frame(table)) == 2


def test_unfinished_work_is_found_again_where_a_name_looks_like_a_pattern(store):
    parts = Parts(store / "odd[1]*" / "x.parts", Provenance("score"))
    for value in (1, 2):
        parts.add("policy", pl.DataFrame({"row": [value]}))
    again = Parts(store / "odd[1]*" / "x.parts", Provenance("score"))
    assert [frame["row"][0] for frame in again.read("policy")] == [1, 2]


def test_no_secret_of_an_address_is_shown():
    secret = "s3://KEY:SECRET@bucket/x?token=T"
    shown = [str(Fault("wrong", file=secret)), places.shown(secret)]
    with pytest.raises(InputError) as refused:
        places.place("https://KEY:SECRET@host/x")
    shown.append(str(refused.value))
    for text in shown:
        assert "SECRET" not in text and "token" not in text


def test_a_later_schema_is_named_by_row_group_too(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "VERSION", 2)
    write_dataset(make(20), tmp_path / "data")
    monkeypatch.setattr(schema, "VERSION", 1)
    with pytest.raises(InputError, match="of schema 2, and this denoise"):
        em_stream(tmp_path / "data", tmp_path / "em")


def test_a_table_is_read_with_its_own_provenance(store):
    """One that is replaced between two tables of a directory is seen."""
    data = make(50)
    result = em(data)
    write_em(result, store / "em")
    assert_frame_equal(read_em(store / "em").confidences, result.confidences)
    other = Provenance("em", {"data": "other"})
    tables.write_table(result.annotators, store / "em" / "annotators.parquet", other)
    with pytest.raises(InputError, match="made by run"):
        read_em(store / "em")


def test_settings_of_a_run_are_read_from_a_store(bucket, tmp_path):
    places.write(places.place(f"{bucket}/run.yaml"), "data: nothing.jsonl\nroundz: 1\n")
    said = denoise("run", f"{bucket}/run.yaml", "--out", tmp_path / "run", status=2)
    assert "there is no such option" in said and "rounds is meant?" in said


class Killed(BaseException):
    """What ends a command at once."""


def work(out: places.Place, text: str, killed: bool = False) -> None:
    """A command that adds a line to a file of its directory, and ends or is killed."""
    with published.workshop(out) as here:
        here.mkdir(exist_ok=True)
        with (here / "log").open("a") as log:
            log.write(text)
        (here / published.MANIFEST).write_text(TEXT)  # of a run, it says nothing of its rounds
        if killed:
            raise Killed


def test_work_of_a_killed_command_takes_the_place_of_nothing_newer(store, tmp_path, monkeypatch):
    out = store / "policy"
    cache = {name: tmp_path / name for name in ("one machine", "another")}

    def on(machine, text, **options):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache[machine]))
        work(out, text, **options)

    def log() -> str:
        return (out / "log").read_text()

    with pytest.raises(Killed):
        on("one machine", "a", killed=True)
    assert not out.exists()
    on("one machine", "b")
    assert log() == "ab", "it goes on"
    with pytest.raises(Killed):
        on("one machine", "c", killed=True)
    on("another", "d")
    assert log() == "abd"
    with pytest.raises(InputError, match="changed since the work in") as refused:
        on("one machine", "e")
    assert log() == "abd"
    places.remove(next((cache["one machine"] / "denoise" / "work").iterdir()))
    assert str(cache["one machine"] / "denoise" / "work") in str(refused.value)
    on("one machine", "e")
    assert log() == "abde", "what another machine did is gone on from"


def test_what_a_store_got_meanwhile_is_not_replaced(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    out = store / "policy"
    work(out, "a")
    with (
        pytest.raises(RunError, match=r"changed since the work in .* began; copy"),
        published.workshop(out) as here,
    ):
        (here / "log").write_text("mine")
        put(out, {"log": "theirs", published.MANIFEST: "{}"})
        half_written(out)
    assert (out / "log").read_text() == "theirs"
    assert here.joinpath("log").read_text() == "mine"


def test_a_publication_that_was_killed_is_repeated(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    out = store / "policy"
    work(out, "a")
    upload, left = places.upload, iter([True])

    def killed(*given: object) -> None:
        upload(*given)
        if next(left, False):
            raise Killed

    monkeypatch.setattr(places, "upload", killed)
    with pytest.raises(Killed):
        work(out, "b")
    assert not published.is_whole(out)
    work(out, "c")
    assert (out / "log").read_text() == "abc"
    assert published.is_whole(out)
