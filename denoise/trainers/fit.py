"""One training from weighted rows to a directory of weights, continued where it was killed."""

from __future__ import annotations

import json
import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import TrainerCallback

from denoise import tables
from denoise.errors import Fault, RunError, raise_any, refuse
from denoise.places import scheme_of
from denoise.plain import plain
from denoise.progress import training_progress
from denoise.scorers.models import ModelSource, call_plain, load_model, load_tokenizer
from denoise.trainers.settings import TrainSettings
from denoise.trainers.soft_labels import SoftCPOTrainer, SoftDPOTrainer, SoftLabels

STATE_FILE = "reliability.json"
"""In a checkpoint, once all of it is written: the online method's η and its trace, or null."""

_OF_ITS_COURSE = frozenset(
    (
        *("eval_runtime", "eval_samples_per_second", "eval_steps_per_second"),
        *("num_tokens", "eval_num_tokens"),  # TRL counts them from the last checkpoint on
    )
)
"""What differs in the log between equal trainings, of which one was continued."""


class Fitted(NamedTuple):
    """What a training leaves: TRL's log, a row a logged step, and η by code of the annotator.

    trace: η at each logged step. writes: whether this process is the one that writes (rank 0).
    """

    log: list[dict[str, Any]]
    reliability: list[float] | None
    trace: list[tuple[int, list[float]]]
    writes: bool


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep to themselves what TRL, PEFT and transformers have to say to programmers."""
    loggers = [logging.getLogger(name) for name in ("trl", "transformers")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@_without_advice()
def fit(
    rows: pl.DataFrame,
    settings: TrainSettings,
    model: ModelSource,
    reference: ModelSource | None,
    out: Path,
    work: Path,
    *,
    annotators: int = 0,
    evaluation: pl.DataFrame | None = None,
    progress: bool = False,
) -> Fitted:
    """Train on rows with `prompt`, `chosen`, `rejected`, `weight` and, where known, the rest.

    Args:
        rows: also `annotator` (codes) for the online method, and the reference's `ref_chosen_logps`
            and `ref_rejected_logps`, without which they are computed first.
        model: where training starts, and the reference where none is given.
        out: the directory that gets weights and tokenizer.
        work: the directory of the checkpoints; training goes on from the last whole one in it.

    Raises:
        InputError: TRL refuses an argument or the data, or the model cannot be loaded.
        RunError: it does not fit into memory, or a loss is not finite.
    """
    tokenizer = load_tokenizer(model, settings.trust_remote_code)
    if tokenizer.pad_token is None:
        # TRL's collators want one before TRL sets it, as here.
        tokenizer.pad_token = tokenizer.eos_token
    soft_labels = SoftLabels(settings, annotators)
    watcher = _Watcher(soft_labels, progress)
    try:
        try:
            trainer = _trainer(
                settings,
                rows,
                evaluation,
                model=_policy(model, settings),
                reference=None if reference is None else _loaded(reference, settings),
                tokenizer=tokenizer,
                soft_labels=soft_labels,
                work=work,
                watcher=watcher,
            )
        except (TypeError, ValueError) as error:
            refuse(f"TRL refuses the training: {plain(str(error), 300)}")
        _let_go_of_reference(trainer)
        if len(trainer.train_dataset) < len(rows):
            lost = len(rows) - len(trainer.train_dataset)
            refuse(f"{lost:,} prompt(s) fill max_length with their tools", fix="raise --max-length")
        checkpoint = _last_checkpoint(work, soft_labels, trainer.is_world_process_zero())
        trainer.train(resume_from_checkpoint=checkpoint)
    except torch.OutOfMemoryError as error:
        fix = "try --batch-size 1 and --gradient-accumulation, --lora-r, or a shorter --max-length"
        raise RunError(f"the training does not fit into memory; {fix}") from error
    finally:
        watcher.close()
    if any(not torch.isfinite(p).all() for p in trainer.model.parameters()):
        raise RunError("the weights are no longer finite; try a smaller --learning-rate")
    trainer.save_model(str(out))
    writes = trainer.is_world_process_zero()
    if writes:
        (out / "training_args.bin").unlink(missing_ok=True)  # a pickle, and full of paths
    eta = soft_labels.reliability
    log = [
        {name: value for name, value in entry.items() if name not in _OF_ITS_COURSE}
        for entry in trainer.state.log_history
        if "loss" in entry or "eval_loss" in entry
    ]
    return Fitted(log, None if eta is None else eta.tolist(), soft_labels.trace, writes)


def _trainer(
    settings: TrainSettings,
    rows: pl.DataFrame,
    evaluation: pl.DataFrame | None,
    *,
    model: Any,
    reference: Any,
    tokenizer: Any,
    soft_labels: SoftLabels,
    work: Path,
    watcher: TrainerCallback,
) -> Any:
    from transformers.trainer_callback import PrinterCallback
    from trl import DPOConfig
    from trl.experimental.cpo import CPOConfig

    beta, gamma = settings.constants
    arguments: dict[str, Any] = {
        "output_dir": str(work),
        "beta": beta,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "max_length": settings.max_length,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": _bfloat16(settings),
        "seed": settings.seed,
        "save_strategy": "steps",
        "save_steps": settings.save_steps or 0.05,  # a share of all steps
        "warmup_steps": settings.warmup,
        "lr_scheduler_type": settings.scheduler,
        "weight_decay": settings.weight_decay,
        "save_total_limit": 2,
        "eval_strategy": "no" if evaluation is None else "epoch",
        "logging_steps": 0.05,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        # Unless told, several processes on the CPU would each train alone.
        "use_cpu": not torch.accelerator.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
        "disable_dropout": not settings.lora_dropout,  # TRL's would be the adapter's as well
        **({} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}),
        **settings.trainer_args,
    }
    if settings.in_dpo_trainer:
        loss_type = {"dpo": "sigmoid", "ipo": "ipo"}[settings.loss]
        config = DPOConfig(loss_type=loss_type, precompute_ref_log_probs=True, **arguments)
    else:
        of_loss = {"simpo": {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": gamma}}
        given = of_loss.get(settings.loss, {"loss_type": "sigmoid"}) | arguments
        config = CPOConfig(remove_unused_columns=False, **given)
    common = {
        "args": config,
        "model": model,
        "train_dataset": _on_disk(rows, work / "rows.parquet", config),
        "eval_dataset": None
        if evaluation is None
        else _on_disk(evaluation, work / "evaluation.parquet", config),
        "processing_class": tokenizer,
        "peft_config": None if is_peft_model(model) else _lora(settings),
        "soft_labels": soft_labels,
        "callbacks": [watcher],
    }
    if settings.in_dpo_trainer:
        trainer = SoftDPOTrainer(ref_model=reference, **common)
    else:
        trainer = SoftCPOTrainer(**common)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _on_disk(rows: pl.DataFrame, file: Path, config: Any) -> Dataset:
    """The rows in a file that all processes share, and TRL's cache of reference log-probs with it.

    A continued training finds both there.
    """
    with config.main_process_first(local=False):
        if not file.exists():
            with tables.atomic_path(file) as path:
                rows.write_parquet(path)
        return Dataset.from_parquet(str(file), cache_dir=str(file.parent / "cache"))


def _policy(source: ModelSource, settings: TrainSettings) -> Any:
    """The model to train: with `lora_r` an adapter's own weights, or those of a model to adapt."""
    if settings.lora_r is None:
        return _loaded(source, settings)
    base = _loaded(source.base or source, settings)
    if source.base is None:
        # What the new adapter names as its base, also where it is moved to.
        base.name_or_path = model_name(source)
        return base
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, source.directory, is_trainable=True)
    own = model.peft_config["default"]
    faults = [
        Fault(f"{source.name} is an adapter with another {name}", found=given, fix=f"give {kept}")
        for name, given, kept in (
            ("lora_r", settings.lora_r, getattr(own, "r", None)),
            ("lora_alpha", settings.lora_alpha, getattr(own, "lora_alpha", None)),
        )
        if given is not None and given != kept
    ]
    raise_any(faults)
    return model


