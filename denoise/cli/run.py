"""`denoise run`: rounds of training and inference."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise.cli import app as shared
from denoise.cli.config import from_config, refuse_code
from denoise.places import Place

if TYPE_CHECKING:
    from rich.live import Live

    from denoise.dataset import Dataset
    from denoise.rounds import RunResult


@shared.app.command()
def run(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA|CONFIG.yaml",
            help="As for the other commands, or a file with these options as its keys.",
            callback=from_config,
            is_eager=True,
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Where training starts, as for `score --policy`."),
    ] = None,
    out: Annotated[Path, shared.path_option(help="The directory of the run.")] = Path("run"),
    loss: Annotated[str, typer.Option(help="dpo, ipo, simpo or cpo.")] = "dpo",
    rounds: Annotated[int, typer.Option(help="At most so many.")] = 3,
    folds: Annotated[int, typer.Option(help="Policies a round, by prompt.")] = 3,
    holdout: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Labels you trust: did it help? Trains once more."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="DPO's and IPO's; --model unless told.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="The loss's β; the trainer's default.")] = None,
    gamma: Annotated[float | None, typer.Option(help="SimPO's γ; the trainer's default.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="mixture or gibbs (the paper's Eq. 5); by the loss.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The trainer's default.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows; 1.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a device and step.")] = None,
    gradient_accumulation: Annotated[int | None, typer.Option(help="Batches a step.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Steps, or below 1 a share.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="linear, cosine, constant …")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, a third more work.")
    ] = False,
    max_length: Annotated[int | None, typer.Option(help="Tokens of prompt + response.")] = None,
    lora_r: Annotated[int | None, typer.Option(help="Train an adapter of that rank.")] = None,
    train_arg: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Any other argument of TRL's trainer.")
    ] = [],  # noqa: B006
    train_command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Another trainer: 'prog --data {data} --from {model} --to {out}'.",
        ),
    ] = None,
    train_format: Annotated[str, typer.Option(help="What it reads, as of `export`.")] = "jsonl",
    allow_commands: Annotated[
        bool, typer.Option("--allow-commands", help="Let a configuration file name a command.")
    ] = False,
    warm_start: Annotated[
        bool, typer.Option(help="A fold's policy goes on from its own of the last round.")
    ] = True,
    tolerance: Annotated[
        float, typer.Option(help="Stop when weights move less on average.")
    ] = 0.01,
    eta0: Annotated[float, typer.Option(help="Reliability before the first step.")] = 0.9,
    backend: Annotated[str, typer.Option(help="What scores, as of `score`.")] = "auto",
    engine_arg: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="vllm: any other engine argument.")
    ] = [],  # noqa: B006
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 … (scoring)")] = "auto",
    engine: shared.Engine = "local",
    ray_address: shared.RayAddress = None,
    workers: shared.WorkerCount = None,
    worker_cpus: shared.WorkerCpus = None,
    worker_gpus: shared.WorkerGpus = None,
    keep_policies: Annotated[
        bool, typer.Option("--keep-policies", help="Keep the policy of every fold.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the folds and of training.")] = 0,
    map_: shared.Map = (),
    aspect: shared.Aspect = "overall",
    split: shared.Split = None,
    texts: shared.Texts = None,
) -> None:
    """Train, score what was not trained on, infer weights, and again: full EM."""
    from denoise import processes
    from denoise.cli.console import say
    from denoise.errors import naming_files, refuse
    from denoise.published import workshop
    from denoise.rounds import run as rounds_of

    refuse_code(context, allow_commands)
    if processes.count() > 1:
        refuse(
            "the rounds are one process, and were started as several",
            found=f"WORLD_SIZE {processes.count()}",
            fix="give --train-command 'accelerate launch -m denoise train {data} --model {model} "
            "--reference {reference} --out {out}', which starts several for each training",
        )
    if model is None:
        refuse("there is no model to start from", fix="give --model, or `model:` in the file")
    shared.claim(out, "run")
    data = shared.load(source, map_, aspect, split, texts)
    gold = shared.load(holdout, (), "overall", None, None) if holdout else None
    if folds == 1:
        say(
            "--folds 1: every policy judges the labels it was trained on, and a model confirms its "
            "own memory; the weights will be worth little"
        )
    options = {
        "loss": loss,
        "rounds": rounds,
        "folds": folds,
        "warm_start": warm_start,
        "tolerance": tolerance,
        "seed": seed,
        "train_command": train_command,
        "train_format": train_format,
        "keep_policies": keep_policies,
        "beta": beta,
        "gamma": gamma,
        "objective": objective,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "gradient_accumulation": gradient_accumulation,
        "warmup": warmup,
        "scheduler": scheduler,
        "gradient_checkpointing": gradient_checkpointing,
        "max_length": max_length,
        "lora_r": lora_r,
        "trainer_args": shared.key_values("--train-arg", train_arg) or None,
        "engine_args": shared.key_values("--engine-arg", engine_arg) or None,
        "eta0": eta0,
        "backend": backend,
        "device": device,
        "cluster": shared.cluster(engine, ray_address, workers, worker_cpus, worker_gpus),
        "trust_remote_code": trust_remote_code,
    }
    files = {"pairs": source, "votes": source, "holdout": holdout or "holdout"}
    with View(rounds) as view, naming_files(**files), workshop(out) as here:
        result = rounds_of(
            data,
            model=model,
            out=here,
            reference=reference,
            holdout=gold,
            announce=say,
            watcher=view,
            progress=True,
            **{name: value for name, value in options.items() if value is not None},
        )
    _conclude(result, out, data)


def _conclude(result: RunResult, out: Place, data: Dataset) -> None:
    from denoise.cli.console import next_step, percent, say

    if not result.converged:
        say("the weights still moved in the last round; the same with more --rounds goes on")
    held_out = result.held_out
    if held_out:
        gain, low, high = (
            f"{100 * share:+.1f}"
            for share in (held_out.denoised - held_out.plain, held_out.low, held_out.high)
        )
        say(
            f"on {held_out.n:,} held-out pairs: plain training {percent(held_out.plain)}, denoised "
            f"{percent(held_out.denoised)}: {gain} points ({low} to {high}), "
            f"p = {held_out.p_value:.2g}"
        )
    say(f"wrote {out}: policy, weighted (the data set), report.html, summary.json, round-*")
    next_step("denoise", "score", "NEW_DATA", "--policy", out / "policy", "--out", "scores.parquet")


class View:
    """The rounds as they go: a table that grows on a terminal, a line a round elsewhere."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.done: list[dict[str, Any]] = []
        self.now = ""
        self.live: Live | None = None

    def __enter__(self) -> View:
        from denoise.progress import console

        if console().is_terminal:
            from rich.live import Live

            self.live = Live(console=console(), get_renderable=self._table, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.now = ""
        if self.live:
            self.live.stop()

    def step(self, number: int, what: str) -> None:
        """Show what is being done."""
        self.now = f"round {number} of {self.rounds}: {what}" if number else what
        if self.live:
            self.live.refresh()

    def finished(self, summary: dict[str, Any]) -> None:
        """Add a round."""
        from denoise.cli.console import say

        self.done.append(summary)
        if not self.live:
            say(", ".join(f"{name} {value}" for name, value in _cells(summary).items() if value))

    def _table(self) -> Any:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        for name in _cells(self.done[0]) if self.done else ("round",):
            table.add_column(name, justify="right")
        for summary in self.done:
            table.add_row(*map(Text, _cells(summary).values()))
        # Not a caption, which is broken at the width of the table.
        return Group(table, Text(self.now))


def _cells(summary: dict[str, Any]) -> dict[str, str]:
    """A round's figures as text, by heading; nothing where it has none."""
    from denoise.cli.console import percent

    def number(name: str, digits: int) -> str:
        value = summary[name]
        return "" if value is None else f"{value:.{digits}f}"

    told = summary["mean_reliability"] is not None
    return {
        "round": str(summary["round"]),
        "temperature": number("temperature", 2),
        "mean reliability": percent(summary["mean_reliability"]) if told else "",
        "wrong labels": percent(summary["expected_wrong_share"]),
        "w below ½": f"{summary['doubted']:,}",
        "weights moved by": number("moved", 3),
    }
