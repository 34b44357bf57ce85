"""The search over a block and all tail layers that move: descents, fresh starts, unit replacement, and kicks."""

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from shared.objectives import WORST, Objective, sample_weights
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import MEANS, Array
from solver_service.milp.network.arms import Arms, relative_gain
from solver_service.milp.network.joint.annealing import Annealing
from solver_service.milp.network.joint.descent import Descender, Descent
from solver_service.milp.network.joint.evaluator import Evaluator
from solver_service.milp.network.joint.fitting import fit, loosened, rounded, settled
from solver_service.milp.network.joint.initial import fresh, kicked, reaching
from solver_service.milp.network.joint.minibatches import Minibatches
from solver_service.milp.network.joint.replacement import replace_unit, replaceable
from solver_service.milp.network.joint.scaling import Scaling
from solver_service.milp.network.joint.stand_ins import SOFTNESS, stand_in
from solver_service.milp.network.step_incumbents import BlockIncumbents

GAIN = 1e-6
"""An improvement by less than this part is none."""
OPENING = (10, 30, 100, 300)
"""Evaluations of the first descent, offered after each part, so that something good is there at once."""
EFFORT, FRESH_EFFORT = 150, 200
OWN = 0.7
"""How often the first descent without rounding begins at the snapshot's weights, where all so far was rounded."""
PATIENT = 0.5
"""How often rounded weights are let go under a loss that gives up on no sample, where the objective does."""
NEAR_BEST = 0.7
"""How often minibatches begin at the best itself rather than at a kick from it."""
STALE, LOST = 8, 30
"""Rounds of a valley without a gain after which it may get a little worse, and after which it is left."""
REVISIT = 15
"""Rounds that the best valley is tried again for, between fresh ones."""
WORSE = 0.05
MORE, MORE_STALE = 0.25, 0.5
"""How often one more unit is replaced at once, in a valley that gains and in one that does not."""
REACHING = 0.2
"""How often, where no unit can be replaced, one is put where a sample switches it on or off instead of kicked."""
WORKS = {"altered": 1.0, "annealed": 8.0, "loosened": 1.0, "straight": 4.0}
"""Kinds of rounds, and about how long one takes: counts are annealed, rounded weights loosened or descended through."""
AROUND = (0.05, 0.2)
"""How far from the best, in half-widths of the box, counts are annealed once more."""
SHARPEST = 1e-4
OPENING_LOOKS, LOOKS = 20, 3
"""How often the samples are weighed anew after a descent, where shares of them are asked for."""
SETTLING, SETTLED = 30, 1e-2
"""Evaluations of a descent in between, and the way of a multiplier that is none."""
HALVINGS = 8
"""Looks for the last weights that keep all on the way to better ones that do not."""
LARGE, TOO_LARGE = 20_000_000, 400_000_000
"""Coefficients of a run from which minibatches come first, and from which nothing else comes."""


@dataclass(frozen=True, eq=False)
class Valley:
    """Where replacements begin: variables, the stand-in's value there, and for how many rounds nothing was gained.

    Where rounded weights are loosened the value is the objective's.
    """

    variables: Array
    value: float
    stale: int = 0


