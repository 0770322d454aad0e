"""The hub and Google's store, each as a small server on this machine's loopback."""

import json
import os
import socket
import subprocess
import sys

import polars as pl
import pytest
from hub import REPO
from polars.testing import assert_frame_equal
from test_stores import ROWS, denoise, lines

from denoise import places, published, tables
from denoise.dataset import read_dataset
from denoise.stages.em import read_em
from denoise.tables import Provenance

TOKEN = "hf_averysecrettokenindeed"


def test_data_and_results_in_a_private_repository_of_the_hub(hub, tmp_path):
    hub.private = True
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    env |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    hub.files["raw/votes.jsonl"] = lines(ROWS).encode()
    there = f"hf://datasets/{REPO}"
    said = [denoise("import", f"{there}/raw/votes.jsonl", "--out", f"{there}/work/in", env=env)]
    assert {"work/in/pairs.parquet", "work/in/votes.parquet", "work/in/denoise.json"} <= set(
        hub.files
    )
    said.append(denoise("em", f"{there}/work/in", "--out", f"{there}/work/em", env=env))
    said.append(denoise("em", f"{there}/work/in", "--stream", "--out", tmp_path / "em", env=env))
    (tmp_path / "votes.jsonl").write_text(lines(ROWS))
    denoise("import", tmp_path / "votes.jsonl", "--out", tmp_path / "in")
    denoise("em", tmp_path / "in", "--out", tmp_path / "whole")
    for name in ("confidences", "annotators"):
        found = tmp_path / f"{name}.parquet"
        found.write_bytes(hub.files[f"work/em/{name}.parquet"])
        assert_frame_equal(pl.read_parquet(found), getattr(read_em(tmp_path / "whole"), name))
    assert TOKEN not in "".join(said)
    assert not any(TOKEN.encode() in content for content in hub.files.values())
    before, hub.private = hub.commits, False
    said = denoise("em", f"{there}/work/in", "--out", f"{there}/em2", env=env, status=2)
    assert "the repository is public, and tables name annotators" in said
    assert hub.commits == before
    hub.private = None
    said = denoise("import", tmp_path / "votes.jsonl", "--out", there, env=env, status=2)
    assert "cannot be written" in said and "hf repos create" in said


def test_what_others_put_on_the_hub_is_seen_at_once(hub, tmp_path):
    """Its client would answer from what it listed before."""
    hub.private = True
    hub.files["run/log"] = b"mine"
    program = (
        "import sys\n"
        "from denoise import places\n"
        "where = [places.place(sys.argv[1]), places.place(sys.argv[1] + '/log')]\n"
        "for _ in sys.stdin: print(*map(places.state, where), flush=True)\n"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    words = [sys.executable, "-c", program, f"hf://datasets/{REPO}/run"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env={**env, "HF_HUB_OFFLINE": "0"}, **pipes) as asked:
        said = []
        for content in (b"mine", b"mine", b"of others"):
            hub.files["run/log"] = content
            print(file=asked.stdin, flush=True)
            said.append(asked.stdout.readline().split())
        asked.stdin.close()
    assert said[0] == said[1] and len(said[0]) == 2
    assert not set(said[0]) & set(said[2])


@pytest.fixture
def google(monkeypatch):
    """The URL of a bucket, and the environment of who reaches it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = (
        "import sys\n"
        "from gcp_storage_emulator.server import create_server\n"
        "server = create_server('127.0.0.1', int(sys.argv[1]), True, default_bucket='data')\n"
        "server.start(); print('up', flush=True); sys.stdin.read(); server.stop()\n"
    )
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", program, str(port)], text=True, **quiet) as server:
        while "up" not in server.stdout.readline():
            assert server.poll() is None
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield "gs://data"
        server.kill()


def test_data_and_results_in_googles_store(google, tmp_path):
    (tmp_path / "votes.jsonl").write_text(lines(ROWS))
    places.upload(tmp_path / "votes.jsonl", places.place(f"{google}/raw/votes-0.jsonl"))
    denoise("import", f"{google}/raw/votes-*.jsonl", "--out", f"{google}/in")
    denoise("em", f"{google}/in", "--stream", "--out", f"{google}/em")
    denoise("import", tmp_path / "votes.jsonl", "--out", tmp_path / "in")
    denoise("em", tmp_path / "in", "--stream", "--out", tmp_path / "em")
    there = read_dataset(places.place(f"{google}/in"))
    assert_frame_equal(there.votes, read_dataset(tmp_path / "in").votes)
    found = read_em(places.place(f"{google}/em"))
    assert_frame_equal(found.confidences, read_em(tmp_path / "em").confidences)
    out = places.place(f"{google}/em")
    assert published.is_whole(out)
    unfinished = {**json.loads(found.provenance.to_json()), published.UNFINISHED: "x"}
    tables.write_text(json.dumps(unfinished), out / tables.MANIFEST)
    said = denoise("export", f"{google}/in", out, "--out", tmp_path / "no", status=2)
    assert "is being written" in said
    with tables.staged_directory(out, Provenance("em")) as staging:
        (staging / "other").write_text("x")
    assert set(places.files_below(out)) == {"other", tables.MANIFEST}
    places.remove(out)
    assert not places.exists(out)
