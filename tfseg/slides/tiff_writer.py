"""Tiled pyramidal TIFF that OpenSlide, QuPath and FAST open with the right pixel size."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tfseg.files import atomic_path
from tfseg.types import OutputError

SMALLEST_LEVEL_PX = 1024
"""Levels are halved until the longer side is no longer than this."""

_CLASSIC_TIFF_BYTES = 2**32 - 2**26
_SPOOL_BYTES = 2**24
_KINDS = ("image", "label", "heatmap")
_COMPRESSIONS = ("jpeg", "deflate", "lzw")


Encode = Callable[[NDArray[Any]], bytes]
"""From a tile to its compressed bytes."""


class TileSource(Protocol):
    """A picture that is made where it is asked for, so that it never stands in memory as a whole."""

    shape: tuple[int, ...]
    dtype: Any

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[Any]:
        """Pixels [row0, row0 + height) × [col0, col0 + width), (height, width) or (height, width, 3)."""
        ...


def write_pyramid(
    path: str | Path,
    source: NDArray[Any] | TileSource,
    *,
    mpp: float | tuple[float, float],
    objective_power: float | None = None,
    kind: str = "image",
    tile_px: int = 256,
    compression: str | None = None,
    quality: int = 88,
    colors: Mapping[int, tuple[int, int, int]] | None = None,
    description: str | None = None,
) -> None:
    """Writes a tiled pyramidal TIFF, whole or not at all; the same input gives the same bytes.

    Every level has half the size of the one above (rounded up), until the longer side is at most 1024 px; a pixel of
    level n covers exactly 2^n × 2^n pixels of level 0. ``kind`` says how four pixels become one: the rounded mean
    ("image", "heatmap"; integers round half up) or the most frequent value ("label"; of equally frequent ones the
    first in reading order). Level 0 is taken from ``source`` in bands of ``tile_px`` rows and full width; the lower
    levels grow along and wait compressed, in memory up to 16 MiB a level and then in an unnamed file beside ``path``.

    Which readers know what (tested with OpenSlide 4.0 and FAST): with ``objective_power`` the first page carries an
    Aperio description. OpenSlide then reports ``openslide.mpp-x`` and ``openslide.objective-power``, and FAST's
    WholeSlideImageImporter knows the magnification (so ``patch-magnification`` works), both under either suffix,
    ``.tif`` or ``.svs``. Without it OpenSlide reads the pixel size from the resolution tags (vendor generic-tiff), but
    FAST refuses a patch-magnification. One-channel uint8 opens in OpenSlide with "deflate" and "lzw" alike, as grey
    R = G = B = value, or, with ``colors``, in those colours. OpenSlide opens neither float32 nor uint32: write
    heatmaps as uint8; labels of uint32 (instances) are for QuPath's Bio-Formats and for tifffile.

    Args:
        path: the file to write.
        source: array (H, W) or (H, W, 3), or a :class:`TileSource` of that shape.
        mpp: µm/px of level 0, or (x, y). Stands in each level's resolution tags, in pixels per cm of that level.
        objective_power: nominal magnification, e.g. 20; images (H, W, 3) uint8 only.
        kind: "image", "label" or "heatmap".
        tile_px: side of the tiles, a multiple of 16.
        compression: "jpeg" (uint8 only; the default of images), "deflate" (the default of the others) or "lzw".
        quality: of JPEG, 1..100; chroma is halved both ways, as scanners do.
        colors: red, green, blue in 0..255 for the values of a one-channel uint8 picture; values not named are black.
            Readers of raw TIFF still get the values.
        description: text for the first page; takes the place of the Aperio description.

    Raises:
        OutputError: settings that no reader would open, or the disk is full.
    """
    import tifffile

    mpp_xy = (float(mpp), float(mpp)) if isinstance(mpp, (int, float)) else (float(mpp[0]), float(mpp[1]))
    compression = compression or ("jpeg" if kind == "image" else "deflate")
    shape, dtype = tuple(int(side) for side in source.shape), np.dtype(source.dtype)
    _check(Path(path), shape, dtype, mpp_xy, kind, tile_px, compression, objective_power, colors)
    if description is None and objective_power is not None:
        description = _aperio_description(shape, tile_px, quality, mpp_xy, objective_power)
    encode = _encoder(compression, quality)
    sizes = level_sizes(shape[0], shape[1])
    raw_bytes = math.prod(shape) * dtype.itemsize * 4 // 3
    with atomic_path(path) as temporary:
        levels = [_Level(size, tile_px, encode, kind, temporary.parent) for size in sizes[1:]]
        try:
            with tifffile.TiffWriter(temporary, bigtiff=raw_bytes > _CLASSIC_TIFF_BYTES) as tiff:
                tags = _page_tags(compression, len(shape) == 3, colors)
                for number, (height, width) in enumerate(sizes):
                    tiles = _level_zero(source, tile_px, encode, levels) if number == 0 else levels[number - 1].tiles()
                    tiff.write(
                        tiles,
                        shape=(height, width, *shape[2:]),
                        dtype=dtype,
                        tile=(tile_px, tile_px),
                        resolution=(_pixels_per_cm(mpp_xy[0] * 2**number), _pixels_per_cm(mpp_xy[1] * 2**number)),
                        resolutionunit="CENTIMETER",
                        subfiletype=0 if number == 0 else 1,
                        description=(description.encode() if description and number == 0 else None),
                        software="tfseg",
                        metadata=None,
                        **tags,
                    )
        finally:
            for level in levels:
                level.close()


def _pixels_per_cm(mpp: float) -> tuple[int, int]:
    """Resolution as a fraction of two 32-bit numbers; older tifffile rounds a float to six digits only."""
    fraction = Fraction(10_000) / Fraction(mpp).limit_denominator(100_000)
    fraction = fraction.limit_denominator(2**32 // max(1, math.ceil(fraction)))
    return fraction.numerator, fraction.denominator


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of every level that :func:`write_pyramid` makes, the largest first."""
    sizes = [(height, width)]
    while max(sizes[-1]) > SMALLEST_LEVEL_PX:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def halve(pixels: NDArray[Any], kind: str) -> NDArray[Any]:
    """Joins 2 × 2 pixels as :func:`write_pyramid` does; an odd last row or column is repeated.

    Args:
        pixels: (H, W) or (H, W, C).
        kind: "label" (most frequent value) or another (mean).

    Returns:
        (ceil(H / 2), ceil(W / 2)[, C]) of the same dtype.
    """
    odd = [(0, side % 2) for side in pixels.shape[:2]] + [(0, 0)] * (pixels.ndim - 2)
    if any(after for _, after in odd):
        pixels = np.pad(pixels, odd, mode="edge")
    corners = [pixels[0::2, 0::2], pixels[0::2, 1::2], pixels[1::2, 0::2], pixels[1::2, 1::2]]
    if kind == "label":
        votes = np.stack([np.sum([one == other for other in corners], axis=0) for one in corners])
        first = votes.argmax(axis=0)
        return np.choose(first, corners).astype(pixels.dtype)
    if pixels.dtype.kind == "f":
        return np.mean(corners, axis=0, dtype=np.float64).astype(pixels.dtype)
    total = corners[0].astype(np.uint32 if pixels.dtype.itemsize > 1 else np.uint16)
    for corner in corners[1:]:
        np.add(total, corner, out=total)
    return np.right_shift(total + 2, 2).astype(pixels.dtype)


