"""Training of Mask R-CNN on nuclei: images with instance labels to a model folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfseg import models
from tfseg.data.nuclei import NucleiItem
from tfseg.data.nuclei_boxes import InstanceTargets, as_inputs
from tfseg.files import write_json
from tfseg.infer.mask_rcnn import PasteOptions, predict_instances
from tfseg.losses import mask_rcnn_losses
from tfseg.models.mask_rcnn import training_network
from tfseg.train.fit import TrainConfig, TrainResult, fit, reproducible
from tfseg.train.nuclei import chosen_threshold, learning_rate, write_threshold
from tfseg.train.nuclei_data import NucleiData
from tfseg.train.nuclei_settings import NucleiSettings
from tfseg.train.optimizers import sgd
from tfseg.train.run_config import plain
from tfseg.train.step import Objective
from tfseg.types import NUCLEI_CLASSES, ModelError, ModelSpec

SHARED_SETTINGS = {
    "architecture", "weights", "mpp", "tile_px", "tile_overlap", "augment", "normalisation", "restain", "threshold",
    "split", "schedule", "threads",
}  # fmt: skip
"""What of ``NucleiSettings`` Mask R-CNN takes, but for the overlap of prediction in ``threshold``; the rest is of
networks that label pixels. It computes in float32: halves are no more exact than a quarter of a pixel in a tile."""


@dataclass(frozen=True)
class MaskRCNNTraining:
    """How Mask R-CNN is trained; the defaults are GB U-Net's, or else matterport's, which it ran.

    Attributes:
        encoder: key of ``tfseg.models.encoders.ENCODERS``.
        alpha: width multiplier of MobileNetV2.
        freeze_batch_norm: keep the encoder's batch norms as loaded, for batches of a few images.
        network: fields of :class:`tfseg.models.mask_rcnn.MaskRCNNSettings` that differ from its defaults.
        rois: boxes an image of which the heads learn.
        momentum: of gradient descent, :func:`tfseg.train.optimizers.sgd`.
        weight_decay: of gradient descent.
        clip_norm: gradients whose joint norm is larger are scaled down to it; None clips nothing.
        batch_size: tiles a batch.
        train: epochs, steps, learning rate (of gradient descent).

    Raises:
        ModelError: a norm to clip to that is not above 0.
    """

    encoder: str = "resnet101"
    alpha: float = 1.0
    freeze_batch_norm: bool = True
    network: dict[str, int | float] = field(default_factory=dict)
    rois: int = 200
    momentum: float = 0.9
    weight_decay: float = 1e-4
    clip_norm: float | None = 5.0
    batch_size: int = 2
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=100, steps_per_epoch=0, validation_steps=None, learning_rate=1e-3, patience=20
        )
    )

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ModelError(f"clip_norm: expected a norm above 0, or None. Received: {self.clip_norm}.")


def train_mask_rcnn(
    items: Sequence[NucleiItem],
    out: str | Path,
    settings: NucleiSettings,
    own: MaskRCNNTraining | None = None,
    prepared: Path | None = None,
) -> ModelSpec:
    """Trains Mask R-CNN, chooses the least score of a nucleus on the validation images, and writes the model folder.

    ``out`` gets what :func:`tfseg.train.nuclei.train_nuclei` writes, but for the confusion. Called again after a stop
    it goes on where it was.

    Args:
        items: images, as of :func:`tfseg.data.nuclei_index.indexed_items`.
        out: folder.
        settings: what it has in common with the other networks of nuclei, ``SHARED_SETTINGS``; the rest is not looked
            at.
        own: the rest.
        prepared: as of :func:`tfseg.train.nuclei.train_nuclei`.

    Raises:
        CohortError: nothing to train, to validate on or to restain with.
        SlideError, AnnotationError: an image or its labels, or a picture to restain with, cannot be used.
        ModelError: a network, size or weights that do not fit.
    """
    out, own = Path(out), own or MaskRCNNTraining()
    settings = dataclasses.replace(
        settings, architecture="mask_rcnn", arguments={}, batch_size=own.batch_size, train=own.train
    )
    data = NucleiData.prepare(items, out, settings, prepared)
    reproducible(own.train.seed)
    network, spec = _network(settings, own)
    targets = InstanceTargets()
    optimizer = sgd(learning_rate(settings, data.config), own.momentum, own.weight_decay, own.clip_norm)
    result = fit(
        training_network(network, targets.max_instances, rois=own.rois, seed=own.train.seed),
        lambda start: data.training(targets, start).map(as_inputs),
        data.validation(targets).map(as_inputs),
        data.config,
        out / "training",
        Objective(mask_rcnn_losses(), optimizer=optimizer),
        {**data.described(), "mask_rcnn": {**dataclasses.asdict(own), "train": None}},
    )
    write_json(out / "training" / "parts.json", {name: [one.name for one in part] for name, part in data.parts.items()})
    return _finish(network, spec, data, result, out)


def _network(settings: NucleiSettings, own: MaskRCNNTraining) -> tuple[keras.Model, ModelSpec]:
    arguments: dict[str, Any] = {
        "size_px": settings.tile_px,
        "num_classes": len(NUCLEI_CLASSES),
        "encoder": own.encoder,
        "alpha": own.alpha,
        "freeze_batch_norm": own.freeze_batch_norm,
        "settings": own.network,
        "weights": settings.weights,
    }
    network = models.build("mask_rcnn", **arguments)
    return network, models.describe(network, "mask_rcnn", arguments, settings.mpp, NUCLEI_CLASSES)


def _finish(network: keras.Model, spec: ModelSpec, data: NucleiData, result: TrainResult, out: Path) -> ModelSpec:
    """Writes the model folder with the threshold; a whole one is left alone."""
    provenance = plain(result.provenance(data.settings.train.seed))
    file = out / "training" / "threshold.json"
    if file.is_file():
        threshold = json.loads(file.read_text(encoding="utf-8"))["threshold"]
    else:
        choice = chosen_threshold(_labeller(network, spec), data.stores["val"], data.settings.threshold, file.parent)
        threshold = choice.threshold
        write_threshold(file, data.settings.threshold, choice, {"threshold": threshold})
    spec = dataclasses.replace(spec, threshold=threshold, provenance=provenance)
    if not (out / "config.json").is_file() or ModelSpec.load(out) != spec:
        models.save(network, spec, out)
    return spec


def _labeller(network: keras.Model, spec: ModelSpec) -> Callable[[np.ndarray], Callable[[float], np.ndarray]]:
    """Image → what labels it at a least score.

    It is found once: instances are drawn by falling score, so those of lower scores change nothing of the others.
    """

    def predict(images: np.ndarray) -> Mapping[str, np.ndarray]:
        return {name: np.asarray(found) for name, found in network.predict_on_batch({"image": images}).items()}

    def labeller(image: np.ndarray) -> Callable[[float], np.ndarray]:
        found = predict_instances(predict, np.array(image), spec, PasteOptions(threshold=0.05))
        scores = np.zeros(int(found.labels.max()) + 1)
        for label, score in found.scores.items():
            scores[label] = score
        return lambda level: np.where(scores[found.labels] >= level, found.labels, 0)

    return labeller
