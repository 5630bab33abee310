"""Stage one of H2G-Net: the patch classifier, with or without cluster-weighted loss (sections 2.3, 2.4, 3.4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfseg import models
from tfseg.data.augment import PatchAugment
from tfseg.data.index import PatchIndex
from tfseg.data.pipeline import patch_dataset, validation_dataset
from tfseg.data.sampling import HierarchicalSampler
from tfseg.losses import ClusterWeightedCrossentropy
from tfseg.train.clustering import ClusterSettings, fitted_clustering
from tfseg.train.fit import TrainConfig, TrainResult, fit, precision, reproducible
from tfseg.train.measures import ClassRecall
from tfseg.train.stage import VALIDATION_SEED, fingerprint, finish
from tfseg.train.step import Metrics, Objective, output_loss
from tfseg.types import ClassSpec, CohortError, ModelSpec

OUTPUT = "probabilities"


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings of stage one; the defaults are the paper's.

    Attributes:
        architecture: key of ``tfseg.models.MODELS``.
        arguments: further ones of its builder, for example {"alpha": 0.35}.
        weights: of the backbone: "imagenet", a path, or None for random ones.
        batch_size: patches a batch, also in validation.
        augment: None trains without augmentation.
        clustering: None trains with plain cross-entropy.
        sampling: columns of the index between which draws are uniform, step by step.
        train: epochs, steps, learning rate and so on; its seed is that of everything. ``validation_steps`` None
            validates on every patch once instead of on draws.
        precision: "float32", "mixed_float16" or "mixed_bfloat16".
        threads: that read patches.
        train_split, validation_split: values of the index's column split.
    """

    architecture: str = "mobilenetv2_classifier"
    arguments: dict[str, int | float | bool] = field(default_factory=dict)
    weights: str | None = "imagenet"
    batch_size: int = 64
    augment: PatchAugment | None = field(default_factory=PatchAugment)
    clustering: ClusterSettings | None = None
    sampling: tuple[str, ...] = ("grade", "slide_name", "class")
    train: TrainConfig = field(default_factory=TrainConfig)
    precision: str = "float32"
    threads: int = 8
    train_split: str = "train"
    validation_split: str = "val"


@dataclass(frozen=True)
class ClassifierResult:
    """A trained classifier.

    Attributes:
        folder: model folder.
        spec: its config.json.
        train: of the run in ``folder/training``.
        confusion: int (C, C) on the validation draws, truth in rows.
    """

    folder: Path
    spec: ModelSpec
    train: TrainResult
    confusion: np.ndarray


def train_classifier(index: PatchIndex, out: str | Path, settings: ClassifierSettings) -> ClassifierResult:
    """Trains a patch classifier and writes the model folder ``out``.

    ``out`` gets config.json and model.keras with the weights of the best epoch, and ``training/``: the run folder of
    :func:`tfseg.train.fit.fit`, confusion.png and confusion.json on the validation draws and, with clustering,
    clustering.keras and clusters.png. Called again after a stop it goes on where it was.

    Validation draws are the same in every epoch, so that epochs compare (the paper draws anew).

    Raises:
        CohortError: no patches in a split, or a class without patches.
        ModelError: a network or weights that do not fit.
    """
    out, config = Path(out), settings.train
    run_folder = out / "training"
    training = _split(index, settings.train_split)
    validation = _split(index, settings.validation_split)
    reproducible(config.seed)
    arguments = {"num_classes": len(index.classes), "size_px": index.config.patch_px, **settings.arguments}
    with precision(settings.precision):
        model = models.build(settings.architecture, weights=settings.weights, **arguments)
    data = fingerprint(index.table)
    term = output_loss(OUTPUT, keras.losses.CategoricalCrossentropy())
    if settings.clustering is not None:
        stream = _stream(training, settings, settings.clustering.batch_size, None)
        names = [spec.name for spec in index.classes]
        key = {"index": data, "seed": config.seed, "sampling": settings.sampling}
        clustering = fitted_clustering(stream, settings.clustering, run_folder, names, key)
        term = ClusterWeightedCrossentropy(clustering, per_class=settings.clustering.per_class)
    validation_data = _validation(validation, settings)
    result = fit(
        model,
        lambda start: _stream(training, settings, settings.batch_size, settings.augment, start),
        validation_data,
        config,
        run_folder,
        Objective({"crossentropy": term}, lambda: _metrics(index.classes)),
        {"settings": {**asdict(settings), "train": None}, "index": {**asdict(index.config), "patches": data}},
    )
    spec = models.describe(model, settings.architecture, arguments, index.config.mpp, index.classes)
    spec, counts = finish(model, spec, out, result, validation_data, config.seed, "patches")
    return ClassifierResult(out, spec, result, counts)


def _metrics(classes: tuple[ClassSpec, ...]) -> Metrics:
    recalls = [ClassRecall(i, f"recall_{spec.name.replace(' ', '_')}") for i, spec in enumerate(classes)]
    return {OUTPUT: [keras.metrics.CategoricalAccuracy(name="accuracy"), *recalls]}


def _split(index: PatchIndex, name: str) -> PatchIndex:
    """The annotated patches of one split; every class must be among them."""
    part = index.split(name).annotated()
    if part.table.empty:
        raise CohortError(f"no annotated patch in split {name!r}. Annotate its slides, or move annotated ones there.")
    there = set(part.table["class_index"].unique().tolist())
    for i, spec in enumerate(index.classes):
        if i not in there:
            raise CohortError(
                f"class {spec.name!r} has no patch in split {name!r} ({len(part.table)} patches). Annotate more, "
                "move slides between the splits, or index with a lower min_foreground or smaller patches."
            )
    return part


def _stream(
    index: PatchIndex, settings: ClassifierSettings, batch_size: int, augment: PatchAugment | None, start: int = 0
) -> tf.data.Dataset:
    """Training batches from step ``start`` on."""
    sampler = HierarchicalSampler(index.table, settings.sampling, settings.train.seed)
    options = {"threads": settings.threads, "num_classes": len(index.classes)}
    return patch_dataset(index, sampler, batch_size, augment=augment, start_step=start, **options)


def _validation(index: PatchIndex, settings: ClassifierSettings) -> tf.data.Dataset:
    """``validation_steps`` batches drawn as in training, or every patch once where that is None."""
    steps, sampler = settings.train.validation_steps, None
    if steps is not None:
        sampler = HierarchicalSampler(index.table, settings.sampling, settings.train.seed + VALIDATION_SEED)
    options = {"threads": settings.threads, "num_classes": len(index.classes)}
    return validation_dataset(index, settings.batch_size, sampler=sampler, steps=steps, **options)
