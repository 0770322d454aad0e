"""`denoise em`: a confidence per label and a reliability per annotator."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise.cli import app as shared
from denoise.places import Place
from denoise.plain import plain

if TYPE_CHECKING:
    from denoise.dataset import Dataset
    from denoise.stages.em import EMResult
    from denoise.stages.labels import LabelsResult
    from denoise.stages.settings import EMSettings


ID_WIDTH = 40


@shared.app.command()
def em(
    source: shared.Source,
    scores: Annotated[
        Path | None,
        shared.path_option(help="What `denoise score` wrote; shards of one run are joined."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="dpo (unless told), ipo, simpo or cpo; rewards need none."),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="The loss's β; the trainer's default.")] = None,
    gamma: Annotated[float | None, typer.Option(help="SimPO's γ; the trainer's default.")] = None,
    ipo_sum: Annotated[
        bool, typer.Option("--ipo-sum", help="The paper's sum for IPO, not TRL's token mean.")
    ] = False,
    margin: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Your own margin: first response minus second."),
    ] = None,
    prob: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Your own probability of the first response."),
    ] = None,
    mode: Annotated[str, typer.Option(help="auto, or paper: RE-PO as published.")] = "auto",
    pool: Annotated[
        bool, typer.Option(help="auto: votes on one pair share what is true of it.")
    ] = True,
    calibrate: Annotated[
        bool, typer.Option(help="auto: fit how far the model's margins can be trusted.")
    ] = True,
    prior: Annotated[
        str, typer.Option(help="auto: reliabilities ~ Beta: auto (learned), off, or A,B.")
    ] = "auto",
    model: Annotated[
        str, typer.Option(help="labels: auto, majority, one-coin, guesser or dawid-skene.")
    ] = "auto",
    truth: Annotated[
        Path | None,
        shared.path_option(help="Known answers: pair_id and vote, or item_id and label."),
    ] = None,
    init: Annotated[
        Path | None, shared.path_option(help="An earlier run, whose votes count as well.")
    ] = None,
    schedule: Annotated[
        str, typer.Option(help="paper: full (Eq. 6, to convergence) or ema (Eq. 7, mini-batches).")
    ] = "full",
    eta0: Annotated[float, typer.Option(help="Reliability before the first step.")] = 0.9,
    alpha: Annotated[float, typer.Option(help="ema: the moving average's step.")] = 0.1,
    batch_size: Annotated[int, typer.Option(help="ema: votes in a mini-batch.")] = 64,
    epochs: Annotated[int, typer.Option(help="ema: passes over the votes.")] = 1,
    seed: Annotated[int, typer.Option(help="ema: the order of the votes.")] = 0,
    tolerance: Annotated[float, typer.Option(help="Stop when no reliability moves more.")] = 1e-6,
    max_iterations: Annotated[int, typer.Option(help="Stop there at the latest.")] = 2000,
    threads: Annotated[int | None, typer.Option(help="Threads to use; all cores.")] = None,
    stream: Annotated[
        bool | None,
        typer.Option(help="Read and write by row group; unasked from 20 million votes on."),
    ] = None,
    engine: shared.Engine = "local",
    ray_address: shared.RayAddress = None,
    show: Annotated[int, typer.Option(help="How many annotators and labels to print.")] = 10,
    out: Annotated[Path, shared.path_option(help="The directory to write.")] = Path("em"),
    map_: shared.Map = (),
    aspect: shared.Aspect = "overall",
    split: shared.Split = None,
    texts: shared.Texts = None,
) -> None:
    """Infer each label's confidence and each annotator's reliability."""
    from denoise.cli.console import next_step, say
    from denoise.cluster import check_engine
    from denoise.errors import naming_files, raise_any, refuse
    from denoise.importers.files import read_file
    from denoise.stages import em as stage

    read = {"DATA": source, "--scores": scores, "--truth": truth, "--init": init, "--texts": texts}
    raise_any(shared.check_apart({"--out": out}, read))
    shared.claim(out, "em")
    options = {
        "loss": loss,
        "beta": beta,
        "gamma": gamma,
        "ipo_sum": ipo_sum,
        "margin_column": margin,
        "prob_column": prob,
        "mode": mode,
        "pool": pool,
        "calibrate": calibrate,
        "prior": _prior(prior),
        "schedule": schedule,
        "eta0": eta0,
        "alpha": alpha,
        "batch_size": batch_size,
        "epochs": epochs,
        "seed": seed,
        "tolerance": tolerance,
        "max_iterations": max_iterations,
        "threads": threads,
    }
    settings = stage.EMSettings(**options)  # before anything is read
    check_engine(engine, ray_address)
    # numba is not for paper mode
    may_stream = stream or engine == "ray" or (stream is None and mode == "auto")
    words = shared.import_words(map_, aspect, split, texts)
    if words and (stream or engine == "ray"):
        option = "--engine ray" if engine == "ray" else "--stream"
        refuse(
            f"{words[0]} is for `denoise import`, and {option} reads what that wrote",
            fix="run `denoise import` first, and give its --out",
        )
    if may_stream and not words:
        from denoise.stages import stream as by_row_group

        if stream or engine == "ray" or by_row_group.suits(source, settings, init):
            _check_no_model(model)
            _stream(source, out, scores, truth, init, show, engine, ray_address, options)
            return
    data = shared.load(source, map_, aspect, split, texts)
    if not data.is_preference:
        given = {"--scores": scores, "--init": init}
        idle = [name for name in given if given[name]] + _of_votes(settings)
        _labels(data, source, model, truth, threads, idle, show, out)
        return
    _check_no_model(model)
    frame, provenance = stage.join_scores(scores) if scores else (None, None)
    files = {"scores": scores or source, "votes": source, "pairs": source}
    with naming_files(**files, truth=truth or "truth", init=init or "init"):
        result = stage.em(
            data,
            frame,
            truth=read_file(truth).frame if truth else None,
            init=stage.read_em(init) if init else None,
            scores_provenance=provenance,
            **options,
        )
    stage.write_em(result, out)
    for note in result.notes:
        say(note)
    print_annotators(result, show)
    print_doubtful(data, result, show)
    print_wrong(result)
    say(f"wrote {out}: confidences, annotators, trace, summary.json")
    pooled = mode == "auto" and pool
    rows = [] if pooled or not result.summary["n_pairs_several"] else ["--rows", "votes"]
    next_step(
        "denoise", "export", source, out, *words, *rows, "--format", "hf", "--out", "weighted"
    )


def _check_no_model(model: str) -> None:
    from denoise.errors import refuse

    if model != "auto":
        refuse("--model means nothing to votes on pairs", found=model, fix="leave it out")


def _of_votes(settings: EMSettings) -> list[str]:
    """The options that are given and for votes on pairs only."""
    names = {"margin_column": "margin", "prob_column": "prob"}
    names |= {"pool": "no-pool", "calibrate": "no-calibrate"}
    return [
        f"--{names.get(each.name, each.name).replace('_', '-')}"
        for each in fields(settings)
        if each.name != "threads" and getattr(settings, each.name) != each.default
    ]


def _labels(
    data: Dataset,
    source: str,
    model: str,
    truth: Place | None,
    threads: int | None,
    meaningless: list[str],
    show: int,
    out: Place,
) -> None:
    """The command for categorical labels."""
    from denoise.cli.console import say
    from denoise.errors import Fault, naming_files, raise_any
    from denoise.importers.files import read_file
    from denoise.stages.labels import em_labels, write_labels

    raise_any(Fault(f"{name} means nothing to labels", fix="leave it out") for name in meaningless)
    with naming_files(labels=source, truth=truth or "truth"):
        known = read_file(truth).frame if truth else None
        result = em_labels(data, model=model, truth=known, threads=threads)
    write_labels(result, out)
    for note in result.notes:
        say(note)
    print_annotators(result, show)
    wrong = result.summary["expected_wrong_items"]
    say(f"about {round(wrong):,} of {len(result.items):,} items get a wrong label")
    say(f"wrote {out}: items, annotators, confusions, trace, summary.json")


def _stream(
    source: str,
    out: Place,
    scores: Place | None,
    truth: Place | None,
    init: Place | None,
    show: int,
    engine: str,
    ray_address: str | None,
    options: dict[str, Any],
) -> None:
    """The command over tables that are read and written by row group, here or on a cluster."""
    import sys

    from denoise.cli.console import next_step, say
    from denoise.errors import naming_files, refuse
    from denoise.importers.files import read_file
    from denoise.stages.stream import em_stream

    if init is not None:
        fix = "leave out --stream, or --engine ray"
        refuse("an earlier run cannot be joined by row group", file=init, fix=fix)
    on_step = (lambda name: print(f"{name} …", file=sys.stderr)) if sys.stderr.isatty() else None
    with naming_files(votes=source, pairs=source, truth=truth or "truth"):
        known = read_file(truth).frame if truth else None
        given = {"truth": known, "on_step": on_step, **options}
        if engine == "ray":
            from denoise.stages.stream.cluster import em_cluster

            result = em_cluster(source, out, scores, address=ray_address, **given)
        else:
            result = em_stream(source, out, scores, **given)
    for note in result.notes:
        say(note)
    print_annotators(result, show)
    print_wrong(result)
    say(f"wrote {out}: confidences, annotators, trace, summary.json")
    next_step("denoise", "export", source, out, "--format", "hf", "--out", "weighted")


def _prior(text: str) -> str | tuple[float, float]:
    """`A,B` as two numbers; anything else as it is, for the settings to judge."""
    try:
        a, b = (float(part) for part in text.split(","))
    except ValueError:
        return text
    return a, b


def print_wrong(result: EMResult) -> None:
    """Print how many labels are expected to be wrong, with the interval where there is one."""
    from denoise.cli.console import percent, say

    summary = result.summary
    share = percent(summary["expected_wrong_share"])
    between = ""
    if "expected_wrong_low" in summary:
        low, high = (round(summary[f"expected_wrong_{end}"]) for end in ("low", "high"))
        between = f", {low:,} to {high:,} with 95 % probability"
    say(f"about {round(summary['expected_wrong']):,} labels are wrong ({share}{between})")


def print_annotators(result: EMResult | LabelsResult, show: int) -> None:
    """Print the least reliable annotators."""
    from denoise.cli.console import interval, percent, table

    if show < 1:
        return
    worst = result.annotators.sort("reliability", "annotator_id", nulls_last=True)
    rows = [
        (
            plain(row["annotator_id"], ID_WIDTH),
            percent(row["reliability"]),
            interval(row["reliability_low"], row["reliability_high"]),
            f"{row['n_votes']:,}",
            percent(row["agreement"]),
            ", ".join(row["flags"]),
        )
        for row in worst.head(show).iter_rows(named=True)
    ]
    columns = ("annotator", ">reliability", ">95 % interval", ">votes", ">agreement", "flags…")
    table(f"Least reliable of {len(worst):,} annotators", columns, rows)


def print_doubtful(data: Dataset, result: EMResult, show: int) -> None:
    """Print the most doubtful labels with their texts cut to fit."""
    import polars as pl

    from denoise.cli.console import block
    from denoise.schema import content_text

    pairs, _ = data.preferences()
    labels = result.confidences.filter(pl.col("confidence").is_not_null())
    if labels["confidence"].round(6).n_unique() < 2 or show < 1:
        return  # nothing sets one label apart from another
    texts = pairs.select(pl.col("pair_id").cast(pl.String), "prompt", "response_a", "response_b")
    worst = labels.sort("confidence", "vote_id").head(show)
    worst = worst.join(texts, on="pair_id", maintain_order="left")
    print(f"\nMost doubtful labels, of {len(labels):,}")
    for row in worst.iter_rows(named=True):
        chosen, rejected = ("a", "b") if row["vote"] == "a" else ("b", "a")
        annotator = plain(row["annotator_id"], ID_WIDTH)
        block(
            f"confidence {row['confidence']:.2g}, vote {row['vote_id']}, {annotator}",
            {
                "prompt": content_text(row["prompt"]),
                "chosen": content_text(row[f"response_{chosen}"]),
                "rejected": content_text(row[f"response_{rejected}"]),
            },
        )
    print()
