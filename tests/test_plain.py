"""What is shown of data holds no control or bidirectional character, and is short."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoise.errors import Fault
from denoise.plain import command_without_secrets, plain, quote, without_secrets


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


def test_settings_are_told_without_their_secrets():
    token = "hf_" + 30 * "a"
    given = {
        "hub_token": "mine",
        "api-key": 12345,
        "apiKey": "mine",
        "token": "mine",
        "hf_overrides": {"aws_secret_access_key": "mine", "credentials": {"user": "mine"}},
        "note": f"pushed with {token}",
        "logging": ["https://me:mine@host/x?k=mine", 1],
    }
    assert without_secrets(given) == {
        "hub_token": "***",
        "api-key": "***",
        "apiKey": "***",
        "token": "***",
        "hf_overrides": {"aws_secret_access_key": "***", "credentials": "***"},
        "note": "pushed with ***",
        "logging": ["https://host/x", 1],
    }


def test_settings_that_only_sound_like_secrets_are_told():
    """They change the result, and so have to tell one run from another."""
    given = {
        "pad_token": "<pad>",
        "eosToken": "</s>",
        "chosen_key": "better",
        "data.reward_fn_key": "source",
        "think_token": "<think>",
        "max_token": 512,
        "max_num_batched_tokens": 4096,
        "tokenizer": "slow",
        "pad_token_id": 0,
        "hf_token": True,
        "hub_token": None,
        "lora": ("a", 1.5),
    }
    assert without_secrets(given) == given


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("env HUB_TOKEN=mine prog {data}", "env HUB_TOKEN=*** prog {data}"),
        ("prog --api-key mine --out {out}", "prog --api-key *** --out {out}"),
        ("prog --api-key=mine {out}", "prog --api-key=*** {out}"),
        ("prog --password 'mine and yours' {out}", "prog --password *** {out}"),
        ("prog '--password=mine and yours' {out}", "prog --password=*** {out}"),
        ("prog +hub.token=mine\\ too {out}", "prog +hub.token=*** {out}"),
        (f"prog --as hf_{30 * 'a'}", "prog --as ***"),
        ("prog --token mine '", "prog --token *** '"),
        (
            "bash -c 'HF_TOKEN=$T launch t.py --lr 1e-5 {data}; prog --api-key mine' {out}",
            "bash -c 'HF_TOKEN=*** launch t.py --lr 1e-5 {data}; prog --api-key ***' {out}",
        ),
    ],
)
def test_a_command_is_told_without_its_secrets(command, told):
    assert command_without_secrets(command) == told


@pytest.mark.parametrize(
    "command",
    [
        "prog --use-auth-token --out {out}",
        "prog --use_auth_token train.py --monkey banana",
        "prog --access-key {data} x",
        "prog --prompt_key  text --eos_token='</s>'",
        "python -c 'key = 1; sort(key=f)' \"{out}\"",
        "",
    ],
)
def test_a_command_without_secrets_is_told_as_it_was_typed(command):
    assert command_without_secrets(command) == command
