"""The public face: `from gdsolver import Tunneller, SolverClient`, and the start of both commands.

Everything begins by making sure that `trainer`, `solver_service` and `shared` are GDSolver's own: common names.
"""

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer import (
        Candidate,
        CaptureError,
        DataError,
        Event,
        Grid,
        JsonLines,
        Levels,
        MaxNonzero,
        MinAccuracy,
        Monotone,
        MovementCost,
        NonNegative,
        Objective,
        PoolRefusedError,
        PoolUnavailableError,
        PrecisionFloor,
        RateGap,
        RecallFloor,
        ResultUnavailableError,
        Scalars,
        SolverClient,
        StallDetector,
        Summary,
        Suspicion,
        TrainerError,
        Tunneller,
        WaitTimeoutError,
    )
    from trainer.adapters import huggingface, lightning, skorch

    HuggingFaceCallback = huggingface.TunnelCallback
    LightningCallback = lightning.TunnelCallback
    SkorchCallback = skorch.TunnelCallback

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

CALLBACKS = {"HuggingFaceCallback": "huggingface", "LightningCallback": "lightning", "SkorchCallback": "skorch"}
"""Public names too, each with the extra that it needs: `import *` does without them."""
PACKAGES = ("shared", "trainer", "solver_service")
_HOME = Path(__file__).resolve().parent


class ForeignPackageError(ImportError):
    """Another distribution's package stands where one of GDSolver's should be, or is mixed into it."""


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for; ForeignPackageError, with the cure, if it cannot be ours."""
    if name not in (*__all__, *CALLBACKS):
        raise AttributeError(f"module 'gdsolver' has no attribute {name!r}")
    check_packages()
    try:
        return getattr(importlib.import_module("trainer"), name)
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise
        raise ImportError(f"gdsolver.{name}: {_missing(error, CALLBACKS.get(name, 'trainer'))}") from error


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted([*__all__, *CALLBACKS])


def _is_ours(error: ModuleNotFoundError) -> bool:
    return error.name is None or error.name.split(".")[0] in PACKAGES


def _missing(error: ModuleNotFoundError, extra: str) -> str:
    package = (error.name or "").split(".")[0]
    return f"the package `{package}` is missing; install it with: pip install 'gdsolver[{extra}]'"


def check_packages() -> None:
    """Raise ForeignPackageError if one of the three package names leads, or also leads, to somebody else's code."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ForeignPackageError(f"GDSolver's package `{name}` is missing; install gdsolver again")
        found = Path(spec.origin).resolve() if spec.origin else None
        if found is None or found.parent.parent != _HOME or not (found.parent / "py.typed").exists():
            where = found or list(spec.submodule_search_locations or [])
            raise ForeignPackageError(
                f"`import {name}` finds {where}, which is not GDSolver's (in {_HOME}). Rename or uninstall "
                f"the other `{name}`, or give GDSolver a virtual environment of its own."
            )
    owners = importlib.metadata.packages_distributions()
    for name in PACKAGES:
        others = sorted({owner for owner in owners.get(name, []) if owner.lower() != "gdsolver"})
        if others:
            raise ForeignPackageError(
                f"the distribution {', '.join(others)} also installs a package named `{name}`: its files are mixed "
                "with GDSolver's. Uninstall it, reinstall gdsolver, and keep the two in separate environments."
            )


def main() -> None:
    """Run `gdsolver`, the trainer's command."""
    _start("trainer.lab.cli", "trainer")


def pool() -> None:
    """Run `gdsolver-pool`, the service's command."""
    _start("solver_service.cli", "gateway,worker")


def _start(module: str, extra: str) -> None:
    _open_what_is_closed()
    try:
        check_packages()
        command = importlib.import_module(module).app
    except ForeignPackageError as error:
        sys.exit(f"gdsolver: {error}")
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise
        sys.exit(f"gdsolver: {_missing(error, extra)}")
    command()


def _open_what_is_closed() -> None:
    """Have the null device for a standard stream that is closed (`>&-`), before anything else gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode))
