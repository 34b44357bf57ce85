"""Everything beside the user's training loop: samples, stalls, the pool, adoption; and the laboratory.

Users import from `gdsolver`, which makes sure that `trainer` is this package.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.objectives import Objective
    from shared.result import Candidate
    from trainer.adapters.jsonl import JsonLines
    from trainer.adapters.tensorboard import Scalars
    from trainer.adoption.suspicions import Suspicion
    from trainer.errors import (
        CaptureError,
        DataError,
        PoolRefusedError,
        PoolUnavailableError,
        ResultUnavailableError,
        TrainerError,
        WaitTimeoutError,
    )
    from trainer.events import Event, Summary
    from trainer.pool.client import SolverClient
    from trainer.pool.named_constraints import (
        Grid,
        Levels,
        MaxNonzero,
        MinAccuracy,
        Monotone,
        MovementCost,
        NonNegative,
        PrecisionFloor,
        RateGap,
        RecallFloor,
    )
    from trainer.stalls.detector import StallDetector
    from trainer.tunneller import Tunneller

__all__ = [
    "Candidate",
    "CaptureError",
    "DataError",
    "Event",
    "Grid",
    "JsonLines",
    "Levels",
    "MaxNonzero",
    "MinAccuracy",
    "Monotone",
    "MovementCost",
    "NonNegative",
    "Objective",
    "PoolRefusedError",
    "PoolUnavailableError",
    "PrecisionFloor",
    "RateGap",
    "RecallFloor",
    "ResultUnavailableError",
    "Scalars",
    "SolverClient",
    "StallDetector",
    "Summary",
    "Suspicion",
    "TrainerError",
    "Tunneller",
    "WaitTimeoutError",
]

_CONSTRAINTS = (
    *("Grid", "Levels", "MaxNonzero", "MinAccuracy", "Monotone", "MovementCost", "NonNegative"),
    *("PrecisionFloor", "RateGap", "RecallFloor"),
)
_HOMES = {
    "Candidate": "shared.result",
    "JsonLines": "trainer.adapters.jsonl",
    "Scalars": "trainer.adapters.tensorboard",
    "Objective": "shared.objectives",
    "SolverClient": "trainer.pool.client",
    **dict.fromkeys(("Event", "Summary"), "trainer.events"),
    **dict.fromkeys([name for name in __all__ if name.endswith("Error")], "trainer.errors"),
    **dict.fromkeys(_CONSTRAINTS, "trainer.pool.named_constraints"),
    "StallDetector": "trainer.stalls.detector",
    "Suspicion": "trainer.adoption.suspicions",
    "Tunneller": "trainer.tunneller",
}
CALLBACKS = {"HuggingFaceCallback": "huggingface", "LightningCallback": "lightning", "SkorchCallback": "skorch"}
"""Public names that need an extra, which is called as their module is; `import *` leaves them out."""


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that the client alone does not load torch."""
    if name in CALLBACKS:
        return importlib.import_module(f"trainer.adapters.{CALLBACKS[name]}").TunnelCallback
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _check_shared(home: Path) -> None:
    """Raise ImportError if `import shared` would find somebody else's package (`gdsolver` checks more thoroughly)."""
    spec = importlib.util.find_spec("shared")
    found = Path(spec.origin).resolve() if spec and spec.origin else None
    if found is None or found.parent.parent != home or not (found.parent / "snapshot.py").exists():
        raise ImportError(
            f"`import shared` finds {found}, which is not GDSolver's (in {home}). Rename or uninstall the other "
            "`shared`, or give GDSolver a virtual environment of its own."
        )


_check_shared(Path(__file__).resolve().parent.parent)
