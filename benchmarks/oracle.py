"""The true optimum of tiny jobs by exhaustive search, constraints and all; it shares no code with the solver.

What is convex, but not linear, is left to `convex_oracle.py`.

Everything discrete is enumerated: which samples are right, which rival wins over a wrong one, which samples a ramp
keeps, which weights are 0, which multiple of a grid each weight takes, which bounds are active in a least-squares
problem. What is left is a linear program (or a linear system) in the new weights themselves.
"""

from itertools import chain, combinations, product

import highspy
import numpy as np
from convex_oracle import ConvexSearch

EPS = 1e-4
ROOM = 1e-6
"""How far from the line between right and wrong a sample has to be for float32 weights to tell, more than enough."""
INFINITE = highspy.kHighsInf
ON_SAMPLES = ("min_accuracy", "recall_floor", "group_rate_gap", "precision_floor")


def optimum(snapshot, spec, *, room=0.0):
    """The least value of objective plus movement cost over the box under all constraints; None when infeasible.

    With some `room`, choices of right samples count only where these can be right by as much: a single point in the
    reals may be none that float32 weights reach.
    """
    return _Search(snapshot, spec, room).best()


def kept(snapshot, spec, weight, bias):
    """Whether float32 weights are in the box and keep every constraint."""
    low, high = box(snapshot, spec)
    found = np.hstack([weight, np.zeros((len(weight), 1)) if bias is None else bias[:, None]]).astype(np.float64)
    slip = 1e-12 * (1 + np.abs(found))
    if (found < low - slip).any() or (found > high + slip).any():
        return False
    scores = None if snapshot.task == "regression" else _class_scores(snapshot, _scores(snapshot, found))
    return all(
        _keeps_shares(snapshot, constraint, scores)
        if constraint.type in ON_SAMPLES
        else _keeps(constraint, found[:, :-1])
        for constraint in spec.constraints
    )


def _keeps(constraint, weight):
    values = [weight[i, j] for i, j in _chosen(constraint, weight.shape)]
    match constraint.type:
        case "nonnegative":
            return min(values) >= 0
        case "monotone":
            return min(constraint.value * value for value in values) >= 0
        case "max_nonzero":
            return sum(value != 0 for value in values) <= constraint.value
        case "grid":
            return all(value == np.float32(round(value / constraint.value) * constraint.value) for value in values)
        case "levels":
            return {float(value) for value in values} <= {float(np.float32(level)) for level in constraint.levels}
    return constraint.type == "movement_cost"


def _keeps_shares(snapshot, constraint, scores):
    classes = _classes(snapshot)
    right = np.array([_beats_all(row, y) for row, y in zip(scores, classes, strict=True)])
    called = {(n, c) for n, row in enumerate(scores) for c in range(len(row)) if not _beaten(row, c)}
    return _shares_fit(snapshot, constraint, right, called)


def _beats_all(row, own):
    return all(row[own] - value >= EPS for k, value in enumerate(row) if k != own)


def _beaten(row, own):
    return any(value - row[own] >= EPS for k, value in enumerate(row) if k != own)


def _shares_fit(snapshot, constraint, right, called):
    """Whether the right samples [N], and the (sample, class) that count as called, keep a constraint."""
    w, classes = _sample_weight(snapshot), _classes(snapshot)

    def rate(members):
        return w[members & right].sum() / w[members].sum()

    weighty = w > 0
    match constraint.type:
        case "min_accuracy":
            return rate(weighty) >= constraint.value - 1e-9
        case "recall_floor":
            asked = constraint.classes or np.unique(classes[weighty])
            cells = [weighty & (classes == c) for c in asked]
            if constraint.groups:
                cells = [cell & (snapshot.group == g) for cell in cells for g in constraint.groups]
            return all(rate(cell) >= constraint.value - 1e-9 for cell in cells if cell.any())
        case "precision_floor":
            for c in constraint.classes or range(_class_count(snapshot)):
                true = sum(w[n] for n in np.flatnonzero(weighty & right & (classes == c)))
                false = sum(w[n] for n in np.flatnonzero(weighty & (classes != c)) if (n, c) in called)
                if true < (constraint.value - 1e-9) * (true + false):
                    return False
            return True
    wanted = weighty & np.isin(classes, constraint.classes or classes)
    rates = [rate(wanted & (snapshot.group == g)) for g in np.unique(snapshot.group[weighty])]
    return max(rates) - min(rates) <= constraint.value + 1e-9


def _classes(snapshot):
    return snapshot.targets.reshape(snapshot.samples) if snapshot.task != "multilabel" else None


