"""Where a test types each line of the documents' shell blocks, and the rules by which some lines are typed by none.

The lines of `Where.POOL` are typed by tests/integration/test_typed.py, those of `Where.CONTAINERS` by
tests/e2e/test_typed_containers.py. All are parsed and held against the commands' options in test_blocks.py.
"""

import re
from enum import Enum

from tests.architecture.pages import DOCS, Block, blocks

SHELL = [block for page in ("README.md", "CONTRIBUTING.md", *DOCS) for block in blocks(page)]


class Where(Enum):
    """What a line needs to be typed in a test, or why none types it."""

    POOL = "a pool of the test's own"
    CONTAINERS = "a Docker engine"
    TARGETS = "make targets and benchmarks: CI runs the short ones, and the others take up to hours"
    CLUSTER = "needs a cluster and an image registry"
    DATA = "needs data of the reader's own, or the internet"
    REGISTRY = "needs an image registry"


RULES = (
    (re.compile(r"^(make|python benchmarks/)"), Where.TARGETS),
    (re.compile(r"csv:|uci:|mnist"), Where.DATA),
    (re.compile(r"--profile observability"), Where.REGISTRY),
)
"""What a line has that no test types here; the first that fits counts."""


def shell_lines(block: Block) -> list[str]:
    """What is typed, continued lines as one; of a terminal that is shown, what stands behind `$ `."""
    lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
    if not block.language:
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip()]


def where(block: Block, line: str) -> Where:
    """What a line needs; where a block installs a chart, none of it is typed."""
    if "helm " in block.text:
        return Where.CLUSTER
    for pattern, place in RULES:
        if pattern.search(line.strip()):
            return place
    containers = block.page == "docs/containers.md" or "docker compose" in block.text
    return Where.CONTAINERS if containers else Where.POOL


def typed_at(place: Where) -> list[tuple[Block, list[str]]]:
    """The blocks of which lines are typed at a place, with those lines."""
    found = [
        (block, [line for line in shell_lines(block) if where(block, line) is place])
        for block in SHELL
        if block.language in ("sh", "")
    ]
    return [(block, lines) for block, lines in found if lines]
