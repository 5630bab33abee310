"""Both stages of H2G-Net in order: patch classifier, heatmaps, refinement network, cascade folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tfseg.data.cohort import Cohort
from tfseg.data.index import PatchIndex
from tfseg.export.onnx import export_onnx
from tfseg.train.classifier import ClassifierSettings, train_classifier
from tfseg.train.refinement import RefinementSettings, train_refinement, write_cascade
from tfseg.train.refinement_data import SampleSettings, make_samples
from tfseg.types import CohortError, ModelError


def train_cascade(
    cohort: Cohort,
    index: PatchIndex,
    out: str | Path,
    classifier: ClassifierSettings | None,
    refinement: RefinementSettings | None,
    *,
    name: str = "h2g_net",
    classifier_folder: str | Path | None = None,
    workers: int = 2,
) -> Path:
    """Trains what is asked for and writes the folder that ``tfseg segment`` takes.

    Every stage that is finished is taken as it is, so the same call after a stop goes on.

    Args:
        cohort: the slides; those of the training and validation splits are what the refinement network sees. Slides
            that the index left out as broken are left out here, too.
        index: their patches.
        out: gets ``classifier/`` and ``refinement/`` (model folders with their runs), ``heatmaps/`` and ``model/``.
        classifier: stage one; None for a network that sees the whole slide alone (UNet-LR).
        refinement: stage two; None to threshold the heatmap.
        name: of the cascade.
        classifier_folder: where stage one lies, so that several refinement networks share one; None is
            ``out/classifier``.
        workers: slides at a time, for heatmaps.

    Returns:
        ``out/model``.

    Raises:
        ModelError: neither stage is asked for, or a classifier for a network that sees no heatmap.
        CohortError: a split without slides, a class without patches, a slide without annotation; before any training.
    """
    if classifier is None and refinement is None:
        raise ModelError("training: neither a classifier nor a refinement network is asked for. Choose at least one.")
    if classifier is not None and refinement is not None and refinement.architecture == "unet_lr":
        raise ModelError("training: unet_lr sees no heatmap and needs no classifier. Train it alone.")
    out = Path(out)
    names = (classifier.train_split, classifier.validation_split) if classifier else ("train", "val")
    splits = [] if refinement is None else [_usable(cohort.split(name), index) for name in names]
    first = second = None
    if classifier is not None:
        first = Path(classifier_folder or out / "classifier")
        train_classifier(index, first, classifier)
        export_onnx(first)
    if refinement is not None:
        second = out / "refinement"
        heatmaps = first.parent / "heatmaps" if first else out / "slides"
        settings = SampleSettings(
            size_px=refinement.size_px,
            tissue=index.config.tissue,
            min_tissue=index.config.min_tissue,
            classes=index.labels,
            engine="onnxruntime",
            workers=workers,
        )
        samples, validation = (make_samples(slides, heatmaps, settings, first) for slides in splits)
        train_refinement(samples, validation, second, refinement)
        export_onnx(second)
    tissue, min_tissue = index.config.tissue, index.config.min_tissue
    write_cascade(out / "model", first, second, name, tissue, min_tissue, {"cohort": str(cohort.path)})
    return out / "model"


def _usable(cohort: Cohort, index: PatchIndex) -> Cohort:
    """The slides that stage two can use, known before stage one takes days.

    Raises:
        CohortError: a slide without annotation, or no slide left.
    """
    table = cohort.table[~cohort.table["slide_name"].isin(list(index.broken))].reset_index(drop=True)
    bare = table.loc[table["annotation"] == "", "slide_name"]
    if len(bare):
        raise CohortError(
            f"{cohort.path}: no annotation for {', '.join(bare)}. The refinement stage trains on annotated slides; "
            "annotate them, give them another split, or train the classifier alone (--stages classifier)."
        )
    if table.empty:
        raise CohortError(f"{cohort.path}: every slide of a split was left out of the index as broken. Mend them.")
    return replace(cohort, table=table)
