"""tf.data: patches read straight from slides, and cached slides for the refinement stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfseg.data.index import PatchIndex
from tfseg.data.sampling import EpochSampler, Sampler
from tfseg.slides.base import Slide, open_slide
from tfseg.types import CohortError, SlideError, TfsegError

Augment = Callable[..., Any]

_CHUNK = 16
"""Patches that a thread reads before it hands them over: handing over costs as much time as a tenth of a patch."""


class PatchReader:
    """Reads patches of an index by row number, in threads of its own.

    A thread that TensorFlow lends to Python is a new one to Python at every call, so what ``tfseg.slides`` keeps open
    for each thread would be opened anew for every patch. Slides are opened at their first patch; how many files stay
    open is bounded there.
    """

    def __init__(self, index: PatchIndex, threads: int) -> None:
        table = index.table
        self._config = index.config
        self._slide_of, self._paths = table["slide"].astype(object).factorize()
        self._mpp = table["slide_mpp"].to_numpy(np.float64)
        self._x = table["x"].to_numpy(np.float64)
        self._y = table["y"].to_numpy(np.float64)
        self._slides: dict[int, Slide] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-patches")

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Several patches, one after the other, by one thread: int64 (N,) → uint8 (N, patch_px, patch_px, 3)."""
        return self._pool.submit(self._read_rows, rows).result()

    def read(self, row: int) -> np.ndarray:
        """uint8 RGB (patch_px, patch_px, 3). Raises SlideError naming slide and window."""
        number = int(self._slide_of[row])
        window = self._config.window(float(self._x[row]), float(self._y[row]))
        try:
            slide = self._slides.get(number)
            if slide is None:
                slide = self._slides[number] = open_slide(self._paths[number], float(self._mpp[row]))
            return slide.read(window)
        except (TfsegError, OSError) as error:
            raise SlideError(
                f"{self._paths[number]}: cannot read the patch at ({window.x:g}, {window.y:g}) px, "
                f"{window.width_px}² px of {window.mpp:g} µm (row {row} of the index): {error}"
            ) from error

    def _read_rows(self, rows: np.ndarray) -> np.ndarray:
        size = self._config.patch_px
        patches = np.empty((len(rows), size, size, 3), np.uint8)
        for k, row in enumerate(rows):
            patches[k] = self.read(int(row))
        return patches


def patch_dataset(
    index: PatchIndex,
    sampler: Sampler,
    batch_size: int,
    *,
    augment: Augment | None = None,
    start_step: int = 0,
    threads: int = 8,
    num_classes: int = 2,
) -> tf.data.Dataset:
    """Endless batches of patches in the sampler's order.

    Step k holds draws k · batch_size … (k + 1) · batch_size − 1, whatever was drawn before and however many threads
    read. Memory: about 32 · threads patches and 4 batches as uint8, and two batches as float32.

    Args:
        index: the patches; all of them annotated.
        sampler: over ``index.table``; ``sampler.share(worker, workers)`` for one of several workers.
        batch_size: patches a step.
        augment: (uint8 image (S, S, 3), int64 seed) → uint8 image, in the graph; e.g. ``PatchAugment()``.
        start_step: first step, to resume.
        threads: patches read at the same time.
        num_classes: C.

    Returns:
        dataset of ({"image": float32 (B, S, S, 3) in 0..255}, {"probabilities": float32 one-hot (B, C)}). Reading
        errors are raised as ``tf.errors.OpError`` whose message holds the SlideError's.

    Raises:
        CohortError: patches without annotation, or of a class beyond C.
    """
    numbers = tf.data.Dataset.counter(start_step * batch_size).batch(_CHUNK)
    rows = numbers.map(lambda n: (sampler.draw(n), sampler.seeds(n)))
    return _patches(index, rows, (batch_size, True), augment, threads, num_classes)


def validation_dataset(
    index: PatchIndex,
    batch_size: int,
    *,
    sampler: Sampler | None = None,
    steps: int | None = None,
    threads: int = 8,
    num_classes: int = 2,
) -> tf.data.Dataset:
    """The same patches at every pass, not augmented.

    With a sampler (with a seed of its own), its first ``steps`` batches, as the paper's 200; without one, every
    patch of the index once, in its order, the last batch smaller. Returns and raises as :func:`patch_dataset`.
    """
    if (sampler is None) != (steps is None):
        raise ValueError("validation_dataset takes sampler and steps together, or neither for every patch once.")
    if sampler is not None:
        return patch_dataset(index, sampler, batch_size, threads=threads, num_classes=num_classes).take(steps)
    rows = tf.data.Dataset.range(len(index.table)).batch(_CHUNK).map(lambda n: (n, n))
    return _patches(index, rows, (batch_size, False), None, threads, num_classes)


