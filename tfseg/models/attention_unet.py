"""AGU-Net and DAGU-Net: U-Nets with an input pyramid, deep supervision, and attention by gates or at the bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import layers

from tfseg.models.blocks import Tensor, conv_block, conv_bn_relu, refinement_inputs, size_pair, softmax_head
from tfseg.types import ModelError

WIDTHS = (8, 16, 32, 64, 128, 128, 256, 256)
_QUERY_RATIO = 8


def agunet(
    size_px: int | tuple[int, int] = 1024,
    num_classes: int = 2,
    heatmap: bool = True,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """Attention-gated U-Net with input pyramid and deep supervision; H2G-Net section 3.2 (Mob-PW-AGUNet).

    Encoder: a conv block at each width but the last, 2×2 max-pool between; from the second level on, the input (image
    and heatmap), average-pooled to the level, goes through a 3×3 convolution with bias and ReLU of the level's width
    and is concatenated before the conv block. Middle: a conv block of the last width. Decoder stage: 3×3 transposed
    convolution of stride 2 with bias, batch norm, ReLU; the skip gated by it; concatenate [up, gated]; conv block.
    Gate: up and skip each through a 1×1 convolution with bias to half the width and batch norm, concatenated, ReLU,
    1×1 with bias to one channel, batch norm, sigmoid, times the skip. Every decoder level has a softmax head.
    No dropout. At the defaults 7 659 915 trainable parameters.

    Args:
        size_px: side, or (height, width), of the input; multiples of 2^(len(widths) − 1).
        num_classes: C.
        heatmap: whether the network has the second input.
        widths: channels from the finest level to the middle block.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255[, "heatmap": (B, H, W, 1) float32 in 0..1]} to
        {"segmentation": (B, H, W, C), "segmentation_1": (B, H/2, W/2, C), …} float32 probabilities, finest first.

    Raises:
        ModelError: the size does not divide; names the nearest sizes that do.

    Differs from the paper in: plain batch norm in place of batch renormalisation.
    """

    def stage(x: Tensor, skip: Tensor, width: int, name: str) -> Tensor:
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", name=f"{name}_up")(x)
        x = layers.BatchNormalization(name=f"{name}_up_bn")(x)
        x = layers.Activation("relu", name=f"{name}_up_relu")(x)
        skip = _gate(x, skip, max(width // 2, 1), f"{name}_gate")
        x = layers.Concatenate(name=f"{name}_cat")([x, skip])
        return conv_block(x, width, name)

    return _pyramid_unet("agunet", size_px, num_classes, heatmap, widths, lambda x: x, stage)


def dagunet(
    size_px: int | tuple[int, int] = 1024,
    num_classes: int = 2,
    heatmap: bool = True,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """Dual-attention U-Net with input pyramid and deep supervision; H2G-Net section 3.2 (Mob-PW-DAGUNet).

    Encoder and middle block of :func:`agunet`. On the middle block, side by side: position attention
    x + γ·softmax(q·kᵀ)·v with bias-free 1×1 q and k of width/8 and v of full width; and channel attention
    x + γ·softmax(aᵀa)·a; each γ a scalar that starts at 0; each followed by 3×3, batch norm, ReLU, spatial dropout
    0.5, 3×3 (convolutions with bias). The two are added, dropout 0.5, 1×1 with bias, batch norm. Decoder stage: 3×3
    transposed convolution of stride 2 with bias, concatenate [skip, up], batch norm, ReLU, conv block. Every decoder
    level has a softmax head. At the defaults 9 982 536 + 81 920 trainable parameters; the 81 920 are q, k and v.

    Args, Returns, Raises: as :func:`agunet`.

    Differs from the paper in: plain batch norm in place of batch renormalisation; q, k and v are trained, where the
    authors' code left them at their random start; channel attention weighs the channels by rows that sum to 1, as
    Fu et al. 2019 (Dual Attention Network) define it, where the authors' code multiplies by the transpose.
    """

    def middle(x: Tensor) -> Tensor:
        width = x.shape[-1]
        branches = []
        for name, attend in (("position", _position_attention), ("channel", _channel_attention)):
            y = conv_bn_relu(attend(x, name), width, f"{name}_1", 0.5)
            branches.append(layers.Conv2D(width, 3, padding="same", name=f"{name}_2_conv")(y))
        x = layers.Add(name="attention_sum")(branches)
        x = layers.Dropout(0.5, name="attention_drop")(x)
        x = layers.Conv2D(width, 1, name="attention_conv")(x)
        return layers.BatchNormalization(name="attention_bn")(x)

    def stage(x: Tensor, skip: Tensor, width: int, name: str) -> Tensor:
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", name=f"{name}_up")(x)
        x = layers.Concatenate(name=f"{name}_cat")([skip, x])
        x = layers.BatchNormalization(name=f"{name}_cat_bn")(x)
        x = layers.Activation("relu", name=f"{name}_cat_relu")(x)
        return conv_block(x, width, name)

    return _pyramid_unet("dagunet", size_px, num_classes, heatmap, widths, middle, stage)


def _pyramid_unet(
    name: str,
    size_px: int | tuple[int, int],
    num_classes: int,
    heatmap: bool,
    widths: Sequence[int],
    middle: Callable[[Tensor], Tensor],
    stage: Callable[[Tensor, Tensor, int, str], Tensor],
) -> keras.Model:
    """The shared frame; ``middle`` follows the middle block, ``stage`` (x, skip, width, name) is a decoder stage."""
    if len(widths) < 2:
        raise ModelError(f"{name}: widths must have at least two levels. Received: {tuple(widths)}.")
    pools = len(widths) - 1
    inputs, pyramid = refinement_inputs(size_pair(size_px, 2**pools, f"{pools} poolings"), heatmap)
    x, skips = pyramid, []
    for level, width in enumerate(widths[:-1], 1):
        if level > 1:
            pyramid = layers.AveragePooling2D(2, name=f"pyramid{level}_pool")(pyramid)
            seen = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"pyramid{level}_conv")(pyramid)
            x = layers.Concatenate(name=f"pyramid{level}_cat")([seen, x])
        skips.append(conv_block(x, width, f"enc{level}"))
        x = layers.MaxPooling2D(2, name=f"enc{level}_pool")(skips[-1])
    x = middle(conv_block(x, widths[-1], "middle"))
    outputs = {}
    for level in range(pools, 0, -1):
        x = stage(x, skips[level - 1], widths[level - 1], f"dec{level}")
        head = "segmentation" if level == 1 else f"segmentation_{level - 1}"
        outputs[head] = softmax_head(x, num_classes, head)
    return keras.Model(inputs, dict(sorted(outputs.items())), name=name)


def _gate(up: Tensor, skip: Tensor, width: int, name: str) -> Tensor:
    """Attention gate: one factor in 0..1 a pixel, times the skip."""
    parts = []
    for which, x in (("up", up), ("skip", skip)):
        x = layers.Conv2D(width, 1, name=f"{name}_{which}_conv")(x)
        parts.append(layers.BatchNormalization(name=f"{name}_{which}_bn")(x))
    x = layers.Concatenate(name=f"{name}_cat")(parts)
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    x = layers.Conv2D(1, 1, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    x = layers.Activation("sigmoid", name=f"{name}_sigmoid")(x)
    return layers.Multiply(name=name)([skip, x])


def _position_attention(x: Tensor, name: str) -> Tensor:
    """x + γ·softmax(q·kᵀ)·v over the H·W positions; γ from 0."""
    _, height, width, channels = x.shape
    places = height * width
    narrow = max(channels // _QUERY_RATIO, 1)
    parts = {}
    for part, filters in (("query", narrow), ("key", narrow), ("value", channels)):
        y = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_{part}")(x)
        parts[part] = layers.Reshape((places, filters), name=f"{name}_{part}_rows")(y)
    # float32, because a sum of products over many channels overflows float16 before the softmax tames it
    energy = layers.Dot((2, 2), dtype="float32", name=f"{name}_energy")([parts["query"], parts["key"]])
    weights = layers.Softmax(dtype="float32", name=f"{name}_weights")(energy)
    mixed = layers.Dot((2, 1), name=f"{name}_mixed")([weights, parts["value"]])
    return _add_scaled(x, mixed, name)


def _channel_attention(x: Tensor, name: str) -> Tensor:
    """x + γ·softmax(aᵀa)·a over the channels, a = x as (H·W, channels); γ from 0."""
    _, height, width, channels = x.shape
    rows = layers.Reshape((height * width, channels), name=f"{name}_rows")(x)
    energy = layers.Dot((1, 1), dtype="float32", name=f"{name}_energy")([rows, rows])
    weights = layers.Softmax(dtype="float32", name=f"{name}_weights")(energy)
    mixed = layers.Dot((2, 2), name=f"{name}_mixed")([rows, weights])
    return _add_scaled(x, mixed, name)


def _add_scaled(x: Tensor, mixed: Tensor, name: str) -> Tensor:
    """x + γ·mixed for ``mixed`` of shape (B, H·W, channels).

    γ is the one weight of a 1×1 convolution from one channel to one: a stock layer, so that nothing of ours is needed
    to load the network, and a plain Conv in ONNX.
    """
    one_channel = layers.Reshape((*mixed.shape[1:], 1), name=f"{name}_one_channel")(mixed)
    scaled = layers.Conv2D(1, 1, use_bias=False, kernel_initializer="zeros", name=f"{name}_gamma")(one_channel)
    scaled = layers.Reshape(x.shape[1:], name=f"{name}_scaled")(scaled)
    return layers.Add(name=f"{name}_residual")([x, scaled])
