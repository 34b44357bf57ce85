"""Every code block of the documents is checked here. What can be run is run as well.

Python by tests/integration/test_readme.py; what is typed at a shell as typing_rules.py says.
"""

import ast
import importlib
import importlib.util
import json
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.contracts import JobSpec
from solver_service.gateway import routes
from tests.architecture.commands import commands, wrong
from tests.architecture.pages import DOCS, Block, blocks, text
from tests.architecture.signatures import definition, parameters
from tests.architecture.typing_rules import Where, typed_at
from tests.conftest import ROOT

LANGUAGES = {"", "sh", "python", "json", "yaml", "text"}
"""A block without a language shows a terminal: what is typed stands behind `$ `."""
BLOCKS = [block for page in ("README.md", "CONTRIBUTING.md", *DOCS) for block in blocks(page)]
SPEC = re.compile(r"\{\"objective\".*\}", re.DOTALL)
INLINE = re.compile(r"`((?:gdsolver(?:-pool)?|make|python) [^`]+)`")
VARIABLE = re.compile(r"GDSOLVER_[A-Z_]+\b")
ROUTE = re.compile(r"\b(GET|POST|PUT|DELETE) (/[\w/-]*)")


def typed(block: Block) -> str:
    """The commands of a shell block, or of a terminal that is shown."""
    return block.text if block.language else "\n".join(re.findall(r"^\$ (.*)", block.text, re.MULTILINE))


def of(*languages: str) -> list[Any]:
    """The blocks of some languages, as parameters named after their page and first line."""
    return [pytest.param(it, id=f"{it.page}:{it.text[:40]!r}") for it in BLOCKS if it.language in languages]


def test_every_block_says_what_it_is() -> None:
    """Whoever adds a block in a new language adds a check of it."""
    assert [(it.page, it.fence) for it in BLOCKS if it.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", of("sh", ""))
def test_shell_blocks_can_be_typed(block: Block) -> None:
    """Bash can parse them, and each command, target, script and option of ours exists."""
    subprocess.run(["bash", "-n"], input=typed(block), text=True, check=True, capture_output=True)
    assert [problem for words in commands(typed(block)) if (problem := wrong(words))] == []


@pytest.mark.parametrize("place", Where)
def test_every_rule_on_what_is_typed_is_needed(place: Where) -> None:
    """A rule that leaves lines untyped, and no longer fits any, goes; so do tests that would type nothing."""
    assert typed_at(place)


@pytest.mark.parametrize("page", ["README.md", *DOCS])
def test_commands_in_sentences_exist(page: str) -> None:
    """The same of commands between backticks, where they are written out: no `...`, brackets or choices."""
    found = [it for it in INLINE.findall(text(page)) if not re.search(r"[|\[\]<>]|\.\.\.", it)]
    assert [problem for it in found for words in commands(it) if (problem := wrong(words, whole=False))] == []


@pytest.mark.parametrize("block", of("python"))
def test_python_blocks_fit_the_code(block: Block) -> None:
    """They compile; what they import is there, and calls of it name parameters that it has."""
    tree = ast.parse(block.text)
    known = {name: taken for it in ast.walk(tree) for name, taken in _imported(it)}
    for call in (it for it in ast.walk(tree) if isinstance(it, ast.Call) and isinstance(it.func, ast.Name)):
        taken = known.get(call.func.id)  # type: ignore[attr-defined]
        if taken is not None:
            assert {it.arg for it in call.keywords} - taken == set()


@pytest.mark.parametrize("block", of("json"))
def test_json_blocks_are_valid(block: Block) -> None:
    """They parse, and a spec is one that the gateway takes."""
    content = json.loads(block.text)
    if "objective" in content:
        JobSpec.model_validate(content)


@pytest.mark.parametrize("block", [it for it in BLOCKS if it.language == "sh" and SPEC.search(it.text)])
def test_specs_in_shell_blocks_are_valid(block: Block) -> None:
    """A spec that a command writes is one that the gateway takes."""
    for spec in re.findall(r"'(\{\"objective\".*?\})'", block.text):
        JobSpec.model_validate_json(spec)


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_blocks_parse(block: Block) -> None:
    """They parse, with Compose's tags taken as they come."""

    class Loader(yaml.SafeLoader):
        """One that does not mind tags."""

    Loader.add_multi_constructor("!", lambda loader, _, node: loader.construct_sequence(node))
    assert yaml.load(block.text, Loader)


def test_variables_that_the_documents_name_are_read_somewhere() -> None:
    """Each GDSOLVER_... is a setting, or stands in a Compose file, a Dockerfile or a source."""
    folders = [ROOT / name for name in ("trainer", "solver_service", "docker", "deploy", "tests", "benchmarks")]
    files = [it for folder in folders for it in folder.rglob("*") if it.suffix in (".py", ".yml", ".yaml", ".sh")]
    files += [it for it in [*ROOT.glob("docker-compose*.yml"), *(ROOT / "docker").rglob("*")] if it.is_file()]
    code = "".join(it.read_text() for it in set(files) if "__pycache__" not in it.parts)
    named = {it for page in ("README.md", *DOCS) for it in VARIABLE.findall(text(page))}
    fields = {it.lower() for it in re.findall(r"^    (\w+):", (ROOT / "solver_service/settings.py").read_text(), re.M)}
    assert sorted(it for it in named if it not in code and it.removeprefix("GDSOLVER_").lower() not in fields) == []


def test_routes_that_the_documents_name_are_there() -> None:
    """Each `GET /v1/...` is a route of the gateway, with capitals for what varies."""
    modules = [importlib.import_module(it.name) for it in pkgutil.iter_modules(routes.__path__, f"{routes.__name__}.")]
    known = {
        (method, re.sub(r"\{\w+\}", "ID", route.path))
        for module in modules
        if hasattr(module, "router")
        for route in module.router.routes
        for method in route.methods
    }
    assert ("GET", "/v1/jobs/ID") in known
    named = {it for page in ("README.md", *DOCS) for it in ROUTE.findall(text(page))}
    assert sorted(named - known) == []


def _imported(node: ast.AST) -> Iterator[tuple[str, set[str] | None]]:
    """Names that an import of ours brings, with their parameters; None where any are taken. Nothing heavy is loaded."""
    if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(("gdsolver", "trainer", "shared")):
        return
    spec = importlib.util.find_spec(node.module or "")
    assert spec is not None, node.module
    for alias in node.names:
        found = definition(Path(str(spec.origin)), alias.name)
        assert found is not None or alias.name in Path(str(spec.origin)).read_text(), (node.module, alias.name)
        yield alias.name, parameters(found)
