"""Language models of a few hundred thousand parameters, made on the spot: where training starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
BATCH, RATE, WARMUP = 64, 3e-3, 20


def save_pretrained(
    tokenizer: Tokenizer,
    examples: Sequence[tuple[str, str]],
    directory: Path,
    *,
    seed: int,
    positions: int,
    epochs: int = 1,
) -> Path:
    """A Llama of three layers that predicts responses to their prompts, and its tokenizer.

    It passes `epochs` times over the examples (prompt, response), the first `positions` tokens of
    each, all passes shuffled together; what is in the directory already stays. The tokenizer's
    first tokens are `SPECIAL`; that each text begins with `<s>` is added to it here.
    """
    if (directory / "tokenizer.json").is_file():  # the last to be written
        return directory
    import torch
    from tokenizers import processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True))
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=positions,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    rows = []
    for prompt, response in examples:
        before = len(fast(prompt)["input_ids"])
        ids = fast(prompt + response + fast.eos_token)["input_ids"][:positions]
        rows.append((torch.tensor(ids), before))
    rows *= epochs
    order = torch.randperm(len(rows)).tolist()
    steps = len(rows) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / WARMUP, (steps - i) / steps)
    )
    for step in range(steps):
        batch = [rows[i] for i in order[step * BATCH : (step + 1) * BATCH]]
        ids = torch.nn.utils.rnn.pad_sequence(
            [row for row, _ in batch], batch_first=True, padding_value=fast.pad_token_id
        )
        labels = ids.masked_fill(ids == fast.pad_token_id, -100)
        for number, (_, before) in enumerate(batch):
            labels[number, :before] = -100
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval().save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory
