"""The paper's configurations: every key is an option, and the stages accept the values.

Data and models of all but one are on the hub and need GPUs; that one, of the shipped set, is what
the demo and tests/rounds run with other options. Nothing is trained here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from trl import DPOConfig
from trl.experimental.cpo import CPOConfig

from denoise.cli.app import app
from denoise.rounds.settings import RunSettings

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "pipelines" / "paper").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_accepts_the_configuration(path: Path) -> None:
    command = typer.main.get_command(app).commands["run"]
    given = command.make_context("run", [str(path)]).params
    assert str(given["out"]) == path.stem
    assert given["loss"] in path.stem
    names = (
        *("loss", "rounds", "folds", "seed", "beta", "gamma", "objective", "learning_rate"),
        *("epochs", "batch_size", "gradient_accumulation", "max_length", "eta0", "backend"),
        *("scheduler", "warmup", "gradient_checkpointing"),
    )
    settings = RunSettings.of({name: given[name] for name in names if given[name] is not None})
    settings.check()
    training = settings.train()
    assert training.objective == "gibbs"
    assert settings.em()["eta0"] == 0.9
    config = DPOConfig if given["loss"] == "dpo" else CPOConfig
    arguments = {"lr_scheduler_type": training.scheduler, "warmup_steps": training.warmup}
    of_trl = config(output_dir="x", bf16=False, use_cpu=True, **arguments)
    assert of_trl.get_warmup_steps(1000) == 100
    if "quickstart" in path.stem:
        assert (ROOT / given["source"]).is_file()
        assert (ROOT / given["model"] / "model.safetensors").is_file()
    else:
        assert training.learning_rate in (5e-7, 7e-7, 1e-6)


def test_the_papers_settings_are_there() -> None:
    assert len(FILES) == 7
