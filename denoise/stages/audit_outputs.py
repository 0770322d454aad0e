"""What an audit is written as: JSON, CSV, Parquet, clean labels; with names or pseudonyms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from denoise import schema, tables
from denoise.errors import Fault, raise_any, refuse
from denoise.places import Place
from denoise.schema import ALL_ANNOTATORS
from denoise.stages.audit import AuditResult
from denoise.stages.labels import LabelsResult
from denoise.stages.pseudonyms import holds_ids, pseudonyms

GATES = {
    "reliability": "mean reliability, weighted by votes",
    "min_reliability": "reliability of the worst annotator with enough votes",
    "alpha": "Krippendorff's alpha",
}


def result_tables(result: AuditResult) -> dict[str, pl.DataFrame]:
    """Every table of the audit by its name, as `--csv` and `--parquet` write them."""
    found = {
        "annotators": result.annotators,
        "findings": result.findings,
        "items": result.items,
        "votes": result.votes,
        "slices": result.slices,
        "annotator_slices": result.annotator_slices,
        "plan": result.plan,
        "by_votes": by_votes_table(result),
    }
    if isinstance(result.judged.result, LabelsResult):
        found["confusions"] = result.judged.result.confusions
    return found


def by_votes_table(result: AuditResult) -> pl.DataFrame:
    """Accuracy by votes an item, as a table."""
    curve = result.by_votes
    return pl.DataFrame(
        {
            "votes": pl.Series(curve.votes, dtype=pl.Int64),
            "expected_accuracy": pl.Series(curve.expected, dtype=pl.Float64),
            "accuracy_on_known": pl.Series(curve.known, dtype=pl.Float64, nan_to_null=True),
        }
    )


def anonymised(result: AuditResult, key: bytes) -> AuditResult:
    """The audit with a pseudonym for every annotator (`pseudonyms`); nothing tells the key.

    Raises:
        InputError: a slice is of values that are annotators' ids.
    """
    ids = result.judged.annotators
    for name in result.slices["slice"].unique(maintain_order=True):
        if holds_ids(result.slices.filter(slice=name)["value"], ids):
            refuse("these slices are annotators, which --anonymize hides", column=name)
    known = ids.filter(ids != ALL_ANNOTATORS)
    names = pseudonyms(known, key)

    def renamed(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col("annotator_id").replace(known, names))

    copied = pl.col("question") == "copies"
    findings = renamed(result.findings).with_columns(
        other=pl.when(copied).then(pl.col("other").replace(known, names)).otherwise("other")
    )
    of_em = result.judged.result
    if isinstance(of_em, LabelsResult):
        of_em = replace(of_em, confusions=renamed(of_em.confusions))
    return replace(
        result,
        annotators=renamed(result.annotators),
        findings=findings,
        votes=renamed(result.votes),
        annotator_slices=renamed(result.annotator_slices),
        judged=replace(result.judged, result=of_em),
        provenance=replace(
            result.provenance, settings={**result.provenance.settings, "anonymised": True}
        ),
    )


def as_json(result: AuditResult) -> dict[str, Any]:
    """The audit but for its longest tables, as plain values."""
    return {
        "summary": without_nan(result.summary),
        "annotators": result.annotators.to_dicts(),
        "findings": result.findings.filter("flagged").to_dicts(),
        "slices": result.slices.to_dicts(),
        "by_votes": by_votes_table(result).to_dicts(),
        "plan": result.plan.to_dicts(),
    }


def without_nan(value: Any) -> Any:
    """The value with None for NaN, at any depth: JSON has none."""
    if isinstance(value, Mapping):
        return {name: without_nan(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(of) for of in value]
    return None if isinstance(value, float) and value != value else value


FORMULA = r"^\s*[=+\-@\t\r\n＝＋－＠]"
"""How a cell begins that a spreadsheet takes for a formula; full-width signs count."""

NUMBER = r"^[+-]?\d+(\.\d+)?$"
"""A number is one, whatever its sign."""


def write_tables(result: AuditResult, out: Place, kind: str) -> list[str]:
    """Write every table into a directory, as "csv" or "parquet", all of them or none; the names."""
    names = []
    with tables.staged_directory(out, result.provenance) as staging:
        for name, frame in result_tables(result).items():
            path = staging / f"{name}.{kind}"
            if kind == "parquet":
                tables.write_table(frame, path, result.provenance)
            else:
                tables.write_text(flat(frame).write_csv(), path)
            names.append(path.name)
    return names


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with lists as text, as CSV has no lists, and no text that a spreadsheet would run.

    An id such as `=HYPERLINK(…)` gets an apostrophe before it (OWASP, CSV Injection).
    """
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    texts = pl.col(pl.String)
    return frame.with_columns(pl.col(lists).list.join("; ")).with_columns(
        pl.when(texts.str.contains(FORMULA) & ~texts.str.contains(NUMBER))
        .then("'" + texts)
        .otherwise(texts)
        .name.keep()
    )


