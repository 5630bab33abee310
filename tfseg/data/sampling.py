"""Which patch comes next: stateless draws, in the TensorFlow graph."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import tensorflow as tf

from tfseg.data import counter_random
from tfseg.types import CohortError

UNKNOWN = "unknown"
"""Stratum of rows whose cell is empty."""

_PURPOSE_DRAW, _PURPOSE_SEED, _PURPOSE_EPOCH = 1, 2, 3


class Sampler:
    """Draw n of a sampler is a function of its seed and of n alone, whatever was drawn before.

    So a run resumes at any draw, and ``share`` gives workers streams without a common draw.
    """

    def __init__(self, seed: int) -> None:
        self.seed = int(seed)
        self._worker, self._workers = 0, 1

    def share(self, worker: int, workers: int) -> Sampler:
        """The sampler of one of ``workers`` workers: its draw n is this sampler's draw n · workers + worker."""
        if not 0 <= worker < workers:
            raise ValueError(f"worker must be in 0..workers - 1. Received: worker {worker} of {workers}.")
        other = copy.copy(self)
        other._worker = self._worker + worker * self._workers
        other._workers = self._workers * workers
        return other

    def draw(self, n: int | tf.Tensor) -> tf.Tensor:
        """Row numbers, int64 of the shape of ``n`` (scalar or vector, ≥ 0)."""
        return self._rows(self._number(n))

    def seeds(self, n: int | tf.Tensor) -> tf.Tensor:
        """A random int64 for every draw, independent of the row drawn: the seed of its augmentation."""
        return tf.cast(counter_random.bits(self.seed, self._number(n), 1, _PURPOSE_SEED)[..., 0], tf.int64)

    def dataset(self, start: int = 0, worker: int = 0, workers: int = 1) -> tf.data.Dataset:
        """Endless dataset of row numbers: draws ``start``, ``start`` + 1, … of worker ``worker``'s share."""
        return tf.data.Dataset.counter(start).map(self.share(worker, workers).draw)

    def _number(self, n: int | tf.Tensor) -> tf.Tensor:
        return tf.cast(n, tf.int64) * self._workers + self._worker

    def _rows(self, number: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError


class HierarchicalSampler(Sampler):
    """Uniform at each step of a list of columns, then uniform over the rows that are left.

    With columns (grade, slide_name, class): a grade, one of its slides, one of the classes which that slide has, one
    of the slide's patches of that class; p(patch) = 1 / (grades · slides of the grade · classes of the slide ·
    patches of the class). H2G-Net, section 2.3. A slide without tumour just has one class. An empty cell is its own
    stratum, "unknown".

    Args:
        table: one row a patch; ``draw`` returns positions in it (``table.iloc``).
        columns: in the order of the steps; none of them makes all rows equally probable.
        seed: of the draws.

    Raises:
        CohortError: the table has no rows, or lacks a column (the message lists those it has).
    """

    def __init__(
        self, table: pd.DataFrame, columns: Sequence[str] = ("grade", "slide_name", "class"), seed: int = 0
    ) -> None:
        super().__init__(seed)
        self.columns = tuple(columns)
        missing = [column for column in self.columns if column not in table.columns]
        if missing:
            raise CohortError(
                f"cannot sample by {', '.join(map(repr, missing))}: no such column. "
                f"Columns: {', '.join(map(str, table.columns))}. "
                "Add it to the manifest and index again, or sample by other columns."
            )
        if table.empty:
            raise CohortError("cannot sample from an index without patches. Choose a split that has some.")
        order, levels = _offsets(table, self.columns)
        with tf.device("CPU"):
            self._order = tf.constant(order)
            self._levels = [(tf.constant(first), tf.constant(count)) for first, count in levels]

    def _rows(self, number: tf.Tensor) -> tf.Tensor:
        random_bits = counter_random.bits(self.seed, number, len(self._levels), _PURPOSE_DRAW)
        node = tf.zeros_like(number)
        for level, (first, count) in enumerate(self._levels):
            child = counter_random.integers(random_bits[..., level], tf.gather(count, node))
            node = tf.gather(first, node) + child
        return tf.gather(self._order, node)


class EpochSampler(Sampler):
    """Every one of ``count`` rows once an epoch, each epoch in a new random order; one epoch runs into the next.

    Raises:
        CohortError: ``count`` is 0.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        super().__init__(seed)
        if count < 1:
            raise CohortError("cannot sample from an empty list. Choose a split that has slides.")
        self.count = int(count)

    def _rows(self, number: tf.Tensor) -> tf.Tensor:
        epoch, position = number // self.count, number % self.count
        keys = counter_random.bits(self.seed, epoch, self.count, _PURPOSE_EPOCH)
        # argsort takes signed integers only; the order of the cast keys is just as random.
        order = tf.argsort(tf.cast(keys, tf.int64), axis=-1)
        return tf.cast(tf.gather(order, position[..., None], batch_dims=position.shape.rank)[..., 0], tf.int64)


def _offsets(table: pd.DataFrame, columns: Sequence[str]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """The tree as arrays.

    Returns:
        order: int64 (N,), row positions sorted by the columns.
        levels: per step (first, count), int64 (nodes of the step before,): the children of node j are nodes
            first[j] … first[j] + count[j] - 1 of the next step. The root is one node; the last step's nodes are
            positions in ``order``.
    """
    codes = np.zeros((len(table), len(columns)), np.int64)
    for k, column in enumerate(columns):
        values = table[column].astype(object).where(table[column].notna(), UNKNOWN).astype(str)
        codes[:, k] = pd.factorize(values.where(values != "", UNKNOWN), sort=True)[0]
    order = np.lexsort(codes.T[::-1]) if columns else np.arange(len(table))
    changes = np.zeros(len(table), bool)
    changes[0] = True
    starts = [np.array([0])]
    for k in range(len(columns)):
        changes[1:] |= np.diff(codes[order, k]) != 0
        starts.append(np.flatnonzero(changes))
    starts.append(np.arange(len(table)))
    levels = []
    for parents, children in itertools.pairwise(starts):
        first = np.searchsorted(children, parents).astype(np.int64)
        levels.append((first, np.diff(np.append(first, len(children))).astype(np.int64)))
    return order.astype(np.int64), levels
