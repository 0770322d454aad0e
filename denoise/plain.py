"""Text from data made safe and short enough to show on a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
    source = re.sub(r"(\w+://[^\s?#]*)[?#][^\s'\"]*", r"\1", source)
    return re.sub(r"\b(hf_[A-Za-z0-9]{16,}|gh[a-z]_\w{30,}|sk-[\w-]{20,})", "***", source)


_SECRET = re.compile(
    r"(\S*?)[^a-z0-9]*(?:token|secret|password|passwd|credentials?)"
    r"|\S*(?:api|access|secret|private|auth|account|license)[^a-z0-9]*key|[^a-z0-9]*key"
)
_OF_A_TEXT = frozenset(
    (
        *("pad", "eos", "bos", "unk", "sep", "cls", "mask", "image", "video", "audio", "stop"),
        *("start", "end", "think", "special", "system", "user", "assistant", "max", "min"),
    )
)
"""Tokens that are no secret: results depend on them."""


def _names_a_secret(name: str) -> bool:
    found = _SECRET.fullmatch(name.lower())
    if not found or re.match("[^a-z0-9]*use[^a-z0-9]", name.lower()):  # a switch
        return False
    return re.split("[^a-z0-9]", found[1] or "")[-1] not in _OF_A_TEXT


def without_secrets(value: Any) -> Any:
    """Settings without the values that their names call secret, and without credentials."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        return {
            name: "***"
            if _names_a_secret(str(name)) and of is not None and not isinstance(of, bool)
            else without_secrets(of)
            for name, of in value.items()
        }
    return type(value)(map(without_secrets, value)) if isinstance(value, list | tuple) else value


_WORD = re.compile(r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+""")

_SCRIPT = re.compile(r"""(?s)(['"])(?!-).*\s.*\1""")
"""A word of a command that is a command itself, as of `bash -c`."""


def command_without_secrets(command: str) -> str:
    """A command line without the values of `--api-key VALUE` and `TOKEN=VALUE`, else as typed."""
    follows = False

    def told(found: re.Match[str]) -> str:
        nonlocal follows
        word = found[0]
        name, sign, value = re.sub(r"['\"\\]", "", word).partition("=")
        hidden = follows and not word.startswith(("-", "{"))
        if not hidden and _SCRIPT.fullmatch(word):
            follows = False
            return word[0] + command_without_secrets(word[1:-1]) + word[0]
        is_secret = _names_a_secret(name)
        follows = is_secret and not sign and name.startswith("-")
        if hidden:
            return "***"
        return f"{name}=***" if is_secret and value and not value.startswith("{") else word

    return without_credentials(_WORD.sub(told, command))
