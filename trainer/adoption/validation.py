"""Runs the user's own scoring in the middle of training so that nothing about the run shows that it happened."""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import fmean

from torch import nn

from trainer.adoption.chance import DRAWS, Source, draw_anew, listed, sources, states, training_modes_noted
from trainer.adoption.ranks import Ranks, Word
from trainer.adoption.requirements import Requirement, broken
from trainer.model.live import without_parametrization_cache
from trainer.model.wrappers import unwrap
from trainer.restoring.attributes import attributes_kept
from trainer.restoring.beside import Beside
from trainer.restoring.draws import draws_kept, within_reach
from trainer.restoring.held import memory_kept
from trainer.restoring.postponed import postponed
from trainer.restoring.registered import registered_kept
from trainer.restoring.undisturbed import undisturbed
from trainer.scores import Mode, as_float
from trainer.speaking import logger
from trainer.story import LOOK

Score = float | Mapping[str, float]
MOST_REPEATS = 2
"""Of the first validation, to see whether its score is a matter of chance: coarse ones may agree by chance once."""
BY_DATA = (
    "validate() gave %.6g, and then %.6g for the same weights, so that answers would be adopted by chance: let it "
    "score the same data each time"
)
BY_DRAWS = (
    "validate() leaves its score to chance: %.6g, and %.6g with other random numbers, for the same weights%s. An "
    "answer that looks good is judged on several draws therefore, which takes %d calls more; let validate() call "
    "model.eval(), and score all data, or draw from a generator that it seeds itself in every call"
)
IN_TRAINING = (
    "validate() scores the model as it is in training (%s in training mode), and the loop's own score is another one: "
    "let validate() call model.eval(), and model.train() after it"
)
UPWARDS = ("acc", "accuracy", "auc", "auroc", "f1", "precision", "recall", "r2", "iou", "dice", "bleu", "rouge")
DOWNWARDS = ("loss", "error", "err", "mse", "rmse", "mae", "nll", "perplexity", "ppl", "wer", "cer", "brier", "hinge")
BEST_OF_OTHERS = ("score", "map")
"""Higher is better, unless another part of the name says what is scored."""
TURNED = ("neg", "negative", "minus", "not", "non", "no", "inv", "inverse", "inverted", "false", "anti", "reverse")
"""A name with one of these, or that begins with a 1, may mean the opposite of its other parts."""


def read_score(score: object, monitor: str | None, told: str = "the score given to `step`") -> float:
    """One number from what a validation returned: the number, or entry `monitor` of a dict; `told` says who gave it.

    Raises ValueError if there is no such entry, or several and no `monitor`, or what is there is no number.
    """
    if not isinstance(score, Mapping):
        return _as_number(score, told)
    if monitor is None and len(score) == 1:
        return _as_number(next(iter(score.values())), told)
    if monitor is None or monitor not in score:
        raise ValueError(f"monitor is {monitor!r}; choose one of the scores {sorted(map(str, score))}")
    return _as_number(score[monitor], told)


def _as_number(value: object, told: str) -> float:
    try:
        return as_float(value)
    except Exception:  # what it raises is the value's own matter
        raise ValueError(
            f"{told} is {value!r:.80}; return one number, or a dict of numbers with `monitor` naming the main one"
        ) from None


def direction(monitor: str | None) -> Mode | None:
    """Whether a metric of this name is better when it is lower ("min") or higher ("max"); None where that is not known.

    A name counts by its parts: `val_loss`, `eval_accuracy`, `test/f1`. Nothing is guessed of a name whose parts
    contradict each other, or that may turn them around (`neg_mean_squared_error`, `1-accuracy`).
    """
    words = [part for part in re.split(r"[^a-z0-9]+|_", (monitor or "").lower()) if part]
    parts = set(words)
    up, down = parts.intersection(UPWARDS), parts.intersection(DOWNWARDS)
    if parts.intersection(TURNED) or words[:1] == ["1"] or (up and down):
        return None
    if up or down:
        return "max" if up else "min"
    return "max" if parts.intersection(BEST_OF_OTHERS) else None


@dataclass(frozen=True)
class Judgement:
    """What a validation says: the score, and which requirements are not kept."""

    score: float
    broken: tuple[str, ...] = ()


def pooled(judgements: Sequence[Judgement], *, every: bool) -> Judgement:
    """Several of one model: the mean score; broken is what `every` one says, or any of them."""
    sets = [set(one.broken) for one in judgements]
    found = set.intersection(*sets) if every else set.union(*sets)
    return Judgement(fmean(one.score for one in judgements), tuple(sorted(found)))


