"""Pairs as token ids, cut by the rule of the trainer that will see them.

A log-prob is only worth what its tokens are worth: the policy is trained on the ids that its
trainer makes, so those are the ids that are scored. Two rules are of trainers in TRL 1.16, and one
is of reward models, which read a whole dialogue:

`trl-dpo`  `DPOTrainer`: text gets the EOS text appended and the default special tokens; chat goes
           through the template; a response starts where prompt and prompt + response diverge, on
           the earlier of the two sides. (trl/trainer/dpo_trainer.py, `_prepare_dataset`)
`trl-cpo`  `trl.experimental.cpo.CPOTrainer`, also for SimPO: chat is rendered to text, no special
           tokens, then BOS and EOS are forced; each side has its own start.
           (trl/experimental/cpo/cpo_trainer.py, `tokenize_row`)
`reward`   chat goes through the template, which brings every special token (the ids of
           `apply_chat_template` and of TRL's `RewardTrainer`); text is wrapped as one user and one
           assistant turn, or, without a template, prompt + response with the default special
           tokens (and no EOS appended, which `RewardTrainer` does). Never cut.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from denoise.errors import refuse
from denoise.plain import plain

RULES = ("trl-dpo", "trl-cpo", "reward")

Ids = Sequence[int]
Content = str | list[dict[str, Any]]


class TokenPair(NamedTuple):
    """One pair as ids: `prompt` is what both sides share, `a` and `b` are what follows it.

    The first `a_skip` (`b_skip`) of a side belong to its prompt and are not scored.
    """

    prompt: Ids
    a: Ids
    b: Ids
    a_skip: int = 0
    b_skip: int = 0

    @property
    def length(self) -> int:
        """Tokens with the prompt counted once."""
        return len(self.prompt) + len(self.a) + len(self.b)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longer response."""
        return len(self.prompt) + max(len(self.a), len(self.b))

    def sequence(self, side: int) -> tuple[Ids, int]:
        """Prompt + a (0) or prompt + b (1), and where in it the first scored token stands.

        >>> TokenPair([1, 2], [3], [4, 5], b_skip=1).sequence(1)
        ([1, 2, 4, 5], 3)
        """
        ids, skip = ((self.a, self.a_skip), (self.b, self.b_skip))[side]
        return self.prompt + ids, max(len(self.prompt) + skip, 1)

    @property
    def a_tokens(self) -> int:
        """How many tokens of a have a log-prob: a first token without any context has none."""
        return max(len(self.a) - max(self.a_skip, not self.prompt), 0)

    @property
    def b_tokens(self) -> int:
        """The same for b."""
        return max(len(self.b) - max(self.b_skip, not self.prompt), 0)


class Skip(NamedTuple):
    """A pair that is not scored: why, and how long its prompt and sides are in tokens."""

    reason: str
    prompt_tokens: int
    a_tokens: int
    b_tokens: int


def common_prefix(*sequences: Sequence[Any]) -> int:
    """The number of leading elements that all sequences share."""
    length = min(map(len, sequences))
    first = sequences[0]
    for index in range(length):
        if any(other[index] != first[index] for other in sequences[1:]):
            return index
    return length


def tokenise(
    tokenizer: Any,
    rows: Sequence[tuple[Content, Content, Content]],
    rule: str,
    max_length: int,
    truncate: bool,
) -> list[TokenPair | Skip]:
    """Token ids of each (prompt, a, b), or the reason why that pair is not scored.

    `max_length` counts prompt + response tokens. With `truncate` an over-long response loses its
    end, as TRL's `keep_start` does, and an over-long prompt is still skipped, as TRL drops it. The
    rule `reward` never cuts: a reward is read at the end.

    Raises:
        InputError: the data are chat messages and the tokenizer has no chat template.
    """
    chat = bool(rows) and not isinstance(rows[0][1], str)
    if chat and not getattr(tokenizer, "chat_template", None):
        refuse(
            "the data are chat messages, and the policy's tokenizer has no chat template",
            fix="score with the instruct model, or import the data as text",
        )
    if is_wrapped(tokenizer, rule, chat):
        rows, chat = [_turns(*row) for row in rows], True
    render = _render_chat if chat else _render_text
    rendered = [render(tokenizer, *row, rule) for row in rows]
    texts = [text for triple in rendered if not isinstance(triple, Skip) for text in triple]
    special = rule != "trl-cpo" and not chat  # a template and the CPO trainer bring their own
    encoded = iter(_encode(tokenizer, texts, special))
    cut = {"trl-dpo": _cut_dpo, "trl-cpo": _cut_cpo, "reward": _cut_reward}[rule]
    pairs: list[TokenPair | Skip] = []
    for triple in rendered:
        if isinstance(triple, Skip):
            pairs.append(triple)
        else:
            pair = cut(tokenizer, next(encoded), next(encoded), next(encoded))
            whole = rule == "reward"
            pair = _whole(pair, max_length) if whole else _fit(pair, max_length, truncate)
            pairs.append(_compact(pair))
    return pairs


def is_wrapped(tokenizer: Any, rule: str, chat: bool) -> bool:
    """Whether texts become a user turn and an assistant turn of the tokenizer's chat template."""
    return rule == "reward" and not chat and bool(getattr(tokenizer, "chat_template", None))


def _turns(prompt: str, a: str, b: str) -> tuple[Content, Content, Content]:
    user = [{"role": "user", "content": prompt}]
    return user, *([{"role": "assistant", "content": side}] for side in (a, b))


