"""What can be set of training, with ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from denoise.errors import Fault, raise_any
from denoise.losses import BETA, GAMMA, LOSSES
from denoise.plain import without_secrets

OBJECTIVES = ("mixture", "gibbs")
METHODS = ("weighted", "online", "smoothing", "rdpo")
BETTER = {"dpo": "mixture", "ipo": "mixture", "simpo": "gibbs", "cpo": "gibbs"}
"""The objective that left the better policy, by loss (BENCHMARKS.md, "Does it help the policy?");
for DPO they are one and the same."""
SCHEDULERS = (
    *("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"),
    "cosine_with_min_lr",
)
"""Those of transformers that need no step of their own in the code; their further arguments go
through `trainer_args` (`lr_scheduler_kwargs`)."""

_OURS = {
    "loss_type": "loss",
    "loss_weights": "loss",
    "beta": "beta",
    "simpo_gamma": "gamma",
    "label_smoothing": "flip_rate",
    "learning_rate": "learning_rate",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "max_length": "max_length",
    "seed": "seed",
    "bf16": "dtype",
    "gradient_checkpointing": "gradient_checkpointing",
    "save_steps": "save_steps",
    "warmup_steps": "warmup",
    "lr_scheduler_type": "scheduler",
    "weight_decay": "weight_decay",
}
_NOT_OURS = frozenset(
    (
        "output_dir",
        "precompute_ref_log_probs",
        "remove_unused_columns",
        "ld_alpha",
        "f_divergence_type",
        "use_weighting",
        "alpha",
        "sync_ref_model",
        "save_strategy",
        "save_total_limit",
        "save_only_model",
        "trust_remote_code",
        "model_init_kwargs",
        "cpo_alpha",
    )
)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `train`; what is None takes the default of the loss, or of TRL.

    loss: "dpo", "ipo" (TRL's `DPOTrainer`), "simpo" or "cpo" (its `CPOTrainer`), with `beta` and
    `gamma`. objective: "mixture", w·L(y_w ≻ y_l) + (1−w)·L(y_l ≻ y_w), or "gibbs", RE-PO's Eq. 5;
    where not given, by the loss (`BETTER`), and what the method is defined by.

    method: where w comes from. "weighted": the column `weight`. "online": RE-PO's Algorithm 1, from
    the policy as it is, η starting at `eta0` and moving by `alpha` (Eq. 7). "smoothing":
    1 − `flip_rate` for all (cDPO). "rdpo": (1 − ε)/(1 − 2ε), ε being `flip_rate` (Chowdhury et al.,
    arXiv 2403.00409), which is more than 1.

    epochs, or `max_steps`, of batches of `batch_size` rows a device, `gradient_accumulation` of
    them a step; `warmup` is a number of steps, or below 1 a share of all. `lora_r` trains an
    adapter of that rank in place of all weights, or the model's own where that is an adapter
    already; `lora_targets` are names of modules, all linear ones where not given. `save_steps`: how
    many a kill may cost, a twentieth of all where not given. trainer_args: any other argument of
    `DPOConfig` or `CPOConfig`.

    Raises:
        InputError: a setting is out of range, or means nothing to the method or loss.
    """

    loss: str = "dpo"
    objective: str | None = None
    beta: float | None = None
    gamma: float | None = None
    method: str = "weighted"
    flip_rate: float | None = None
    eta0: float = 0.9
    alpha: float = 0.1
    learning_rate: float | None = None
    epochs: float = 1.0
    max_steps: int = -1
    batch_size: int = 8
    gradient_accumulation: int = 1
    warmup: float = 0.0
    scheduler: str = "linear"
    weight_decay: float = 0.0
    max_length: int = 1024
    lora_r: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ()
    dtype: str = "auto"
    gradient_checkpointing: bool = False
    save_steps: int | None = None
    seed: int = 0
    trust_remote_code: bool = False
    trainer_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wants_rate = self.method in ("smoothing", "rdpo")
        rate = self.flip_rate
        positive = "give a number above 0"
        ranges = {
            "loss": (self.loss in LOSSES, f"it is one of {', '.join(LOSSES)}"),
            "objective": (
                self.objective in (None, *OBJECTIVES),
                f"give {' or '.join(OBJECTIVES)}",
            ),
            "method": (self.method in METHODS, f"it is one of {', '.join(METHODS)}"),
            "beta": (_above(self.beta, 0.0), positive),
            "gamma": (self.gamma is None or 0 <= self.gamma < math.inf, "give 0 or more"),
            "eta0": (0 < self.eta0 < 1, "give a number between 0 and 1"),
            "alpha": (0 < self.alpha <= 1, "give a number above 0, at most 1"),
            "learning_rate": (_above(self.learning_rate, 0.0), positive),
            "epochs": (_above(self.epochs, 0.0), positive),
            "max_steps": (self.max_steps == -1 or self.max_steps >= 1, "give 1 or more"),
            "batch_size": (self.batch_size >= 1, "give 1 or more"),
            "gradient_accumulation": (self.gradient_accumulation >= 1, "give 1 or more"),
            "warmup": (0 <= self.warmup < math.inf, "give 0 or more"),
            "scheduler": (self.scheduler in SCHEDULERS, f"it is one of {', '.join(SCHEDULERS)}"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "give 0 or more"),
            "max_length": (self.max_length >= 2, "give 2 or more"),
            "lora_r": (_above(self.lora_r, 0), "give 1 or more"),
            "lora_alpha": (_above(self.lora_alpha, 0), "give 1 or more"),
            "lora_dropout": (0 <= self.lora_dropout < 1, "give 0 or more, below 1"),
            "dtype": (self.dtype in ("auto", "float32", "bfloat16"), "give float32 or bfloat16"),
            "save_steps": (_above(self.save_steps, 0), "give 1 or more"),
            "seed": (self.seed >= 0, "give 0 or more"),
            "flip_rate": (rate is None or 0 <= rate < 0.5, "give 0 to 0.5"),
        }
        faults = [
            Fault(f"{name} is out of range", found=getattr(self, name), fix=fix)
            for name, (good, fix) in ranges.items()
            if not good
        ]
        if wants_rate and rate is None:
            faults.append(Fault(f"{self.method} needs the share of wrong labels", fix="give it"))
        if not wants_rate and rate is not None:
            faults.append(Fault(f"flip_rate means nothing to {self.method}", fix="leave it out"))
        if self.gamma is not None and self.loss != "simpo":
            faults.append(
                Fault(f"gamma means nothing to the loss {self.loss}", fix="it is SimPO's")
            )
        of_lora = {"lora_alpha": None, "lora_dropout": 0.0, "lora_targets": ()}
        faults += [
            Fault(f"{name} means nothing without lora_r", fix="give both")
            for name, default in of_lora.items()
            if self.lora_r is None and getattr(self, name) != default
        ]
        for name in self.trainer_args:
            if name in _OURS:
                fix = f"give {_OURS[name]}"
                faults.append(Fault("this argument has a setting of its own", found=name, fix=fix))
            if name in _NOT_OURS:
                faults.append(Fault("denoise sets this argument itself", found=name))
        raise_any(faults)

    @property
    def in_dpo_trainer(self) -> bool:
        """Whether TRL's `DPOTrainer` trains it, and not its `CPOTrainer`."""
        return self.loss in ("dpo", "ipo")

    @property
    def trains_on(self) -> str:
        """The objective, default filled in."""
        of_method = {"online": "gibbs", "smoothing": "mixture", "rdpo": "mixture"}
        by_default = of_method.get(self.method, BETTER[self.loss])
        return by_default if self.objective is None else self.objective

    @property
    def constants(self) -> tuple[float, float]:
        """β and γ, defaults filled in."""
        beta = BETA[self.loss] if self.beta is None else self.beta
        return beta, GAMMA if self.gamma is None else self.gamma

    def of_the_policy(self) -> dict[str, Any]:
        """What the policy depends on, for its provenance: no secret, nor how often it is saved."""
        settings = asdict(self)
        settings["trainer_args"] = without_secrets(self.trainer_args)
        del settings["save_steps"]
        beta, gamma = self.constants
        filled = {"objective": self.trains_on, "beta": beta}
        return settings | filled | {"gamma": gamma if self.loss == "simpo" else None}


def _above(value: float | None, least: float) -> bool:
    return value is None or least < value < math.inf
