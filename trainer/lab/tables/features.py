"""Encodes columns as the inputs of a network, with every statistic taken from the training rows alone."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainer.errors import TaskError
from trainer.lab.tables.columns import Numbers, Words, read_column
from trainer.lab.tables.numerals import LARGEST
from trainer.lab.tables.reading import Column, Mark

MOST_WORDS = 100
"""A text column with more different words than this is an identifier, not a feature."""
Rows = NDArray[np.int64]
Matrix = NDArray[np.float32]


def encode(columns: Mapping[str, Column], decimals: Mapping[str, Mark], words: tuple[str, ...], train: Rows) -> Matrix:
    """All inputs as one matrix [N, d]; `train` are the training rows, from which every statistic comes.

    A column of numbers gives one standardised input, its gaps filled with the median, and one that marks the gaps if
    the training rows have some; a column of words gives one input a word. What does not vary in the training rows is
    left out. Raises TaskError if nothing is left.
    """
    parts = []
    for name, column in columns.items():
        values = read_column(column, decimals[name], as_words=name in words)
        parts.append(one_hot(column, values, train) if isinstance(values, list) else standardise(values, train))
    # Standardised in float64 first: in float32 a time stamp of today is known to 2 minutes only.
    matrix = np.hstack(parts).astype(np.float32)
    if matrix.shape[1] == 0:
        raise TaskError("no column besides the target varies in the training rows", field="data")
    return matrix


def standardise(values: Numbers, train: Rows) -> Numbers:
    """Numbers [N] of mean 0 and spread 1 in the training rows [N, 1], and a second input for gaps if they have some."""
    gaps = np.isnan(values)
    known = values[train][~gaps[train]]
    parts = []
    if len(known) and known.min() < known.max():
        scale = np.abs(known).max()  # so that squares do not vanish
        mean, spread = (known / scale).mean(), (known / scale).std()
        filled = np.where(gaps, np.median(known), values) / scale
        if spread > 0:
            parts.append(np.clip((filled - mean) / spread, -LARGEST, LARGEST))
    if 0 < gaps[train].sum() < len(train):
        parts.append(gaps.astype(np.float64))
    return np.column_stack(parts) if parts else np.empty((len(values), 0))


def one_hot(column: Column, words: Words, train: Rows) -> Numbers:
    """Words as one input for each that the training rows hold [N, words]; others are 0 everywhere."""
    known = sorted({words[row] for row in train})
    if len(known) > MOST_WORDS:
        raise column.error(
            f"holds {len(known)} different words like {known[-1]!r}, too many to one-hot encode; remove the column "
            f"with --drop {column.name!r}"
        )
    if len(known) < 2:
        return np.empty((len(words), 0))
    place = {word: index for index, word in enumerate(known)}
    matrix = np.zeros((len(words), len(known)))
    for row, word in enumerate(words):
        if word in place:
            matrix[row, place[word]] = 1.0
    return matrix
