"""TRL's trainers with a soft label beside each pair; everything else of theirs stays as it is.

Each subclass lets its parent compute the loss with its metrics and adds what the soft label changes
in it (`objectives.soft_label_change`): nothing at w = 1. TRL 1.16 has no such column (its issue
#5613) and ignores reference log-probs that the data bring (#6434); here they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer
from trl.experimental.cpo import CPOTrainer

from denoise.trainers.objectives import (
    BatchLogps,
    batch_margin,
    confidence,
    soft_label_change,
    updated_reliability,
)
from denoise.trainers.settings import TrainSettings

WEIGHT, ANNOTATOR = "weight", "annotator"
COLUMNS = (WEIGHT, ANNOTATOR)
EFFECTIVE = "effective_labels"
"""In TRL's log: mean of (2w − 1)². Near p = ½ a label that is right with probability w says as much
as that share of a label that is certain."""

EDGE = 1e-6
"""How near a reliability may come to 0 or 1, so that its logit is finite in float32."""


class SoftLabels:
    """Where w comes from and what becomes of it; of the online method, each annotator's η.

    reliability: η, [K], or None where w is the data's. trace: η at each logged step.
    """

    def __init__(self, settings: TrainSettings, annotators: int) -> None:
        self.settings = settings
        self.reliability: Tensor | None = None
        self.trace: list[tuple[int, list[float]]] = []
        self._seen: list[tuple[Tensor, Tensor]] = []
        if settings.method == "online":
            self.reliability = torch.full((annotators,), settings.eta0)

    def change(
        self,
        logps: BatchLogps,
        weight: Tensor,
        annotator: Tensor | None,
        gather: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, dict[str, float]]:
        """What the labels change in the batch's loss, and what the log says of w.

        `gather` joins the ranks' labels. Online, RE-PO's Algorithm 1: w of the policy and η as they
        are. Rows without an annotator, those of an evaluation, keep the weight they bring.
        """
        settings = self.settings
        beta, gamma = settings.constants
        if self.reliability is not None and annotator is not None:
            eta = self.reliability = self.reliability.to(weight.device)
            margin = batch_margin(settings.loss, logps, beta, gamma)
            weight = confidence(margin, eta[annotator])
            self._seen.append((gather(annotator), gather(weight)))
        change = soft_label_change(settings.loss, settings.trains_on, logps, weight, beta, gamma)
        of_all = gather(weight)
        shown = torch.stack([of_all.mean(), (2 * of_all - 1).square().mean()]).tolist()
        return change, dict(zip((WEIGHT, EFFECTIVE), shown, strict=True))

    def end_step(self) -> None:
        """Move the η of who was in the batch, which may have been accumulated in parts (Eq. 7)."""
        if self.reliability is not None and self._seen:
            annotator, weight = map(torch.cat, zip(*self._seen, strict=True))
            eta = updated_reliability(self.reliability, annotator, weight, self.settings.alpha)
            self.reliability = eta.clamp(EDGE, 1 - EDGE)
            self._seen.clear()


class Collator:
    """A trainer's own collator, with the soft labels beside its tensors."""

    def __init__(self, inner: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.inner = inner

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of the inner collator, with `weight` and `annotator`, [n], where there."""
        there = [name for name in COLUMNS if name in rows[0]]
        batch = self.inner([{k: v for k, v in row.items() if k not in COLUMNS} for row in rows])
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in there}


class _Recorded:
    """A model that remembers its last output, from which the parent makes only a loss."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.output: Any = None

    def __call__(self, **inputs: Any) -> Any:
        self.output = self.model(**inputs)
        return self.output


class _SoftTrainer:
    """What both trainers share; first among the bases."""

    def __init__(self, *args: Any, soft_labels: SoftLabels, **options: Any) -> None:
        super().__init__(*args, **options)
        self.soft_labels = soft_labels
        self.data_collator = Collator(self.data_collator)

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """A batch's gradient; after the last batch of a step the annotators' η moves."""
        loss = super().training_step(*args, **options)
        if self.accelerator.sync_gradients:
            self.soft_labels.end_step()
        return loss

    def _send_telemetry(self) -> None:
        """TRL would tell the hub which kind of model is trained, and how."""


class SoftDPOTrainer(_SoftTrainer, DPOTrainer):
    """`DPOTrainer` for `sigmoid` and `ipo` with soft labels and precomputed reference log-probs."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in COLUMNS if name not in self._signature_columns]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if {"ref_chosen_logps", "ref_rejected_logps"} <= set(dataset.column_names):
            return dataset
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """The reference's log-probs of a batch; soft labels are no input of a model."""
        return super().compute_ref_log_probs(model, _without_labels(inputs))

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        seen, model_inputs = _Recorded(model), _without_labels(inputs)
        found = super()._compute_loss(seen, model_inputs, return_outputs)
        mask = inputs["completion_mask"]
        policy = seen.output.log_probs[:, -(mask.size(1) - 1) :].sum(dim=1).chunk(2)
        tokens = mask.sum(dim=1).chunk(2)
        reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        change, shown = self.soft_labels.change(
            BatchLogps(*policy, *reference, *tokens),
            inputs[WEIGHT],
            inputs.get(ANNOTATOR),
            self.accelerator.gather,
        )
        for name, value in shown.items():
            self._metrics["train" if self.model.training else "eval"][name].append(value)
        return (found[0] + change, found[1]) if return_outputs else found + change


class SoftCPOTrainer(_SoftTrainer, CPOTrainer):
    """`CPOTrainer` for `sigmoid` (CPO) and `simpo` with soft labels."""

    _batch: dict[str, Any]
    _shown: dict[str, float]

    def get_batch_loss_metrics(
        self, model: Any, batch: dict[str, Any], train_eval: str = "train"
    ) -> tuple[Tensor, dict[str, Any]]:
        """The loss of a batch and its metrics, among them those of w."""
        self._batch = batch  # for `cpo_loss`, which the parent calls
        loss, metrics = super().get_batch_loss_metrics(model, _without_labels(batch), train_eval)
        prefix = "eval_" if train_eval == "eval" else ""
        return loss, metrics | {f"{prefix}{name}": v for name, v in self._shown.items()}

    def cpo_loss(
        self, policy_chosen_logps: Tensor, policy_rejected_logps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of the pairs, [n], and both rewards; see `CPOTrainer`."""
        losses, *rewards = super().cpo_loss(policy_chosen_logps, policy_rejected_logps)
        batch = self._batch
        if self.loss_type == "simpo":  # these are means per token already
            tokens = [torch.ones_like(policy_chosen_logps)] * 2
        else:
            labels = batch["chosen_labels"], batch["rejected_labels"]
            tokens = [(label[:, 1:] != -100).sum(dim=1) for label in labels]
        logps = BatchLogps(policy_chosen_logps, policy_rejected_logps, None, None, *tokens)
        change, self._shown = self.soft_labels.change(
            logps,
            batch[WEIGHT].to(losses.device),
            batch[ANNOTATOR].to(losses.device) if ANNOTATOR in batch else None,
            self.accelerator.gather,
        )
        return (losses + change, *rewards)


def _without_labels(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in COLUMNS}
