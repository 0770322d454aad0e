"""Every command from and to a store, where nothing, something or everything goes wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_stream import data, write

from denoise import places, published, tables
from denoise.errors import InputError
from denoise.stages.em import read_em
from denoise.tables import Provenance

N_PAIRS = 120
ROWS = [
    {
        "prompt": f"p {row // 3}",
        "chosen": f"good {row // 3}",
        "rejected": f"bad {row // 3}",
        "annotator": f"who {row % 7}",
        "margin": (row * 37 % 11) / 3 - 1,
    }
    for row in range(3 * N_PAIRS)
]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def denoise(*words: object, env: dict[str, str] | None = None, status: int = 0) -> str:
    """What a command says, in a process of its own; it must end with that status."""
    command = [sys.executable, "-m", "denoise", *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    assert "Traceback" not in said
    for secret in ("key-of-the-tests", "secret-of-the-tests"):
        assert secret not in said
    return said


def every_command(source: str, where: str, policy: str, env: dict[str, str] | None = None) -> None:
    """The pipeline from a source, all its outputs below `where`."""
    data_dir, scores = f"{where}/data", f"{where}/scores.parquet"
    tables_of_audit = ("--parquet", f"{where}/audit", "--csv", f"{where}/csv")
    others = ("--clean", f"{where}/clean.parquet", "--json", f"{where}/audit.json")
    steps = [
        ("import", source, "--out", data_dir),
        ("score", data_dir, "--policy", policy, "--out", scores),
        ("em", data_dir, "--scores", scores, "--loss", "simpo", "--out", f"{where}/em"),
        ("em", data_dir, "--margin", "margin", "--out", f"{where}/votes-em"),
        ("em", data_dir, "--stream", "--out", f"{where}/streamed"),
        ("export", data_dir, f"{where}/em", "--out", f"{where}/weighted"),
        ("audit", data_dir, "--out", f"{where}/report.html", *tables_of_audit, *others),
    ]
    for step in steps:
        denoise(*step, env=env)


def contents(where: str, below: Path) -> dict[str, object]:
    """What a place holds: tables with their origin, other files as text without its address."""
    found: dict[str, object] = {}
    place = places.place(where)
    files = places.files_below(place)
    if places.is_remote(place):
        places.download(place, below)
    else:
        below = Path(where)
    for name in files:
        if name.endswith(".parquet"):
            found[name] = pl.read_parquet(below / name, glob=False)
            found[f"{name} of"] = tables.read_provenance(below / name)
        else:
            found[name] = (below / name).read_bytes().replace(where.encode(), b"WHERE")
    return found


def same(one: dict[str, object], other: dict[str, object]) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        if isinstance(value, pl.DataFrame):
            assert_frame_equal(value, other[name])
        else:
            assert value == other[name], name


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "votes.jsonl"
    path.write_text(lines(ROWS))
    return path


@pytest.fixture(scope="module")
def here(source, policy_dir, tmp_path_factory) -> dict[str, object]:
    """What every command gives on this machine."""
    where = tmp_path_factory.mktemp("here") / "all"
    every_command(str(source), str(where), str(policy_dir))
    return contents(str(where), where)


def test_every_command_gives_in_a_store_what_it_gives_here(
    bucket, policy_dir, source, here, tmp_path
):
    places.upload(source, places.place(f"{bucket}/votes.jsonl"))
    for file in policy_dir.iterdir():
        places.upload(file, places.place(f"{bucket}/models/{policy_dir.name}") / file.name)
    there = f"{bucket}/there"
    every_command(f"{bucket}/votes.jsonl", there, f"{bucket}/models/{policy_dir.name}")
    same(here, contents(there, tmp_path / "fetched"))


def test_connections_that_drop_change_nothing(bucket, policy_dir, source, here, proxy, tmp_path):
    there = f"{bucket}/there"
    places.upload(source, places.place(f"{bucket}/votes.jsonl"))
    proxy.drop = 0.04
    every_command(f"{bucket}/votes.jsonl", there, str(policy_dir), proxy.environment)
    assert proxy.dropped > 10
    same(here, contents(there, tmp_path / "fetched"))
    print(f"{proxy.dropped} connections dropped")


def killed_after(uploads: int, proxy, *words: object) -> None:
    """Kill a command with SIGKILL while it waits for the upload after so many."""
    proxy.uploads = uploads
    proxy.held.clear()
    command = [sys.executable, "-m", "denoise", *map(str, words)]
    running = subprocess.Popen(
        command, env=proxy.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert proxy.held.wait(60), f"there is no upload {uploads + 1}"
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        proxy.uploads = None


def test_a_kill_between_the_tables_of_a_result_leaves_nothing_that_is_read(
    bucket, source, proxy, tmp_path
):
    """One kill before each upload of `em`: its probe, the mark, four files and the manifest."""
    data_dir, out = f"{bucket}/data", f"{bucket}/em"
    denoise("import", source, "--out", data_dir)
    denoise("em", data_dir, "--out", out)
    earlier = contents(out, tmp_path / "earlier")
    new = ("em", data_dir, "--margin", "margin", "--out", out)
    refused = 0
    for uploads in range(8):
        killed_after(uploads, proxy, *new)
        if uploads <= 2:  # of the commands's two probes, and of the mark
            same(contents(out, tmp_path / f"{uploads}"), earlier)
            continue
        said = denoise("export", data_dir, out, "--out", tmp_path / "no", status=2)
        assert "is being written, or the command that wrote it was killed" in said
        with pytest.raises(InputError, match="is being written"):
            read_em(places.place(out))
        refused += 1
    assert refused == 5
    denoise(*new)
    denoise("em", data_dir, "--margin", "margin", "--out", tmp_path / "whole")
    same(contents(str(tmp_path / "whole"), tmp_path), contents(out, tmp_path / "last"))


def test_the_files_of_an_earlier_result_that_has_more_go(bucket, tmp_path):
    out = places.place(f"{bucket}/out")
    for names in (("a", "b", "deep/c"), ("a",)):
        with tables.staged_directory(out, Provenance("em", {"names": str(names)})) as staging:
            for name in names:
                (staging / name).parent.mkdir(exist_ok=True)
                (staging / name).write_text(name)
    assert set(places.files_below(out)) == {"a", tables.MANIFEST}


def test_of_two_commands_with_one_output_the_one_that_ends_last_says_so(bucket, source, proxy):
    """The first waits before its last table, and the second writes all of its own."""
    data_dir, out = f"{bucket}/data", f"{bucket}/em"
    denoise("import", source, "--out", data_dir)
    proxy.uploads = 5
    command = [sys.executable, "-m", "denoise", "em", data_dir, "--margin", "margin", "--out", out]
    with subprocess.Popen(
        command, env=proxy.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as first:
        assert proxy.held.wait(60)
        denoise("em", data_dir, "--out", out)
        assert read_em(places.place(out)).provenance.settings["evidence"] == "none"
        proxy.released.set()
        _, said = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "another command wrote there at the same time; repeat this one" in said
    with pytest.raises(InputError, match="is being written"):
        read_em(places.place(out))
    denoise("em", data_dir, "--out", out)
    assert read_em(places.place(out)).provenance.settings["evidence"] == "none"


def test_a_store_without_bucket_key_or_network_is_said(bucket, source, tmp_path):
    missing = f"{bucket}-missing"
    out = tmp_path / "out"
    for words, what in (
        (("import", f"{bucket}/none.jsonl", "--out", out), "there is no such file"),
        (("import", f"{missing}/none.jsonl", "--out", out), "there is no such file"),
        (("import", source, "--out", f"{missing}/out"), "cannot be written"),
        (("em", f"{bucket}/none", "--out", out), "there is no such file"),
        (("import", source, "--out", "ftp://host/out"), "addresses are not read"),
        (("import", source, "--out", "memory://out"), "is gone when the command ends"),
    ):
        assert what in denoise(*words, status=2)
    env = {k: v for k, v in os.environ.items() if k not in ("AWS_ACCESS_KEY_ID",)}
    env |= {"HOME": str(tmp_path)}
    env.pop("AWS_SECRET_ACCESS_KEY")
    said = denoise("import", f"{bucket}/x.jsonl", "--out", out, env=env, status=2)
    assert "the store cannot be asked" in said and "NoCredentialsError" in said
    nobody = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    said = denoise("import", source, "--out", f"{bucket}/x", env=nobody, status=2)
    assert "cannot be written" in said
    import boto3

    names = [b["Name"] for b in boto3.client("s3").list_buckets()["Buckets"]]
    assert missing.removeprefix("s3://") not in names, "a bucket is nobody's to make"


def test_a_client_that_is_not_installed_is_named_with_its_extra():
    program = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from denoise.cli import main; main(['import', 's3://b/x.jsonl', '--out', 'out'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'denoise-prefs[s3]'" in done.stderr


def test_scoring_goes_on_from_what_it_kept_in_the_store(bucket, policy_dir, source, tmp_path):
    """The parts of a scorer that failed half-way are used by the next, and then are gone."""
    from denoise.dataset import read_dataset
    from denoise.stages import score as stage

    denoise("import", source, "--out", tmp_path / "data")
    settings = stage.ScoreSettings(batch_tokens=64)
    given = (read_dataset(tmp_path / "data"), str(policy_dir), None, settings, lambda _: None)
    planned = stage.plan(*given)
    out = places.place(f"{bucket}/scores.parquet")
    work = stage.unfinished_work(out)
    stage.run(planned, work)
    kept = places.files_below(work)
    assert sum(name.endswith(".parquet") for name in kept) >= 1
    result = stage.score_to_file(planned, out)
    assert not places.exists(work)
    assert_frame_equal(tables.read_frame(out), result.scores)
    assert stage.score_to_file(planned, out) is None, "it is there already"
    other = stage.plan(*given[:3], stage.ScoreSettings(max_length=99), given[4])
    stage.run(planned, work)
    with pytest.raises(
        InputError, match="unfinished work of a run with other batch_tokens, max_length"
    ):
        stage.run(other, work)


def test_training_and_rounds_end_in_the_store_and_go_on_from_there(
    bucket, policy_dir, source, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = f"{bucket}/policy"
    words = ("train", source, "--model", policy_dir, "--max-steps", 2, "--batch-size", 2)
    denoise(*words, "--out", there)
    denoise(*words, "--out", tmp_path / "policy")
    same(contents(str(tmp_path / "policy"), tmp_path), contents(there, tmp_path / "fetched"))
    model = places.place(f"{there}/model.safetensors")
    before = model.fs.modified(model.path)
    assert "is there already" in denoise(*words, "--out", there)
    assert model.fs.modified(model.path) == before, "what is whole is not put there again"
    assert not list((tmp_path / "cache" / "denoise" / "work").rglob("*.safetensors"))
    out = f"{bucket}/run"
    words = ("run", source, "--model", there, "--rounds", 1, "--folds", 2, "--max-steps", 1)
    denoise(*words, "--out", out)
    names = set(places.files_below(places.place(out)))
    assert {"policy/model.safetensors", "report.html", "summary.json", "denoise.json"} <= names


def test_workers_of_a_cluster_read_from_the_store_themselves(bucket, policy_dir, source, tmp_path):
    data_dir, model = f"{bucket}/data", f"{bucket}/models/policy"
    for file in policy_dir.iterdir():
        places.upload(file, places.place(model) / file.name)
    denoise("import", source, "--out", data_dir)
    one, many = f"{bucket}/one.parquet", f"{bucket}/many.parquet"
    words = ("score", data_dir, "--policy", model, "--batch-tokens", 256, "--out")
    denoise(*words, one)
    denoise(*words, many, "--engine", "ray", "--workers", 1, "--worker-cpus", 1)
    scores = [tables.read_frame(places.place(path)) for path in (one, many)]
    assert_frame_equal(scores[0], scores[1], rel_tol=1e-6)
    words = ("em", data_dir, "--scores", one, "--loss", "simpo", "--out")
    denoise(*words, tmp_path / "one", "--stream")
    denoise(*words, f"{bucket}/many", "--engine", "ray")
    many = read_em(places.place(f"{bucket}/many")).annotators
    assert_frame_equal(many, read_em(tmp_path / "one").annotators, rel_tol=1e-9, abs_tol=1e-9)


def test_a_store_that_fails_in_the_middle_is_no_damaged_file(bucket, proxy, tmp_path):
    """Every chunk is cut: what is read is not there, and no file is called damaged."""
    directory = write(tmp_path / "data", *data(1))
    for name in ("pairs.parquet", "votes.parquet"):
        places.upload(directory / name, places.place(f"{bucket}/data/{name}"))
    proxy.drop = 1.0
    env = {**proxy.environment, "AWS_MAX_ATTEMPTS": "1"}
    said = denoise("em", f"{bucket}/data", "--out", tmp_path / "o", env=env, status=1)
    assert "not a whole Parquet file" not in said
    assert not (tmp_path / "o").exists()


def test_memory_is_a_store_of_a_program(tmp_path):
    from denoise.dataset import read_dataset, write_dataset
    from denoise.importers import import_data
    from denoise.stages.stream import em_stream

    imported = import_data(write(tmp_path / "data", *data(3)))
    there = places.place("memory://of-a-test/data")
    write_dataset(imported, there)
    assert read_dataset(there).provenance == imported.provenance
    em_stream("memory://of-a-test/data", places.place("memory://of-a-test/em"))
    write_dataset(imported, tmp_path / "here")
    em_stream(tmp_path / "here", tmp_path / "em")
    one, other = read_em(places.place("memory://of-a-test/em")), read_em(tmp_path / "em")
    assert_frame_equal(one.confidences, other.confidences)
    assert one.provenance == other.provenance
    with pytest.raises(InputError, match="there is no such file or directory"):
        published.fetch(places.place("memory://of-a-test/none"), tmp_path / "none" / "x")
