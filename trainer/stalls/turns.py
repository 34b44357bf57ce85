"""Whose turn it is: how often tunnels of each layer have failed since one helped, and which are not to be trusted."""

from dataclasses import dataclass, field


@dataclass
class Turns:
    """Failures by turn (a layer, or one and all behind it): one a stall at most, none where another answer helped."""

    failures: dict[str, int] = field(default_factory=dict)
    distrusted: dict[str, str] = field(default_factory=dict)
    """Layers whose live model did not do what a job promised, and why: not tried again."""
    _settled: dict[str, int] = field(default_factory=dict)

    def helped(self, turn: str, stall: int) -> None:
        """Note that an answer to this stall was adopted."""
        self.failures[turn] = 0
        self._settled[turn] = stall

    def failed(self, turn: str, stall: int) -> None:
        """Note that an answer to this stall was of no use."""
        if self._settled.get(turn) != stall:
            self.failures[turn] = self.failures.get(turn, 0) + 1
            self._settled[turn] = stall
