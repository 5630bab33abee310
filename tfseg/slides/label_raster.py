"""Label pictures that cover a whole slide: values read at pixel centres, tile by tile, never mixed with neighbours."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tfseg.slides.rasterise import PixelGrid
from tfseg.types import AnnotationError

CACHE_BYTES = 256 * 2**20
"""Decoded tiles kept in memory by a process, of all its label rasters together: training reads hundreds of them."""
_MAX_ANISOTROPY = 0.02
_TIFF = {".tif", ".tiff", ".btf"}


class LabelRaster:
    """A one-channel picture laid over a slide from its top-left corner, at whatever downsample.

    A TIFF is decoded tile by tile with a bounded cache; other formats are held whole. Values always come from the full
    resolution: the lower levels of a pyramid written by other software may be averages, which are no labels.

    Attributes:
        path: the file.
        size: (width, height) in raster pixels.
        scale: (x, y) level-0 pixels per raster pixel.
        mpp: (x, y) µm per raster pixel by the resolution tags of a TIFF; None where there are none.

    Args:
        path: PNG or another picture that Pillow reads, or TIFF; 1 bit, uint8 or uint16.
        slide_size: (W, H) of the slide in level-0 pixels.
        slide_mpp: µm per level-0 pixel; with it the resolution tags of a TIFF give the scale, where they are plausible.

    Raises:
        AnnotationError: missing, unreadable, several channels, or an aspect ratio more than 2 % off the slide's.
            (Pixels that are not square, as of a whole slide pressed into a square network, must be so by the tags.)
    """

    def __init__(self, path: str | Path, slide_size: tuple[int, int], slide_mpp: float | None = None) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._source = _open(self.path)
        self.size = self._source.size
        self.mpp = self._source.mpp
        self.scale = _scale(self.path, self.size, slide_size, self.mpp, slide_mpp)

    @property
    def grid(self) -> PixelGrid:
        """The raster's own pixels."""
        return PixelGrid(0.0, 0.0, *self.scale, *self.size)

    def read(self, grid: PixelGrid) -> NDArray[Any]:
        """Values at the pixel centres of ``grid``; beyond the raster's edge those of its outermost pixels.

        Returns:
            (height_px, width_px), uint8 or uint16.

        Raises:
            AnnotationError: a tile cannot be decoded.
        """
        x, y = grid.centres()
        # The tiny addition keeps a centre that stands on a border between raster pixels from falling back by rounding.
        columns = np.clip(np.floor(x / self.scale[0] + 1e-9).astype(np.int64), 0, self.size[0] - 1)
        rows = np.clip(np.floor(y / self.scale[1] + 1e-9).astype(np.int64), 0, self.size[1] - 1)
        with self._lock:
            return self._source.gather(rows, columns)

    def close(self) -> None:
        self._source.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "mpp": self.mpp, "scale": self.scale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._source = _open(self.path)


def _open(path: Path) -> _Whole | _Tiff:
    if not path.is_file():
        raise AnnotationError(f"{path}: no such label raster. Check the path.")
    try:
        return _Tiff(path) if path.suffix.lower() in _TIFF else _Whole(path)
    except AnnotationError:
        raise
    except Image.DecompressionBombError as error:
        raise AnnotationError(f"{path}: {error}. Save so large a label picture as tiled TIFF.") from error
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise AnnotationError(f"{path}: not readable as a label raster ({error}). Expected PNG or TIFF.") from error


