"""The tissue test of ``tfseg segment``, moved into a patch classifier.

FAST finds tissue by distance from white on the lowest level of the pyramid, tfseg by saturation at 8 µm/px. No choice
of FAST's thresholds makes both take the same patches, so the network that FAST runs decides for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tfseg.types import ExportError, ModelSpec


@dataclass(frozen=True)
class TissueGate:
    """When a patch counts as tissue; the defaults are those of ``tfseg.slides.tissue.tissue_mask`` and CascadeSpec.

    Attributes:
        min_tissue: a patch with no more than this fraction of tissue is of class 0.
        mpp: µm/px of the plane on which tissue is found.
        saturation: HSV saturation, 0..255, above which a pixel of that plane is tissue.
        closing: sides in pixels of the square closings, one after the other.
    """

    min_tissue: float = 0.25
    mpp: float = 8.0
    saturation: float = 20
    closing: Sequence[int] = (5, 3)


def with_gate(model: keras.Model, spec: ModelSpec, gate: TissueGate) -> keras.Model:
    """The classifier, with probability 1 of class 0 where the patch holds too little tissue.

    The patch is averaged down to the tissue plane, rounded to whole grey levels, tested for saturation,
    255 · (max − min) / max, and closed, as ``tissue_mask`` does with the whole slide. The one difference: the closing
    does not see beyond the patch.

    Raises:
        ExportError: the tissue plane is finer than the patch's pixels.
    """
    name, image = spec.inputs[0].name, spec.inputs[0]
    step = round(gate.mpp / image.mpp) if image.mpp else 0
    if step < 1 or step > min(image.size_px):
        raise ExportError(
            f"{spec.name}: tissue is found at {gate.mpp:g} µm/px, the patches are {image.size_px[0]} px at "
            f"{image.mpp} µm/px: the plane must be coarser than their pixels and finer than a patch."
        )
    keep = _Keep(step, gate, name="tissue_gate")(model.input[name])
    output = spec.outputs[0]
    probabilities = model.output[output]
    background = np.eye(1, probabilities.shape[-1], dtype=np.float32)
    gated = keep * probabilities + (1.0 - keep) * background
    return keras.Model(model.input, {**model.output, output: gated}, name=model.name)


class _Keep(layers.Layer):
    """1.0 where a patch holds enough tissue, else 0.0: (B, H, W, 3) in 0..255 to (B, 1)."""

    def __init__(self, step: int, gate: TissueGate, **arguments: Any) -> None:
        super().__init__(dtype="float32", **arguments)
        self.step, self.gate = step, gate

    def call(self, image: Any) -> Any:
        plane = ops.floor(ops.average_pool(image, self.step, self.step, "valid") + 0.5)
        brightest, darkest = ops.max(plane, axis=-1, keepdims=True), ops.min(plane, axis=-1, keepdims=True)
        # Saturation is rounded to whole numbers before it is compared, and a black pixel has none.
        tissue = ops.cast(255.0 * (brightest - darkest) >= (self.gate.saturation + 0.5) * brightest, "float32")
        tissue = tissue * ops.cast(brightest > 0, "float32")
        for side in self.gate.closing:
            tissue = ops.max_pool(tissue, side, 1, "same")
            tissue = -ops.max_pool(-tissue, side, 1, "same")
        return ops.cast(ops.mean(tissue, axis=(1, 2)) > self.gate.min_tissue, "float32")
