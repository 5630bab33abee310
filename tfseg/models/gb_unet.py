"""GB U-Net and its rival of the same three networks: an ensemble of U-Nets, and a second U-Net behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

from tfseg.models.blocks import Tensor, conv_bn_relu, size_pair, softmax_head
from tfseg.models.encoder_unet import WIDTHS, encoder_unet, unet_decoder
from tfseg.models.encoders import DEEPEST
from tfseg.types import ModelError

MEMBERS = ("vgg19", "resnet101", "densenet121")
"""Encoders of the paper's three members."""

_MEMBER = "member"


def unet_ensemble(
    size_px: int | tuple[int, int] = 256,
    num_classes: int = 2,
    encoders: Sequence[str] = MEMBERS,
    weights: str | Sequence[str | Path | None] | None = None,
    alpha: float = 1.0,
    freeze_batch_norm: bool = False,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """Pixel mean of the probabilities of several U-Nets as one network; GB U-Net, "Ensemble networks".

    p(x) = 1/M Σ_m p_m(x). Each member is a :func:`tfseg.models.encoder_unet.encoder_unet`, trained on its own and put
    in by :func:`tfseg.models.members.take_members`; a layer ``member1_vgg19`` and so on each. At the defaults
    88 169 350 parameters, 87 974 406 of them trainable.

    Args:
        size_px: side, or (height, width), of the image; multiples of 32.
        num_classes: C.
        encoders: of the members; keys of ``tfseg.models.encoders.ENCODERS``.
        weights: first weights of the encoders: None (random) or "imagenet" for all, or one for each, as
            :func:`tfseg.models.encoders.pyramid` takes them.
        alpha, freeze_batch_norm, widths: of every member, as of :func:`tfseg.models.encoder_unet.encoder_unet`.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to {"segmentation": (B, H, W, C) float32
        probabilities}.

    Raises:
        ModelError: the size does not divide; no encoder, or an unknown one; weights that are not one an encoder,
            missing or of another network.

    Differs from the paper in: what is said at :func:`tfseg.models.encoder_unet.encoder_unet`.
    """
    firsts = [weights] * len(encoders) if weights is None or isinstance(weights, str) else list(weights)
    if len(firsts) != len(encoders):
        raise ModelError(f"weights must be one for each of {len(encoders)} encoders. Received: {len(firsts)}.")
    image = layers.Input((*_size(size_px), 3), name="image")
    maps = []
    for name, encoder, first in zip(member_names(encoders), encoders, firsts, strict=True):
        unet = encoder_unet(size_px, num_classes, encoder, first, alpha, freeze_batch_norm, widths)
        maps.append(keras.Model(unet.input, unet.output, name=name)({"image": image})["segmentation"])
    mean = layers.Average(dtype="float32", name="segmentation")(maps)
    return keras.Model({"image": image}, {"segmentation": mean}, name="unet_ensemble")


def gb_unet(
    size_px: int | tuple[int, int] = 256,
    num_classes: int = 2,
    encoders: Sequence[str] = MEMBERS,
    alpha: float = 1.0,
    joint: bool = False,
    dropout: float = 0.1,
    widths: Sequence[int] = WIDTHS,
) -> keras.Model:
    """GB U-Net: several U-Nets' maps before softmax, with the image, through a second U-Net; "Ensemble networks".

    Stage one: a :func:`tfseg.models.encoder_unet.encoder_unet` each encoder up to its ``segmentation_logits``, a layer
    ``member1_vgg19`` and so on each. They are trained first and put in by
    :func:`tfseg.models.members.take_members`. Stage two, on [maps, image / 255] of M · C + 3 channels: encoder of two
    of (3×3 convolution, batch norm, ReLU, dropout) at each width and 2×2 max-pool between, five times; decoder
    :func:`tfseg.models.encoder_unet.unet_decoder`; 1×1 convolution, softmax. At the defaults 96 044 664 parameters, of
    which 7 869 298 are trainable, with ``joint`` 95 843 704.

    Args:
        size_px: side, or (height, width), of the image; multiples of 32.
        num_classes: C, of the members too.
        encoders: of the members; keys of ``tfseg.models.encoders.ENCODERS``.
        alpha: width multiplier of MobileNetV2, where that is the encoder.
        joint: whether stage one learns with stage two. If not, its weights stay, its batch norms in inference mode.
        dropout: share of stage two's encoder maps that is dropped while training.
        widths: channels of the decoders' maps of depth 4 … 0, in both stages. Stage two's encoder has them in reverse,
            and twice the first at depth 5.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to {"segmentation": (B, H, W, C) float32
        probabilities}.

    Raises:
        ModelError: the size does not divide; no encoder, or an unknown one; not five widths.

    Differs from the paper in: nothing it states. It leaves open whether stage one learns on (here not, unless
    ``joint``), stage two's widths (those of the decoder, which is the members'), depth (theirs), rate of dropout and
    first weights (random), and the scale of the image beside the maps ([0, 1]). Its image is colour-normalised, which
    is done to the data (``tfseg.data.colour_normalisation``), not in the network.
    """
    image = layers.Input((*_size(size_px), 3), name="image")
    maps = []
    for name, encoder in zip(member_names(encoders), encoders, strict=True):
        unet = encoder_unet(size_px, num_classes, encoder, None, alpha, False, widths)
        member = keras.Model(unet.input, unet.get_layer("segmentation_logits").output, name=name)
        member.trainable = joint
        maps.append(member({"image": image}))
    x = layers.Concatenate(name="stage2_cat")([*maps, layers.Rescaling(1 / 255, name="image_scaled")(image)])
    x = unet_decoder(_encode(x, widths, dropout), widths, "stage2_dec")[0]
    return keras.Model({"image": image}, {"segmentation": softmax_head(x, num_classes, "segmentation")}, name="gb_unet")


def member_names(encoders: Sequence[str]) -> list[str]:
    """Names of the members' layers: ``member1_vgg19``, … Numbered, for an encoder may come twice.

    Raises:
        ModelError: there is no encoder, or one string in the place of several.
    """
    if isinstance(encoders, str) or not encoders:
        raise ModelError(f"encoders must be at least one in a sequence, such as {MEMBERS}. Received: {encoders!r}.")
    return [f"{_MEMBER}{number}_{encoder}" for number, encoder in enumerate(encoders, 1)]


def members(model: keras.Model) -> list[tuple[str, keras.Model]]:
    """(encoder, U-Net) of each member of an ensemble or of stage one of a GB U-Net, in their order."""
    found = [layer for layer in model.layers if isinstance(layer, keras.Model) and layer.name.startswith(_MEMBER)]
    numbered = {int(layer.name.partition("_")[0].removeprefix(_MEMBER)): layer for layer in found}
    return [(layer.name.partition("_")[2], layer) for _, layer in sorted(numbered.items())]


def _size(size_px: int | tuple[int, int]) -> tuple[int, int]:
    return size_pair(size_px, 2**DEEPEST, "the encoders halve five times")


def _encode(x: Tensor, widths: Sequence[int], dropout: float) -> dict[int, Tensor]:
    """Encoder of stage two: {depth: (B, H / 2^depth, W / 2^depth, width)} for depth 0 … 5."""
    maps = {}
    for depth, width in enumerate((*reversed(widths), 2 * widths[0])):
        if depth:
            x = layers.MaxPooling2D(2, name=f"stage2_e{depth}_pool")(x)
        for number in (1, 2):
            name = f"stage2_e{depth}_{number}"
            x = layers.Dropout(dropout, name=f"{name}_drop")(conv_bn_relu(x, width, name))
        maps[depth] = x
    return maps
