"""SegNet: the decoder puts every value back to where the encoder's max-pooling took it from."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from tfseg.models.blocks import Tensor, size_pair
from tfseg.models.encode_decode import image_input, plain_block, plain_conv, plain_head
from tfseg.types import ModelError

WIDTHS = (64, 128, 256, 512, 1024)

MARGIN = 0.05
"""Fraction of the channels' mean at a place by which the second of a pair must be larger to get the whole value; below
that the first keeps the rest, all of it where they are equal."""

Indices = tuple[Tensor, Tensor]
"""Where the maxima of 2×2 cells are: 1 where it is the left one of a pair of columns, (B, H, W/2, C); then 1 where it
is the upper one of a pair of rows, (B, H/2, W/2 · C). Between 0 and 1 where they are nearly equal."""


def segnet(size_px: int | tuple[int, int] = 256, num_classes: int = 7, widths: Sequence[int] = WIDTHS) -> keras.Model:
    """SegNet as the Deep Multi-Magnification paper compares with it (sections 2.4 and 3, table 2).

    Every convolution is 3×3 with bias, same padding, ReLU. Encoder: two convolutions at each width but the last, each
    level then max-pooled, keeping the indices. Middle: up to the last width and back to the one before. Decoder stage:
    max-unpool with the stored indices, two convolutions, the second to the width above. Head: 3×3 convolution, ReLU,
    1×1 convolution, softmax. At the defaults 18 881 543 parameters.

    Unpooling by hard indices is not continuous: where two values of a cell are equal but for rounding, as on glass,
    another engine or batch size puts the value into the other place. Measured: probabilities of ONNX Runtime and Keras
    differ by up to 0.006 with random weights, 0.017 after training. No rule that names one place can help, as each has
    a border on which rounding decides. So nearly equal maxima share the value (``MARGIN``): 3e-6 with random weights.

    Args:
        size_px: side, or (height, width), of the field; multiples of 2^(len(widths) − 1).
        num_classes: C; the paper's six and "not annotated" as class 0.
        widths: channels from the finest level to the middle.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to {"segmentation": (B, H, W, C) float32
        probabilities}.

    Raises:
        ModelError: the size does not divide; names the nearest sizes that do. Fewer than two widths.

    Differs from the paper in: nearly equal maxima share the value, see above; with random weights these are 7 % of the
    pairs. He's initial weights; the paper names none. From Badrinarayanan et al. 2017 in what the paper's number of
    parameters demands: two convolutions a level, no batch norm, a middle of twice the width.
    """
    if len(widths) < 2:
        raise ModelError(f"segnet: widths must have at least two levels. Received: {tuple(widths)}.")
    pools = len(widths) - 1
    image, x = image_input("image", size_pair(size_px, 2**pools, f"{pools} poolings"))
    indices = []
    for depth, width in enumerate(widths[:-1]):
        x, where = max_pool_with_indices(plain_block(x, width, f"enc_d{depth}"))
        indices.append(where)
    x = plain_conv(x, widths[-1], "middle_1")
    x = plain_conv(x, widths[-2], "middle_2")
    for depth in range(pools - 1, -1, -1):
        x = max_unpool(x, indices[depth])
        x = plain_conv(x, widths[depth], f"dec_d{depth}_1")
        x = plain_conv(x, widths[max(depth - 1, 0)], f"dec_d{depth}_2")
    return keras.Model({"image": image}, {"segmentation": plain_head(x, widths[0], num_classes)}, name="segnet")


def max_pool_with_indices(x: Tensor) -> tuple[Tensor, Indices]:
    """2×2 max-pooling of (B, H, W, C), first of the columns, then of the rows, and where the maxima were.

    Of equal maxima the first counts, row by row, as in PyTorch's and TensorFlow's indices; of nearly equal ones see
    ``MARGIN``. Nothing but arithmetic and reshaping: OpenVINO has no MaxUnpool, and a scatter by index is slow
    everywhere. As ever, no gradient flows through indices.

    Returns:
        ((B, H/2, W/2, C), indices for :func:`max_unpool`).
    """
    _, height, width, channels = x.shape
    left, right = ops.split(ops.reshape(x, (-1, height, width // 2, 2 * channels)), 2, axis=-1)
    rows = ops.reshape(ops.maximum(left, right), (-1, height // 2, width * channels))
    upper, lower = (ops.reshape(row, (-1, height // 2, width // 2, channels)) for row in ops.split(rows, 2, axis=-1))
    is_upper = ops.reshape(_is_first(upper, lower), (-1, height // 2, width // 2 * channels))
    return ops.maximum(upper, lower), (_is_first(left, right), is_upper)


def _is_first(first: Tensor, second: Tensor) -> Tensor:
    """1 where first ≥ second, 0 where second is larger by the margin or more, linear between; (B, H, W, C) each."""
    scale = ops.mean(ops.abs(ops.maximum(first, second)), axis=-1, keepdims=True)
    share = 1 - (second - first) / (MARGIN * scale + keras.config.epsilon())
    return ops.stop_gradient(ops.clip(share, 0, 1))


def max_unpool(x: Tensor, indices: Indices) -> Tensor:
    """(B, H, W, C) → (B, 2H, 2W, C): each value where its cell's maximum was, zero elsewhere; the sum is kept."""
    _, height, width, channels = x.shape
    is_left, is_upper = indices
    rows = ops.reshape(x, (-1, height, width * channels))
    rows = ops.concatenate([rows * is_upper, rows * (1 - is_upper)], axis=-1)
    x = ops.reshape(rows, (-1, 2 * height, width, channels))
    x = ops.concatenate([x * is_left, x * (1 - is_left)], axis=-1)
    return ops.reshape(x, (-1, 2 * height, 2 * width, channels))
