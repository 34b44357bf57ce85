"""The import rules: who may import what, what stays unloaded, and what a foreign package of our name leads to."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("shared", "trainer", "solver_service")
HOMES = {
    "pyscipopt": ("solver_service/milp/backends/scip.py",),
    "highspy": ("solver_service/milp/backends/highs.py",),
    "celery": ("solver_service/worker/", "solver_service/queue.py"),
    "redis": ("solver_service/store/", "solver_service/pool/own_redis.py"),
    "fastapi": ("solver_service/gateway/",),
    "prometheus_client": ("solver_service/gateway/",),
    "torch": ("trainer/",),
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def run(code: str, *, first: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, in a folder that is first on its path; ours comes after it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(first), str(ROOT)])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment, cwd=first)


def test_import_linter_is_clean() -> None:
    """The contracts in pyproject.toml hold, transitively."""
    done = run("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("vendor", HOMES)
def test_each_vendor_is_imported_in_its_home_alone(vendor: str) -> None:
    """A vendor's library is imported only where its errors and types are translated."""
    strangers = [
        name
        for path in sources()
        if vendor in imported(path) and not (name := str(path.relative_to(ROOT))).startswith(HOMES[vendor])
    ]
    assert strangers == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("solver_service.gateway.app", "torch pyscipopt highspy trainer"),
        ("solver_service.worker.app", "torch trainer fastapi"),
        ("trainer", "celery redis fastapi pyscipopt highspy solver_service"),
        ("trainer.lab.cli", "celery redis fastapi pyscipopt highspy solver_service"),
        ("shared.contracts", "torch celery redis fastapi pyscipopt highspy httpx scipy"),
    ],
)
def test_importing_a_part_leaves_the_others_unloaded(module: str, unwanted: str) -> None:
    """A gateway needs no torch or solver, a worker no torch, a trainer nothing of the service."""
    done = run(f"import sys, {module}; print(sorted(set('{unwanted}'.split()) & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", ["trainer", "shared"])
@pytest.mark.parametrize("command", ["main", "pool"])
def test_a_foreign_package_of_our_name_is_reported(tmp_path: Path, name: str, command: str) -> None:
    """If somebody else's `trainer` or `shared` would be imported in place of ours, the commands say so."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = run(f"import gdsolver; gdsolver.{command}()", first=tmp_path)
    assert done.returncode != 0
    assert f"`import {name}` finds {tmp_path / name}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_foreign_shared_is_reported_by_the_library(tmp_path: Path) -> None:
    """`import trainer` with somebody else's `shared` first on the path says whose it is."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text("")
    done = run("import trainer", first=tmp_path)
    assert done.returncode != 0
    assert f"`import shared` finds {tmp_path / 'shared'}" in done.stderr


def test_a_distribution_that_shares_a_package_is_reported(tmp_path: Path) -> None:
    """Another distribution that installs files into `trainer` is named, because the two are mixed."""
    info = tmp_path / "other_trainer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-trainer\nVersion: 1.0\n")
    (info / "RECORD").write_text("trainer/extra.py,,\n")
    (info / "top_level.txt").write_text("trainer\n")
    done = run("import gdsolver; gdsolver.main()", first=tmp_path)
    assert done.returncode != 0
    assert "other-trainer also installs a package named `trainer`" in done.stderr


UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "np.load", "numpy.load", "torch.jit.load"}


def test_nothing_that_is_shipped_can_run_what_it_reads() -> None:
    """No module of ours imports pickle or its like, or calls what unpickles or evaluates what it is given."""
    found = []
    for path in [*sources(), ROOT / "gdsolver.py"]:
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        if bad := (imported(path) & UNSAFE_MODULES) | (calls & UNSAFE_CALLS):
            found.append(f"{path.relative_to(ROOT)}: {sorted(bad)}")
    assert found == []


def test_every_module_says_why_it_exists() -> None:
    """Each module begins with a sentence."""
    assert [str(path) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))] == []
