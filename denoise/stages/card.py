"""The dataset card of an export, with its plot: the only text in it that data wrote is inert."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import jinja2
import polars as pl

from denoise import __version__, schema
from denoise.errors import refuse
from denoise.plain import plain, without_credentials
from denoise.plot import histogram_svg
from denoise.stages.trainers import Training
from denoise.tables import Provenance

if TYPE_CHECKING:
    from denoise.stages.export import Export
    from denoise.stages.formats import Format

CARD_FILE = "README.md"
PLOT_FILE = "weights.svg"
SHOWN_ANNOTATORS = 5  # from either end
BINS = 20

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_MARKUP = re.compile(r"[!#$&*<=>@\[\\\]^_`{|}~]|[.:](?=\S)|(?<=\d)[.)]|^[-+]")
_DIRECTORIES = re.compile(
    r"""(?:(?<=^)|(?<=[\s'"=:,(\[]))"""  # where a path may begin within a text
    r"""(?:~|[A-Za-z]:)?[/\\](?:[^\s'"/\\]+[/\\])+"""
)


def render(
    result: Export, format: Format, *, license: str | None, location: str | None
) -> dict[str, str]:
    """The card and its plot, by file name.

    Args:
        result: what is exported.
        format: how it is written.
        license: an SPDX identifier, or None where the licence is not known.
        location: what the examples load.

    Raises:
        InputError: `license` is no identifier.
    """
    if license is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        refuse("not a licence identifier", found=license, fix="give one such as apache-2.0")
    weight = result.frame["weight"]
    shown = [name for name in result.source_columns if name in format.columns(result.frame)]
    text = _template().render(
        rows=result.rows,
        data_version=_data_version(result.provenance.run_id, format.name),
        strategy=result.provenance.settings.get("strategy", "weight"),
        training=Training.after(result.made_from),
        n=len(weight),
        size=next((name for most, name in _SIZES if len(weight) < most), "n>1M"),
        license=license.lower() if license else None,
        format=format,
        columns=format.columns(result.frame),
        source_columns=shown,
        location=json.dumps(location or "path/to/this/directory"),
        mean=weight.mean(),
        sure=(weight >= 0.9).sum(),
        unlikely=(weight < 0.5).sum(),
        n_skipped=len(result.skipped),
        notes=result.notes,
        pseudonymous=result.pseudonymous,
        annotators=_annotators(result.annotators),
        version=__version__,
        run=result.provenance.run_id,
        provenance=_provenance_text((*result.made_from, result.provenance)),
    )
    return {CARD_FILE: text, PLOT_FILE: _plot(weight, result.rows)}


def inert(value: object, width: int = 80) -> str:
    """Text from data as Markdown shows it letter by letter: no markup, no HTML, no link.

    Args:
        value: anything; it is put on one line without control and bidirectional characters.
        width: the most characters that are shown.
    """
    text = plain(str(value), width)
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", text)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=False,  # Markdown, not HTML: `inert` is the escaping of both
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inert"] = inert
    source = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def _data_version(run_id: str, format_name: str) -> str:
    """A version number that changes with the content.

    `datasets` caches a local directory under its name and this number (5.2; not its files' hash):
    without it, an export to the same place is read as the one before.
    """
    digest = schema.digest(run_id, format_name)
    return ".".join(str(int.from_bytes(digest[i : i + 3], "big")) for i in (0, 3, 6))


def _plot(weight: pl.Series, rows: str) -> str:
    low = 0.5 if weight.min() >= 0.5 else 0.0
    width = (1 - low) / BINS
    # The last bin holds 1 itself; a weight that rounding puts just below an edge belongs above it.
    index = ((weight - low) / width + 1e-9).floor().cast(pl.Int64).clip(0, BINS - 1)
    found = dict(index.value_counts().rows())
    return histogram_svg(
        [found.get(i, 0) for i in range(BINS)],
        [round(low + i * width, 6) for i in range(BINS + 1)],
        title=f"Weights of {len(weight):,} {'pairs' if rows == 'pairs' else 'votes'}",
        x_label="weight: probability that the chosen response is the preferred one",
        y_label="pairs" if rows == "pairs" else "votes",
        ticks=[round(low + i * (1 - low) / 5, 3) for i in range(6)],
    )


def _annotators(annotators: pl.DataFrame | None) -> Mapping[str, Any] | None:
    """The rows of the table of annotators: all of them, or the ends by reliability."""
    if annotators is None:
        return None
    known = annotators.filter(pl.col("reliability").is_not_null()).sort(
        "reliability", "annotator_id"
    )
    cut = len(known) > 2 * SHOWN_ANNOTATORS
    parts = [known.head(SHOWN_ANNOTATORS), known.tail(SHOWN_ANNOTATORS)] if cut else [known]
    return {
        "total": len(annotators),
        "unknown": len(annotators) - len(known),
        "cut": cut,
        "rows": [row for part in parts for row in part.iter_rows(named=True)],
    }


def _provenance_text(made: tuple[Provenance, ...]) -> str:
    """What made the data, as JSON in ASCII, so that no character of it can leave its code block."""
    records = [_without_places(json.loads(each.to_json())) for each in made]
    return json.dumps(records, indent=1, sort_keys=True)


def _without_places(value: Any) -> Any:
    """The same without credentials, and with directories cut off from absolute paths."""
    if isinstance(value, dict):
        return {_without_places(k): _without_places(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    if not isinstance(value, str):
        return value
    text = without_credentials(value)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if PurePosixPath(text).is_absolute() or text.startswith("~"):
        return PurePosixPath(text).name
    if PureWindowsPath(text).is_absolute():
        return PureWindowsPath(text).name
    return _DIRECTORIES.sub("", text)
