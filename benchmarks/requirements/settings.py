"""The six settings, the safety margins and the seeds.

Levels and margins were set on seed 0, after a first look at several methods at other levels, so that requirements bind
and can be met (docs/requirements.md): seed 0 is no clean test of them.
"""

from dataclasses import dataclass
from typing import Literal

MARGINS = (0.0, 0.04, 0.08)
"""What is asked for beyond the requirement, so that it also holds on samples that nobody has seen."""
GAP_MARGINS = (0.0, 0.02, 0.04)
"""The same for a gap, which cannot be below 0."""
ALLOWED = 0.01
"""The mean violation on test data at which methods are compared."""
QUICK_SEEDS, FULL_SEEDS, QUICK_S = 1, 10, 4.0


@dataclass(frozen=True)
class Setting:
    """A task and what is required: recall floors of classes, floors in groups, or a gap between groups' recalls.

    `held_out` are the samples of the selection and of the validation part that are used (None: all), `time_s` the
    wall seconds of a job, `epochs` those of the network's training by Adam. `blind`: the network does not see `sex`.
    """

    name: str
    task: str
    kind: Literal["floor", "group floor", "gap"]
    level: float
    long_tailed: float | None = None
    blind: bool = False
    held_out: int | None = None
    epochs: int = 12
    time_s: float = 8.0

    @property
    def margins(self) -> tuple[float, ...]:
        """The ladder of safety margins."""
        return GAP_MARGINS if self.kind == "gap" else MARGINS


def _long_tailed(task: str, level: float, epochs: int) -> Setting:
    name = f"{task}, long-tailed, recalls >= {level:.2f}"
    return Setting(name, task, "floor", level, long_tailed=100.0, held_out=1500, epochs=epochs, time_s=20.0)


SETTINGS = (
    Setting("adult, gap of true positive rates <= 0.05", "adult", "gap", 0.05),
    Setting("adult, recall of > 50K >= 0.75 in each sex", "adult", "group floor", 0.75, blind=True),
    _long_tailed("fashion-mnist", 0.70, 8),
    _long_tailed("fashion-mnist", 0.75, 8),
    _long_tailed("cifar10", 0.42, 10),
    _long_tailed("cifar10", 0.47, 10),
)
