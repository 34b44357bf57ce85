"""Which search gets the next slice of time: each has a share, and what has paid most gets one more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from solver_service.milp.core.budget import Budget
from solver_service.milp.core.solution import BREAKS, gave_up

FADE = 0.7
"""How much of what a search paid before counts, slice by slice."""
SMALL_PART = 10
"""A search with less than one part in as many waits for its turn."""
FIRST_SLICE_S, LONGEST_SLICE_S = 0.1, 1.0


class Strategy(Protocol):
    """A search that can be resumed: it offers what it finds to the incumbents."""

    def advance(self, budget: Budget) -> bool:
        """Do a small piece of work; False once it has nothing left to do."""
        ...


@dataclass(eq=False)
class Account:
    """What a strategy has paid, per second, as a part of the best value at that time.

    It has `parts` of the time, whatever it pays. One that `leads` is complete in its way: once it has nothing left to
    do, the others need not go on, unless nothing comes after them.
    """

    name: str
    strategy: Strategy
    leads: bool = False
    parts: int = 1
    slice_s: float = FIRST_SLICE_S
    rate: float = np.inf
    spent_s: float = 0.0
    alive: bool = True

    def advance(self, budget: Budget) -> None:
        """Have it do a small piece of work; one that breaks is over, and the others go on."""
        try:
            self.alive = self.strategy.advance(budget)
        except BREAKS as error:
            self.alive = self.leads = False
            budget.control.say(f"{self.name} end: {gave_up(error)}")


@dataclass(eq=False)
class Schedule:
    """Slices of time for several strategies, until the budget, the patience or the strategies end.

    `value` is the best value so far (infinite while no weights keep all constraints), `settled` whether nothing better
    can be found. Where the budget counts rounds (for a job that asks to be reproducible), strategies take turns and
    each advance counts for one. `gained` hears the name of each search that has just found something better.
    """

    accounts: Sequence[Account]
    budget: Budget
    value: Callable[[], float]
    settled: Callable[[], bool]
    improved_s: Callable[[], float]
    reproducible: bool
    gained: Callable[[str], None] = lambda _: None
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.budget.control.elapsed

    def run(self) -> None:
        """Hand out slices until there is an end."""
        if self.reproducible:
            self._take_turns()
            return
        while not self._over() and any(account.alive for account in self.accounts):
            self._slice(self._next())

    def _take_turns(self) -> None:
        idle, best = 0, self.value()
        while idle < self.budget.rounds and not (self.budget.over or self.settled()):
            for account in self.accounts:
                if account.alive and not self.settled():
                    before = self.value()
                    account.advance(self.budget)
                    if self.value() < before:
                        self.gained(account.name)
                if account.leads and not account.alive:
                    return
            idle, best = (0, self.value()) if self.value() < best else (idle + 1, best)
            if not any(account.alive for account in self.accounts):
                return

    def _over(self) -> bool:
        complete = any(account.leads and not account.alive for account in self.accounts)
        if self.budget.over or self.settled() or (complete and np.isfinite(self.budget.patience)):
            return True
        improved = max(self.began, self.improved_s())
        return self.budget.control.elapsed - improved > max(self.budget.patience, improved - self.began)

    def _next(self) -> Account:
        """Each search gets its parts of the time, because big gains are rare; one more goes to what pays best.

        All begin with a slice, but for those whose part is small: they wait until it covers one.
        """
        alive = [account for account in self.accounts if account.alive]
        parts = sum(account.parts for account in alive) + 1
        part = sum(account.spent_s for account in self.accounts) / parts
        due = [
            account
            for account in alive
            if (np.isinf(account.rate) and SMALL_PART * account.parts >= parts)
            or account.spent_s + (account.slice_s if SMALL_PART * account.parts < parts else 0.0) < part * account.parts
        ]
        if due:
            return min(due, key=lambda account: account.spent_s / account.parts)
        return max(alive, key=lambda account: account.rate if np.isfinite(account.rate) else -1.0)

    def _slice(self, account: Account) -> None:
        clock = self.budget.control
        began, before = clock.elapsed, self.value()
        while account.alive and not (self.budget.over or self.settled()):
            account.advance(self.budget)
            if clock.elapsed - began >= account.slice_s:
                break
        spent, after = max(1e-4, clock.elapsed - began), self.value()
        # The first weights that keep all constraints count as everything gained.
        gain = 1.0 if np.isinf(before) and np.isfinite(after) else 0.0
        if np.isfinite(before) and before != 0:
            gain = (before - after) / abs(before)
        account.spent_s += spent
        if after < before:
            self.gained(account.name)
        paid = gain / spent
        # Per second, fading: what paid at first need not pay now.
        account.rate = paid if np.isinf(account.rate) else FADE * account.rate + (1 - FADE) * paid
        grown = 2 * account.slice_s if gain > 0 else account.slice_s
        account.slice_s = min(LONGEST_SLICE_S, grown)
