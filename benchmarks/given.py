"""What a benchmark is given on its command line, looked at before anything runs: a mistake ends it in one line.

A benchmark that finds nothing to do, and says nothing, passes for one that has measured; its empty table for results.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

Thing = TypeVar("Thing")


def snapshots_in(folder: Path, *, only: Sequence[str] = (), below: bool = False) -> list[Path]:
    """The snapshots of a folder by name (`below`: of its subfolders, too), or those whose names contain one of `only`.

    Ends the program where there is none.
    """
    found = sorted(folder.rglob("*.safetensors") if below else folder.glob("*.safetensors"))
    if not found:
        sys.exit(f"{folder} holds no snapshots (*.safetensors)")
    return chosen(found, only, lambda path: path.stem, f"snapshot in {folder}")


def bytes_of(path: Path) -> bytes:
    """The bytes of a file; ends the program where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")


def chosen(things: Sequence[Thing], parts: Sequence[str], name: Callable[[Thing], str], what: str) -> list[Thing]:
    """The things whose name contains one of the parts, all without parts; ends the program at a part in no name."""
    for part in parts:
        if not any(part in name(thing) for thing in things):
            sys.exit(f"there is no {what} with {part!r} in its name; there are: {'; '.join(map(name, things))}")
    return [thing for thing in things if not parts or any(part in name(thing) for part in parts)]


def known(asked: Iterable[str], names: Sequence[str], what: str) -> None:
    """End the program at a name that is none of these."""
    for name in asked:
        if name not in names:
            sys.exit(f"there is no {what} {name!r}; there are: {'; '.join(names)}")


def usage(doc: str, *names: str) -> argparse.Namespace:
    """The positional arguments of a program that others start; a wrong number of them ends it with its usage."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(name)
    return parser.parse_args()
