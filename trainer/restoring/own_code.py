"""Tells code of the user's own from that of libraries, without importing anything."""

import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

OURS = frozenset({"trainer", "shared", "gdsolver"})
INSTALLED = frozenset({"site-packages", "dist-packages"})


def root_of(module: str | None) -> str:
    """The package that a module is in."""
    return (module or "").partition(".")[0]


def is_users(module: str | None) -> bool:
    """Whether a module, by name, is the user's: neither a library's nor this one's own."""
    return bool(module) and root_of(module) not in OURS and is_own(module)


def is_own(module: str | None, homes: Collection[str] = ()) -> bool:
    """Whether a module, by name, is neither of Python nor installed, or is in one of the packages `homes`."""
    root = root_of(module)
    if root in homes or root == "__main__":
        return True
    return root not in sys.stdlib_module_names and not _installed(root)


@cache
def _installed(root: str) -> bool:
    known = sys.modules.get(root)
    file = None if known is None else vars(known).get("__file__")
    paths = [file] if isinstance(file, str) else list(vars(known).get("__path__", ()) if known is not None else ())
    return any(INSTALLED & set(Path(path).parts) for path in paths)
