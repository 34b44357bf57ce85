"""What is run: which tasks, by which methods, with which seeds, and what the hybrid may spend."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

HYBRIDS = ("hybrid-lbfgs", "hybrid", "hybrid-gce")
ABLATIONS = ("rival", "heuristics")
"""Solvers in the hybrid's place: the ten-line script of the same job, and the service without its exact parts."""
REGRESSION = ("sgd", "adam", "adamw-cosine", "lbfgs", "lbfgs-prices", "refit", "redo", "hybrid-lbfgs", "hybrid")
CLASSES = ("sgd-cosine", "adam", "adamw-cosine", "refit", "redo", "hybrid")
ROBUST = ("ramp", "gce", "lbfgs-gce", "sce", "trimmed", "tempered", "pruned")
WRONG_LABELS = ("adam", "adamw-cosine", "refit", *ROBUST, "hybrid", "hybrid-gce")
QUICK_LEFT_OUT = ("sgd", "sgd-cosine", "redo", "sce", "trimmed")


@dataclass(frozen=True)
class Case:
    """A task as it is posed here. CPU seconds: `train_s` for the hybrid's GD, `probe_s` for each learning rate tried.

    `polish_s` is the most wall time that the last tunnel may take, however busy the machine is, `time_s` a job's.
    `samples` are those a job sees (None: the task's own number). `ours` is the hybrid that is put to the test:
    `hybrid-lbfgs` where the network goes whole, by its size, and `hybrid` where it does not.
    """

    name: str
    task: str
    methods: tuple[str, ...]
    fraction: float = 1.0
    label_noise: float = 0.0
    train_s: float = 15.0
    polish_s: float = 60.0
    probe_s: float = 2.0
    time_s: float = 3.0
    layer: str | None = None
    samples: int | None = None
    ablated: bool = False
    ours: str = "hybrid"

    def to_quick(self) -> "Case":
        """The same with a tenth of the time, and without the methods that are nearly another one."""
        left_out = {"refit", "adamw-cosine"} if "lbfgs" in self.methods or self.label_noise else set()
        left_out |= {*QUICK_LEFT_OUT, *(name for name in HYBRIDS if name != self.ours)}
        methods = tuple(name for name in self.methods if name not in left_out)
        train_s, time_s = (2.5, 0.25) if self.ours == "hybrid-lbfgs" else (3.5, 0.3)
        return replace(self, methods=methods, train_s=train_s, probe_s=0.3, time_s=time_s)


@dataclass(frozen=True)
class Plan:
    """One run: a case, a method and a seed; `solver` says what answers the hybrid's jobs."""

    case: Case
    method: str
    seed: int
    solver: str = "everything"

    @property
    def is_hybrid(self) -> bool:
        """Whether it needs a pool."""
        return self.method in HYBRIDS

    @property
    def label(self) -> str:
        """The method as tables name it."""
        return self.method if self.solver == "everything" else f"{self.method}, {self.solver}"

    def content(self) -> dict[str, Any]:
        """All that says what the run is, as JSON; what other methods the case has is no part of it."""
        case = {name: value for name, value in asdict(self.case).items() if name not in ("methods", "ablated", "ours")}
        return {"case": case, "method": self.method, "seed": self.seed, "solver": self.solver}


def _regression(name: str, task: str, **more: Any) -> Case:
    return Case(name, task, REGRESSION, layer="auto", ours="hybrid-lbfgs", time_s=1.0, **more)


def _noisy(task: str, noise: float, **more: Any) -> Case:
    name = f"{task}, {100 * noise:.0f} % wrong"
    small = task == "digits"
    more |= {"time_s": 1.0} if small else {}
    methods = (*WRONG_LABELS, "lbfgs-prices", "hybrid-lbfgs") if small else WRONG_LABELS
    ours = "hybrid-lbfgs" if small else "hybrid-gce"
    return Case(name, task, methods, label_noise=noise, samples=5000, ours=ours, **more)


FULL = (
    *(_regression(name, name) for name in ("identity", "affine", "polynomial", "formula")),
    *(
        _regression(f"uci:{name}", f"uci:{name}", ablated=name == "energy")
        for name in ("energy", "concrete", "bostonHousing", "power-plant")
    ),
    _regression("california-housing", "california-housing", fraction=0.25),
    *(Case(f"mnist, {100 * share:g} %", "mnist", CLASSES, fraction=share) for share in (0.01, 0.05, 0.1)),
    *(Case(f"cifar10, {100 * share:g} %", "cifar10", CLASSES, fraction=share, train_s=60.0) for share in (0.05, 0.1)),
    Case("cifar10-paper, 10 %", "cifar10-paper", CLASSES, fraction=0.1, train_s=60.0),
    Case("adult", "adult", CLASSES, fraction=0.25),
    *(_noisy("digits", noise, ablated=noise == 0.3) for noise in (0.3, 0.5)),
    *(_noisy(task, noise, fraction=0.1) for task in ("mnist", "fashion-mnist") for noise in (0.3, 0.5)),
)
QUICK = ("polynomial", "uci:energy", "uci:concrete", "digits, 30 % wrong", "mnist, 1 %")
SHORT = (
    *(case.name for case in FULL if case.ours == "hybrid-lbfgs"),
    "mnist, 1 %",
)
Mode = Literal["quick", "short", "full"]
"""`quick` and `short` have a tenth of the time: few cases, or all whose networks go whole and one that does not."""
NAMES: dict[Mode, tuple[str, ...]] = {"quick": QUICK, "short": SHORT, "full": tuple(case.name for case in FULL)}
SEEDS: dict[Mode, int] = {"quick": 3, "short": 5, "full": 5}


def cases(mode: Mode, only: tuple[str, ...] = ()) -> list[Case]:
    """The cases of a mode, or those of all whose names contain one of `only`, in the mode's time."""
    names = NAMES[mode]
    chosen = [case for case in FULL if (any(part in case.name for part in only) if only else case.name in names)]
    return chosen if mode == "full" else [case.to_quick() for case in chosen]


def plans(
    chosen: list[Case], seeds: int, *, first: int = 0, ablation: bool = True
) -> Iterator[tuple[Plan, list[Plan]]]:
    """For each case and seed our hybrid, whose cost is everybody's budget, and all others."""
    for seed in range(first, first + seeds):
        for case in chosen:
            others = [Plan(case, method, seed) for method in case.methods if method != case.ours]
            if ablation and case.ablated:
                others += [Plan(case, "restart", seed)] if case.ours == "hybrid" else []
                others += [Plan(case, case.ours, seed, solver) for solver in ABLATIONS]
            yield Plan(case, case.ours, seed), others
