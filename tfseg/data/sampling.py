"""Which patch comes next: stateless draws, in the TensorFlow graph."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence

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
        return self._descend(number, tf.zeros_like(number), 0)

    def _descend(self, number: tf.Tensor, node: tf.Tensor, start: int) -> tf.Tensor:
        """Rows below nodes of step ``start`` of the tree."""
        random_bits = counter_random.bits(self.seed, number, len(self._levels), _PURPOSE_DRAW)
        for level, (first, count) in list(enumerate(self._levels))[start:]:
            child = counter_random.integers(random_bits[..., level], tf.gather(count, node))
            node = tf.gather(first, node) + child
        return tf.gather(self._order, node)


class RatioSampler(HierarchicalSampler):
    """Classes in a fixed ratio, exact in every batch; multi-stain multi-level network, "Class Imbalance": 2 : 1 : 1.

    Draws 0, 1, 2, 3 of a ratio {"tumour": 2, "normal": 1, "others": 1} are tumour, tumour, normal, others, and so on,
    so a batch whose size is a multiple of 4 holds each class exactly in its share. Within the class rows are drawn as
    by :class:`HierarchicalSampler`. The class follows the worker's own draws, so the batches of each worker keep the
    ratio too.

    Args:
        table: one row a patch or window; classes that the ratio does not name are never drawn.
        ratio: whole number of draws by value of ``column``.
        column: what the ratio is of.
        columns: further steps within a class, as ("slide_name",); none makes all rows of a class equally probable.
        seed: of the draws.

    Raises:
        CohortError: the table lacks a column or has no row of a class; a share is no whole number above 0.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        ratio: Mapping[str, int],
        column: str = "class",
        columns: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(table, (column, *columns), seed)
        if not ratio or any(share != int(share) or share < 1 for share in ratio.values()):
            raise CohortError(f"a ratio is a whole number above 0 for each class. Received: {dict(ratio)}.")
        present = sorted(_strata(table[column]).unique())
        missing = [name for name in ratio if name not in present]
        if missing:
            raise CohortError(
                f"cannot sample {column} in the ratio {dict(ratio)}: no row of {', '.join(map(repr, missing))}. "
                f"There are: {', '.join(present)}. Annotate some, or leave it out of the ratio."
            )
        slots = [present.index(name) for name, share in ratio.items() for _ in range(int(share))]
        with tf.device("CPU"):
            self._slots = tf.constant(slots, tf.int64)

    @property
    def batch_multiple(self) -> int:
        """Batches of a multiple of this size hold the ratio exactly."""
        return int(self._slots.shape[0])

    def draw(self, n: int | tf.Tensor) -> tf.Tensor:
        """Row numbers, int64 of the shape of ``n`` (scalar or vector, ≥ 0)."""
        node = tf.gather(self._slots, tf.cast(n, tf.int64) % self.batch_multiple)
        return self._descend(self._number(n), node, 1)


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
        self._orders: dict[int, np.ndarray] = {}

    def _rows(self, number: tf.Tensor) -> tf.Tensor:
        rows = tf.numpy_function(self._look_up, [number], tf.int64)
        return tf.ensure_shape(rows, number.shape)

    def _look_up(self, number: np.ndarray) -> np.ndarray:
        """Orders of the epochs are sorted once, not for every draw, and kept while draws are near."""
        number, kept = np.asarray(number), self._orders  # another thread may put others in their place
        epochs = np.unique(number // self.count).tolist()
        new = np.array([epoch for epoch in epochs if epoch not in kept], np.int64)
        orders = {epoch: kept[epoch] for epoch in epochs if epoch in kept}
        if len(new):
            with tf.device("CPU"):
                keys = counter_random.bits(self.seed, tf.constant(new), self.count, _PURPOSE_EPOCH)
            orders |= dict(zip(new.tolist(), np.argsort(keys.numpy().astype(np.int64), axis=-1), strict=True))
            self._orders = orders
        rows = np.empty(number.shape, np.int64)
        for epoch, order in orders.items():
            here = number // self.count == epoch
            rows[here] = order[number[here] % self.count]
        return rows


def _strata(column: pd.Series) -> pd.Series:
    """Values as text; empty cells are "unknown"."""
    values = column.astype(object).where(column.notna(), UNKNOWN).astype(str)
    return values.where(values != "", UNKNOWN)


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
        codes[:, k] = pd.factorize(_strata(table[column]), sort=True)[0]
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
