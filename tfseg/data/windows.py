"""Windows of an index as arrays: concentric fields and the labels of their target, all through one map."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.data.balance import version_seed
from tfseg.data.dense_augment import DenseAugment
from tfseg.data.elastic import ElasticGrid
from tfseg.data.index import ELASTIC_COPY, PatchIndex
from tfseg.data.source_cache import MAX_OPEN, Source, SourceCache
from tfseg.data.warp import Border, Warp, read_field, read_labels
from tfseg.slides.annotations import Annotation, load_annotation
from tfseg.slides.base import Slide, open_slide
from tfseg.types import CohortError, InputSpec, ModelError, SlideError, TfsegError, Window


@dataclass(frozen=True)
class WindowPlan:
    """What is read of a window.

    Attributes:
        fields: the network's inputs: name, size and mpp of each field; all share the window's centre.
        target_px: (height, width) of the labels, smaller than the fields for networks with valid padding.
        target_mpp: µm/px of the labels.
        augment: changes fields and labels together; None takes them as they are.
        elastic: how the copies of class balancing are deformed.
        border: what lies beyond the slide's edges; its labels are 255.
    """

    fields: tuple[InputSpec, ...]
    target_px: tuple[int, int]
    target_mpp: float
    augment: DenseAugment | None = None
    elastic: ElasticGrid = field(default_factory=ElasticGrid)
    border: Border = "zero"

    def __post_init__(self) -> None:
        if not self.fields:
            raise ModelError("a segmentation network needs at least one field. Give the inputs of its ModelSpec.")
        for one in self.fields:
            if one.mpp is None or one.channels != 3:
                raise ModelError(
                    f"input {one.name!r}: expected an RGB field of a known mpp. Received: {one.channels} channels, "
                    f"mpp {one.mpp}. Networks that see a whole slide are trained by tfseg.train.refinement."
                )
        sizes = {one.size_px for one in self.fields} | {self.target_px}
        if self.augment is not None and self.augment.geometry.turns and any(h != w for h, w in sizes):
            raise ModelError(f"turns by 90° need square fields and targets. Received (height, width): {sorted(sizes)}.")

    @property
    def extent_um(self) -> tuple[float, float]:
        """Side of the widest field and of the target, the larger of height and width."""
        widest = max(max(one.size_px) * float(one.mpp or 0) for one in self.fields)
        return widest, max(self.target_px) * self.target_mpp


class WindowReader:
    """Reads windows of an index by row number, in threads of its own.

    A thread that TensorFlow lends to Python is a new one to Python at every call, so what ``tfseg.slides`` keeps open
    for each thread would be opened anew for every window. Slides and annotations are opened at their first window;
    those of the ``max_open`` slides used last stay open.
    """

    def __init__(self, index: PatchIndex, plan: WindowPlan, threads: int, max_open: int = MAX_OPEN) -> None:
        table = index.table
        self._plan, self._classes = plan, index.labels
        self._names = table["slide_name"].to_numpy(object)
        self._paths = table["slide"].to_numpy(object)
        self._mpp = table["slide_mpp"].to_numpy(np.float64)
        self._x, self._y = (table[axis].to_numpy(np.float64) for axis in ("x", "y"))
        copies = table[ELASTIC_COPY] if ELASTIC_COPY in table.columns else pd.Series(0, table.index)
        self._versions = copies.to_numpy(np.int64)
        self._annotation_paths = _annotation_paths(index)
        self._sources = SourceCache(self._load, max_open)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-windows")

    def __call__(self, rows: np.ndarray, seeds: np.ndarray) -> list[np.ndarray]:
        """Several windows by one thread: int64 (N,) each → fields uint8 (N, H, W, 3) in order, labels (N, h, w)."""
        return self._pool.submit(self._read_all, rows, seeds).result()

    def read(self, row: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
        """The fields, uint8 RGB, and the labels, uint8, of one window.

        Raises:
            SlideError: slide or annotation cannot be read; names slide, window and row.
        """
        x, y = float(self._x[row]), float(self._y[row])
        try:
            with self._sources.use(str(self._names[row]), row) as (slide, annotation):
                return read_window(slide, annotation, (x, y), self._plan, seed, self._copy(row))
        except (TfsegError, OSError) as error:
            height, width = self._plan.target_px
            raise SlideError(
                f"{self._paths[row]}: cannot read the window at ({x:g}, {y:g}) px, target {width}×{height} px of "
                f"{self._plan.target_mpp:g} µm (row {row} of the index): {error}"
            ) from error

    def _copy(self, row: int) -> Warp | None:
        """The deformation of a copy of class balancing; None for the window itself."""
        version = int(self._versions[row])
        if version == 0:
            return None
        seed = version_seed(str(self._names[row]), self._x[row], self._y[row], version)
        return Warp((self._plan.elastic.draw(np.random.default_rng(seed & (2**64 - 1))),))

    def _load(self, row: int) -> Source:
        slide = open_slide(self._paths[row], float(self._mpp[row]))
        path = self._annotation_paths[str(self._names[row])]
        return slide, load_annotation(path, slide, self._classes)

    def _read_all(self, rows: np.ndarray, seeds: np.ndarray) -> list[np.ndarray]:
        plan = self._plan
        out = [np.empty((len(rows), *one.size_px, 3), np.uint8) for one in plan.fields]
        out.append(np.empty((len(rows), *plan.target_px), np.uint8))
        for k, (row, seed) in enumerate(zip(rows.tolist(), seeds.tolist(), strict=True)):
            images, labels = self.read(row, seed)
            for array, image in zip(out, (*images, labels), strict=True):
                array[k] = image
        return out


def read_window(
    slide: Slide,
    annotation: Annotation,
    centre: tuple[float, float],
    plan: WindowPlan,
    seed: int = 0,
    copy: Warp | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """The fields of a window, each from its best level, and the labels of its target, all through one map.

    Args:
        slide: what to read.
        annotation: its labels.
        centre: (x, y) in level-0 pixels.
        plan: which fields, which target, how changed.
        seed: of the augmentation.
        copy: deformation of the window before it is augmented.

    Returns:
        fields: uint8 RGB (H, W, 3), in the order of the plan.
        labels: uint8 (h, w); 255 where nobody annotated and outside the slide.
    """
    x, y = centre
    warp, change = copy, None
    if plan.augment is not None:
        change = plan.augment.draw(seed, *plan.extent_um)
        warp = change.warp.then(*copy.steps) if copy else change.warp
    images = []
    for one in plan.fields:
        height, width = one.size_px
        assert one.mpp is not None
        images.append(read_field(slide, Window(x, y, width, height, one.mpp), warp, border=plan.border))
    height, width = plan.target_px
    labels = read_labels(annotation, slide.mpp, Window(x, y, width, height, plan.target_mpp), warp)
    if change is not None:
        images = change.recolour(images, [float(one.mpp or 0) for one in plan.fields])
    return images, labels


def _annotation_paths(index: PatchIndex) -> dict[str, Path]:
    """By slide name, of every slide that has windows."""
    used = index.table["slide_name"].unique()
    paths = {name: index.slides.get(name, {}).get("annotation") for name in used}
    missing = [name for name, path in paths.items() if not path]
    if missing:
        windows = int(index.table["slide_name"].isin(missing).sum())
        raise CohortError(
            f"{windows} of {len(index.table)} windows are of slides without annotation ({', '.join(missing[:5])}). "
            "Make the index with `tfseg index --kind dense`, or leave these slides out."
        )
    return {name: Path(str(path)) for name, path in paths.items()}
