"""Trained U-Nets into an ensemble of them, or into stage one of a GB U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from tfseg.models.gb_unet import members
from tfseg.models.registry import load
from tfseg.types import ModelError, ModelSpec


def take_members(model: keras.Model, folders: Sequence[str | Path]) -> tuple[ModelSpec, ...]:
    """Gives the members of a network the weights of trained U-Nets.

    Then an ensemble's probabilities are the mean of theirs, and the maps that enter stage two of a GB U-Net are theirs
    before softmax. Nothing is set unless all fit.

    Args:
        model: a :func:`tfseg.models.gb_unet.unet_ensemble` or :func:`tfseg.models.gb_unet.gb_unet`.
        folders: model folders of ``encoder_unet``, as ``tfseg.models.save`` writes them; one a member, in their order.

    Returns:
        The members' specs; classes and µm/px are the same in all, and are those of the whole network.

    Raises:
        ModelError: the network has no members, or not as many as folders; a folder holds no network, or one of another
            architecture, encoder, size or width than its member, or of other classes or µm/px than the first.
    """
    wanted = members(model)
    if len(wanted) != len(folders) or not wanted:
        names = ", ".join(encoder for encoder, _ in wanted) or "none; build unet_ensemble or gb_unet"
        raise ModelError(f"{model.name}: expected a folder for each member ({names}). Received: {len(folders)}.")
    loaded = [load(folder) for folder in folders]
    for folder, (encoder, member), (unet, spec) in zip(folders, wanted, loaded, strict=True):
        _check(folder, encoder, member, unet, spec)
        for what, mine, first in zip(("classes", "µm/px"), _meaning(spec), _meaning(loaded[0][1]), strict=True):
            _same(folder, what, mine, first, f"the member of {folders[0]} has")
    for (_, member), (unet, _) in zip(wanted, loaded, strict=True):
        member.set_weights(unet.get_weights())
    return tuple(spec for _, spec in loaded)


def arguments_of(folders: Sequence[str | Path]) -> dict[str, Any]:
    """How an ensemble or GB U-Net of these trained U-Nets is built.

    Args:
        folders: as of :func:`take_members`.

    Returns:
        "encoders", and "alpha" and "widths" where the first member was given them.

    Raises:
        ModelError: a folder holds no network.
    """
    given = [ModelSpec.load(folder).arguments for folder in folders]
    shared = {name: given[0][name] for name in ("alpha", "widths") if name in given[0]}
    return {"encoders": [one.get("encoder", "efficientnetb0") for one in given], **shared}


def _check(folder: str | Path, encoder: str, member: keras.Model, unet: keras.Model, spec: ModelSpec) -> None:
    """Raises ModelError unless the trained U-Net has the structure of the member."""
    has = f"this member ({encoder}) has"
    _same(folder, "architecture", spec.architecture, "encoder_unet", "a member is an")
    _same(folder, "encoder", spec.arguments.get("encoder", "efficientnetb0"), encoder, has)
    sizes = [tuple(network.input["image"].shape[1:3]) for network in (unet, member)]
    _same(folder, "size in px (height, width)", *sizes, has)
    classes = [keras.tree.flatten(network.output)[0].shape[-1] for network in (unet, member)]
    _same(folder, "number of classes", *classes, has)
    for mine, other in zip(unet.weights, member.weights, strict=True):
        _same(folder, f"shape of {mine.path} (widths or alpha)", tuple(mine.shape), tuple(other.shape), has)


def _meaning(spec: ModelSpec) -> tuple[list[str], float | None]:
    return [one.name for one in spec.classes], spec.inputs[0].mpp


def _same(folder: str | Path, what: str, found: Any, expected: Any, who: str) -> None:
    if found != expected:
        raise ModelError(
            f"{folder}: cannot be a member, its {what} is {found}, {who} {expected}. Give the folders in the order of "
            "the encoders, and build the network with the settings its members were trained with."
        )
