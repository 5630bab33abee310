"""Both stages of H2G-Net in order: patch classifier, heatmaps, refinement network, cascade folder."""

from __future__ import annotations

from pathlib import Path

from tfseg.data.cohort import Cohort
from tfseg.data.index import PatchIndex
from tfseg.export.onnx import export_onnx
from tfseg.slides.class_table import ClassTable
from tfseg.train.classifier import ClassifierSettings, train_classifier
from tfseg.train.refinement import RefinementSettings, train_refinement, write_cascade
from tfseg.train.refinement_data import SampleSettings, make_samples
from tfseg.types import ModelError


def train_cascade(
    cohort: Cohort,
    index: PatchIndex,
    out: str | Path,
    classifier: ClassifierSettings | None,
    refinement: RefinementSettings | None,
    *,
    name: str = "h2g_net",
    classifier_folder: str | Path | None = None,
    classes: ClassTable | None = None,
    workers: int = 2,
) -> Path:
    """Trains what is asked for and writes the folder that ``tfseg segment`` takes.

    Every stage that is finished is taken as it is, so the same call after a stop goes on.

    Args:
        cohort: the slides; those of splits train and val train and validate the refinement network.
        index: their patches.
        out: gets ``classifier/`` and ``refinement/`` (model folders with their runs), ``heatmaps/`` and ``model/``.
        classifier: stage one; None for a network that sees the whole slide alone (UNet-LR).
        refinement: stage two; None to threshold the heatmap.
        name: of the cascade.
        classifier_folder: where stage one lies, so that several refinement networks share one; None is
            ``out/classifier``.
        classes: of the annotations; None takes :meth:`ClassTable.h2g`.
        workers: slides at a time, for heatmaps.

    Returns:
        ``out/model``.

    Raises:
        ModelError: neither stage is asked for.
        CohortError: a split without slides, a class without patches.
    """
    if classifier is None and refinement is None:
        raise ModelError("training: neither a classifier nor a refinement network is asked for. Choose at least one.")
    out = Path(out)
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
            classes=classes or ClassTable.h2g(),
            engine="onnxruntime",
            workers=workers,
        )
        samples, validation = (make_samples(cohort.split(s), heatmaps, settings, first) for s in ("train", "val"))
        train_refinement(samples, validation, second, refinement)
        export_onnx(second)
    tissue, min_tissue = index.config.tissue, index.config.min_tissue
    write_cascade(out / "model", first, second, name, tissue, min_tissue, {"cohort": str(cohort.path)})
    return out / "model"
