"""What importing the trainer costs and guards against."""

import subprocess
import sys
from pathlib import Path

import pytest

import trainer

HOME = Path(trainer.__file__).parent.parent


def python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    setting = ":".join(map(str, (*path, HOME)))
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env={"PYTHONPATH": setting}, check=False
    )


def test_the_client_alone_does_not_load_torch() -> None:
    """Scripts that only submit and watch jobs start fast."""
    code = "import sys; from trainer import SolverClient; print('torch' in sys.modules)"
    assert python(code).stdout.strip() == "False"


def test_a_foreign_shared_is_refused(tmp_path: Path) -> None:
    """Another package named `shared` ahead on the path is told apart, with what to do."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text("")
    done = python("import trainer", tmp_path)
    assert done.returncode == 1
    assert "is not GDSolver's" in done.stderr


@pytest.mark.parametrize("name", trainer.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Names are loaded when asked for; a wrong one is an AttributeError."""
    assert getattr(trainer, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute"):
        trainer.nothing  # noqa: B018
