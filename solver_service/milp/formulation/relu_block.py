"""The model of a block behind which fixed piecewise-linear layers lie: a binary per unit and sample that may switch.

Every layer's values are kept as an affine map of the columns (a sparse matrix and constants) together with bounds:
exact reach for the block, interval arithmetic behind it. A unit that cannot reach its kink stays affine.
For identity layers alone it is the compact model without its reductions.
"""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from shared.activations import Activation
from shared.objectives import Objective, sample_weights
from shared.snapshot import Snapshot, regression_targets
from solver_service.milp.core.network import Network
from solver_service.milp.core.problem import Array, Index, Mask
from solver_service.milp.formulation.model import LinearModel, always
from solver_service.milp.formulation.reach import switching, through


@dataclass(frozen=True, eq=False)
class Affine:
    """Values [m] as `matrix x + constant`, each known to lie in [low, high]."""

    matrix: sp.csr_array
    constant: Array
    low: Array
    high: Array

    def at(self, columns: Array) -> Array:
        """The values at given columns."""
        return np.asarray(self.matrix @ columns + self.constant)


@dataclass
class _Builder:
    """Columns and rows as they are added; `fill` computes each added column's value for a given change."""

    width: int
    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)
    integer: list[Mask] = field(default_factory=list)
    cost: list[Array] = field(default_factory=list)
    blocks: list[tuple[sp.csr_array, Array]] = field(default_factory=list)

    def add_columns(self, lower: Array, upper: Array, cost: Array, *, integer: bool = False) -> Index:
        """Add columns; their numbers."""
        for store, values in ((self.lower, lower), (self.upper, upper), (self.cost, cost)):
            store.append(np.asarray(values, dtype=np.float64))
        self.integer.append(np.full(len(lower), integer))
        numbers = np.arange(self.width, self.width + len(lower))
        self.width += len(lower)
        return numbers

    def add_rows(self, matrix: sp.csr_array, lower: Array) -> None:
        """Add rows `matrix x >= lower`; the matrix may be narrower than the model will be."""
        self.blocks.append((matrix, lower))

    def pick(self, numbers: Index, scale: Array | float = 1.0) -> sp.csr_array:
        """A row per number with one coefficient."""
        values = np.broadcast_to(np.asarray(scale, dtype=np.float64), numbers.shape)
        return sp.csr_array((values, (np.arange(len(numbers)), numbers)), shape=(len(numbers), self.width))

    def widened(self, matrix: sp.csr_array) -> sp.csr_array:
        """A matrix with as many columns as there are now."""
        return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], self.width))

    def model(self, change_columns: int, constant: float) -> LinearModel:
        """All of it as one model."""
        matrix = sp.csr_array(sp.vstack([self.widened(rows) for rows, _ in self.blocks], format="csr"))
        lower = np.concatenate([side for _, side in self.blocks])
        return LinearModel(
            objective=np.concatenate(self.cost),
            constant=constant,
            matrix=matrix,
            row_lower=lower,
            row_upper=np.full(len(lower), np.inf),
            lower=np.concatenate(self.lower),
            upper=np.concatenate(self.upper),
            integer=np.concatenate(self.integer),
            change_columns=change_columns,
            indicator=always(len(lower)),
        )


@dataclass(frozen=True, eq=False)
class BlockModel:
    """The model, and how to complete a change [h, d+1] to a point of it."""

    model: LinearModel
    pieces: tuple["_Piece", ...]

    def complete(self, change: Array) -> Array:
        """The columns' values at a change: activations and binaries as they then are, slacks as small as may be."""
        columns = np.zeros(self.model.columns)
        columns[: change.size] = change.ravel()
        for piece in self.pieces:
            piece.fill(columns)
        return columns


class _Piece:
    """Knows the value of columns that it added, once those before them are known."""

    def fill(self, columns: Array) -> None:
        """Write the values of its columns."""


