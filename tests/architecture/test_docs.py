"""What code and documents say of each other: a citation has its heading, and a module that is named is there."""

import re
from pathlib import Path

import pytest

from tests.architecture.test_imports import sources
from tests.conftest import ROOT

CITATION = re.compile(r'docs/formulations\.md,\s+"([^"]+)"')
MODULE = re.compile(r"`([\w/]+\.py)`")
PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
CITED_BY = 9
"""Citations that there have to be at least: a pattern that finds none would hold of anything."""


def headings(page: Path) -> set[str]:
    """The headings of a page, of any depth."""
    return {line.lstrip("#").strip() for line in page.read_text().splitlines() if line.startswith("#")}


def test_every_citation_of_the_formulations_has_its_heading() -> None:
    """Whoever follows a docstring to the mathematics finds the section that it names."""
    cited = [(path.name, heading) for path in sources() for heading in CITATION.findall(path.read_text())]
    assert len(cited) >= CITED_BY
    known = headings(ROOT / "docs" / "formulations.md")
    assert [pair for pair in cited if pair[1] not in known] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "docs/constraints.md", "docs/formulations.md", "docs/solver.md"])
def test_modules_that_a_page_names_are_there(page: str) -> None:
    """A module is named by a path, or the end of one, that exists."""
    known = [
        f"/{path.relative_to(ROOT)}"
        for folder in ("benchmarks", "shared", "solver_service", "tests", "trainer")
        for path in (ROOT / folder).rglob("*.py")
    ] + ["/gdsolver.py"]
    named = set(MODULE.findall((ROOT / page).read_text()))
    assert sorted(name for name in named if not any(path.endswith(f"/{name}") for path in known)) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_sections_lead_to_their_headings(page: str) -> None:
    """A link with a # names a heading of the page that it leads to, as GitHub writes it."""
    missing = []
    for target, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", (ROOT / page).read_text()):
        whole = (ROOT / page).parent / target if target else ROOT / page
        names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(whole)}
        if section not in names:
            missing.append(f"{target}#{section}")
    assert missing == []
