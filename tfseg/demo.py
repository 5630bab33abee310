"""``tfseg demo``: H2G-Net the whole way on synthetic slides, nuclei on a real picture, ending in a page to look at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from tfseg.data.cohort import Cohort
from tfseg.data.index import IndexConfig, PatchIndex, build_index
from tfseg.evaluation import evaluate_cohort
from tfseg.export.fast import export_cascade
from tfseg.files import atomic_path, write_json
from tfseg.infer.cascade import SegmentOptions, segment_nuclei, segment_slides
from tfseg.infer.nuclei_model import FindingOptions
from tfseg.report import SlidePictures, nuclei_pictures, slide_pictures, table, write_report
from tfseg.slides.base import open_slide
from tfseg.slides.synthetic_cohort import make_cohort
from tfseg.train.cascade import train_cascade
from tfseg.train.classifier import ClassifierSettings
from tfseg.train.clustering import ClusterSettings
from tfseg.train.fit import TrainConfig
from tfseg.train.refinement import RefinementSettings, write_cascade

UNREFINED, REFINED = "heatmap alone", "refined"
PICTURE = "immunohistochemistry"
"""scikit-image's picture whose nuclei are found: colon, DAB and haematoxylin, 512² px."""


def run_demo(out: str | Path, workers: int = 2, seed: int = 0) -> pd.DataFrame:
    """Runs the demo; every step that is finished is taken as it is when called again.

    Args:
        out: gets cohort/, index/, train/, segmentation/, scores/, nuclei/ and report.html.
        workers: processes that write and index slides.
        seed: of cohort, sampling and weights.

    Returns:
        Scores per slide, unrefined and refined, as of :func:`tfseg.evaluation.evaluate_cohort`.
    """
    out, say = Path(out), Steps(total=7)
    say("15 synthetic H&E slides of three grades, 6144² at 0.5 µm/px, with QuPath annotations")
    manifest = out / "cohort" / "cohort.csv"
    if not manifest.is_file():
        make_cohort(manifest.parent, seed=seed, workers=workers, progress=say.slide)
    cohort = Cohort.read(manifest)
    say("patch index: tissue at 1.25x, 256² patches at 10x, labels by the paper's thresholds")
    index = build_index(cohort, IndexConfig(), out / "index", workers=workers)
    say.line(f"{len(index.table)} patches; pictures of every slide in {out / 'index' / 'overview'}")
    say("training: MobileNetV2 classifier with cluster-weighted loss, heatmaps, U-Net refinement")
    model = train(cohort, index, out / "train", seed, workers)
    say("ONNX and FAST text pipelines")
    exported = export_cascade(model)
    say("segmenting the held-out slides, with and without refinement")
    test = cohort.split("test")
    folders = segment(test, model, out)
    say("comparing with the annotations")
    scores = evaluate_cohort(test, folders, out / "scores")
    say("nuclei of a real picture (colon, DAB and haematoxylin), by the network that comes with tfseg")
    nuclei = find_nuclei(out / "nuclei")
    say.line(nuclei.line)
    report = write_page(out, test, folders, scores, exported, nuclei, say.elapsed())
    dice = scores.groupby("design")["dice"].mean()
    slides = f"{len(test.rows())} held-out slides"
    say.line(f"Dice on {slides}: {dice[REFINED]:.3f} refined, {dice[UNREFINED]:.3f} unrefined")
    say.line(f"report: {report}  ({say.elapsed():.0f} s in all)")
    return scores