class _Level:
    """A lower level while the one above is written: takes rows, keeps compressed tiles, feeds the next level."""

    def __init__(self, size: tuple[int, int], tile_px: int, encode: Encode, kind: str, folder: Path) -> None:
        self.height, self.width = size
        self.tile_px, self.encode, self.kind = tile_px, encode, kind
        self.rows: list[NDArray[Any]] = []
        self.waiting = self.received = 0
        self.lengths: list[int] = []
        # Beside the target, because that disk is the one known to have room for slides.
        self.store = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES, dir=str(folder))  # noqa: SIM115

    def push(self, rows: NDArray[Any], below: list[_Level]) -> None:
        """Takes the next rows, which start at an even row of the level above unless they are its last."""
        self.rows.append(rows)
        self.waiting += rows.shape[0]
        self.received += rows.shape[0]
        while self.waiting >= self.tile_px or (self.received == self.height and self.waiting):
            joined = np.concatenate(self.rows)
            band, rest = joined[: self.tile_px], joined[self.tile_px :]
            self.rows, self.waiting = [rest], rest.shape[0]
            for tile in _tiles(band, self.tile_px):
                data = self.encode(tile)
                self.store.write(data)
                self.lengths.append(len(data))
            if below:
                below[0].push(halve(band, self.kind), below[1:])

    def tiles(self) -> Iterator[bytes]:
        """The compressed tiles, row by row."""
        self.store.seek(0)
        for length in self.lengths:
            yield self.store.read(length)

    def close(self) -> None:
        self.store.close()


def _level_zero(
    source: NDArray[Any] | TileSource, tile_px: int, encode: Encode, levels: list[_Level]
) -> Iterator[bytes]:
    """The compressed tiles of level 0, row by row; feeds the lower levels on the way."""
    height, width = source.shape[:2]
    for row0 in range(0, height, tile_px):
        rows = min(tile_px, height - row0)
        if isinstance(source, np.ndarray):
            band = source[row0 : row0 + rows]
        else:
            band = np.asarray(source.tile(row0, 0, rows, width))
            expected = (rows, width, *source.shape[2:])
            if band.shape != expected or band.dtype != np.dtype(source.dtype):
                raise OutputError(
                    f"tile source: expected {expected} {np.dtype(source.dtype)} for rows {row0}..{row0 + rows}, "
                    f"got {band.shape} {band.dtype}."
                )
        if levels:  # before the tiles: whoever takes the last tile does not come back for what follows it
            levels[0].push(halve(band, levels[0].kind), levels[1:])
        for tile in _tiles(band, tile_px):
            yield encode(tile)


