"""`denoise audit`: who can be trusted, and which labels to look at again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise.cli import app as shared
from denoise.places import Place
from denoise.plain import plain

if TYPE_CHECKING:
    from denoise.stages.audit import AuditResult

FAILED_GATE = 3
"""Exit status where a measure is below --fail-under."""

ID_WIDTH = 32
TEXT_WIDTH = 44


@shared.app.command()
def audit(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A directory that `denoise import` made, or anything that it understands.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, shared.path_option(help="The page to write.")] = Path("report.html"),
    truth: Annotated[
        Path | None,
        shared.path_option(help="Known answers: item_id and label, or pair_id and vote."),
    ] = None,
    slice_: Annotated[
        list[str],
        typer.Option(
            "--slice", metavar="COLUMN", help="Compare by language, topic, …; repeatable."
        ),
    ] = [],  # noqa: B006
    time: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="When an answer was given, if not in timestamp."),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="What changed between two batches, in place of SOURCE."),
    ] = None,
    fail_under: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=NUMBER,…",
            help="Exit with 3 if reliability (mean), min_reliability or alpha is lower.",
        ),
    ] = None,
    clean: Annotated[
        Path | None,
        shared.path_option(help="Write one label an item, with its posterior (Parquet)."),
    ] = None,
    json_: Annotated[
        Path | None, shared.path_option("--json", help="Write the audit as JSON.")
    ] = None,
    csv: Annotated[Path | None, shared.path_option(help="Write its tables here, as CSV.")] = None,
    parquet: Annotated[
        Path | None, shared.path_option(help="Write its tables here, as Parquet.")
    ] = None,
    anonymize: Annotated[
        bool, typer.Option("--anonymize", help="Pseudonyms for annotators; the key is not kept.")
    ] = False,
    scores: Annotated[
        Path | None, shared.path_option(help="pairs: what `denoise score` wrote.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="pairs: dpo (unless told), ipo, …")] = None,
    beta: Annotated[float | None, typer.Option(help="pairs: the loss's β.")] = None,
    gamma: Annotated[float | None, typer.Option(help="pairs: SimPO's γ.")] = None,
    margin: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="pairs: your own margin, first − second.")
    ] = None,
    prob: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="pairs: probability of the first response.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="labels: auto, majority, one-coin, guesser or dawid-skene.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of permutations and bootstraps.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads to use; all cores.")] = None,
    show: Annotated[int, typer.Option(help="How many annotators and labels to print.")] = 10,
    map_: shared.Map = (),
    aspect: shared.Aspect = "overall",
    split: shared.Split = None,
    texts: shared.Texts = None,
    format_: shared.Format = None,
) -> None:
    """Judge annotators, labels and items; write a page that opens offline."""
    from denoise import tables
    from denoise.cli.console import next_step, say
    from denoise.errors import Fault, raise_any
    from denoise.stages import audit_outputs as outputs
    from denoise.stages.pseudonyms import new_key

    wrong = []
    if (source is None) == (compare is None):
        fix = "denoise audit SOURCE, or denoise audit --compare A B"
        wrong.append(Fault("give either SOURCE or --compare A B", fix=fix))
    alone = {"--clean": clean, "--csv": csv, "--parquet": parquet, "--fail-under": fail_under}
    alone |= {"--scores": scores}
    if compare is not None:
        fix = "audit each batch by itself for that"
        wrong += [Fault(f"{o} means nothing to --compare", fix=fix) for o in alone if alone[o]]
    read = {"SOURCE": source, **dict(zip("AB", compare or (), strict=False))}
    wrong += shared.check_apart(
        {"--csv": csv, "--parquet": parquet},
        {**read, "--truth": truth, "--scores": scores, "--texts": texts},
        files={"--out": out, "--clean": clean, "--json": json_},
    )
    raise_any(wrong)
    least = outputs.gates(fail_under) if fail_under is not None else {}
    outputs.check_report(out)
    if clean:
        tables.check_table_out(clean, "audit")
    if json_:
        outputs.check_json(json_)
    for file in filter(None, (out, clean, json_)):
        shared.claim(file)
    for directory in filter(None, (csv, parquet)):
        shared.claim(directory, "audit")
    key = new_key() if anonymize else None

    def one(of: str) -> AuditResult:
        data = shared.load(of, map_, aspect, split, texts, format_)
        return _audited(
            data,
            of,
            key,
            truth=truth,
            scores=scores,
            options={
                "time": time,
                "slices": tuple(slice_),
                "model": model,
                "seed": seed,
                "threads": threads,
            },
            evidence={
                "loss": loss,
                "beta": beta,
                "gamma": gamma,
                "margin_column": margin,
                "prob_column": prob,
            },
        )

    if compare is not None:
        _compare(one(compare[0]), one(compare[1]), compare, out, json_, show)
        return
    assert source is not None
    result = one(source)
    from denoise.report.audit import page

    tables.write_text(page(result, source), out)
    _print(result, show)
    if clean:
        tables.write_table(outputs.clean_labels(result), clean, result.provenance)
        say(f"wrote {clean}: {len(result.items):,} labels")
    if json_:
        tables.write_json(outputs.as_json(result), json_)
        say(f"wrote {json_}")
    for kind, directory in (("csv", csv), ("parquet", parquet)):
        if directory:
            names = outputs.write_tables(result, directory, kind)
            say(f"wrote {directory}: {', '.join(names)}")
    say(f"wrote {out}: open it in a browser")
    if not clean:
        words = shared.import_words(map_, aspect, split, texts)
        words += ["--format", format_] if format_ else []
        next_step("denoise", "audit", source, *words, "--clean", "clean.parquet")
    failed = outputs.below(result.summary, least)
    for sentence in failed:
        say(f"failed: {sentence}")
    if failed:
        raise typer.Exit(FAILED_GATE)


def _audited(
    data: Any,
    source: str,
    key: bytes | None,
    *,
    truth: Place | None,
    scores: Place | None,
    options: dict[str, Any],
    evidence: dict[str, Any],
) -> AuditResult:
    """The audit of one source, under pseudonyms where there is a key."""
    from denoise.errors import Fault, naming_files, raise_any
    from denoise.importers.files import read_file
    from denoise.progress import waiting
    from denoise.stages.audit import audit as run
    from denoise.stages.audit_outputs import anonymised
    from denoise.stages.evidence import join_scores

    if not data.is_preference:
        idle = {"--scores": scores} | {
            f"--{name.removesuffix('_column')}": value for name, value in evidence.items()
        }
        raise_any(
            Fault(f"{name} means nothing to labels", fix="leave it out")
            for name, value in idle.items()
            if value is not None
        )
    frame, made = join_scores(scores) if scores else (None, None)
    if frame is not None:
        evidence |= {"scores": frame, "scores_provenance": made}
    evidence = {name: value for name, value in evidence.items() if value is not None}
    files = {name: source for name in ("votes", "pairs", "labels")}
    with naming_files(**files, scores=scores or source, truth=truth or "truth"):
        known = read_file(truth).frame if truth else None
        with waiting("judging annotators, labels and items", shown=True):
            result = run(data, truth=known, **options, **evidence)
    return anonymised(result, key) if key is not None else result


def _print(result: AuditResult, show: int) -> None:
    """The headline, who needs a look, and what to look at again."""
    from denoise.cli.console import interval, percent, say, table
    from denoise.report.audit import buying, doubtful, enough
    from denoise.report.words import headline
    from denoise.stages.audit_tables import NEEDS_A_LOOK, has_flag

    print()
    for sentence in headline(dict(result.summary)):
        say(sentence)
    people = result.annotators
    worst = people.filter(has_flag(NEEDS_A_LOOK))
    title = f"{len(worst):,} annotators who need a look, of {len(people):,}"
    if worst.is_empty() and result.summary["n_annotators"]:
        worst, title = people, f"Least reliable of {len(people):,} annotators, none flagged"
    rows = [
        (
            plain(row["annotator_id"], ID_WIDTH),
            percent(row["reliability"]),
            interval(row["reliability_low"], row["reliability_high"]),
            f"{row['n_votes']:,}",
            ", ".join(row["flags"]),
        )
        for row in worst.head(show).iter_rows(named=True)
    ]
    if rows and result.summary["n_annotators"]:
        table(title, ("annotator", ">reliability", ">95 % interval", ">votes", "flags…"), rows)
    alpha = result.agreement.alpha
    if alpha.value == alpha.value:
        say(f"Krippendorff's alpha {alpha.value:.3f} ({alpha.low:.3f} to {alpha.high:.3f})")
    say(enough(result))
    say(buying(result))
    pairs = result.judged.is_preference
    rows = [
        (
            plain(row["text" if pairs else "item_id"], TEXT_WIDTH if pairs else ID_WIDTH),
            plain(row["label"], ID_WIDTH),
            percent(row["worth_of_a_look"]),
            f"{row['n_votes']:,}",
        )
        for row in doubtful(result, show)
    ]
    if rows:
        names = ("prompt", "better response") if pairs else ("item", "label")
        columns = (*names, ">may be wrong", ">votes")
        table(f"Labels to look at first, of {len(result.items):,}", columns, rows)


def _compare(
    a: AuditResult,
    b: AuditResult,
    names: tuple[str, str],
    out: Place,
    json_: Place | None,
    show: int,
) -> None:
    """What changed between two audits: page, terminal, and JSON."""
    from denoise import tables
    from denoise.cli.console import percent, say, table
    from denoise.report.compare import changed, headline, page, rows_of
    from denoise.stages.audit_compare import compare
    from denoise.stages.audit_outputs import without_nan

    found = compare(a, b)
    tables.write_text(page(found, *names), out)
    print()
    for sentence in headline(found):
        say(sentence)
    columns = ("measure", ">A", ">B", ">change", ">95 % interval")
    table(f"A: {names[0]}, B: {names[1]}", columns, rows_of(found))
    moved = changed(found)
    rows = [
        (
            plain(row["annotator_id"], ID_WIDTH),
            percent(row["reliability_a"]),
            percent(row["reliability_b"]),
            f"{100 * row['change']:+.1f} points",
        )
        for row in moved.head(show).iter_rows(named=True)
    ]
    if rows:
        title = f"{len(moved):,} annotators whose reliability changed"
        table(title, ("annotator", ">A", ">B", ">change"), rows)
    if json_:
        content = {
            "a": without_nan(a.summary),
            "b": without_nan(b.summary),
            "measures": found.measures.to_dicts(),
            "annotators": found.annotators.to_dicts(),
        }
        tables.write_json(content, json_)
        say(f"wrote {json_}")
    say(f"wrote {out}: open it in a browser")
