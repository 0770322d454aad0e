"""The objectives in torch against the losses in numpy, and against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denoise import losses
from denoise.trainers.objectives import (
    BatchLogps,
    batch_loss,
    batch_margin,
    confidence,
    soft_label_change,
    updated_reliability,
)
from denoise.trainers.settings import TrainSettings
from denoise.trainers.soft_labels import SoftLabels

BETA = {"dpo": 0.1, "ipo": 0.3, "simpo": 2.0, "cpo": 0.2}
GAMMA = 0.5
N = 6


def drawn(loss: str, seed: int = 0) -> dict[str, np.ndarray | None]:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, 30, (2, N))
    policy = -tokens * draw.uniform(0.5, 3.0, (2, N))
    reference = policy + draw.normal(0, 3, (2, N)) if loss in losses.NEEDS_REFERENCE else [None] * 2
    names = ("policy_w", "policy_l", "ref_w", "ref_l", "tokens_w", "tokens_l")
    return dict(zip(names, (*policy, *reference, *tokens), strict=True))


def in_torch(values: dict[str, np.ndarray | None]) -> BatchLogps:
    return BatchLogps(*(None if v is None else torch.tensor(v).double() for v in values.values()))


def nll(values: dict[str, np.ndarray], weight: np.ndarray) -> float:
    """CPO's likelihood term as TRL has it: over the tokens of the batch, here with their shares."""
    total = weight @ values["policy_w"] + (1 - weight) @ values["policy_l"]
    return -total / (weight @ values["tokens_w"] + (1 - weight) @ values["tokens_l"])


def preference_loss(loss: str, logps: losses.PairLogps) -> np.ndarray:
    """L(y_w ≻ y_l); of CPO without its likelihood term, which TRL takes over the batch."""
    value = losses.loss_value(loss, logps, beta=BETA[loss], gamma=GAMMA)
    return value + logps.policy_w if loss == "cpo" else value


def by_hand(loss: str, objective: str, values: dict[str, np.ndarray], weight: np.ndarray) -> float:
    logps = losses.PairLogps(**values)
    if objective == "gibbs":
        margin = losses.margin(loss, logps, beta=BETA[loss], gamma=GAMMA)
        minus_log_p, minus_log_1_p = np.logaddexp(0, -margin), np.logaddexp(0, margin)
        return float(np.mean(weight * minus_log_p + (1 - weight) * minus_log_1_p))
    own, other = (preference_loss(loss, each) for each in (logps, logps.swapped()))
    mixed = float(np.mean(weight * own + (1 - weight) * other))
    return mixed + (nll(values, weight) if loss == "cpo" else 0.0)


def in_full(loss: str, objective: str, logps: BatchLogps, weight: torch.Tensor) -> torch.Tensor:
    """The whole objective: what TRL computes for w = 1, and what the soft labels change in it."""
    plain = batch_loss(loss, logps, BETA[loss], GAMMA).mean()
    if loss == "cpo":
        plain = plain - logps.policy_w.sum() / logps.tokens_w.sum()
    return plain + soft_label_change(loss, objective, logps, weight, BETA[loss], GAMMA)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_margin_and_loss_are_those_of_the_numpy_losses(loss):
    values = drawn(loss)
    expected = losses.margin(loss, losses.PairLogps(**values), beta=BETA[loss], gamma=GAMMA)
    found = batch_margin(loss, in_torch(values), BETA[loss], GAMMA)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    expected = preference_loss(loss, losses.PairLogps(**values))
    found = batch_loss(loss, in_torch(values), BETA[loss], GAMMA)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("objective", ["mixture", "gibbs"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3, None])