def clean_labels(result: AuditResult) -> pl.DataFrame:
    """One label an item, with the probability that it is right, ready for training.

    Of labels: `item_id`, `label`, `confidence`, `posterior_<class>`; of pairs: `pair_id`, `prompt`,
    `chosen`, `rejected`, `confidence`, and the pairs' other columns.
    """
    crowd = result.judged
    if crowd.pairs is None:
        assert isinstance(crowd.result, LabelsResult)
        return crowd.result.items.drop("entropy")
    best = pl.DataFrame({"pair_id": crowd.items, "for_a": crowd.posterior[:, 0]})
    pairs = crowd.pairs.drop("for_a", strict=False)  # it would stand in the place of ours
    pairs = pairs.with_columns(pl.col("pair_id").cast(pl.String))
    a_is_better = pl.col("for_a") >= 0.5
    first, second = pl.col("response_a"), pl.col("response_b")
    return pairs.join(best, on="pair_id", how="inner", maintain_order="left").select(
        "pair_id",
        "prompt",
        pl.when(a_is_better).then(first).otherwise(second).alias("chosen"),
        pl.when(a_is_better).then(second).otherwise(first).alias("rejected"),
        pl.max_horizontal("for_a", 1.0 - pl.col("for_a")).alias("confidence"),
        *(n for n in pairs.columns if n not in _OF_PAIRS),
    )


_OF_PAIRS = {
    *(column.name for column in schema.PAIRS.columns),
    "chosen",
    "rejected",
    "confidence",
}


def gates(text: str) -> dict[str, float]:
    """`reliability=0.7,alpha=0.6` as numbers.

    Raises:
        InputError: a name is unknown or given twice, or a value is no number in −1 … 1.
    """
    found: dict[str, float] = {}
    wrong = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = part.partition("=")
        name = name.strip()
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if name not in GATES:
            known = ", ".join(GATES)
            wrong.append(Fault("--fail-under: unknown measure", found=name, fix=f"one of {known}"))
        elif name in found:
            wrong.append(Fault("--fail-under: a measure is given twice", found=name))
        elif not sign or not -1.0 <= number <= 1.0:
            fix = f"for instance {name}=0.7"
            wrong.append(Fault("--fail-under: not NAME=NUMBER in −1 … 1", found=part, fix=fix))
        found[name] = number
    if not found:
        wrong.append(Fault("--fail-under names no measure", found=text, fix="give alpha=0.6"))
    raise_any(wrong)
    return found


def below(summary: Mapping[str, Any], least: Mapping[str, float]) -> list[str]:
    """A sentence for each measure that is below what is asked, or that the data do not tell."""
    said = []
    for name, bound in least.items():
        value = summary["alpha"]["value"] if name == "alpha" else summary[name]
        told = value is not None and value == value
        if not told:
            said.append(f"{GATES[name]} is not told by these data, where {bound:g} is asked")
        elif value < bound:
            said.append(f"{GATES[name]} is {value:.3f}, below {bound:g}")
    return said


def check_report(out: Place) -> None:
    """Refuse a report's name that is a directory, or a file that no audit wrote."""
    _check_file(out, "report.html", lambda start: MARK.encode() in start)


def check_json(out: Place) -> None:
    """The same of an audit, or of what changed between two, as JSON."""
    _check_file(out, "audit.json", lambda start: start.startswith(JSON_STARTS))


def _check_file(out: Place, name: str, is_ours: Callable[[bytes], bool]) -> None:
    tables.check_writable(out)
    if out.is_dir():
        refuse("is a directory, where a file is to be written", file=out, fix=f"{out}/{name}")
    if out.is_file() and out.stat().st_size:
        with out.open("rb") as stream:
            start = stream.read(2000)
        if not is_ours(start):
            refuse(
                "was not written by `denoise audit`, which would replace it",
                file=out,
                fix="give another name, or remove it",
            )


JSON_STARTS = (b'{\n "annotators": [', b'{\n "a": {')
"""How `tables.write_json` begins an audit, and what changed between two."""

MARK = 'name="generator" content="denoise audit"'