def _one_channel(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    if len(shape) != 2 or np.dtype(dtype) not in (np.dtype(bool), np.dtype(np.uint8), np.dtype(np.uint16)):
        raise AnnotationError(
            f"{path}: a label raster has one channel of 1, 8 or 16 bit, whose values stand for classes; "
            f"this one has shape {'×'.join(map(str, shape))}, {np.dtype(dtype)}. Save it as a grey or palette picture."
        )


class _Whole:
    """A picture held in memory."""

    mpp: tuple[float, float] | None = None

    def __init__(self, path: Path) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image)
        if pixels.dtype == np.int32 and pixels.ndim == 2 and pixels.size and 0 <= pixels.min() <= pixels.max() < 65536:
            pixels = pixels.astype(np.uint16)  # how Pillow presents 16-bit PNG
        _one_channel(path, pixels.shape, pixels.dtype)
        self._pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
        self.size = (pixels.shape[1], pixels.shape[0])

    def gather(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
        return self._pixels[np.ix_(rows, columns)]

    def close(self) -> None:
        """Nothing is open."""


class _Tiff:
    """First page of a TIFF, tiled or in strips; keeps the tiles used last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = tifffile.TiffFile(path)
        try:
            page = self._file.pages[0].aspage()
            _one_channel(path, page.shape, page.dtype)
        except BaseException:
            self._file.close()
            raise
        self._page = page
        self.size = (page.imagewidth, page.imagelength)
        self.mpp = _mpp(page)
        # Strips are tiles as wide as the picture.
        self._tile_h, self._tile_w = page.chunks[:2]
        self._number = next(_numbers)

    def gather(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
        dtype = np.uint16 if self._page.dtype == np.uint16 else np.uint8
        out = np.empty((len(rows), len(columns)), dtype=dtype)
        across = -(-self.size[0] // self._tile_w)
        for i in np.unique(rows // self._tile_h):
            in_rows = np.flatnonzero(rows // self._tile_h == i)
            for j in np.unique(columns // self._tile_w):
                in_columns = np.flatnonzero(columns // self._tile_w == j)
                tile = self._tile(int(i * across + j), dtype)
                out[in_rows[0] : in_rows[-1] + 1, in_columns[0] : in_columns[-1] + 1] = tile[
                    np.ix_(rows[in_rows] - i * self._tile_h, columns[in_columns] - j * self._tile_w)
                ]
        return out

    def _tile(self, index: int, dtype: Any) -> NDArray[Any]:
        kept = _tiles.get((self._number, index))
        if kept is not None:
            return kept
        page, handle = self._page, self._file.filehandle
        try:
            raw = None
            if page.databytecounts[index]:
                handle.seek(page.dataoffsets[index])
                raw = handle.read(page.databytecounts[index])
            decoded = page.decode(raw, index, jpegtables=page.jpegtables)[0]
        except Exception as error:  # tifffile and imagecodecs raise a wide choice of types on damaged data
            raise AnnotationError(
                f"{self._path}: tile {index} cannot be decoded ({error}). Write the file again."
            ) from error
        if decoded is None:  # a sparse file leaves out tiles that hold only the fill value
            tile = np.full((self._tile_h, self._tile_w), page.nodata, dtype=dtype)
        else:
            tile = decoded.reshape(decoded.shape[-3:-1]).astype(dtype, copy=False)
        _tiles.put((self._number, index), tile)
        return tile

    def close(self) -> None:
        self._file.close()
        _tiles.drop(self._number)


class _Tiles:
    """Decoded tiles of all rasters of this process, those used last; the last one stays, however large."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self.bytes = 0

    def get(self, key: tuple[int, int]) -> NDArray[Any] | None:
        """The tile of (number of the raster, index), if it is still there."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: tuple[int, int], tile: NDArray[Any]) -> None:
        with self._lock:
            self.bytes += tile.nbytes - (self._arrays[key].nbytes if key in self._arrays else 0)
            self._arrays[key] = tile
            self._arrays.move_to_end(key)
            while len(self._arrays) > 1 and self.bytes > CACHE_BYTES:
                self.bytes -= self._arrays.popitem(last=False)[1].nbytes

    def drop(self, number: int) -> None:
        """Lets go of a raster's tiles."""
        with self._lock:
            for key in [key for key in self._arrays if key[0] == number]:
                self.bytes -= self._arrays.pop(key).nbytes


_tiles, _numbers = _Tiles(), itertools.count()


def _mpp(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """(x, y) µm/px from the resolution tags; None without a physical unit."""
    micrometres = {2: 25400.0, 3: 10000.0}.get(int(page.tags.valueof("ResolutionUnit", 1) or 1))
    values = [page.tags.valueof(name) for name in ("XResolution", "YResolution")]
    if micrometres is None or not all(value and value[0] and value[1] for value in values):
        return None
    x, y = (micrometres * value[1] / value[0] for value in values)
    return x, y


def _scale(
    path: Path,
    size: tuple[int, int],
    slide_size: tuple[int, int],
    mpp: tuple[float, float] | None,
    slide_mpp: float | None,
) -> tuple[float, float]:
    """(x, y) level-0 pixels per raster pixel: from the tags, from one downsample that explains both sides, or both."""
    if mpp and slide_mpp:
        x, y = mpp[0] / slide_mpp, mpp[1] / slide_mpp
        if abs(size[0] * x - slide_size[0]) <= x + 1 and abs(size[1] * y - slide_size[1]) <= y + 1:
            return x, y
    ratio = slide_size[0] / size[0], slide_size[1] / size[1]
    # A downsample d leaves floor, round or ceil of side / d pixels, so side / (n + 1) < d < side / (n - 1).
    low = max(side / (n + 1) for side, n in zip(slide_size, size, strict=True))
    high = min(side / max(n - 1, 1e-9) for side, n in zip(slide_size, size, strict=True))
    if low < high:
        longer = ratio[0] if size[0] >= size[1] else ratio[1]
        d = round(longer) if low < round(longer) < high else min(max(longer, low), high)
        return float(d), float(d)
    expected = mpp[0] / mpp[1] if mpp else 1.0
    if abs(ratio[0] / ratio[1] / expected - 1) > _MAX_ANISOTROPY:
        raise AnnotationError(
            f"{path}: {size[0]}×{size[1]} px does not cover a slide of {slide_size[0]}×{slide_size[1]} px: "
            f"downsamples {ratio[0]:.4g} across and {ratio[1]:.4g} down. A label raster covers the whole slide. "
            "Is it of another slide, or of a part of this one?"
        )
    return ratio
