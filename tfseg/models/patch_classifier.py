"""Patch classifiers: an ImageNet backbone and a small head."""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

from tfseg.models.blocks import load_trunk_weights, prepare_trunk, size_pair
from tfseg.types import ModelError, one_of

BACKBONES = {"mobilenetv2": keras.applications.MobileNetV2, "inceptionv3": keras.applications.InceptionV3}
"""Backbone → the ``keras.applications`` network."""

_MOBILENET_STRIDE = 32
_INCEPTION_SMALLEST = 75


def patch_classifier(
    backbone: str = "mobilenetv2",
    num_classes: int = 2,
    size_px: int | tuple[int, int] = 256,
    weights: str | Path | None = None,
    alpha: float = 1.0,
    batch_norm_momentum: float = 0.99,
    freeze_batch_norm: bool = False,
) -> keras.Model:
    """Classifier of square patches; H2G-Net section 2.3 (Mob-PW on MobileNetV2, Inc-PW on InceptionV3).

    RGB scaled to [−1, 1] → backbone without top → global average pooling → Dense 100 → Dropout 0.5 → ReLU → batch norm
    → Dense C, softmax. At C = 2, alpha = 1: 2 386 686 parameters on MobileNetV2, 22 008 286 on InceptionV3.

    Args:
        backbone: "mobilenetv2" or "inceptionv3".
        num_classes: C.
        size_px: side, or (height, width), of the patch; multiples of 32 for MobileNetV2, at least 75 for InceptionV3.
        weights: of the backbone: None (random), "imagenet" (fetched by Keras), or the path of a ``.weights.h5`` of the
            same ``keras.applications`` network without top.
        alpha: width multiplier of MobileNetV2.
        batch_norm_momentum: of the backbone's moving statistics. ``keras.applications`` builds MobileNetV2 with 0.999,
            under which they still hold a third of their first value after 1000 steps, so that a network trained
            briefly is good in training mode and wrong in inference. 0.99 forgets it in a few hundred steps.
        freeze_batch_norm: keep the backbone's batch norms as loaded, in inference mode. Wanted where batches are small,
            and needed for weights whose statistics were folded into the convolutions: normalising by the batch would
            undo what they learned.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to {"probabilities": (B, C) float32}.

    Raises:
        ModelError: unknown backbone, a size or alpha it cannot take, or weights that are missing or of another network.

    Differs from the paper in: the momentum of the backbone's batch norm, as above.
    """
    one_of("backbone", backbone, tuple(BACKBONES))
    size = _checked_size(backbone, size_px)
    if backbone != "mobilenetv2" and alpha != 1.0:
        raise ModelError(f"alpha is a setting of mobilenetv2. Received: {alpha} with {backbone}; leave it at 1.0.")
    image = layers.Input((*size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="image_scaled")(image)
    network = BACKBONES[backbone]
    arguments = {"alpha": alpha} if backbone == "mobilenetv2" else {}
    trunk = network(include_top=False, weights=None, input_tensor=x, **arguments)
    prepare_trunk(trunk, batch_norm_momentum, freeze_batch_norm)
    if weights is not None:
        load_trunk_weights(trunk, network, {"input_shape": (*size, 3), **arguments}, weights)
    x = layers.GlobalAveragePooling2D(name="pool")(trunk.layers[-1].output)
    x = layers.Dense(100, name="hidden")(x)
    x = layers.Dropout(0.5, name="hidden_drop")(x)
    x = layers.Activation("relu", name="hidden_relu")(x)
    x = layers.BatchNormalization(name="hidden_bn")(x)
    x = layers.Dense(num_classes, name="logits")(x)
    x = layers.Softmax(dtype="float32", name="probabilities")(x)
    return keras.Model({"image": image}, {"probabilities": x}, name=f"{backbone}_classifier")


def mobilenetv2_classifier(
    num_classes: int = 2,
    size_px: int | tuple[int, int] = 256,
    weights: str | Path | None = None,
    alpha: float = 1.0,
    batch_norm_momentum: float = 0.99,
    freeze_batch_norm: bool = False,
) -> keras.Model:
    """:func:`patch_classifier` on MobileNetV2. Differs from the paper in: what is said there."""
    return patch_classifier("mobilenetv2", num_classes, size_px, weights, alpha, batch_norm_momentum, freeze_batch_norm)


def inceptionv3_classifier(
    num_classes: int = 2,
    size_px: int | tuple[int, int] = 256,
    weights: str | Path | None = None,
    batch_norm_momentum: float = 0.99,
    freeze_batch_norm: bool = False,
) -> keras.Model:
    """:func:`patch_classifier` on InceptionV3. Differs from the paper in: what is said there."""
    return patch_classifier("inceptionv3", num_classes, size_px, weights, 1.0, batch_norm_momentum, freeze_batch_norm)


def _checked_size(backbone: str, size_px: int | tuple[int, int]) -> tuple[int, int]:
    if backbone == "mobilenetv2":
        return size_pair(size_px, _MOBILENET_STRIDE, "MobileNetV2 halves five times")
    size = size_pair(size_px, 1, "InceptionV3")
    if min(size) < _INCEPTION_SMALLEST:
        raise ModelError(
            f"size must be at least {_INCEPTION_SMALLEST} (InceptionV3 has unpadded convolutions). "
            f"Received: {min(size)}. Nearest: {_INCEPTION_SMALLEST}."
        )
    return size
