"""The upload, against a small hub of our own on this machine that keeps what it is sent."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import polars as pl
import pytest

TOKEN = "hf_averysecrettokenindeed"
REPO = "team/weighted"
PUSH = """
import sys
import polars as pl
from denoise.dataset import Dataset
from denoise.errors import DenoiseError
from denoise.stages.export import export
from denoise.stages.hub import push_to_hub
from denoise.tables import Provenance

pairs = pl.DataFrame({"pair_id": ["p", "q"], "prompt": ["x", "é"], "response_a": ["a", "c"],
                      "response_b": ["b", "d"]})
votes = pl.DataFrame({"vote_id": [0, 1, 2], "pair_id": ["p", "q", "q"],
                      "annotator_id": ["ann lee", "bob", "ann lee"], "vote": ["a", "b", "tie"]})
weights = pl.DataFrame({"vote_id": [0, 1, 2], "confidence": [0.9, 0.6, None]})
result = export(Dataset(Provenance("import"), pairs, votes), weights, rows="votes")
repo, token, *flags = sys.argv[1:]
try:
    print(push_to_hub(result, repo, token=token, keep_annotator_ids="keep" in flags,
                      private="public" not in flags))
except DenoiseError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(error.exit_status)
"""


class Hub(ThreadingHTTPServer):
    """The few requests of the hub that an upload makes; `files` and `private` are what it keeps."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {".gitattributes": b""}
        self.large: dict[str, bytes] = {}
        self.private: bool | None = None
        self.commits = 0
        self.forbidden = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def entries(self, folder: str = "") -> list[dict]:
        """What lies directly in a folder, as the hub describes it."""
        start = f"{folder}/" if folder else ""
        inside = [path for path in sorted(self.files) if path.startswith(start)]
        names = dict.fromkeys(path.removeprefix(start).partition("/")[0] for path in inside)
        kinds = {True: "file", False: "directory"}
        return [
            {"type": kinds[path in self.files], "path": path, "oid": "0" * 40,
             "size": len(self.files.get(path, b""))}
            for path in (start + name for name in names)
        ]  # fmt: skip


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def send(self, body: object, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("ETag", '"0"')
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if "/resolve/" in path:
            name = path.partition("/resolve/")[2].partition("/")[2]
            return self.send(hub.files.get(name, b""), 200 if name in hub.files else 404)
        if "/tree/" in path:
            found = hub.entries(path.partition("/tree/")[2].partition("/")[2])
            return self.send(found) if found else self.send({"error": "no such folder"}, 404)
        if hub.private is None:
            return self.send({"error": "no such repository"}, 404)
        return self.send({"id": REPO, "sha": "1" * 40, "private": hub.private, "siblings": []})

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[self.path.rpartition("/")[2]] = content
        self.send({})

    def do_POST(self) -> None:
        hub = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if hub.forbidden:
            return self.send({"error": f"no rights for {self.headers['Authorization']}"}, 403)
        if self.path == "/api/repos/create":
            exists = hub.private is not None
            if not exists:
                asked = json.loads(body)  # the hub's library says it in one way or the other
                hub.private = asked.get("visibility") == "private" or bool(asked.get("private"))
            where = {"url": f"{hub.address}/datasets/{REPO}", "name": REPO}
            return self.send(
                {**where, "error": "exists"} if exists else where, 409 if exists else 200
            )
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            for file in files:
                mode = "lfs" if file["path"].startswith("data/") else "regular"
                file |= {"uploadMode": mode, "shouldIgnore": False}
            return self.send({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.address}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self.send({"transfer": "basic", "objects": objects})
        if "/paths-info/" in self.path:
            wanted = parse_qs(body.decode())["paths"]
            found = [each for folder in ("", "data") for each in hub.entries(folder)]
            return self.send([each for each in found if each["path"] in wanted])
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.files[entry["value"]["path"]] = content
                if entry["key"] == "lfsFile":
                    hub.files[entry["value"]["path"]] = hub.large[entry["value"]["oid"]]
            hub.commits += 1
            url = f"{hub.address}/datasets/{REPO}/commit/{'1' * 40}"
            return self.send({"commitUrl": url, "commitOid": "1" * 40})
        return self.send({"errors": [], "warnings": []})

    def log_message(self, *args: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def push(hub: Hub, home: Path, *flags: str, repo: str = REPO) -> subprocess.CompletedProcess:
    # A process of its own, since the hub's address and offline mode are read at import.
    settings = {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_DEBUG": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PUSH, repo, TOKEN, *flags],
        env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_an_upload_is_private_and_pseudonymous_unless_asked(hub: Hub, tmp_path: Path) -> None:
    done = push(hub, tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip().endswith(f"/datasets/{REPO}")
    assert hub.private is True
    assert set(hub.files) == {
        ".gitattributes", "README.md", "weights.svg", "denoise.json", "skipped.parquet",
        "data/train-00000-of-00001.parquet",
    }  # fmt: skip
    rows = pl.read_parquet(io.BytesIO(hub.files["data/train-00000-of-00001.parquet"]))
    assert rows.select("chosen", "weight").rows() == [("a", 0.9), ("d", 0.6)]
    assert rows["annotator_id"].str.starts_with("annotator-").all()
    skipped = pl.read_parquet(io.BytesIO(hub.files["skipped.parquet"]))
    assert skipped["annotator_id"].to_list() == [rows["annotator_id"][0]]
    assert not any(b"ann lee" in content for content in hub.files.values())
    card = hub.files["README.md"].decode()
    assert "path: data/train-*.parquet" in card
    assert f'load_dataset("{REPO}", split="train")' in card

    assert push(hub, tmp_path, "keep").returncode == 0
    rows = pl.read_parquet(io.BytesIO(hub.files["data/train-00000-of-00001.parquet"]))
    assert rows["annotator_id"].to_list() == ["ann lee", "bob"]


def test_a_public_repository_is_refused_before_anything_is_sent(hub: Hub, tmp_path: Path) -> None:
    hub.private = False
    done = push(hub, tmp_path)
    assert done.returncode == 2
    assert f"InputError: the repository {REPO} exists and is public" in done.stdout
    assert hub.commits == 0
    done = push(hub, tmp_path, "public")
    assert done.returncode == 0, done.stdout


def test_failures_are_one_line_without_the_token(hub: Hub, tmp_path: Path) -> None:
    hub.forbidden = True
    done = push(hub, tmp_path)
    assert done.returncode == 1
    assert f"RunError: the upload to {REPO} failed: " in done.stdout
    assert "Traceback" not in done.stderr
    assert "Forbidden" in done.stdout or "403" in done.stdout
    done = push(hub, tmp_path, repo="not a name")
    assert done.returncode == 2
    assert "not the name of a repository, found 'not a name'" in done.stdout
