"""The reward scorer: a sequence classification model of transformers with one label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from denoise.scorers import batching
from denoise.scorers.models import ModelSource, check_vocabulary, load_reward_model
from denoise.scorers.transformers import DeviceScorer
from denoise.tokenise import TokenPair


class RewardScorer(DeviceScorer):
    """Rewards r(prompt, response) by the model's own forward pass on one device.

    A pair takes two rows, prompt + a and prompt + b, padded on the right. The reward is read where
    the model reads it when it is given the one row: most read the last token that is not the
    `pad_token_id` of their configuration, or the very last where that has none.
    """

    is_reward = True

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
        self.model = load_reward_model(source, dtype, self.device, trust_remote_code)
        self.config = self.model.config.get_text_config()
        self.config.use_cache = False
        self.vocabulary = self.model.get_input_embeddings().weight.shape[0]
        own = self.config.pad_token_id
        self.padding = own if own is not None and 0 <= own < self.vocabulary else None

    def prepare(self, pairs: Sequence[TokenPair]) -> tuple[str, ...]:
        """Check the ids, and say where rewards are not read at a row's end.

        Raises:
            InputError: a token id lies outside the model's vocabulary.
        """
        check_vocabulary(batching.highest_id(pairs), self.vocabulary, is_reward=True)
        if any(self.padding in (pair.a[-1], pair.b[-1]) for pair in pairs):
            return ("rows end in its padding token, so it reads the reward at the token before",)
        return ()

    @torch.inference_mode()
    def forward(self, pairs: Sequence[TokenPair]) -> np.ndarray:
        """The rewards: the logit of the one label."""
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
