"""Stands in for the user's loader: the same batches in the same order, each seen once in passing."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, SupportsIndex

OWN = ("_loader", "_begin", "_see")
"""Attributes that are not the loader's."""


class Watched:
    """Iterates over a loader; its length and all its other attributes are the loader's own, also those that are set."""

    def __init__(self, loader: Iterable[Any], begin: Callable[[], None], see: Callable[[Any], None]) -> None:
        self._loader, self._begin, self._see = loader, begin, see

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch, and the loader's own at once: it may draw by then, or start its processes."""
        self._begin()
        return map(self._seen, iter(self._loader))

    def _seen(self, batch: Any) -> Any:
        self._see(batch)
        return batch

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __copy__(self) -> "Watched":
        """The same loader, seen by the same tunneller."""
        return type(self)(self._loader, self._begin, self._see)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raise TypeError with what to copy instead: of a tunneller there is but one."""
        raise TypeError(
            "what tunneller.watch() gave cannot be copied or pickled, as the tunneller cannot; copy the loader itself, "
            "and give that to watch()"
        )

    def __bool__(self) -> bool:
        return bool(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also of a copy that has no loader yet
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self._loader, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._loader, name)


class WatchedIterator(Watched):
    """In place of what is an iterator itself, such as an endless stream."""

    def __next__(self) -> Any:
        """The next batch, of an epoch that nobody has announced."""
        return self._seen(next(self._loader))  # type: ignore[call-overload]


class WatchedSequence(Watched):
    """In place of a list of batches, or of what else has them by number."""

    def __getitem__(self, place: Any) -> Any:
        """One batch; several, as a slice gives them, are no batch."""
        found = self._loader[place]  # type: ignore[index]
        return found if isinstance(place, slice) else self._seen(found)


def watched(loader: Iterable[Any], begin: Callable[[], None], see: Callable[[Any], None]) -> Watched:
    """The loader with every batch seen: an iterator if it is one, with batches by number if it has them."""
    kind = WatchedSequence if hasattr(type(loader), "__getitem__") else Watched
    return (WatchedIterator if isinstance(loader, Iterator) else kind)(loader, begin, see)
