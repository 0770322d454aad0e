"""Export: confidences put back onto the texts, as a weighted data set that trainers read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import polars as pl

from denoise import schema, tables
from denoise.dataset import Dataset
from denoise.errors import Fault, raise_any, refuse
from denoise.places import Place
from denoise.plain import plain
from denoise.stages import card, formats
from denoise.stages.pseudonyms import with_pseudonyms
from denoise.stages.rows import OWN, WORKING, pair_rows, vote_rows, with_texts
from denoise.tables import Provenance

if TYPE_CHECKING:
    from denoise.stages.em import EMResult

Rows = Literal["pairs", "votes"]

SKIPPED_FILE = "skipped.parquet"

TIE = "a tie has no chosen side"
CONTRADICTION = "the annotator's votes on the pair contradict each other, which counts as a tie"
NO_CONFIDENCE = "EM gave the vote no confidence"
NO_VOTE = "nobody voted on the pair"


@dataclass(frozen=True)
class Export:
    """A weighted data set, and what it leaves out.

    Attributes:
        frame: the rows. Both kinds have `prompt`, `chosen`, `rejected` (text or messages),
            `weight` (probability that chosen is truly preferred, a soft label), `pair_id`,
            `margin` (nats, along chosen, before calibration; not there where nothing was scored)
            and the source's columns; `shown_first` says `chosen` or `rejected`.
            Votes add `annotator_id`, `vote_id` and `multiplicity` (one over the rows of the pair).
            Pairs add `n_votes` and `n_agree` (how many of them chose `chosen`).
        rows: what one row is.
        skipped: the votes that no row stands for, and pairs without any vote (`vote_id` null):
            `vote_id`, `pair_id`, `annotator_id`, `vote`, `reason`.
        provenance: what made it; no time, no path.
        made_from: the provenance of the data and, where known, of the EM results.
        annotators: the reliabilities, where given.
        source_columns: those columns of `frame` that the source brought.
        pseudonymous: whether annotator ids were replaced.
        notes: sentences for the user: what was left out or renamed.
    """

    frame: pl.DataFrame
    rows: Rows
    skipped: pl.DataFrame
    provenance: Provenance
    made_from: tuple[Provenance, ...]
    annotators: pl.DataFrame | None
    source_columns: tuple[str, ...]
    pseudonymous: bool = False
    notes: tuple[str, ...] = ()


def export(
    data: Dataset,
    confidences: EMResult | pl.DataFrame,
    *,
    rows: Rows = "pairs",
    annotators: pl.DataFrame | None = None,
    em_provenance: Provenance | None = None,
    pseudonymise: bool = False,
) -> Export:
    """The data with the weight of each label, a row a pair or a row a vote.

    Args:
        data: pairs with votes.
        confidences: what `em` gave, or a table of its contract, of which `vote_id` and `confidence`
            are enough.
        rows: `pairs` gives one row a pair in the order of its first vote, chosen being the likelier
            side (so `weight` >= 0.5; the first vote decides at exactly 0.5). `votes` gives each
            vote that chose a side, in source order, as the annotator gave it (so `weight` < 0.5
            where the label is probably wrong).
        annotators: of a table: reliabilities, for the card.
        em_provenance: of a table: what made it, used to refuse results of other data.
        pseudonymise: replace annotator ids by names made with a key that is then forgotten, so two
            such exports are never alike.

    Raises:
        InputError: the tables do not belong together or depart from their contracts; `rows` is
            `pairs` and some pair with several votes has no posterior; or no row is left.
    """
    if rows not in get_args(Rows):
        refuse("there are no such rows", found=rows, fix="give --rows pairs or --rows votes")
    if not isinstance(confidences, pl.DataFrame):
        annotators, em_provenance = confidences.annotators, confidences.provenance
        confidences = confidences.confidences
    pairs, votes = data.preferences()
    _check_run(data, em_provenance)
    _check_tables(pairs, votes, confidences, annotators)

    votes = votes.sort("vote_id").with_columns(
        pl.col("pair_id", "annotator_id", "vote").cast(pl.String)
    )
    aligned = _align(votes, confidences)
    pair_columns, vote_columns, renamed = _source_names(pairs, votes)
    pairs = pairs.rename(pair_columns).with_columns(pl.col("pair_id").cast(pl.String))
    votes = votes.rename(vote_columns)
    reasons = _reasons(votes, aligned)
    usable = reasons.is_null()
    used, used_confidences = votes.filter(usable), aligned.filter(usable)
    skipped = _skipped(pairs, votes, reasons, used, rows)
    if used.is_empty():
        counts = skipped["reason"].value_counts(sort=True).rows()
        refuse(
            "no label is left to export: " + "; ".join(f"{n:,} × {why}" for why, n in counts),
            fix="score the pairs, or import votes that choose a side",
        )

    notes = _notes(votes, used, skipped, renamed)
    if rows == "votes":
        sided = vote_rows(used, used_confidences)
    else:
        sided, differing = pair_rows(votes, used, used_confidences, tuple(vote_columns.values()))
        if differing:
            notes.append(f"Left out, as a pair's votes differ in it: {', '.join(differing)}")
    brought = (*pair_columns.values(), *vote_columns.values())
    frame = with_texts(sided, pairs, brought)

    made_from = (data.provenance, *([em_provenance] if em_provenance else []))
    em_id = em_provenance.run_id if em_provenance else tables.frame_hash(confidences)
    result = Export(
        frame=frame,
        rows=rows,
        skipped=skipped,
        provenance=Provenance(
            "export",
            inputs={"data": data.provenance.run_id, "em": em_id},
            settings={"rows": rows},
        ),
        made_from=made_from,
        annotators=annotators,
        source_columns=tuple(name for name in brought if name in frame.columns),
        notes=tuple(plain(note) for note in notes),
    )
    return with_pseudonyms(result) if pseudonymise else result


def write_export(
    result: Export,
    out: Place,
    format: str = "hf",
    *,
    license: str | None = None,
    location: str | None = None,
) -> None:
    """Write an export into a directory of its own, with a card, a plot and what was skipped.

    Args:
        result: what to write.
        out: the directory; equal exports give equal files.
        format: a name in `denoise.stages.formats.FORMATS`.
        license: the licence of the source as an SPDX identifier, for the card; None if unknown.
        location: what the card's examples load; a placeholder where not given.

    Raises:
        InputError: there is no such format, it cannot hold a column or does not read the weights,
            or `out` is neither empty nor an earlier export.
    """
    chosen = formats.find(format)
    told = result.provenance.settings
    if told.get("for") != "reward":
        chosen.check(told.get("strategy", "weight"))
    settings = {**told, "format": format}
    provenance = replace(result.provenance, settings=settings)
    texts = card.render(result, chosen, license=license, location=location)
    with tables.staged_directory(out, provenance) as staging:
        chosen.write(result.frame, staging, (*result.made_from, provenance))
        for name, text in texts.items():
            tables.write_text(text, staging / name)
        if len(result.skipped):
            tables.write_table(result.skipped, staging / SKIPPED_FILE, provenance)


def _check_run(data: Dataset, em_provenance: Provenance | None) -> None:
    made_for = em_provenance.inputs.get("data") if em_provenance else None
    if made_for is not None and made_for != data.provenance.run_id:
        refuse(
            f"the EM results were made for other data (run {plain(made_for)[:12]}, these are run "
            f"{data.provenance.run_id[:12]})",
            fix="run `denoise em` on these data again",
        )


def _check_tables(
    pairs: pl.DataFrame,
    votes: pl.DataFrame,
    confidences: pl.DataFrame,
    annotators: pl.DataFrame | None,
) -> None:
    faults = schema.faults(pairs, schema.PAIRS, "pairs")
    faults += schema.faults(votes, schema.VOTE_ROWS, "votes")
    faults += schema.faults(confidences, schema.CONFIDENCES, "confidences")
    if annotators is not None:
        faults += schema.faults(annotators, schema.ANNOTATORS, "annotators")
    raise_any(faults)
    orphans = ~votes["pair_id"].cast(pl.String).is_in(pairs["pair_id"].cast(pl.String).implode())
    if orphans.any():
        row = orphans.arg_true()[0]
        problem = f"{int(orphans.sum()):,} vote(s) on pairs that the pairs table does not have"
        found = votes["pair_id"][row]
        refuse(problem, file="votes", row=row, column="pair_id", found=found, fix="import again")
    a, b = (pairs.schema[name] for name in ("response_a", "response_b"))
    if schema.is_chat(a) != schema.is_chat(b):
        problem = "one response is text and the other a list of messages"
        fix = "import both in one form"
        refuse(problem, file="pairs", column="response_b", found=str(b), fix=fix)


def _align(votes: pl.DataFrame, confidences: pl.DataFrame) -> pl.DataFrame:
    """The confidences row by row beside the votes: `confidence, margin, pair_posterior, vote`."""
    there = [c.name for c in schema.CONFIDENCES.columns if c.name in confidences.columns]
    confidences = confidences.select(there).cast({"vote_id": votes.schema["vote_id"]})
    missing = votes.join(confidences, on="vote_id", how="anti")
    extra = confidences.join(votes, on="vote_id", how="anti")
    mend = "run `denoise em` on these data again"
    faults = []
    if len(missing):
        problem = f"{len(missing):,} vote(s) without a confidence"
        first = missing["vote_id"][0]
        faults.append(Fault(problem, "confidences", column="vote_id", found=first, fix=mend))
    if len(extra):
        problem = f"{len(extra):,} confidence(s) of votes that the data do not have"
        first = extra["vote_id"][0]
        faults.append(Fault(problem, "confidences", column="vote_id", found=first, fix=mend))
    raise_any(faults)
    aligned = votes.select("vote_id").join(
        confidences, on="vote_id", how="left", maintain_order="left"
    )
    numbers = ("confidence", "margin", "pair_posterior")
    aligned = aligned.with_columns(
        (pl.col(n) if n in there else pl.lit(None)).cast(pl.Float64).alias(n) for n in numbers
    )
    if "vote" not in there:
        aligned = aligned.with_columns(votes["vote"])
    other = aligned["vote"].cast(pl.String).ne_missing(votes["vote"]) & (aligned["vote"] != "tie")
    if "pair_id" in there:
        other |= aligned["pair_id"].cast(pl.String).ne_missing(votes["pair_id"])
    if other.any():
        row = other.arg_true()[0]
        problem = f"{int(other.sum()):,} confidence(s) that belong to another pair or vote"
        refuse(problem, file="confidences", column="vote_id", found=votes["vote_id"][row], fix=mend)
    for name in ("confidence", "pair_posterior"):
        outside = (~aligned[name].is_between(0, 1)).fill_null(False)
        if outside.any():
            row = outside.arg_true()[0]
            refuse(
                f"{int(outside.sum()):,} value(s) outside 0 to 1",
                file="confidences",
                column=name,
                found=aligned[name][row],
                fix="a confidence is a probability",
            )
    return aligned


def _source_names(
    pairs: pl.DataFrame, votes: pl.DataFrame
) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]:
    """The exported name of each column that the pairs and the votes bring, and the changed ones."""
    of_pairs = [n for n in pairs.columns if n not in {c.name for c in schema.PAIRS.columns}]
    of_votes = [n for n in votes.columns if n not in ("vote_id", "pair_id", "annotator_id", "vote")]
    # Names without a clash are given first, so that `source_weight` keeps its own beside `weight`.
    taken = {*OWN, *WORKING, *of_pairs, *of_votes}
    changed: list[tuple[str, str]] = []

    def free(name: str, clash: bool) -> str:
        new = name
        while clash:
            new = f"source_{new}"
            clash = new in taken
        taken.add(new)
        if new != name:
            changed.append((name, new))
        return new

    reserved = {*OWN, *WORKING}
    pair_names = {n: free(n, n in reserved) for n in of_pairs}
    vote_names = {n: free(n, n in reserved or n in of_pairs) for n in of_votes}
    return pair_names, vote_names, changed


def _reasons(votes: pl.DataFrame, aligned: pl.DataFrame) -> pl.Series:
    """Why each vote gives no row; null where it does."""
    return pl.select(
        pl.when(votes["vote"] == "tie")
        .then(pl.lit(TIE))
        .when(aligned["vote"] == "tie")
        .then(pl.lit(CONTRADICTION))
        .when(aligned["confidence"].is_null())
        .then(pl.lit(NO_CONFIDENCE))
        .otherwise(pl.lit(None, pl.String))
        .alias("reason")
    ).to_series()


def _skipped(
    pairs: pl.DataFrame, votes: pl.DataFrame, reasons: pl.Series, used: pl.DataFrame, rows: Rows
) -> pl.DataFrame:
    columns = ("vote_id", "pair_id", "annotator_id", "vote")
    out = votes.select(*columns, reasons).filter(pl.col("reason").is_not_null())
    if rows == "pairs":
        out = out.join(used, on="pair_id", how="anti", maintain_order="left")
    voteless = pairs.select("pair_id").join(votes, on="pair_id", how="anti", maintain_order="left")
    return pl.concat([out, voteless.with_columns(reason=pl.lit(NO_VOTE))], how="diagonal")


def _notes(
    votes: pl.DataFrame,
    used: pl.DataFrame,
    skipped: pl.DataFrame,
    renamed: list[tuple[str, str]],
) -> list[str]:
    notes = []
    for reason, count in skipped["reason"].value_counts().sort("reason").rows():
        what = "pair(s)" if reason == NO_VOTE else "vote(s)"
        notes.append(f"{count:,} {what} left out: {reason}")
    silent = len(votes) - len(used) - skipped["vote_id"].count()
    if silent:
        notes.append(
            f"{silent:,} vote(s) on pairs that have a row chose no side or have no confidence, "
            "and are not in n_votes"
        )
    if renamed:
        changes = ", ".join(f"{old} as {new}" for old, new in renamed)
        notes.append(f"Columns of the source renamed, as the export has its own: {changes}")
    return notes
