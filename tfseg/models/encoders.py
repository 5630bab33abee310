"""Encoders: the networks of ``keras.applications`` as feature pyramids {depth: map}, one row of ``ENCODERS`` each.

Why not the library segmentation-models: under Keras 3 its DenseNets cannot be built (slashes in layer names), and its
EfficientNets cannot be loaded once saved (version 1.0.1). It also ends in one output, where multi-resolution networks
need the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
from keras import applications, layers

from tfseg.models.blocks import Tensor, load_trunk_weights, prepare_trunk
from tfseg.types import ModelError, one_of

DEEPEST = 5
BATCH_NORM_MOMENTUM = 0.99
"""Of every encoder's batch norm. ``keras.applications`` gives MobileNetV2 0.999, which forgets too slowly for short
training: see ``tfseg.models.patch_classifier``."""

_MEAN, _SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TORCH = (tuple(1 / (255 * sd) for sd in _SD), tuple(-mean / sd for mean, sd in zip(_MEAN, _SD, strict=True)))
_CAFFE = (1.0, (-123.68, -116.779, -103.939))
_TF = (1 / 127.5, -1.0)


@dataclass(frozen=True)
class Encoder:
    """How a network of ``keras.applications`` becomes an encoder.

    Attributes:
        network: its function.
        taps: depth → layer whose output is the map that is 2^depth smaller than the image: the last one of its size,
            or, where later layers work on it in a narrow form, the wide one that the next halving starts from.
        scale, offset: image · scale + offset is what its ImageNet weights expect, from RGB in 0..255.
        first: its first layer behind normalisation of its own, if it has any. That normalisation is left out.
        bgr: its first convolution, where its ImageNet weights were trained on BGR. We give RGB, and turn that kernel.
        unpadded: whether its convolutions are unpadded, so that maps are smaller than image / 2^depth. We pad them.
        alpha: whether it has a width multiplier.
    """

    network: Callable[..., keras.Model]
    taps: Mapping[int, str]
    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    first: str | None = None
    bgr: str | None = None
    unpadded: bool = False
    alpha: bool = False


def _taps(*names: str, start: int = 1) -> dict[int, str]:
    return dict(enumerate(names, start))


_efficientnet = partial(
    Encoder,
    taps=_taps(*(f"block{n}a_expand_activation" for n in (2, 3, 4, 6)), "top_activation"),
    scale=_TORCH[0],
    offset=_TORCH[1],
    first="stem_conv_pad",
)
_densenet = partial(
    Encoder,
    taps=_taps("conv1_relu", "pool2_conv", "pool3_conv", "pool4_conv", "relu"),
    scale=_TORCH[0],
    offset=_TORCH[1],
)


def _vgg(network: Callable[..., keras.Model], convolutions: int) -> Encoder:
    deep = [f"block{n}_conv{convolutions}" for n in (3, 4, 5)]
    return Encoder(
        network, _taps("block1_conv2", "block2_conv2", *deep, "block5_pool", start=0), *_CAFFE, bgr="block1_conv1"
    )


def _resnet(network: Callable[..., keras.Model], *blocks: int) -> Encoder:
    ends = [f"conv{stage}_block{last}_out" for stage, last in enumerate((3, *blocks, 3), 2)]
    return Encoder(network, _taps("conv1_relu", *ends), *_CAFFE, bgr="conv1_conv")


ENCODERS: dict[str, Encoder] = {
    **{f"efficientnetb{n}": _efficientnet(getattr(applications, f"EfficientNetB{n}")) for n in range(8)},
    "mobilenetv2": Encoder(
        applications.MobileNetV2,
        _taps(*(f"block_{n}_expand_relu" for n in (1, 3, 6, 13)), "out_relu"),
        *_TF,
        alpha=True,
    ),
    "vgg16": _vgg(applications.VGG16, 3),
    "vgg19": _vgg(applications.VGG19, 4),
    "resnet50": _resnet(applications.ResNet50, 4, 6),
    "resnet101": _resnet(applications.ResNet101, 4, 23),
    "resnet152": _resnet(applications.ResNet152, 8, 36),
    "densenet121": _densenet(applications.DenseNet121),
    "densenet201": _densenet(applications.DenseNet201),
    "inceptionv3": Encoder(
        applications.InceptionV3,
        _taps("trunk_activation_3", "trunk_activation_5", "mixed2", "mixed7", "mixed10"),
        *_TF,
        unpadded=True,
    ),
}
"""Name → encoder. Every one has maps of depth 1 to 5; VGG also one of depth 0, as large as the image."""


def pyramid(
    image: Tensor,
    encoder: str,
    name: str = "enc",
    weights: str | Path | None = None,
    alpha: float = 1.0,
    freeze_batch_norm: bool = False,
    output_stride: int = 32,
) -> dict[int, Tensor]:
    """Feature maps of an image: {depth: (B, H / 2^depth, W / 2^depth, channels)}, H and W multiples of 32.

    The network becomes one layer, called ``name``, so that several encoders in one model do not share layer names; the
    normalisation before it is ``name``_scaled.

    InceptionV3's unpadded convolutions and poolings get same padding. The kernels are the same, and the maps exactly
    2^depth smaller, where those of the original lose 2 or 3 pixels each and lie off the grid.

    Args:
        image: (B, H, W, 3), RGB in 0..255.
        encoder: key of ``ENCODERS``.
        name: of the encoder's layer.
        weights: None (random), "imagenet" (fetched by Keras), or the path of a ``.weights.h5`` of the same
            ``keras.applications`` network without top.
        alpha: width multiplier of MobileNetV2.
        freeze_batch_norm: keep the batch norms as loaded, in inference mode. Needed for weights whose statistics were
            folded into the convolutions.
        output_stride: 32; or 16, where the last halving is left out and the kernels behind it are dilated by 2, so
            that they see what they saw. The map of depth 5 then has the size of that of depth 4.

    Raises:
        ModelError: unknown encoder, an alpha it cannot take, or weights that are missing or of another network.
    """
    kind = ENCODERS[one_of("encoder", encoder, tuple(ENCODERS))]
    if alpha != 1.0 and not kind.alpha:
        raise ModelError(f"alpha is a setting of mobilenetv2. Received: {alpha} with {encoder}; leave it at 1.0.")
    arguments: dict[str, Any] = {"input_shape": (None, None, 3), **({"alpha": alpha} if kind.alpha else {})}
    with keras.name_scope(name):
        trunk = kind.network(include_top=False, weights=None, **arguments)
        prepare_trunk(trunk, BATCH_NORM_MOMENTUM, freeze_batch_norm)
        if kind.unpadded:
            trunk = _changed(trunk, lambda layer: _padded(layer.get_config()))
        if output_stride == 16:
            kept = keras.Model(trunk.input, trunk.get_layer(kind.taps[DEEPEST - 1]).output)
            shallow = {layer.name for layer in kept.layers}
            trunk = _changed(trunk, lambda layer: _atrous(layer, layer.name in shallow))
        if weights is not None:
            load_trunk_weights(trunk, kind.network, arguments, weights)
            if kind.bgr:
                _turn_channels(trunk.get_layer(kind.bgr))
    start = trunk.get_layer(kind.first).input if kind.first else trunk.input
    maps = {f"depth_{depth}": trunk.get_layer(layer).output for depth, layer in kind.taps.items()}
    scaled = layers.Rescaling(kind.scale, kind.offset, name=f"{name}_scaled")(image)
    features = keras.Model(start, maps, name=name)(scaled)
    return {depth: features[f"depth_{depth}"] for depth in kind.taps}


def _turn_channels(convolution: layers.Layer) -> None:
    """Makes a first convolution that was trained on BGR take RGB."""
    kernel, *rest = convolution.get_weights()
    convolution.set_weights([kernel[:, :, ::-1], *rest])


def _changed(trunk: keras.Model, settings: Callable[[layers.Layer], dict[str, Any]]) -> keras.Model:
    """A network of the same layers and shapes of weights with other settings; its weights are new."""
    return keras.models.clone_model(trunk, clone_function=lambda layer: layer.__class__.from_config(settings(layer)))


def _padded(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "padding": "same"} if config.get("padding") == "valid" else config


def _atrous(layer: layers.Layer, shallow: bool) -> dict[str, Any]:
    """Settings of a layer without the last halving; ``shallow`` layers are before it and stay as they are."""
    config = layer.get_config()
    if shallow:
        return config
    if isinstance(layer, layers.ZeroPadding2D):
        return {**config, "padding": 0}
    config = _padded(config)
    if any(stride > 1 for stride in config.get("strides", ())):
        return {**config, "strides": (1, 1)}
    if "dilation_rate" in config and max(config["kernel_size"]) > 1:
        return {**config, "dilation_rate": (2, 2)}
    return config
