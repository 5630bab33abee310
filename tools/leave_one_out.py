"""Leaves one picture out in turn: trains the patch classifier on the others and segments the one left out.

    python tools/leave_one_out.py --images DIR --masks DIR --mpp 0.25 --weights FILE.weights.h5 --out runs/loo

For a few annotated regions, too few for a cohort with splits. Pictures and masks pair up by name; masks are rasters
of 0 (no tumour) and 1 or 255 (tumour). The right-hand fifth of every training picture validates. Writes per fold the
run, the segmentation and its overlay, then scores.csv and report.html with pictures.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import tyro

from tfseg.data.cohort import Cohort
from tfseg.data.index import IndexConfig, PatchIndex, build_index
from tfseg.export.onnx import export_onnx
from tfseg.files import write_json
from tfseg.infer.cascade import SegmentOptions, segment_slides
from tfseg.infer.evaluate import evaluate_slide
from tfseg.report import SlidePictures, slide_pictures, table, write_report
from tfseg.slides.base import open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.train.classifier import ClassifierSettings, train_classifier
from tfseg.train.fit import TrainConfig
from tfseg.train.refinement import write_cascade
from tfseg.types import H2G_CLASSES, ModelSpec, TfsegError

CLASSES = ClassTable(H2G_CLASSES, values={0: 0, 1: 1, 255: 1}, rest=0)


def main(
    images: Path,
    masks: Path,
    out: Path,
    mpp: float,
    weights: str = "imagenet",
    patch_px: int = 128,
    patch_mpp: float = 0.5,
    stride_px: int = 32,
    steps: int = 150,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> None:
    """Trains and segments every fold.

    Args:
        images: pictures, all of one pixel size.
        masks: rasters of the same names (any suffix).
        out: run folder.
        mpp: µm/px of the pictures.
        weights: of the MobileNetV2 backbone: "imagenet" or a file.
        patch_px: side of a patch.
        patch_mpp: µm/px of the patches; 0.5 is 20x.
        stride_px: step between patches, in training and in segmentation; the side of a heatmap cell.
        steps: training batches a fold.
        batch_size: patches a batch.
        learning_rate: of Adam.
        seed: of sampling and weights.
    """
    cohort = Cohort.read(write_manifest(images, masks, out / "cohort.csv", mpp))
    config = IndexConfig(patch_px=patch_px, stride_px=stride_px, mpp=patch_mpp)
    index = build_index(cohort, config, out / "index", classes=CLASSES)
    settings = ClassifierSettings(
        arguments={"freeze_batch_norm": True},
        weights=weights,
        batch_size=batch_size,
        sampling=("slide_name", "class"),
        train=TrainConfig(
            epochs=5, steps_per_epoch=max(1, steps // 5), validation_steps=8, learning_rate=learning_rate, seed=seed
        ),
        threads=2,
    )
    rows, slides = [], []
    for row in cohort.rows():
        fold = out / row.slide_name
        train_classifier(leave_out(index, row.slide_name), fold / "classifier", settings)
        spec = replace(ModelSpec.load(fold / "classifier"), stride_px=stride_px)
        write_json(fold / "classifier" / "config.json", spec.to_dict())
        export_onnx(fold / "classifier")
        write_cascade(fold / "model", fold / "classifier", None, f"without {row.slide_name}")
        options = SegmentOptions(mpp=row.mpp)
        segment_slides([row.slide], fold / "model", fold, options, names=["segmentation"]).raise_failures()
        with open_slide(row.slide, mpp=row.mpp) as slide:
            scores = evaluate_slide(fold / "segmentation" / "mask.tiff", slide, row.annotation or "", CLASSES)
        rows.append({"left out": row.slide_name, **{name: scores[name] for name in ("recall", "precision", "dice")}})
        print(rows[-1], flush=True)
        line = f"Dice {scores['dice']:.3f}, recall {scores['recall']:.3f}, precision {scores['precision']:.3f}"
        slides.append(SlidePictures(row.slide_name, line, slide_pictures(row, fold / "segmentation", CLASSES)))
    found = pd.DataFrame(rows)
    found.to_csv(out / "scores.csv", index=False)
    lines = [f"Mean Dice {found.dice.mean():.3f} over {len(found)} pictures, each left out once."]
    body = table(list(found.columns), found.to_numpy().tolist())
    write_report(out / "report.html", "Leave one out", lines, {"Scores": body}, slides, {"scores": out / "scores.csv"})
    print(f"mean Dice {found.dice.mean():.3f}; report: {out / 'report.html'}")


def write_manifest(images: Path, masks: Path, path: Path, mpp: float) -> Path:
    """Pairs pictures and masks by name."""
    found = {file.stem: file for file in sorted(masks.glob("*")) if file.is_file()}
    rows = []
    for image in sorted(images.glob("*")):
        if image.stem not in found:
            raise TfsegError(f"{image}: no mask named {image.stem}.* in {masks}. Every picture needs one.")
        pair = {"slide": image.resolve(), "annotation": found[image.stem].resolve()}
        rows.append({**pair, "split": "train", "mpp": mpp})
    if len(rows) < 2:
        raise TfsegError(f"{images}: {len(rows)} pictures; leaving one out needs at least 2.")
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def leave_out(index: PatchIndex, name: str) -> PatchIndex:
    """The index without a slide; the right-hand fifth of the others validates, and what overlaps it is dropped."""
    parts = []
    for slide_name, patches in index.table[index.table.slide_name != name].groupby("slide_name"):
        width = index.slides[str(slide_name)]["size"][0]
        half = index.config.patch_px * index.config.mpp / patches.slide_mpp.iloc[0] / 2
        border = 0.8 * width
        parts.append(patches[patches.x + half <= border].assign(split="train"))
        parts.append(patches[patches.x - half >= border].assign(split="val"))
    return replace(index, table=pd.concat(parts, ignore_index=True))


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except TfsegError as error:
        sys.exit(f"leave_one_out: {error}")
