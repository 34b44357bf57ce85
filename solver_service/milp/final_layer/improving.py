"""The primal heuristics of one job: which there are, in which order, and a schedule that pays what has paid."""

import math
from dataclasses import dataclass, field

import numpy as np

from shared.contracts import JobSpec
from shared.objectives import WORST
from solver_service.milp.core.budget import Budget
from solver_service.milp.core.control import Control
from solver_service.milp.core.problem import Problem, Space
from solver_service.milp.final_layer.convex.stand_in import StandIn
from solver_service.milp.formulation.constraints.on_samples import shares_of
from solver_service.milp.formulation.rows import nonzeros
from solver_service.milp.heuristics.descents.annealed import AnnealedDescents
from solver_service.milp.heuristics.descents.long_descents import Polishing
from solver_service.milp.heuristics.descents.rounds import Descents
from solver_service.milp.heuristics.descents.share_descents import ShareDescents
from solver_service.milp.heuristics.descents.single_precision import SinglePrecision
from solver_service.milp.heuristics.descents.smoothed_shares import shares_count
from solver_service.milp.heuristics.descents.stand_in_descents import SHARE_OF_TURNS, StandInDescents
from solver_service.milp.heuristics.programs.kept_sets import KeptSets
from solver_service.milp.heuristics.programs.priced_sets import PricedSets
from solver_service.milp.heuristics.schedule import Account, Schedule, Strategy
from solver_service.milp.heuristics.walks.discrete import Discrete
from solver_service.milp.heuristics.walks.tally import Tally
from solver_service.milp.heuristics.walks.value_walk import ValueWalk
from solver_service.milp.heuristics.walks.walk import WALKED, Walk
from solver_service.milp.heuristics.walks.walking import Walking
from solver_service.milp.presolve.screening import Screened
from solver_service.milp.rounding.incumbents import Incumbents
from solver_service.milp.rounding.snapping import PINNING

POLISHED = ("zero_one", "ramp", "outliers")
"""Objectives whose stand-in is capped: long descents reach what short ones do not."""
ANNEALED, SMOOTHED, LONG = "annealed descents", "descents on smoothed counts", "long descents"
"""They would take all of a short limit, and do better from where a slow descent of Adam ended."""
STANDS_FOR = (*WALKED, "hinge", "log_loss")
"""What descents on a convex stand-in are good for, where its program takes long; of log_loss it is the objective."""
STAND_IN, STAND_IN_DESCENTS = "a convex stand-in", "descents on a convex stand-in"
SMALL, SMALL_SHARE, SHARE = 2_000_000, 0.3, 0.1
"""Coefficients up to which its program comes first; how much of the time that is left it takes at once, where it is
soon done and where not."""
STOOD_IN, STOOD_IN_PER_S = 5_000, 6_000_000
"""Coefficients from which on it comes before all else, and up to which, for each second of the limit; of more, descents
on it do."""
PASSES, SCORED_PER_S, PASSED_PER_S = 10, 100_000_000, 5_000_000_000
"""How often a search that looks at all scores at each step has to in order to get anywhere; scores in a second, and
coefficients."""
FIRST_RUNS, EPOCHS = (0.3, 0.8), 15
"""Of the time that is left, for more runs on it as long as each gains much: as long as so many passes over all samples
take, but within these shares."""
LEAD_SHARE = 0.3
"""Of the time that is left, alone, for what leads, where nothing comes after the searches."""
WALKS = "line searches"
ALONE = 4
"""Where no other descent knows what is asked, it gets so much more of the time than any other search."""
PINNED = 8
"""The same for descents on few values, and for walks, which swap one nonzero for another."""
LARGE = 100_000
"""Coefficients (samples times changes) from which on descents come before everything else: models are slow there."""
SLOW = 500_000
"""Coefficients from which on a first answer comes before anything is reduced."""
FILTERED, FILTERED_PER_S = 100_000, 40_000
"""Coefficients of linear programs that are worth a try at once, and more of them for each second of the limit."""
RAMP_SHARE = 0.33
"""Of them for a ramp under floors: one step takes several programs, and every sample has rows in them."""
COUNTED_SETS = "counted sets"
MODELLED, MODELLED_PER_S = 1_000_000, 300_000
"""Coefficients for which reductions and rows are worth their time at any limit, and more for each second of it."""