class Validator:
    """The user's `validate()`, guarded and timed: `seconds` and `calls` count what it took in all."""

    def __init__(
        self,
        model: nn.Module,
        validate: Callable[[], object],
        monitor: str | None,
        requirements: Sequence[Requirement] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self._model, self._validate, self._monitor = model, validate, monitor
        self._ranks = ranks or Ranks(0, 1)
        self._requirements = tuple(requirements)
        self.loader: object = None
        """The loop's own, whose random generator validation data may share."""
        self.given: float | None = None
        """What the loop says the score of the model as it is were."""
        self.seconds = 0.0
        self.calls = 0
        self.fleeting: list[str] = []
        """The names of iterators that it draws from: nothing puts these back."""
        self.by_chance = False
        """Whether the same weights have had other scores."""
        self._draws_numbers = False
        self._drawn, self._repeats = 0, 0

    @property
    def requires(self) -> bool:
        """Whether the score is not all that counts."""
        return bool(self._requirements)

    def judge(self, draw: int | None = None, in_training: list[str] | None = None) -> Judgement:
        """Judge the model as it is, with the random numbers that the loop would draw next, or with those of a `draw`.

        In the list modules are noted that run in training mode.
        """
        self.calls += 1
        scores = self._run(self._validate, "validate", draw, in_training)
        return Judgement(
            read_score(scores, self._monitor, "what `validate` returns"), broken(self._requirements, scores)
        )

    def draws(self, count: int = DRAWS) -> range:
        """Numbers of draws that nothing was judged on so far."""
        self._drawn += count
        return range(self._drawn - count, self._drawn)

    def first(self, given: float) -> float:
        """Judge for the first time; one warning where the same weights have other scores, by data or chance.

        It is asked again only where the loop gave another score than it does; twice where it draws and they agree.
        """
        self.given, score = given, self.judge().score
        if math.isnan(score):
            logger.warning("validate() gave NaN for the model as it is, and no answer can be judged by that: %s", LOOK)
        if self.fleeting:
            logger.warning(
                "validate() draws from an iterator, %r, and every call beside the loop's own takes what the loop would "
                "have had: let it score the same data each time",
                self.fleeting[0],
            )
        elif not self._alike(score, given):
            self._repeat(score)
            while self._draws_numbers and not self.by_chance and self._repeats < MOST_REPEATS:
                self._repeat(score)
        return score

    def is_by_chance(self, score: float) -> bool:
        """Whether the model's score, which was just found to be this, would be another one with other draws.

        It is asked again where that was not done before; not where nothing is drawn, or where the loop, which drew
        other numbers, gives the same.
        """
        certain = self.given is not None and self._alike(score, self.given)
        if self._draws_numbers and not (self._repeats or self.fleeting or certain):
            self._repeat(score)
        return self.by_chance

    def _repeat(self, score: float) -> None:
        """Judge the same weights with other draws, and say once what shows."""
        self._repeats += 1
        in_training: list[str] = []
        again = self.judge(self.draws(1)[0], in_training).score
        self.by_chance, told = not self._alike(again, score), listed(in_training)
        if self.by_chance and self._draws_numbers:
            logger.warning(BY_DRAWS, score, again, f", {told} being in training mode" if told else "", 2 * DRAWS)
        elif self.by_chance:
            logger.warning(BY_DATA, score, again)
        elif in_training and self._repeats == 1:
            logger.warning(IN_TRAINING, told)

    def _alike(self, score: float, other: float) -> bool:
        """Whether two scores are the same but for what a GPU, or another order of the same data, adds up otherwise."""
        nearly = math.isclose(score, other, rel_tol=1e-5 if self._draws_numbers else 1e-3, abs_tol=1e-6)
        return nearly or (math.isnan(score) and math.isnan(other))

    def quick(self, score: Callable[[], object], word: Word) -> float:
        """Score the model by another function, guarded and timed alike; other ranks know it by the word."""
        return read_score(self._run(score, word), self._monitor, f"what `{word}` returns")

    def follow(self, score: Callable[[], object] | None, draw: int | None) -> None:
        """Call it because rank zero does; what it gives is rank zero's matter."""
        with self._unnoticed(score or self._validate) as found:
            if draw is not None:
                draw_anew(found, draw, self._ranks.rank)
            (score or self._validate)()

    @contextmanager
    def _unnoticed(self, score: Callable[[], object]) -> Iterator[list[Source]]:
        """The loop's own calls alone may leave their traces: statistics of BatchNorm, counts, notes in attributes.

        Of the function itself, too: a history, or a learning rate that it sets. Gives the random generators that are
        within its reach.
        """
        inner, reached = unwrap(self._model), [self.loader, *within_reach(self._validate)]
        with ExitStack() as stack:
            stack.enter_context(postponed())
            beside = Beside()
            attributes = attributes_kept(inner, score, loaders=[self.loader], beside=beside)
            self.fleeting = stack.enter_context(attributes)
            stack.enter_context(undisturbed(self._model, beside))
            stack.enter_context(registered_kept(inner, beside=beside))
            stack.enter_context(memory_kept(inner))
            stack.enter_context(draws_kept(reached, beside))
            stack.enter_context(without_parametrization_cache())
            yield sources(reached)

    def _run(
        self,
        score: Callable[[], object],
        word: Word,
        draw: int | None = None,
        in_training: list[str] | None = None,
    ) -> object:
        self._ranks.tell(word, draw)
        with ExitStack() as stack:
            found = stack.enter_context(self._unnoticed(score))
            if draw is not None:
                draw_anew(found, draw)
            if in_training is not None:
                stack.enter_context(training_modes_noted(unwrap(self._model), in_training))
            before, begun = states(found), time.perf_counter()
            try:
                return score()
            finally:
                self.seconds += time.perf_counter() - begun
                self._draws_numbers |= word == "validate" and states(found) != before


class ScoreTrust:
    """Whether `step` is given what `validate` gives: then an answer may be held against that score first.

    Two scores may agree by chance, a loop may score other data than `validate` does, or hand on a score of some epochs
    ago. So they have to have agreed three times, are compared again after every third use, and are not believed any
    more once they differed. Nothing is adopted on a score that was believed alone.
    """

    ENOUGH = 3

    def __init__(self) -> None:
        self._agreed, self._used, self._differed = 0, 0, False

    def use(self, score: float) -> float | None:
        """The score, if it may stand for `validate()`; else None."""
        if self._differed or self._agreed < self.ENOUGH or self._used >= self.ENOUGH:
            self._used = 0
            return None
        self._used += 1
        return score

    @property
    def alike(self) -> bool:
        """Whether both have given the same whenever they were compared."""
        return not self._differed

    def compare(self, score: float, validated: float) -> None:
        """Note what both gave for the same weights."""
        same = math.isclose(score, validated, rel_tol=1e-9) or (math.isnan(score) and math.isnan(validated))
        self._agreed, self._differed = self._agreed + 1, self._differed or not same
