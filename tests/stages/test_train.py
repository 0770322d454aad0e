"""Training as a stage: rows in, a policy out; killed, continued, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from small_pairs import make

from denoise import tables
from denoise.errors import InputError, RunError
from denoise.stages.score import score
from denoise.stages.train import train
from denoise.stages.training_rows import check_reference_scores, labelled_rows, with_reference
from denoise.trainers.settings import TrainSettings

OPTIONS = {"learning_rate": 1e-3, "batch_size": 4}


def rows(n: int = 16) -> pl.DataFrame:
    frame, _ = labelled_rows(make(n, seed=5))
    weight = pl.Series("weight", [0.1 + 0.8 * i / n for i in range(n)])
    names = pl.Series("annotator_id", [("ann", "bob", "cy")[i % 3] for i in range(n)])
    return frame.with_columns(weight, names)


def same_weights(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_policy_with_its_log_and_provenance(policy_dir, tmp_path):
    done = train(rows(), model=str(policy_dir), out=tmp_path / "policy", **OPTIONS)
    assert done.made_anew
    assert {
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "denoise.json",
        "log.parquet",
    } <= {path.name for path in done.directory.iterdir()}
    assert not list(done.directory.glob("*.bin"))
    assert done.log["loss"].is_finite().all()
    assert {"rewards/accuracies", "rewards/margins", "weight"} <= set(done.log.columns)
    assert tables.read_manifest(done.directory).run_id == done.provenance.run_id
    assert not (tmp_path / "policy.parts").exists()


def test_checkpoints_of_a_finished_policy_go_when_the_command_is_repeated(policy_dir, tmp_path):
    out, work = tmp_path / "policy", tmp_path / "policy.parts"
    made = train(rows(), model=str(policy_dir), out=out, **OPTIONS).provenance
    for provenance, stays in ((made, False), (tables.Provenance("train", {"rows": "x"}), True)):
        (work / "checkpoint-4").mkdir(parents=True)
        tables.write_text(provenance.to_json(), work / tables.MANIFEST)
        assert not train(rows(), model=str(policy_dir), out=out, **OPTIONS).made_anew
        assert work.exists() == stays


def test_what_is_there_already_is_not_trained_again_and_torch_stays_out(policy_dir, tmp_path):
    out = tmp_path / "policy"
    train(rows(), model=str(policy_dir), out=out, **OPTIONS)
    rows().write_parquet(tmp_path / "rows.parquet")
    program = (
        "import sys, polars as pl; from pathlib import Path; from denoise import train\n"
        f"done = train(pl.read_parquet({str(tmp_path / 'rows.parquet')!r}), "
        f"model={str(policy_dir)!r}, out=Path({str(out)!r}), **{OPTIONS!r})\n"
        "print(done.made_anew, sorted({'torch', 'trl', 'transformers'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout.strip() == "False []", said.stderr


def test_other_weights_settings_or_seeds_make_another_policy(policy_dir, tmp_path):
    def trained(frame: pl.DataFrame, **options: object) -> Path:
        out = tmp_path / f"policy-{len(list(tmp_path.iterdir()))}"
        return train(frame, model=str(policy_dir), out=out, **{**OPTIONS, **options}).directory

    first = trained(rows())
    assert same_weights(first, trained(rows()))
    assert not same_weights(first, trained(rows().with_columns(weight=pl.lit(0.5))))
    assert not same_weights(first, trained(rows(), seed=1))
    assert not same_weights(first, trained(rows(), loss="ipo"))
    assert not same_weights(first, trained(rows(), method="online"))


def test_without_weights_each_label_counts_as_right_and_a_note_says_so(policy_dir, tmp_path):
    plain = train(rows().drop("weight"), model=str(policy_dir), out=tmp_path / "plain", **OPTIONS)
    ones = rows().with_columns(weight=pl.lit(1.0))
    full = train(ones, model=str(policy_dir), out=tmp_path / "full", **OPTIONS)
    assert any("no column 'weight'" in note for note in plain.notes)
    assert same_weights(plain.directory, full.directory)


def test_smoothing_is_the_constant_weight(policy_dir, tmp_path):
    smooth = train(
        rows(),
        model=str(policy_dir),
        out=tmp_path / "a",
        method="smoothing",
        flip_rate=0.2,
        **OPTIONS,
    )
    constant = rows().with_columns(weight=pl.lit(0.8))
    weighted = train(constant, model=str(policy_dir), out=tmp_path / "b", **OPTIONS)
    assert same_weights(smooth.directory, weighted.directory)


def test_the_online_method_gives_a_reliability_to_each_annotator(policy_dir, tmp_path):
    done = train(rows(), model=str(policy_dir), out=tmp_path / "p", method="online", **OPTIONS)
    assert done.reliability["annotator_id"].to_list() == ["ann", "bob", "cy"]
    assert done.reliability["reliability"].is_between(0, 1, closed="none").all()
    assert (done.reliability["reliability"] - 0.9).abs().min() > 1e-4  # all have moved
    assert done.log["weight"].is_between(0, 1).all()


def test_an_adapter_is_an_adapter_and_scores_as_its_merged_model(policy_dir, tmp_path):
    options = {**OPTIONS, "learning_rate": 1e-2, "lora_r": 4}
    done = train(rows(), model=str(policy_dir), out=tmp_path / "lora", **options)
    assert (done.directory / "adapter_model.safetensors").is_file()
    own, base = (
        score(make(4), policy=str(path)).scores["policy_a_logps"]
        for path in (done.directory, policy_dir)
    )
    assert (own - base).abs().min() > 1e-3


def test_evaluation_after_each_epoch(policy_dir, tmp_path):
    options = {**OPTIONS, "epochs": 2}
    done = train(rows(), model=str(policy_dir), out=tmp_path / "p", evaluation=rows(4), **options)
    assert done.log["eval_loss"].drop_nulls().len() == 2


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"method": "online", "loss": "simpo", "lora_r": 4, "lora_dropout": 0.1},
    ],
    ids=["weighted", "online, an adapter with dropout"],
)
def test_killed_and_continued_it_ends_with_the_same_bits(more, policy_dir, tmp_path):
    frame = rows(64)
    options = {**OPTIONS, "epochs": 3, "save_steps": 5, **more}
    whole = train(frame, model=str(policy_dir), out=tmp_path / "whole", **options)
    frame.write_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "killed"
    program = (
        "import polars as pl; from pathlib import Path; from denoise import train\n"
        f"train(pl.read_parquet({str(tmp_path / 'rows.parquet')!r}), model={str(policy_dir)!r}, "
        f"out=Path({str(out)!r}), **{options!r})"
    )
    running = subprocess.Popen([sys.executable, "-c", program])
    mark = tmp_path / "killed.parts" / "checkpoint-10" / "reliability.json"
    deadline = time.monotonic() + 120
    while not mark.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert mark.exists()
    assert not out.exists()
    train(frame, model=str(policy_dir), out=out, **options)
    made, expected = ({p.name: p.read_bytes() for p in d.iterdir()} for d in (out, whole.directory))
    assert made == expected
    assert not mark.parent.parent.exists()


def test_two_processes_train_as_one_with_the_whole_batch(policy_dir, tmp_path):
    """Each takes half of the step's rows; the gradient is the mean, η sees all of them."""
    options = {"learning_rate": 1e-3, "method": "online"}
    whole = train(rows(), model=str(policy_dir), out=tmp_path / "whole", batch_size=8, **options)
    rows().write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "halves.py").write_text(
        "import polars as pl; from pathlib import Path; from denoise import train\n"
        f"train(pl.read_parquet({str(tmp_path / 'rows.parquet')!r}), model={str(policy_dir)!r}, "
        f"out=Path({str(tmp_path / 'halves')!r}), batch_size=4, **{options!r})"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    address = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    done = subprocess.run(
        [*launch, *address, str(tmp_path / "halves.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert tables.read_manifest(tmp_path / "halves").settings["processes"] == 2
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "halves"))
    for name in one:
        assert (one[name] - other[name]).abs().max() < 1e-4
    eta = pl.read_parquet(tmp_path / "halves" / "reliability.parquet")["reliability"]
    assert eta.to_list() == pytest.approx(whole.reliability["reliability"].to_list(), rel=1e-5)
    assert not (tmp_path / "halves.parts").exists()


def test_unfinished_work_of_another_training_is_refused(policy_dir, tmp_path):
    work = tmp_path / "p.parts"
    (work / "checkpoint-5").mkdir(parents=True)
    made = tables.Provenance("train", {"rows": "others"}, {"loss": "ipo"})
    tables.write_text(made.to_json(), work / tables.MANIFEST)
    with pytest.raises(InputError, match=r"unfinished training with other .*rows"):
        train(rows(), model=str(policy_dir), out=tmp_path / "p", **OPTIONS)


def test_a_token_reaches_the_trainer_and_nothing_that_is_kept(policy_dir, tmp_path, monkeypatch):
    from denoise.trainers import fit

    reached, trainer_of = [], fit._trainer

    def watched(settings: TrainSettings, *rest: object, **more: object) -> object:
        reached.append(settings)
        return trainer_of(settings, *rest, **more)

    monkeypatch.setattr(fit, "_trainer", watched)
    given = {"hub_token": "mine-alone", "pad_token": "</s>"}
    options = {**OPTIONS, "max_steps": 1, "trainer_args": given}
    done = train(rows(), model=str(policy_dir), out=tmp_path / "p", **options)
    assert reached[0].trainer_args == given
    assert done.provenance.settings["trainer_args"] == {"hub_token": "***", "pad_token": "</s>"}
    for file in done.directory.iterdir():
        assert b"mine-alone" not in file.read_bytes()
    given["hub_token"] = "a new one"
    assert not train(rows(), model=str(policy_dir), out=tmp_path / "p", **options).made_anew


@pytest.mark.parametrize("step", ["_precompute_ref_logps", "train"])
def test_what_does_not_fit_into_memory_is_told_with_advice(step, policy_dir, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(f"denoise.trainers.fit.SoftDPOTrainer.{step}", full)
    with pytest.raises(RunError, match="does not fit into memory; try --batch-size 1"):
        train(rows(), model=str(policy_dir), out=tmp_path / "policy", **OPTIONS)


def test_all_faults_of_the_rows_at_once(policy_dir, tmp_path):
    wrong = rows().drop("prompt").with_columns(chosen=pl.lit(None, pl.String))
    with pytest.raises(InputError) as error:
        train(wrong, model=str(policy_dir), out=tmp_path / "p", **OPTIONS)
    assert "lacks the column 'prompt'" in str(error.value)
    assert "column 'chosen'" in str(error.value)
    outside = rows().with_columns(weight=pl.lit(1.5))
    with pytest.raises(InputError, match=r"row 0, column .weight.: 16 value.*outside 0 to 1"):
        train(outside, model=str(policy_dir), out=tmp_path / "p", **OPTIONS)
    with pytest.raises(InputError, match="one reference log-prob without the other"):
        one = rows().with_columns(ref_chosen_logps=pl.lit(-3.0))
        train(one, model=str(policy_dir), out=tmp_path / "p", **OPTIONS)


def test_all_faults_of_the_settings_at_once():
    with pytest.raises(InputError) as error:
        TrainSettings(
            loss="dop", beta=-1, batch_size=0, gamma=1.0, trainer_args={"ld_alpha": 1, "beta": 2}
        )
    text = str(error.value)
    for part in ("loss", "beta is out of range", "batch_size", "gamma", "ld_alpha", "give beta"):
        assert part in text


def test_the_objective_is_by_the_loss_and_the_method():
    weighted = {loss: TrainSettings(loss=loss).trains_on for loss in ("ipo", "simpo", "cpo")}
    assert weighted == {"ipo": "mixture", "simpo": "gibbs", "cpo": "gibbs"}
    assert TrainSettings(loss="ipo", method="online").trains_on == "gibbs"
    assert TrainSettings(loss="cpo", method="rdpo", flip_rate=0.1).trains_on == "mixture"
    assert TrainSettings(loss="cpo", objective="mixture").trains_on == "mixture"


def test_without_weights_the_loss_itself_is_trained(policy_dir, tmp_path):
    certain = rows().with_columns(weight=pl.lit(1.0))
    options = {**OPTIONS, "loss": "cpo", "max_steps": 1}
    made = {
        name: train(given, model=str(policy_dir), out=tmp_path / name, **options, **more).log
        for name, given, more in (
            ("plain", certain.drop("weight"), {}),
            ("mixture", certain, {"objective": "mixture"}),
            ("gibbs", certain, {}),
        )
    }
    losses = {name: log["loss"].drop_nulls()[0] for name, log in made.items()}
    assert losses["plain"] == losses["mixture"] != losses["gibbs"]


def test_reference_log_probs_go_to_the_side_that_was_chosen():
    data = make(3)
    votes = data.votes.with_columns(vote=pl.Series(["a", "b", "a"]))
    frame, _ = labelled_rows(type(data)(data.provenance, pairs=data.pairs, votes=votes))
    scores = pl.DataFrame(
        {"pair_id": ["p0", "p1"], "ref_a_logps": [-1.0, -2.0], "ref_b_logps": [-3.0, -4.0]}
    )
    found = with_reference(frame, data.pairs, scores)
    assert found["ref_chosen_logps"].to_list() == [-1.0, -4.0, None]
    assert found["ref_rejected_logps"].to_list() == [-3.0, -2.0, None]


def test_scores_of_other_tokens_or_another_reference_are_refused(policy_dir, reference_dir):
    data = make(4)
    found = score(data, policy=str(policy_dir), reference=str(reference_dir), tokenize="trl-cpo")
    turned = data.pairs.rename({"response_a": "response_b", "response_b": "response_a"})
    with pytest.raises(InputError) as error:
        check_reference_scores(
            found.scores, found.provenance, TrainSettings(), turned, str(policy_dir)
        )
    assert "tokenize trl-cpo, the training has trl-dpo" in str(error.value)
    assert "another reference" in str(error.value)
    assert "made for other pairs than these; give --pairs" in str(error.value)
    some = found.scores.head(2)
    with pytest.raises(InputError, match=r"2 pair.s. have no reference log-probs"):
        check_reference_scores(some, None, TrainSettings(), data.pairs, str(policy_dir))
    with pytest.raises(InputError, match="the loss cpo has no reference"):
        check_reference_scores(
            found.scores, None, TrainSettings(loss="cpo"), data.pairs, str(policy_dir)
        )


def test_ties_are_left_out_and_counted():
    data = make(3)
    votes = data.votes.with_columns(vote=pl.Series(["a", "tie", "b"]))
    frame, notes = labelled_rows(type(data)(data.provenance, pairs=data.pairs, votes=votes))
    assert len(frame) == 2
    assert frame["chosen"][1] == data.pairs["response_b"][2]
    assert "1 tie(s) left out" in notes[0]


def test_weights_load_as_safetensors(policy_dir, tmp_path):
    done = train(rows(), model=str(policy_dir), out=tmp_path / "p", **OPTIONS)
    assert load_file(done.directory / "model.safetensors")