def model_name(source: ModelSource) -> str:
    """The model as a name that holds everywhere: a hub id, a URL, or an absolute path."""
    if scheme_of(source.given):
        return source.given
    if source.gguf:
        return str((source.directory / source.gguf).resolve())
    given = Path(source.given).expanduser()
    return str(given.resolve()) if given.is_dir() else source.given


def _loaded(source: ModelSource, settings: TrainSettings) -> Any:
    dtype = {"auto": "float32", "float32": "float32", "bfloat16": "bfloat16"}[settings.dtype]
    model = load_model(source, dtype, "cpu", settings.trust_remote_code)
    call_plain(model, source)
    return model.requires_grad_(True)


def _let_go_of_reference(trainer: Any) -> None:
    """Free the reference: its log-probs are beside the rows by now."""
    trainer.ref_model = None
    if is_peft_model(trainer.model) and "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")  # TRL's copy of an adapter as it came


def _bfloat16(settings: TrainSettings) -> bool:
    """Mixed precision where the device has it: weights stay float32, as TRL's default is."""
    return settings.dtype == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _lora(settings: TrainSettings) -> Any:
    if settings.lora_r is None:
        return None
    from peft import LoraConfig

    alpha = settings.lora_alpha or 2 * settings.lora_r
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets) or "all-linear",
        task_type="CAUSAL_LM",
    )


