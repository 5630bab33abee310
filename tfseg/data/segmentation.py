"""tf.data of segmentation networks: concentric fields read straight from slides, and the labels of their target."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfseg.data.dense_augment import DenseAugment
from tfseg.data.elastic import ElasticGrid
from tfseg.data.index import PatchIndex
from tfseg.data.sampling import Sampler
from tfseg.data.warp import Border
from tfseg.data.windows import WindowPlan, WindowReader
from tfseg.types import InputSpec

Target = tuple[int | tuple[int, int], float]

_CHUNK = 4
"""Windows that a thread reads before it hands them over; a window of three fields is 0.6 MB."""
_ELASTIC = ElasticGrid()


def segmentation_dataset(
    index: PatchIndex,
    sampler: Sampler,
    batch_size: int,
    fields: Sequence[InputSpec],
    target: Target,
    *,
    augment: DenseAugment | None = None,
    start_step: int = 0,
    threads: int = 8,
    outputs: Sequence[str] = ("segmentation",),
    elastic: ElasticGrid = _ELASTIC,
    border: Border = "zero",
) -> tf.data.Dataset:
    """Endless batches of windows in the sampler's order.

    Step k holds draws k · batch_size … (k + 1) · batch_size − 1, whatever was drawn before and however many threads
    read. Rows with a ``version`` above 0 (``tfseg.data.balance.expand``) are deformed as they are read. Memory: about
    8 · threads windows and 4 batches as uint8, two batches as float32, and the annotations.

    Args:
        index: windows of annotated slides.
        sampler: over ``index.table``; ``sampler.share(worker, workers)`` for one of several workers.
        batch_size: windows a step.
        fields: the network's inputs, ``ModelSpec.inputs``.
        target: (side or (height, width) in pixels, µm/px) of the labels: ``output_px`` and ``output_mpp`` of the spec.
        augment: changes fields and labels; its seeds are the sampler's.
        start_step: first step, to resume.
        threads: windows read at the same time.
        outputs: names of the network's outputs; each gets the labels.
        elastic: how copies are deformed.
        border: what lies beyond the slide's edges: "zero" (black, as in the DMMN paper) or "white".

    Returns:
        dataset of ({name: float32 (B, H, W, 3) in 0..255}, {name: uint8 (B, h, w)}); 255 is not annotated. Reading
        errors are raised as ``tf.errors.OpError`` whose message holds the SlideError's.

    Raises:
        CohortError: windows of slides without annotation.
        ModelError: a field without mpp, or one that is not square where the augmentation turns.
    """
    plan = _plan(fields, target, augment, elastic, border)
    numbers = tf.data.Dataset.counter(start_step * batch_size).batch(_CHUNK)
    rows = numbers.map(lambda n: (sampler.draw(n), sampler.seeds(n)))
    return _windows(index, rows, plan, (batch_size, True), threads, outputs)


def segmentation_validation_dataset(
    index: PatchIndex,
    batch_size: int,
    fields: Sequence[InputSpec],
    target: Target,
    *,
    sampler: Sampler | None = None,
    steps: int | None = None,
    threads: int = 8,
    outputs: Sequence[str] = ("segmentation",),
    elastic: ElasticGrid = _ELASTIC,
    border: Border = "zero",
) -> tf.data.Dataset:
    """The same windows at every pass, not augmented.

    With a sampler (with a seed of its own), its first ``steps`` batches; without one, every window of the index once,
    in its order, the last batch smaller. Arguments, returns and raises as :func:`segmentation_dataset`.
    """
    if (sampler is None) != (steps is None):
        raise ValueError("segmentation_validation_dataset takes sampler and steps together, or neither.")
    plan = _plan(fields, target, None, elastic, border)
    if sampler is not None:
        numbers = tf.data.Dataset.range(batch_size * (steps or 0)).batch(_CHUNK)
        rows = numbers.map(lambda n: (sampler.draw(n), sampler.seeds(n)))
    else:
        rows = tf.data.Dataset.range(len(index.table)).batch(_CHUNK).map(lambda n: (n, n))
    return _windows(index, rows, plan, (batch_size, False), threads, outputs)


def _plan(
    fields: Sequence[InputSpec], target: Target, augment: DenseAugment | None, elastic: ElasticGrid, border: Border
) -> WindowPlan:
    size, mpp = target
    height, width = (size, size) if isinstance(size, int) else size
    return WindowPlan(tuple(fields), (height, width), mpp, augment, elastic, border)


def _windows(
    index: PatchIndex,
    rows: tf.data.Dataset,
    plan: WindowPlan,
    batch: tuple[int, bool],
    threads: int,
    outputs: Sequence[str],
) -> tf.data.Dataset:
    """Batches of the windows whose (rows, seeds) come from ``rows`` in chunks; ``batch`` is (size, whether to drop a
    smaller last one)."""
    reader = WindowReader(index, plan, threads)
    shapes = [(None, *one.size_px, 3) for one in plan.fields] + [(None, *plan.target_px)]

    def read(rows: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, ...]:
        arrays = tf.numpy_function(reader, [rows, seeds], [tf.uint8] * len(shapes))
        return tuple(tf.ensure_shape(array, shape) for array, shape in zip(arrays, shapes, strict=True))

    def finish(*arrays: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        images = {one.name: tf.cast(array, tf.float32) for one, array in zip(plan.fields, arrays, strict=False)}
        return images, dict.fromkeys(outputs, arrays[-1])

    windows = rows.map(read, num_parallel_calls=threads, deterministic=True)
    return windows.rebatch(*batch).prefetch(2).map(finish).prefetch(1)
