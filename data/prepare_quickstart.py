"""Make the quick-start set: preference pairs with planted annotators, and two tiny models.

    python data/prepare_quickstart.py --out data/quickstart --seed 0

Writes the votes, the truth behind them, a reference model (next-token prediction on good and bad
answers alike) and a policy (the reference after more next-token prediction on chosen answers, then
DPO, all on other pairs, of which 2 % are mislabelled). Equal seeds and thread counts give equal
files on one machine. It takes six minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from quickstart_grammar import Example, generate
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAIRS, REFERENCE_PAIRS, TUNING_PAIRS, DPO_PAIRS = 3_000, 20_000, 30_000, 20_000
RELIABILITIES = (
    *(0.97, 0.96, 0.95, 0.95, 0.94, 0.93, 0.92, 0.91, 0.90, 0.89, 0.88, 0.87),
    *(0.85, 0.83, 0.81, 0.78, 0.74, 0.69, 0.63, 0.57, 0.53, 0.50, 0.46, 0.40),
)
BETA, LABEL_NOISE = 0.1, 0.02
VOCABULARY = 1_536
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}"
    "{% endfor %}"
)


class Text(NamedTuple):
    """Token ids of a prompt with one response, which begins at `start`."""

    ids: list[int]
    start: int


def draw_votes(rng: random.Random, examples: Sequence[Example]) -> tuple[pl.DataFrame, list[float]]:
    """Let the annotators vote: the shuffled rows, and each annotator's planted reliability.

    A third of the pairs gets two to four votes, each from a different annotator.
    """
    names = [f"ann-{i:02d}" for i in range(1, len(RELIABILITIES) + 1)]
    reliability = rng.sample(RELIABILITIES, len(names))
    diligence = np.array([rng.uniform(0.3, 1.7) for _ in names])
    draw = np.random.default_rng(rng.getrandbits(64))
    rows = []
    for topic, prompt, better, worse in examples:
        votes = rng.choice((2, 3, 4)) if rng.random() < 1 / 3 else 1
        for k in draw.choice(len(names), votes, replace=False, p=diligence / diligence.sum()):
            right = rng.random() < reliability[k]
            chosen, rejected = (better, worse) if right else (worse, better)
            rows.append((prompt, chosen, rejected, names[k], topic))
    rng.shuffle(rows)
    columns = ["prompt", "chosen", "rejected", "annotator", "topic"]
    return pl.DataFrame(rows, columns, orient="row"), reliability


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], responses: Sequence[str]
) -> list[Text]:
    """Tokenise BOS, prompt, response and EOS as TRL does for plain text."""
    starts = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    joined = [p + r + EOS for p, r in zip(prompts, responses, strict=True)]
    return [Text(*text) for text in zip(tokenizer(joined)["input_ids"], starts, strict=True)]


def response_logps(
    model: LlamaForCausalLM, texts: Sequence[Text]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-prob of each text's response given its prompt, and the response's length."""
    longest = max(len(text.ids) for text in texts)
    pad = model.config.pad_token_id
    ids = torch.tensor([text.ids + [pad] * (longest - len(text.ids)) for text in texts])
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    targets = ids[:, 1:]
    logps = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)
    starts = torch.tensor([[text.start] for text in texts])
    response = (targets != pad) & (torch.arange(1, longest) >= starts)
    return (logps * response).sum(1), response.sum(1)


def batches(rng: random.Random, lengths: Sequence[int], size: int) -> list[list[int]]:
    """Shuffled batches of indices, each of similar lengths."""
    order = rng.sample(range(len(lengths)), len(lengths))
    window = 16 * size
    made = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lengths.__getitem__)
        made += [part[i : i + size] for i in range(0, len(part), size)]
    rng.shuffle(made)
    return made


class Descent:
    """AdamW with a short warm-up and a cosine decay to zero over a known number of steps."""

    def __init__(self, model: LlamaForCausalLM, rate: float, steps: int) -> None:
        self._parameters = list(model.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, rate, weight_decay=0.01)
        warm = max(steps // 20, 1)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda i: min((i + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * i / steps)),
        )

    def step(self, loss: torch.Tensor) -> None:
        """Descend the gradient of `loss` once."""
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()


