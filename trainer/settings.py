"""Checks a tunneller's settings at once: none is found wrong in the middle of training, or behind a warning."""

import inspect
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

from torch import nn

from shared.contracts import Constraint
from shared.objectives import Objective, ObjectiveName
from shared.snapshot import TASKS, Task
from trainer.adoption.requirements import Required, number
from trainer.adoption.validation import Score
from trainer.journal import OnEvent
from trainer.pool.client import SolverClient
from trainer.pool.constraints import EXAMPLE
from trainer.pool.job_template import FREE, MAX_TIME_S
from trainer.pool.own import LOCAL, Local
from trainer.samples.reservoir import Split
from trainer.scores import Mode
from trainer.snapshots.capture import OF_CLASSES
from trainer.stalls.detector import DeltaMode
from trainer.stalls.layers import AUTO

LONGEST_NAME = 200
"""Characters of a run's name, by the pool's contract."""
OF_GROUPS = "worst_group"
"""The objective that a tunneller's jobs cannot have."""
Read = Callable[[Any], Any]
"""Gives a setting as it is used; raises anything for what is none."""


@dataclass(frozen=True)
class Setting:
    """How a setting is read, and in words what may be used."""

    read: Read
    use: str


def _number(*, least: float = -math.inf, above: float = -math.inf, most: float = sys.float_info.max) -> Read:
    """A number of any library; of a tensor the one that it holds. It is finite, unless `most` is not."""

    def read(value: Any) -> float:
        found = number(value)
        _insist(least <= found <= most and above < found)
        return found

    return read


def _whole(least: float = -math.inf, most: float = math.inf) -> Read:
    """A whole number of any library, or 1e3."""

    def read(value: Any) -> int:
        _insist(not isinstance(value, bool))
        found = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
        _insist(least <= found <= most)
        return found

    return read


def _one_of(*values: object) -> Read:
    def read(value: Any) -> Any:
        _insist(isinstance(value, str) and value in values)
        return value

    return read


def _kind(*kinds: type) -> Read:
    def read(value: Any) -> Any:
        _insist(isinstance(value, kinds))
        return value

    return read


def _function(parameters: int) -> Read:
    """A function that can be called with so many arguments, as far as its signature tells."""

    def read(value: Any) -> Any:
        _insist(callable(value))
        try:
            signature = inspect.signature(value)
        except Exception:  # not all that can be called tells how
            return value
        signature.bind(*range(parameters))
        return value

    return read


def _listed(value: Any) -> Any:
    """What can be gone through; what is in it is read elsewhere."""
    iter(value)
    return value


def _client(value: Any) -> Any:
    _insist(value == LOCAL if isinstance(value, str) else hasattr(value, "solve") and not isinstance(value, type))
    return value


def _tail(value: Any) -> tuple[Any, ...]:
    _insist(not isinstance(value, str))
    parts = tuple(value)
    _insist(all(isinstance(part, str | nn.Module) for part in parts))
    return parts


def _name(value: Any) -> str:
    _insist(isinstance(value, str) and len(value) <= LONGEST_NAME)
    return str(value)


def _class_weight(value: Any) -> tuple[float, ...]:
    _insist(not isinstance(value, str | Mapping))
    weights = tuple(map(_number(least=0.0), value))
    _insist(any(weights))
    return weights


def _either(*reads: Read) -> Read:
    """As the first of these that takes it."""

    def read(value: Any) -> Any:
        for one in reads[:-1]:
            try:
                return one(value)
            except Exception:  # the next one may take it
                continue
        return reads[-1](value)

    return read


def _or_none(read: Read) -> Read:
    return lambda value: None if value is None else read(value)


