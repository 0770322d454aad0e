"""`denoise demo`: the commands on the quick-start set, held against what was planted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from denoise.cli import app as shared

if TYPE_CHECKING:
    import polars as pl


GOLD = 500
"""Prompts whose truth is held out, to say whether the rounds helped."""


class Found(NamedTuple):
    """Labels with a confidence below ½ against the labels that are wrong by the planted truth."""

    labels: int
    wrong: int
    doubted: int
    doubted_and_wrong: int


@shared.app.command()
def demo(
    out: Annotated[Path, shared.path_option(help="The directory to work in.")] = Path("demo"),
) -> None:
    """Run the commands on the quick-start set, and rounds of training, in a few minutes."""
    from denoise import tables
    from denoise.cli.console import command, say
    from denoise.errors import refuse
    from denoise.places import is_remote

    if is_remote(out):
        refuse("the demo works on this machine", file=out, fix="give a directory of it")
    shared.claim(out, "demo")
    out.mkdir(parents=True, exist_ok=True)
    tables.write_text(tables.Provenance("demo").to_json() + "\n", out / tables.MANIFEST)
    quickstart = out / "quickstart"
    shutil.copytree(quickstart_directory(), quickstart, dirs_exist_ok=True)
    data, scores, em, weighted = (out / n for n in ("data", "scores.parquet", "em", "weighted"))
    models = ("--policy", quickstart / "policy", "--reference", quickstart / "reference")
    say("3,000 pairs, 24 annotators with planted reliabilities, two tiny language models:")
    say(f"what follows is what you would type; {quickstart}/README.md says how the set was made.")
    for words in (
        ("import", quickstart / "preferences.jsonl", "--out", data),
        ("score", data, *models, "--out", scores),
        ("em", data, "--scores", scores, "--out", em),
        ("export", data, em, "--out", weighted),
    ):
        print(f"\n$ {command('denoise', *words)}", flush=True)
        shared.app([str(word) for word in words], prog_name="denoise", standalone_mode=False)
    print_against_truth(data, em, quickstart)
    print()
    say(
        "That policy was trained on other labels. Rounds train their own on these, from the "
        "reference, and ask each about prompts that it has not seen."
    )
    gold = out / "gold.jsonl"
    write_gold(quickstart, gold)
    words = ("run", quickstart / "preferences.jsonl", "--model", quickstart / "reference")
    words += ("--rounds", 2, "--learning-rate", 1e-3, "--batch-size", 32, "--holdout", gold)
    words += ("--out", out / "run")
    print(f"\n$ {command('denoise', *words)}", flush=True)
    shared.app([str(word) for word in words], prog_name="denoise", standalone_mode=False)
    say(f"Look at {out}/run/report.html, then try your own: denoise import YOUR_FILE --out data")


def quickstart_directory() -> Path:
    """Where the quick-start set lies: in the installed package, or in the checkout.

    Raises:
        InputError: it is in neither place.
    """
    from denoise.errors import refuse

    package = Path(__file__).resolve().parent.parent
    for directory in (package / "quickstart", package.parent / "data" / "quickstart"):
        if (directory / "preferences.jsonl").is_file():
            return directory
    refuse("the quick-start set is missing", file=package / "quickstart", fix="install again")


def write_gold(quickstart: Path, file: Path) -> None:
    """Write the truth of some prompts, as labels to trust; they take no part in training."""
    import polars as pl

    from denoise import tables

    truth = pl.read_parquet(quickstart / "truth.parquet").sample(GOLD, seed=0)
    rows = truth.select("prompt", chosen="preferred", rejected="other")
    tables.write_text(rows.write_ndjson(), file)


def print_against_truth(data: Path, em: Path, quickstart: Path) -> None:
    """Print planted against estimated reliabilities, and how many wrong labels were found."""
    import polars as pl

    from denoise.cli.console import percent, say, table
    from denoise.dataset import read_dataset
    from denoise.stages.em import read_em

    result = read_em(em)
    planted = pl.read_parquet(quickstart / "annotators_truth.parquet")
    planted = planted.select("annotator_id", pl.col("reliability").alias("planted"))
    both = result.annotators.join(planted, on="annotator_id").sort("planted", "annotator_id")
    rows = [
        (
            row["annotator_id"],
            percent(row["planted"]),
            percent(row["reliability"]),
            f"{100 * (row['reliability'] - row['planted']):+.1f}",
            f"{row['n_votes']:,}",
        )
        for row in both.iter_rows(named=True)
    ]
    columns = ("annotator", ">planted", ">estimated", ">error", ">votes")
    table("What was planted, and what was found", columns, rows)
    error = (both["reliability"] - both["planted"]).pow(2).mean() ** 0.5
    say(f"reliability error (RMSE over annotators): {100 * error:.1f} points")
    pairs, _ = read_dataset(data).preferences()
    truth = pl.read_parquet(quickstart / "truth.parquet")
    found = wrong_labels_found(pairs, result.confidences, truth)
    say(
        f"{found.labels:,} labels, {found.wrong:,} of them wrong "
        f"({percent(found.wrong / found.labels)}); confidence below 0.5 on {found.doubted:,}, "
        f"of which {found.doubted_and_wrong:,} are wrong: "
        f"{percent(found.doubted_and_wrong / max(found.doubted, 1))} precision, "
        f"{percent(found.doubted_and_wrong / max(found.wrong, 1))} of the wrong labels found"
    )


def wrong_labels_found(
    pairs: pl.DataFrame, confidences: pl.DataFrame, truth: pl.DataFrame
) -> Found:
    """Count wrong and doubted labels; `truth` has `prompt`, `preferred` and `other`."""
    import polars as pl

    texts = pairs.select("pair_id", "prompt", "response_a", "response_b")
    labels = confidences.filter(pl.col("confidence").is_not_null()).join(texts, on="pair_id")
    first = pl.col("vote") == "a"
    labels = labels.with_columns(
        pl.when(first).then("response_a").otherwise("response_b").alias("preferred"),
        pl.when(first).then("response_b").otherwise("response_a").alias("other"),
    )
    labels = labels.join(
        truth.select("prompt", "preferred", "other", pl.lit(True).alias("right")),
        on=["prompt", "preferred", "other"],
        how="left",
    )
    wrong, doubted = labels["right"].is_null(), labels["confidence"] < 0.5
    return Found(len(labels), wrong.sum(), doubted.sum(), (wrong & doubted).sum())
