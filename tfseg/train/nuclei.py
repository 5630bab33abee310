"""Training of networks of nuclei: images with instance labels to a model folder that `tfseg segment --nuclei` takes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import track

from tfseg import models
from tfseg.data.border_weights import class_balance
from tfseg.data.nuclei import NucleiItem
from tfseg.data.nuclei_store import NucleiStore
from tfseg.data.nuclei_stream import PixelTargets
from tfseg.files import write_json
from tfseg.infer.instances import InstanceOptions, ThresholdChoice, choose_level, label_instances
from tfseg.infer.nuclei import nuclei_classes, predict_image, stride_of
from tfseg.losses import PixelWeightedCrossentropy, SoftDice
from tfseg.models.members import arguments_of
from tfseg.train.fit import TrainConfig, TrainResult, fit, precision, reproducible
from tfseg.train.measures import MeanIoU
from tfseg.train.nuclei_data import NucleiData
from tfseg.train.nuclei_settings import NucleiSettings, ThresholdSettings
from tfseg.train.run_config import plain
from tfseg.train.stage import finish
from tfseg.train.step import Objective, output_loss
from tfseg.types import NUCLEI_BORDER_CLASSES, NUCLEI_CLASSES, ModelError, ModelSpec, one_of

OUTPUT, ENCODER = "segmentation", "resnet101"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NucleiResult:
    """A trained network of nuclei.

    Attributes:
        folder: model folder.
        spec: its config.json.
        train: of the run in ``folder/training``.
        parts: images by "train", "val" and "test".
    """

    folder: Path
    spec: ModelSpec
    train: TrainResult
    parts: dict[str, list[NucleiItem]]


def train_nuclei(
    items: Sequence[NucleiItem], out: str | Path, settings: NucleiSettings, prepared: Path | None = None
) -> NucleiResult:
    """Trains a network of nuclei, chooses its threshold on the validation images, and writes the model folder ``out``.

    ``out`` gets config.json and model.keras with the weights of the best epoch; colours.json, the target of the colour
    normalisation, where there is one; and ``training/``: the run folder of :func:`tfseg.train.fit.fit`, confusion.*
    on the validation tiles, threshold.json (scores of every candidate), parts.json (which image was in which part) and
    ``prepared/``, the images as they are trained on, which may be deleted afterwards. Called again after a stop it
    goes on where it was.

    Args:
        items: images, as of :func:`tfseg.data.nuclei_index.indexed_items`.
        out: folder.
        settings: how.
        prepared: folder of prepared images that several runs share; None takes ``out``/training/prepared.

    Raises:
        CohortError: nothing to train, to validate on or to restain with.
        SlideError, AnnotationError: an image or its labels, or a picture to restain with, cannot be used.
        ModelError: a network, size or weights that do not fit, or no threshold that finds anything.
    """
    out = Path(out)
    data = NucleiData.prepare(items, out, settings, prepared)
    reproducible(settings.train.seed)
    model, spec = _network(settings)
    balance = class_balance(data.stores["train"][k].labels for k in range(len(data.parts["train"])))
    targets = PixelTargets(len(spec.classes), balance, settings.border_px)
    config, validation = data.config, data.validation(targets)
    result = fit(
        model,
        lambda start: data.training(targets, start),
        validation,
        config,
        out / "training",
        _objective(settings, config, len(spec.classes)),
        {**data.described(), "class_weights": balance},
    )
    write_json(out / "training" / "parts.json", {name: [one.name for one in part] for name, part in data.parts.items()})
    spec = dataclasses.replace(spec, instances=_instances(model, spec, data.stores["val"], settings, out / "training"))
    spec, _ = finish(model, spec, out, result, validation, config.seed, "pixels")
    return NucleiResult(out, spec, result, data.parts)


def assemble_nuclei(
    items: Sequence[NucleiItem], out: str | Path, settings: NucleiSettings, prepared: Path | None = None
) -> ModelSpec:
    """Writes the model folder of a network whose members are trained, and which learns nothing more: an ensemble.

    Its threshold is chosen as :func:`train_nuclei` does it, on the same validation images; ``out`` gets the same files
    but for those of a run. A whole folder is left alone.

    Args, Raises: as :func:`train_nuclei`; ``settings.members`` are the members' folders.
    """
    out = Path(out)
    if not settings.members:
        raise ModelError(f"{settings.architecture}: give the folders of its trained members.")
    if (out / "config.json").is_file():
        return ModelSpec.load(out)
    data = NucleiData.prepare(items, out, settings, prepared)
    model, spec = _network(settings)
    found = _instances(model, spec, data.stores["val"], settings, out / "training")
    provenance = {"members": [ModelSpec.load(folder).provenance for folder in settings.members]}
    spec = dataclasses.replace(spec, instances=found, provenance=plain(provenance))
    models.save(model, spec, out)
    return spec


def _network(settings: NucleiSettings) -> tuple[keras.Model, ModelSpec]:
    """The network with its first weights, and its spec."""
    known = inspect.signature(models.MODELS[one_of("architecture", settings.architecture, tuple(models.MODELS))])
    classes = NUCLEI_BORDER_CLASSES if settings.border_class else NUCLEI_CLASSES
    if settings.instances.split == "border" and not settings.border_class:
        raise ModelError(
            'instances.split "border" needs a network with a border class: set border_class (--instances.border-class).'
        )
    usual: dict[str, Any] = {"encoder": ENCODER} if "encoder" in known.parameters else {}
    if "encoders" in known.parameters and settings.members:
        usual = arguments_of(settings.members)
    arguments: dict[str, Any] = {
        "num_classes": len(classes),
        "size_px": settings.tile_px,
        **usual,
        **settings.arguments,
    }
    if settings.widths:
        arguments["widths"] = settings.widths
    if "weights" in known.parameters:
        arguments["weights"] = None if settings.members else settings.weights  # members bring their own
    with precision(settings.precision):
        model = models.build(settings.architecture, **arguments)
    spec = models.describe(model, settings.architecture, arguments, settings.mpp, classes)
    if not spec.dense or spec.output_px != spec.inputs[0].size_px or len(spec.inputs) != 1:
        raise ModelError(f"{spec.architecture}: networks of nuclei take one image and label every one of its pixels.")
    if settings.members:
        first = models.take_members(model, settings.members)[0]
        if (first.classes, first.inputs[0].mpp) != (spec.classes, settings.mpp):
            raise ModelError(
                f"{settings.members[0]}: its classes are {', '.join(one.name for one in first.classes)} at "
                f"{first.inputs[0].mpp} µm/px, this network's {', '.join(one.name for one in classes)} at "
                f"{settings.mpp}. Train its members with the same border_class and mpp."
            )
    return model, dataclasses.replace(spec, stride_px=stride_of(spec))  # for FAST; `tfseg segment` takes the same


def _objective(settings: NucleiSettings, config: TrainConfig, num_classes: int) -> Objective:
    """Cross-entropy × weight map + (1 − soft Dice); GB U-Net, equations 1 to 3."""
    terms = {}
    if settings.crossentropy:
        weighted, share = PixelWeightedCrossentropy(OUTPUT), settings.crossentropy
        terms["crossentropy"] = lambda *batch: share * weighted(*batch)
    if settings.dice:
        terms["dice_loss"] = output_loss(OUTPUT, SoftDice(squared=True), settings.dice)
    if not terms:
        raise ModelError("the loss has no term: crossentropy and dice are both 0.")
    rate = learning_rate(settings, config)
    return Objective(terms, lambda: {OUTPUT: [MeanIoU(num_classes)]}, keras.optimizers.Adam(rate))


def learning_rate(
    settings: NucleiSettings, config: TrainConfig
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """``config.learning_rate``, falling to 0 at the last update where ``settings.schedule`` says so."""
    if settings.schedule == "cosine":
        updates = config.epochs * config.steps_per_epoch // config.accumulation_steps
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, max(1, updates))
    return config.learning_rate


def _instances(
    model: keras.Model, spec: ModelSpec, validation: NucleiStore, settings: NucleiSettings, folder: Path
) -> dict[str, Any]:
    """What the spec says of instances: the threshold that is best on the validation images, then the markers' level."""
    file = folder / "threshold.json"
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8"))["instances"])
    predict, planes = as_predictor(model, spec), nuclei_classes(spec)

    def choose(level: str, options: InstanceOptions, rule: ThresholdSettings) -> ThresholdChoice:
        def labeller(image: np.ndarray) -> Callable[[float], np.ndarray]:
            values = predict_image(predict, spec, np.array(image), settings.threshold.overlap, settings.batch_size)
            return lambda value: label_instances(values[..., planes], dataclasses.replace(options, **{level: value}))

        return chosen_threshold(labeller, validation, rule, folder, level)

    choice = choose("threshold", settings.instances, settings.threshold)
    options, more = dataclasses.replace(settings.instances, threshold=choice.threshold), {}
    if options.split == "border":
        recall = next(row["recall"] for row in choice.table if row["threshold"] == choice.threshold)
        unmet = not recall >= settings.threshold.min_recall  # then the threshold has the highest AJI: so also this one
        markers = choose("inside", options, ThresholdSettings("aji") if unmet else settings.threshold)
        options = dataclasses.replace(options, inside=markers.threshold)
        table = [{"inside" if name == "threshold" else name: row[name] for name in row} for row in markers.table]
        more = {"inside": {"score": markers.score, "candidates": table}}
    found = asdict(options)
    write_threshold(file, settings.threshold, choice, {"instances": found, **more})
    return found


