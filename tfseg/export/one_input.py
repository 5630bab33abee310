"""A dense network as one graph from a single large field: it cuts and downsamples its own fields.

FAST's patch generator knows one magnification and hands out one picture a patch, so a network of concentric fields must
make them itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
from keras import layers

from tfseg.geometry import crop_border
from tfseg.types import ExportError, InputSpec, ModelError, ModelSpec

INPUT = "image"
PADDING = "padding_px"
"""Key in the spec's provenance: (down, across), how far the output is padded with zeros to the input's size."""

_WHOLE = 1e-6


def with_one_input(model: keras.Model, spec: ModelSpec) -> tuple[keras.Model, ModelSpec]:
    """The network on one field at its finest µm/px, as large as its largest field.

    A field k times coarser is the centre of the large one, k times its own side, averaged over k × k pixels; reading a
    slide rounds these means to whole grey levels, here they are not rounded. The main output alone is kept, and padded
    with zeros to the size of the input, because FAST's stitcher cuts off a margin of the patch's overlap itself and
    drops outputs that come without it.

    Args:
        model: takes and returns dicts, as tfseg builds it.
        spec: of it; dense.

    Returns:
        The network from {"image": (B, H, W, 3)} to {main output: (B, H, W, C)} with its spec. ``output_px`` stays what
        the network speaks for; ``provenance["padding_px"]`` says how much of the output around it is padding.

    Raises:
        ExportError: a field is no whole number of times coarser than the first, the output's pixels are not the
            first's, or edges fall between pixels.
    """
    finest = spec.inputs[0].mpp
    assert finest is not None and spec.output_px is not None and spec.output_mpp is not None
    if abs(spec.output_mpp / finest - 1) > _WHOLE:
        raise ExportError(
            f"{spec.name}: the output has {spec.output_mpp:g} µm/px and {spec.inputs[0].name} {finest:g}. A graph that "
            "makes its own fields pads its output to the pixels of its first field, so both must be the same."
        )
    factors = [_factor(spec, one) for one in spec.inputs]
    height, width = (
        max(one.size_px[axis] * factor for one, factor in zip(spec.inputs, factors, strict=True)) for axis in (0, 1)
    )
    image = keras.Input((height, width, spec.inputs[0].channels), name=INPUT)
    fields = {one.name: _field(image, one, factor, spec) for one, factor in zip(spec.inputs, factors, strict=True)}
    main = spec.outputs[0]
    padding = (
        _border(spec, height, spec.output_px[0], spec.output_mpp, "output"),
        _border(spec, width, spec.output_px[1], spec.output_mpp, "output"),
    )
    padded = layers.ZeroPadding2D(padding, name="to_patch")(model(fields)[main])
    single = keras.Model({INPUT: image}, {main: padded}, name=model.name)
    return single, replace(
        spec,
        inputs=(InputSpec(INPUT, (height, width), spec.inputs[0].channels, finest),),
        outputs=(main,),
        provenance={**spec.provenance, PADDING: list(padding)},
    )


def _field(image: Any, one: InputSpec, factor: int, spec: ModelSpec) -> Any:
    """What an input sees of the large field."""
    assert one.mpp is not None
    borders = [_border(spec, image.shape[1 + axis], one.size_px[axis], one.mpp, one.name) for axis in (0, 1)]
    if any(borders):
        image = layers.Cropping2D(tuple(borders), name=f"{one.name}_crop")(image)
    return layers.AveragePooling2D(factor, name=f"{one.name}_mean")(image) if factor > 1 else image


def _factor(spec: ModelSpec, one: InputSpec) -> int:
    assert one.mpp is not None and spec.inputs[0].mpp is not None
    ratio = one.mpp / spec.inputs[0].mpp
    if round(ratio) < 1 or abs(ratio - round(ratio)) > _WHOLE:
        raise ExportError(
            f"{spec.name}: {one.name} has {one.mpp:g} µm/px, {ratio:g} times those of {spec.inputs[0].name}. A graph "
            "that makes its own fields needs whole numbers, the finest field first."
        )
    return round(ratio)


def _border(spec: ModelSpec, side: int, target_px: int, target_mpp: float, what: str) -> int:
    try:
        return crop_border(side, spec.inputs[0].mpp or 0.0, target_px, target_mpp)
    except ModelError as error:
        raise ExportError(f"{spec.name}: {what} cannot be cut out of one large field: {error}") from error
