"""A language of a few hundred words in which it is known which of two responses is better.

A prompt names a topic by its words; a response is ten words. Each word has a hidden quality, and
words of the prompt's topic are worth a point more: the response with the greater sum is better, and
pairs that are near a tie are not drawn. A policy learns the qualities of the words from pairs, as
one learns what raters like, and what it learns carries over to new prompts and responses; it can
also learn single labels by heart. That is what noise does harm through.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pretraining import SPECIAL, save_pretrained

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOPICS, WORDS, COMMON = 6, 20, 40
PROMPT_WORDS, RESPONSE_WORDS = 4, 10
ON_TOPIC, GAP = 1.0, 1.0
N_WORDS = TOPICS * WORDS + COMMON
QUALITY = np.random.default_rng(5).normal(0.0, 1.0, N_WORDS)

PRETRAINING_PAIRS = 8_000
SYLLABLES = [c + v for c in "bdfgklmnprst" for v in "aeiou"]


class Annotators(NamedTuple):
    """Who labels: η of each, [K], and per pair who it is and whether the label is right, [n]."""

    reliability: NDArray[np.float64]
    annotator: NDArray[np.int64]
    right: NDArray[np.bool_]


def spelling(word: int) -> str:
    """A word's spelling, three syllables that no other word has."""
    first, rest = divmod(word, len(SYLLABLES))
    return SYLLABLES[first] + SYLLABLES[rest] + SYLLABLES[(7 * word + 3) % len(SYLLABLES)]


def draw_pairs(n: int, seed: int, gap: float = GAP) -> pl.DataFrame:
    """Pairs as `prompt`, `better`, `worse`: spelled out."""
    draw = np.random.default_rng(seed)
    pairs = []
    while len(pairs) < n:
        topic = draw.integers(TOPICS)
        sides = [_response(topic, draw) for _ in range(2)]
        ahead = np.subtract(*(_worth(topic, side) for side in sides))
        if abs(ahead) < gap:
            continue
        prompt = topic * WORDS + draw.integers(WORDS, size=PROMPT_WORDS)
        better, worse = sides if ahead > 0 else sides[::-1]
        texts = [" ".join(map(spelling, words)) for words in (prompt, better, worse)]
        pairs.append((texts[0] + "\n", *texts[1:]))
    return pl.DataFrame(pairs, ["prompt", "better", "worse"], orient="row")


def draw_annotators(n: int, noise: float, seed: int, k: int = 20) -> Annotators:
    """Half of k annotators right with 0.95, half so often that a share `noise` of labels is wrong.

    Each labels as many of the n pairs; without noise all are always right.
    """
    draw = np.random.default_rng(seed)
    good, bad = (0.95, 1.0 - (2 * noise - 0.05)) if noise else (1.0, 1.0)
    reliability = np.where(np.arange(k) < k // 2, good, bad)
    annotator = draw.permutation(np.arange(n) % k)
    return Annotators(reliability, annotator, draw.random(n) < reliability[annotator])


def labelled(pairs: pl.DataFrame, labels: Annotators) -> pl.DataFrame:
    """The pairs as a source has them: prompt, chosen, rejected, annotator."""
    right = pl.Series(labels.right)
    return pairs.select(
        "prompt",
        chosen=pl.when(right).then("better").otherwise("worse"),
        rejected=pl.when(right).then("worse").otherwise("better"),
        annotator=pl.Series([f"annotator-{k:02d}" for k in labels.annotator]),
    )


def save_base_model(directory: Path, seed: int = 0) -> Path:
    """The language model that every training starts from: it predicts either response.

    Half a million parameters, trained on better and worse responses alike.
    """
    pairs = draw_pairs(PRETRAINING_PAIRS, seed=99, gap=0.0)
    examples = [(p, r) for p, b, w in pairs.iter_rows() for r in (b, w)]
    return save_pretrained(_tokenizer(), examples, directory, seed=seed, positions=64)


def _response(topic: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Half of the words are of the topic, half any words."""
    own = topic * WORDS + draw.integers(WORDS, size=RESPONSE_WORDS)
    return np.where(
        draw.random(RESPONSE_WORDS) < 0.5, own, draw.integers(N_WORDS, size=RESPONSE_WORDS)
    )


def _worth(topic: int, words: NDArray[np.int64]) -> float:
    return float(QUALITY[words].sum() + ON_TOPIC * (words // WORDS == topic).sum())


def _tokenizer() -> Tokenizer:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = [*SPECIAL, *map(spelling, range(N_WORDS))]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
