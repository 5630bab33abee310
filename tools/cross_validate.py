"""Cross-validates a dense network on pictures: each is segmented by a network that never saw it.

    python tools/cross_validate.py --images DIR --labels DIR --mpp 0.62 --weights FILE.weights.h5 --out runs/folds

For two classes: value 0 of a label raster is background, every other value foreground, so that rasters of instances
(glands, nuclei) serve as they are. Pictures and labels pair up by name. Pictures in order of their names go to the
folds in turn; every fifth of a fold's training pictures chooses the best epoch instead. Writes per fold the index, the
network and the segmentations, then scores.csv (one row a picture) and report.html with pictures. What is finished is
taken as it is when called again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import tyro
from leave_one_out import write_manifest

from tfseg.comparison import train_dense
from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig
from tfseg.evaluation import evaluate_cohort
from tfseg.infer.cascade import SegmentOptions, segment_slides
from tfseg.report import SlidePictures, slide_pictures, table, write_report
from tfseg.slides.base import open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.train.fit import TrainConfig
from tfseg.train.segmentation import LossSettings, OptimizerSettings, SegmentationSettings
from tfseg.types import ClassSpec, TfsegError


def main(
    images: Path,
    labels: Path,
    out: Path,
    mpp: float,
    weights: str = "imagenet",
    encoder: str = "mobilenetv2",
    foreground: str = "gland",
    folds: int = 4,
    window_px: int = 256,
    window_mpp: float | None = None,
    epochs: int = 4,
    steps: int = 20,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Trains and segments every fold.

    Args:
        images: pictures, all of one pixel size.
        labels: rasters of the same names (any suffix).
        out: run folder.
        mpp: µm/px of the pictures.
        weights: of the encoder: "imagenet" or a file.
        encoder: key of ``tfseg.models.encoders.ENCODERS``.
        foreground: name of what is labelled.
        folds: parts; each is left out once.
        window_px: side of a window; windows overlap by half.
        window_mpp: µm/px of the windows; none takes that of the pictures.
        epochs: of training; the best one on the validation pictures is kept.
        steps: training batches an epoch.
        batch_size: windows a batch.
        learning_rate: of Adam.
        seed: of sampling and weights.
        workers: processes that index, threads that read.
    """
    classes = ClassTable(
        (ClassSpec("background", (0, 0, 0)), ClassSpec(foreground, (200, 0, 0))),
        values=raster_values(labels),
        rest=0,
    )
    settings = SegmentationSettings(
        architecture="encoder_unet",
        arguments={"encoder": encoder, "freeze_batch_norm": True},
        weights=weights,
        batch_size=batch_size,
        loss=LossSettings(dice=1.0, class_rule="uniform"),
        optimizer=OptimizerSettings(kind="adam"),
        sampling=("slide_name",),
        train=TrainConfig(
            epochs=epochs,
            steps_per_epoch=steps,
            validation_steps=None,
            learning_rate=learning_rate,
            monitor="val_mean_iou",
            mode="max",
            reestimate_batches=8,
            seed=seed,
        ),
        threads=workers,
    )
    windows = DenseIndexConfig(target_px=window_px, stride_px=window_px // 2, mpp=window_mpp or mpp)
    manifest = pd.read_csv(write_manifest(images, labels, out / "pictures.csv", mpp))
    found, pictures = [], []
    for number in range(folds):
        fold = out / f"fold{number + 1}"
        cohort = Cohort.read(write_fold(manifest, number, folds, fold / "cohort.csv"))
        train_dense(cohort, windows, classes, fold / "network", fold / "index", settings, workers)
        test = cohort.split("test")
        rows = test.rows()
        slides = [open_slide(row.slide, mpp=row.mpp) for row in rows]
        names = [row.slide_name for row in rows]
        segment_slides(slides, fold / "network", fold / "out", SegmentOptions(), names=names).raise_failures()
        keras.utils.clear_session()
        scores = evaluate_cohort(test, {encoder: fold / "out"}, fold / "scores", by=(), classes=classes)
        found.append(scores.assign(fold=number + 1))
        print(f"fold {number + 1}: mean Dice {scores.dice.mean():.3f} of {len(scores)} pictures", flush=True)
        for row, dice in zip(rows, scores.set_index("slide_name").loc[names].dice, strict=True):
            line = f"fold {number + 1}, Dice {dice:.3f}"
            pictures.append(
                SlidePictures(row.slide_name, line, slide_pictures(row, fold / "out" / row.slide_name, classes))
            )
    scores = pd.concat(found, ignore_index=True)[["fold", "slide_name", "recall", "precision", "dice"]]
    scores.to_csv(out / "scores.csv", index=False)
    line = (
        f"Dice {scores.dice.mean():.3f} ± {scores.dice.std():.3f} (mean ± sd of {len(scores)} pictures; "
        f"folds {', '.join(f'{value:.3f}' for value in scores.groupby('fold').dice.mean())})."
    )
    body = table(list(scores.columns), scores.to_numpy().tolist())
    files = {"scores": out / "scores.csv"}
    write_report(out / "report.html", "Cross-validation", [line], {"Scores": body}, pictures, files)
    print(f"{line} Report: {out / 'report.html'}")


def raster_values(labels: Path) -> dict[int, int]:
    """Every value in the rasters of a folder → 0 (background) or 1."""
    found = {0}
    for path in sorted(labels.glob("*")):
        raster = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if raster is None or raster.ndim != 2:
            raise TfsegError(f"{path}: a label raster of one channel was expected, PNG or TIFF.")
        found.update(np.unique(raster).tolist())
    return {value: min(value, 1) for value in sorted(found)}


def write_fold(manifest: pd.DataFrame, number: int, folds: int, path: Path) -> Path:
    """The manifest with the splits of a fold: each ``folds``-th picture tests, each fifth of the others validates."""
    test = [i for i in range(len(manifest)) if i % folds == number]
    rest = [i for i in range(len(manifest)) if i % folds != number]
    if not test or len(rest) < 5:
        raise TfsegError(f"{len(manifest)} pictures are too few for {folds} folds: 5 or more must be left to train on.")
    split = manifest.split.mask(manifest.index.isin(test), "test").mask(manifest.index.isin(rest[4::5]), "val")
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest.assign(split=split).to_csv(path, index=False)
    return path


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except TfsegError as error:
        sys.exit(f"cross_validate: {error}")
