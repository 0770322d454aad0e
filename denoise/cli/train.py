"""`denoise train`: a weighted fine-tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise.cli import app as shared

if TYPE_CHECKING:
    import polars as pl


SHOWN = 8


@shared.app.command()
def train(
    source: shared.Source,
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Where training starts.", show_default=False),
    ],
    loss: Annotated[str, typer.Option(help="dpo, ipo, simpo or cpo.")] = "dpo",
    out: Annotated[Path, shared.path_option(help="The policy's directory.")] = Path("policy"),
    objective: Annotated[
        str | None, typer.Option(help="mixture or gibbs (the paper's Eq. 5); by the loss.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="The loss's β; the trainer's default.")] = None,
    gamma: Annotated[float | None, typer.Option(help="SimPO's γ; the trainer's default.")] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="DPO's and IPO's; --model unless told.")
    ] = None,
    scores: Annotated[
        Path | None,
        shared.path_option(
            help="Its log-probs, from `denoise score --reference`; not computed again."
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="What was scored, where that is not DATA itself."),
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="The paper's Algorithm 1: weights as training goes.")
    ] = False,
    eta0: Annotated[float, typer.Option(help="online: reliability before the first step.")] = 0.9,
    alpha: Annotated[float, typer.Option(help="online: the moving average's step (Eq. 7).")] = 0.1,
    label_smoothing: Annotated[
        float | None, typer.Option(metavar="E", help="A weight of 1 − E for all (cDPO).")
    ] = None,
    rdpo: Annotated[
        float | None, typer.Option(metavar="E", help="Robust DPO, a share E of labels being wrong.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option(metavar="DATA", help="Rows to evaluate on after each epoch.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="TRL's default.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the rows.")] = 1.0,
    max_steps: Annotated[int | None, typer.Option(help="Steps, in place of epochs.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows a device and batch.")] = 8,
    gradient_accumulation: Annotated[int, typer.Option(help="Batches a step.")] = 1,
    warmup: Annotated[float, typer.Option(help="Steps, or below 1 a share of all.")] = 0.0,
    scheduler: Annotated[str, typer.Option(help="linear, cosine, constant …")] = "linear",
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt + response.")] = 1024,
    lora_r: Annotated[
        int | None, typer.Option(help="Train an adapter of that rank, or MODEL's own further.")
    ] = None,
    lora_alpha: Annotated[int | None, typer.Option(help="Its scale; twice the rank.")] = None,
    lora_dropout: Annotated[float, typer.Option(help="Dropout in it.")] = 0.0,
    lora_target: Annotated[
        list[str], typer.Option(metavar="MODULE", help="What it adapts: all linear ones.")
    ] = [],  # noqa: B006
    dtype: Annotated[
        str, typer.Option(help="auto (mixed precision on a GPU), float32 or bfloat16 weights.")
    ] = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, a third more work.")
    ] = False,
    train_arg: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="Any other argument of TRL's DPOConfig or CPOConfig."
        ),
    ] = [],  # noqa: B006
    save_steps: Annotated[
        int | None, typer.Option(help="Steps that a kill may cost; a twentieth of all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order, and of an adapter's start.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    map_: shared.Map = (),
    aspect: shared.Aspect = "overall",
    split: shared.Split = None,
    texts: shared.Texts = None,
) -> None:
    """Train a policy on weighted pairs, with TRL."""
    from denoise import processes, tables
    from denoise.cli.console import let_the_first_process_speak, next_step, say
    from denoise.errors import naming_files, raise_any, refuse
    from denoise.places import is_remote
    from denoise.published import workshop
    from denoise.stages import train as stage
    from denoise.stages.evidence import join_scores
    from denoise.stages.training_rows import (
        check_reference_scores,
        labelled_rows,
        of_pairs,
        with_log_probs,
        with_reference,
    )

    let_the_first_process_speak()
    if processes.count() > 1 and is_remote(out):
        fix = "give a directory that all of them see"
        refuse("several processes cannot train into a store", file=out, fix=fix)
    read = {"DATA": source, "--pairs": pairs, "--scores": scores, "--evaluation": evaluation}
    read |= {"--model": model, "--reference": reference, "--texts": texts}
    raise_any(shared.check_apart({"--out": out}, read))
    if processes.is_first():
        shared.claim(out)
    tables.check_out(out, "train")
    methods = {"online": online or None, "smoothing": label_smoothing, "rdpo": rdpo}
    chosen = [name for name, value in methods.items() if value is not None]
    if len(chosen) > 1:
        refuse("--online, --label-smoothing and --rdpo exclude each other", fix="give only one")
    method = chosen[0] if chosen else "weighted"
    options: dict[str, Any] = {
        "loss": loss,
        "objective": objective,
        "beta": beta,
        "gamma": gamma,
        "method": method,
        "flip_rate": label_smoothing if rdpo is None else rdpo,
        "eta0": eta0,
        "alpha": alpha,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "max_steps": -1 if max_steps is None else max_steps,
        "batch_size": batch_size,
        "gradient_accumulation": gradient_accumulation,
        "warmup": warmup,
        "scheduler": scheduler,
        "weight_decay": weight_decay,
        "max_length": max_length,
        "lora_r": lora_r,
        "lora_alpha": lora_alpha,
        "lora_dropout": lora_dropout,
        "lora_targets": tuple(lora_target),
        "dtype": dtype,
        "gradient_checkpointing": gradient_checkpointing,
        "save_steps": save_steps,
        "seed": seed,
        "trust_remote_code": trust_remote_code,
        "trainer_args": shared.key_values("--train-arg", train_arg),
    }
    settings = stage.TrainSettings(**options)  # before anything is read
    if pairs and not scores:
        refuse("--pairs means nothing without --scores", fix="leave it out")
    data = shared.load(source, map_, aspect, split, texts)
    on = shared.load(evaluation, (), "overall", None, None) if evaluation else None
    with naming_files(rows=source, votes=source, evaluation=evaluation, scores=scores):
        rows, notes = labelled_rows(data)
        if scores:
            logps, made = join_scores(scores)
            scored = shared.load(pairs, (), "overall", None, None) if pairs else data
            table, _ = scored.preferences()
            check_reference_scores(logps, made, settings, table, reference or model)
            rows = with_reference(of_pairs(rows, table) if pairs else rows, table, logps)
            rows, more = with_log_probs(rows)
            notes += more
        for note in notes:
            say(note)
        with workshop(out) as here:
            done = stage.train(
                rows,
                model=model,
                out=here,
                reference=reference,
                evaluation=None if on is None else labelled_rows(on)[0],
                announce=say,
                progress=True,
                **options,
            )
    print_log(done.log)
    if done.reliability is not None:
        print_reliability(done.reliability)
    if done.made_anew:
        say(f"wrote {out}: trained on {len(rows) - len(done.skipped):,} rows")
    else:
        say(f"{out} is there already, from the same rows and settings")
    next_step("denoise", "score", "NEW_DATA", "--policy", out, "--out", "scores.parquet")


def print_log(log: pl.DataFrame) -> None:
    """Print how the loss went: its first, middle and last values."""
    from denoise.cli.console import table

    columns = [c for c in ("step", "loss", "rewards/accuracies", "weight", "eval_loss") if c in log]
    shown = log.select(columns)
    if len(shown) > SHOWN:
        shown = shown.gather([i * (len(shown) - 1) // (SHOWN - 1) for i in range(SHOWN)])
    rows = [
        ["" if v is None else f"{v:,}" if isinstance(v, int) else f"{v:.4f}" for v in row]
        for row in shown.iter_rows()
    ]
    table("Training", [f">{name}" for name in columns], rows)


def print_reliability(reliability: pl.DataFrame) -> None:
    """Print the least reliable annotators by the online method."""
    from denoise.cli.console import percent, table

    least = reliability.sort("reliability", "annotator_id").head(SHOWN).iter_rows()
    rows = [(name, percent(eta)) for name, eta in least]
    title = f"Least reliable of {len(reliability):,}"  # no wider than the table
    table(title, ("annotator", ">reliability"), rows)
