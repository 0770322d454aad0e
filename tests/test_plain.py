"""What is shown of data holds no control or bidirectional character, and is short."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from denoise.errors import Fault
from denoise.plain import plain, quote


@given(st.text(st.characters(codec=None)), st.integers(1, 40))
def test_no_control_or_bidirectional_character_is_left(text, width):
    shown = plain(text, width)
    assert len(shown) <= width
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Zl", "Zp", "Cs")
        assert unicodedata.bidirectional(character) not in (
            *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
        )


def test_escape_sequences_and_overrides_are_removed():
    assert plain("\x1b[31mred\x1b[0m \u202egnp.exe\u202c\nnext") == "[31mred [0m gnp.exe next"


def test_a_fault_says_where_what_and_how_to_mend_it():
    fault = Fault("bad", "f.csv", row=3, column="x\x1b", found="y" * 99, fix="do this")
    assert str(fault) == f"f.csv: row 3, column 'x': bad, found {quote('y' * 99)}; do this"
