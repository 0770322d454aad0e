"""Fixtures: tiny models made on the spot, the shipped quick-start set, the shared real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real datasets, where it lies beside the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the shared datasets are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def quickstart() -> Path:
    """The shipped quick-start set with its two models."""
    return ROOT / "data" / "quickstart"


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


@pytest.fixture(scope="session")
def reward_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("policy"), seed=1)


@pytest.fixture(scope="session")
def reference_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("reference"), seed=2)
