"""The multi-stain multi-level network: two U-Nets on concentric fields, merged without losing a context pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

from tfseg.geometry import check_fields, crop_border, field_name, join_depth
from tfseg.models.blocks import Tensor, size_pair, softmax_head
from tfseg.models.encoder_unet import WIDTHS, unet_decoder
from tfseg.models.encoders import DEEPEST, pyramid
from tfseg.types import ModelError

MERGE_DEPTH = DEEPEST - 1
"""The target's second-last encoder stage."""


def multi_level(
    size_px: int | tuple[int, int] = 512,
    num_classes: int = 3,
    mpps: Sequence[float] = (0.5, 2.0),
    encoder: str = "efficientnetb4",
    weights: str | Path | None = None,
    alpha: float = 1.0,
    freeze_batch_norm: bool = False,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """Multi-stain multi-level network, "Model", figures 9 and 10.

    Two U-Nets as :func:`tfseg.models.encoder_unet.encoder_unet`, each with an encoder of its own, on two concentric
    fields of equal pixel count. The context's is complete. Its decoder map whose pixels have the size of those of the
    target encoder's second-last stage (mpp · 2^depth equal: depth 2 and 4 for 2.0 and 0.5 µm/px) is halved until it
    has that stage's height and width, and is concatenated to it: 1×1 convolutions reduce the depth, and the result is
    the skip of the target's decoder. Output: the context's probabilities, cropped at the centre to the target's
    field and resized bilinearly (half-pixel centres), concatenated with the target's own; 1×1 convolution, batch norm,
    ReLU; 1×1 convolution, softmax.

    A halving is space-to-depth, 1×1 convolution, batch norm, ReLU; the first two are one 2×2 convolution of stride 2,
    and so they are written. Its channels are those of the decoder at that depth. Cropping nothing, it gives every
    context pixel a say, and to each place of the target the features of the place that lies alike in the context.

    At the defaults 50 840 121 parameters, 50 582 905 of them trainable.

    Args:
        size_px: side, or (height, width), of both fields; multiples of 32.
        num_classes: C.
        mpps: µm/px of the target and of its context. The paper's levels 1 and 3 are 0.5 and 2.0; 0 and 2, 0 and 3, 1
            and 4 are (0.25, 1.0), (0.25, 2.0) and (0.5, 4.0).
        encoder: of both; key of ``tfseg.models.encoders.ENCODERS``.
        weights: of the encoders; None (random, as in the paper), "imagenet" or a path.
        alpha: width multiplier of MobileNetV2.
        freeze_batch_norm: keep the encoders' batch norms as loaded, in inference mode.
        widths: channels of each decoder's maps of depth 4 … 0.

    Returns:
        Model from {"image_20x": (B, H, W, 3), "image_5x": (B, H, W, 3)} float32 RGB in 0..255, named by ``mpps``, to
        {"segmentation": merged, "segmentation_high": the target's U-Net, "segmentation_context": the context's U-Net}.
        All three are (B, H, W, C) float32 probabilities of the target field, so that one label serves them all.

    Raises:
        ModelError: the size does not divide; mpps are not two that differ by a power of two up to 16; what
            :func:`tfseg.models.encoders.pyramid` raises.

    Differs from the paper in: its "25 million trainable parameters" are those of one U-Net on EfficientNet-B4, and two
    do not fit in them. Widths of the decoders, of the halvings and of the 1×1 convolutions are ours, as the text gives
    none. The context's U-Net learns from the target field alone, not from all of its own field.
    """
    size = size_pair(size_px, 2**DEEPEST, "the encoder halves five times")
    depth = _context_depth(mpps)
    images, maps = {}, {}
    for mpp, field in zip(mpps, ("target", "context"), strict=True):
        images[field_name(mpp)] = image = layers.Input((*size, 3), name=field_name(mpp))
        maps[field] = pyramid(image, encoder, f"enc_{field}", weights, alpha, freeze_batch_norm)
    context = unet_decoder(maps["context"], widths, "dec_context")
    merged = _merge(maps["target"][MERGE_DEPTH], context[depth], depth, widths)
    target = unet_decoder({**maps["target"], MERGE_DEPTH: merged}, widths, "dec_target")
    high = softmax_head(target[0], num_classes, "segmentation_high")
    low = softmax_head(context[0], num_classes, "context")
    borders = tuple(crop_border(side, mpps[1], side, mpps[0]) for side in size)
    low = layers.Cropping2D(borders, dtype="float32", name="context_crop")(low)
    ratio = round(mpps[1] / mpps[0])
    low = layers.UpSampling2D(ratio, interpolation="bilinear", dtype="float32", name="segmentation_context")(low)
    x = layers.Concatenate(name="fuse_cat")([high, low])
    x = _conv1x1(x, widths[-1], "fuse")
    outputs = {"segmentation": softmax_head(x, num_classes, "segmentation")}
    outputs |= {"segmentation_high": high, "segmentation_context": low}
    return keras.Model(images, outputs, name="multi_level")


def _context_depth(mpps: Sequence[float]) -> int:
    """Depth of the context's decoder map that fits the target's map of ``MERGE_DEPTH``."""
    check_fields(mpps, MERGE_DEPTH)
    if len(mpps) != 2:
        raise ModelError(f"multi_level: mpps are those of two fields, target and context. Received: {tuple(mpps)}.")
    depth = join_depth(MERGE_DEPTH, mpps[0], mpps[1])
    assert depth is not None  # check_fields
    return depth


def _merge(target: Tensor, context: Tensor, depth: int, widths: Sequence[int]) -> Tensor:
    """The target's map with the context's of ``depth``, halved to its size: (B, H / 16, W / 16, widths[0])."""
    while depth < MERGE_DEPTH:
        depth += 1
        name, width = f"merge_half{depth}", widths[MERGE_DEPTH - depth]
        context = layers.Conv2D(width, 2, strides=2, name=f"{name}_conv")(context)
        context = _bn_relu(context, name)
    x = layers.Concatenate(name="merge_cat")([target, context])
    for number, width in enumerate((2 * widths[0], widths[0], widths[0]), 1):
        x = _conv1x1(x, width, f"merge_{number}")
    return x


def _conv1x1(x: Tensor, width: int, name: str) -> Tensor:
    return _bn_relu(layers.Conv2D(width, 1, name=f"{name}_conv")(x), name)


def _bn_relu(x: Tensor, name: str) -> Tensor:
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)
