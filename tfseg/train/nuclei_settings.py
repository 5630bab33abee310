"""Settings of the training of a network of nuclei."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tfseg.data.dense_augment import GB_UNET_AUGMENT, NUCLEI_ANY_STAIN_AUGMENT, NUCLEI_AUGMENT, DenseAugment
from tfseg.data.nuclei_split import NucleiSplit
from tfseg.data.nuclei_store import BorderOptions
from tfseg.data.restain import check_probabilities
from tfseg.infer.instances import InstanceOptions
from tfseg.train.fit import TrainConfig

AUGMENTS: dict[str, DenseAugment | None] = {
    "none": None,
    "gb_unet": GB_UNET_AUGMENT,
    "nuclei": NUCLEI_AUGMENT,
    "nuclei_any_stain": NUCLEI_ANY_STAIN_AUGMENT,
}
"""Augmentations by name: the paper's; with size, colours and sharpness; with any hue."""


@dataclass(frozen=True)
class NormalisationSettings:
    """Colour normalisation of every image before anything else.

    Attributes:
        method: "none", or how; see :mod:`tfseg.data.colour_normalisation`. The paper takes Vahadane.
        target: the image whose colours all get; None takes the first training image.
    """

    method: Literal["none", "vahadane", "macenko", "reinhard"] = "none"
    target: Path | None = None


@dataclass(frozen=True)
class RestainSettings:
    """Labelled images shown in other stains, for networks that meet what nobody labelled; :mod:`tfseg.data.restain`.

    Training tiles are drawn anew every time, validation images once, so that epoch, threshold and marker level are
    chosen on other stains, too.

    Attributes:
        pictures: folder of pictures of tissue in two stains (H&E) at about ``mpp``, without labels, whose second stain
            is laid between the labelled nuclei. None keeps every image's stain.
        p: probability for each tile or validation image; the others stay as they are.
        brown: of those, the share with DAB in place of eosin.

    Raises:
        ModelError: p or brown is not from 0 to 1.
    """

    pictures: Path | None = None
    p: float = 0.7
    brown: float = 0.35

    def __post_init__(self) -> None:
        check_probabilities(self.p, self.brown)


@dataclass(frozen=True)
class ThresholdSettings:
    """How the threshold is chosen on the validation images; :func:`tfseg.infer.instances.choose_threshold`.

    Where touching nuclei are split by their border, the level of the markers (``InstanceOptions.inside``) is chosen in
    the same way after it: too low merges nuclei, too high loses or splits them.

    Attributes:
        maximise: "precision" at ``iou``, as the paper, or "aji".
        iou: 0.50, 0.55 … 0.95.
        min_recall: thresholds that find fewer nuclei at ``iou`` are left out; precision alone is highest where next to
            nothing is found.
        overlap: of the tiles of prediction.
    """

    maximise: Literal["precision", "aji"] = "precision"
    iou: float = 0.5
    min_recall: float = 0.5
    overlap: float = 0.5


@dataclass(frozen=True)
class NucleiSettings:
    """Settings of a network of nuclei; the defaults are GB U-Net's U-Nets where the paper gives one.

    Attributes:
        architecture: key of ``tfseg.models.MODELS``, of a network that labels pixels; ``tfseg train`` also takes
            "mask_rcnn".
        arguments: further ones of its builder, for example {"encoder": "densenet121"}; without an encoder encoder_unet
            is on ResNet101.
        widths: channels of the decoder's maps of depth 4 … 0; none takes the architecture's.
        weights: of the encoder: "imagenet", a path, or None for random ones.
        members: model folders of trained U-Nets, the first stage of ``gb_unet`` or what ``unet_ensemble`` averages: it
            is built with their encoders and takes their weights.
        border_class: learn three classes, background, inside and border, instead of two.
        border_px: width of the border class.
        crossentropy, dice: weights of the loss's two terms: cross-entropy × weight map, 1 − soft Dice with squared
            denominators.
        border: of the weight map.
        mpp: µm/px of the images, which do not say it themselves: 0.25 is 40x.
        tile_px, tile_overlap: of the training tiles.
        batch_size: tiles a batch, also in validation. (The paper does not say.)
        augment: key of ``AUGMENTS``.
        normalisation: of the images' colours.
        restain: shows them in other stains, after that.
        instances: how probabilities become nuclei, all but the threshold and, with ``split`` "border", ``inside``,
            which are chosen; that split wants ``border_class``.
        threshold: how those are chosen.
        split: which images train, validate and test.
        train: epochs, steps, learning rate (of Adam) and so on. ``steps_per_epoch`` 0 is one pass over the tiles;
            ``validation_steps`` None validates on every tile.
        schedule: "constant", as the paper, or "cosine": the rate falls to 0 along half a cosine over all epochs.
        precision: "float32", "mixed_float16" or "mixed_bfloat16".
        threads: that read tiles.
    """

    architecture: str = "encoder_unet"
    arguments: dict[str, int | float | bool | str] = field(default_factory=dict)
    widths: tuple[int, ...] = ()
    weights: str | None = "imagenet"
    members: tuple[str, ...] = ()
    border_class: bool = False
    border_px: int = 2
    crossentropy: float = 1.0
    dice: float = 1.0
    border: BorderOptions = field(default_factory=BorderOptions)
    mpp: float = 0.25
    tile_px: int = 256
    tile_overlap: float = 0.1
    batch_size: int = 8
    augment: Literal[tuple(AUGMENTS)] = "gb_unet"  # type: ignore[valid-type]
    normalisation: NormalisationSettings = field(default_factory=NormalisationSettings)
    restain: RestainSettings = field(default_factory=RestainSettings)
    instances: InstanceOptions = field(default_factory=InstanceOptions)
    threshold: ThresholdSettings = field(default_factory=ThresholdSettings)
    split: NucleiSplit = field(default_factory=NucleiSplit)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=100,
            steps_per_epoch=0,
            validation_steps=None,
            learning_rate=1e-4,
            monitor="val_mean_iou",
            mode="max",
            patience=20,
        )
    )
    schedule: Literal["constant", "cosine"] = "constant"
    precision: str = "float32"
    threads: int = 4
