"""HookNet: a U-Net on the target whose bottleneck sees a map of a second U-Net on a wider field."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfseg.geometry import check_fields, field_name, join_depth
from tfseg.models.blocks import Tensor, softmax_head
from tfseg.models.encode_decode import decode, encode, image_input
from tfseg.types import ModelError

MPPS = (0.5, 2.0)
WIDTHS = (16, 32, 64, 128, 160)


def hooknet(
    size_px: int | tuple[int, int] = 284,
    num_classes: int = 3,
    mpps: Sequence[float] = MPPS,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """HookNet (van Rijthoven et al. 2021), which the multi-stain multi-level paper compares with.

    Two U-Nets of the same structure without padding, so that no map depends on made-up pixels. Block: two of (3×3
    convolution with bias, ReLU, batch norm). Encoder: a block at each width, 2×2 max-pool between. Decoder stage:
    nearest upsampling ×2, 3×3 convolution with ReLU to the width above, concatenate [skip cropped at its centre, up],
    block. The context's decoder map whose pixels are as large as those of the target's bottleneck
    (``tfseg.geometry.join_depth``) is cropped at its centre and concatenated with the bottleneck. Head: 1×1
    convolution, softmax.

    With p poolings, an input of S px gives a bottleneck of b_p = (S + 4) / 2^p − 8 px, maps of b_d = 2 b_(d+1) − 6 px
    on the way up, and an output of b_0 px: 284 gives 70 at p = 4. Crops are whole pixels where S + 4 is a multiple of
    2^(p + 1); the context's map covers the bottleneck where b_p ≥ 6.

    Args:
        size_px: side, or (height, width), of both fields.
        num_classes: C.
        mpps: µm/px of the target's and of the context's field; their ratio is 2^n, 1 ≤ n ≤ p.
        widths: channels from the finest level to the middle.

    Returns:
        Model from {"image_20x": (B, H, W, 3), "image_5x": (B, H, W, 3)} float32 RGB in 0..255 to {"segmentation":
        (B, h, w, C)} float32 probabilities of the centre of the first field.

    Raises:
        ModelError: a size that does not fit, naming the nearest that do; or fields that never fit.

    Differs from the paper in: the loss is on the target alone (the authors' weights 1 and 0), so the context's decoder
    ends with the map that is hooked, its finer stages and its output would learn nothing. L2 regularisation is left to
    the optimiser. The middle has 160 filters, as the authors' released code builds it, not 256.
    """
    pools = len(widths) - 1
    check_fields(mpps, pools)
    if len(mpps) != 2:
        raise ModelError(f"hooknet: mpps are those of two fields, target and context. Received: {tuple(mpps)}.")
    size = _checked_size(size_px, pools)
    target, context = (image_input(field_name(mpp), size) for mpp in mpps)
    depth = join_depth(pools, mpps[0], mpps[1])
    assert depth is not None  # check_fields
    features = encode(context[1], widths, "enc_context", _valid_block)
    hook = decode(features, "dec_context", _valid_block, _valid_up, until=depth)[depth]
    features = encode(target[1], widths, "enc_target", _valid_block)
    x = decode(features, "dec_target", _valid_block, _valid_up, hooks={pools: [hook]})[0]
    inputs = {field_name(mpp): image for mpp, (image, _) in zip(mpps, (target, context), strict=True)}
    return keras.Model(inputs, {"segmentation": softmax_head(x, num_classes, "segmentation")}, name="hooknet")


def _valid_block(x: Tensor, width: int, name: str) -> Tensor:
    """Two of (3×3 convolution without padding, ReLU, batch norm)."""
    for n in (1, 2):
        x = _valid_conv(x, width, f"{name}_{n}")
        x = layers.BatchNormalization(name=f"{name}_{n}_bn")(x)
    return x


def _valid_up(x: Tensor, width: int, name: str) -> Tensor:
    """Nearest upsampling ×2, 3×3 convolution without padding, ReLU: n px become 2n − 2."""
    x = layers.UpSampling2D(2, interpolation="nearest", name=f"{name}_up")(x)
    return _valid_conv(x, width, f"{name}_up")


def _valid_conv(x: Tensor, width: int, name: str) -> Tensor:
    return layers.Conv2D(width, 3, activation="relu", kernel_initializer="he_normal", name=f"{name}_conv")(x)


def _checked_size(size_px: int | tuple[int, int], pools: int) -> tuple[int, int]:
    """(height, width); raises ModelError unless each is a multiple of 2^(pools + 1) less 4, at least 7 times that."""
    pair = (size_px, size_px) if isinstance(size_px, int) else tuple(int(side) for side in size_px)
    if len(pair) != 2:
        raise ModelError(f"size_px must be one number or (height, width). Received: {size_px!r}.")
    step = 2 ** (pools + 1)
    smallest = 7 * step - 4
    for side in pair:
        if (side + 4) % step or side < smallest:
            below = (side + 4) // step * step - 4
            nearest = f"{below} or {below + step}" if below >= smallest else f"{smallest}"
            raise ModelError(
                f"size must be a multiple of {step} less 4, at least {smallest} ({pools} poolings without padding). "
                f"Received: {side}. Nearest: {nearest}."
            )
    return pair