def _class_count(snapshot):
    return 2 if snapshot.task == "binary" else len(snapshot.weight)


def _class_scores(snapshot, scores):
    return np.hstack([np.zeros_like(scores), scores]) if snapshot.task == "binary" else scores


def _chosen(constraint, shape):
    rows = range(shape[0]) if constraint.classes is None else sorted(set(constraint.classes))
    columns = range(shape[1]) if constraint.indices is None else sorted(set(constraint.indices))
    return list(product(rows, columns))


def _sample_weight(snapshot):
    return np.ones(snapshot.samples) if snapshot.sample_weight is None else snapshot.sample_weight.astype(np.float64)


def box(snapshot, spec):
    """Lowest and highest weights [h, d+1], biases last (fixed at 0 where there are none)."""
    h, d = snapshot.weight.shape
    own, half = np.zeros((h, d + 1)), np.zeros((h, d + 1))
    own[:, :d] = snapshot.weight
    half[:, :d] = spec.radius if snapshot.radius is None else snapshot.radius
    if snapshot.bias is not None:
        own[:, d] = snapshot.bias
        if snapshot.bias_radius is not None:
            half[:, d] = snapshot.bias_radius
        else:
            half[:, d] = (spec.bias_radius or spec.radius) if snapshot.radius is None else half[:, :d].max(axis=1)
    return own - half, own + half


def _scores(snapshot, weight):
    scores = snapshot.inputs.astype(np.float64) @ weight[:, :-1].T + weight[:, -1]
    return scores if snapshot.offset is None else scores + snapshot.offset


def _subsets(members):
    members = list(members)
    return [frozenset(s) for s in chain.from_iterable(combinations(members, r) for r in range(len(members) + 1))]


