"""Boxes of instances: overlap, offsets between boxes, non-maximum suppression, anchors.

A box is (y1, x1, y2, x2) in pixels of the image. Pixel (i, j) covers [i, i + 1) × [j, j + 1), so the box of the pixels
3 … 5 of a side goes from 3 to 6. A box without height or width stands for none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from keras import ops
from numpy.typing import NDArray

from tfseg.models.blocks import Tensor

STRIDES = (4, 8, 16, 32, 64)
"""Pixels of the image to a cell of P2 … P6."""

DELTA_SD = (0.1, 0.1, 0.2, 0.2)
"""What offsets are divided by, so that those a network learns are of order 1; py-faster-rcnn's and matterport's."""

NONE = -1e30
"""Score of what is no candidate."""

_LARGEST_GROWTH = math.log(1000 / 16)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes; 0 where neither has an area.

    Args:
        a: (…, N, 4).
        b: (…, M, 4).

    Returns:
        (…, N, M) in 0..1.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    height = ops.minimum(a[..., 2], b[..., 2]) - ops.maximum(a[..., 0], b[..., 0])
    width = ops.minimum(a[..., 3], b[..., 3]) - ops.maximum(a[..., 1], b[..., 1])
    shared = ops.maximum(height, 0.0) * ops.maximum(width, 0.0)
    return shared / ops.maximum(area(a) + area(b) - shared, 1e-6)


def area(boxes: Tensor) -> Tensor:
    """Height · width in px²: (…, 4) → (…)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def encode(boxes: Tensor, references: Tensor) -> Tensor:
    """Offsets that lead from references to boxes; Faster R-CNN, equation 2.

    ((cy − cy_r) / h_r, (cx − cx_r) / w_r, ln(h / h_r), ln(w / w_r)) / ``DELTA_SD``, c being centres.

    Args:
        boxes, references: (…, 4); sides below 1e-3 px count as that.

    Returns:
        (…, 4).
    """
    (cy, cx, h, w), (ry, rx, rh, rw) = _centred(boxes), _centred(references)
    h, w, rh, rw = (ops.maximum(side, 1e-3) for side in (h, w, rh, rw))
    offsets = ops.stack([(cy - ry) / rh, (cx - rx) / rw, ops.log(h / rh), ops.log(w / rw)], axis=-1)
    return offsets / ops.convert_to_tensor(DELTA_SD, "float32")


def decode(deltas: Tensor, references: Tensor) -> Tensor:
    """Boxes from offsets: what :func:`encode` undoes. A side grows at most 62.5 times, so that nothing is infinite.

    Args:
        deltas, references: (…, 4).

    Returns:
        (…, 4).
    """
    deltas = deltas * ops.convert_to_tensor(DELTA_SD, "float32")
    ry, rx, rh, rw = _centred(references)
    cy, cx = ry + deltas[..., 0] * rh, rx + deltas[..., 1] * rw
    h = rh * ops.exp(ops.minimum(deltas[..., 2], _LARGEST_GROWTH))
    w = rw * ops.exp(ops.minimum(deltas[..., 3], _LARGEST_GROWTH))
    return ops.stack([cy - h / 2, cx - w / 2, cy + h / 2, cx + w / 2], axis=-1)


def clip(boxes: Tensor, size_px: Sequence[int]) -> Tensor:
    """The part of boxes (…, 4) inside an image of ``size_px`` (height, width)."""
    height, width = (float(side) for side in size_px)
    return ops.clip(boxes, 0.0, ops.convert_to_tensor([height, width, height, width], "float32"))


def take_rows(values: Tensor, indices: Tensor) -> Tensor:
    """``values[b, indices[b, …]]`` for every b.

    Args:
        values: (B, N, …).
        indices: int32 (B, …).

    Returns:
        (B, …, …), the axes of ``indices`` and then those of ``values`` behind N.
    """
    starts = ops.arange(ops.shape(values)[0], dtype="int32") * values.shape[1]
    starts = ops.reshape(starts, (-1, *[1] * (len(indices.shape) - 1)))
    return ops.take(ops.reshape(values, (-1, *values.shape[2:])), indices + starts, axis=0)


def argmax(values: Tensor) -> Tensor:
    """Index of the first of the highest values of the last axis: (…, N) → int32 (…).

    ``keras.ops.argmax`` on TensorFlow looks at bits, for which ONNX has no operation.
    """
    numbers = ops.arange(values.shape[-1], dtype="int32")
    highest = values == ops.max(values, axis=-1, keepdims=True)
    return ops.min(ops.where(highest, numbers, values.shape[-1] - 1), axis=-1)


def nms(boxes: Tensor, scores: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression: the best box, without those that overlap it, the best of the rest, and so on.

    The loop has ``count`` turns whatever the boxes are, so that all shapes are known.

    Args:
        boxes: (B, N, 4).
        scores: (B, N); ``NONE`` for what is no candidate. Of equal scores the first wins.
        count: K, most boxes an image to keep.
        threshold: boxes whose IoU with a kept one is above it go.

    Returns:
        (B, K) int32, indices of the kept boxes by falling score, and (B, K) bool, whether there was one left to keep.
    """
    numbers = ops.arange(boxes.shape[1], dtype="int32")
    slots = ops.arange(count, dtype="int32")

    def turn(slot: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        left, indices, kept = state
        best = argmax(left)[:, None]
        found = ops.max(left, axis=1, keepdims=True) > NONE / 2
        chosen = numbers[None] == best
        box = ops.sum(ops.where(chosen[..., None], boxes, 0.0), axis=1, keepdims=True)
        gone = ops.logical_or(chosen, iou(box, boxes)[:, 0] > threshold)
        here = slots[None] == slot
        return ops.where(gone, NONE, left), ops.where(here, best, indices), ops.where(here, found, kept)

    nothing = ops.cast(ops.zeros_like(scores[:, :1]), "int32") + ops.zeros((1, count), "int32")
    _, indices, kept = ops.fori_loop(0, count, turn, (scores, nothing, nothing > 0))
    return indices, kept


def anchors(size_px: Sequence[int], sides_px: Sequence[float], ratios: Sequence[float]) -> NDArray[np.float32]:
    """Reference boxes of a pyramid P2 … P6: at every cell one of each shape, around the cell's centre.

    A ratio r of height to width gives (side · √r, side / √r): the area stays.

    Args:
        size_px: (height, width) of the image.
        sides_px: of P2 … P6.
        ratios: of height to width.

    Returns:
        (A, 4) float32, level by level, row by row, cell by cell, ratio by ratio; they may reach beyond the image.
    """
    found = []
    for stride, side in zip(STRIDES, sides_px, strict=True):
        rows, columns = grid(size_px, stride)
        y, x = np.meshgrid((np.arange(rows) + 0.5) * stride, (np.arange(columns) + 0.5) * stride, indexing="ij")
        centres = np.stack([y, x], axis=-1).reshape(-1, 1, 2)
        halves = np.array([(side * math.sqrt(r) / 2, side / math.sqrt(r) / 2) for r in ratios])
        found.append(np.concatenate([centres - halves, centres + halves], axis=-1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)


def grid(size_px: Sequence[int], stride: int) -> tuple[int, int]:
    """(rows, columns) of the map of that stride."""
    return math.ceil(size_px[0] / stride), math.ceil(size_px[1] / stride)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(centre y, centre x, height, width)."""
    y1, x1, y2, x2 = (boxes[..., side] for side in range(4))
    return (y1 + y2) / 2, (x1 + x2) / 2, y2 - y1, x2 - x1
