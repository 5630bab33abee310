"""Iterative training: every step's network labels the slides that the next one learns from.

Multi-stain multi-level network, "Training" and table 8.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import pandas as pd

from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig, build_index
from tfseg.files import atomic_path, write_json, write_text
from tfseg.infer.networks import DenseModel, load_model
from tfseg.infer.summary import content_hash
from tfseg.infer.tiles import Streaming
from tfseg.metrics.pixel import scores_from_confusion
from tfseg.slides.class_table import ClassTable
from tfseg.train.figures import steps_plot
from tfseg.train.pseudo_labels import LabelCounts, label_slide, raster_codes
from tfseg.train.run_config import plain
from tfseg.train.segmentation import SegmentationSettings, train_segmentation
from tfseg.train.self_training_schedule import Schedule, Step
from tfseg.types import ClassSpec, ModelError, TfsegError

__all__ = ["Schedule", "SelfTrainingResult", "Step", "self_train", "write_steps"]

Tissue = Literal["none", "saturation", "otsu"]

_DEFAULT_STREAMING = Streaming()
_STEP = "step.json"
_NETWORK = ("architecture", "size_px", "mpp", "mpps", "widths", "arguments")
"""Settings that say what a network is, so that its weights fit another."""


@dataclass(frozen=True)
class SelfTrainingResult:
    """What :func:`self_train` leaves.

    Attributes:
        folder: model folder of the last step.
        cohort: with the labels that the last step learnt from, in the training split.
        classes: of these labels and of the manual ones.
        table: as in steps.csv.
    """

    folder: Path
    cohort: Cohort
    classes: ClassTable
    table: pd.DataFrame


def self_train(
    cohort: Cohort,
    config: DenseIndexConfig,
    classes: ClassTable,
    out: str | Path,
    steps: Sequence[Step],
    *,
    tissue: Tissue = "otsu",
    workers: int = 2,
    streaming: Streaming = _DEFAULT_STREAMING,
) -> SelfTrainingResult:
    """Trains step after step, each on the labels of the last.

    The first step learns from manual labels. Each step's network then labels all slides of the training split,
    unannotated ones too, as :func:`tfseg.train.pseudo_labels.label_slide` does: manual labels stay. A step of the
    same network as the one before starts from its weights, another network from its own. Validation slides keep their
    manual labels throughout, and get no others: so the scores of the steps compare.

    Writes ``out/<number>_<name>/`` with index, model and labels of each step, and steps.csv, steps.md and steps.png:
    how much is labelled, and IoU on the validation windows. Called again, finished steps are taken as they are; a step
    that was killed, in training or in labelling, goes on.

    Args:
        cohort: slides of training and validation.
        config: windows; their target is what the networks' output covers.
        classes: of the manual annotations; what nobody drew must be "not annotated".
        out: folder.
        steps: first the base model.
        tissue: what the networks label: tissue found as in ``DenseOptions``, or, "none", glass as well.
        workers: processes that index.
        streaming: how slides are labelled.

    Raises:
        CohortError: of :func:`tfseg.data.index.build_index`, :func:`tfseg.train.segmentation.train_segmentation` and
            :func:`tfseg.train.pseudo_labels.label_slide`.
        TrainingInterruptedError: after Ctrl-C or SIGTERM, once the state is saved.
        TfsegError: the folder holds a step of other settings; nothing was changed.

    Differs from the paper in: the first round starts from random weights, as its network is not the base model's.
    """
    out, classes = Path(out), raster_codes(classes)[0]
    cohort = _of_splits(cohort, steps[0].settings)
    keys = _keys(content_hash([1, asdict(config), plain(asdict(classes)), tissue, _sources(cohort)]), steps)
    folders = [out / f"{number}_{step.name}" for number, step in enumerate(steps)]
    _check_unchanged(folders, keys)
    train = cohort.split(steps[0].settings.train_split)
    current = learnt = cohort
    model, table, rows = Path(), pd.DataFrame(), list[dict[str, Any]]()
    for number, (step, folder, key) in enumerate(zip(steps, folders, keys, strict=True)):
        settings = step.settings
        if number and settings.start_from is None and _same_network(steps[number - 1].settings, settings):
            settings = dataclasses.replace(settings, start_from=str(model))
        done = _finished(folder, train)
        if done is None:
            index = build_index(current, config, folder / "index", classes=classes, workers=workers)
            matrix = train_segmentation(index, folder / "model", settings).confusion
            counts = _label(train, step, folder, classes, tissue, streaming)
            windows = int((index.table["split"] == settings.train_split).sum())
            done = {"key": key, "windows": windows, "confusion": matrix.tolist(), "counts": asdict(counts)}
            write_json(folder / _STEP, done)
        if not number:
            rows.append(_manual_row(LabelCounts(**done["counts"])))
        rows.append(_row(step, done, classes.classes))
        table = _table(rows)
        write_steps(table, out)
        learnt, current = current, _relabelled(cohort, folder, settings.train_split)
        model = (folder / "model").resolve()
        keras.utils.clear_session()  # six steps' graphs would fill the memory
    return SelfTrainingResult(model, learnt, classes, table)


def _of_splits(cohort: Cohort, settings: SegmentationSettings) -> Cohort:
    """The slides that are trained and validated on."""
    kept = cohort.table["split"].isin([settings.train_split, settings.validation_split])
    return Cohort(cohort.path, cohort.table[kept].reset_index(drop=True))


def _sources(cohort: Cohort) -> list[list[Any]]:
    """Changes with the manifest and with the manual annotations."""
    return [
        [row.slide_name, str(row.slide), row.split, row.mpp, row.annotation and row.annotation.stat().st_mtime_ns]
        for row in cohort.rows()
    ]


def _same_network(one: SegmentationSettings, other: SegmentationSettings) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in _NETWORK)


def _keys(key: str, steps: Sequence[Step]) -> list[str]:
    """Of every step; changes with all that comes before it, but not with the number of threads."""
    keys = []
    for step in steps:
        content = plain(asdict(step))
        del content["settings"]["threads"]
        key = content_hash([key, content])
        keys.append(key)
    return keys


def _note(folder: Path) -> dict[str, Any] | None:
    """step.json of a step; None where there is none, or none that can be read."""
    try:
        content = json.loads((folder / _STEP).read_text(encoding="utf-8"))
        return content if content["key"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_unchanged(folders: Sequence[Path], keys: Sequence[str]) -> None:
    for number, (folder, key) in enumerate(zip(folders, keys, strict=True)):
        note = _note(folder)
        if note is not None and note["key"] != key:
            raise TfsegError(
                f"{folder}: this step was finished with other settings, classes, slides or annotations than those "
                "given now. Start again with the old ones to go on, choose a new folder, or delete "
                f"{', '.join(one.name for one in folders[number:])} to have them made anew."
            )


def _finished(folder: Path, train: Cohort) -> dict[str, Any] | None:
    """What a finished step left; None where it is not finished, or its model or a label file is gone."""
    files = [folder / "model" / "config.json", *(_labels(folder, row.slide_name) for row in train.rows())]
    return _note(folder) if all(file.is_file() for file in files) else None


def _label(
    cohort: Cohort, step: Step, folder: Path, classes: ClassTable, tissue: Tissue, streaming: Streaming
) -> LabelCounts:
    """Labels all slides by the network of a step; counts of all of them."""
    model = load_model(folder / "model", engine="keras")
    if not isinstance(model, DenseModel):
        raise ModelError(f"{folder / 'model'}: not a dense network. It labels no pixels of windows.")
    total = LabelCounts()
    for row in cohort.rows():
        path = _labels(folder, row.slide_name)
        total += label_slide(row, model.network, classes, path, step.threshold, tissue, streaming)
    return total


def _labels(folder: Path, slide_name: str) -> Path:
    return folder / "labels" / f"{slide_name}.tiff"


def _relabelled(cohort: Cohort, folder: Path, split: str) -> Cohort:
    """With the labels of a step in place of the annotations, in one split."""
    table = cohort.table.copy()
    for row in table.index[table["split"] == split]:
        table.loc[row, "annotation"] = str(_labels(folder, table.loc[row, "slide_name"]).resolve())
    return Cohort(cohort.path, table)


def _manual_row(counts: LabelCounts) -> dict[str, Any]:
    return {
        "step": "manual",
        "labelled": counts.manual / max(1, counts.pixels),
        "labelled_tissue": counts.manual_tissue / max(1, counts.tissue),
    }


def _row(step: Step, done: dict[str, Any], classes: Sequence[ClassSpec]) -> dict[str, Any]:
    settings, counts = step.settings, LabelCounts(**done["counts"])
    scores = scores_from_confusion(done["confusion"], classes, annotated_only=True)
    return {
        "step": step.name,
        "network": settings.architecture,
        "encoder": settings.arguments.get("encoder", ""),
        "threshold": step.threshold,
        "learning_rate": settings.train.learning_rate,
        "epochs": settings.train.epochs,
        "weights": "dynamic" if settings.loss.dynamic else "static",
        "augment": settings.augment,
        "windows": done["windows"],
        "labelled": counts.labelled / max(1, counts.pixels),
        "labelled_tissue": counts.labelled_tissue / max(1, counts.tissue),
        **{name: value for name, value in scores.items() if name.startswith("iou ")},
    }


def _table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(rows[-1])).astype({"epochs": "Int64", "windows": "Int64"})


def write_steps(table: pd.DataFrame, out: Path) -> None:
    """steps.csv, steps.md and steps.png of rows as in ``SelfTrainingResult.table``."""
    with atomic_path(out / "steps.csv") as temporary:
        table.to_csv(temporary, index=False)
    lines = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.itertuples(index=False)]
    notes = (
        "labelled: fraction of all pixels of the training slides that have a label after the step, manual ones among "
        "them; labelled_tissue: of those on tissue. iou: of the validation windows, on manual labels alone."
    )
    write_text(out / "steps.md", "\n".join([*lines, "", notes, ""]))
    steps_plot(table, out / "steps.png")


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