class JointSearch:
    """One search, a round at a time."""

    def __init__(
        self,
        network: Network,
        goal: Objective,
        incumbents: BlockIncumbents,
        budget: Budget,
        rng: np.random.Generator,
    ) -> None:
        self._network, self._goal, self._incumbents, self._rng = network, goal, incumbents, rng
        self._keeper, self._budget = incumbents.keeper, budget
        limits = (self._keeper.low, self._keeper.high) if self._keeper.constraints else None
        margin = goal.margin if goal.name in ("ramp", "hinge") else 1.0
        self._scaling = Scaling(network, limits, margin=margin)
        self._capped = goal.name in ("ramp", "zero_one", *WORST)
        self._counts = goal.name in ("zero_one", "outliers", *WORST)
        self._softness, self._weighing = SOFTNESS, self._keeper.weighing
        self._best = self._valley = self._loose = Valley(np.zeros(0), np.inf)
        self._minibatches: Minibatches | None = None
        if network.elements > LARGE or self._keeper.rounds:
            held = partial(rounded, self._scaling, self._keeper) if self._keeper.rounds else None
            self._minibatches = Minibatches(network, goal, self._scaling, rng, held)

    @cached_property
    def _whole(self) -> Evaluator:
        """All samples at once; not made before it is used, as it may be large."""
        snapshot, scaling = self._network.snapshot, self._scaling
        whole = Evaluator(self._network, stand_in(self._goal, snapshot), scaling=scaling)
        whole.l2 = self._goal.l2
        prices = self._keeper.prices(scaling.weight_count)
        if prices is not None:
            # Stand-ins are means over samples and outputs, as mse and mae are; other objectives are sums.
            mean = self._goal.name in (*MEANS, "max_error", *WORST)
            total = 1.0 if mean else float(sample_weights(snapshot).sum())
            whole.prices = prices[scaling.free] * scaling.unit / total
        return whole

    def open(self) -> None:
        """Descend from the best step so far, and offer what comes of it early and often."""
        begin = self._scaling.variables(self._incumbents.step)
        if self._minibatches is not None:
            begin = self._minibatches.descend(begin, self._look, self._budget)
        if self._network.elements > TOO_LARGE:
            return
        if self._keeper.rounds:
            self._settle_rounded()
        if self._capped or self._weighing is not None or not (self._keeper.rounds and self._incumbents.feasible):
            self._open_whole(begin)

    def _open_whole(self, begin: Array) -> None:
        """Descend over all samples, from there and from fresh starts."""
        if self._annealing is not None and self._counts:
            self._anneal(begin)
            begin = self._scaling.variables(self._incumbents.step)
        if self._capped:
            begin = self._uncapped(begin)
        descend = Descender(self._whole, self._over)
        for effort in OPENING if descend.exact else (sum(OPENING),):
            if self._over():
                return
            found = descend(begin, effort=effort, show=self._keep)
            self._keep(found)
            begin = found.variables
        self._settle(found, OPENING_LOOKS)
        for _ in range(2):
            if not self._over():
                found = self._descend(self._fresh(), FRESH_EFFORT, self._best.value)
                ahead = found.value < self._best.value or not self._incumbents.feasible
                self._keep(found)
                if ahead:
                    self._settle(found, LOOKS)
        if self._annealing is not None and not self._incumbents.feasible:
            self._anneal(self._best.variables if self._best.variables.size else begin)
        if self._valley.variables.size:
            self._follow_closer()

    def round(self) -> None:
        """Replace a unit, or kick where none can be, in the present valley; of large networks, a minibatch descent."""
        nowhere, rounds = not self._valley.variables.size, self._keeper.rounds
        if nowhere and self._minibatches is None:  # interrupted before the first descent, or none had a finite end
            self._keep(self._descend(self._fresh(), FRESH_EFFORT))
            return
        if self._network.elements > TOO_LARGE or (nowhere and not rounds):
            self._descend_in_batches()
            return
        before, arm = self._incumbents.objective, self._arms.draw(self._rng)
        match arm:
            case "annealed":
                self._anneal(self._around())
            case "loosened":
                self._loosen()
            case "straight":
                self._descend_in_batches()
                self._settle_rounded()
            case _ if nowhere:
                self._keep(self._descend(self._own_or_fresh(), sum(OPENING)))
            case _:
                self._alter()
        self._arms.learn(arm, work=WORKS[arm], gain=relative_gain(before, self._incumbents.objective))

    def _descend_in_batches(self) -> None:
        """A minibatch descent from the best, or from not far."""
        assert self._minibatches is not None
        step = self._scaling.variables(self._incumbents.step)
        begin = step if self._rng.random() < NEAR_BEST else kicked(self._scaling, step, self._rng)
        self._minibatches.descend(begin, self._look, self._budget)

    def _settle_rounded(self) -> None:
        """Hold the best weights where they were rounded to, and let the others make up for it."""
        if not self._over():
            begin = self._scaling.variables(self._incumbents.step)
            self._show(settled(self._whole, self._keeper, begin, self._over).variables)

    def _loosen(self) -> None:
        """Let some rounded weights go, and round them anew; what is no worse is gone on from, later a little worse."""
        best, place = self._incumbents.objective, self._loose
        if place.stale > LOST or not place.value <= best * (1 + WORSE):
            place = Valley(self._scaling.variables(self._incumbents.step), best)
        whole = self._patient if self._capped and self._rng.random() < PATIENT else self._whole
        found = loosened(whole, self._keeper, place.variables, self._over, self._rng)
        value = self._incumbents.offer(self._scaling.step(found.variables))
        if value < place.value * (1 - GAIN):
            self._loose = Valley(found.variables, value)
        elif value <= place.value * (1 + WORSE * (place.stale >= STALE)):
            self._loose = Valley(found.variables, value, place.stale + 1)
        else:
            self._loose = replace(place, stale=place.stale + 1)

    def _alter(self) -> None:
        """Descend from an altered valley, and go on from there if it is better."""
        valley = self._valley
        target = valley.value * (1 - GAIN)
        if valley.stale >= STALE:
            target = max(target, self._best.value * (1 + WORSE))
        found = self._descend(self._altered(valley), EFFORT, target)
        self._keep(found)
        taken, improved = found.value < target, found.value < valley.value * (1 - GAIN)
        if taken or not self._incumbents.feasible:
            found = self._settle(found, LOOKS)
        if taken:
            self._valley = Valley(found.variables, found.value, 0 if improved else valley.stale + 1)
        else:
            self._valley = replace(valley, stale=valley.stale + 1)
        if self._valley.stale > LOST:
            self._leave()

    def _show(self, variables: Array) -> None:
        """Offer variables as they are."""
        self._incumbents.offer(self._scaling.step(variables))

    def _look(self, variables: Array) -> None:
        """Offer what minibatches have come to, and weigh samples for the shares that it lacks."""
        self._show(variables)
        small = self._network.elements <= TOO_LARGE
        if small and self._weighing is not None and self._minibatches is not None:
            self._weighing.learn(self._outputs(variables))
            self._minibatches.weigh(self._weighing.importance)

    def _uncapped(self, begin: Array) -> Array:
        """Descend on a loss that gives up on no sample: from far away the objective's own slope leads nowhere."""
        found = Descender(self._patient, self._over)(begin, effort=OPENING[0] * 3)
        self._show(found.variables)
        return found.variables

    @property
    def _patient(self) -> Evaluator:
        """The samples with a loss that gives up on none."""
        return self._whole.following(stand_in(self._goal, self._network.snapshot, capped=False))

    @cached_property
    def _annealing(self) -> Annealing | None:
        """Descents on counts; None where neither the objective nor a constraint counts samples."""
        if not (self._counts or self._keeper.on_samples):
            return None
        return Annealing.of(self._network.snapshot, self._goal, self._keeper.constraints)

    @cached_property
    def _arms(self) -> Arms:
        """What a round may be: counts are also annealed, rounded weights loosened and so on, as often as that pays."""
        may = {
            "altered": True,
            "annealed": self._annealing is not None and self._counts,
            "loosened": self._keeper.rounds,
            "straight": self._keeper.rounds,
        }
        return Arms({name: work for name, work in WORKS.items() if may[name]})

    def _anneal(self, begin: Array) -> None:
        assert self._annealing is not None
        found = self._annealing.descend(self._whole, begin, self._budget)
        self._show(found)
        self._keep(Descent(found, self._whole.value(found), 0))

    def _around(self) -> Array:
        """Somewhere near the best so far."""
        scaling, best = self._scaling, self._scaling.variables(self._incumbents.step)
        reach = float(self._rng.choice(AROUND)) * np.minimum((scaling.upper - scaling.lower) / 2, 1.0)
        return np.clip(best + reach * self._rng.normal(size=best.shape), scaling.lower, scaling.upper)

    def _fresh(self) -> Array:
        begin = fresh(self._scaling, self._rng)
        return self._uncapped(begin) if self._capped else begin

    def _own_or_fresh(self) -> Array:
        """The snapshot's weights, or a fresh start."""
        if self._rng.random() >= OWN:
            return self._fresh()
        own = self._scaling.own_variables
        return self._uncapped(own) if self._capped else own

    def _over(self) -> bool:
        return self._budget.over

    def _descend(self, begin: Array, effort: int, target: float = np.inf) -> Descent:
        return Descender(self._whole, self._over)(begin, effort=effort, target=target)

    def _altered(self, valley: Valley) -> Array:
        """The valley with a unit replaced, or with some, the more likely the longer nothing was gained."""
        if not replaceable(self._whole):
            alter = reaching if self._rng.random() < REACHING else kicked
            return alter(self._scaling, valley.variables, self._rng)
        again = MORE_STALE if valley.stale >= STALE else MORE
        altered = replace_unit(self._whole, valley.variables, self._rng)
        while self._rng.random() < again:
            altered = replace_unit(self._whole, altered, self._rng)
        return altered

    def _leave(self) -> None:
        """Go on in the best valley, or in a fresh one; follow the objective more closely from now on."""
        self._follow_closer()
        if self._valley.value > self._best.value * (1 + GAIN):
            found = self._settle(Descent(self._best.variables, self._best.value, 0), OPENING_LOOKS)
            self._valley = Valley(found.variables, found.value, stale=LOST - REVISIT)
            return
        found = self._descend(self._fresh(), FRESH_EFFORT)
        self._keep(found)
        found = self._settle(found, OPENING_LOOKS)
        self._valley = Valley(found.variables, found.value)

    def _settle(self, found: Descent, looks: int) -> Descent:
        """Weigh the samples for the shares that a descent's end has, and descend on, until the weights settle."""
        if self._weighing is None:
            return found
        for _ in range(looks):
            moved = self._weighing.learn(self._outputs(found.variables))
            self._refresh()
            if moved < SETTLED or self._over():
                break
            found = self._descend(found.variables, SETTLING)
            self._keep(found)
        return replace(found, value=self._whole.value(found.variables))

    def _between(self, variables: Array) -> None:
        """Go from the kept weights towards better ones that break the constraints, as far as they are kept."""
        begin, kept, broken = self._scaling.variables(self._incumbents.step), 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (kept + broken) / 2
            tried = begin + middle * (variables - begin)
            if self._short(self._outputs(tried)):
                broken = middle
            else:
                kept = middle
                self._show(tried)

    def _outputs(self, variables: Array) -> Array:
        """Outputs [N, K]."""
        return self._whole.outputs(variables).T.astype(np.float64)

    def _short(self, outputs: Array) -> bool:
        """Whether outputs [N, K] miss a share that is asked for."""
        return self._weighing is not None and self._weighing.shortfall(outputs) > 0

    def _keep(self, found: Descent) -> None:
        """Offer what is better by the objective itself, and remember what is best by the stand-in."""
        if found.value < self._best.value:
            self._best = Valley(found.variables, found.value)
            if self._valley.value > found.value:
                self._valley = self._best
        if self._keeper.rounds and found.value < self._incumbents.objective:
            found = fit(self._whole, self._keeper, found, self._over)
        outputs = self._outputs(found.variables)
        if self._goal.of_outputs(self._network.snapshot, outputs) >= self._incumbents.objective:
            return
        if not self._short(outputs):
            self._incumbents.offer(self._scaling.step(found.variables))
        elif self._incumbents.feasible and not self._keeper.rounds:
            self._between(found.variables)

    def _follow_closer(self) -> None:
        """Round the objective's kinks off less, now that the errors are smaller."""
        if self._whole.stand_in.squares or not self._best.variables.size:
            return
        self._softness = max(SHARPEST, 0.5 * self._softness)
        self._refresh()

    def _refresh(self) -> None:
        """Follow the stand-in for the present softness and importance; values of before mean nothing any more."""
        # A loss with a cap has no slope for a sample far on the wrong side, whatever it weighs.
        reached = self._weighing is None or self._incumbents.feasible or not self._weighing.raised
        importance = None if self._weighing is None else self._weighing.importance
        snapshot = self._network.snapshot
        changed = stand_in(self._goal, snapshot, softness=self._softness, importance=importance, capped=reached)
        self._whole = self._whole.following(changed)
        self._best = replace(self._best, value=self._whole.value(self._best.variables))
        self._valley = replace(self._valley, value=self._whole.value(self._valley.variables))
