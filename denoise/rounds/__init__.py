"""The rounds that alternate training and inference: full EM."""

from denoise.rounds.run import RunResult, run
from denoise.rounds.settings import RunSettings

__all__ = ["RunResult", "RunSettings", "run"]
