"""A segmented slide before it is written, whichever networks made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.band_store import Plane
from tfseg.infer.dense import DenseResult, class_file_name
from tfseg.infer.fields import Field, MaskTiles, ProbabilityTiles, mask_grid, tissue_at, to_bytes
from tfseg.infer.overlay import field_on
from tfseg.infer.slide import Heatmap
from tfseg.slides.base import Slide
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tiff_writer import TileSource, halve
from tfseg.slides.tissue import TissueMask
from tfseg.types import ClassSpec, ModelError

HEATMAP, PROBABILITY = "heatmap.tiff", "probability.tiff"
CLASS_PROBABILITY = "probability_*.tiff"
CASCADE_MASK_MPP = 4.0
_CHUNK_PX = 2**21


class Picture(NamedTuple):
    """A probability · 255 to be written as a pyramid, and its µm/px."""

    source: NDArray[np.uint8] | TileSource
    mpp: float


@dataclass(frozen=True)
class Segmentation(ABC):
    """What :func:`tfseg.infer.outputs.write_outputs` takes.

    Attributes:
        slide: it.
        classes: class indices are positions in it.
        tissue: of the slide; None where nobody asked for it.
        thumbnail: of :func:`tfseg.infer.overlay.thumbnail`.
        classes_apart: the summary's areas keep the classes under "classes", because one of them may be called "tissue"
            or "slide"; else they stand beside those two.
    """

    classes_apart: ClassVar[bool] = False

    slide: Slide
    classes: Sequence[ClassSpec]
    tissue: TissueMask | None
    thumbnail: NDArray[np.uint8]

    @abstractmethod
    def grid(self, mask_mpp: float | None) -> PixelGrid:
        """The mask's pixels, which come near to ``mask_mpp`` µm; None leaves the choice to the kind of network."""

    @abstractmethod
    def mask(self, grid: PixelGrid, tissue_only: bool) -> TileSource:
        """Class indices on the pixels of ``grid``, uint8; background outside of the tissue if ``tissue_only``."""

    @abstractmethod
    def pictures(self, grid: PixelGrid, probability: bool) -> Mapping[str, Picture]:
        """What is written besides the mask, by file name; with ``probability`` also what the mask was made from."""

    def heat(self, grid: PixelGrid) -> NDArray[np.float32] | None:
        """Foreground probability on the pixels of ``grid``, (h, w), for the overlay; None draws none."""
        return None


@dataclass(frozen=True)
class FieldSegmentation(Segmentation):
    """Of a cascade: probabilities on a coarse lattice, and the classifier's heatmap, where there is one."""

    field: Field
    threshold: float
    heatmap: Heatmap | None

    def grid(self, mask_mpp: float | None) -> PixelGrid:
        return mask_grid(self.slide.size, self.slide.mpp, mask_mpp or CASCADE_MASK_MPP)

    def mask(self, grid: PixelGrid, tissue_only: bool) -> MaskTiles:
        return MaskTiles(self.field, grid, self.threshold, self.tissue if tissue_only else None)

    def pictures(self, grid: PixelGrid, probability: bool) -> dict[str, Picture]:
        found = {}
        if self.heatmap is not None:
            mpp = self.heatmap.grid.stride_px * self.heatmap.grid.mpp
            found[HEATMAP] = Picture(to_bytes(self.heatmap.foreground), mpp)
        if probability:
            found[PROBABILITY] = Picture(ProbabilityTiles(self.field, grid), grid.step_x * self.slide.mpp)
        return found

    def heat(self, grid: PixelGrid) -> NDArray[np.float32]:
        return field_on(self.field if self.heatmap is None else self.heatmap.field(smooth=False), grid)


