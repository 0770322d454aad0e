"""A vLLM server for the session, a proxy before it, and waits that suit a test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import KEY, Proxy, vllm_server


@pytest.fixture(scope="session")
def twin_dir(policy_dir, tmp_path_factory) -> Path:
    """The policy's model in another place, and served under that name too: for the reference."""
    return shutil.copytree(policy_dir, tmp_path_factory.mktemp("twin") / "twin")


@pytest.fixture(scope="session")
def vllm(policy_dir, twin_dir, tmp_path_factory) -> Iterator[int]:
    """The port of a vLLM server with the policy's model."""
    log = tmp_path_factory.mktemp("vllm") / "log"
    with vllm_server(policy_dir, [str(policy_dir), str(twin_dir)], log) as port:
        yield port


@pytest.fixture
def proxy(vllm) -> Iterator[Proxy]:
    with Proxy(vllm) as made:
        yield made


@pytest.fixture
def quick(monkeypatch):
    from denoise.scorers import endpoint

    monkeypatch.setenv("SERVER_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.1)
