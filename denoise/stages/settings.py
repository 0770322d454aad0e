"""What can be set of an EM run, with ranges."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Any

from denoise.errors import Fault, raise_any, refuse

_PAPER = ("schedule", "alpha", "batch_size", "epochs", "seed")
_AUTO = ("pool", "calibrate", "prior")


@dataclass(frozen=True)
class EMSettings:
    """Settings of `em`; what is None takes the default of the loss or the machine.

    The evidence of preference votes is log-probs by `loss` ("dpo") with `beta`, `gamma` (SimPO) and
    `ipo_sum`, or rewards, or the user's `margin_column` (nats) or `prob_column`.

    mode: "auto", or "paper" for RE-PO as published. Of auto mode: `pool` lets votes on one pair
    share their truth, `calibrate` fits the temperature of the margins, `prior` of the
    reliabilities is "auto" (learned), "off" or a pair (a, b) of a Beta distribution. Of paper mode:
    `schedule` "full" (Eq. 6) or "ema" (Eq. 7) with `alpha`, `batch_size`, `epochs`, `seed`.

    eta0: reliability before the first step, and what the learned prior starts from. EM stops where
    no reliability moves by more than `tolerance`, at the latest after `max_iterations`.

    Raises:
        InputError: a setting is out of range, or means nothing in this mode.
    """

    loss: str | None = None
    beta: float | None = None
    gamma: float | None = None
    ipo_sum: bool = False
    margin_column: str | None = None
    prob_column: str | None = None
    mode: str = "auto"
    pool: bool = True
    calibrate: bool = True
    prior: str | tuple[float, float] = "auto"
    schedule: str = "full"
    eta0: float = 0.9
    alpha: float = 0.1
    batch_size: int = 64
    epochs: int = 1
    seed: int = 0
    tolerance: float = 1e-6
    max_iterations: int = 2000
    threads: int | None = None

    def __post_init__(self) -> None:
        prior = self.prior
        known_prior = prior in ("auto", "off") or (
            isinstance(prior, tuple)
            and len(prior) == 2
            and all(math.isfinite(x) and x > 0 for x in prior)
        )
        ranges = {
            "mode": (self.mode in ("auto", "paper"), "give auto or paper"),
            "prior": (known_prior, "give auto, off, or two numbers above 0, like 9,1"),
            "schedule": (self.schedule in ("full", "ema"), "give full or ema"),
            "eta0": (0 < self.eta0 < 1, "give a number between 0 and 1"),
            "alpha": (0 < self.alpha <= 1, "give a number above 0, at most 1"),
            "batch_size": (self.batch_size >= 1, "give 1 or more"),
            "epochs": (self.epochs >= 1, "give 1 or more"),
            "seed": (self.seed >= 0, "give 0 or more"),
            "tolerance": (0 <= self.tolerance < math.inf, "give 0 or more"),
            "max_iterations": (self.max_iterations >= 1, "give 1 or more"),
            "threads": (self.threads is None or self.threads >= 1, "give 1 or more"),
        }
        faults = [
            Fault(f"{name} is out of range", found=getattr(self, name), fix=fix)
            for name, (good, fix) in ranges.items()
            if not good
        ]
        other = _PAPER if self.mode == "auto" else _AUTO
        faults += [
            Fault(f"{name} means nothing in {self.mode} mode", fix="leave it out")
            for name in other
            if getattr(self, name) != _DEFAULTS[name]
        ]
        raise_any(faults)

    @property
    def n_threads(self) -> int:
        """Threads to use: as many as the process may, unless told."""
        if self.threads:
            return self.threads
        if hasattr(os, "sched_getaffinity"):  # Linux
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def check_one_evidence(self, scores: object) -> None:
        """Refuse more than one of scores, a margin and a probability column."""
        given = (scores, self.margin_column, self.prob_column)
        if sum(each is not None for each in given) > 1:
            problem = "scores, a margin and a probability column exclude each other"
            refuse(problem, fix="give only one")

    def of_the_fit(self) -> dict[str, Any]:
        """What the result depends on, for its provenance; the evidence's own settings apart."""
        named = ["mode", "eta0"]
        if self.mode == "auto":
            named += [*_AUTO, "tolerance", "max_iterations"]
        elif self.schedule == "ema":
            named += _PAPER
        else:
            named += ["schedule", "tolerance", "max_iterations"]
        values = {name: getattr(self, name) for name in named}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


_DEFAULTS = {field.name: field.default for field in fields(EMSettings)}
