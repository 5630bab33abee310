"""Slides from plain picture files (one level) and from arrays in memory."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import JpegImagePlugin, PngImagePlugin

from tfseg.slides.base import Slide, make_levels
from tfseg.slides.mpp import GIVEN, check_given, find_mpp, find_objective_power
from tfseg.types import SlideError

MAX_IMAGE_BYTES = 2**31
"""Largest plain picture that is decoded into memory, as RGB: 26 754² px."""
CACHE_BYTES = 2**30
"""Decoded plain pictures kept in memory by a process; the last one used stays, however large."""
MAX_PICTURES = 64
"""Plain pictures, decoded or mapped from disk, that a process keeps."""


_PHOTOMETRIC = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
_PILLOW_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")


class ArraySlide(Slide):
    """A pyramid in memory."""

    def __init__(self, arrays: Sequence[NDArray[np.uint8]], mpp: float, name: str = "array") -> None:
        """Takes uint8 (H, W, 3) arrays, finest first. Raises SlideError for other shapes or types."""
        arrays = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
        if not arrays:
            raise SlideError("a slide needs at least one array.")
        for array in arrays:
            if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
                raise SlideError(f"expected uint8 (H, W, 3) arrays. Received: {array.dtype} {array.shape}.")
        widths, heights = ([array.shape[axis] for array in arrays] for axis in (1, 0))
        if widths != sorted(widths, reverse=True) or heights != sorted(heights, reverse=True):
            raise SlideError(f"expected a pyramid, finest array first. Received widths: {widths}, heights: {heights}.")
        self._arrays = arrays
        levels = make_levels([(a.shape[1], a.shape[0]) for a in arrays])
        super().__init__(None, name, levels, (check_given(mpp, name), GIVEN))

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        return self._arrays[level][y : y + height, x : x + width]


class ImageSlide(Slide):
    """A plain TIFF, PNG or JPEG; decoded when first read and shared by all threads, or mapped from disk."""

    def __init__(
        self, path: Path, size: tuple[int, int], mpp: tuple[float, str], objective_power: float | None = None
    ) -> None:
        """``mpp`` is (value, source)."""
        stat = path.stat()
        self._key = (str(path), stat.st_mtime_ns, stat.st_size)
        super().__init__(path, path.stem, make_levels([size]), mpp, objective_power)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        assert self.path is not None
        image = _pictures.get(self._key, self.path)
        return np.ascontiguousarray(_rgb(image[y : y + height, x : x + width], self.path))


class _Pictures:
    """Decoded pictures of this process, least recently used first, bounded in bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: OrderedDict[Any, NDArray[Any]] = OrderedDict()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()  # The parent's may be held by a thread that a forked child does not have.

    def get(self, key: Any, path: Path) -> NDArray[Any]:
        with self._lock:
            if key not in self._images:
                self._images[key] = _decode(path)
            self._images.move_to_end(key)
            while len(self._images) > 1 and (len(self._images) > MAX_PICTURES or self.memory() > CACHE_BYTES):
                self._images.popitem(last=False)
            return self._images[key]

    def memory(self) -> int:
        """Bytes of the decoded pictures; what is mapped from disk takes none."""
        return sum(0 if isinstance(image, np.memmap) else image.nbytes for image in self._images.values())


_pictures = _Pictures()


def open_file(path: Path, mpp: float | None, assumed: float | None = None) -> ImageSlide:
    """A plain TIFF, PNG or JPEG; ``assumed`` is the mpp of one that tells none. Raises SlideError or MppError."""
    path = Path(os.path.abspath(path))
    kind = _kind(path)
    size: tuple[int, int]
    try:
        if kind == "tiff":
            size, properties, mappable = _tiff_header(path)
        else:
            with _pillow(path, kind) as image:
                size, properties, mappable = image.size, {}, False
                if image.mode not in _PILLOW_MODES:
                    raise SlideError(
                        f"{path}: expected 8 bits per sample, found {image.mode}. Convert it to 8-bit RGB."
                    )
    except SlideError:
        raise
    except Exception as error:  # decoders raise everything from struct.error to zlib.error on damaged files
        raise _damaged(path, error) from error
    if not mappable:
        _check_memory(path, size)
    found = find_mpp(properties, str(path), mpp, assumed)
    return ImageSlide(path, size, found, find_objective_power(properties))


