"""U-Net for whole slides at low resolution, with or without the patch classifier's heatmap."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfseg.models.blocks import conv_block, refinement_inputs, size_pair, softmax_head
from tfseg.types import ModelError

WIDTHS = (8, 16, 32, 64, 128, 128, 256, 256, 512)


def unet(
    size_px: int | tuple[int, int] = 1024,
    num_classes: int = 2,
    heatmap: bool = True,
    widths: Sequence[int] = WIDTHS,
    dropout: float = 0.1,
) -> keras.Model:
    """U-Net with batch norm; H2G-Net section 2.5 and 3.2 (Mob-PW-UNet), without heatmap its UNet-LR.

    Encoder: a conv block (3×3 with bias, batch norm, ReLU, twice) at each width, 2×2 max-pool between. Decoder: nearest
    upsampling ×2, concatenate [skip, up], conv block of the skip's width with spatial dropout after each ReLU. Head:
    1×1 convolution, softmax. At the defaults 11 572 562 parameters: 11 554 258 in convolutions and 4 for each of
    4 576 batch-norm channels, two of which are trained: 11 563 410 trainable.

    Args:
        size_px: side, or (height, width), of the input; multiples of 2^(len(widths) − 1).
        num_classes: C.
        heatmap: whether the network has the second input.
        widths: channels from the finest level to the middle block.
        dropout: rate of the decoder's spatial dropout.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255[, "heatmap": (B, H, W, 1) float32 in 0..1]} to
        {"segmentation": (B, H, W, C) float32 probabilities}.

    Raises:
        ModelError: the size does not divide; names the nearest sizes that do.

    Differs from the paper in: plain batch norm in place of batch renormalisation, which Keras 3 does not have. The
    paper's 11.58 M count its statistics too.
    """
    if len(widths) < 2:
        raise ModelError(f"unet: widths must have at least two levels. Received: {tuple(widths)}.")
    pools = len(widths) - 1
    size = size_pair(size_px, 2**pools, f"{pools} poolings")
    inputs, x = refinement_inputs(size, heatmap)
    skips = []
    for level, width in enumerate(widths[:-1], 1):
        skips.append(conv_block(x, width, f"enc{level}"))
        x = layers.MaxPooling2D(2, name=f"enc{level}_pool")(skips[-1])
    x = conv_block(x, widths[-1], "middle")
    for level in range(pools, 0, -1):
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"dec{level}_up")(x)
        x = layers.Concatenate(name=f"dec{level}_cat")([skips[level - 1], x])
        x = conv_block(x, widths[level - 1], f"dec{level}", dropout)
    return keras.Model(inputs, {"segmentation": softmax_head(x, num_classes, "segmentation")}, name="unet")


def unet_lr(
    size_px: int | tuple[int, int] = 1024,
    num_classes: int = 2,
    widths: Sequence[int] = WIDTHS,
    dropout: float = 0.1,
) -> keras.Model:
    """UNet-LR: :func:`unet` on the low-resolution slide alone.

    Differs from the paper in: nothing beyond what :func:`unet` states.
    """
    return unet(size_px, num_classes, False, widths, dropout)
