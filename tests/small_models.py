"""Tiny random models with a tokenizer, made on the spot."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = [
    "Is a mouse larger than a horse? No, a horse is larger.",
    "Please be kind. I would be glad to help you with that!",
    "Das Wetter ist schön — naïve café, 北京 and 🙂 are here.",
    "Go away, I will not answer. How many apples are left? Three.",
]


def save_tokenizer(directory: Path) -> object:
    """Write a byte-level tokenizer with BOS, EOS, padding and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    return fast


def llama_config(**options: object) -> object:
    """What the tiny Llamas below are; the options are further fields."""
    from transformers import LlamaConfig

    fields = {
        "vocab_size": 400,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,  # spread logits, so that a wrong token shows
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaConfig(**{**fields, **options})


def save_llama(directory: Path, seed: int) -> Path:
    """Write a random two-layer Llama with the tokenizer above."""
    import torch
    from transformers import LlamaForCausalLM

    save_tokenizer(directory)
    torch.manual_seed(seed)
    config = llama_config()
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def save_reward_model(directory: Path, **options: object) -> Path:
    """Write a random reward model of the same make; the options are fields of its configuration."""
    import torch
    from transformers import LlamaForSequenceClassification

    save_tokenizer(directory)
    torch.manual_seed(3)
    config = llama_config(**{"num_labels": 1, **options})
    LlamaForSequenceClassification(config).save_pretrained(directory)
    return directory