def _kind(path: Path) -> str:
    """One of "tiff", "png", "jpeg", by the first bytes, whatever the suffix says."""
    with open(path, "rb") as file:
        start = file.read(8)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if start == b"\x89PNG\r\n\x1a\n":
        return "png"
    if start[:3] == b"\xff\xd8\xff":
        return "jpeg"
    raise SlideError(
        f"{path}: not a slide OpenSlide, TIFF, PNG or JPEG can read (the file begins with {start!r}). "
        "It may be damaged, or in another format: convert it to a tiled pyramidal TIFF."
    )


def _damaged(path: Path, error: Exception) -> SlideError:
    what = str(error) or type(error).__name__
    return SlideError(f"{path}: cannot be decoded ({what}). It may be damaged or cut short: copy it again.")


def _check_memory(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height * 3 > MAX_IMAGE_BYTES:
        raise SlideError(
            f"{path}: {width}×{height} px without tiles would take {width * height * 3 / 2**30:.1f} GiB of memory; "
            f"the limit is {MAX_IMAGE_BYTES / 2**30:.1f} GiB. Convert it to a tiled pyramid, for example: "
            f"vips tiffsave {path.name} {path.stem}_tiled.tif --tile --pyramid --compression jpeg --bigtiff"
        )


def _pillow(path: Path, kind: str) -> Any:
    """The picture, header read. Not by ``Image.open``, whose global limit on pixels is far below a slide's."""
    return PngImagePlugin.PngImageFile(path) if kind == "png" else JpegImagePlugin.JpegImageFile(path)


def _tiff_series(file: tifffile.TiffFile, path: Path) -> tuple[Any, str]:
    """First picture of a TIFF and its axes without those of length 1: YX, YXS, SYX or CYX."""
    series = file.series[0]
    axes = "".join(a for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX")
    if axes not in ("YX", "YXS", "SYX", "CYX"):
        raise SlideError(f"{path}: expected a grey or RGB picture, found axes {series.axes} of shape {series.shape}.")
    if series.dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        raise SlideError(f"{path}: expected 8 bits per sample, found {series.dtype}. Convert it to 8-bit RGB.")
    photometric = tifffile.PHOTOMETRIC(series.keyframe.photometric)
    if photometric not in _PHOTOMETRIC:
        raise SlideError(f"{path}: expected grey or RGB colours, found {photometric.name}. Convert it to 8-bit RGB.")
    return series, axes


def _tiff_header(path: Path) -> tuple[tuple[int, int], dict[str, str], bool]:
    """(width, height), the properties in which mpp may stand (OpenSlide's names), and whether it can be mapped."""
    with tifffile.TiffFile(path) as file:
        series, _ = _tiff_series(file, path)
        shape = dict(zip(series.axes, series.shape, strict=True))
        tags = series.keyframe.tags
        properties = {"tiff.ImageDescription": series.keyframe.description}
        for name in ("XResolution", "YResolution"):
            if name in tags and tags[name].value[1]:
                properties[f"tiff.{name}"] = str(tags[name].value[0] / tags[name].value[1])
        unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2
        properties["tiff.ResolutionUnit"] = {2: "inch", 3: "centimeter"}.get(unit, "none")
        return (shape["X"], shape["Y"]), properties, _mappable(series)


def _mappable(series: Any) -> bool:
    return series.dataoffset is not None and series.dtype == np.uint8


def _decode(path: Path) -> NDArray[Any]:
    """The picture as (H, W) or (H, W, samples); a memory map where the file holds it uncompressed in one piece."""
    kind = _kind(path)
    try:
        if kind == "tiff":
            return _decode_tiff(path)
        with _pillow(path, kind) as image:
            mode = "RGBA" if "A" in image.mode or "transparency" in image.info else "RGB"
            return _rgb(np.asarray(image.convert(mode)), path)
    except SlideError:
        raise
    except Exception as error:  # decoders raise everything from struct.error to zlib.error on damaged files
        raise _damaged(path, error) from error


def _decode_tiff(path: Path) -> NDArray[Any]:
    with tifffile.TiffFile(path) as file:
        series, axes = _tiff_series(file, path)
        image: NDArray[Any]
        image = tifffile.memmap(path, mode="r", series=0, level=0) if _mappable(series) else series.asarray()
        image = image.reshape([n for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"])
        return image if axes[0] == "Y" else np.moveaxis(image, 0, -1)


def _rgb(image: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Grey, RGB or straight RGBA (on white) as uint8 (h, w, 3)."""
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if image.shape[2] == 4:
        weight = image[..., 3:].astype(np.uint16)
        return ((image[..., :3] * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
    if image.shape[2] != 3:
        raise SlideError(f"{path}: expected 1, 3 or 4 samples per pixel, found {image.shape[2]}.")
    return np.asarray(image)