def _insist(condition: bool) -> None:
    if not condition:
        raise ValueError


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """A tunneller's settings as they are used; ValueError names the first that makes no sense, and what would."""

    validate: Annotated[
        Callable[[], Score], Setting(_function(0), "a function without arguments that scores the model")
    ]
    client: Annotated[
        SolverClient | Local,
        Setting(_client, f"SolverClient('http://gateway:8000'), or {LOCAL!r} for a pool of its own"),
    ]
    monitor: Annotated[
        str | None, Setting(_or_none(_kind(str)), "the name of one of the scores that `validate` returns")
    ]
    mode: Annotated[
        Mode | None,
        Setting(_or_none(_one_of("min", "max")), "'min' if lower scores are better, 'max' if higher ones are"),
    ]
    split: Annotated[
        Split | None,
        Setting(_or_none(_function(1)), "a function of a batch, like lambda batch: (args, kwargs, targets)"),
    ]
    screen: Annotated[
        Callable[[], float] | None,
        Setting(_or_none(_function(0)), "a function without arguments that gives a cheap score, or None"),
    ]
    on_event: Annotated[OnEvent | None, Setting(_or_none(_function(1)), "a function of one event, or None")]
    tail: Annotated[
        Sequence[str | nn.Module] | None,
        Setting(_or_none(_tail), "a list of layers by name or as modules, and of activations as modules"),
    ]
    task: Annotated[
        Task | None, Setting(_or_none(_one_of(*TASKS)), f"one of {', '.join(TASKS)}, or None: by the targets")
    ]
    objective: Annotated[
        ObjectiveName | Objective | None,
        Setting(
            _or_none(_either(_one_of(*get_args(ObjectiveName)), _kind(Objective))),
            f"one of {', '.join(get_args(ObjectiveName))}, or Objective(...)",
        ),
    ]
    ignore_index: Annotated[
        int,
        Setting(
            _whole(-(2**63), 2**63 - 1),
            "a whole number of 64 bits that is no class; -100 where the loss leaves nothing out",
        ),
    ]
    class_weight: Annotated[
        Sequence[float] | None,
        Setting(_or_none(_class_weight), "a list with a weight for each class, 0 or more and not all 0"),
    ]
    radius: Annotated[
        float | None, Setting(_or_none(_number(above=0.0)), "more than 0, in weight units, or None to have it adapted")
    ]
    tail_radius: Annotated[
        float | None, Setting(_or_none(_number(least=0.0)), "0 or more, in weight units, or None: as the block")
    ]
    require: Annotated[
        Required, Setting(_listed, "what the scores have to keep, like {'recall_3': 0.75} or ['gap <= 0.1']")
    ]
    constraints: Annotated[Sequence[Constraint | Mapping[str, Any]], Setting(_listed, f"a list such as [{EXAMPLE}]")]
    patience: Annotated[int, Setting(_whole(1), "1 or more checks")]
    min_delta: Annotated[float, Setting(_number(least=0.0, most=math.inf), "0 or more, in the metric's units")]
    delta_mode: Annotated[
        DeltaMode, Setting(_one_of("abs", "rel"), "'abs' for the metric's units, 'rel' for a share of it")
    ]
    cooldown: Annotated[int, Setting(_whole(0), "0 or more checks")]
    first_after: Annotated[int | None, Setting(_or_none(_whole(1)), "1 or more checks, or None: at the first stall")]
    time_s: Annotated[
        float, Setting(_number(above=0.0, most=MAX_TIME_S), f"more than 0 and at most {MAX_TIME_S:g} seconds")
    ]
    samples: Annotated[int, Setting(_whole(1), "1 or more")]
    keep: Annotated[int, Setting(_whole(1), "1 or more samples")]
    keep_mb: Annotated[float, Setting(_number(above=0.0, most=math.inf), "more than 0 MiB")]
    capture_s: Annotated[
        float | None,
        Setting(_or_none(_number(above=0.0, most=math.inf)), "more than 0 seconds, or None for 0.5 % of the time"),
    ]
    fanout: Annotated[
        int | Literal["free"],
        Setting(_either(_one_of(FREE), _whole(1)), f"1 or more jobs per stall, or {FREE!r}: all idle workers"),
    ]
    sync: Annotated[bool, Setting(_kind(bool), "True or False")]
    run: Annotated[str | None, Setting(_or_none(_name), f"a name of at most {LONGEST_NAME} characters")]
    seed: Annotated[int, Setting(_whole(0), "0 or a larger whole number")]

    def __post_init__(self) -> None:
        for name, setting in TABLE.items():
            given = getattr(self, name)
            try:
                object.__setattr__(self, name, setting.read(given))
            except Exception:  # what is no setting may raise anything when it is read as one
                raise ValueError(f"{name} is {given!r:.80}; use {setting.use}") from None
        if self.class_weight is not None and self.task is not None and self.task not in OF_CLASSES:
            raise ValueError(
                f"class_weight is {list(self.class_weight)!r:.80}, task {self.task!r}; use it with classes alone, and "
                "give weights of samples with each batch instead"
            )


TABLE: Mapping[str, Setting] = {
    name: found.__metadata__[0] for name, found in get_type_hints(Settings, include_extras=True).items()
}


def refuse_tail_of(layer: str | nn.Module | None) -> None:
    """Raise ValueError where a tail is given, but not the one layer that it follows."""
    if layer == AUTO:
        raise ValueError(f"tail goes with one layer, and layer is {AUTO!r}; name the layer, or leave tail out")


def asks_groups(objective: Objective | None, constraints: Sequence[Constraint]) -> str | None:
    """What compares groups of samples, by its name; None if nothing does."""
    if objective is not None and objective.name == OF_GROUPS:
        return f"objective {OF_GROUPS!r}"
    for place, constraint in enumerate(constraints):
        if constraint.type == "group_rate_gap" or constraint.groups is not None:
            return f"constraints[{place}] ({constraint.type})"
    return None