def _last_checkpoint(work: Path, soft_labels: SoftLabels, writes: bool) -> str | None:
    """The newest checkpoint that was written to its end, its η taken up."""
    whole = [path.parent for path in work.glob(f"checkpoint-*/{STATE_FILE}")]
    for path in work.glob("checkpoint-*"):
        if writes and path not in whole:
            shutil.rmtree(path)  # killed while it was written
    if not whole:
        return None
    last = max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
    kept = json.loads((last / STATE_FILE).read_text(encoding="utf-8"))
    if kept["reliability"] is not None:
        soft_labels.reliability = torch.tensor(kept["reliability"])
        soft_labels.trace = [(step, eta) for step, eta in kept["trace"]]
    return str(last)


class _Watcher(TrainerCallback):
    """Shows progress, and completes a checkpoint with what TRL does not know of."""

    def __init__(self, soft_labels: SoftLabels, progress: bool) -> None:
        self.soft_labels = soft_labels
        self.progress = progress
        self.shown: Any = None
        self.step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        if state.is_world_process_zero:
            self.shown = training_progress("training", state.max_steps, self.progress)
            self.update = self.shown.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar; log before each checkpoint, so that a continued log has the same means."""
        if self.shown:
            self.update(state.global_step - self.step)
            self.step = state.global_step
        control.should_log = control.should_log or control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Keep the online method's η, and end a training that has diverged."""
        if not math.isfinite(logs.get("loss", 0.0)):
            raise RunError(
                f"the loss is no longer finite at step {state.global_step}; try a smaller "
                "--learning-rate"
            )
        eta = self.soft_labels.reliability
        if eta is not None and "loss" in logs:
            self.soft_labels.trace.append((state.global_step, eta.tolist()))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole."""
        if state.is_world_process_zero:
            eta = self.soft_labels.reliability
            directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            kept = {
                "reliability": None if eta is None else eta.tolist(),
                "trace": self.soft_labels.trace,
            }
            tables.write_text(json.dumps(kept), directory / STATE_FILE)

    def close(self) -> None:
        """Close the bar."""
        if self.shown:
            self.shown.__exit__(None, None, None)
            self.shown = None