def refinement_dataset(
    samples: Sequence[str | Path | tuple[np.ndarray, np.ndarray, np.ndarray]],
    batch_size: int,
    *,
    augment: Augment | None = None,
    sampler: Sampler | int = 0,
    start_step: int = 0,
    inputs: Sequence[str] = ("image", "heatmap"),
    outputs: Sequence[str] = ("segmentation",),
) -> tf.data.Dataset:
    """Endless batches of whole slides with their heatmaps.

    Args:
        samples: .npz files with image uint8 (S, S, 3), heatmap float16 (S, S) and label uint8 (S, S), or such arrays.
        batch_size: slides a step.
        augment: (image, heatmap (S, S, 1), label, int64 seed) → the same three; e.g. ``SlideAugment()``.
        sampler: over the positions in ``samples``, or the seed of an :class:`EpochSampler` (each slide once an epoch).
        start_step: first step, to resume; step k holds draws k · batch_size … .
        inputs: names among "image" and "heatmap" that the network takes.
        outputs: names of the network's heads; each gets the label.

    Returns:
        dataset of ({"image": float32 (B, S, S, 3) in 0..255, "heatmap": float32 (B, S, S, 1)},
        {name: uint8 (B, S, S) for every output}).

    Raises:
        CohortError: no samples; while reading, as ``tf.errors.OpError``, a sample that is missing or damaged.
    """
    if isinstance(sampler, int):
        sampler = EpochSampler(len(samples), sampler)
    numbers = tf.data.Dataset.counter(start_step * batch_size)
    rows = numbers.map(lambda n: (sampler.draw(n), sampler.seeds(n)))
    return _slides(samples, rows, batch_size, augment, (inputs, outputs))


def refinement_validation_dataset(
    samples: Sequence[str | Path | tuple[np.ndarray, np.ndarray, np.ndarray]],
    batch_size: int,
    *,
    inputs: Sequence[str] = ("image", "heatmap"),
    outputs: Sequence[str] = ("segmentation",),
) -> tf.data.Dataset:
    """Every sample once, in order, not augmented, the last batch smaller; else as :func:`refinement_dataset`."""
    rows = tf.data.Dataset.range(len(samples)).map(lambda n: (n, n))
    return _slides(samples, rows, batch_size, None, (inputs, outputs))


def _patches(
    index: PatchIndex,
    rows: tf.data.Dataset,
    batch: tuple[int, bool],
    augment: Augment | None,
    threads: int,
    classes: int,
) -> tf.data.Dataset:
    """Batches of the patches whose (rows, seeds) come from ``rows`` in chunks.

    ``batch`` is (size, whether to drop a smaller last one); the chunks' size is free.
    """
    labels = index.table["class_index"].to_numpy(np.int64)
    if len(labels) and labels.max() >= classes:
        raise CohortError(
            f"{int((labels >= classes).sum())} of {len(labels)} patches are not annotated or of a class beyond "
            f"the {classes} of the network. Use index.annotated(), or a network of more classes."
        )
    reader, size = PatchReader(index, threads), index.config.patch_px
    with tf.device("CPU"):
        label_of = tf.constant(labels)

    def read(rows: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images = tf.ensure_shape(tf.numpy_function(reader, [rows], tf.uint8), (None, size, size, 3))
        return images, tf.gather(label_of, rows), seeds

    def finish(
        images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        return {"image": tf.cast(images, tf.float32)}, {"probabilities": tf.one_hot(labels, classes)}

    patches = rows.map(read, num_parallel_calls=threads, deterministic=True)
    if augment is None:
        batches = patches.rebatch(*batch)
    else:

        def change(image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return augment(image, seed), label, seed

        batches = patches.unbatch().map(change, num_parallel_calls=threads, deterministic=True).batch(*batch)
    return batches.prefetch(2).map(finish).prefetch(1)


def _slides(
    samples: Sequence[Any],
    rows: tf.data.Dataset,
    batch_size: int,
    augment: Augment | None,
    names: tuple[Sequence[str], Sequence[str]],
) -> tf.data.Dataset:
    """Batches of the samples whose (position, seed) come from ``rows``."""
    if not samples:
        raise CohortError("no slides for the refinement stage. Choose splits that have annotated slides.")
    samples = list(samples)
    image, _, _ = _load_sample(samples[0])
    height, width = image.shape[:2]
    inputs, outputs = names

    def load(position: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _load_sample(samples[int(position)], (height, width))

    def read(row: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        image, heatmap, label = tf.numpy_function(load, [row], (tf.uint8, tf.float16, tf.uint8))
        image = tf.ensure_shape(image, (height, width, 3))
        heatmap = tf.cast(tf.ensure_shape(heatmap, (height, width))[..., None], tf.float32)
        label = tf.ensure_shape(label, (height, width))
        if augment is not None:
            image, heatmap, label = augment(image, heatmap, label, seed)
        return image, heatmap, label

    def finish(
        image: tf.Tensor, heatmap: tf.Tensor, label: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        both = {"image": tf.cast(image, tf.float32), "heatmap": heatmap}
        return {name: both[name] for name in inputs}, dict.fromkeys(outputs, label)

    return rows.map(read, num_parallel_calls=2, deterministic=True).batch(batch_size).map(finish).prefetch(1)


def _load_sample(
    sample: str | Path | tuple[np.ndarray, np.ndarray, np.ndarray], size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image uint8 (H, W, 3), heatmap float16 (H, W), label uint8 (H, W))."""
    if not isinstance(sample, (str, Path)):
        image, heatmap, label = sample
        return image, np.asarray(heatmap, np.float16), label
    try:
        with np.load(sample) as content:
            image, heatmap, label = content["image"], content["heatmap"], content["label"]
    except Exception as error:  # np.load raises anything from BadZipFile to EOFError
        raise CohortError(
            f"{sample}: cannot read this cached slide ({type(error).__name__}: {error}). Delete it; it is made again."
        ) from error
    shapes = image.shape[:2], heatmap.shape, label.shape
    if len({*shapes, size or image.shape[:2]}) != 1:
        raise CohortError(f"{sample}: sizes of image, heatmap and label {shapes} do not agree with {size}.")
    return image, heatmap.astype(np.float16, copy=False), label
