"""The commands in shell blocks of the documents, taken apart and held against what there is; nothing is run."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from tests.conftest import ROOT

ASSIGNMENT = re.compile(r"\w+=")
TARGET = re.compile(r"^([\w-]+):", re.MULTILINE)


def commands(script: str) -> Iterator[list[str]]:
    """The words of each simple command of a script: comments left out, split at pipes, `&&` and `;`."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                while words and ASSIGNMENT.match(words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def wrong(words: list[str], *, whole: bool = True) -> str | None:
    """What is wrong with a command of ours: an unknown command or option, a value that is refused, a missing file.

    One that is not `whole`, as sentences have them, may leave arguments out and name files of the reader's.
    """
    name, *arguments = words
    if name in ("gdsolver", "gdsolver-pool"):
        return _refused(name, arguments, whole=whole)
    if name == "make":
        goals = [it for it in arguments if "=" not in it]
        unknown = [it for it in goals if it not in TARGET.findall((ROOT / "Makefile").read_text())]
        return f"the Makefile has no {unknown}" if unknown else None
    if name == "python" and arguments and not arguments[0].startswith("-c"):
        return _unknown_script(arguments)
    return None


@cache
def _application(name: str) -> Any:
    from solver_service.cli import app as pool
    from trainer.lab.cli import app as trainer

    return typer.main.get_command({"gdsolver": trainer, "gdsolver-pool": pool}[name])


def _refused(name: str, arguments: list[str], *, whole: bool) -> str | None:
    """What the command's own parser says: every option, value and number of arguments; the command is not run."""
    command, arguments = _application(name), list(arguments)
    while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
        command = command.commands[arguments.pop(0)]
    if hasattr(command, "commands"):
        return None if arguments and arguments[0].startswith("--") else f"{name} has no command {arguments[:1]}"
    try:
        command.make_context(name, arguments)
    except Exception as error:  # click's own, or typer's copy of it: either way a usage error, with its words
        excused = type(error).__name__ == "MissingParameter" or "does not exist" in str(error)
        return f"{name} {command.name}: {error}" if whole or not excused else None
    return None


def _unknown_script(arguments: list[str]) -> str | None:
    """A script or module has to be there; its options have to stand somewhere in the code beside it."""
    path = arguments[1].replace(".", "/") if arguments[0] == "-m" else arguments[0]
    file = next((it for it in (ROOT / path, ROOT / f"{path}.py", ROOT / path / "__main__.py") if it.is_file()), None)
    if file is None:
        return f"no script {path}"
    beside = "".join(it.read_text() for it in file.parent.rglob("*.py"))
    unknown = [it for it in arguments if it.startswith("--") and f'"{it.split("=")[0]}"' not in beside]
    return f"{path} has no {unknown}" if unknown else None