class Steps:
    """Says on the terminal what is done while it is done."""

    def __init__(self, total: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.total, self.number, self.start = total, 0, time.perf_counter()

    def __call__(self, what: str) -> None:
        self.number += 1
        self.console.print(f"[bold]\\[{self.number}/{self.total}][/bold] {what}  [dim]{self.elapsed():.0f} s[/dim]")

    def line(self, text: str) -> None:
        self.console.print(f"      {text}", markup=False)

    def slide(self, done: int, total: int, name: str) -> None:
        self.line(f"{done}/{total}  {name}")

    def elapsed(self) -> float:
        return time.perf_counter() - self.start


def train(cohort: Cohort, index: PatchIndex, out: Path, seed: int, workers: int) -> Path:
    """Both stages."""
    classifier, refinement = small_settings(seed, workers)
    return train_cascade(cohort, index, out, classifier, refinement, name="demo", workers=workers)


def small_settings(seed: int = 0, threads: int = 2) -> tuple[ClassifierSettings, RefinementSettings]:
    """Both stages small enough for minutes on two cores; everything else is as in the paper.

    Smaller than the paper: MobileNetV2 of width 0.35 from random weights (no download), batches of 32, 120 steps;
    clusters on VGG16 features of patches at 48², random filters; U-Net at 256² for 90 steps. Learning rates 1e-3.
    """
    classifier = ClassifierSettings(
        arguments={"alpha": 0.35},
        weights=None,
        batch_size=32,
        clustering=ClusterSettings(batches=15, weights=None, input_px=48),
        train=TrainConfig(
            epochs=4, steps_per_epoch=30, validation_steps=6, learning_rate=1e-3, reestimate_batches=6, seed=seed
        ),
        threads=threads,
    )
    refinement = RefinementSettings(
        size_px=256,
        batch_size=3,
        train=TrainConfig(
            epochs=30,
            steps_per_epoch=3,
            validation_steps=None,
            learning_rate=1e-3,
            monitor="val_dice",
            mode="max",
            reestimate_batches=3,
            seed=seed,
        ),
    )
    return classifier, refinement


def segment(test: Cohort, model: Path, out: Path) -> dict[str, Path]:
    """Segments the slides with the cascade and with its classifier alone; design → folder."""
    alone = out / "train" / "classifier_alone"
    write_cascade(alone, model / "classifier", None, "demo_unrefined")
    rows = test.rows()
    folders = {REFINED: out / "segmentation" / "refined", UNREFINED: out / "segmentation" / "unrefined"}
    for design, cascade in ((REFINED, model), (UNREFINED, alone)):
        report = segment_slides(
            [open_slide(row.slide, mpp=row.mpp) for row in rows],
            cascade,
            folders[design],
            SegmentOptions(progress=design == REFINED),
            names=[row.slide_name for row in rows],
        )
        report.raise_failures()
    return folders


def find_nuclei(out: Path, model: Path | None = None) -> SlidePictures:
    """Finds the nuclei of scikit-image's picture, as ``tfseg segment --nuclei`` does.

    Args:
        out: gets the picture and a folder of what was found.
        model: folder of a network of nuclei; None takes the one that comes with tfseg.

    Returns:
        Picture and outlines, for the report.

    Raises:
        ModelError: the network is missing, or none of nuclei.
    """
    from PIL import Image
    from skimage.data import immunohistochemistry

    image = np.ascontiguousarray(immunohistochemistry())
    with atomic_path(out / f"{PICTURE}.png") as temporary:
        Image.fromarray(image).save(temporary)
    found = segment_nuclei([out / f"{PICTURE}.png"], model, out, SegmentOptions(), FindingOptions(stains="dab"))
    found.raise_failures()
    summary = found.summaries[PICTURE]
    line = (
        f"{summary['nuclei']} nuclei, median {summary['median_area_px']:.0f} px. The picture does not say its pixel "
        "size; it is taken at the network's. The network saw no immunohistochemistry in training, only labelled H&E "
        "shown in brown, too. Nobody labelled this picture, so how many are right is not known."
    )
    return SlidePictures(PICTURE, line, nuclei_pictures(image, out / PICTURE))


def write_page(
    out: Path,
    test: Cohort,
    folders: dict[str, Path],
    scores: pd.DataFrame,
    exported: Sequence[Path],
    nuclei: SlidePictures,
    seconds: float,
) -> Path:
    """Writes report.html and scores.json."""
    wide = scores.pivot(index="slide_name", columns="design", values="dice")
    per_slide, slides = [], []
    for row in test.rows():
        unrefined, refined = (float(wide.loc[row.slide_name, d]) for d in (UNREFINED, REFINED))
        per_slide.append([row.slide_name, row.values["grade"], unrefined, refined])
        line = f"grade {row.values['grade']}, Dice {unrefined:.3f} unrefined, {refined:.3f} refined"
        slides.append(SlidePictures(row.slide_name, line, slide_pictures(row, folders[REFINED] / row.slide_name)))
    grades = [
        [grade, len(part) // 2, *(float(part.loc[part.design == d, "dice"].mean()) for d in (UNREFINED, REFINED))]
        for grade, part in scores.groupby("grade")
    ]
    mean = {d: float(scores.loc[scores.design == d, "dice"].mean()) for d in (UNREFINED, REFINED)}
    files = {
        "cohort": out / "cohort" / "cohort.csv",
        "patch index": out / "index" / "summary.csv",
        "classifier's training curves": out / "train" / "classifier" / "training" / "curves.png",
        "what the clusters hold": out / "train" / "classifier" / "training" / "clusters.png",
        "refinement's training curves": out / "train" / "refinement" / "training" / "curves.png",
        "model for `tfseg segment`": out / "train" / "model",
        **{f"{path.parent.name}: {path.name}": path for path in exported},
        "scores per slide": out / "scores" / "scores.csv",
        "tables and Tukey's test": out / "scores" / "summary.md",
    }
    for folder in [*(folders[REFINED] / row.slide_name for row in test.rows()), out / "nuclei" / nuclei.name]:
        files |= {f"{folder.name}: {path.name}": path for path in sorted(folder.iterdir()) if path.is_file()}
    lines = [
        f"Mean Dice on {len(slides)} held-out synthetic slides: {mean[REFINED]:.3f} refined, "
        f"{mean[UNREFINED]:.3f} unrefined. The demo took {seconds:.0f} s.",
        "Synthetic slides are caricatures: these figures show that the parts work together, nothing about patients.",
    ]
    header = ["slide", "grade", "Dice unrefined", "Dice refined"]
    tables = {
        "Dice per slide": table(header, [*per_slide, ["mean", "", mean[UNREFINED], mean[REFINED]]]),
        "Dice by grade": table(["grade", "slides", "Dice unrefined", "Dice refined"], grades),
    }
    write_json(out / "scores.json", {"dice": mean, "seconds": round(seconds, 1)})
    pictures = {"Held-out slides": slides, "Nuclei of a real picture": [nuclei]}
    return write_report(out / "report.html", "tfseg demo: H2G-Net on synthetic slides", lines, tables, pictures, files)
