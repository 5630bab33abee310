"""DeepLabV3: an atrous encoder and atrous spatial pyramid pooling."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from tfseg.models.blocks import aspp, size_pair
from tfseg.models.encoders import DEEPEST, pyramid

OUTPUT_STRIDE = 16


def deeplabv3(
    size_px: int | tuple[int, int] = 512,
    num_classes: int = 3,
    encoder: str = "resnet50",
    weights: str | Path | None = None,
    alpha: float = 1.0,
    freeze_batch_norm: bool = False,
    aspp_filters: int = 256,
) -> keras.Model:
    """DeepLabV3 (Chen et al. 2017, "Rethinking atrous convolution"), a comparison of the multi-level network's paper.

    The encoder's last map at output stride 16: its last halving is left out, and the kernels behind it are dilated by
    2. Then atrous spatial pyramid pooling: a 1×1 and three 3×3 convolutions of dilation 6, 12, 18 and the map's mean,
    256 channels each, batch norm, ReLU; concatenated, 1×1 to 256, batch norm, ReLU. Head: 1×1 convolution, bilinear
    upsampling ×16, softmax. At the defaults 39 126 915 parameters, 39 070 723 of them trainable.

    Args:
        size_px: side, or (height, width), of the image; multiples of 32.
        num_classes: C.
        encoder: key of ``tfseg.models.encoders.ENCODERS``; all of them can be dilated.
        weights: of the encoder; None (random), "imagenet" or a path.
        alpha: width multiplier of MobileNetV2.
        freeze_batch_norm: keep the encoder's batch norms as loaded, in inference mode.
        aspp_filters: channels of each branch.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to {"segmentation": (B, H, W, C) float32
        probabilities}.

    Raises:
        ModelError: what :func:`tfseg.models.encoders.pyramid` raises, or a size that does not divide.

    Differs from the paper in: the three blocks of the dilated stage are dilated by 2 alike, without its multi-grid of
    (1, 2, 4) times that; output stride 16 in inference too; the mean's 1×1 convolution has a bias before its batch
    norm. The multi-level paper does not say which encoder or stride it compared with.
    """
    size = size_pair(size_px, 2**DEEPEST, "the encoder halves five times")
    image = layers.Input((*size, 3), name="image")
    x = pyramid(image, encoder, "enc", weights, alpha, freeze_batch_norm, OUTPUT_STRIDE)[DEEPEST]
    x = aspp(x, aspp_filters, "aspp")
    x = layers.Conv2D(num_classes, 1, name="segmentation_logits")(x)
    x = layers.UpSampling2D(OUTPUT_STRIDE, interpolation="bilinear", name="segmentation_up")(x)
    outputs = {"segmentation": layers.Softmax(dtype="float32", name="segmentation")(x)}
    return keras.Model({"image": image}, outputs, name="deeplabv3")
