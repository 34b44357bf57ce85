"""Pins by hash what each image installs, from pyproject.toml and constraints.txt: `make lock` after either changes."""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

CUDA = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")
"""What an image does without that is given a CPU-only torch; kept in a lock of its own."""

BUILD = "hatchling>=1.25"
"""As `[build-system]` says; a test compares."""

HEAD = "# Made by `make lock`, from pyproject.toml and constraints.txt.\n"


def resolve(uv: str, *arguments: str, found_before: Path, wanted: str = "") -> list[str]:
    """Let uv resolve, for every platform; returns one text for each requirement, its hashes with it.

    Versions that neither constraints.txt nor the extra fixes stay as they are in `found_before`.
    """
    command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--no-build"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--constraint", "constraints.txt"]
    command += ["--output-file", str(found_before), *arguments]
    subprocess.run(command, input=wanted, text=True, check=True, cwd=HERE.parent)
    return re.split(r"^(?=\S)", found_before.read_text().removeprefix(HEAD), flags=re.MULTILINE)[1:]


def write(name: str, requirements: list[str]) -> None:
    """Write one lock."""
    (HERE / f"{name}.lock").write_text(HEAD + "".join(requirements))


def main(uv: str) -> None:
    """Write all locks with this uv."""
    for extra in ("gateway", "worker"):
        write(extra, resolve(uv, "--extra", extra, "pyproject.toml", found_before=HERE / f"{extra}.lock"))
    whole = HERE / "trainer.lock"
    whole.write_text("".join(lock.read_text() for lock in (whole, HERE / "torch.lock") if lock.exists()))
    requirements = resolve(uv, "--extra", "trainer", "pyproject.toml", found_before=whole)
    write("trainer", [text for text in requirements if not CUDA.match(text)])
    write("torch", [text for text in requirements if CUDA.match(text)])
    write("build", resolve(uv, "-", found_before=HERE / "build.lock", wanted=BUILD))


if __name__ == "__main__":
    main(sys.argv[1])
