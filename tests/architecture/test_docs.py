"""What code and documents say of each other: citations, modules, links and the site's navigation lead somewhere."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from solver_service.settings import Settings
from tests.architecture.pages import DOCS, LINK, PAGES, headings, text
from tests.architecture.signatures import definition, parameters
from tests.architecture.test_imports import sources
from tests.conftest import ROOT

CITATION = re.compile(r'docs/(formulations/[\w-]+\.md),\s+(?:# )?"([^"]+)"')
NAMED_PAGE = re.compile(r"\bdocs/[\w/-]+\.md\b")
MODULE = re.compile(r"`([\w/]+\.py)`")
NAMES_MODULES = [
    page
    for page in PAGES
    if page in ("ARCHITECTURE.md", "docs/constraints.md") or page.startswith(("docs/solver/", "docs/formulations/"))
]
CITED_BY = 12
"""Citations that there have to be at least: a pattern that finds none would hold of anything."""
AT_THE_ROOT = {"index.md", "architecture.md", "contributing.md", "changelog.md"}
"""Pages of the site that docs/site_hook.py makes of files beside docs/."""


def test_every_citation_of_the_formulations_has_its_heading() -> None:
    """Whoever follows a docstring to the mathematics finds the section that it names, on the page that it names."""
    cited = [(path.name, *found) for path in sources() for found in CITATION.findall(path.read_text())]
    assert len(cited) >= CITED_BY
    assert [it for it in cited if f"docs/{it[1]}" not in DOCS or it[2] not in headings(ROOT / "docs" / it[1])] == []


def test_pages_that_code_names_are_there() -> None:
    """A path into docs/ in a source, a rule or another document is a page."""
    others = [ROOT / name for name in ("docker-compose.yml", "Makefile", "CHANGELOG.md", *PAGES)]
    files = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "deploy").rglob("*.yml"), *others]
    named = {(path.name, page) for path in files for page in NAMED_PAGE.findall(path.read_text())}
    assert sorted(pair for pair in named if pair[1] not in DOCS) == []


@pytest.mark.parametrize("page", NAMES_MODULES)
def test_modules_that_a_page_names_are_there(page: str) -> None:
    """A module is named by a path, or the end of one, that exists."""
    known = [
        f"/{path.relative_to(ROOT)}"
        for folder in ("benchmarks", "docs", "shared", "solver_service", "tests", "trainer")
        for path in (ROOT / folder).rglob("*.py")
    ] + ["/gdsolver.py"]
    named = set(MODULE.findall(text(page)))
    assert sorted(name for name in named if not any(path.endswith(f"/{name}") for path in known)) == []


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    """A relative link leads to a file that is there; one with a # names a heading of it, as GitHub writes it."""
    missing = []
    for target, section in LINK.findall(text(page)):
        whole = (ROOT / page).parent / target if target else ROOT / page
        if "://" in target:
            continue
        if not whole.exists():
            missing.append(target)
        elif section:
            names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(whole)}
            missing += [f"{target}#{section}"] if section not in names else []
    assert missing == []


def test_every_argument_of_the_tunneller_is_in_its_table() -> None:
    """Who adds an argument says on the page what it is for."""
    names = parameters(definition(ROOT / "trainer" / "tunneller.py", "Tunneller"))
    assert names
    assert [name for name in sorted(names) if f"`{name}`" not in text("docs/trainer/index.md")] == []


def test_every_setting_of_the_pool_is_in_its_table() -> None:
    """Each GDSOLVER_... that gateway and workers read is on the page."""
    names = [f"GDSOLVER_{name.upper()}" for name in Settings.model_fields]
    assert [name for name in names if name not in text("docs/pool/index.md")] == []


def test_the_navigation_holds_every_page() -> None:
    """Every page is in the site's navigation, once, and every entry of it is a page."""
    entries = list(_leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(entries) == sorted({page.removeprefix("docs/") for page in DOCS} | AT_THE_ROOT)


def _leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from _leaves(part)