@dataclass(frozen=True, eq=False)
class _Units(_Piece):
    before: Affine
    activation: Activation
    value: Index
    switches: tuple[tuple[Index, float], ...]

    def fill(self, columns: Array) -> None:
        """Values are the activation's; a switch is on beyond its kink."""
        now = self.before.at(columns[: self.before.matrix.shape[1]])
        columns[self.value] = self.activation(now)
        for numbers, kink in self.switches:
            columns[numbers] = now > kink


@dataclass(frozen=True, eq=False)
class _Slacks(_Piece):
    """Slack columns take up what their rows `matrix x + slack >= need` lack; binaries are on where anything lacks."""

    rows: sp.csr_array
    need: Array
    owner: Index
    numbers: Index
    scale: Array
    binary: bool

    def fill(self, columns: Array) -> None:
        """The largest need of a slack's rows."""
        lack = (self.need - self.rows @ columns[: self.rows.shape[1]]) / self.scale
        worst = np.zeros(len(self.numbers))
        np.maximum.at(worst, self.owner, lack)
        columns[self.numbers] = (worst > 1e-9) if self.binary else worst


def block_model(network: Network, goal: Objective) -> BlockModel:
    """Build the model of a block with a fixed tail; `mse` has no linear model and is refused by the caller."""
    size = network.block_size
    builder = _Builder(0)
    builder.add_columns(np.full(size, -1.0), np.ones(size), np.zeros(size))
    pieces: list[_Piece] = []
    values = _activated(builder, pieces, _block(network), network.activation)
    for layer in network.tail:
        before = _linear(values, layer.weight, samples=len(network.inputs))
        values = _activated(builder, pieces, before, layer.activation)
    if network.snapshot.task == "classification":
        _margin_objective(builder, pieces, network.snapshot, goal, values)
    else:
        _error_objective(builder, pieces, network.snapshot, goal, values)
    return BlockModel(builder.model(size, 0.0), tuple(pieces))


def _block(network: Network) -> Affine:
    """The block's pre-activations, sample by sample and unit by unit; their reach is exact."""
    n, h = network.scores.shape
    d = network.inputs.shape[1]
    # [n h, h d]: row (n, i) holds g_n R_i in the entries of unit i; its reach is the sum of their sizes.
    data = (network.inputs[:, None, :] * network.radius[None]).reshape(n * h, d)
    columns = np.tile(np.arange(h * d).reshape(h, d), (n, 1))
    starts = np.arange(0, n * h * d + 1, d)
    centre, reach = network.scores.ravel(), np.abs(data).sum(axis=1)
    matrix = sp.csr_array((data.ravel(), columns.ravel(), starts), shape=(n * h, h * d))
    matrix.eliminate_zeros()  # in place: `data` is not to be used after this
    return Affine(matrix, centre, centre - reach, centre + reach)


def _linear(values: Affine, weight: Array, *, samples: int) -> Affine:
    """The next layer's pre-activations, with bounds by interval arithmetic."""
    linear, bias = weight[:, :-1], weight[:, -1]
    # kron(I_n, W): one layer, sample by sample.
    spread = sp.csr_array(sp.kron(sp.identity(samples, format="csr"), sp.csr_array(linear), format="csr"))
    low, high = through(weight, values.low.reshape(samples, -1), values.high.reshape(samples, -1))
    return Affine(
        sp.csr_array(spread @ values.matrix),
        np.asarray(spread @ values.constant) + np.tile(bias, samples),
        low.ravel(),
        high.ravel(),
    )


