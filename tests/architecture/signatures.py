"""What classes and functions take, read from their source: nothing heavy is imported to find it out."""

import ast
from pathlib import Path


def definition(path: Path, name: str) -> ast.AST | None:
    """The class or function of this name at a module's top level."""
    body = ast.parse(path.read_text()).body
    return next((it for it in body if isinstance(it, ast.ClassDef | ast.FunctionDef) and it.name == name), None)


def parameters(found: ast.AST | None) -> set[str] | None:
    """The names that a class's `__init__`, or a function, takes; None if it takes any, or is not known."""
    if isinstance(found, ast.ClassDef):
        found = next((it for it in found.body if isinstance(it, ast.FunctionDef) and it.name == "__init__"), None)
    if not isinstance(found, ast.FunctionDef) or found.args.kwarg:
        return None
    return {it.arg for it in [*found.args.args, *found.args.kwonlyargs]} - {"self"}
