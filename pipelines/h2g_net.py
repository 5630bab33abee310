"""H2G-Net: the nine designs of the paper, from one manifest to one table.

Pedersen et al., "H2G-Net: A multi-resolution refinement approach for segmentation of breast cancer region in gigapixel
histopathological images", Front. Med. 2022.

    python pipelines/h2g_net.py cohort.csv --out runs/h2g
    python pipelines/h2g_net.py cohort.csv --out runs/h2g --designs Mob-PW Mob-PW-UNet
    python pipelines/h2g_net.py cohort.csv --out runs/small --small    # networks and training of the demo's size
    python pipelines/h2g_net.py cohort.csv --out runs/quick --quick    # smoke run, scores mean nothing

The manifest needs the columns slide, annotation, split (train, val, test) and grade. Designs that share a classifier
train it once. Everything that is finished is taken as it is, so the same command goes on after a stop.

Writes OUT/index, OUT/classifiers/<name>, OUT/designs/<design>/model (for `tfseg segment`), OUT/segmentations/<design>
and OUT/scores: scores.csv, summary.md (mean ± sd, by grade, Tukey's range test), box plots.

Hyperparameters default to section 3.4 and each is an option (--help). With 100 epochs of 500 batches of 64 patches a
classifier takes days on a CPU and hours on one GPU. Expected, from the paper's 90 test slides: Dice 0.933 ± 0.069 for
Mob-PW-UNet, 0.872 ± 0.092 for Mob-PW, 0.874 ± 0.128 for UNet-LR. Not yet run at full size by us.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from tfseg.comparison import compare, run_script
from tfseg.data.cohort import Cohort
from tfseg.data.index import IndexConfig, PatchIndex, build_index
from tfseg.demo import small_settings
from tfseg.evaluation import check_evaluation
from tfseg.files import write_json
from tfseg.slides.class_table import ClassTable
from tfseg.train.cascade import train_cascade
from tfseg.train.classifier import ClassifierSettings
from tfseg.train.clustering import ClusterSettings
from tfseg.train.refinement import RefinementSettings
from tfseg.types import CascadeSpec


@dataclasses.dataclass(frozen=True)
class Design:
    """One row of the paper's Table 1: classifier (None: no heatmap), clustering, refinement (None: threshold only)."""

    classifier: str | None = None
    clustering: bool = False
    refinement: str | None = None


DESIGNS = {
    "Otsu": Design(),
    "UNet-LR": Design(refinement="unet_lr"),
    "Inc-PW": Design("inceptionv3_classifier"),
    "Mob-PW": Design("mobilenetv2_classifier"),
    "Mob-KM-PW": Design("mobilenetv2_classifier", clustering=True),
    "Mob-PW-UNet": Design("mobilenetv2_classifier", refinement="unet"),
    "Mob-PW-AGUNet": Design("mobilenetv2_classifier", refinement="agunet"),
    "Mob-PW-DAGUNet": Design("mobilenetv2_classifier", refinement="dagunet"),
    "Mob-PW-DoubleUNet": Design("mobilenetv2_classifier", refinement="doubleunet"),
}
Name = Literal[tuple(DESIGNS)]  # type: ignore[valid-type]


