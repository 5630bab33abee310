"""CD-UNET: a half-width U-Net behind a learned colour deconvolution, and the same U-Net without it."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers, ops

from tfseg.models.blocks import Tensor, conv_block, size_pair, softmax_head
from tfseg.types import ModelError

WIDTHS = (32, 64, 128, 256, 512)
COLOURS = (6, 3)
"""Channels of the colour-deconvolution segment: one filter a stain's shade, then as many as the image has."""


def cd_unet(
    size_px: int | tuple[int, int] = 512,
    num_classes: int = 4,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """CD-UNET, section 3.2: 1×1 convolution to 6, batch norm, ReLU, 1×1 to 3, batch norm, ReLU; then :func:`half_unet`.

    The paper's input is 512² at 10x. ``colour_1_relu`` and ``colour_2_relu`` are the segment's maps, as its figures 6
    and 7 show them. At the defaults 7 773 973 parameters, 7 767 107 of them trainable.

    Args, Returns, Raises: as :func:`half_unet`.

    Differs from the paper in: what is said at :func:`half_unet`.
    """
    return _unet("cd_unet", size_px, num_classes, widths, COLOURS)


def half_unet(
    size_px: int | tuple[int, int] = 512,
    num_classes: int = 4,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """The U-Net that CD-UNET is compared with; section 3.2.

    U-Net (Ronneberger et al. 2015) of half width with same padding and batch norm after every convolution. BGR in
    [0, 1]; a conv block (3×3 with bias, batch norm, ReLU, twice) at each width, 2×2 max-pool between. Decoder: 2×2
    transposed convolution of stride 2 to the skip's width, batch norm, concatenate [skip, up], conv block. Head: 1×1
    convolution, softmax. At the defaults 7 773 892 parameters, 7 767 044 of them trainable.

    Args:
        size_px: side, or (height, width), of the image; multiples of 2^(len(widths) − 1).
        num_classes: C.
        widths: channels from the finest level to the middle block.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to {"segmentation": (B, H, W, C) float32
        probabilities}.

    Raises:
        ModelError: the size does not divide; names the nearest sizes that do.

    Differs from the paper in: nothing it states. It leaves open whether the transposed convolutions have batch norm
    (here they do, and no ReLU, as in the original U-Net), and that batch norm comes before the ReLU.
    """
    return _unet("half_unet", size_px, num_classes, widths, ())


def _unet(
    name: str, size_px: int | tuple[int, int], num_classes: int, widths: Sequence[int], colours: Sequence[int]
) -> keras.Model:
    if len(widths) < 2:
        raise ModelError(f"{name}: widths must have at least two levels. Received: {tuple(widths)}.")
    pools = len(widths) - 1
    image = layers.Input((*size_pair(size_px, 2**pools, f"{pools} poolings"), 3), name="image")
    x = layers.Rescaling(1 / 255, name="image_scaled")(image)
    x = ops.flip(x, axis=-1)
    for number, width in enumerate(colours, 1):
        x = _conv_bn(layers.Conv2D(width, 1, name=f"colour_{number}_conv"), x, f"colour_{number}")
        x = layers.Activation("relu", name=f"colour_{number}_relu")(x)
    skips = []
    for level, width in enumerate(widths[:-1], 1):
        skips.append(conv_block(x, width, f"enc{level}"))
        x = layers.MaxPooling2D(2, name=f"enc{level}_pool")(skips[-1])
    x = conv_block(x, widths[-1], "middle")
    for level in range(pools, 0, -1):
        width = widths[level - 1]
        x = _conv_bn(layers.Conv2DTranspose(width, 2, strides=2, name=f"dec{level}_up"), x, f"dec{level}_up")
        x = layers.Concatenate(name=f"dec{level}_cat")([skips[level - 1], x])
        x = conv_block(x, width, f"dec{level}")
    return keras.Model({"image": image}, {"segmentation": softmax_head(x, num_classes, "segmentation")}, name=name)


def _conv_bn(convolution: layers.Layer, x: Tensor, name: str) -> Tensor:
    return layers.BatchNormalization(name=f"{name}_bn")(convolution(x))
