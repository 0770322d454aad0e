"""The one way in which a page is made: templates that escape all text, and one style."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from denoise import __version__
from denoise.plain import plain

HOME = Path(__file__).parent


def render(template: str, **context: Any) -> str:
    """The page of that template, beside this file or beside `denoise/rounds/report.py`."""
    return _environment().get_template(template).render(**context)


def render_with_tables(template: str, **context: Any) -> str:
    """The same for a template that extends `page.html.jinja`, whose tables sort and filter."""
    code, digest = _script()
    return render(template, version=__version__, script=code, digest=digest, **context)


@cache
def _script() -> tuple[str, str]:
    """The script that sorts and filters tables, and its hash for the content security policy.

    The policy lets this script run and no other, whatever the data hold.
    """
    text = (HOME / "tables.js").read_text(encoding="utf-8")
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HOME, HOME.parent / "rounds"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["number"] = lambda v, digits=2: "–" if _nothing(v) else f"{v:.{digits}f}"
    environment.filters["count"] = lambda v: "–" if v is None else f"{v:,}"
    environment.filters["shown"] = lambda v, width=60: plain(str(v), width)
    return environment


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, a dash where there is none."""
    return "–" if _nothing(value) else f"{100 * value:.{digits}f} %"  # type: ignore[operator]


def _nothing(value: float | None) -> bool:
    return value is None or value != value
