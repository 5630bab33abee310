"""An exported network computes what Keras computes: the comparison before a file gets its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from tfseg.models.boxes import iou as box_iou
from tfseg.types import ExportError, InputSpec, ModelSpec

PARITY = 1e-4
"""Largest difference of a probability between Keras and ONNX Runtime."""
INSTANCE_PARITY = 0.05
"""Largest difference of a detection: 1 − IoU of the boxes, of a probability, mean over the mask.

Rounding moves boxes by hundredths of a pixel and changes the order of like scores: an untrained ResNet101 differs by
0.01, 0.001 and 0.001.
"""
_LEFT_OUT = 0.02
"""Share of detections that need no counterpart: of two that overlap and score alike, either may suppress the other."""


def compare(
    model: keras.Model,
    path: Path,
    spec: ModelSpec,
    outputs: Sequence[str],
    pictures: Sequence[NDArray[np.uint8]],
    target: Path,
) -> None:
    """Raises ExportError unless Keras and ONNX Runtime agree on every picture."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for number, picture in enumerate(pictures):
        # Each field sees the picture turned another way, so that swapped inputs show.
        arrays = [_input_array(one, np.rot90(picture, turn), number) for turn, one in enumerate(spec.inputs)]
        expected = model({i.name: a for i, a in zip(spec.inputs, arrays, strict=True)}, training=False)
        feed = {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)}
        wanted = {output: keras.ops.convert_to_numpy(expected[output]) for output in outputs}
        got = dict(zip(outputs, session.run(None, feed), strict=True))
        if spec.task == "instances":
            limit, differences = INSTANCE_PARITY, detection_differences(wanted, got)
        else:
            limit, differences = PARITY, {k: float(np.max(np.abs(wanted[k] - got[k]))) for k in outputs}
        for output, difference in differences.items():
            if not difference <= limit:
                raise ExportError(
                    f"{target}: ONNX Runtime differs from Keras by {difference:.2g} in {output!r} on picture {number}, "
                    f"more than {limit:g}. Nothing was written. If it is NaN, so is the network: check its "
                    "training."
                )


def detection_differences(
    wanted: dict[str, NDArray[np.float32]], got: dict[str, NDArray[np.float32]]
) -> dict[str, float]:
    """How far Mask R-CNN's detections in one picture are from those of another engine, whatever the order.

    The counterpart of a detection is the other engine's with the nearest box. Compared are the highest scores and, both
    ways, the detections that score 0.5 or more, but for the worst 2 %.

    Args:
        wanted: "instances" (1, n, classes), "instances_boxes" (1, n, 4), "instances_masks" (1, n, h, w).
        got: the other engine's.

    Returns:
        Of each output the largest difference, as :data:`INSTANCE_PARITY` says; NaN where a value is not finite.
    """
    classes, boxes, masks = outputs = ("instances", "instances_boxes", "instances_masks")
    highest = [float(found[classes][..., 1:].max()) for found in (wanted, got)]
    worst = {classes: abs(highest[0] - highest[1]), boxes: 0.0, masks: 0.0}
    for one, other in ((wanted, got), (got, wanted)):
        a, b = ({name: values[0] for name, values in found.items()} for found in (one, other))
        if not all(np.isfinite(values).all() for values in a.values()):
            return dict.fromkeys(outputs, np.nan)
        kept = a[classes][:, 1:].max(-1) >= 0.5
        if not kept.any():
            continue
        iou = keras.ops.convert_to_numpy(box_iou(a[boxes][kept], b[boxes]))
        nearest = iou.argmax(1)
        differences = {
            classes: np.abs(a[classes][kept] - b[classes][nearest]).max(-1),
            boxes: 1 - iou.max(1),
            masks: np.abs(a[masks][kept] - b[masks][nearest]).mean((1, 2)),
        }
        for name, values in differences.items():
            worst[name] = max(worst[name], float(np.quantile(values, 1 - _LEFT_OUT, method="lower")))
    return worst


def _input_array(spec: InputSpec, picture: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
    """The picture, repeated or cropped to the input's size, or a smooth random heatmap: (1, H, W, channels)."""
    height, width = spec.size_px
    if spec.kind == "heatmap":
        y, x = np.mgrid[:height, :width] / 32.0
        wave = 0.5 + 0.5 * np.sin(x + seed) * np.cos(y + 0.7 * seed)
        return np.repeat(wave[None, :, :, None], spec.channels, axis=3).astype(np.float32)
    repeats = (math.ceil(height / picture.shape[0]), math.ceil(width / picture.shape[1]), 1)
    return np.tile(picture, repeats)[None, :height, :width].astype(np.float32)