@dataclass(frozen=True)
class DenseSegmentation(Segmentation):
    """Of a dense network: labels on disk, at the network's own µm/px."""

    result: DenseResult

    classes_apart: ClassVar[bool] = True

    def grid(self, mask_mpp: float | None) -> PixelGrid:
        """The network's own pixels, or 2^k × 2^k of them that come nearest to ``mask_mpp`` (by ratio)."""
        grid = self.result.grid.pixels
        factor = 1 if mask_mpp is None else 2 ** max(0, round(np.log2(mask_mpp / (grid.step_x * self.slide.mpp))))
        width, height = (-(-side // factor) for side in (grid.width_px, grid.height_px))
        return PixelGrid(0.0, 0.0, grid.step_x * factor, grid.step_y * factor, width, height)

    def mask(self, grid: PixelGrid, tissue_only: bool) -> StoredTiles:
        tissue = self.tissue if tissue_only else None
        return StoredTiles(self.result, 0, grid, "label", tissue)

    def pictures(self, grid: PixelGrid, probability: bool) -> dict[str, Picture]:
        """``probability_<class>.tiff`` of every class.

        Raises:
            ModelError: two classes would have one file.
        """
        if not probability:
            return {}
        mpp = grid.step_x * self.slide.mpp
        names = class_files(self.classes)
        return {
            name: Picture(StoredTiles(self.result, index, grid, "heatmap", None), mpp)
            for index, name in enumerate(names, 1)
        }


def class_files(classes: Sequence[ClassSpec]) -> list[str]:
    """Names of the probabilities' files.

    Raises:
        ModelError: two classes would have one file, also where upper and lower case make no difference.
    """
    names = [CLASS_PROBABILITY.replace("*", class_file_name(one.name)) for one in classes]
    if len({name.casefold() for name in names}) < len(names):
        raise ModelError(f"classes whose probabilities would have the same file: {', '.join(names)}. Rename one.")
    return names


class StoredTiles:
    """A plane of a dense result on pixels of 2^k × 2^k of its own, or, on any others, at their centres: a TileSource.

    2^k × 2^k pixels become one in k steps of :func:`tfseg.slides.tiff_writer.halve`: labels by the most frequent one,
    probabilities by the mean. So a coarser mask is the finest one's pyramid level.
    """

    dtype = np.uint8

    def __init__(self, result: DenseResult, plane: int, grid: PixelGrid, kind: str, tissue: TissueMask | None) -> None:
        """``tissue``: outside of it labels are those of the background; None leaves them as they are."""
        self._plane: Plane = result.store.plane(plane)
        self._own, self._grid, self._kind = result.grid.pixels, grid, kind
        self._tissue, self._background = tissue, result.background
        self.shape: tuple[int, ...] = (grid.height_px, grid.width_px)
        ratio = grid.step_x / self._own.step_x
        whole = ratio >= 1 and ratio == 2 ** round(np.log2(ratio))
        self._factor = round(ratio) if whole else None

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels [row0, row0 + height) × [col0, col0 + width)."""
        part = self._grid.part(row0, col0, height, width)
        out = self._nearest(part) if self._factor is None else self._joined(row0, height, self._factor)
        if self._factor is not None:
            out = out[:, col0 : col0 + width]
        if self._tissue is not None:
            out = np.where(tissue_at(self._tissue, *part.centres()), out, np.uint8(self._background))
        return out

    def _joined(self, row0: int, height: int, factor: int) -> NDArray[np.uint8]:
        """Rows [row0, row0 + height), full width."""
        out = np.empty((height, self.shape[1]), np.uint8)
        count = max(1, _CHUNK_PX // (factor * self._own.width_px))
        for first in range(0, height, count):
            rows = min(count, height - first)
            start = (row0 + first) * factor
            pixels = self._plane.rows(start, min(rows * factor, self._own.height_px - start))
            for _ in range(factor.bit_length() - 1):
                pixels = halve(pixels, self._kind)
            out[first : first + rows] = pixels
        return out

    def _nearest(self, part: PixelGrid) -> NDArray[np.uint8]:
        x, y = part.centres()
        columns = np.clip((x / self._own.step_x).astype(np.intp), 0, self._own.width_px - 1)
        rows = np.clip((y / self._own.step_y).astype(np.intp), 0, self._own.height_px - 1)
        return np.stack([self._plane.rows(int(row), 1)[0, columns] for row in rows])
