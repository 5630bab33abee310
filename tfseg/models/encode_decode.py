"""Encoder and decoder of U-Nets without batch norm, and how maps of several fields come together in a decoder.

Feature maps are kept by depth, {depth: (B, H/2^depth, W/2^depth, width)}: the pixel of a map is mpp · 2^depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from keras import layers

from tfseg.geometry import crop_border
from tfseg.models.blocks import Tensor, softmax_head

Features = dict[int, Tensor]
"""Depth → feature map."""

Block = Callable[[Tensor, int, str], Tensor]
"""What a level does: (map, width, name) → map."""


def image_input(name: str, size_px: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """An input (B, H, W, 3) float32 RGB in 0..255, and the same scaled to [0, 1]."""
    image = layers.Input((*size_px, 3), name=name)
    return image, layers.Rescaling(1 / 255, name=f"{name}_scaled")(image)


def plain_conv(x: Tensor, width: int, name: str) -> Tensor:
    """3×3 convolution with bias (same padding, He's initial weights), ReLU."""
    return layers.Conv2D(
        width, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)


def plain_block(x: Tensor, width: int, name: str) -> Tensor:
    """Two of :func:`plain_conv`."""
    return plain_conv(plain_conv(x, width, f"{name}_1"), width, f"{name}_2")


def plain_up(x: Tensor, width: int, name: str) -> Tensor:
    """3×3 transposed convolution of stride 2 with bias, which doubles the size exactly; ReLU."""
    return layers.Conv2DTranspose(
        width, 3, strides=2, padding="same", activation="relu", kernel_initializer="he_normal", name=f"{name}_up"
    )(x)


def plain_head(x: Tensor, width: int, num_classes: int) -> Tensor:
    """3×3 convolution, ReLU, 1×1 convolution to the classes, softmax named "segmentation"."""
    return softmax_head(plain_conv(x, width, "final"), num_classes, "segmentation")


def encode(x: Tensor, widths: Sequence[int], name: str, block: Block = plain_block) -> Features:
    """A block at every width, 2×2 max-pool between.

    Returns:
        The map of every depth, 0 … len(widths) − 1, each after its block.
    """
    features: Features = {}
    for depth, width in enumerate(widths):
        if depth:
            x = layers.MaxPooling2D(2, name=f"{name}_d{depth}_pool")(x)
        x = features[depth] = block(x, width, f"{name}_d{depth}")
    return features


def decode(
    features: Features,
    name: str,
    block: Block = plain_block,
    up: Block = plain_up,
    hooks: Mapping[int, Sequence[Tensor]] | None = None,
    beside: Mapping[int, Sequence[Tensor]] | None = None,
    until: int = 0,
) -> Features:
    """From the deepest map up: ``up`` to the next map's width, concatenate [that map, up], ``block``.

    Maps of other fields come in where their pixels are of the same size (``tfseg.geometry.join_depth``); all fields
    are concentric, so whatever is larger is cropped at its centre. So are the encoder's maps, without padding.

    Args:
        features: of :func:`encode`.
        name: prefix of the layers.
        block: at every depth.
        up: doubles the size.
        hooks: depth → maps to concatenate behind the decoder's map of that depth before it goes up.
        beside: depth → maps to concatenate behind [encoder's map, up] before the block of that depth.
        until: the finest depth that is wanted.

    Returns:
        The decoder's map of every depth from ``until`` to the deepest, without the hooks.
    """
    deepest = max(features)
    maps = {deepest: features[deepest]}
    for depth in range(deepest - 1, until - 1, -1):
        stage = f"{name}_d{depth}"
        x = join(maps[depth + 1], (hooks or {}).get(depth + 1, ()), f"{name}_d{depth + 1}_hook")
        skip = features[depth]
        x = up(x, skip.shape[-1], stage)
        joined = [crop_to(skip, x, f"{stage}_skip"), x, *(beside or {}).get(depth, ())]
        maps[depth] = block(layers.Concatenate(name=f"{stage}_cat")(joined), skip.shape[-1], stage)
    return maps


def join(x: Tensor, others: Sequence[Tensor], name: str) -> Tensor:
    """Concatenates ``others``, maps of concentric fields with pixels of the same size, behind ``x``, cropped to it."""
    if not others:
        return x
    cropped = [crop_to(other, x, f"{name}{n}") for n, other in enumerate(others, 1)]
    return layers.Concatenate(name=f"{name}_cat")([x, *cropped])


def crop_to(x: Tensor, like: Tensor, name: str) -> Tensor:
    """The centre of ``x`` in the height and width of ``like``; their pixels are of the same size."""
    return _crop(x, tuple(crop_border(side, 1, target, 1) for side, target in _sides(x, like)), name)


def crop_field(x: Tensor, mpp: float, like: Tensor, like_mpp: float, name: str) -> Tensor:
    """The centre of ``x``, whose pixels are ``mpp`` µm, that covers the field of ``like``, whose are ``like_mpp``."""
    return _crop(x, tuple(crop_border(side, mpp, target, like_mpp) for side, target in _sides(x, like)), name)


def _sides(x: Tensor, like: Tensor) -> zip:
    return zip(x.shape[1:3], like.shape[1:3], strict=True)


def _crop(x: Tensor, borders: tuple[int, ...], name: str) -> Tensor:
    return layers.Cropping2D(borders, name=f"{name}_crop")(x) if any(borders) else x
