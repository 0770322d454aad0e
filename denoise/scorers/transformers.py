"""The transformers scorer: the prompt once a pair, the LM head on response positions only."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from denoise.errors import RunError, refuse
from denoise.scorers import Scored, batching
from denoise.scorers.batching import Rows
from denoise.scorers.models import ModelSource, check_vocabulary, load_model
from denoise.tokenise import TokenPair

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
LOGITS_BYTES = {"cpu": 24 << 20, "cuda": 1 << 30}
"""How much one chunk of logits may take: vocabulary × positions × 4 bytes. On the CPU it stays
below 32 MB, from where malloc returns each chunk to the system and page faults take over."""

PROBE_TOKENS = 512
TOLERANCE = {torch.float32: 1e-4}
"""Nats a token by which a faster layout may differ from the plain one; 0.1 in half precision,
whose own rounding is of that order, while a wrong mask costs whole nats."""


class DeviceScorer:
    """What scorers with a model of transformers on one device share.

    A subclass scores a batch that fits (`forward`).
    """

    model: Any
    is_reward = False

    def __init__(self, device: str, batch_tokens: int | None) -> None:
        self.device = pick_device(device)
        self.kind = self.device.split(":")[0]
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(self.kind, BATCH_TOKENS["cuda"])

    def forward(self, pairs: Sequence[TokenPair]) -> np.ndarray:
        """Values of a and b, shape [pairs, 2], float64, of a batch that fits into memory."""
        raise NotImplementedError

    def score(self, pairs: Sequence[TokenPair], rows: np.ndarray) -> Iterator[Scored]:
        """Score every batch of the job that has some of these rows, longest first.

        Raises:
            RunError: a single pair does not fit into the device's memory.
        """
        batches = batching.lots(pairs, self.batch_tokens, self.is_reward)
        for batch in batching.with_some_of(batches, rows):
            yield Scored(batch, self.score_batch([pairs[row] for row in batch]))

    def score_batch(self, pairs: Sequence[TokenPair]) -> np.ndarray:
        """Values of a and b, shape [pairs, 2], float64, in halves where memory is short.

        Raises:
            RunError: a single pair does not fit.
        """
        try:
            return self.forward(pairs)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        if len(pairs) == 1:
            raise RunError(
                f"a pair of {pairs[0].length} tokens does not fit into the memory of "
                f"{self.device}; lower --max-length, or score it with a larger device"
            )
        half = len(pairs) // 2
        return np.concatenate([self.score_batch(part) for part in (pairs[:half], pairs[half:])])

    def close(self) -> None:
        """Let go of the model's memory."""
        del self.model
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


