"""The upload, against a small hub of our own on this machine that keeps what it is sent."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
from hub import REPO, Hub

TOKEN = "hf_averysecrettokenindeed"
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