class _Search:
    """One job's enumeration; the columns of its LPs are the new weights, one slack per sample, and movements."""

    def __init__(self, snapshot, spec, room):
        self.snapshot, self.spec, self.room = snapshot, spec, room
        w = _sample_weight(snapshot)
        self.samples = [n for n in range(snapshot.samples) if w[n] > 0]
        self.w = w
        self.h, self.d = snapshot.weight.shape
        self.size = self.h * (self.d + 1)
        self.low, self.high = box(snapshot, spec)
        self.inputs = np.hstack([snapshot.inputs.astype(np.float64), np.ones((snapshot.samples, 1))])
        self.offset = np.zeros((snapshot.samples, self.h)) if snapshot.offset is None else snapshot.offset
        self.types = {constraint.type for constraint in spec.constraints}
        self.labels = snapshot.task == "multilabel"
        # What is right or wrong by itself: a sample, or a label of one.
        self.items = [(n, k) for n in self.samples for k in range(self.h)] if self.labels else self.samples
        self.price = np.zeros((self.h, self.d + 1))
        for constraint in spec.constraints:
            for i, j in _chosen(constraint, (self.h, self.d)):
                if constraint.type in ON_SAMPLES:
                    continue
                if constraint.type == "movement_cost":
                    self.price[i, j] += constraint.value
                elif constraint.type == "nonnegative" or (constraint.type, constraint.value) == ("monotone", 1):
                    self.low[i, j] = max(self.low[i, j], 0.0)
                elif constraint.type == "monotone":
                    self.high[i, j] = min(self.high[i, j], 0.0)

    def best(self):
        """The best over all choices of zeros and multiples."""
        if (self.low > self.high).any():
            return None
        values = [value for low, high in self.weight_cells() if (value := self.in_box(low, high)) is not None]
        return min(values, default=None)

    # --- what constraints on weights leave to choose ---

    def weight_cells(self):
        """Boxes whose union is what zeros and grids allow."""
        for zeros in self.zero_sets():
            for grid in product(*(self.multiples(i, j, step) for i, j, step in self.gridded())):
                low, high = self.low.copy(), self.high.copy()
                for (i, j, _), value in zip(self.gridded(), grid, strict=True):
                    low[i, j] = high[i, j] = value
                for i, j in zeros:
                    low[i, j], high[i, j] = max(low[i, j], 0.0), min(high[i, j], 0.0)
                if (low <= high).all():
                    yield low, high

    def zero_sets(self):
        found = [frozenset()]
        for constraint in self.spec.constraints:
            if constraint.type == "max_nonzero":
                chosen = _chosen(constraint, (self.h, self.d))
                fewest = max(0, len(chosen) - int(constraint.value))
                found = [zeros | set(more) for zeros in found for more in combinations(chosen, fewest)]
        return found

    def gridded(self):
        return [
            (i, j, constraint.value if constraint.type == "grid" else tuple(constraint.levels))
            for constraint in self.spec.constraints
            if constraint.type in ("grid", "levels")
            for i, j in _chosen(constraint, (self.h, self.d))
        ]

    def multiples(self, i, j, step):
        if isinstance(step, tuple):
            values = [float(np.float32(level)) for level in step]
            return [value for value in values if self.low[i, j] <= value <= self.high[i, j]]
        first, last = int(np.ceil(self.low[i, j] / step)) - 1, int(np.floor(self.high[i, j] / step)) + 1
        values = (float(np.float32(k * step)) for k in range(first, last + 1))
        return [value for value in values if self.low[i, j] <= value <= self.high[i, j]]

    # --- the objectives in one box ---

    def in_box(self, low, high):
        match self.spec.objective:
            case "zero_one" | "ramp" | "hinge" | "worst_class" | "worst_group" | "log_loss":
                return self.margins_in(low, high)
            case "mae" | "max_error" | "quantile":
                return self.errors_in(low, high)
            case "outliers":
                return self.outliers_in(low, high)
            case "trimmed_mse" | "trimmed_mae":
                return self.trimmed_in(low, high)
            case "huber":
                return self.convex.least(low, high)
        return self.convex.least(low, high) if self.price.any() else self.squares_in(low, high)

    @property
    def convex(self):
        return ConvexSearch(self.snapshot, self.spec, self.inputs, self.offset, self.w, self.price)

    def trimmed_in(self, low, high):
        """Equal weights: the least over all sets of as many samples as may be dropped."""
        dropped = int(np.floor(len(self.samples) * (self.spec.trim + 1e-9)))
        values = []
        for kept in combinations(self.samples, len(self.samples) - dropped):
            if self.spec.objective == "trimmed_mae":
                values.append(self.errors_in(low, high, among=kept))
            else:
                w = np.where(np.isin(np.arange(self.snapshot.samples), kept), self.w, 0.0)
                of_kept = ConvexSearch(self.snapshot, self.spec, self.inputs, self.offset, w, self.price)
                values.append(of_kept.least(low, high, total=self.w.sum()))
        return min(values)

    def margins_in(self, low, high):
        patterns = self.patterns()
        # Where the pattern alone is the value, the first that can be had is the best.
        counts = self.spec.objective not in ("ramp", "hinge", "log_loss") and not self.price.any()
        if counts:
            patterns.sort(key=lambda pattern: self.count(pattern[0]))
        best = None
        for right, others in patterns:
            rows = [row for item in right for row in self.right_rows(item)] + list(others)
            if not self.has_room(rows, low, high, self.room):
                continue
            value = self.over(right, rows, low, high)
            if value is not None and (best is None or value < best):
                best = value
                if counts:
                    return best
        return best

    def weight_of(self, item):
        return self.w[item[0] if self.labels else item]

    def count(self, right):
        """What a set of right items costs where only right and wrong count."""
        wrong = [item for item in self.items if item not in right]
        if self.spec.objective not in ("worst_class", "worst_group"):
            return sum(self.weight_of(item) for item in wrong)
        classes, cells = _classes(self.snapshot), {}
        for n in self.samples:
            cell = (classes[n], self.snapshot.group[n] if self.spec.objective == "worst_group" else 0)
            cells.setdefault(cell, []).append(n)
        return max(sum(self.w[n] for n in cell if n in wrong) / sum(self.w[n] for n in cell) for cell in cells.values())

    def right_rows(self, item):
        return [(self.margin(item, k), EPS) for k in self.rivals(item)]

    def has_room(self, rows, low, high, room):
        """Whether all rows can hold by this much."""
        return room == 0 or self.minimise([(row, need + room) for row, need in rows], {}, low, high) is not None

    def patterns(self):
        """(items that have to be right, rows of what else has to be: wrong samples, samples not called a class)."""
        gap = "group_rate_gap" in self.types
        called_too = "precision_floor" in self.types  # a sample that need not be right may be called something else
        monotone = not (gap or called_too or self.spec.objective in ("zero_one", "worst_class", "worst_group"))
        found = []
        for right in _subsets(self.items):
            for called, rows in self.callings(right):
                if not self.fits(right, called):
                    continue
                # A smaller set that fits asks for less, unless the count itself is what is minimised or balanced.
                if monotone and any(self.fits(right - {n}, called) for n in right):
                    continue
                wrong = [n for n in self.samples if n not in right] if gap else []
                losing = ([self.lost(n, k) for n, k in chosen] for chosen in product(*map(self.losses_of, wrong)))
                found += [(right, [*rows, *more]) for more in losing]
        return found

    def losses_of(self, n):
        return [(n, k) for k in self.rivals(n)]

    def lost(self, n, k):
        """The row of a sample that a rival keeps from being right."""
        return [-part for part in self.margin(n, k)], -EPS

    def callings(self, right):
        """Which (sample, class) may count as called, and the rows that keep all others from it."""
        asked = [c for c in self.spec.constraints if c.type == "precision_floor"]
        if not asked:
            yield frozenset(), []
            return
        count = _class_count(self.snapshot)
        classes = {c for one in asked for c in one.classes or range(count)}
        own = _classes(self.snapshot)
        pairs = [(n, c) for n in self.samples if n not in right for c in classes if c != own[n]]
        # Beaten by the own class alone, if there are but two, a sample would be right.
        ways = [[None, *(k for k in range(count) if k != c and count > 2)] for _, c in pairs]
        for chosen in product(*ways):
            called = frozenset(pair for pair, k in zip(pairs, chosen, strict=True) if k is None)
            rows = [(self.beating(n, k, c), EPS) for (n, c), k in zip(pairs, chosen, strict=True) if k is not None]
            yield called, rows

    def fits(self, right, called):
        mask = np.zeros(self.snapshot.samples, dtype=bool)
        shares = [c for c in self.spec.constraints if c.type in ON_SAMPLES]
        if shares:
            mask[list(right)] = True
        return all(_shares_fit(self.snapshot, constraint, mask, called) for constraint in shares)

    def over(self, right, rows, low, high):
        """The least objective where these items are right and these rows hold."""
        if self.spec.objective in ("zero_one", "worst_class", "worst_group"):
            moved = self.minimise(rows, {}, low, high)
            return None if moved is None else moved + self.count(right)
        if self.spec.objective == "hinge":
            return self.hinge(self.items, rows, low, high)
        if self.minimise(rows, {}, low, high) is None:
            return None
        if self.spec.objective == "log_loss":
            return self.convex.least(low, high, rows=rows)
        others = [item for item in self.items if item not in right]
        total = sum(self.weight_of(item) for item in self.items)
        values = []
        for more in _subsets(others):
            among = right | more
            values.append(self.hinge(among, rows, low, high) + total - sum(self.weight_of(item) for item in among))
        return min(values)

    def hinge(self, among, rows, low, high):
        margin = self.spec.margin
        soft = [(self.margin(item, k, slack=margin), margin) for item in among for k in self.rivals(item)]
        cost = {self.items.index(item): self.weight_of(item) for item in among}
        return self.minimise(rows + soft, cost, low, high)

    def errors_in(self, low, high, among=None):
        """A slack for each output of each sample, and for quantile one for each side of it."""
        shared, rows, cost = self.spec.objective == "max_error", [], {}
        among = self.samples if among is None else among
        slacks = 2 * len(self.samples) * self.h
        sides = (1 - self.spec.quantile, self.spec.quantile) if self.spec.objective == "quantile" else (1.0, 1.0)
        for index, n in enumerate(among):
            for k in range(self.h):
                level, slope = self.score(n, k)
                for side, sign in enumerate((-1.0, 1.0)):
                    place = 0 if shared else 2 * (index * self.h + k)
                    place += side if self.spec.objective == "quantile" else 0
                    slack = np.zeros(slacks)
                    slack[place] = 1.0
                    row = np.concatenate([sign * slope, slack])
                    rows.append(((sign * (level - self.target(n, k)), row), 0.0))
                    cost[place] = 1.0 if shared else sides[side] * self.w[n] / (self.h * self.w.sum())
        return self.minimise(rows, cost, low, high, slacks=slacks)

    def outliers_in(self, low, high):
        subsets = sorted(_subsets(self.samples), key=lambda inside: -sum(self.w[n] for n in inside))
        total, best = sum(self.w[n] for n in self.samples), None
        for inside in subsets:
            rows = []
            for n, k in product(inside, range(self.h)):
                level, slope = self.score(n, k)
                for sign in (1.0, -1.0):
                    row = np.concatenate([sign * slope, np.zeros(len(self.items))])
                    rows.append(((sign * (level - self.target(n, k)), row), -self.spec.tolerance))
            moved = self.minimise(rows, {}, low, high)
            if moved is not None and self.has_room(rows, low, high, self.room):
                value = moved + total - sum(self.w[n] for n in inside)
                if not self.price.any():
                    return value
                best = value if best is None else min(best, value)
        return best

    def squares_in(self, low, high):
        """Each unit by itself: every entry at its lowest, its highest, or free where the gradient vanishes."""
        total = 0.0
        root = np.sqrt(self.w / (self.h * self.w.sum()))[:, None]
        for k in range(self.h):
            matrix = root * self.inputs
            wanted = root[:, 0] * ([self.target(n, k) for n in range(self.snapshot.samples)] - self.offset[:, k])
            values = []
            for sides in product((0, 1, 2), repeat=self.d + 1):
                x = np.choose(sides, [low[k], high[k], np.zeros(self.d + 1)])
                free = np.flatnonzero(np.array(sides) == 2)
                if free.size:
                    x[free] = np.linalg.lstsq(matrix[:, free], wanted - matrix @ x, rcond=None)[0]
                if (x >= low[k] - 1e-12).all() and (x <= high[k] + 1e-12).all():
                    values.append(float(((matrix @ x - wanted) ** 2).sum()))
            total += min(values)
        return total

    # --- rows: (level, coefficients) of something that is to be at least a need ---

    def rivals(self, item):
        """Who may win in the place of the right class; a label of one logit has one rival, which is nobody."""
        if self.snapshot.task != "classification":
            return [None]
        return [k for k in range(self.h) if k != self.snapshot.targets[item]]

    def target(self, n, k):
        return float(self.snapshot.targets.reshape(self.snapshot.samples, -1)[n, k])

    def score(self, n, k):
        slope = np.zeros((self.h, self.d + 1))
        slope[k] = self.inputs[n]
        return float(self.offset[n, k]), slope.ravel()

    def margin(self, item, k, *, slack=0.0):
        slacks = np.zeros(len(self.items))
        slacks[self.items.index(item)] = slack
        if self.snapshot.task == "classification":
            level, slope = self.difference(item, self.snapshot.targets[item], k)
        else:
            n, unit = item if self.labels else (item, 0)
            sign = 1.0 if self.snapshot.targets.reshape(self.snapshot.samples, -1)[n, unit] else -1.0
            level, slope = self.score(n, unit)
            level, slope = sign * level, sign * slope
        return [level, np.concatenate([slope, slacks])]

    def difference(self, n, k, c):
        own, other = self.score(n, k), self.score(n, c)
        return own[0] - other[0], own[1] - other[1]

    def beating(self, n, k, c):
        level, slope = self.difference(n, k, c)
        return [level, np.concatenate([slope, np.zeros(len(self.items))])]

    def minimise(self, rows, slack_cost, low, high, *, slacks=None):
        """The LP's value (slacks by number, and movement), None when it is infeasible."""
        slacks = len(self.items) if slacks is None else slacks
        priced = np.flatnonzero(self.price.ravel())
        columns = self.size + slacks + priced.size
        cost = np.zeros(columns)
        for place, price in slack_cost.items():
            cost[self.size + place] = price
        cost[self.size + slacks :] = self.price.ravel()[priced]
        lower = np.concatenate([low.ravel(), np.zeros(slacks + priced.size)])
        upper = np.concatenate([high.ravel(), np.full(slacks + priced.size, INFINITE)])
        matrix = np.zeros((len(rows) + 2 * priced.size, columns))
        needs = np.zeros(len(matrix))
        for index, ((level, slope), need) in enumerate(rows):
            matrix[index, : self.size + slacks] = slope
            needs[index] = need - level
        own = np.zeros((self.h, self.d + 1))
        own[:, :-1] = self.snapshot.weight
        for index, place in enumerate(priced):
            for sign in (1.0, -1.0):
                row = len(rows) + 2 * index + (sign < 0)
                matrix[row, self.size + slacks + index], matrix[row, place] = 1.0, -sign
                needs[row] = -sign * own.ravel()[place]
        return linear_program(cost, matrix, needs, lower, upper)


def linear_program(cost, matrix, needs, lower, upper):
    """The least `cost x` over rows `matrix x >= needs` and the box; None when nothing fits."""
    highs = highspy.Highs()
    for option, value in (("output_flag", False), ("threads", 1), ("presolve", "off")):
        highs.setOptionValue(option, value)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = cost.size, needs.size
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, lower, upper
    lp.row_lower_, lp.row_upper_ = needs, np.full(needs.size, INFINITE)
    row, column = np.nonzero(matrix)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.searchsorted(row, np.arange(needs.size + 1)).astype(np.int32)
    lp.a_matrix_.index_, lp.a_matrix_.value_ = column.astype(np.int32), matrix[row, column]
    highs.passModel(lp)
    highs.run()
    status = highs.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return None
    assert status in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kModelEmpty), status
    return float(highs.getInfo().objective_function_value)
