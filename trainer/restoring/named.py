"""Says what a function's code names: global variables, variables of outer functions, and attributes."""

import dis
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

ENDS = frozenset({"exit", "_exit", "quit", "abort", "default_int_handler"})
"""Functions that end a program, or what it does."""
GLOBAL = ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME")


@dataclass(frozen=True)
class Named:
    """The names in code, and in what is defined inside it; `variables` are global ones."""

    variables: frozenset[str]
    attributes: frozenset[str]


@lru_cache(maxsize=4096)  # a stall reads the same functions each time
def named_in(code: CodeType) -> Named:
    """What code names; only what it really reads or writes, since one name may be that of many things."""
    inside = [named_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    variables = {step.argval for step in dis.get_instructions(code) if step.opname in GLOBAL}
    attributes = set(code.co_names).difference(variables) | {
        step.argval for step in dis.get_instructions(code) if step.opname.endswith(("_ATTR", "_METHOD"))
    }
    return Named(
        frozenset(variables).union(*(part.variables for part in inside)),
        frozenset(attributes).union(*(part.attributes for part in inside)),
    )


@lru_cache(maxsize=256)
def breaks_off(code: CodeType) -> bool:
    """Whether code itself raises an error, or ends the program."""
    names = named_in(code)
    raises = any(step.opname == "RAISE_VARARGS" for step in dis.get_instructions(code))
    return raises or not ENDS.isdisjoint(names.variables | names.attributes)
