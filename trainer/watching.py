"""Stands in for the user's loader: the same batches in the same order, each seen once in passing."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Watched:
    """Iterates over a loader; its length and all its other attributes are the loader's own."""

    def __init__(self, loader: Iterable[Any], begin: Callable[[], None], see: Callable[[Any], None]) -> None:
        self._loader, self._begin, self._see = loader, begin, see

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch."""
        self._begin()
        for batch in self._loader:
            self._see(batch)
            yield batch

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return bool(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also of a copy that has no loader yet
            raise AttributeError(name)
        return getattr(self._loader, name)
