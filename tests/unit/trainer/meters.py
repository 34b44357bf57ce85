"""Classes of a file of their own that models of tests keep their state in."""


class Meter:
    """A running mean."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float) -> None:
        """Add one."""
        self.total, self.count = self.total + value, self.count + 1


class Extractor:
    """Collects what it is called with, by bound methods as hooks."""

    def __init__(self) -> None:
        self.features: list[object] = []

    def hook(self, _: object, __: object, output: object) -> None:
        """A forward hook."""
        self.features.append(output)
