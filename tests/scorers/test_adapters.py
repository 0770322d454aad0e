"""Adapters: their weights are safetensors, and part of their identity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from denoise.errors import InputError
from denoise.scorers.models import resolve


def adapter(directory: Path, base: Path, *weights: str) -> Path:
    """A PEFT adapter's directory, whose weights are never loaded."""
    directory.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base)}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    for name in weights:
        (directory / name).write_bytes(b"weights")
    return directory


@pytest.mark.parametrize("weights", [("adapter_model.bin",), ()], ids=["a pickle", "none"])
def test_an_adapter_without_safetensors_is_refused(weights, policy_dir, tmp_path):
    """PEFT would load the pickle, whose bytes are no part of the identity."""
    given = adapter(tmp_path / "adapter", policy_dir, *weights)
    above = adapter(tmp_path / "above", given, "adapter_model.safetensors")
    for name in (given, above):
        with pytest.raises(InputError, match=r"save_pretrained") as refused:
            resolve(str(name))
        assert str(refused.value).startswith(f"{given}: ")
        assert "adapter_model.safetensors" in str(refused.value)
        assert resolve(str(name), weights=False).base is not None


def test_an_adapter_changes_with_its_weights(policy_dir, tmp_path):
    given = adapter(
        tmp_path / "adapter", policy_dir, "adapter_model.safetensors", "adapter_model.bin"
    )
    before = resolve(str(given)).identity
    (given / "adapter_model.safetensors").write_bytes(b"others")
    assert resolve(str(given)).identity != before
