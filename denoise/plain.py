"""Text from data made safe and short enough to show on a terminal."""

from __future__ import annotations

import re

# C0, DEL and C1 controls (so escape sequences), line and paragraph separators, bidirectional
# marks, embeddings, overrides and isolates, zero-width characters, tag characters, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]+"
)


def plain(text: str, width: int | None = None) -> str:
    """Text on one line, without control and bidirectional characters, cut to `width` characters."""
    if width is not None:
        text = text[: 8 * width + 64]  # enough left after stripping, and no work on a huge text
    text = " ".join(_UNSAFE.sub(" ", text).split())
    if width is not None and len(text) > width:
        return text[: max(width - 1, 0)] + "…"
    return text


def quote(value: object, width: int = 60) -> str:
    """A value from data as it is named in a message: strings in quotes, cut to `width`."""
    if isinstance(value, str):
        return f"'{plain(value, width)}'"
    return plain(repr(value), width)
