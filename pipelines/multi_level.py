"""Multi-stain multi-level network: iterative training from partial annotation, from one manifest to one table.

"Multi-Stain Multi-Level Convolutional Network for Multi-Tissue Breast Cancer Image Segmentation" (2024).

    python pipelines/multi_level.py cohort.csv --out runs/multi_level
    python pipelines/multi_level.py cohort.csv --out runs/multi_level --designs Base Multi-level HookNet
    python pipelines/multi_level.py cohort.csv --out runs/quick --quick    # smoke run, scores mean nothing

The manifest needs the columns slide, annotation, split (train, val, test), stain and scanner; training slides without
annotation are labelled by the networks. A base model learns from manual labels and labels all training slides; five
rounds of the two-level network follow, each learning from the labels of the last. "U-Net", "DeepLabV3" and "HookNet"
learn from the labels that the last round learnt from. Everything that is finished is taken as it is, so the same
command goes on after a stop.

Writes OUT/steps/<number>_<step>/{index,labels,model}, OUT/steps/steps.csv, .md and .png (how much is labelled and
validation IoU by step), OUT/compared/<design>/model, OUT/segmentations/<design> and OUT/scores: classes.csv,
scores.csv, summary.md (by stain and scanner), confusion matrices, curves over thresholds, box plots.

Hyperparameters default to the paper's (section "Training", table 8) and each is an option (--help). Fields of 512 px,
the number of batches an epoch, loss weights and cycle of the learning rate are ours: the text gives none. Expected, on
the paper's 55 test slides: IoU 0.78 for tumour, 0.75 for others. Not yet run at full size by us.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from tfseg import models
from tfseg.comparison import compare, run_script, train_dense
from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig
from tfseg.evaluation import check_evaluation
from tfseg.export.onnx import export_onnx
from tfseg.infer.cascade import SegmentOptions
from tfseg.infer.dense import DenseOptions
from tfseg.infer.outputs import OutputOptions
from tfseg.slides.known_tables import find_table
from tfseg.train.segmentation import LossSettings, OptimizerSettings, SegmentationSettings
from tfseg.train.segmentation_settings import one_pass_epochs
from tfseg.train.self_training import Schedule, self_train

COMPARED = {"U-Net": "encoder_unet", "DeepLabV3": "deeplabv3", "HookNet": "hooknet"}
DESIGNS = ("Base", "Multi-level", *COMPARED)
Name = Literal[DESIGNS]  # type: ignore[valid-type]
SEGMENT = SegmentOptions(dense=DenseOptions(tissue="otsu"), outputs=OutputOptions(probability=True))
"""Of test slides; probabilities give the curves over thresholds."""


def settings(architecture: str, encoder: str) -> SegmentationSettings:
    """The paper's; learning rate, epochs and augmentation of each step are those of its schedule."""
    return SegmentationSettings(
        architecture=architecture,
        arguments={"encoder": encoder},
        batch_size=16,
        loss=LossSettings(crossentropy=1.0, dice=1.0, over_all=False),
        optimizer=OptimizerSettings(kind="adam", schedule="cyclic"),
        ratio={"tumour": 2, "background and normal": 1, "others": 1},
        train=one_pass_epochs(epochs=50, learning_rate=1e-3),
    )


