"""Linear rows handed to SCIP as arrays, by its own C function: the binding takes them one coefficient at a time."""

import ctypes
from collections.abc import Callable
from ctypes import byref, c_char_p, c_double, c_int, c_uint, c_void_p

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from solver_service.errors import SolverError
from solver_service.milp.core.problem import Array, Mask

OKAY = 1
"""SCIP_OKAY."""
OTHER_FLAGS = (1, 1, 1, 1, 0, 0, 0, 0, 0)
"""Separate, enforce, check, propagate; not local, modifiable, dynamic, removable or sticking at a node."""
WORD = 8
"""Bytes of a pointer, and of a double."""

Addresses = NDArray[np.uintp]


class LinearRows:
    """SCIP's functions for linear rows, found through the binding's extension module, which is linked to SCIP."""

    def __init__(self, extension: str) -> None:
        library = ctypes.PyDLL(extension)
        pointers, sides, flags = [c_void_p, c_void_p], [c_double, c_double], [c_uint] * 10
        self._create = library.SCIPcreateConsLinear
        self._create.argtypes = [*pointers, c_char_p, c_int, *pointers, *sides, *flags]
        self._add, self._release = library.SCIPaddCons, library.SCIPreleaseCons
        self._add.argtypes = self._release.argtypes = pointers

    def add(
        self,
        scip: object,
        variables: Addresses,
        matrix: sp.csr_array,
        sides: tuple[Array, Array],
        initial: Mask,
        should_stop: Callable[[], bool],
    ) -> bool:
        """Add `lower <= matrix x <= upper` to the problem in a capsule; False when it was stopped on the way.

        `variables` are the addresses of x, `initial` says which rows belong into the first LP; SCIP copies all of it.
        """
        problem = _address_in(scip)
        # One pointer and one double for each nonzero; a row is a slice of both arrays, by its address.
        columns, values = variables[matrix.indices], np.asarray(matrix.data, dtype=np.float64)
        # Where each row begins, in bytes.
        starts = WORD * matrix.indptr.astype(np.int64)
        per_row = (
            np.diff(matrix.indptr),
            columns.ctypes.data + starts[:-1],
            values.ctypes.data + starts[:-1],
            *sides,
            initial,
        )
        row = c_void_p()
        for number, (size, where, what, lower, upper, leads) in enumerate(
            zip(*(part.tolist() for part in per_row), strict=True)
        ):
            if should_stop():
                return False
            # SCIP copies name, pointers and values; `release` gives up our hold, and the problem keeps its own.
            name, flags = b"row%d" % number, (leads, *OTHER_FLAGS)
            check(self._create(problem, byref(row), name, size, where, what, lower, upper, *flags))
            check(self._add(problem, row))
            check(self._release(problem, byref(row)))
        return True


def linear_rows(extension: str) -> LinearRows | None:
    """SCIP's functions in an extension module; None where they cannot be reached through it."""
    try:
        return LinearRows(extension)
    except (OSError, AttributeError):
        return None


def _address_in(capsule: object) -> int:
    """The pointer that the binding wraps as "scip"."""
    read = ctypes.pythonapi.PyCapsule_GetPointer
    read.restype, read.argtypes = c_void_p, [ctypes.py_object, c_char_p]
    return int(read(capsule, b"scip"))


def check(code: int) -> None:
    """Raise SolverError unless a call to SCIP went well."""
    if code != OKAY:
        raise SolverError(f"SCIP took no row: its code is {code}")
