"""What can be set of the rounds, beside the settings of the stages they drive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from denoise.errors import Fault, raise_any
from denoise.losses import NEEDS_REFERENCE
from denoise.scorers.settings import ScoreSettings
from denoise.stages.settings import EMSettings
from denoise.trainers.settings import TrainSettings

_OF_SCORE = frozenset(
    (
        "backend",
        "dtype",
        "device",
        "batch_tokens",
        "tensor_parallel",
        "pipeline_parallel",
        "data_parallel",
        "gpu_memory_utilization",
        "engine_args",
        "cluster",
    )
)
_OF_EM = frozenset(("eta0", "prior", "pool", "calibrate"))
_OF_ALL = frozenset(("loss", "beta", "gamma", "max_length", "trust_remote_code"))


@dataclass(frozen=True)
class RunSettings:
    """Settings of `run`.

    rounds: at most so many; they stop where the weights move by less than `tolerance` on average.
    folds: policies a round, each trained without the fold that it scores; 1 has no such care.
    warm_start: a fold's policy goes on from its own of the round before, and the last policy from
    the mean of the folds' weights; else each training starts from the model.
    train_command: another trainer, with {data}, {model} and {out}; `train_format` is what it reads.
    keep_policies: keep each fold's policy after it has scored.
    stages: the settings of the stages by their own names (`ScoreSettings`, `EMSettings`,
    `TrainSettings`); `split` sorts them.

    Raises:
        InputError: a setting is out of range, or there is none of that name.
    """

    rounds: int = 3
    folds: int = 3
    warm_start: bool = True
    tolerance: float = 0.01
    seed: int = 0
    train_command: str | None = None
    train_format: str = "jsonl"
    keep_policies: bool = False
    stages: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ranges = {
            "rounds": (self.rounds >= 1, "give 1 or more"),
            "folds": (self.folds >= 1, "give 1 or more; 3 is usual"),
            "tolerance": (0 <= self.tolerance < 1, "give 0 to 1"),
            "seed": (self.seed >= 0, "give 0 or more"),
        }
        raise_any(
            Fault(f"{name} is out of range", found=getattr(self, name), fix=fix)
            for name, (good, fix) in ranges.items()
            if not good
        )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RunSettings:
        """Settings from one flat mapping: what is none of the run's own belongs to a stage."""
        own = {f.name for f in fields(cls)} - {"stages"}
        of_stages = {name: value for name, value in options.items() if name not in own}
        of_train = {f.name for f in fields(TrainSettings)}
        known = own | of_train | _OF_SCORE | _OF_EM | _OF_ALL
        unknown = sorted(of_stages.keys() - known)
        raise_any(Fault("there is no such setting of the rounds", found=name) for name in unknown)
        return cls(**{n: v for n, v in options.items() if n in own}, stages=of_stages)

    @property
    def loss(self) -> str:
        """The loss of training and of the margins."""
        return self.stages.get("loss", "dpo")

    @property
    def needs_reference(self) -> bool:
        """Whether the loss has a reference model."""
        return self.loss in NEEDS_REFERENCE

    def score(self) -> ScoreSettings:
        """How a fold's policy is scored: the ids that its trainer saw, cut as it cuts them."""
        given = self._given(_OF_SCORE | {"max_length", "trust_remote_code"})
        rule = "trl-dpo" if self.needs_reference else "trl-cpo"
        return ScoreSettings(tokenize=rule, truncate="keep-start", **given)

    def em(self) -> dict[str, Any]:
        """The fields of `EMSettings`, of the evidence apart."""
        return self._given(_OF_EM)

    def margins(self) -> dict[str, Any]:
        """The fields of `EMSettings` that make margins of log-probs."""
        return {"loss": self.loss, **self._given({"beta", "gamma"})}

    def train(self) -> TrainSettings:
        """How a policy is trained."""
        given = self._given({f.name for f in fields(TrainSettings)} - {"seed"})
        return TrainSettings(seed=self.seed, **given)

    def check(self) -> None:
        """Refuse settings of the stages that are out of range, before any work is done.

        Raises:
            InputError: a stage refuses its settings.
        """
        self.score()
        self.train()
        EMSettings(**self.em(), **self.margins())

    def _given(self, names: set[str] | frozenset[str]) -> dict[str, Any]:
        return {name: value for name, value in self.stages.items() if name in names}