def test_objectives_and_their_gradients_equal_the_hand_computation(loss, objective, weight):
    values = drawn(loss)
    w = np.random.default_rng(1).random(N) if weight is None else np.full(N, weight)
    logps = in_torch(values)
    policy = [logps.policy_w.requires_grad_(), logps.policy_l.requires_grad_()]
    found = in_full(loss, objective, logps, torch.tensor(w))
    assert found.item() == pytest.approx(by_hand(loss, objective, values, w), rel=1e-12)

    gradients = torch.autograd.grad(found, policy)
    step = 1e-5
    for name, gradient in zip(("policy_w", "policy_l"), gradients, strict=True):
        for i in range(N):
            moved = [
                values | {name: values[name] + side * step * (np.arange(N) == i)}
                for side in (1, -1)
            ]
            up, down = (by_hand(loss, objective, each, w) for each in moved)
            expected = (up - down) / (2 * step)
            assert gradient[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_for_dpo_the_two_objectives_are_one():
    logps, weight = in_torch(drawn("dpo")), torch.rand(N, dtype=torch.float64)
    changes = [soft_label_change("dpo", o, logps, weight, 0.1, 0.0) for o in ("mixture", "gibbs")]
    assert changes[0] == changes[1]


def test_swapping_the_sides_swaps_the_weight():
    for loss in losses.LOSSES:
        values = drawn(loss)
        swapped = losses.PairLogps(**values).swapped()._asdict()
        weight = torch.rand(N, dtype=torch.float64)
        for objective in ("mixture", "gibbs"):
            here = in_full(loss, objective, in_torch(values), weight)
            there = in_full(loss, objective, in_torch(swapped), 1 - weight)
            assert here.item() == pytest.approx(there.item(), rel=1e-12)


def test_the_online_steps_of_a_hand_worked_batch():
    """Three labels, by annotators 0, 0 and 2 of three, all at η = 0.9, α = 0.1.

    logit 0.9 = log 9 = 2.197225. Margins 0, −2.197225 and 1 give w = σ(2.197225) = 0.9,
    σ(0) = 0.5 and σ(3.197225) = 9e/(1 + 9e) = 0.960729.
    η_0 = 0.9·0.9 + 0.1·(0.9 + 0.5)/2 = 0.88; η_1 stays; η_2 = 0.81 + 0.0960729 = 0.9060729.
    """
    eta, annotator = torch.full((3,), 0.9), torch.tensor([0, 0, 2])
    w = confidence(torch.tensor([0.0, -2.197225, 1.0]), eta[annotator])
    torch.testing.assert_close(w, torch.tensor([0.9, 0.5, 0.960729]), rtol=1e-5, atol=0)
    eta = updated_reliability(eta, annotator, w, 0.1)
    torch.testing.assert_close(eta, torch.tensor([0.88, 0.9, 0.9060729]), rtol=1e-5, atol=0)


def test_the_online_method_of_a_batch_in_two_parts():
    """The batch above under DPO with β = 1, its third label in a part of its own.

    The mean of (1−w)Δ is (0.1·0 + 0.5·(−2.197225))/2 = −0.549306 in the first part and
    (1 − 0.9607297)·1 = 0.0392703 in the second; mean w is 0.7 and 0.960729, the mean of (2w − 1)²
    (0.64 + 0)/2 = 0.32 and 0.9214594² = 0.849087. η moves at the end only, as by the whole batch.
    """
    settings = TrainSettings(method="online", beta=1.0)
    soft_labels = SoftLabels(settings, 3)
    margin, annotator = torch.tensor([0.0, -2.197225, 1.0]), torch.tensor([0, 0, 2])
    expected = ((-0.549306, 0.7, 0.32), (0.0392703, 0.960729, 0.849087))
    for part, (change, mean, effective) in zip((slice(2), slice(2, 3)), expected, strict=True):
        zero, one = torch.zeros_like(margin[part]), torch.ones_like(margin[part])
        logps = BatchLogps(margin[part], zero, zero, zero, one, one)
        found, shown = soft_labels.change(logps, one, annotator[part], lambda tensor: tensor)
        assert found.item() == pytest.approx(change, rel=1e-5)
        assert shown == pytest.approx({"weight": mean, "effective_labels": effective}, rel=1e-5)
        assert soft_labels.reliability.tolist() == pytest.approx([0.9] * 3)
    soft_labels.end_step()
    assert soft_labels.reliability.tolist() == pytest.approx([0.88, 0.9, 0.9060729], rel=1e-6)
    before = soft_labels.reliability
    soft_labels.end_step()
    assert torch.equal(soft_labels.reliability, before)
