"""denoise: finds the wrong labels in preference data and writes a weighted dataset.

The stages are functions on tables, and the commands are thin over them::

    from denoise import import_data, score, em, export, train, run, audit
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "DenoiseError",
    "InputError",
    "RunError",
    "audit",
    "em",
    "em_labels",
    "export",
    "import_data",
    "run",
    "score",
    "train",
]

_HOME = {
    "import_data": "denoise.importers",
    "score": "denoise.stages.score",
    "em": "denoise.stages.em",
    "em_labels": "denoise.stages.labels",
    "export": "denoise.stages.export",
    "audit": "denoise.stages.audit",
    "train": "denoise.stages.train",
    "run": "denoise.rounds",
    "DenoiseError": "denoise.errors",
    "InputError": "denoise.errors",
    "RunError": "denoise.errors",
}

if TYPE_CHECKING:
    from denoise.errors import DenoiseError, InputError, RunError
    from denoise.importers import import_data
    from denoise.rounds import run
    from denoise.stages.audit import audit
    from denoise.stages.em import em
    from denoise.stages.export import export
    from denoise.stages.labels import em_labels
    from denoise.stages.score import score
    from denoise.stages.train import train


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    # Lazy, so that `denoise --help` does not pay for polars, numba or torch.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'denoise' has no attribute {name!r}")
