"""The documents as tests read them: their pages, their prose, their code blocks."""

import math
import re
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
DOCS = tuple(sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
PAGES = TOP + DOCS

FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")
ENDS = re.compile(r"(?<!et al\.)(?<!e\.g\.)(?<!i\.e\.)(?<=[.!?])[)\"*_]*\s+")
ITEM = re.compile(r"^\s*([-*]|\d+\.)\s")


class Block(NamedTuple):
    """A fenced block: the page it is on, the fence's words (language first), and its text."""

    page: str
    fence: str
    text: str

    @property
    def language(self) -> str:
        """What the block is written in; empty if the fence does not say."""
        return (self.fence.split() or [""])[0]


def text(page: str) -> str:
    """A page as it is written, by its path from the repository's root."""
    return (ROOT / page).read_text()


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, without the indentation that a list gives them."""
    return [
        Block(page, fence.strip(), "\n".join(line.removeprefix(indent) for line in body.split("\n")))
        for indent, fence, body in FENCE.findall(text(page))
    ]


def paragraphs(page: str) -> list[str]:
    """The prose of a page: no fenced blocks, tables, headings or comments; each item of a list by itself.

    A link is its words, and what is in backticks is one word, because a reader takes it in as one.
    """
    kept = re.sub(r"<!--.*?-->", "", FENCE.sub("\n", text(page)), flags=re.DOTALL)
    kept = re.sub(r"`[^`]+`", "code", re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", kept))
    found: list[str] = []
    for part in re.split(r"\n\s*\n", kept):
        lines = [line for line in part.splitlines() if not line.lstrip().startswith(("#", "|"))]
        for number, line in enumerate(lines):
            if number == 0 or ITEM.match(line):
                found.append("")
            found[-1] += " " + ITEM.sub("", line, count=1).strip()
    return found


def words(page: str) -> int:
    """How many words of prose a page has; tables, code and headings are not counted."""
    return sum(len(paragraph.split()) for paragraph in paragraphs(page))


def sentence_lengths(page: str) -> list[int]:
    """The words of each sentence of a page's prose, the shortest first."""
    return sorted(len(s.split()) for paragraph in paragraphs(page) for s in ENDS.split(paragraph) if s.strip())


def ninetieth_percentile(lengths: list[int]) -> int:
    """The smallest length that nine tenths of the sentences do not exceed."""
    return lengths[math.ceil(0.9 * len(lengths)) - 1] if lengths else 0


def headings(path: Path) -> set[str]:
    """The headings of a page, of any depth."""
    kept = FENCE.sub("", path.read_text())
    return {line.lstrip("#").strip() for line in kept.splitlines() if line.startswith("#")}