def predict_next(
    model: LlamaForCausalLM, rng: random.Random, texts: Sequence[Text], rate: float = 4e-3
) -> None:
    """Fit `model` to the responses by next-token prediction, one pass."""
    plan = batches(rng, [len(text.ids) for text in texts], size=16)
    descent = Descent(model, rate, len(plan))
    for i, batch in enumerate(plan, 1):
        logps, lengths = response_logps(model, [texts[j] for j in batch])
        loss = -logps.sum() / lengths.sum()
        descent.step(loss)
        if i % 500 == 0:
            print(f"  step {i}/{len(plan)}: {loss.item():.3f} nats a token", flush=True)


def prefer(
    policy: LlamaForCausalLM,
    reference: LlamaForCausalLM,
    rng: random.Random,
    pairs: Sequence[tuple[Text, Text]],
    rate: float = 5e-4,
) -> None:
    """Fit `policy` to (chosen, rejected) pairs by DPO, one pass."""
    plan = batches(rng, [len(c.ids) + len(r.ids) for c, r in pairs], size=16)
    descent = Descent(policy, rate, len(plan))
    for i, batch in enumerate(plan, 1):
        texts = [pairs[j][side] for side in (0, 1) for j in batch]
        with torch.no_grad():
            before, _ = response_logps(reference, texts)
        logps, _ = response_logps(policy, texts)
        chosen, rejected = (logps - before).chunk(2)
        loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
        descent.step(loss)
        if i % 100 == 0:
            print(f"  step {i}/{len(plan)}: DPO loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def gains(
    policy: LlamaForCausalLM, reference: LlamaForCausalLM, texts: Sequence[Text]
) -> np.ndarray:
    """BETA times how much likelier the policy makes each response than the reference does."""
    parts = [texts[i : i + 64] for i in range(0, len(texts), 64)]
    difference = [response_logps(policy, p)[0] - response_logps(reference, p)[0] for p in parts]
    return BETA * torch.cat(difference).double().numpy()


def fit_temperature(margins: np.ndarray) -> float:
    """The temperature under which sigma(temperature * margin) predicts the truth best."""
    temperature = 1.0
    for _ in range(50):
        p = sigmoid(temperature * margins)
        temperature += (margins * (1 - p)).sum() / (margins**2 * p * (1 - p)).sum()
    return temperature