def main(
    cohort: Positional[Path],
    /,
    out: Path,
    designs: tuple[Name, ...] = DESIGNS,
    quick: bool = False,
    test_split: str = "test",
    by: tuple[str, ...] = ("stain", "scanner"),
    classes: str = "tumour_normal_others",
    map: tuple[str, ...] = (),
    tissue: Literal["none", "saturation", "otsu"] = "otsu",
    hooknet_px: int = 284,
    hooknet_widths: tuple[int, ...] = (16, 32, 64, 128, 160),
    deeplab_encoder: str = "resnet50",
    workers: int = 2,
    index: DenseIndexConfig = DenseIndexConfig(target_px=512, stride_px=512, min_tissue=0.0),  # noqa: B008
    schedule: Schedule = Schedule(),  # noqa: B008
    base: SegmentationSettings = settings("encoder_unet", "efficientnetb0"),  # noqa: B008
    rounds: SegmentationSettings = settings("multi_level", "efficientnetb4"),  # noqa: B008
    segment: SegmentOptions = SEGMENT,
) -> None:
    """Trains the multi-level network iteratively, and what it is compared with.

    Args:
        cohort: manifest CSV with the columns slide, annotation, split, stain and scanner.
        out: run folder.
        designs: which are segmented and compared; the steps of iterative training are run in any case.
        quick: two steps of tiny networks, for seconds; a smoke test.
        test_split: the split that is segmented and compared.
        by: columns of the manifest by which scores are grouped.
        classes: name of a class table, or a JSON file of one.
        map: names in annotation files that mean a class, as NAME=CLASS.
        tissue: how tissue of training slides is found; networks do not label glass. "none" labels all.
        hooknet_px: side of HookNet's fields.
        hooknet_widths: channels of its maps, from the finest to the middle.
        deeplab_encoder: encoder of DeepLabV3.
        workers: processes that index.
        index: windows; their target is the field of all networks but HookNet.
        schedule: thresholds, learning rates, epochs, weights and augmentation, a step each.
        base: the base model.
        rounds: the two-level network; the compared ones take all but architecture and fields from it.
        segment: how test slides are segmented.
    """
    if quick:
        index, schedule, base, rounds = shrink(index, schedule, base, rounds)
        hooknet_px, hooknet_widths, deeplab_encoder = 68, (4, 4, 8), "mobilenetv2"
    slides, table = Cohort.read(cohort), find_table(classes).with_aliases(map)
    test = slides.split(test_split)
    check_evaluation(test, by)  # now, not after days of training
    steps = schedule.steps(base, rounds)
    trained = self_train(slides, index, table, out / "steps", steps, tissue=tissue, workers=workers)
    print((out / "steps" / "steps.md").read_text(encoding="utf-8"))
    jobs = {}
    for name in designs:
        if name in COMPARED:
            one, windows = compared(name, rounds, schedule, index, hooknet_px, hooknet_widths, deeplab_encoder)
            place = out / "compared" / name
            given = trained.cohort, windows, trained.classes, place / "model", place / "index", one, workers
            jobs[name] = functools.partial(train_dense, *given)
        else:
            base_folder = out / "steps" / f"0_{steps[0].name}" / "model"
            jobs[name] = functools.partial(exported, trained.folder if name == "Multi-level" else base_folder)
    compare(test, jobs, out, by, table, segment)


def exported(folder: Path) -> Path:
    """A trained model folder, with its ONNX."""
    export_onnx(folder)
    return folder


def compared(
    name: str,
    rounds: SegmentationSettings,
    schedule: Schedule,
    index: DenseIndexConfig,
    hooknet_px: int,
    hooknet_widths: tuple[int, ...],
    deeplab_encoder: str,
) -> tuple[SegmentationSettings, DenseIndexConfig]:
    """How a network is trained that the paper compares with, and its windows.

    All as ``rounds`` says, epochs and learning rate, too, as it starts anew; the augmentation is the last round's.
    """
    one = dataclasses.replace(
        rounds,
        architecture=COMPARED[name],
        mpps=(),
        loss=dataclasses.replace(rounds.loss, output_weights={}),
        augment=schedule.augments[-1],
    )
    if name == "DeepLabV3":
        one = dataclasses.replace(one, widths=(), arguments={"encoder": deeplab_encoder})
    if name == "HookNet":
        network = models.build("hooknet", size_px=hooknet_px, widths=hooknet_widths)
        side = network.output["segmentation"].shape[1]
        index = dataclasses.replace(index, target_px=side, stride_px=side)
        one = dataclasses.replace(one, arguments={}, size_px=hooknet_px, widths=hooknet_widths, mpps=rounds.mpps)
    return one, index


def shrink(
    index: DenseIndexConfig, schedule: Schedule, base: SegmentationSettings, rounds: SegmentationSettings
) -> tuple[DenseIndexConfig, Schedule, SegmentationSettings, SegmentationSettings]:
    """Settings of a smoke run: base model and one round, of two batches each."""
    index = dataclasses.replace(index, target_px=64, stride_px=64, mpp=2.0)
    schedule = Schedule(*(tuple(values[:2]) for values in vars(schedule).values()))
    schedule = dataclasses.replace(schedule, thresholds=(0.5, 0.4), epochs=(1, 1))
    tiny = {
        "arguments": {"encoder": "mobilenetv2", "alpha": 0.35},
        "batch_size": 4,
        "threads": 2,
    }
    train = {"steps_per_epoch": 2, "validation_steps": 1, "epochs": 1}
    base, rounds = (
        dataclasses.replace(
            one, **tiny, widths=(8, 8, 4, 4, 4), ratio={}, train=dataclasses.replace(one.train, **train)
        )
        for one in (base, rounds)
    )
    return index, schedule, base, rounds


if __name__ == "__main__":
    run_script(main, __doc__)
