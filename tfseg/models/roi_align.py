"""RoIAlign: what a pyramid of feature maps has inside boxes, as maps of one size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfseg.models.blocks import Tensor
from tfseg.models.boxes import STRIDES, area, grid, take_rows

CANONICAL_PX = 224
"""Side of the box that is looked up on P4; Feature Pyramid Networks, equation 1."""


@keras.saving.register_keras_serializable("tfseg")
class RoIAlign(layers.Layer):
    """Bilinear samples of P2 … P5 in bins of boxes; Mask R-CNN, section 3.

    A box of height h and width w is looked up on one level, P_k with k = ⌊4 + log2(√(h·w) / 224)⌋, held to 2 … 5
    (Feature Pyramid Networks, equation 1), and divided into size × size bins. A bin's value is the mean of
    samples × samples points, evenly spread over it. Nothing is rounded to cells: cell i of stride s has its centre at
    (i + 1/2) · s; a point beyond the outermost centres has their value. The boxes' coordinates get no gradient.

    Called with [boxes (B, N, 4) px, P2, P3, P4, P5 (B, rows, columns, C)], it returns (B · N, size, size, C), float32,
    the boxes of the first image first.

    Args:
        size: bins to a side.
        size_px: (height, width) of the image.
        samples: points to a side of a bin. Mask R-CNN takes 2 and says that the result hardly depends on it;
            matterport, which GB U-Net used, takes 1.
    """

    def __init__(self, size: int, size_px: Sequence[int], samples: int = 1, **arguments: Any) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in arguments.items() if k != "dtype"})
        self.size, self.size_px, self.samples = size, tuple(size_px), samples
        grids = np.array([grid(self.size_px, stride) for stride in STRIDES[:4]])
        starts = np.concatenate([[0], np.cumsum(grids.prod(axis=1))[:-1]])
        self._grids, self._starts = grids.astype(np.int32), starts.astype(np.int32)

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        boxes, maps = ops.stop_gradient(inputs[0]), inputs[1:]
        width = maps[0].shape[-1]
        cells = ops.concatenate([ops.reshape(one, (-1, math.prod(one.shape[1:3]), width)) for one in maps], axis=1)
        level = levels(boxes)
        strides = ops.take(ops.convert_to_tensor(STRIDES[:4], "float32"), level)[..., None]
        grids = ops.take(ops.convert_to_tensor(self._grids), level, axis=0)
        start, columns = ops.take(ops.convert_to_tensor(self._starts), level), grids[..., 1]
        points = self.size * self.samples
        y, x = (spread(boxes, axis, points) / strides for axis in (0, 1))
        total = 0.0
        for row, y_weight in neighbours(y, grids[..., 0, None]):
            for column, x_weight in neighbours(x, grids[..., 1, None]):
                place = start[..., None, None] + row[..., None] * columns[..., None, None] + column[..., None, :]
                weight = y_weight[..., None] * x_weight[..., None, :]
                total = total + take_rows(cells, place) * weight[..., None]
        found = ops.reshape(total, (-1, points, points, width))
        return ops.average_pool(found, self.samples, self.samples) if self.samples > 1 else found

    def compute_output_shape(self, input_shape: Sequence[Sequence[int | None]]) -> tuple[int | None, ...]:
        return None, self.size, self.size, input_shape[1][-1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "size_px": list(self.size_px), "samples": self.samples}


def levels(boxes: Tensor) -> Tensor:
    """Which of P2 … P5 a box (…, 4) is looked up on, counted from 0: int32 (…)."""
    # log4 of the area, with a little added: a power of two is to lie above the step, not beside it.
    octave = ops.log(ops.maximum(area(boxes), 1e-6) / CANONICAL_PX**2) / math.log(4.0)
    return ops.cast(ops.clip(ops.floor(octave + 2.0 + 1e-5), 0.0, 3.0), "int32")


def spread(boxes: Tensor, axis: int, points: int) -> Tensor:
    """Coordinates of ``points`` points, evenly over a side of boxes: the centres of so many bins.

    Args:
        boxes: (…, 4).
        axis: 0 for y, 1 for x.
        points: P.

    Returns:
        (…, P) in pixels.
    """
    fractions = ops.convert_to_tensor((np.arange(points) + 0.5) / points, "float32")
    first, last = boxes[..., axis, None], boxes[..., axis + 2, None]
    return first + (last - first) * fractions


def neighbours(at: Tensor, count: Tensor | int) -> list[tuple[Tensor, Tensor]]:
    """The two cells between whose centres a point lies, and how much each weighs in linear interpolation.

    Args:
        at: (…), in cells; cell i has its centre at i + 1/2.
        count: cells there are; a point beyond the outermost centres is taken to lie there.

    Returns:
        [(int32 (…) cell, float32 (…) weight), the same of the next cell]; the weights sum to 1.
    """
    last = ops.cast(count, "float32") - 1.0
    at = ops.minimum(ops.maximum(at - 0.5, 0.0), last)
    low = ops.floor(at)
    high = ops.minimum(low + 1.0, last)
    return [(ops.cast(low, "int32"), 1.0 - (at - low)), (ops.cast(high, "int32"), at - low)]
