"""Building blocks that several architectures share. Stock Keras layers only, so that saved networks reload alone."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from tfseg.geometry import check_divisible
from tfseg.types import ModelError

Tensor = Any
"""A symbolic Keras tensor; feature maps are (B, H, W, channels), float32 or the policy's compute type."""

_DILATIONS = (6, 12, 18)
_COUNTED_NAME = re.compile(
    r"(conv2d|batch_normalization|activation|max_pooling2d|average_pooling2d|concatenate)(?:_\d+)?"
)


def size_pair(size_px: int | tuple[int, int], divisor: int, what: str) -> tuple[int, int]:
    """Returns ``size_px`` as (height, width), both multiples of ``divisor``.

    Args:
        size_px: one side of a square in pixels, or (height, width).
        divisor: what each side must be a multiple of.
        what: why; it stands in the error.

    Raises:
        ModelError: a side does not divide; names the nearest sizes that fit.
    """
    pair = (size_px, size_px) if isinstance(size_px, int) else tuple(int(side) for side in size_px)
    if len(pair) != 2:
        raise ModelError(f"size_px must be one number or (height, width). Received: {size_px!r}.")
    for side in pair:
        check_divisible(side, divisor, what)
    return pair


def conv_bn_relu(x: Tensor, width: int, name: str, dropout: float = 0.0) -> Tensor:
    """3×3 convolution with bias (same padding), batch norm, ReLU and, with ``dropout`` > 0, spatial dropout."""
    x = layers.Conv2D(width, 3, padding="same", name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    if dropout:
        x = layers.SpatialDropout2D(dropout, name=f"{name}_drop")(x)
    return x


def conv_block(x: Tensor, width: int, name: str, dropout: float = 0.0) -> Tensor:
    """Two of :func:`conv_bn_relu`."""
    return conv_bn_relu(conv_bn_relu(x, width, f"{name}_1", dropout), width, f"{name}_2", dropout)


def aspp(x: Tensor, filters: int, name: str) -> Tensor:
    """Atrous spatial pyramid pooling: the map seen through convolutions of growing reach.

    Branches of ``filters`` channels, each with batch norm and ReLU: the map's mean through a 1×1 convolution with bias;
    a 1×1 and three 3×3 convolutions of dilation 6, 12, 18, without bias. Concatenated, 1×1 without bias, batch norm,
    ReLU.
    """
    mean = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
    mean = _aspp_branch(mean, filters, f"{name}_mean", 1, use_bias=True)
    branches = [layers.UpSampling2D(x.shape[1:3], name=f"{name}_mean_up")(mean)]
    branches.append(_aspp_branch(x, filters, f"{name}_1x1", 1))
    for rate in _DILATIONS:
        branches.append(_aspp_branch(x, filters, f"{name}_rate{rate}", 3, rate))
    x = layers.Concatenate(name=f"{name}_cat")(branches)
    return _aspp_branch(x, filters, f"{name}_out", 1)


def _aspp_branch(x: Tensor, filters: int, name: str, kernel: int, rate: int = 1, use_bias: bool = False) -> Tensor:
    x = layers.Conv2D(filters, kernel, dilation_rate=rate, padding="same", use_bias=use_bias, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def softmax_head(x: Tensor, num_classes: int, name: str) -> Tensor:
    """1×1 convolution to ``num_classes``, softmax in float32 whatever the precision policy.

    The softmax layer carries ``name``, which becomes the output's name in Keras and in ONNX; the convolution, whose
    maps networks behind this one may take, ``name``_logits.
    """
    x = layers.Conv2D(num_classes, 1, name=f"{name}_logits")(x)
    return layers.Softmax(dtype="float32", name=name)(x)


def refinement_inputs(size_px: tuple[int, int], heatmap: bool) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of a whole-slide network and what its first convolution sees.

    Returns:
        ({"image": (B, H, W, 3) in 0..255[, "heatmap": (B, H, W, 1) in 0..1]}, the image scaled to [0, 1] with the
        heatmap as last channel).
    """
    inputs = {"image": layers.Input((*size_px, 3), name="image")}
    x = layers.Rescaling(1 / 255, name="image_scaled")(inputs["image"])
    if heatmap:
        inputs["heatmap"] = layers.Input((*size_px, 1), name="heatmap")
        x = layers.Concatenate(name="image_heatmap")([x, inputs["heatmap"]])
    return inputs, x


def prepare_trunk(trunk: keras.Model, momentum: float, frozen: bool) -> None:
    """Sets the batch norms' momentum and whether they train; gives layers names that no counter of Keras decides."""
    counts: dict[str, int] = {}
    for layer in trunk.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum, layer.trainable = momentum, not frozen
        counted = _COUNTED_NAME.fullmatch(layer.name)
        if counted:
            kind = counted[1]
            counts[kind] = counts.get(kind, 0) + 1
            layer.name = f"trunk_{kind}_{counts[kind]}"


def load_trunk_weights(
    trunk: keras.Model, network: Callable[..., keras.Model], arguments: dict[str, Any], weights: str | Path
) -> None:
    """Gives the backbone ``trunk`` the pretrained weights of a ``keras.applications`` network without top.

    Args:
        trunk: the backbone, built by ``network(input_tensor=…)`` behind layers of ours.
        network: the function of ``keras.applications``.
        arguments: ``input_shape`` and the like, with which ``network`` has the same weights as ``trunk``.
        weights: "imagenet" (fetched by Keras), or the path of a ``.weights.h5`` file.

    Raises:
        ModelError: no such file, or it holds another network's weights.
    """
    if str(weights) == "imagenet":
        try:
            pretrained = network(include_top=False, weights="imagenet", **arguments)
        except Exception as error:  # Keras raises a bare Exception where the download fails
            raise ModelError(
                f"the ImageNet weights of {network.__name__} cannot be had: {error}. Without a network, give the path "
                "of a .weights.h5 file without top as weights (H2G-Net: --classifier.weights, "
                "--classifier.clustering.weights), or None."
            ) from error
        trunk.set_weights(pretrained.get_weights())
        return
    path = Path(weights)
    wanted = f'Expected "imagenet" or a .weights.h5 file of keras.applications\' {network.__name__} without top'
    wanted += f", {arguments}."
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights. {wanted}")
    # Layers in front of the trunk would count in the file's layer names, so the file is read by a network without them.
    reader = network(include_top=False, weights=None, **arguments)
    # Keras skips layers that the file does not have; NaN shows which. It also warns of containers that hold none.
    blank = [np.full_like(w, np.nan) if w.dtype.kind == "f" else w for w in reader.get_weights()]
    reader.set_weights(blank)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping nested container")
            reader.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{path}: weights do not fit. {wanted} Keras says: {error}") from error
    missing = sum(bool(np.isnan(weight).any()) for weight in reader.get_weights())
    if missing:
        raise ModelError(f"{path}: weights do not fit, {missing} of {len(reader.weights)} are missing. {wanted}")
    trunk.set_weights(reader.get_weights())


@contextlib.contextmanager
def float32_policy() -> Iterator[None]:
    """Builds layers under the float32 policy, whatever the process uses."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
