"""What the documents type at a shell of containers works as it stands, in a Docker engine and a fresh copy of the tree.

The project's name, the port and, where the engine has stand-ins, the base images are the test's. Which lines are typed,
and why some are not: tests/architecture/typing_rules.py.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.typing_rules import Where, typed_at
from tests.conftest import ROOT
from tests.e2e.composed import Pool, missing_engine

BLOCKS = typed_at(Where.CONTAINERS)
WHEELS = os.environ.get("GDSOLVER_WHEELS")

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Path, Pool]]:
    """A copy of what git keeps, and a project of its own; nothing of it is left."""
    if reason := missing_engine():
        pytest.skip(reason)
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    if WHEELS:
        (tmp_path / "wheels").symlink_to(WHEELS)
    pool = Pool()
    try:
        yield tmp_path, pool
    finally:
        pool.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--rmi", "local")
    assert pool.left() == []


@pytest.mark.parametrize("page", sorted({block.page for block, _ in BLOCKS}))
def test_a_page_can_be_typed_from_top_to_bottom(page: str, desk: tuple[Path, Pool]) -> None:
    """Each block in a shell of its own, as in a terminal of another day: no line ends in an error."""
    folder, pool = desk
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GDSOLVER_")}
    environment |= pool.bases | {"COMPOSE_PROJECT_NAME": pool.project, "GDSOLVER_PORT": str(pool.port)}
    environment |= {"GDSOLVER_WHEELS": WHEELS} if WHEELS else {}
    for block, lines in BLOCKS:
        if block.page != page or ("trainer" in block.text and not WHEELS):  # CUDA's torch is gigabytes
            continue
        done = subprocess.run(
            ["bash", "-c", "\n".join(["set -euo pipefail", *(meant(line, pool) for line in lines)])],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        assert '"code":' not in done.stdout, done.stdout  # at a refusal curl ends without an error


def meant(line: str, pool: Pool) -> str:
    """The line with the test's port and fewer epochs; what never ends is looked at for a while."""
    line = line.replace("127.0.0.1:8000", f"127.0.0.1:{pool.port}")
    line = line.replace("compare digits", "compare digits --seeds 1 --epochs 5")
    return f"timeout 3 {line.partition(' #')[0]} || [ $? = 124 ]" if re.search(r"\blogs -f\b", line) else line