def _compact(pair: TokenPair | Skip) -> TokenPair | Skip:
    """The ids as 4 bytes each: all pairs of a job are in memory together."""
    if isinstance(pair, Skip):
        return pair
    prompt, a, b, a_skip, b_skip = pair
    return TokenPair(array("i", prompt), array("i", a), array("i", b), a_skip, b_skip)


def _fit(pair: TokenPair | Skip, max_length: int, truncate: bool) -> TokenPair | Skip:
    if isinstance(pair, Skip):
        return pair
    prompt, a, b, a_skip, b_skip = pair

    def skip(reason: str) -> Skip:
        prompt_tokens = len(prompt) + min(a_skip, b_skip)
        return Skip(reason, prompt_tokens, len(a) - a_skip, len(b) - b_skip)

    if len(prompt) + max(a_skip, b_skip) >= max_length:
        return skip(f"the prompt alone fills max_length {max_length}")
    room = max_length - len(prompt)
    if max(len(a), len(b)) > room and not truncate:
        return skip(f"prompt and response exceed max_length {max_length}")
    pair = TokenPair(prompt, a[:room], b[:room], a_skip, b_skip)
    if not pair.a_tokens or not pair.b_tokens:
        side = "a" if not pair.a_tokens else "b"
        return skip(f"response {side} has no token to score")
    return pair


def _whole(pair: TokenPair | Skip, max_length: int) -> TokenPair | Skip:
    """The pair, if both of its sequences fit as they are."""
    if isinstance(pair, Skip):
        return pair
    if pair.longest <= max_length:
        return pair
    reason = f"prompt and response exceed max_length {max_length}"
    return Skip(reason, *map(len, (pair.prompt, pair.a, pair.b)))


def _render_text(
    tokenizer: Any, prompt: str, a: str, b: str, rule: str
) -> tuple[str, str, str] | Skip:
    """Prompt, prompt + a and prompt + b; the DPO trainer appends the EOS text."""
    end = (tokenizer.eos_token or "") if rule == "trl-dpo" else ""
    a, b = (text if text.endswith(end) else text + end for text in (a, b))
    return prompt, prompt + a, prompt + b


def _render_chat(
    tokenizer: Any, prompt: list[Any], a: list[Any], b: list[Any], rule: str
) -> tuple[str, str, str] | Skip:
    """The chat template's text of prompt (reward: of nothing), prompt + a and prompt + b."""
    from jinja2 import TemplateError

    ends_open = rule == "trl-cpo" and prompt and prompt[-1].get("role") == "assistant"
    how = {"continue_final_message": True} if ends_open else {"add_generation_prompt": True}
    try:
        start = ""
        if rule != "reward":
            start = tokenizer.apply_chat_template(prompt, tokenize=False, **how)
        full_a = tokenizer.apply_chat_template([*prompt, *a], tokenize=False)
        full_b = tokenizer.apply_chat_template([*prompt, *b], tokenize=False)
    except (TemplateError, ValueError, TypeError, IndexError) as error:
        return Skip(f"the chat template refuses it: {plain(str(error), 80)}", 0, 0, 0)
    if rule == "trl-cpo":
        start = start[: common_prefix(start, full_a, full_b)]
    return start, full_a, full_b


def _encode(tokenizer: Any, texts: list[str], special: bool) -> list[Ids]:
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=special, return_attention_mask=False)["input_ids"]


def _cut_dpo(tokenizer: Any, prompt: Ids, full_a: Ids, full_b: Ids) -> TokenPair:
    start = min(common_prefix(prompt, full_a), common_prefix(prompt, full_b))
    return TokenPair(prompt[:start], full_a[start:], full_b[start:])


def _cut_cpo(tokenizer: Any, prompt: Ids, full_a: Ids, full_b: Ids) -> TokenPair | Skip:
    # A merge across the boundary moves a response's start back by one token, as in TRL.
    starts = [len(prompt) - (full[: len(prompt)] != prompt) for full in (full_a, full_b)]
    heads = full_a[: starts[0]], full_b[: starts[1]]
    changed = sum(x != y for x, y in zip(*heads, strict=False))
    if min(len(full_a), len(full_b)) < len(prompt) or changed > 1:
        reason = "TRL's CPO trainer stops at this pair: tokens merge across the prompt's end"
        return Skip(reason, len(prompt), len(full_a) - len(prompt), len(full_b) - len(prompt))
    sides = []
    for full, start in zip((full_a, full_b), starts, strict=True):
        head, tail = full[:start], full[start:]
        if tokenizer.bos_token_id is not None and head[:1] != [tokenizer.bos_token_id]:
            head = [tokenizer.bos_token_id, *head]
        if tokenizer.eos_token_id is not None and tail[-1:] != [tokenizer.eos_token_id]:
            tail = [*tail, tokenizer.eos_token_id]
        sides.append((head, tail))
    (head_a, tail_a), (head_b, tail_b) = sides
    shared = common_prefix(head_a, head_b)
    return TokenPair(
        head_a[:shared],
        head_a[shared:] + tail_a,
        head_b[shared:] + tail_b,
        len(head_a) - shared,
        len(head_b) - shared,
    )


def _cut_reward(tokenizer: Any, prompt: Ids, full_a: Ids, full_b: Ids) -> TokenPair | Skip:
    if not (full_a and full_b):
        side = "b" if full_a else "a"
        return Skip(f"prompt and response {side} have no token", 0, len(full_a), len(full_b))
    # A token at least is left to each side, also where the two are the same.
    shared = min(common_prefix(full_a, full_b), len(full_a) - 1, len(full_b) - 1)
    return TokenPair(full_a[:shared], full_a[shared:], full_b[shared:])