def _activated(builder: _Builder, pieces: list[_Piece], before: Affine, activation: Activation) -> Affine:
    """Values behind an activation: affine where a unit cannot switch, a column of its own where it can."""
    if activation.name == "identity":
        return before
    low, high = activation(before.low), activation(before.high)
    # Where a unit cannot switch one piece holds all over the box: phi(p) = slope p + (phi(mid) - slope mid).
    middle = (before.low + before.high) / 2
    slope = _slope(activation, middle)
    constant = slope * before.constant + (activation(middle) - slope * middle)
    numbers = np.flatnonzero(switching(activation, before.low, before.high))
    value = builder.add_columns(low[numbers], high[numbers], np.zeros(len(numbers)))
    picked = Affine(before.matrix[numbers], before.constant[numbers], before.low[numbers], before.high[numbers])
    rows = _hardtanh_rows if activation.name == "hardtanh" else _relu_rows
    pieces.append(_Units(picked, activation, value, rows(builder, picked, value, activation.slope)))
    slope[numbers] = 0.0
    constant[numbers] = 0.0
    chosen = sp.csr_array((np.ones(len(numbers)), (numbers, value)), shape=(len(low), builder.width))
    scaled = builder.widened(sp.csr_array(before.matrix.multiply(slope[:, None])))
    return Affine(sp.csr_array(scaled + chosen), constant, low, high)


def _slope(activation: Activation, at: Array) -> Array:
    if activation.name == "hardtanh":
        return (np.abs(at) < 1).astype(np.float64)
    return np.where(at > 0, 1.0, activation.slope)


def _relu_rows(builder: _Builder, p: Affine, value: Index, slope: float) -> tuple[tuple[Index, float], ...]:
    """`a >= p`, `a >= s p`, `a <= p - (1-s) low (1-z)`, `a <= s p + (1-s) high z`."""
    count = len(value)
    switch = builder.add_columns(np.zeros(count), np.ones(count), np.zeros(count), integer=True)
    a, before = builder.pick(value), builder.widened(p.matrix)
    builder.add_rows(sp.csr_array(a - before), p.constant)
    builder.add_rows(sp.csr_array(a - slope * before), slope * p.constant)
    drop, rise = (1 - slope) * p.low, (1 - slope) * p.high
    builder.add_rows(sp.csr_array(before - a + builder.pick(switch, drop)), drop - p.constant)
    builder.add_rows(sp.csr_array(slope * before - a + builder.pick(switch, rise)), -slope * p.constant)
    return ((switch, 0.0),)


def _hardtanh_rows(builder: _Builder, p: Affine, value: Index, slope: float) -> tuple[tuple[Index, float], ...]:
    """`2 y2 - 1 <= a <= 2 y1 - 1`, `p - a >= (low+1)(1-y1)`, `p - a <= (high-1) y2`, `y2 <= y1`."""
    count = len(value)
    above_low = builder.add_columns((p.low >= -1).astype(float), np.ones(count), np.zeros(count), integer=True)
    above_high = builder.add_columns(np.zeros(count), (p.high > 1).astype(float), np.zeros(count), integer=True)
    a, before = builder.pick(value), builder.widened(p.matrix)
    low, high = np.minimum(p.low, -1.0), np.maximum(p.high, 1.0)
    builder.add_rows(sp.csr_array(a - builder.pick(above_high, 2.0)), np.full(count, -1.0))
    builder.add_rows(sp.csr_array(builder.pick(above_low, 2.0) - a), np.ones(count))
    builder.add_rows(sp.csr_array(before - a + builder.pick(above_low, low + 1)), low + 1 - p.constant)
    builder.add_rows(sp.csr_array(a - before + builder.pick(above_high, high - 1)), p.constant)
    builder.add_rows(sp.csr_array(builder.pick(above_low) - builder.pick(above_high)), np.zeros(count))
    return ((above_low, -1.0), (above_high, 1.0))


