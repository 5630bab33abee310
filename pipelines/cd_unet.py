"""Colour-deconvolution U-Net: with and without the colour segment, from one manifest to one table.

Multi-stain tissue segmentation (background, tumour, tissue, necrosis) over H&E and immunohistochemistry.

    python pipelines/cd_unet.py cohort.csv --out runs/cd_unet
    python pipelines/cd_unet.py cohort.csv --out runs/quick --quick    # smoke run, scores mean nothing

The manifest needs the columns slide, annotation, split (train, val, test) and stain. Everything that is finished is
taken as it is, so the same command goes on after a stop.

Writes OUT/index (windows, class counts), OUT/designs/<design> (for `tfseg segment`), OUT/segmentations/<design> and
OUT/scores: scores.csv and classes.csv (Dice, which is F1, recall, precision, IoU by slide and by class), summary.md,
box plots by stain, and a folder a design with its confusion matrix.

Hyperparameters default to section 3 for one device and each is an option (--help). The paper's 15 devices, a batch of
16 on each and 15 times the learning rate, are --segmentation.optimizer.replicas 15. Not yet run at full size by us.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from tfseg.comparison import compare, run_script, train_dense
from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig
from tfseg.infer.cascade import SegmentOptions
from tfseg.slides.known_tables import find_table
from tfseg.train.segmentation import LossSettings, OptimizerSettings, SegmentationSettings
from tfseg.train.segmentation_settings import one_pass_epochs

DESIGNS = {"UNET": "half_unet", "CD-UNET": "cd_unet"}
"""Design → architecture."""
Name = Literal[tuple(DESIGNS)]  # type: ignore[valid-type]
WINDOWS = DenseIndexConfig(target_px=512, stride_px=512, mpp=1.0)
PAPER = SegmentationSettings(
    architecture="cd_unet",
    batch_size=16,
    loss=LossSettings(class_rule="median_frequency"),
    optimizer=OptimizerSettings(kind="sgd", momentum=0.9, weight_decay=0.0),
    augment="cd_unet",
    train=one_pass_epochs(epochs=200, learning_rate=1e-3),
)


def main(
    cohort: Positional[Path],
    /,
    out: Path,
    designs: tuple[Name, ...] = tuple(DESIGNS),
    quick: bool = False,
    test_split: str = "test",
    by: tuple[str, ...] = ("stain",),
    classes: str = "tissue_and_necrosis",
    map: tuple[str, ...] = (),
    workers: int = 2,
    index: DenseIndexConfig = WINDOWS,
    segmentation: SegmentationSettings = PAPER,
    segment: SegmentOptions = SegmentOptions(),  # noqa: B008
) -> None:
    """Compares a U-Net with and without a learned colour deconvolution.

    Args:
        cohort: manifest CSV with the columns slide, annotation, split and stain.
        out: run folder.
        designs: which to run.
        quick: shrink networks, fields and training until a run takes minutes; a smoke test.
        test_split: the split that is segmented and compared.
        by: columns of the manifest by which scores are grouped.
        classes: tissue_and_necrosis, another known table, or a JSON file with classes of your own.
        map: names in annotation files that mean a class, as NAME=CLASS.
        workers: processes that index.
        index: how windows are found.
        segmentation: how networks are trained; the architecture follows from the design.
        segment: how slides are segmented.
    """
    if quick:
        index = dataclasses.replace(index, target_px=64, stride_px=64, mpp=2.0)
        train = dataclasses.replace(segmentation.train, epochs=1, steps_per_epoch=1, validation_steps=1)
        segmentation = dataclasses.replace(segmentation, widths=(2, 4), batch_size=2, train=train, threads=2)
    table = find_table(classes).with_aliases(map)
    slides = Cohort.read(cohort)
    jobs = {}
    for name in designs:
        own = dataclasses.replace(segmentation, architecture=DESIGNS[name])
        place = out / "designs" / name
        jobs[name] = functools.partial(train_dense, slides, index, table, place, out / "index", own, workers)
    compare(slides.split(test_split), jobs, out, by, table, segment)


if __name__ == "__main__":
    run_script(main, __doc__)
