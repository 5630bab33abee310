"""A slide whose pixels tell where they are, and a slow reference of reading it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile


def position_image(width: int, height: int) -> np.ndarray:
    """Red: triangle wave of x, green: of y, 4 grey levels a pixel; blue: chessboard of single pixels."""
    x, y = np.arange(width), np.arange(height)
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.abs((x + 32) % 126 - 63)[None] * 4
    image[..., 1] = np.abs((y + 11) % 118 - 59)[:, None] * 4
    image[..., 2] = (x[None] + y[:, None]) % 2 * 255
    return image


def pyramid(image: np.ndarray, factors: tuple[int, ...], round_up: bool = False) -> list[np.ndarray]:
    """Means of k×k level-0 pixels for each factor k; what is left at the right and lower edge is dropped or kept."""
    levels = []
    for k in factors:
        height, width = image.shape[:2]
        if round_up:
            padded = np.pad(image, ((0, -height % k), (0, -width % k), (0, 0)), mode="edge")
        else:
            padded = image[: height // k * k, : width // k * k]
        h, w = padded.shape[0] // k, padded.shape[1] // k
        levels.append(np.rint(padded.reshape(h, k, w, k, 3).mean((1, 3))).astype(np.uint8))
    return levels


def write_tiff(path: Path, levels: list[np.ndarray], mpp: float | None = 0.25, tile: int = 64) -> Path:
    """Tiled pyramidal TIFF without loss."""
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for index, level in enumerate(levels):
            file.write(
                level,
                tile=(tile, tile),
                compression="deflate",
                photometric="rgb",
                subfiletype=int(index > 0),
                metadata=None,
                **resolution,
            )
    return path


def weights(start: float, step: float, count: int, length: int) -> np.ndarray:
    """(count, length): part of each output pixel that each input pixel covers."""
    left = start + step * np.arange(count)[:, None]
    pixel = np.arange(length)[None]
    overlap = np.minimum(left + step, pixel + 1) - np.maximum(left, pixel)
    return overlap.clip(0) / step


def reference(
    image: np.ndarray,
    corner: tuple[float, float],
    scale: tuple[float, float],
    size: tuple[int, int],
    fill: int = 255,
) -> np.ndarray:
    """Mean over every output pixel's rectangle by explicit overlaps; corner, scale, size as (x, y); float64."""
    across = weights(corner[0], scale[0], size[0], image.shape[1])
    down = weights(corner[1], scale[1], size[1], image.shape[0])
    means = np.einsum("ih,hwc,jw->ijc", down, image.astype(float), across, optimize=True)
    return means + fill * (1 - np.outer(down.sum(1), across.sum(1)))[..., None]
