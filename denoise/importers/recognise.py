"""The forms in the order in which they are tried, and the import itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from denoise import dataset, places
from denoise.dataset import Dataset
from denoise.errors import InputError, refuse
from denoise.importers import source as sources
from denoise.importers.argilla import ARGILLA
from denoise.importers.ballots import Ballots, Form, Request
from denoise.importers.chosen import CHOSEN
from denoise.importers.columns import Columns
from denoise.importers.comparisons import ARENA, COMPARISONS, SUMMARIES
from denoise.importers.dices import DICES
from denoise.importers.doccano import DOCCANO
from denoise.importers.helpsteer3 import HELPSTEER3
from denoise.importers.label_studio import LABEL_STUDIO, LABEL_STUDIO_ROWS
from denoise.importers.long import LABELS, LONG_VOTES, TEXT_ROLES
from denoise.importers.mturk import MTURK
from denoise.importers.multipref import MULTIPREF
from denoise.importers.pairing import build, build_labels
from denoise.importers.prism import PRISM
from denoise.importers.prodigy import PRODIGY
from denoise.importers.source import Source
from denoise.importers.wide import WIDE
from denoise.places import Place
from denoise.plain import quote
from denoise.tables import Provenance

if TYPE_CHECKING:
    import datasets

_TEXTS = frozenset({"prompt", "chosen", "rejected", "response_a", "response_b"})

_TOOLS = (MTURK, LABEL_STUDIO, LABEL_STUDIO_ROWS, ARGILLA, PRODIGY, DOCCANO)
_SETS = (HELPSTEER3, PRISM, DICES, MULTIPREF, ARENA, SUMMARIES)

FORMS: tuple[Form, ...] = (LONG_VOTES, *_TOOLS, *_SETS, CHOSEN, COMPARISONS, LABELS, WIDE)


def import_data(
    source: str | Place | pl.DataFrame | datasets.Dataset,
    *,
    columns: Mapping[str, str] | None = None,
    aspect: str = "overall",
    split: str | None = None,
    texts: str | Place | pl.DataFrame | None = None,
    format: str | None = None,
) -> Dataset:
    """Pairs with votes, or categorical labels, from data in any form that `FORMS` lists.

    Args:
        source: a file, a directory (also one that `import` made), the URL of one in a store, a
            pattern, a hub id, or a table in memory.
        columns: which column plays a role, as {"chosen": "preferred_text"}.
        aspect: which of several questions to take, where the source asks several.
        split: which split of a data set to take.
        texts: a table of the texts that long votes are about, by item or pair.
        format: the name of the form, where it is not to be recognised.

    Raises:
        InputError: the source cannot be read, is of no known form, or no row can be used.
    """
    directory = sources.named(source) if places.is_name(source) else None
    if directory is not None and directory.is_dir() and dataset.is_dataset(directory):
        if columns or split or format or texts is not None or aspect != "overall":
            options = "--map, --aspect, --split, --format and --texts"
            fix = f"leave out {options}, or import the source again"
            refuse("this is imported already, and takes no options", file=str(source), fix=fix)
        return dataset.read_dataset(directory)
    given = sources.load(source, split)
    mine, theirs = dict(columns or {}), {}
    text_source, text_columns = None, None
    if texts is not None:
        text_source = sources.load(texts)
        theirs = {role: mine.pop(role) for role in list(mine) if role in TEXT_ROLES}
        text_columns = Columns(text_source.frame.schema, theirs, text_source.name)
    found = Columns(given.frame.schema, mine, given.name)
    form = _recognise(given, found, format, with_texts=text_source is not None)
    if aspect != "overall" and not form.has_aspects:
        what = f"data of the form {form.name} has no aspects"
        refuse(what, file=given.name, found=aspect, fix="leave --aspect out")
    request = Request(given, found, aspect, text_source, text_columns)
    try:
        read = form.read(request)
        _check_mixed(given, found)
        if text_source is not None and text_columns is not None:
            _check_mixed(text_source, text_columns)
        if isinstance(read, Ballots):
            built = build(read, given.name, untyped=given.untyped)
        else:
            built = build_labels(read, given.name, untyped=given.untyped)
    except InputError as error:  # a form knows the column, not always the file
        faults = (replace(fault, file=fault.file or given.name) for fault in error.faults)
        raise InputError(*faults) from None
    inputs = {"source": given.sha256}
    settings: dict[str, Any] = {"form": form.name, "columns": dict(sorted(found.used.items()))}
    if text_source is not None and text_columns is not None:
        inputs["texts"] = text_source.sha256
        settings["text_columns"] = dict(sorted(text_columns.used.items()))
    if isinstance(read, Ballots) and not read.own_sides:
        settings["first"] = "chosen"  # of the two responses in a source row
    if form.by_file and found.used.get("annotator") == "file":
        settings["files"] = [name for name, _ in given.files]
    if form.has_aspects:
        settings["aspect"] = aspect
    if given.split is not None:
        settings["split"] = given.split
    return Dataset(
        Provenance("import", inputs, settings),
        **built.tables,
        skipped=built.skipped,
        notes=(
            f"recognised {read.described}; {_annotator(found)}",
            *given.notes,
            *read.notes,
            *built.notes,
        ),
    )


def _check_mixed(source: Source, columns: Columns) -> None:
    """Refuse prompts and responses that are messages in some rows and text in others."""
    for role in _TEXTS & columns.used.keys():
        name = columns.used[role]
        if (row := source.mixed.get(name)) is not None:
            refuse(
                "a list or an object, where other rows have text",
                file=source.name,
                row=row,
                column=name,
                found=source.frame[name][row],
                fix="give every row of the column in one form",
            )


def _annotator(columns: Columns) -> str:
    name = columns.used.get("annotator")
    return f"annotator from column {quote(name)}" if name else "no annotator column"


def _recognise(source: Source, columns: Columns, named: str | None, *, with_texts: bool) -> Form:
    forms = [form for form in FORMS if form.needs_texts == with_texts]
    if named is not None:
        names = ", ".join(form.name for form in forms)
        forms = [form for form in forms if form.name == named]
        if not forms:
            refuse("there is no such format", found=named, fix=f"give --format one of {names}")
    matching = [
        form
        for form in forms
        if form.matches(columns) or (named and form.readable and form.readable(columns))
    ]
    for form in matching:
        if form.roles >= columns.overrides.keys():
            return form
    known = "; ".join(form.needs for form in forms)
    if matching:
        unused = columns.overrides.keys() - matching[0].roles
        refuse(
            f"the map names what the form {matching[0].name} has no place for",
            file=source.name,
            found=", ".join(sorted(unused)),
            fix=f"map {', '.join(sorted(matching[0].roles)) or 'nothing'}",
        )
    given = ", ".join(map(quote, source.frame.columns))
    problem = "with this map, the columns" if columns.overrides else "the columns"
    if named is not None:
        what = f"{problem} are not of the form {named}: {given}"
        refuse(what, file=source.name, fix=f"it needs {known}")
    refuse(
        f"{problem} are of no known form: {given}",
        file=source.name,
        fix=f"known are {known}; or say which is which, as in --map chosen=COLUMN",
    )