class TransformersScorer(DeviceScorer):
    """Scores with a causal language model of transformers on one device.

    `layout` is how rows are built, chosen by `prepare` from what the architecture bears:
    `shared` (prompt, a and b in one row under a block mask), `plain` (two rows a pair), or `full`
    (plain rows through the model's own head, where the head does more than a matrix product).
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_tokens: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(device, batch_tokens)
        self.model = load_model(source, dtype, self.device, trust_remote_code)
        self.head = self.model.get_output_embeddings()
        self.layout = "shared"
        vocabulary = self.head.weight.shape[0]
        self.vocabulary = vocabulary
        self.chunk = max(1, LOGITS_BYTES.get(self.kind, LOGITS_BYTES["cuda"]) // (4 * vocabulary))

    def prepare(self, pairs: Sequence[TokenPair]) -> tuple[str, ...]:
        """Choose the fastest layout that agrees with the model's own forward pass on two pairs.

        Raises:
            InputError: a token id lies outside the model's vocabulary.
        """
        check_vocabulary(batching.highest_id(pairs), self.vocabulary)
        probe = _probe(pairs)
        tokens = np.array([[pair.a_tokens, pair.b_tokens] for pair in probe])
        expected = self._score(probe, "full")
        tolerance = TOLERANCE.get(self.model.dtype, 0.1)
        candidates = ["shared", "plain"] if bears_block_mask(self.model.config) else ["plain"]
        for layout in candidates:
            try:
                off = np.abs(self._score(probe, layout) - expected) / tokens
            except torch.OutOfMemoryError:
                raise
            except (TypeError, ValueError, RuntimeError, AttributeError):
                continue  # the architecture does not take such a mask or has no separate head
            if off.max() <= tolerance:
                self.layout = layout
                break
        else:
            self.layout = "full"
        shared = self.layout == "shared"
        return () if shared else ("prompts are computed twice; it does not bear a block mask",)

    def forward(self, pairs: Sequence[TokenPair]) -> np.ndarray:
        """Sums of response log-probs in nats."""
        return self._score(pairs, self.layout)

    def close(self) -> None:
        """Let go of the model's memory."""
        del self.head
        super().close()

    @torch.inference_mode()
    def _score(self, pairs: Sequence[TokenPair], layout: str) -> np.ndarray:
        shared = layout == "shared"
        rows = (batching.shared_rows if shared else batching.plain_rows)(pairs)
        segments = torch.from_numpy(rows.segments).to(self.device)
        inputs: dict[str, Any] = {
            "input_ids": torch.from_numpy(rows.ids).to(self.device),
            "position_ids": torch.from_numpy(rows.positions).to(self.device),
            "use_cache": False,
        }
        if shared:
            inputs["attention_mask"] = block_mask(segments, self.model.dtype)
        else:
            inputs["attention_mask"] = (segments != batching.PADDING).long()
        if layout == "full":
            logits = self.model(**inputs).logits
            hidden, head = logits, torch.nn.Identity()
        else:
            hidden, head = self.model.base_model(**inputs).last_hidden_state, self.head
        return self._sums(hidden, head, rows, len(pairs))

    def _sums(self, hidden: torch.Tensor, head: Any, rows: Rows, count: int) -> np.ndarray:
        row, column, target, owner = (
            torch.from_numpy(part).to(self.device) for part in (rows[3], rows[4], rows[5], rows[6])
        )
        sums = torch.zeros(2 * count, dtype=torch.float64, device=self.device)
        for start in range(0, len(row), self.chunk):
            here = slice(start, start + self.chunk)
            logits = head(hidden[row[here], column[here]]).float()
            # gather − logsumexp, and not log_softmax, which is biased by 1.6e-5 nats a token on
            # the CPU in fp32 at a vocabulary of 49k.
            peak = logits.amax(dim=1, keepdim=True)
            chosen = (logits.gather(1, target[here, None]) - peak).squeeze(1).double()
            logps = chosen - logits.sub_(peak).exp_().sum(dim=1).double().log()
            sums.index_add_(0, owner[here], logps)
        return sums.cpu().numpy().reshape(count, 2)


def block_mask(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An additive mask [rows, 1, width, width]: causal, within a segment and to the row's prompt.

    Padding attends to earlier padding, so that no row of the softmax is empty.
    """
    width = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    to_prompt = (segments[:, None, :] == batching.PROMPT) & (
        segments[:, :, None] != batching.PADDING
    )
    causal = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()
    allowed = ((same | to_prompt) & causal)[:, None]
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def bears_block_mask(config: Any) -> bool:
    """Whether every layer attends to all that precedes: no window, no state, no other mixer.

    A given mask replaces a layer's own window, which a check on short pairs would not notice.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    windowed = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    chunked = getattr(text, "attention_chunk_size", None)
    return kinds == {"full_attention"} and not windowed and not chunked


def pick_dtype(dtype: str, device: str) -> str:
    """The dtype asked for, or float32 on the CPU and the checkpoint's own (`auto`) elsewhere."""
    on_cpu = pick_device(device) == "cpu"
    return "float32" if dtype == "auto" and on_cpu else dtype


def pick_device(device: str) -> str:
    """The device asked for, or CUDA where there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(device)
    except RuntimeError:
        refuse("there is no such device", found=device, fix="give --device cpu, cuda or cuda:1")
    if device.startswith("cuda") and not torch.cuda.is_available():
        refuse("CUDA was asked for, and torch sees none", found=device, fix="use --device cpu")
    return device


def _probe(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """Two pairs of unequal length, cut short: enough to notice a mask that is not respected."""
    by_length = sorted(pairs, key=lambda pair: pair.length)
    chosen = [by_length[len(by_length) // 2], by_length[-1]]
    third = PROBE_TOKENS // 3

    def cut(pair: TokenPair) -> TokenPair:
        prompt, a, b, a_skip, b_skip = pair
        return TokenPair(prompt[-third:], a[: third + a_skip], b[: third + b_skip], a_skip, b_skip)

    return [cut(pair) for pair in chosen]
