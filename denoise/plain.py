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


def without_credentials(source: str) -> str:
    """Text whose URLs have no user, password, query or fragment, and no token of a service."""
    source = re.sub(r"(\w+://)[^/\s@]*@", r"\1", source)
    source = re.sub(r"(\w+://[^\s?#]*)[?#]\S*", r"\1", source)
    return re.sub(r"\b(hf_[A-Za-z0-9]{16,}|gh[a-z]_\w{30,}|sk-[\w-]{20,})", "***", source)
