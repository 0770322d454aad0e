"""Margins against TRL's own losses, and against numbers worked by hand."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

from denoise import losses
from denoise.errors import InputError
from denoise.losses import PairLogps

WORDS = ["the", "sky", "is", "blue", "grass", "green", "very", "not", "at", "all"]
ROWS = [
    {"prompt": "the sky", "chosen": " is blue", "rejected": " is not very green at all"},
    {"prompt": "grass is", "chosen": " green green green green", "rejected": " blue"},
    {"prompt": "is the sky very", "chosen": " not at all", "rejected": " at all blue"},
]
SWAPPED = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in ROWS]


def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<pad>", "<s>", "</s>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def model(seed):
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    # Wide weights, so that the log-probs of the responses differ by whole nats.
    config = LlamaConfig(vocab_size=4 + len(WORDS), initializer_range=0.8, **size, **heads)
    return LlamaForCausalLM(config).eval()


def response_logps(language_model, inputs):
    """Sums and counts over the response tokens of one collated pair (chosen, rejected)."""
    with torch.no_grad():
        logits = language_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    logps = logits[:, :-1].double().log_softmax(-1)
    taken = logps.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
    mask = inputs["completion_mask"][:, 1:]
    return (taken * mask).sum(1).numpy(), mask.sum(1).numpy()


@pytest.fixture(scope="module")
def dpo_trainers(tmp_path_factory):
    def make(loss_type, beta):
        common = {"report_to": [], "bf16": False, "use_cpu": True, "disable_tqdm": True}
        args = DPOConfig(
            str(tmp_path_factory.mktemp("trl")), loss_type=loss_type, beta=beta, **common
        )
        return DPOTrainer(
            model(1),
            model(2),
            args,
            train_dataset=Dataset.from_list(ROWS + SWAPPED),
            processing_class=tokenizer(),
        )

    return make


@pytest.mark.parametrize(("loss", "name"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_margin_is_the_difference_of_the_losses_that_trl_computes(dpo_trainers, loss, name):
    beta = 0.25
    trainer = dpo_trainers(name, beta)
    trainer.model.eval()
    values, pairs = [], []
    for example in trainer.train_dataset:
        inputs = trainer.data_collator([example])
        with torch.no_grad():
            values.append(trainer._compute_loss(trainer.model, inputs, False).item())
        # Models built anew, because TRL patches the forward pass of those it is given.
        policy, tokens = response_logps(model(1), inputs)
        reference, _ = response_logps(model(2), inputs)
        pairs.append((*policy, *reference, *tokens))
    theirs = np.array(values)
    logps = PairLogps(*np.array(pairs, np.float64).T)
    np.testing.assert_allclose(losses.loss_value(loss, logps, beta=beta), theirs, rtol=2e-5)
    ours = losses.margin(loss, logps, beta=beta)[: len(ROWS)]
    np.testing.assert_allclose(ours, (theirs[3:] - theirs[:3]), rtol=1e-4, atol=1e-4)
    assert np.abs(ours).min() > 0.05


@pytest.fixture(scope="module")
def cpo_trainer(tmp_path_factory):
    def make(loss_type):
        common = {"report_to": [], "bf16": False, "use_cpu": True, "disable_tqdm": True}
        args = CPOConfig(
            str(tmp_path_factory.mktemp("trl")),
            loss_type=loss_type,
            beta=losses.BETA["simpo"],
            max_length=64,
            **common,
        )
        return CPOTrainer(
            model(1), args, train_dataset=Dataset.from_list(ROWS), processing_class=tokenizer()
        )

    return make


def random_logps(n=50):
    generator = np.random.default_rng(0)
    sums = generator.uniform(-200, -1, (4, n))
    return PairLogps(*sums, *generator.integers(1, 60, (2, n)))


def test_simpo_margin_is_the_difference_of_trl_cpo_losses(cpo_trainer):
    trainer = cpo_trainer("simpo")
    assert trainer.simpo_gamma == losses.GAMMA
    x = random_logps()
    means = [torch.tensor(s / n) for s, n in ((x.policy_w, x.tokens_w), (x.policy_l, x.tokens_l))]
    forward, backward = (trainer.cpo_loss(*order)[0].numpy() for order in (means, means[::-1]))
    np.testing.assert_allclose(losses.loss_value("simpo", x), forward, rtol=1e-12)
    np.testing.assert_allclose(losses.margin("simpo", x), backward - forward, atol=1e-12)


def test_cpo_margin_without_its_likelihood_term_is_the_difference_of_trl_cpo_losses(cpo_trainer):
    trainer = cpo_trainer("sigmoid")
    x = random_logps()
    sums = [torch.tensor(x.policy_w), torch.tensor(x.policy_l)]
    forward, backward = (trainer.cpo_loss(*order)[0].numpy() for order in (sums, sums[::-1]))
    d = x.policy_w - x.policy_l
    ours = losses.margin("cpo", x, beta=trainer.beta) - d
    np.testing.assert_allclose(ours, backward - forward, rtol=1e-10, atol=1e-10)


def test_default_betas_are_those_of_trl(tmp_path):
    assert DPOConfig(str(tmp_path), bf16=False, use_cpu=True).beta == losses.BETA["dpo"]
    assert CPOConfig(str(tmp_path), bf16=False, use_cpu=True).beta == losses.BETA["cpo"]


HAND = PairLogps(-10.0, -12.0, -11.0, -11.5, 5, 4)


def test_margins_worked_by_hand():
    """One pair: log π −10 and −12, log π_ref −11 and −11.5, 5 and 4 tokens.

    h = (−10 + 11) − (−12 + 11.5) = 1.5; per token 1/5 − (−0.5)/4 = 0.325; d = 2.
    DPO, β = 0.1: 0.15. IPO, β = 0.1: 2·0.325/0.1 = 6.5, of sums 30. CPO, β = 0.1: 1.1·2 = 2.2.
    SimPO, β = 2, γ = 0.5: d̄ = 2(−2 + 3) = 2, log σ(1.5) − log σ(−2.5).
    """
    log_sigmoid = lambda x: -math.log(1 + math.exp(-x))  # noqa: E731
    assert losses.margin("dpo", HAND) == pytest.approx(0.15)
    assert losses.margin("ipo", HAND) == pytest.approx(6.5)
    assert losses.margin("ipo", HAND, per_token=False) == pytest.approx(30.0)
    assert losses.margin("cpo", HAND) == pytest.approx(2.2)
    assert losses.margin("simpo", HAND) == pytest.approx(log_sigmoid(1.5) - log_sigmoid(-2.5))


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("per_token", [True, False])
def test_margin_is_the_loss_of_the_swap_less_the_loss(loss, per_token):
    x = random_logps()
    value = losses.loss_value(loss, x, per_token=per_token)
    swapped = losses.loss_value(loss, x.swapped(), per_token=per_token)
    margin = losses.margin(loss, x, per_token=per_token)
    np.testing.assert_allclose(margin, swapped - value, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(losses.margin(loss, x.swapped(), per_token=per_token), -margin)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_huge_and_empty_responses_give_finite_margins(loss):
    x = PairLogps([-1e6, 0.0], [0.0, -1e6], [-1.0, 0.0], [0.0, -1.0], [9, 0], [0, 9])
    margin = losses.margin(loss, x)
    assert np.isfinite(margin).all()
    assert np.isfinite(losses.loss_value(loss, x)).all()
    assert margin[0] < 0 < margin[1]


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
@pytest.mark.parametrize("reference", [None, [np.nan]])
def test_a_missing_reference_is_refused_where_it_is_needed(loss, reference):
    with pytest.raises(InputError, match="--reference"):
        losses.margin(loss, PairLogps([-1.0], [-2.0], reference, reference, [1], [1]))


def test_simpo_and_cpo_need_no_reference():
    x = PairLogps([-1.0], [-2.0], None, None, [1], [1])
    assert losses.margin("cpo", x) == pytest.approx(1.1)
    assert losses.margin("simpo", x) > 0


def test_an_unknown_loss_is_refused():
    with pytest.raises(InputError, match="dpo, ipo, simpo, cpo"):
        losses.margin("orpo", HAND)
