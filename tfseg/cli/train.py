"""``tfseg train``."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig, PatchIndex
from tfseg.data.nuclei_index import indexed_items
from tfseg.export.onnx import export_onnx
from tfseg.train.cascade import train_cascade
from tfseg.train.classifier import ClassifierSettings
from tfseg.train.clustering import ClusterSettings
from tfseg.train.mask_rcnn import SHARED_SETTINGS, MaskRCNNTraining, train_mask_rcnn
from tfseg.train.nuclei import assemble_nuclei, train_nuclei
from tfseg.train.nuclei_settings import NucleiSettings
from tfseg.train.refinement import RefinementSettings
from tfseg.train.segmentation import SegmentationSettings, train_segmentation
from tfseg.types import ModelError, TfsegError


def train(
    cohort: Positional[Path | None] = None,
    /,
    *,
    out: Path,
    index: Path | None = None,
    nuclei: Path | None = None,
    stages: Literal["both", "classifier", "refinement"] = "both",
    clustering: bool = False,
    augment: bool = True,
    classifier: ClassifierSettings = ClassifierSettings(clustering=ClusterSettings()),  # noqa: B008
    refinement: RefinementSettings = RefinementSettings(),  # noqa: B008
    segmentation: SegmentationSettings = SegmentationSettings(),  # noqa: B008
    instances: NucleiSettings = NucleiSettings(),  # noqa: B008
    mask_rcnn: MaskRCNNTraining = MaskRCNNTraining(),  # noqa: B008
    name: str = "h2g_net",
    workers: int = 2,
) -> None:
    """Trains networks; writes the folder that `tfseg segment` takes.

    On an index of patches: the classifier and the refinement network, with the settings of the H2G-Net paper. On an
    index of windows (`tfseg index --kind dense`): a dense network, with the settings of the DMMN paper. With --nuclei
    in place of both: a network of nuclei, with the settings of the GB U-Net paper. Run again after a stop: it goes on
    at the last saved step.

    Args:
        cohort: manifest CSV, the one that was indexed.
        out: run folder: classifier/, heatmaps/, refinement/ and model/; of a dense network model/ alone.
        index: folder that `tfseg index` wrote.
        nuclei: folder that `tfseg index --nuclei` wrote.
        stages: "classifier" stops after stage one; "refinement" trains a network that sees the whole slide alone
            (give --refinement.architecture unet_lr).
        clustering: weigh the classifier's loss by clusters of tissue (k-means on features of the patches).
        augment: augment patches, slides and windows.
        classifier: stage one.
        refinement: stage two.
        segmentation: the dense network.
        instances: the network of nuclei.
        mask_rcnn: the rest of it with --instances.architecture mask_rcnn, which has its own loss and optimizer.
        name: of the cascade.
        workers: slides at a time, for heatmaps.
    """
    if nuclei is not None:
        if cohort is not None or index is not None:
            raise TfsegError("give either a cohort's manifest and --index, or --nuclei. See --help.")
        usual = ClassifierSettings(clustering=ClusterSettings()), RefinementSettings(), SegmentationSettings()
        if (classifier, refinement, segmentation, stages, clustering) != (*usual, "both", False):
            raise ModelError(f"{nuclei} is of nuclei, whose networks take --instances.… and no stages or clustering.")
        _train_nuclei(nuclei, out / "model", instances if augment else replace(instances, augment="none"), mask_rcnn)
        return
    if cohort is None or index is None:
        raise TfsegError("give a cohort's manifest (CSV) and --index, or --nuclei. See --help.")
    if (instances, mask_rcnn) != (NucleiSettings(), MaskRCNNTraining()):
        raise ModelError(
            f"--instances.… and --mask-rcnn.… are for networks of nuclei (--nuclei); {index} is of slides."
        )
    slides, patches = Cohort.read(cohort), PatchIndex.load(index)
    if isinstance(patches.config, DenseIndexConfig):
        given = classifier, refinement, stages, clustering
        if given != (ClassifierSettings(clustering=ClusterSettings()), RefinementSettings(), "both", False):
            raise ModelError(f"{index} holds windows of a dense network, which takes --segmentation.… and no stages.")
        model = out / "model"
        train_segmentation(patches, model, segmentation if augment else replace(segmentation, augment="none"))
        export_onnx(model)
    else:
        if segmentation != SegmentationSettings():
            raise ModelError(f"--segmentation.… is for dense networks; {index} holds patches of a classifier.")
        first = replace(classifier, clustering=classifier.clustering if clustering else None)
        second = refinement
        if not augment:
            first, second = replace(first, augment=None), replace(second, augment=None)
        model = train_cascade(slides, patches, out, *_stages(stages, first, second), name=name, workers=workers)
    print(f"model: {model}  (tfseg segment SLIDE --model {model} --out DIR)")


def _train_nuclei(index: Path, model: Path, settings: NucleiSettings, own: MaskRCNNTraining) -> None:
    rcnn = settings.architecture == "mask_rcnn"
    if rcnn:
        usual = NucleiSettings(architecture="mask_rcnn")
        changed = {one.name for one in fields(usual) if getattr(settings, one.name) != getattr(usual, one.name)}
        unused = sorted(changed - SHARED_SETTINGS)
        if settings.threshold.overlap != usual.threshold.overlap:
            unused.append("threshold.overlap")
        if unused:
            options = ", ".join(f"--instances.{name.replace('_', '-')}" for name in unused)
            raise ModelError(f"mask_rcnn does not take {options}; what is its own is --mask-rcnn.…, see --help.")
    elif own != MaskRCNNTraining():
        raise ModelError(
            f"--mask-rcnn.… is for --instances.architecture mask_rcnn. Received architecture: {settings.architecture}."
        )
    print(f"images are taken at {settings.mpp:g} µm/px (--instances.mpp)", flush=True)
    items = indexed_items(index)
    if rcnn:
        train_mask_rcnn(items, model, settings, own)
    elif settings.architecture == "unet_ensemble" and settings.members:
        assemble_nuclei(items, model, settings)
    else:
        train_nuclei(items, model, settings)
    export_onnx(model)
    print(f"model: {model}  (tfseg segment --nuclei IMAGE --model {model} --out DIR)")


def _stages(
    stages: str, first: ClassifierSettings, second: RefinementSettings
) -> tuple[ClassifierSettings | None, RefinementSettings | None]:
    """The stages to train; None for one that is left out."""
    if stages == "refinement" and second.architecture != "unet_lr":
        raise ModelError(
            f"--stages refinement trains a network without heatmaps; {second.architecture} needs them. "
            "Give --refinement.architecture unet_lr, or train both stages."
        )
    return None if stages == "refinement" else first, None if stages == "classifier" else second
