"""tf.data of networks of nuclei: tiles of prepared images, and what the network is to learn of them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from tfseg.data.dense_augment import DenseAugment
from tfseg.data.nuclei_store import NucleiStore, Prepared
from tfseg.data.nuclei_tiles import cut_tile
from tfseg.data.restain import Restain
from tfseg.data.sampling import Sampler
from tfseg.data.warp import Warp, lattice

_EDGE = cv2.BORDER_REFLECT
_CHUNK = 4
"""Tiles that a thread cuts before it hands them over."""


class Targets(Protocol):
    """What a network learns of a tile; a pure function of labels and border weights, called in threads."""

    def shapes(self, tile_px: int) -> Mapping[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Name → (shape, dtype) of each target."""
        ...

    def __call__(self, labels: NDArray[np.int32], border: NDArray[np.float32]) -> Mapping[str, NDArray]:
        """Targets of labels (H, W) and their border weights (H, W)."""
        ...


@dataclass(frozen=True)
class PixelTargets:
    """Classes of pixels and their weights, for U-Nets.

    Attributes:
        num_classes: 2: background, nucleus. 3: background, inside, border, where the border is what of a nucleus lies
            within ``border_px`` (of the larger of both distances along the axes) of a pixel that is not of it.
        class_weights: of background and nucleus (inside and border), which are added to the border weights.
        border_px: width of the border class.
    """

    num_classes: int = 2
    class_weights: tuple[float, float] = (1.0, 1.0)
    border_px: int = 2

    def shapes(self, tile_px: int) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """ "segmentation": class indices; "weights": w_c + border weight."""
        return {"segmentation": ((tile_px, tile_px), np.uint8), "weights": ((tile_px, tile_px), np.float32)}

    def __call__(self, labels: NDArray[np.int32], border: NDArray[np.float32]) -> dict[str, NDArray]:
        nucleus = labels > 0
        classes = nucleus.astype(np.uint8)
        if self.num_classes == 3:
            classes[nucleus & near_other(labels, self.border_px)] = 2
        background, foreground = np.array(self.class_weights, np.float32)
        return {"segmentation": classes, "weights": border + np.where(nucleus, foreground, background)}


def near_other(labels: NDArray[np.int32], reach_px: int) -> NDArray[np.bool_]:
    """Pixels with another label within ``reach_px`` along rows and columns; what is beyond the edge is none."""
    values = labels.astype(np.float32)  # OpenCV's least and largest take no int32; ids of a tile are exact in float32
    box = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    return np.asarray((cv2.erode(values, box) != values) | (cv2.dilate(values, box) != values))


def read_tile(
    prepared: Prepared, top: int, left: int, tile_px: int, warp: Warp | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]]:
    """Image, labels and border weights of a tile through one map: bicubic, nearest, linear.

    What the map brings in from beyond the tile is the image's; beyond the image's edges it is mirrored, the outermost
    pixels twice.

    Args:
        prepared: the image.
        top, left: the tile's corner.
        tile_px: its side.
        warp: in pixels of the image (1 "µm" a pixel), about the tile's centre; None cuts the tile.
    """
    image, labels, border = prepared
    if warp is None or not warp.steps:
        image, labels, border = (cut_tile(array, top, left, tile_px) for array in prepared)
    else:
        columns, rows = lattice(tile_px, tile_px, 1.0, warp)
        columns, rows = columns + np.float32(left), rows + np.float32(top)
        height, width = labels.shape
        image = np.asarray(cv2.remap(image, columns, rows, cv2.INTER_CUBIC, borderMode=_EDGE), np.uint8)
        labels = labels[_mirrored(rows, height), _mirrored(columns, width)]
        border = np.asarray(cv2.remap(border, columns, rows, cv2.INTER_LINEAR, borderMode=_EDGE), np.float32)
    if warp is None:
        return image, labels, border
    return warp.orient(image), warp.orient(labels), warp.orient(border)


def _mirrored(places: NDArray[np.float32], side: int) -> NDArray[np.intp]:
    """The nearest pixel of each place, mirrored at both ends."""
    nearest = np.rint(places).astype(np.intp) % (2 * side)
    return np.where(nearest < side, nearest, 2 * side - 1 - nearest)


