"""Soft labels in the losses, in torch: pure functions of a batch's log-probs.

With Δ = L(y_l ≻ y_w) − L(y_w ≻ y_l) (`denoise.losses`), both objectives need no more than Δ and,
for the first, the loss itself:

    mixture   w·L(y_w ≻ y_l) + (1−w)·L(y_l ≻ y_w)  =  L(y_w ≻ y_l) + (1−w)·Δ
    gibbs     −w·log σ(Δ) − (1−w)·log σ(−Δ)        =  −log σ(Δ) + (1−w)·Δ      (RE-PO, Eq. 5)

For DPO L(y_w ≻ y_l) = −log σ(Δ), and the two are one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class BatchLogps(NamedTuple):
    """Log-probs of a batch, each [n]: sums over response tokens in nats, and how many there are.

    `ref_*` are None for SimPO and CPO.
    """

    policy_w: Tensor
    policy_l: Tensor
    ref_w: Tensor | None
    ref_l: Tensor | None
    tokens_w: Tensor
    tokens_l: Tensor

    def ratio(self, per_token: bool = False) -> Tensor:
        """h = (log π − log π_ref)(y_w) − (log π − log π_ref)(y_l), or of the means per token."""
        w = self.policy_w if self.ref_w is None else self.policy_w - self.ref_w
        l = self.policy_l if self.ref_l is None else self.policy_l - self.ref_l  # noqa: E741
        if per_token:
            w, l = w / self.tokens_w.clamp(min=1), l / self.tokens_l.clamp(min=1)  # noqa: E741
        return w - l


def batch_margin(loss: str, logps: BatchLogps, beta: float, gamma: float) -> Tensor:
    """Δ of each pair, [n], nats: `denoise.losses.margin` with a gradient."""
    match loss:
        case "dpo":
            return beta * logps.ratio()
        case "ipo":
            return (2.0 / beta) * logps.ratio(per_token=True)
        case "simpo":
            difference = beta * logps.ratio(per_token=True)
            return logsigmoid(difference - gamma) - logsigmoid(-difference - gamma)
    return (beta + 1.0) * logps.ratio()


def batch_loss(loss: str, logps: BatchLogps, beta: float, gamma: float) -> Tensor:
    """The part of L(y_w ≻ y_l) that is a function of one pair, [n]; of CPO without its NLL."""
    match loss:
        case "ipo":
            return (logps.ratio(per_token=True) - 1.0 / (2.0 * beta)) ** 2
        case "simpo":
            return -logsigmoid(beta * logps.ratio(per_token=True) - gamma)
    return -logsigmoid(beta * logps.ratio())


def soft_label_change(
    loss: str, objective: str, logps: BatchLogps, weight: Tensor, beta: float, gamma: float
) -> Tensor:
    """What the objective adds to the mean of L(y_w ≻ y_l) over the batch: a number, in nats.

    CPO's likelihood term is, as in TRL, the mean over the tokens of the batch; under `mixture` each
    response's tokens count with its share w or 1 − w. Under `gibbs` Δ = (β + 1)d holds all of it.
    """
    if objective == "gibbs" and loss != "dpo":
        margin = batch_margin(loss, logps, beta, gamma)
        change = -logsigmoid(margin) + (1 - weight) * margin - batch_loss(loss, logps, beta, gamma)
        return change.mean() - (_nll(logps, torch.ones_like(weight)) if loss == "cpo" else 0.0)
    if loss != "cpo":
        return ((1 - weight) * batch_margin(loss, logps, beta, gamma)).mean()
    change = ((1 - weight) * beta * logps.ratio()).mean()
    return change + _nll(logps, weight) - _nll(logps, torch.ones_like(weight))


def _nll(logps: BatchLogps, weight: Tensor) -> Tensor:
    """−log π of the response tokens, each with its response's share, over their number."""
    total = weight * logps.policy_w + (1 - weight) * logps.policy_l
    tokens = weight * logps.tokens_w + (1 - weight) * logps.tokens_l
    return -total.sum() / tokens.sum()


def confidence(margin: Tensor, reliability: Tensor) -> Tensor:
    """w = σ(Δ + logit η), [n], without a gradient (RE-PO, Eq. 4)."""
    return torch.sigmoid(margin.detach() + torch.logit(reliability))


def updated_reliability(
    reliability: Tensor, annotator: Tensor, weight: Tensor, alpha: float
) -> Tensor:
    """η ← (1−α)η + α·(mean of w over the annotator's labels in the batch), [K] (RE-PO, Eq. 7).

    Annotators without a label in the batch keep theirs. `annotator`: codes, [n].
    """
    count = torch.zeros_like(reliability).index_add_(0, annotator, torch.ones_like(weight))
    total = torch.zeros_like(reliability).index_add_(0, annotator, weight)
    moved = (1 - alpha) * reliability + alpha * total / count.clamp(min=1)
    return torch.where(count > 0, moved, reliability)
