"""DoubleU-Net: two U-Nets in a row with squeeze-and-excitation and atrous spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfseg.models.blocks import Tensor, aspp, conv_block, refinement_inputs, size_pair, softmax_head
from tfseg.types import ModelError

WIDTHS = (8, 16, 32, 64, 128, 128, 256, 256)
_SQUEEZE_RATIO = 8


def doubleunet(
    size_px: int | tuple[int, int] = 1024,
    num_classes: int = 2,
    heatmap: bool = True,
    widths: Sequence[int] = WIDTHS,
    aspp_filters: int = 32,
    dropout: float = 0.1,
) -> keras.Model:
    """DoubleU-Net; H2G-Net section 3.2 (Mob-PW-DoubleUNet) after Jha et al. 2020.

    Each of the two U-Nets: at every width a block (conv block with spatial dropout after each ReLU, then
    squeeze-and-excitation by two bias-free layers of width/8 and width) and 2×2 max-pool, also after the last; ASPP in
    the middle; decoder: bilinear upsampling ×2, concatenate with the skip, block; 1×1 convolution, softmax. ASPP:
    global average through a 1×1 convolution with bias, a 1×1 and three 3×3 of dilation 6, 12, 18 without bias, each
    with batch norm and ReLU, concatenated, 1×1 without bias, batch norm, ReLU. The second net sees [image, heatmap,
    first output], and its decoder concatenates [up, first's skip, own skip]. At the defaults 16 010 100 trainable
    parameters. The last pooling and the middle are at 4×4 there.

    Args:
        size_px: side, or (height, width), of the input; multiples of 2^len(widths).
        num_classes: C.
        heatmap: whether the network has the second input.
        widths: channels from the finest level down.
        aspp_filters: channels of each branch of the ASPP.
        dropout: rate of the spatial dropout.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255[, "heatmap": (B, H, W, 1) float32 in 0..1]} to
        {"segmentation": (B, H, W, C) of the second net, "segmentation_1": (B, H, W, C) of the first} float32.

    Raises:
        ModelError: the size does not divide; names the nearest sizes that do.

    Differs from the paper in: plain batch norm in place of batch renormalisation; 32 ASPP filters where the text says
    42, because only 32 gives the paper's number of parameters. From Jha et al.: both encoders are trained from
    scratch, and the second net sees the input beside the first output, not multiplied by it; so the paper's count
    has it.
    """
    if not widths:
        raise ModelError("doubleunet: widths must have at least one level. Received none.")
    inputs, x = refinement_inputs(size_pair(size_px, 2 ** len(widths), f"{len(widths)} poolings"), heatmap)
    decoded, skips = _net(x, widths, aspp_filters, dropout, "net1", [])
    first = softmax_head(decoded, num_classes, "segmentation_1")
    x = layers.Concatenate(name="net2_input")([x, first])
    decoded, _ = _net(x, widths, aspp_filters, dropout, "net2", skips)
    outputs = {"segmentation": softmax_head(decoded, num_classes, "segmentation"), "segmentation_1": first}
    return keras.Model(inputs, outputs, name="doubleunet")


def _net(
    x: Tensor, widths: Sequence[int], aspp_filters: int, dropout: float, name: str, others: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """One U-Net; returns its last decoder map and its skips. ``others`` are the other net's skips, or empty."""
    skips = []
    for level, width in enumerate(widths, 1):
        skips.append(_block(x, width, dropout, f"{name}_enc{level}"))
        x = layers.MaxPooling2D(2, name=f"{name}_enc{level}_pool")(skips[-1])
    x = aspp(x, aspp_filters, f"{name}_aspp")
    for level in range(len(widths), 0, -1):
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_dec{level}_up")(x)
        joined = [x, *others[level - 1 : level], skips[level - 1]]
        x = layers.Concatenate(name=f"{name}_dec{level}_cat")(joined)
        x = _block(x, widths[level - 1], dropout, f"{name}_dec{level}")
    return x, skips


def _block(x: Tensor, width: int, dropout: float, name: str) -> Tensor:
    """Conv block, then each channel times a factor in 0..1 that depends on all channels' means."""
    x = conv_block(x, width, name, dropout)
    # 1×1 convolutions on a 1×1 map rather than dense layers: the same weights, and plain Conv in ONNX
    s = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_mean")(x)
    s = layers.Conv2D(max(width // _SQUEEZE_RATIO, 1), 1, activation="relu", use_bias=False, name=f"{name}_se_squeeze")(
        s
    )
    s = layers.Conv2D(width, 1, activation="sigmoid", use_bias=False, name=f"{name}_se_excite")(s)
    return layers.Multiply(name=f"{name}_se")([x, s])