class TileReader:
    """Reads tiles of a table by row number, in threads of its own."""

    def __init__(
        self,
        store: NucleiStore,
        table: pd.DataFrame,
        targets: Targets,
        tile_px: int,
        augment: DenseAugment | None,
        restain: Restain | None,
        threads: int,
    ) -> None:
        self._store, self._targets, self._tile_px = store, targets, tile_px
        self._augment, self._restain = augment, restain
        self._places = table[["item", "top", "left"]].to_numpy(np.int64)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-tiles")

    def __call__(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> list[NDArray]:
        """Several tiles by one thread: int64 (N,) each → images uint8 (N, H, W, 3), then each target (N, …)."""
        return self._pool.submit(self._read_all, rows, seeds).result()

    def read(self, row: int, seed: int = 0) -> tuple[NDArray[np.uint8], Mapping[str, NDArray]]:
        """One tile, uint8 RGB, and its targets."""
        item, top, left = self._places[row].tolist()
        change = None if self._augment is None else self._augment.draw(seed, self._tile_px, self._tile_px)
        warp = None if change is None else change.warp
        image, labels, border = read_tile(self._store[item], top, left, self._tile_px, warp)
        if self._restain is not None:
            image = self._restain(image, labels, seed)
        if change is not None:
            image = change.recolour([image], [1.0])[0]
        return image, self._targets(labels, border)

    def _read_all(self, rows: NDArray[np.int64], seeds: NDArray[np.int64]) -> list[NDArray]:
        tiles = [self.read(row, seed) for row, seed in zip(rows.tolist(), seeds.tolist(), strict=True)]
        images = np.stack([image for image, _ in tiles])
        return [
            images,
            *(np.stack([found[name] for _, found in tiles]) for name in self._targets.shapes(self._tile_px)),
        ]


def nuclei_dataset(
    store: NucleiStore,
    table: pd.DataFrame,
    sampler: Sampler | None,
    batch_size: int,
    targets: Targets,
    *,
    tile_px: int = 256,
    augment: DenseAugment | None = None,
    restain: Restain | None = None,
    start_step: int = 0,
    threads: int = 4,
) -> tf.data.Dataset:
    """Batches of tiles: endless in the sampler's order, or, without one, every tile once.

    Step k holds draws k · batch_size … (k + 1) · batch_size − 1, whatever was drawn before and however many threads
    read. Memory: about 8 · threads tiles and four batches; images stay on disk.

    Args:
        store: prepared images.
        table: of :func:`tfseg.data.nuclei_tiles.tile_table` of the store's items.
        sampler: over its rows; None takes each row once, in order, the last batch smaller, as the store has it.
        batch_size: tiles a step.
        targets: what is learnt.
        tile_px: side of the tiles.
        augment: changes image, labels and border weights together; lengths in pixels.
        restain: shows the image in another stain, after it has moved and before its colours change.
        start_step: first step, to resume.
        threads: tiles read at the same time.

    Returns:
        dataset of ({"image": float32 (B, H, W, 3) in 0..255}, {name: (B, …)}) with the targets' names.
    """
    if sampler is None:
        augment = restain = None
    reader = TileReader(store, table, targets, tile_px, augment, restain, threads)
    kinds = targets.shapes(tile_px)
    shapes = [(None, tile_px, tile_px, 3)] + [(None, *shape) for shape, _ in kinds.values()]
    dtypes = [tf.uint8] + [tf.as_dtype(dtype) for _, dtype in kinds.values()]

    def read(rows: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, ...]:
        arrays = tf.numpy_function(reader, [rows, seeds], dtypes)
        return tuple(tf.ensure_shape(array, shape) for array, shape in zip(arrays, shapes, strict=True))

    def finish(image: tf.Tensor, *arrays: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        return {"image": tf.cast(image, tf.float32)}, dict(zip(kinds, arrays, strict=True))

    if sampler is None:
        rows = tf.data.Dataset.range(len(table)).batch(_CHUNK).map(lambda n: (n, n))
    else:
        numbers = tf.data.Dataset.counter(start_step * batch_size).batch(_CHUNK)
        rows = numbers.map(lambda n: (sampler.draw(n), sampler.seeds(n)))
    tiles = rows.map(read, num_parallel_calls=threads, deterministic=True)
    return tiles.rebatch(batch_size, sampler is not None).prefetch(2).map(finish).prefetch(1)
