"""The reward scorer: a sequence classification model of transformers with one label."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from denoise.scorers import Scored, batching
from denoise.scorers.models import ModelSource, load_reward_model
from denoise.scorers.transformers import (
    BATCH_TOKENS,
    check_vocabulary,
    halved_to_fit,
    pick_device,
)
from denoise.tokenise import TokenPair


class RewardScorer:
    """Rewards r(prompt, response) by the model's own forward pass on one device.

    A pair takes two rows, prompt + a and prompt + b, padded on the right. The reward is read where
    the model reads it when it is given the one row: most read the last token that is not the
    `pad_token_id` of their configuration, or the very last where that has none. (vLLM 0.32 always
    reads the very last: where rows end in that token, its rewards are others.)
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
        self.device = pick_device(device)
        kind = self.device.split(":")[0]
        self.model = load_reward_model(source, dtype, self.device, trust_remote_code)
        self.config = self.model.config.get_text_config()
        self.config.use_cache = False
        self.vocabulary = self.model.get_input_embeddings().weight.shape[0]
        own = self.config.pad_token_id
        self.padding = own if own is not None and 0 <= own < self.vocabulary else None
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(kind, BATCH_TOKENS["cuda"])

    def batches(self, pairs: Sequence[TokenPair]) -> list[np.ndarray]:
        """Row numbers of `pairs` in batches within the token budget, longest first."""
        longest = [len(pair.prompt) + max(len(pair.a), len(pair.b)) for pair in pairs]
        return batching.token_budget(2 * np.array(longest, dtype=np.int64), self.batch_tokens)

    def prepare(self, pairs: Sequence[TokenPair]) -> tuple[str, ...]:
        """Check the ids, and say where rewards are not read at a row's end.

        Raises:
            InputError: a token id lies outside the model's vocabulary.
        """
        check_vocabulary(pairs, self.vocabulary, fix="tokenizer and model do not belong together")
        if any(self.padding in (pair.a[-1], pair.b[-1]) for pair in pairs):
            return ("rows end in its padding token, so it reads the reward at the token before",)
        return ()

    def score(self, pairs: Sequence[TokenPair], rows: np.ndarray) -> Iterator[Scored]:
        """Score every batch of the job that has some of these rows, longest first.

        Raises:
            RunError: a single pair does not fit into the device's memory.
        """
        for batch in batching.with_some_of(self.batches(pairs), rows):
            yield Scored(batch, self.score_batch([pairs[row] for row in batch]))

    def score_batch(self, pairs: Sequence[TokenPair]) -> np.ndarray:
        """Rewards of a and b, shape [pairs, 2], float64.

        A batch that does not fit into the device's memory is halved.

        Raises:
            RunError: a single pair does not fit.
        """
        return halved_to_fit(self._score, pairs, self.device)

    def close(self) -> None:
        """Let go of the model's memory."""
        del self.model
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _score(self, pairs: Sequence[TokenPair]) -> np.ndarray:
        rows = batching.sequences(pairs)
        if self.padding is None:
            # A row that ended in the token that we pad with would be read before its end.
            last = {row[-1] for row in rows}
            self.config.pad_token_id = next(i for i in range(self.vocabulary) if i not in last)
        ids = np.full((len(rows), max(map(len, rows))), self.config.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        logits = self.model(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=torch.from_numpy(mask).to(self.device),
        ).logits
        return logits.float().double().cpu().numpy().reshape(len(pairs), 2)
