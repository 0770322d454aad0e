"""Small tables on which the commands under test run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faulty import denoise

from denoise.dataset import read_dataset, write_dataset
from denoise.importers import import_data


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, policy_dir: Path) -> Path:
    """A source, the tables of it, and a model."""
    where = tmp_path_factory.mktemp("faults")
    rng = np.random.default_rng(0)
    lines = []
    for row in range(600):
        pair, who = row // 3, rng.integers(0, 9)
        margin = float(rng.normal(1.0, 1.0))
        lines.append(
            f'{{"prompt": "p {pair}", "chosen": "good {pair}", "rejected": "bad {pair}", '
            f'"annotator": "who {who}", "margin": {margin}}}'
        )
    (where / "votes.jsonl").write_text("\n".join(lines))
    rows = [
        {
            "prompt": f"q {i}",
            "chosen": f"good {i}",
            "rejected": f"bad {i}",
            "annotator": "abc"[i % 3],
        }
        for i in range(48)
    ]
    (where / "few.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_dataset(import_data(str(where / "votes.jsonl")), where / "data")
    assert read_dataset(where / "data").is_preference
    (where / "policy").symlink_to(policy_dir)
    done = denoise("em", "data", "--margin", "margin", "--out", "em", cwd=where)
    assert done.returncode == 0, done.stderr
    return where


@pytest.fixture
def workplace(folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A new folder with links to the inputs."""

    def made(name: str) -> Path:
        where = tmp_path / name
        where.mkdir()
        for each in ("votes.jsonl", "few.jsonl", "data", "policy", "em"):
            (where / each).symlink_to(folder / each)
        return where

    return made