def fit_em(margins: np.ndarray, annotators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RE-PO's EM with every vote on its own: reliabilities and confidences."""
    votes = np.bincount(annotators)
    reliability = np.full(len(votes), 0.9)
    for _ in range(10_000):
        odds = np.log(reliability) - np.log1p(-reliability)
        confidence = sigmoid(margins + odds[annotators])
        updated = np.clip(np.bincount(annotators, confidence) / votes, 1e-6, 1 - 1e-6)
        change = np.abs(updated - reliability).max()
        reliability = updated
        if change < 1e-9:
            break
    return reliability, confidence


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def report(rows: pl.DataFrame, truth: pl.DataFrame, planted: pl.DataFrame) -> None:
    """Print how well the policy knows the truth, and what EM recovers through it.

    `truth` carries the `margin` of the preferred over the other response.
    """
    margins = truth["margin"].to_numpy()
    print(f"policy agrees with the truth on {np.mean(margins > 0):.3f} of the pairs")
    topics = rows.unique("prompt").join(truth, on="prompt").group_by("topic")
    for topic, right in topics.agg((pl.col("margin") > 0).mean()).sort("topic").iter_rows():
        print(f"  {topic:<12}{right:.3f}")
    print(f"fitted temperature at beta {BETA}: {fit_temperature(margins):.2f}")
    edges = (0, 0.5, 1, 1.5, 2, 3, np.inf)
    for low, high in pairwise(edges):
        inside = margins[(np.abs(margins) >= low) & (np.abs(margins) < high)]
        said = sigmoid(np.abs(inside)).mean()
        print(f"  |margin| in [{low}, {high}): said {said:.3f}, true {np.mean(inside > 0):.3f}")

    votes = rows.join(truth, on="prompt", maintain_order="left")
    right = (votes["chosen"] == votes["preferred"]).to_numpy()
    names = planted["annotator_id"].to_list()
    annotators = np.array([names.index(name) for name in votes["annotator"]])
    along = np.where(right, 1, -1) * votes["margin"].to_numpy()
    estimate, confidence = fit_em(along, annotators)
    print("annotator  votes  planted  realised  estimated")
    for k, (name, reliability) in enumerate(planted.iter_rows()):
        own = annotators == k
        realised = right[own].mean()
        print(f"{name:<9}{own.sum():>7}{reliability:>9.2f}{realised:>10.3f}{estimate[k]:>11.3f}")
    errors = estimate - planted["reliability"].to_numpy()
    doubted = confidence < 0.5
    found = (doubted & ~right).sum()
    print(f"RMSE of the reliabilities {np.sqrt(np.mean(errors**2)):.3f}")
    print(
        f"{(~right).sum()} of {len(right)} votes are wrong; w < 0.5 marks {doubted.sum()}: "
        f"precision {found / doubted.sum():.3f}, recall {found / (~right).sum():.3f}"
    )


def publish(made: Path, out: Path) -> None:
    """Move everything in `made` into `out`, each over what bears its name there."""
    out.mkdir(parents=True, exist_ok=True)
    for path in made.iterdir():
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    made.rmdir()


def main() -> None:
    """Make the set, train the models, measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("quickstart"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    began = time.monotonic()

    examples = iter(generate(rng, PAIRS + REFERENCE_PAIRS + TUNING_PAIRS))
    shipped = list(islice(examples, PAIRS))
    mixed = [(e.prompt, rng.choice((e.better, e.worse))) for e in islice(examples, REFERENCE_PAIRS)]
    labelled = [(e.prompt, *_noisy(rng, e)) for e in examples]
    rows, reliability = draw_votes(rng, shipped)
    prompts, better, worse = ([getattr(e, f) for e in shipped] for f in Example._fields[1:])
    truth = pl.DataFrame({"prompt": prompts, "preferred": better, "other": worse})
    names = sorted(rows["annotator"].unique())
    planted = pl.DataFrame({"annotator_id": names, "reliability": reliability})

    tokenizer = train_tokenizer([prompt + response for prompt, response in mixed])
    reference = new_model(tokenizer)
    print(f"reference: {reference.num_parameters():,} parameters, {len(mixed):,} texts")
    predict_next(reference, rng, encode(tokenizer, *zip(*mixed, strict=True)))
    questions, chosen, rejected = zip(*labelled, strict=True)
    kept = encode(tokenizer, questions, chosen)
    dropped = encode(tokenizer, questions[:DPO_PAIRS], rejected[:DPO_PAIRS])
    policy = copy.deepcopy(reference)
    print(f"policy: {len(kept):,} chosen responses, then DPO on {len(dropped):,} pairs")
    predict_next(policy, rng, kept)
    prefer(policy, reference, rng, list(zip(kept, dropped, strict=False)))

    sides = [gains(policy, reference, encode(tokenizer, prompts, side)) for side in (better, worse)]
    report(rows, truth.with_columns(margin=sides[0] - sides[1]), planted)

    made = arguments.out.with_name(arguments.out.name + ".partial")
    made.mkdir(parents=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows.iter_rows(named=True))
    (made / "preferences.jsonl").write_text("".join(lines), encoding="utf-8")
    truth.write_parquet(made / "truth.parquet")
    planted.write_parquet(made / "annotators_truth.parquet")
    for name, model in (("reference", reference), ("policy", policy)):
        model.save_pretrained(made / name)
        tokenizer.save_pretrained(made / name)
    publish(made, arguments.out)
    print(f"wrote {arguments.out} in {time.monotonic() - began:.0f} s")


def _noisy(rng: random.Random, example: Example) -> tuple[str, str]:
    sides = example.better, example.worse
    return sides[::-1] if rng.random() < LABEL_NOISE else sides


if __name__ == "__main__":
    main()
