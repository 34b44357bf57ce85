"""Users find everything in one place: `gdsolver`, callbacks for others' loops included."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gdsolver
import trainer
from trainer import adapters

HOME = Path(gdsolver.__file__).parent
IMPORT = re.compile(r"^\s*(?:from|import) ((?:trainer|shared|solver_service)\b[\w.]*)", re.MULTILINE)
SHOWN = [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md")), *sorted((HOME / "examples").glob("*.py"))]
OURS = ("examples/make_digits_stall.py",)
"""Writes a file of the repository's own."""


def test_what_users_are_shown_imports_from_gdsolver() -> None:
    """README, documents and examples; only the laboratory's data sets come from elsewhere."""
    assert len(SHOWN) > 20
    found = {(str(path.relative_to(HOME)), name) for path in SHOWN for name in IMPORT.findall(path.read_text())}
    assert {one for one in found if not one[1].startswith("trainer.lab.tasks") and one[0] not in OURS} == set()


def test_both_modules_know_the_same_names() -> None:
    """What `gdsolver` lists is what `trainer` has."""
    assert gdsolver.__all__ == trainer.__all__
    assert gdsolver.CALLBACKS == trainer.CALLBACKS
    assert dir(gdsolver) == sorted([*gdsolver.__all__, *gdsolver.CALLBACKS])


@pytest.mark.parametrize(("name", "module"), gdsolver.CALLBACKS.items())
def test_callbacks_are_there_under_names_of_their_own(name: str, module: str) -> None:
    """Three of one name could not stand beside one another; the old way leads to the same class."""
    pytest.importorskip(f"{adapters.__name__}.{module}", exc_type=ImportError)
    assert getattr(gdsolver, name) is sys.modules[f"{adapters.__name__}.{module}"].TunnelCallback


@pytest.mark.parametrize(
    ("name", "lacks", "extra"),
    [
        ("LightningCallback", "lightning", "lightning"),
        ("HuggingFaceCallback", "transformers", "huggingface"),
        ("SkorchCallback", "skorch", "skorch"),
        ("Tunneller", "torch", "trainer"),
    ],
)
def test_what_a_name_lacks_is_named_with_its_extra(name: str, lacks: str, extra: str) -> None:
    """An import that fails says what to install, as the commands do."""
    code = f"import sys; sys.modules[{lacks!r}] = None; from gdsolver import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME, check=False)
    assert done.returncode == 1
    told = f"gdsolver.{name}: the package `{lacks}` is missing; install it with: pip install 'gdsolver[{extra}]'"
    assert done.stderr.splitlines()[-1] == f"ImportError: {told}"


def test_everything_at_once_needs_no_extra() -> None:
    """`import *` brings what is always there, and listeners are part of it."""
    found: dict[str, object] = {}
    exec("from gdsolver import *", found)
    assert {"JsonLines", "Scalars", "Tunneller"} <= set(found)
    assert set(gdsolver.CALLBACKS).isdisjoint(found)