def _tiles(band: NDArray[Any], tile_px: int) -> Iterator[NDArray[Any]]:
    """Square tiles of a band, the last ones filled up by repeating the edge (which JPEG minds least)."""
    height, width = band.shape[:2]
    for col0 in range(0, width, tile_px):
        tile = band[:, col0 : col0 + tile_px]
        missing = (tile_px - height, tile_px - tile.shape[1])
        if any(missing):
            tile = np.pad(tile, [(0, missing[0]), (0, missing[1])] + [(0, 0)] * (band.ndim - 2), mode="edge")
        yield np.ascontiguousarray(tile)


def _encoder(compression: str, quality: int) -> Encode:
    """Function from a tile to its compressed bytes."""
    import imagecodecs

    def jpeg(tile: NDArray[Any]) -> bytes:
        color: dict[str, Any] = (
            {"colorspace": "RGB", "outcolorspace": "YCBCR", "subsampling": "420"} if tile.ndim == 3 else {}
        )
        return bytes(imagecodecs.jpeg8_encode(tile, level=quality, **color))

    def deflate(tile: NDArray[Any]) -> bytes:
        return bytes(imagecodecs.zlib_encode(tile.tobytes(), level=6))

    def lzw(tile: NDArray[Any]) -> bytes:
        return bytes(imagecodecs.lzw_encode(tile.tobytes()))

    return {"jpeg": jpeg, "deflate": deflate, "lzw": lzw}[compression]


def _page_tags(compression: str, rgb: bool, colors: Mapping[int, tuple[int, int, int]] | None) -> dict[str, Any]:
    """What tifffile must know about the tiles, which reach it compressed."""
    tags: dict[str, Any] = {"compression": {"jpeg": "jpeg", "deflate": "adobe_deflate", "lzw": "lzw"}[compression]}
    if colors is not None:
        table = np.zeros((3, 256), np.uint16)
        for value, color in colors.items():
            table[:, value] = np.array(color, np.uint16) * 257  # TIFF colour maps are 16 bits deep
        return {**tags, "photometric": "palette", "colormap": table}
    if not rgb:
        return {**tags, "photometric": "minisblack"}
    if compression == "jpeg":
        return {**tags, "photometric": "ycbcr", "subsampling": (2, 2)}
    return {**tags, "photometric": "rgb"}


def _aperio_description(
    shape: tuple[int, ...], tile_px: int, quality: int, mpp: tuple[float, float], power: float
) -> str:
    """First page's description in the form that readers of Aperio slides parse."""
    size = f"{shape[1]}x{shape[0]}"
    return (
        f"Aperio Image Library (written by tfseg)\r\n{size} [0,0 {size}] ({tile_px}x{tile_px}) JPEG/YCBCR Q={quality}"
        f"|AppMag = {power:g}|MPP = {(mpp[0] + mpp[1]) / 2:.9g}"
    )


def _check(path, shape, dtype, mpp, kind, tile_px, compression, objective_power, colors) -> None:
    """Raises OutputError for settings that make no readable file."""

    def refuse(what: str) -> None:
        raise OutputError(f"cannot write {path}: {what}")

    if kind not in _KINDS:
        refuse(f"kind is one of {', '.join(_KINDS)}, got {kind!r}.")
    if compression not in _COMPRESSIONS:
        refuse(f"compression is one of {', '.join(_COMPRESSIONS)}, got {compression!r}.")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3) or min(shape) < 1:
        refuse(f"expected (H, W) or (H, W, 3) with at least one pixel, got {shape}.")
    if not all(math.isfinite(pixel) and pixel > 0 for pixel in mpp):
        refuse(f"mpp must be a positive number of µm/px, got {mpp}.")
    if tile_px < 16 or tile_px % 16:
        refuse(f"tile_px must be a multiple of 16 (TIFF), got {tile_px}.")
    of_kind = {"image": (np.uint8,), "label": (np.uint8, np.uint16, np.uint32, np.float32)}
    if dtype not in of_kind.get(kind, (np.uint8, np.uint16, np.float32)):
        refuse(
            "an image is uint8; a label uint8, uint16, uint32 or float32; a heatmap uint8, uint16 or float32; got "
            f"{kind} of {dtype}."
        )
    if compression == "jpeg" and (dtype != np.uint8 or kind == "label"):
        refuse(f"JPEG keeps neither labels nor anything but uint8, got {kind} of {dtype}. Use 'deflate'.")
    if objective_power is not None and (len(shape) != 3 or objective_power <= 0):
        refuse(f"objective_power needs an RGB image and a positive value, got {objective_power} for shape {shape}.")
    if colors is not None and (len(shape) != 2 or dtype != np.uint8 or not all(0 <= value <= 255 for value in colors)):
        refuse(f"colors are for values 0..255 of a one-channel uint8 picture, got {shape} {dtype}.")