def main(
    cohort: Positional[Path],
    /,
    out: Path,
    designs: tuple[Name, ...] = tuple(DESIGNS),
    small: bool = False,
    quick: bool = False,
    test_split: str = "test",
    by: tuple[str, ...] = ("grade",),
    map: tuple[str, ...] = (),
    inception_weights: str | None = "imagenet",
    workers: int = 2,
    index: IndexConfig = IndexConfig(),  # noqa: B008
    classifier: ClassifierSettings = ClassifierSettings(clustering=ClusterSettings()),  # noqa: B008
    refinement: RefinementSettings = RefinementSettings(),  # noqa: B008
) -> None:
    """Runs designs of the H2G-Net paper and compares them.

    Args:
        cohort: manifest CSV with the columns slide, annotation, split and grade.
        out: run folder.
        designs: rows of the paper's Table 1 to run.
        small: train both stages with the settings of `tfseg demo`, minutes a design on two cores (Inc-PW longer);
            options of the stages do not count then.
        quick: shrink networks, patches and training until a run takes minutes; a smoke test.
        test_split: the split that is segmented and compared.
        by: columns of the manifest by which scores are grouped.
        map: names in annotation files that mean a class, as NAME=CLASS.
        inception_weights: of Inc-PW's backbone, as --classifier.weights is of MobileNetV2.
        workers: processes that index, and slides at a time for heatmaps.
        index: how patches are found.
        classifier: stage one; architecture and clustering follow from the design.
        refinement: stage two; the architecture follows from the design.
    """
    if small:
        classifier, refinement = small_settings()
        inception_weights = None
    if quick:
        index, classifier, refinement = shrink(index, classifier, refinement)
    classes = ClassTable.h2g().with_aliases(map)
    slides = Cohort.read(cohort)
    test = slides.split(test_split)
    check_evaluation(test, by)  # now, not after hours of indexing
    patches = build_index(slides, index, out / "index", classes=classes, workers=workers)
    weights = {
        "mobilenetv2_classifier": classifier.weights,
        "inceptionv3_classifier": None if quick else inception_weights,
    }
    designs_of = {
        name: functools.partial(train, name, slides, patches, out, classifier, refinement, weights, workers)
        for name in designs
    }
    compare(test, designs_of, out, by, classes, baselines=("Otsu",))


def train(
    name: str,
    cohort: Cohort,
    index: PatchIndex,
    out: Path,
    classifier: ClassifierSettings,
    refinement: RefinementSettings,
    weights: dict[str, str | None],
    workers: int,
) -> Path:
    """Trains what a design needs; returns its cascade folder."""
    design, folder = DESIGNS[name], out / "designs" / name
    if design == Design():
        spec = CascadeSpec(name, classifier=None, refinement=None)
        write_json(folder / "model" / "config.json", spec.to_dict())
        return folder / "model"
    first = second = None
    if design.classifier is not None:
        clusters = classifier.clustering if design.clustering else None
        arguments = {k: v for k, v in classifier.arguments.items() if k != "alpha" or "mobilenet" in design.classifier}
        first = dataclasses.replace(
            classifier,
            architecture=design.classifier,
            weights=weights[design.classifier],
            clustering=clusters,
            arguments=arguments,
        )
    if design.refinement is not None:
        second = dataclasses.replace(refinement, architecture=design.refinement)
    shared = out / "classifiers" / f"{design.classifier}{'_clustered' if design.clustering else ''}"
    return train_cascade(cohort, index, folder, first, second, name=name, classifier_folder=shared, workers=workers)


def shrink(
    index: IndexConfig, classifier: ClassifierSettings, refinement: RefinementSettings
) -> tuple[IndexConfig, ClassifierSettings, RefinementSettings]:
    """Settings of a smoke run: two steps of everything."""
    index = dataclasses.replace(index, patch_px=96, stride_px=96)
    clusters = dataclasses.replace(
        classifier.clustering or ClusterSettings(), clusters=3, batches=2, batch_size=8, weights=None, input_px=32
    )
    first = dataclasses.replace(
        classifier,
        arguments={"alpha": 0.1},
        weights=None,
        batch_size=4,
        clustering=clusters,
        threads=2,
        train=dataclasses.replace(classifier.train, epochs=1, steps_per_epoch=2, validation_steps=1),
    )
    second = dataclasses.replace(
        refinement,
        arguments={"widths": (4, 4, 8)},
        size_px=64,
        batch_size=2,
        train=dataclasses.replace(refinement.train, epochs=1, steps_per_epoch=2, accumulation_steps=1),
    )
    return index, first, second


if __name__ == "__main__":
    run_script(main, __doc__)
