"""Training of dense networks: labels of pixels from concentric fields and partial annotation."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfseg import models
from tfseg.data.balance import expand, read_rates
from tfseg.data.class_counts import class_counts
from tfseg.data.index import DenseIndexConfig, PatchIndex
from tfseg.data.sampling import EpochSampler, HierarchicalSampler, RatioSampler, Sampler
from tfseg.data.segmentation import segmentation_dataset, segmentation_validation_dataset
from tfseg.losses import WeightedCrossentropy, WeightedSoftDice, class_weights
from tfseg.train.fit import TrainConfig, TrainResult, fit, precision, reproducible
from tfseg.train.measures import MeanIoU
from tfseg.train.optimizers import sgd
from tfseg.train.schedules import StepwiseCyclic, linear_scaled
from tfseg.train.segmentation_settings import AUGMENTS, LossSettings, OptimizerSettings, SegmentationSettings
from tfseg.train.stage import VALIDATION_SEED, fingerprint, finish
from tfseg.train.step import LossTerm, Objective, output_loss
from tfseg.types import CohortError, ModelError, ModelSpec, one_of

__all__ = ["LossSettings", "OptimizerSettings", "SegmentationResult", "SegmentationSettings", "train_segmentation"]

OUTPUT = "segmentation"


@dataclass(frozen=True)
class SegmentationResult:
    """A trained dense network.

    Attributes:
        folder: model folder.
        spec: its config.json.
        train: of the run in ``folder/training``.
        confusion: int (C, C), annotated pixels of the validation batches, truth in rows.
    """

    folder: Path
    spec: ModelSpec
    train: TrainResult
    confusion: np.ndarray


def train_segmentation(index: PatchIndex, out: str | Path, settings: SegmentationSettings) -> SegmentationResult:
    """Trains a dense network and writes the model folder ``out``.

    ``out`` gets config.json and model.keras with the weights of the best epoch, and ``training/``: the run folder of
    :func:`tfseg.train.fit.fit`, and confusion.csv (normalised by row), .png and .json (pixels) on the validation
    windows. Called again after a stop it goes on where it was.

    Args:
        index: windows, of :func:`tfseg.data.index.build_index` with a ``DenseIndexConfig``. Their targets must be what
            the network's output covers.
        out: folder.
        settings: how.

    Raises:
        CohortError: not an index of windows; no windows in a split; a class without an annotated pixel in training;
            copies, columns or ratio that do not fit the index.
        ModelError: a network, size or weights that do not fit.
    """
    out, config = Path(out), settings.train
    training, validation = _windows(index, settings)
    sampler = _sampler(training, settings, config.seed)
    reproducible(config.seed)
    model, spec = _network(index, settings)
    counts = class_counts(training.table, index.classes)
    terms = _losses(spec, settings.loss, counts)
    assert spec.output_px is not None and spec.output_mpp is not None
    target = (spec.output_px, spec.output_mpp)
    options: dict[str, Any] = {"threads": settings.threads, "outputs": spec.outputs}
    augment, batch = AUGMENTS[settings.augment], settings.batch_size
    steps, validation_sampler = config.validation_steps, None
    if steps is not None:
        validation_sampler = _sampler(validation, settings, config.seed + VALIDATION_SEED)
    validation_data = segmentation_validation_dataset(
        validation, batch, spec.inputs, target, sampler=validation_sampler, steps=steps, **options
    )
    result = fit(
        model,
        lambda start: segmentation_dataset(
            training, sampler, batch, spec.inputs, target, augment=augment, start_step=start, **options
        ),
        validation_data,
        _config(settings, len(training.table)),
        out / "training",
        Objective(terms, lambda: {OUTPUT: [MeanIoU(len(index.classes))]}, _optimizer(settings)),
        {
            "settings": {**asdict(settings), "train": None, "threads": None, "augment": augment and asdict(augment)},
            "index": {**asdict(index.config), "fingerprint": fingerprint(index.table), **_drawn(index), **counts},
        },
    )
    spec, matrix = finish(model, spec, out, result, validation_data, config.seed, "pixels")
    return SegmentationResult(out, spec, result, matrix)


def _windows(index: PatchIndex, settings: SegmentationSettings) -> tuple[PatchIndex, PatchIndex]:
    """Training and validation windows, with copies where they are wanted; every class is there to be learnt."""
    if not isinstance(index.config, DenseIndexConfig):
        raise CohortError("a dense network needs an index of windows. `tfseg index --kind dense` makes one.")
    parts = index.split(settings.train_split), index.split(settings.validation_split)
    if settings.elastic:
        rates = read_rates(settings.elastic, index.labels)
        parts = expand(parts[0], *rates), expand(parts[1], *rates)
    labels, pixels = index.labels, class_counts(parts[0].table, index.classes)["pixels"]
    possible = {*labels.values.values(), *labels.aliases.values(), labels.rest}
    for i, spec in enumerate(index.classes):
        if i in possible and not pixels[spec.name]:
            raise CohortError(
                f"class {spec.name!r} has no annotated pixel in split {settings.train_split!r} "
                f"({len(parts[0].table)} windows). Annotate some, move slides between the splits, or index with a "
                "class table without it (--classes)."
            )
    return parts


def _drawn(index: PatchIndex) -> dict[str, dict[str, str]]:
    """Hashes of the annotation files: the table tells places and sums, not where in a window a class is drawn.

    Nothing of an index of before, which does not hold them, so that its runs go on.
    """
    hashes = {name: info.get("annotation_sha256") for name, info in index.slides.items()}
    known = {name: one for name, one in hashes.items() if one}
    return {"annotations": known} if known else {}


def _sampler(index: PatchIndex, settings: SegmentationSettings, seed: int) -> Sampler:
    if settings.ratio:
        sampler = RatioSampler(index.table, settings.ratio, columns=settings.sampling, seed=seed)
        multiple = sampler.batch_multiple
        if settings.batch_size % multiple:
            raise CohortError(
                f"batches of {settings.batch_size} do not hold the ratio {settings.ratio} exactly: batch_size must be "
                f"a multiple of {multiple}: {multiple}, {2 * multiple}, {3 * multiple}, …"
            )
        return sampler
    if settings.sampling:
        return HierarchicalSampler(index.table, settings.sampling, seed)
    return EpochSampler(len(index.table), seed)


def _network(index: PatchIndex, settings: SegmentationSettings) -> tuple[keras.Model, ModelSpec]:
    """The network with its first weights, and its spec, checked against the index."""
    known = inspect.signature(models.MODELS[one_of("architecture", settings.architecture, tuple(models.MODELS))])
    mpp = settings.mpp or (settings.mpps[0] if settings.mpps else index.config.mpp)
    target_um = index.config.patch_px * index.config.mpp
    arguments: dict[str, Any] = {"num_classes": len(index.classes), "size_px": settings.size_px}
    if settings.size_px is None:
        arguments["size_px"] = round(target_um / mpp)
    if "mpps" in known.parameters:
        usual = known.parameters["mpps"].default
        arguments["mpps"] = settings.mpps or tuple(one / usual[0] * mpp for one in usual)
    elif settings.mpps:
        raise ModelError(f"{settings.architecture} has one field. Give mpp, not mpps. Received: {settings.mpps}.")
    if settings.widths:
        arguments["widths"] = settings.widths
    if settings.weights is not None:
        arguments["weights"] = settings.weights
    arguments |= settings.arguments
    with precision(settings.precision):
        model = models.build(settings.architecture, **arguments)
    spec = models.describe(model, settings.architecture, arguments, mpp, index.classes)
    _check_output(spec, index)
    if settings.start_from is not None:
        _take_weights(model, spec, settings.start_from)
    return model, spec


def _check_output(spec: ModelSpec, index: PatchIndex) -> None:
    """Class counts and the rule of annotated pixels hold for what the network learns, or they mean nothing."""
    if not spec.dense:
        raise ModelError(f"{spec.architecture} does not label the pixels of windows: it is no dense network.")
    assert spec.output_px is not None and spec.output_mpp is not None
    wanted = index.config.patch_px * index.config.mpp
    if any(not math.isclose(side * spec.output_mpp, wanted, rel_tol=1e-6) for side in spec.output_px):
        height, width = spec.output_px
        raise ModelError(
            f"{spec.architecture}: its output is {width}×{height} px of {spec.output_mpp:g} µm, the index's windows "
            f"are {index.config.patch_px} px of {index.config.mpp:g} µm. Give another size_px, or index anew with "
            f"--dense.target-px {height} --dense.mpp {spec.output_mpp:g}."
        )


def _take_weights(model: keras.Model, spec: ModelSpec, folder: str) -> None:
    first, earlier = models.load(folder)
    for what, (old, new) in {
        "architecture is": (earlier.architecture, spec.architecture),
        "arguments are": (earlier.arguments, spec.arguments),
        "classes are": tuple([one.name for one in each.classes] for each in (earlier, spec)),
        "µm/px are": tuple([one.mpp for one in each.inputs] for each in (earlier, spec)),
    }.items():
        if old != new:
            raise ModelError(f"{folder}: cannot start from it, its {what} {old}, not {new}.")
    model.set_weights(first.get_weights())


def _losses(spec: ModelSpec, settings: LossSettings, counts: Mapping[str, Any]) -> dict[str, LossTerm]:
    """Named terms, those of further outputs named after them."""
    unknown = set(settings.output_weights) - set(spec.outputs)
    if unknown:
        raise ModelError(f"output weights of {sorted(unknown)}: outputs are {', '.join(spec.outputs)}.")
    weights = settings.class_weights or class_weights(
        list(counts["pixels"].values()), settings.class_rule, list(counts["pixels_where_present"].values())
    )
    if len(weights) != len(spec.classes):
        raise ModelError(f"class_weights: one for each of {len(spec.classes)} classes. Received: {len(weights)}.")
    losses = {
        "crossentropy": (
            settings.crossentropy,
            WeightedCrossentropy(weights, settings.dynamic, over_all=settings.over_all),
        ),
        "dice_loss": (settings.dice, WeightedSoftDice(weights, settings.dynamic)),
    }
    terms = {}
    for output in spec.outputs:
        share = settings.output_weights.get(output, 1.0)
        for name, (weight, loss) in losses.items():
            if weight * share:
                terms[name + output.removeprefix(OUTPUT)] = output_loss(output, loss, weight * share)
    if not terms:
        raise ModelError("the loss has no term: all weights of terms or outputs are 0.")
    return terms


def _config(settings: SegmentationSettings, windows: int) -> TrainConfig:
    config = settings.train
    return dataclasses.replace(
        config,
        steps_per_epoch=config.steps_per_epoch or math.ceil(windows / settings.batch_size),
        accumulation_steps=config.accumulation_steps * settings.optimizer.replicas,
    )


def _optimizer(settings: SegmentationSettings) -> keras.optimizers.Optimizer:
    one = settings.optimizer
    rate: Any = linear_scaled(settings.train.learning_rate, one.replicas)
    if one.schedule == "cyclic":
        rate = StepwiseCyclic(rate, one.cycle_steps, one.stairs, one.stair_decay, one.top_decay)
    return keras.optimizers.Adam(rate) if one.kind == "adam" else sgd(rate, one.momentum, one.weight_decay)