def _margin_objective(
    builder: _Builder, pieces: list[_Piece], snapshot: Snapshot, goal: Objective, values: Affine
) -> None:
    """zero_one, ramp and hinge over margins to every rival, with one slack or binary per sample."""
    k, weights = snapshot.outputs, sample_weights(snapshot)
    live = np.flatnonzero(weights > 0)
    targets = snapshot.targets[live].astype(np.int64)
    sample, rival = np.nonzero(np.arange(k) != targets[:, None])
    own, other = live[sample] * k + targets[sample], live[sample] * k + rival
    rows = sp.csr_array(values.matrix[own] - values.matrix[other])
    need = goal.need - (values.constant[own] - values.constant[other])
    # M_r = v - lo_r, with lo_r from the intervals of two outputs: valid, seldom the tightest.
    lowest = values.low[own] - values.high[other]
    give_up = np.maximum(goal.need - lowest, 0.0)
    numbers = np.zeros(0, dtype=np.int64)
    if goal.name != "zero_one":
        most = np.full(len(live), 1.0 if goal.name == "ramp" else np.inf)
        numbers = builder.add_columns(np.zeros(len(live)), most, weights[live])
    if goal.name == "hinge":
        rows = sp.csr_array(builder.widened(rows) + builder.pick(numbers[sample], goal.margin))
        builder.add_rows(rows, need)
        scale = np.full(len(need), goal.margin)
        pieces.append(_Slacks(_without(rows, numbers), need, sample, numbers, scale, binary=False))
        return
    switches = builder.add_columns(np.zeros(len(live)), np.ones(len(live)), weights[live], integer=True)
    bare = rows
    rows = sp.csr_array(builder.widened(bare) + builder.pick(switches[sample], give_up))
    if goal.name == "ramp":
        rows = sp.csr_array(rows + builder.pick(numbers[sample], goal.margin))
    builder.add_rows(rows, need)
    # Under ramp z stands for a shortfall above its cap: t below need - margin.
    hard = need if goal.name == "zero_one" else need - goal.margin
    pieces.append(_Slacks(bare, hard, sample, switches, np.ones(len(need)), binary=True))
    if goal.name == "ramp":
        given_up = _without(rows, numbers)
        scale = np.full(len(need), goal.margin)
        pieces.append(_Slacks(given_up, need, sample, numbers, scale, binary=False))


def _error_objective(
    builder: _Builder, pieces: list[_Piece], snapshot: Snapshot, goal: Objective, values: Affine
) -> None:
    """mae, max_error and outliers over errors of both signs."""
    k, weights = snapshot.outputs, sample_weights(snapshot)
    live = np.flatnonzero(weights > 0)
    chosen = (live[:, None] * k + np.arange(k)).ravel()
    error = values.constant[chosen] - regression_targets(snapshot)[live].ravel()
    rows = sp.csr_array(sp.vstack([-values.matrix[chosen], values.matrix[chosen]], format="csr"))
    need = np.concatenate([error, -error])
    binary = goal.name == "outliers"
    owner: Index
    match goal.name:
        case "max_error":
            cost, owner = np.ones(1), np.zeros(len(error), dtype=np.int64)
        case "outliers":
            cost, owner = weights[live], np.repeat(np.arange(len(live)), k)
            need = need - (goal.tolerance or 0.0)
        case _:
            cost, owner = np.repeat(weights[live], k) / (k * weights.sum()), np.arange(len(error))
    most = np.ones(len(cost)) if binary else np.full(len(cost), np.inf)
    numbers = builder.add_columns(np.zeros(len(cost)), most, cost, integer=binary)
    both = np.concatenate([owner, owner])
    target = regression_targets(snapshot)[live].ravel()
    furthest = np.concatenate([values.high[chosen] - target, target - values.low[chosen]])
    scale = np.maximum(furthest - (goal.tolerance or 0.0), 1e-9) if binary else np.ones(len(need))
    # `need` is for rows `-error` and `+error`: the slack must reach +error and -error in turn.
    builder.add_rows(sp.csr_array(builder.widened(rows) + builder.pick(numbers[both], scale)), need)
    pieces.append(_Slacks(rows, need, both, numbers, scale, binary=binary))


def _without(rows: sp.csr_array, numbers: Index) -> sp.csr_array:
    """Rows with some columns left out."""
    keep = np.ones(rows.shape[1])
    keep[numbers] = 0.0
    return sp.csr_array(rows.multiply(keep[None, :]))
