"""Deep multi-magnification networks: the six systems of the paper, from one manifest to one table.

Ho et al., "Deep Multi-Magnification Networks for multi-class breast cancer image segmentation", Comput. Med. Imaging
Graph. 2021.

    python pipelines/dmmn.py cohort.csv --out runs/dmmn
    python pipelines/dmmn.py cohort.csv --out runs/dmmn --designs U-Net DMMN-M3 HookNet DeepLabV3
    python pipelines/dmmn.py cohort.csv --out runs/quick --quick    # smoke run, scores mean nothing

The manifest needs the columns slide, annotation and split (train, val, test). HookNet and DeepLabV3 are not the
paper's: HookNet, whose output is smaller than its fields, gets windows of its own. Everything that is finished
is taken as it is, so the same command goes on after a stop.

Writes OUT/index (windows, class counts, class balancing before and after), OUT/designs/<design> (for `tfseg segment`),
OUT/segmentations/<design> and OUT/scores: scores.csv and classes.csv (IoU, recall, precision by slide and by class),
summary.md, and a folder a design with its confusion matrix.

Hyperparameters default to section 2.5, batch size aside, which the paper does not give; each is an option (--help).
Not yet run at full size by us.
"""

import dataclasses
import functools
import inspect
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from tfseg import models
from tfseg.comparison import compare, run_script, train_dense
from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig
from tfseg.infer.cascade import SegmentOptions
from tfseg.slides.known_tables import find_table
from tfseg.train.segmentation import SegmentationSettings
from tfseg.types import TfsegError

DESIGNS = {
    "SegNet": "segnet",
    "U-Net": "plain_unet",
    "DMMN-S2": "dmmn_s2",
    "DMMN-MS": "dmmn_ms",
    "DMMN-M2S": "dmmn_m2s",
    "DMMN-M3": "dmmn_m3",
    "HookNet": "hooknet",
    "DeepLabV3": "deeplabv3",
}
"""Design → architecture; the first six are the paper's."""
Name = Literal[tuple(DESIGNS)]  # type: ignore[valid-type]


def main(
    cohort: Positional[Path],
    /,
    out: Path,
    designs: tuple[Name, ...] = tuple(DESIGNS)[:6],
    quick: bool = False,
    narrower: int = 1,
    test_split: str = "test",
    by: tuple[str, ...] = (),
    classes: str = "tissue_types",
    map: tuple[str, ...] = (),
    hooknet_px: int = 284,
    deeplab_encoder: str = "resnet50",
    deeplab_weights: str | None = None,
    workers: int = 2,
    index: DenseIndexConfig = DenseIndexConfig(),  # noqa: B008
    segmentation: SegmentationSettings = SegmentationSettings(elastic=("dmmn",)),  # noqa: B008
    segment: SegmentOptions = SegmentOptions(),  # noqa: B008
) -> None:
    """Runs systems of the DMMN paper and compares them.

    Args:
        cohort: manifest CSV with the columns slide, annotation and split.
        out: run folder.
        designs: which to run.
        quick: shrink networks, fields and training until a run takes minutes; a smoke test.
        narrower: divide the channels of every design by this, so that their ratios stay the paper's on a small machine.
        test_split: the split that is segmented and compared.
        by: columns of the manifest by which scores are grouped.
        classes: tissue_types, another known table, or a JSON file with classes of your own (then give
            --segmentation.elastic, too).
        map: names in annotation files that mean a class, as NAME=CLASS.
        hooknet_px: side of HookNet's fields; its output is smaller, and its windows are that output.
        deeplab_encoder: of DeepLabV3.
        deeplab_weights: of that encoder: "imagenet", a path, or none for random ones.
        workers: processes that index.
        index: how windows are found.
        segmentation: how networks are trained; the architecture follows from the design.
        segment: how slides are segmented.
    """
    if quick:
        index, segmentation, hooknet_px, deeplab_encoder = *shrink(index, segmentation), 156, "mobilenetv2"
    table = find_table(classes).with_aliases(map)
    slides = Cohort.read(cohort)
    encoder = {"encoder": deeplab_encoder, **({"alpha": 0.1, "aspp_filters": 4} if quick else {})}
    jobs = {}
    for name in designs:
        own = dataclasses.replace(segmentation, architecture=DESIGNS[name])
        if narrower > 1 and name != "DeepLabV3":
            own = dataclasses.replace(own, widths=narrow(own, narrower))
        windows, place = index, out / "index"
        if name == "DeepLabV3":
            own = dataclasses.replace(own, widths=(), weights=deeplab_weights, arguments={**own.arguments, **encoder})
        elif name == "HookNet":
            own = dataclasses.replace(own, size_px=hooknet_px)
            windows, place = hooknet_windows(index, own, len(table.classes)), out / "index_hooknet"
        folder = out / "designs" / name
        jobs[name] = functools.partial(train_dense, slides, windows, table, folder, place, own, workers)
    compare(slides.split(test_split), jobs, out, by, table, segment)


def narrow(settings: SegmentationSettings, by: int) -> tuple[int, ...]:
    """The channels of a design, each divided."""
    usual = inspect.signature(models.MODELS[settings.architecture]).parameters["widths"].default
    widths = settings.widths or usual
    if any(width % by for width in widths):
        raise TfsegError(f"--narrower {by} does not divide the channels of {settings.architecture}: {widths}.")
    return tuple(width // by for width in widths)


def hooknet_windows(index: DenseIndexConfig, settings: SegmentationSettings, num_classes: int) -> DenseIndexConfig:
    """The same rules for windows of the size of HookNet's output, side by side."""
    widths = {"widths": settings.widths} if settings.widths else {}
    network = models.build("hooknet", size_px=settings.size_px, num_classes=num_classes, **widths)
    side = network.output["segmentation"].shape[1]
    return dataclasses.replace(index, target_px=side, stride_px=side)


def shrink(
    index: DenseIndexConfig, segmentation: SegmentationSettings
) -> tuple[DenseIndexConfig, SegmentationSettings]:
    """Settings of a smoke run: a step of everything."""
    index = dataclasses.replace(index, target_px=64, stride_px=64, mpp=2.0)
    train = dataclasses.replace(segmentation.train, epochs=1, steps_per_epoch=1, validation_steps=1)
    return index, dataclasses.replace(segmentation, widths=(2, 4, 4), batch_size=2, train=train, threads=2)


if __name__ == "__main__":
    run_script(main, __doc__)