@dataclass(eq=False)
class Improver:
    """Offers better and better solutions; every call goes on where the one before ended."""

    problem: Problem
    spec: JobSpec
    control: Control
    incumbents: Incumbents
    accounts: list[Account] = field(default_factory=list)
    still_large: bool = False
    """Whether descents are ahead of models after reductions, too."""
    _begun: bool = False

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.spec.solver.seed, 1])
        self.reproducible = self.spec.limits.nodes is not None

    @property
    def coefficients(self) -> int:
        """How many coefficients the scores have on the change: samples times units times inputs."""
        return len(self.problem.inputs) * self.problem.columns

    @property
    def large(self) -> bool:
        """Whether descents come first."""
        return self.coefficients >= LARGE

    @property
    def slow_to_model(self) -> bool:
        """Whether somebody would have to wait for a first answer until reductions and rows are done."""
        return self.coefficients >= SLOW

    @property
    def soon_minimised(self) -> bool:
        """Whether a convex program over all samples takes a small part of the time."""
        return self.coefficients <= STOOD_IN_PER_S * self.spec.limits.time_s

    @property
    def soon_scored(self) -> bool:
        """Whether searches that look at all scores at each step get anywhere within the time."""
        pass_s = self.problem.scores.size / SCORED_PER_S + self.coefficients / PASSED_PER_S
        return self.reproducible or PASSES * pass_s <= self.spec.limits.time_s

    @property
    def models_pay(self) -> bool:
        """Whether the rows of a model can be written down within a small part of the time."""
        return self.reproducible or self.coefficients <= MODELLED + MODELLED_PER_S * self.spec.limits.time_s

    def stand_in(self, budget: Budget) -> None:
        """The minimum of the convex objective next to a count, before anything else, where that is soon there."""
        if self.reproducible or self.coefficients < STOOD_IN or not self.soon_minimised:
            return
        self._begin()
        for account in self.accounts:
            if account.name == STAND_IN:
                account.advance(budget)
                self.incumbents.tell(STAND_IN)

    def first(self, budget: Budget) -> None:
        """One short round, before any model: at any size it takes a fraction of a second."""
        if budget.over:
            return  # to begin with copies the inputs, which may be gigabytes
        self._begin()
        left_out = () if self.reproducible else (ANNEALED, SMOOTHED, LONG, STAND_IN)
        for account in self.accounts:
            if not (budget.over or self._settled or account.name in left_out):
                account.advance(budget)
                if isinstance(account.strategy, StandInDescents) and not self.reproducible:
                    self._while_it_gains(account, account.strategy, budget)

    def _while_it_gains(self, account: Account, descents: StandInDescents, budget: Budget) -> None:
        """Go on with what gets ahead fast, for a part of the time: others begin where it ends."""
        left = max(1e-9, budget.until - budget.control.elapsed)
        needed = EPOCHS * self.coefficients / PASSED_PER_S
        soon = budget.share(float(np.clip(needed / left, *FIRST_RUNS)))
        before, trained = self.incumbents.start, self.problem.spread > 0
        while account.alive and descents.gaining and descents.fits(soon) and not (soon.over or self._settled):
            if trained and self.soon_scored and self.incumbents.best.objective >= before:
                break  # from weights that are good already others know more
            before = self.incumbents.best.objective
            account.advance(soon)
        descents.share = SHARE_OF_TURNS

    def learn(self, space: Space, screened: Screened) -> None:
        """Take linear programs over kept samples in, where they are small enough for the time."""
        most = FILTERED + FILTERED_PER_S * self.spec.limits.time_s
        # A count's bound is often met at once, and what was screened away costs it nothing.
        small = most if screened.requirements.style == "count" else LARGE
        self.still_large = self.large and nonzeros(space, screened.requirements) >= small
        if screened.requirements.rows and screened.requirements.style != "linear":
            self._keep(space, screened, most)
        self._count_first(most)

    def _keep(self, space: Space, screened: Screened, most: float) -> None:
        """The search over kept samples: at prices where shares count, of which the plain one knows nothing."""
        shares, requirements = shares_of(self.problem, self.problem.constraints), screened.requirements
        priced = shares is not None or self.problem.objective.name in WORST
        share = RAMP_SHARE if priced and requirements.style == "capped" else 1.0
        # One step of theirs can take all of a short limit.
        if not self.reproducible and 2 * space.inputs.shape[1] * requirements.groups > share * most:
            return
        nothing, seed = Budget(self.control, 0.0, 0), self.spec.solver.seed
        self._begin()
        if priced:
            rng = np.random.default_rng([seed, 3])
            self.also("kept sets at prices", PricedSets(self.problem, screened, self.incumbents, nothing, rng))
        else:
            kept = KeptSets(space, screened, self.incumbents, nothing, seed, resumed=False)
            leads = not (self.still_large or self.problem.beyond_box)
            self.accounts.insert(0 if leads else len(self.accounts), Account("kept sets", kept, leads))

    def _count_first(self, most: float) -> None:
        """Where nothing keeps the constraints yet: the samples that they count are what to get right first."""
        shares = shares_of(self.problem, self.problem.constraints)
        if self.incumbents.feasible or shares is None or shares.requirements.rows == 0:
            return
        width = 2 * self.problem.inputs.shape[1]
        if self.reproducible or shares.requirements.groups * width <= most:
            nothing, seed = Budget(self.control, 0.0, 0), self.spec.solver.seed
            kept = KeptSets(self.problem, shares.screened, self.incumbents, nothing, seed, resumed=False)
            self._begin()
            self.accounts.append(Account(COUNTED_SETS, kept))

    def also(self, name: str, strategy: Strategy) -> None:
        """Take one more search in, which gets as much time from now on as the one that gets most."""
        self._begin()
        if all(account.name != name for account in self.accounts):
            parts = max(account.parts for account in self.accounts)
            self.accounts.append(Account(name, strategy, parts=parts))

    def run(self, budget: Budget, *, enough: bool = False) -> None:
        """Hand out time until the budget or its patience is used up, or nothing better can be found.

        What leads goes first, alone, until its patience is used up; then all others have their turns with it.
        `enough` ends it as soon as weights keep all constraints.
        """
        self._begin()
        incumbents = self.incumbents

        def settled() -> bool:
            return self._settled or (enough and incumbents.feasible)

        for account in self.accounts:
            # Kept constraints are all that this search is for.
            account.alive = account.alive and not (account.name == COUNTED_SETS and incumbents.feasible)
        leading = [account for account in self.accounts if account.leads and account.alive]
        alone = budget if self.reproducible or math.isfinite(budget.patience) else budget.share(LEAD_SHARE)
        for accounts, until in ((leading, alone), (self.accounts, budget)):
            if not accounts:
                continue
            Schedule(
                accounts,
                until,
                value=lambda: incumbents.best.objective,
                settled=settled,
                improved_s=lambda: incumbents.history[-1].t_s if incumbents.history else 0.0,
                reproducible=self.reproducible,
                gained=lambda name: incumbents.tell(name, passing=True),
            ).run()
        spent = ", ".join(f"{one.name} {one.spent_s:.2f} s" for one in self.accounts if one.spent_s)
        incumbents.tell(f"searches, in all so far: {spent}" if spent else "searches")

    @property
    def _settled(self) -> bool:
        return self.incumbents.best.objective <= self.incumbents.bound

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        problem, tally = self.problem, Tally.of(self.problem)
        walk = Walk(problem, tally, self.rng)
        descents = Descents(problem, tally, self.incumbents, self.rng, self.reproducible, walk.fork())
        follows = problem.objective.name == "ramp" or not tally.asks
        walking = Walking(problem, self.incumbents, walk, self.rng, follows, self.reproducible)
        found = [Account("descents", descents, parts=1 if tally.asks else 2)]
        labels = problem.snapshot.task == "multilabel" and problem.units > 1
        if (tally.asks or (problem.objective.name in WALKED and self.soon_scored)) and not labels:
            # Where shares of samples are asked for, lines are what knows them; most of all where errors are counted.
            parts = 1 if not tally.asks else 3 if follows else 20
            found.insert(0 if tally.asks else 1, Account(WALKS, walking, parts=parts))
        if problem.objective.name in POLISHED and not tally.asks and self.soon_scored:
            polishing = Polishing(problem, descents.block, self.incumbents, self.rng, self.reproducible)
            found.append(Account(LONG, polishing))
        if problem.snapshot.task in ("classification", "binary"):
            self._smooth(found, tally, descents.block, walk)
        elif problem.objective.name in POLISHED and not tally.asks:
            each = AnnealedDescents(
                problem, tally, descents.block, self.incumbents, walk.fork(), self.rng, self.reproducible
            )
            found.append(Account(ANNEALED, each, parts=2))
        self._with_stand_in(found, tally, descents.block, walk if tally.asks and not labels else None)
        discrete = Discrete.of(problem)
        if discrete is not None and not tally.asks:
            most = max(account.parts for account in found)
            valued = ValueWalk(problem, self.incumbents, discrete, self.rng, self.reproducible)
            found.append(Account("single moves", valued, parts=most))
        self.accounts.extend(found)

    def _with_stand_in(self, found: list[Account], tally: Tally, block: SinglePrecision, walk: Walk | None) -> None:
        """Take the convex objective next to a count in: its program, and descents where that takes long."""
        problem, incumbents = self.problem, self.incumbents
        if problem.objective.name in WALKED and self.soon_scored:
            place = 0 if self.coefficients <= SMALL else [account.name for account in found].index("descents") + 1
            share = SMALL_SHARE if self.soon_minimised else SHARE
            program = StandIn(problem, incumbents, walk and walk.fork(), share)
            found.insert(place, Account(STAND_IN, program))
        if (problem.objective.name in STANDS_FOR or tally.asks) and not self.soon_minimised:
            far = StandInDescents(problem, block, incumbents, walk and walk.fork(), self.rng, self.reproducible)
            found.insert(0, Account(STAND_IN_DESCENTS, far))

    def _smooth(self, found: list[Account], tally: Tally, block: SinglePrecision, walk: Walk) -> None:
        """Take descents on smoothed counts in, where the objective or a constraint counts."""
        problem, name, most = self.problem, self.problem.objective.name, max(account.parts for account in found)
        precise = any(constraint.type == "precision_floor" for constraint in problem.constraints)

        def made(kind: type[ShareDescents] | type[AnnealedDescents]) -> Strategy:
            return kind(problem, tally, block, self.incumbents, walk.fork(), self.rng, self.reproducible)

        if shares_count(tally) and not precise:
            # A ramp is smooth enough for the others, too.
            parts = 1 if name == "ramp" else most + 1
            found.insert(0, Account("descents on shares", made(ShareDescents), parts=parts))
        elif name in POLISHED and not precise and self.soon_scored:
            found.append(Account(SMOOTHED, made(ShareDescents), parts=2))
        pinned = any(constraint.type in PINNING for constraint in problem.constraints)
        if shares_count(tally) or precise or pinned or name in POLISHED:
            # No other descent on all samples knows of precisions, or of weights with few values.
            parts = max(account.parts for account in found) * (ALONE if precise else PINNED if pinned else 1)
            for account in found:
                if account.name == WALKS and pinned:
                    account.parts = parts
            found.insert(0, Account(ANNEALED, made(AnnealedDescents), parts=parts))
