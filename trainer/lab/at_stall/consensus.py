"""Many starts, and in the end their consensus: the pool finds the one network that says what the best starts agree on.

Starts end in different places, and what they have in common holds on new samples better than any one of them does.
Averaged they would be a network several times as large. A tunnel whose targets are their mean outputs asks for one of
the old size that comes as near to the mean as can be. There is no noise in such targets: who fits them more closely
does not fit chance more closely.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.events import Event, Summary
from trainer.journal import OnEvent
from trainer.lab.at_stall.renew import Renew
from trainer.lab.goal import Goal, goals
from trainer.lab.states import State, copy_state, write_state
from trainer.lab.tasks import Split, Task
from trainer.stalls.detector import StallDetector
from trainer.tunneller import Tunneller


@dataclass(frozen=True)
class Question:
    """Whose mean is asked for: that of so many of the best starts, on the samples and so many points between them."""

    starts: int
    between: int = 0


QUESTIONS = (Question(3), Question(5), Question(3, between=1000))
LAST_EPOCHS = 10
HALFWAY = 0.5
"""Points between two samples are at most so far from the first."""

Ask = Callable[..., Tunneller]
"""Makes a tunneller of `data`, `task` (None: the method's own), `seed` and `on_event`."""


class Consensus(Renew):
    """Starts with goals in turn, those again whose starts were best; after the last one tunnels to their consensus.

    Without anybody to `ask` the best start is all there is.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: Optimizer,
        detector: Callable[[], StallDetector],
        *,
        goal: Goal,
        ask: Ask | None,
        seed: int,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(task, model, optimizer, detector)
        self._goal, self._goals, self._of = goal, list(goals(task)), list[int]()
        self._ask, self._seed, self._on_event = ask, seed, on_event
        self._begun, self._rounds = time.monotonic(), 0
        self._summary: Summary | None = None
        self._events: list[Event] = []
        self._aim()

    @property
    def history(self) -> tuple[Event, ...]:  # type: ignore[override]
        """What happened in all tunnels so far."""
        return tuple(self._events)

    def close(self, polish: bool = False, timeout: float = 60.0) -> Summary | None:  # type: ignore[override]
        """Put the best start into the model and, if asked for, tunnel it; what data held out prefer stays."""
        super().close(polish)
        if polish and self._kept and self._ask is not None:
            self._tunnels(self._ask, until=time.monotonic() + timeout)
        return self._summary

    def _tunnels(self, ask: Ask, until: float) -> None:
        """One to the consensus, one to the samples' own targets, and as many again of the kind that has paid more."""
        first, *further = QUESTIONS
        consensus, own = self._tunnel(ask, first), self._tunnel(ask, None)
        for question in further:
            if time.monotonic() < until:
                self._tunnel(ask, question if consensus >= own else None)
        self._descend()

    def _descend(self) -> None:
        """Descend once more from where the tunnels end, on the loss alone; the best epoch by data held out stays."""
        task, model, optimizer = self._task, self._model, self._optimizer
        best, state, plain = self._sign * task.score_on_both(model), copy_state(model), Goal(self._goal.losses)

        def slope() -> float:
            optimizer.zero_grad()
            loss = plain(task, model, task.train)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.item()

        optimizer.state.clear()
        for _ in range(LAST_EPOCHS):
            optimizer.step(slope)
            score = self._sign * task.score_on_both(model)
            if score > best:
                best, state = score, copy_state(model)
        write_state(model, state)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know: which goal each start had, too."""
        return {**super().state_dict(), "goals": list(self._of)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the start that was under way."""
        super().load_state_dict(state)
        self._of = list(state["goals"])
        self._goal.become(self._goals[self._of[-1]])

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._aim()

    def _aim(self) -> None:
        """Choose the next start's goal: each once, then in turns the two whose starts were best."""
        tried = set(self._of)
        chosen = next((number for number in range(len(self._goals)) if number not in tried), None)
        if chosen is None:
            order = sorted(range(len(self._kept)), key=lambda start: -self._sign * self._kept[start][0])
            ranked = list(dict.fromkeys(self._of[start] for start in order))
            chosen = ranked[len(self._of) % min(2, len(ranked))]
        self._of.append(chosen)
        self._goal.become(self._goals[chosen])

    def _tunnel(self, ask: Ask, question: Question | None) -> float:
        """Have one question answered, from the best so far (None: any tunnel's own), and say how much that gained.

        An answer that is better still counts as one more start from then on.
        """
        self._rounds += 1
        before = self._task.score_on_both(self._model)
        begun = time.monotonic() - self._begun
        samples = self._task.train if question is None else self._asked(question)

        def note(event: Event) -> None:
            moved = replace(event, t_s=event.t_s + begun, stall=self._rounds)
            self._events.append(moved)
            if self._on_event is not None:
                self._on_event(moved)

        tunneller = ask(
            data=samples.tensors,
            consensus=question is not None,
            validate=lambda: self._task.score_on_both(self._model),
            seed=self._seed + self._rounds,
            on_event=note,
        )
        with tunneller:
            adopted = tunneller.step(before)
        self._summary = added(self._summary, tunneller.summary())
        if not adopted:
            return 0.0
        after = self._task.score_on_both(self._model)
        self._kept.append((after, copy_state(self._model)))
        return self._sign * (after - before)

    def _asked(self, question: Question) -> Split:
        """Samples with the mean outputs of the best starts as targets, and points between them."""
        train = self._task.train
        inputs, weights = train.inputs, train.weights
        if question.between and weights is None and inputs.dim() == 2:
            inputs = torch.cat([inputs, between(inputs, question.between, self._seed)])
        ranked = sorted(self._kept, key=lambda pair: -self._sign * pair[0])
        return Split(inputs, self._mean([state for _, state in ranked[: question.starts]], inputs), weights)

    def _mean(self, states: list[State], inputs: Tensor) -> Tensor:
        """Mean outputs [N, K]; of classes the scores, less their mean, of which nothing depends."""
        now, total = copy_state(self._model), torch.zeros(())
        was_training = self._model.training
        self._model.eval()
        with torch.no_grad():
            for state in states:
                write_state(self._model, state)
                total = total + self._model(inputs) / len(states)
        self._model.train(was_training)
        write_state(self._model, now)
        return total - total.mean(dim=1, keepdim=True) if self._task.kind == "classification" else total


def between(inputs: Tensor, count: int, seed: int) -> Tensor:
    """Points [count, d] on lines between two samples each, nearer to the first."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(len(inputs), (2, count), generator=generator)
    part = HALFWAY * torch.rand(count, 1, generator=generator)
    return inputs[first] + part * (inputs[second] - inputs[first])


def added(first: Summary | None, second: Summary) -> Summary:
    """The figures of two tunnellers together."""
    if first is None:
        return second
    names = [field.name for field in fields(Summary) if field.name not in ("declined", "advice", "pool_lost", "course")]
    sums = {name: getattr(first, name) + getattr(second, name) for name in names}
    sums["longest_step_ms"] = max(first.longest_step_ms, second.longest_step_ms)
    reasons = {*first.declined, *second.declined}
    declined = {reason: first.declined.get(reason, 0) + second.declined.get(reason, 0) for reason in reasons}
    return replace(second, **sums, declined=declined, pool_lost=second.pool_lost)
