"""Stage two of H2G-Net: the refinement network on whole slides and heatmaps (sections 2.5, 3.4), and the cascade."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfseg import models
from tfseg.data.augment import SlideAugment
from tfseg.data.pipeline import refinement_dataset, refinement_validation_dataset
from tfseg.files import atomic_path, write_json
from tfseg.losses.dice import SoftDice
from tfseg.train.fit import TrainConfig, TrainResult, fit, precision, reproducible
from tfseg.train.measures import SlideDice
from tfseg.train.step import LossTerm, Objective, Tensors
from tfseg.types import H2G_CLASSES, CascadeSpec, ClassSpec, CohortError, ModelError, ModelSpec

OUTPUT = "segmentation"
_MODEL_FILES = ("model.keras", "model.onnx", "config.json")


def paper_config() -> TrainConfig:
    """Section 3.4: Adam 1e-3, 6 batches accumulated, 1000 epochs of one pass, patience 100."""
    return TrainConfig(
        epochs=1000,
        steps_per_epoch=0,
        validation_steps=None,
        learning_rate=1e-3,
        accumulation_steps=6,
        monitor="val_dice",
        mode="max",
        patience=100,
    )


@dataclass(frozen=True)
class RefinementSettings:
    """Settings of stage two; the defaults are the paper's.

    Attributes:
        architecture: "unet", "agunet", "dagunet", "doubleunet", or "unet_lr" (sees no heatmap).
        arguments: further ones of its builder.
        size_px: side to which slides are resized; that of the samples.
        batch_size: slides a training batch.
        augment: None trains without augmentation.
        train: ``steps_per_epoch`` 0 is one pass over the slides, ceil(slides / batch size).
        precision: "float32", "mixed_float16" or "mixed_bfloat16".
        classes: names and colours of the class indices.
    """

    architecture: str = "unet"
    arguments: dict[str, int | float | bool | tuple[int, ...]] = field(default_factory=dict)
    size_px: int = 1024
    batch_size: int = 4
    augment: SlideAugment | None = field(default_factory=SlideAugment)
    train: TrainConfig = field(default_factory=paper_config)
    precision: str = "float32"
    classes: tuple[ClassSpec, ...] = H2G_CLASSES


@dataclass(frozen=True)
class RefinementResult:
    """A trained refinement network: its model folder, spec, and the run in ``folder/training``."""

    folder: Path
    spec: ModelSpec
    train: TrainResult


def train_refinement(
    samples: Sequence[Path], validation_samples: Sequence[Path], out: str | Path, settings: RefinementSettings
) -> RefinementResult:
    """Trains a refinement network and writes the model folder ``out``; called again after a stop it goes on.

    The loss is soft Dice over the foreground classes, averaged over the network's heads; a coarser head is compared
    with the labels at its own pixels' centres. Each validation slide counts once an epoch.

    Args:
        samples, validation_samples: files of :func:`tfseg.train.refinement_data.make_samples`.
        out: gets config.json, model.keras and ``training/``, the run folder.
        settings: how.

    Raises:
        CohortError: no samples.
    """
    for name, files in (("training", samples), ("validation", validation_samples)):
        if not files:
            raise CohortError(f"the refinement stage has no {name} slide. Choose splits that have slides.")
    out = Path(out)
    steps = settings.train.steps_per_epoch or math.ceil(len(samples) / settings.batch_size)
    config = dataclasses.replace(settings.train, steps_per_epoch=steps)
    reproducible(config.seed)
    size = (settings.size_px, settings.size_px)
    arguments = {"num_classes": len(settings.classes), "size_px": size, **settings.arguments}
    with precision(settings.precision):
        model = models.build(settings.architecture, **arguments)
    spec = models.describe(model, settings.architecture, arguments, None, settings.classes)

    inputs = [i.name for i in spec.inputs]

    def stream(start: int) -> tf.data.Dataset:
        return refinement_dataset(
            samples,
            settings.batch_size,
            augment=settings.augment,
            sampler=config.seed,
            start_step=start,
            inputs=inputs,
            outputs=(OUTPUT,),
        )

    result = fit(
        model,
        stream,
        refinement_validation_dataset(validation_samples, settings.batch_size, inputs=inputs, outputs=(OUTPUT,)),
        config,
        out / "training",
        Objective({"dice_loss": heads_loss(spec.outputs)}, lambda: {OUTPUT: [SlideDice()]}),
        {
            "settings": {**asdict(settings), "train": None},
            "samples": {
                "train": [Path(sample).name for sample in samples],
                "val": [Path(sample).name for sample in validation_samples],
            },
        },
    )
    spec = dataclasses.replace(spec, provenance=result.provenance(config.seed))
    models.save(model, spec, out)
    return RefinementResult(out, spec, result)


def heads_loss(heads: Sequence[str]) -> LossTerm:
    """Soft Dice of every head against the labels, averaged."""
    dice = SoftDice()

    def term(inputs: Tensors, targets: Tensors, outputs: Tensors) -> tf.Tensor:
        labels = targets[OUTPUT]
        return tf.add_n([dice(labels_at(labels, outputs[head]), outputs[head]) for head in heads]) / len(heads)

    return term


def labels_at(labels: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Labels (B, H, W) at the pixel centres of a coarser ``output`` (B, H/f, W/g, C): (B, H/f, W/g)."""
    down, right = labels.shape[1] // output.shape[1], labels.shape[2] // output.shape[2]
    return labels[:, down // 2 :: down, right // 2 :: right]


def write_cascade(
    out: str | Path,
    classifier: str | Path | None,
    refinement: str | Path | None,
    name: str = "h2g_net",
    tissue: dict[str, Any] | None = None,
    min_tissue: float = 0.25,
    details: dict[str, Any] | None = None,
) -> CascadeSpec:
    """Writes the folder that ``tfseg segment`` takes: config.json and copies of the networks.

    Args:
        out: the cascade's folder.
        classifier: model folder of stage one; None for a network that sees the whole slide alone (UNet-LR).
        refinement: model folder of stage two; None to threshold the heatmap.
        name: what the user calls it.
        tissue: arguments of ``tfseg.slides.tissue.tissue_mask`` with which it was trained.
        min_tissue: patches need more than this fraction of tissue.
        details: entered into the spec's provenance.

    Raises:
        ModelError: a model folder without config.json, or neither network given.
    """
    out = Path(out)
    parts = {"classifier": classifier, "refinement": refinement}
    specs = {part: ModelSpec.load(folder) for part, folder in parts.items() if folder is not None}
    if not specs:
        raise ModelError("a cascade needs a classifier, a refinement network, or both. Received neither.")
    for part in specs:
        _copy_model(Path(parts[part] or ""), out / part)
    last = specs["refinement" if refinement is not None else "classifier"]
    spec = CascadeSpec(
        name=name,
        classifier="classifier" if classifier is not None else None,
        refinement="refinement" if refinement is not None else None,
        threshold=last.threshold,
        tissue=tissue or {},
        min_tissue=min_tissue,
        provenance={**(details or {}), **{part: s.provenance for part, s in specs.items()}},
    )
    write_json(out / "config.json", spec.to_dict())
    return spec


def _copy_model(source: Path, target: Path) -> None:
    """Copies the files of a model folder, the spec last; no export of an older network stays."""
    if source.resolve() == target.resolve():
        return
    for stale in ("model.onnx", "model_fast.onnx", "model_fast.json", "align_fast.onnx"):
        (target / stale).unlink(missing_ok=True)
    for file in _MODEL_FILES:
        if (source / file).is_file():
            with atomic_path(target / file) as temporary:
                shutil.copyfile(source / file, temporary)