def chosen_threshold(
    labeller: Callable[[np.ndarray], Callable[[float], np.ndarray]],
    validation: NucleiStore,
    rule: ThresholdSettings,
    folder: Path,
    level: str = "threshold",
) -> ThresholdChoice:
    """The threshold that is best on validation images.

    Days of training do not end in an error because the network finds too little: without a threshold that finds
    ``min_recall`` the one of highest AJI is taken, and that is said.

    Args:
        labeller: image, uint8 RGB → what labels it at a threshold.
        validation: prepared images.
        rule: what is best.
        folder: of the run, for the warning.
        level: what is chosen, for the progress bar and the warning.
    """

    def choose(**how: Any) -> ThresholdChoice:
        images = [validation[k] for k in range(len(validation.items))]
        labelled = (labeller(one.image) for one in track(images, level, console=Console(stderr=True)))
        return choose_level(labelled, [one.labels for one in images], **how)

    try:
        return choose(maximise=rule.maximise, iou=rule.iou, min_recall=rule.min_recall)
    except ModelError as error:
        _log.warning("%s: %s The %s of highest AJI is taken instead.", folder.parent, error, level)
        return choose(maximise="aji", iou=rule.iou)


def write_threshold(file: Path, rule: ThresholdSettings, choice: ThresholdChoice, result: dict[str, Any]) -> None:
    """threshold.json: what was asked, what was found, the scores of every candidate."""
    write_json(file, {**result, "rule": asdict(rule), "score": choice.score, "candidates": choice.table})


def as_predictor(model: keras.Model, spec: ModelSpec) -> Any:
    """A network in memory as inference takes one; see :mod:`tfseg.infer.predictors`."""
    name = spec.inputs[0].name

    def predict(batch: np.ndarray) -> np.ndarray:
        found: Mapping[str, Any] = model.predict_on_batch({name: np.asarray(batch, np.float32)})
        return np.asarray(found[spec.outputs[0]], np.float32)

    return predict
