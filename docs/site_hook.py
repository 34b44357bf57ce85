"""Makes the site out of the repository: README is its first page, and what pages link to outside docs/ comes along.

MkDocs calls `on_files` and `on_page_markdown`. A page is known by its path in the repository, so that one and the same
relative link works on GitHub and on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
HOME = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "files/LICENSE.txt",
}
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")
CELL_CODE = re.compile(r"`[^`\n]+`")


def on_files(files: Files, *, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages at the repository's root, and every file that a page links to."""
    for name, uri in HOME.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    for file in list(files.documentation_pages()):
        for _, target, _ in LINK.findall(file.content_string):
            linked = _resolved(file.src_uri, target)
            uri = _uri(linked)
            if uri not in files.src_uris and (ROOT / linked).is_file():
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / linked)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Let links lead to where files are on the site; in tables, GitHub needs `\\|` in code and Python-Markdown `|`."""
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        target = posixpath.relpath(_uri(_resolved(here, link[2])), posixpath.dirname(here) or ".")
        return f"{link[1]}{target}{link[3]}"

    lines = [
        CELL_CODE.sub(lambda code: code[0].replace("\\|", "|"), line) if line.startswith("|") else line
        for line in LINK.sub(moved, markdown).split("\n")
    ]
    return "\n".join(lines)


def _resolved(uri: str, target: str) -> str:
    """The path in the repository that a link leads to, from the page of this address on the site."""
    source = next((name for name, home in HOME.items() if home == uri), f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _uri(path: str) -> str:
    """Where a file of the repository is on the site."""
    return HOME.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}")
