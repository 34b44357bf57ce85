"""Many command lines of Python programs in one process, one after the other: a process for each would take minutes."""

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Answer:
    """What a program said, and the status it ended with."""

    status: int
    out: str
    err: str


def answers(lines: Sequence[Sequence[str]], folder: Path, *, without: str = "") -> list[Answer]:
    """Run programs, as `["-m", MODULE, ...]` or `[FILE, ...]`, in a folder and a process that lacks one package."""
    environment = {name: value for name, value in os.environ.items() if name != "GDSOLVER_DATA"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, __file__, json.dumps([list(line) for line in lines]), without]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [Answer(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def answer(line: list[str]) -> Answer:
    """Run one program as the interpreter would: its folder comes first on the path, its arguments are the process's."""
    out, err = io.StringIO(), io.StringIO()
    path, environment, status = list(sys.path), dict(os.environ), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(line)
        except SystemExit as end:
            said = not (end.code is None or isinstance(end.code, int))
            print(end.code, file=err) if said else None
            status = 1 if said else int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    return Answer(status, out.getvalue(), err.getvalue())


def run(line: list[str]) -> None:
    """Run a module or a file."""
    if line[0] == "-m":
        sys.argv = line[1:]
        runpy.run_module(line[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = list(line)
    sys.path[0] = str(Path(line[0]).parent)
    runpy.run_path(line[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[2]:
        sys.modules[sys.argv[2]] = None  # type: ignore[assignment]  # from here on it cannot be imported
    print(json.dumps([asdict(answer(line)) for line in json.loads(sys.argv[1])]))
