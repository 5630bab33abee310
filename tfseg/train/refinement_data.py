"""What the refinement stage is trained on: whole slides with heatmap and labels, made once and kept (H2G-Net 2.5)."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tfseg.data.cohort import Cohort, CohortRow
from tfseg.files import atomic_path
from tfseg.infer.predictors import Engine, Predictor, load_predictor
from tfseg.infer.slide import Checkpoint, heatmap, heatmap_to_field
from tfseg.slides.annotations import load_annotation
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tissue import tissue_mask
from tfseg.types import CohortError, ModelSpec, TfsegError

_FORMAT = 1


@dataclass(frozen=True)
class SampleSettings:
    """Settings of the refinement stage's samples.

    Attributes:
        size_px: side S to which slides are resized, each axis by its own ratio.
        tissue: arguments of ``tfseg.slides.tissue.tissue_mask``.
        min_tissue: patches with no more than this fraction of tissue are not classified.
        classes: of the annotations.
        engine: that runs the classifier: "keras" or "onnxruntime".
        workers: slides at a time.
        skip_broken: leaves out slides that cannot be read, naming them, instead of stopping.
    """

    size_px: int = 1024
    tissue: dict[str, Any] = field(default_factory=dict)
    min_tissue: float = 0.25
    classes: ClassTable = field(default_factory=ClassTable.h2g)
    engine: Engine = "keras"
    workers: int = 2
    skip_broken: bool = False


def make_samples(
    cohort: Cohort, folder: str | Path, settings: SampleSettings, classifier: str | Path | None
) -> list[Path]:
    """Makes one .npz file a slide, or keeps the one that is there and still right.

    A file holds image uint8 (S, S, 3), the whole slide resized; heatmap float16 (S, S), the trained classifier's
    foreground probability, 0 without a classifier; and label uint8 (S, S), the annotation at the pixels' centres.
    A file is made again when slide, annotation, classifier or settings have changed.

    Args:
        cohort: slides, all annotated; usually one split.
        folder: of the files, ``<slide_name>.npz``.
        settings: how.
        classifier: model folder of stage one; None for networks that see no heatmap (UNet-LR).

    Returns:
        The files, in the order of the cohort.

    Raises:
        CohortError: a slide without annotation; all of them are named.
        TfsegError: slides that cannot be read or whose annotation is wrong; all of them are named, after the others
            are finished. Not with ``skip_broken``, unless no slide is left.
    """
    rows, folder = cohort.rows(), Path(folder)
    bare = [row.slide_name for row in rows if row.annotation is None]
    if bare:
        raise CohortError(
            f"{cohort.path}: no annotation for {', '.join(bare)}. The refinement stage trains on annotated slides; "
            "annotate them, or give them another split."
        )
    maker = _Maker(folder, settings, Path(classifier) if classifier is not None else None)
    console = Console(highlight=False, soft_wrap=True)
    made: dict[str, Path] = {}
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(max(1, settings.workers)) as pool:
        jobs = [(row, pool.submit(maker, row)) for row in rows]
        try:
            for number, (row, job) in enumerate(jobs, 1):
                try:
                    made[row.slide_name], note = job.result()
                except TfsegError as error:
                    broken[row.slide_name], note = str(error), f"left out: {error}"
                console.print(f"heatmap {number}/{len(rows)}  {row.slide_name}  {note}", markup=False)
        finally:
            pool.shutdown(cancel_futures=True)
    if broken and not (settings.skip_broken and made):
        names = "\n".join(f"  {name}: {reason}" for name, reason in broken.items())
        raise TfsegError(
            f"{cohort.path}: {len(broken)} of {len(rows)} slides cannot be used:\n{names}\n"
            "Mend them or take them out of the manifest, or skip broken slides; finished ones are kept."
        )
    return list(made.values())


class _Maker:
    """Makes the sample of a slide; used from several threads."""

    def __init__(self, folder: Path, settings: SampleSettings, classifier: Path | None):
        self.folder, self.settings = folder, settings
        self.predict: Predictor | None = None
        self.spec: ModelSpec | None = None
        self._network = ""
        if classifier is not None:
            self.predict, self.spec = load_predictor(classifier, settings.engine)
            weights = "model.onnx" if settings.engine == "onnxruntime" else "model.keras"
            content = [(classifier / name).read_bytes() for name in ("config.json", weights)]
            self._network = hashlib.sha256(b"".join(content)).hexdigest()

    def __call__(self, row: CohortRow) -> tuple[Path, str]:
        """Returns the file and what was done."""
        path, key = self.folder / f"{row.slide_name}.npz", self._key(row)
        if _stored_key(path) == key:
            return path, "kept"
        size = (self.settings.size_px, self.settings.size_px)
        with open_slide(row.slide, row.mpp) as slide:
            label = squashed_labels(row, slide, self.settings)
            image = slide.fit(size)
            state = Checkpoint(self.folder / f".{row.slide_name}.heatmap.npz", key)
            field = self._heatmap(slide, state)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, image=image, heatmap=field, label=label, key=np.asarray(key))
        state.path.unlink(missing_ok=True)
        return path, "made"

    def _heatmap(self, slide: Slide, state: Checkpoint) -> np.ndarray:
        """Foreground probability on the resized slide, float16 (S, S); goes on from ``state``."""
        size = (self.settings.size_px, self.settings.size_px)
        if self.predict is None or self.spec is None:
            return np.zeros(size, np.float16)
        tissue = tissue_mask(slide, **self.settings.tissue)
        result = heatmap(slide, self.predict, self.spec, tissue, min_tissue=self.settings.min_tissue, checkpoint=state)
        return heatmap_to_field(result, size).astype(np.float16)

    def _key(self, row: CohortRow) -> str:
        """Tells whether a stored sample is the one that would be made now."""
        settings = asdict(self.settings)
        for irrelevant in ("workers", "skip_broken"):
            del settings[irrelevant]
        if self.predict is None:
            for irrelevant in ("tissue", "min_tissue", "engine"):
                del settings[irrelevant]
        files = [_stamp(row.slide), _stamp(row.annotation)]
        content = json.dumps([_FORMAT, settings, self._network, files, row.mpp], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()


def squashed_labels(row: CohortRow, slide: Slide, settings: SampleSettings) -> np.ndarray:
    """Labels uint8 (S, S) of the whole slide resized to S × S: each pixel by the position of its centre."""
    annotation = load_annotation(row.annotation or "", slide, settings.classes)
    width, height = slide.size
    side = settings.size_px
    return annotation.labels_on(PixelGrid(0.0, 0.0, width / side, height / side, side, side))


def _stored_key(path: Path) -> str | None:
    """Key of a sample; None where there is none, or one that cannot be read."""
    if not path.is_file():
        return None
    try:
        with np.load(path) as content:
            return str(content["key"])
    except Exception:  # np.load raises anything from BadZipFile to EOFError; a damaged file is made anew
        return None


def _stamp(path: Path | None) -> list[Any]:
    status = Path(path or "").stat()
    return [str(path), status.st_size, status.st_mtime_ns]
