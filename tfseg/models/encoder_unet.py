"""U-Net on any encoder, and its decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
from keras import layers

from tfseg.models.blocks import Tensor, conv_block, size_pair, softmax_head
from tfseg.models.encoders import DEEPEST, pyramid
from tfseg.types import ModelError

WIDTHS = (256, 128, 64, 32, 16)
"""Channels of the decoder's maps of depth 4 … 0."""


def encoder_unet(
    size_px: int | tuple[int, int] = 512,
    num_classes: int = 3,
    encoder: str = "efficientnetb0",
    weights: str | Path | None = None,
    alpha: float = 1.0,
    freeze_batch_norm: bool = False,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """U-Net whose encoder is a network for natural images.

    The base model of the multi-stain multi-level network ("Training", with EfficientNet-B0), and the networks of GB
    U-Net ("U-net"). Encoder: :func:`tfseg.models.encoders.pyramid`. Decoder: :func:`unet_decoder`. Head: 1×1
    convolution, softmax. At the defaults 10 116 399 parameters, 10 072 399 of them trainable.

    Args:
        size_px: side, or (height, width), of the image; multiples of 32.
        num_classes: C.
        encoder: key of ``tfseg.models.encoders.ENCODERS``.
        weights: of the encoder: None (random), "imagenet" (fetched by Keras), or the path of a ``.weights.h5`` of the
            same ``keras.applications`` network without top.
        alpha: width multiplier of MobileNetV2.
        freeze_batch_norm: keep the encoder's batch norms as loaded, in inference mode; see
            :func:`tfseg.models.encoders.pyramid`.
        widths: channels of the decoder's maps of depth 4 … 0.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to {"segmentation": (B, H, W, C) float32
        probabilities}.

    Raises:
        ModelError: the size does not divide, unknown encoder, or weights that are missing or of another network.

    Differs from the paper in: neither paper gives the decoder's widths; these are the usual ones for such encoders.
    Multi-level: random start, as its later networks have; the text does not say what the base model starts from.
    """
    image = layers.Input((*size_pair(size_px, 2**DEEPEST, "the encoder halves five times"), 3), name="image")
    features = pyramid(image, encoder, "enc", weights, alpha, freeze_batch_norm)
    x = unet_decoder(features, widths, "dec")[0]
    return keras.Model(
        {"image": image}, {"segmentation": softmax_head(x, num_classes, "segmentation")}, name="encoder_unet"
    )


def unet_decoder(features: Mapping[int, Tensor], widths: Sequence[int], name: str) -> dict[int, Tensor]:
    """A U-Net's decoder: from depth to depth nearest upsampling ×2, concatenate [up, skip], conv block.

    Args:
        features: {depth: map} with depth 1 … 5; a map of depth 0 is a skip too, where there is one.
        widths: channels of the maps of depth 4 … 0.
        name: prefix of the layers' names.

    Returns:
        {depth: (B, H / 2^depth, W / 2^depth, width)} for depth 4 … 0.

    Raises:
        ModelError: not five widths.
    """
    if len(widths) != DEEPEST:
        raise ModelError(f"widths must be {DEEPEST}, of depth {DEEPEST - 1} … 0. Received: {tuple(widths)}.")
    x, maps = features[DEEPEST], {}
    for depth, width in zip(reversed(range(DEEPEST)), widths, strict=True):
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"{name}_d{depth}_up")(x)
        if depth in features:
            x = layers.Concatenate(name=f"{name}_d{depth}_cat")([x, features[depth]])
        maps[depth] = x = conv_block(x, width, f"{name}_d{depth}")
    return maps
