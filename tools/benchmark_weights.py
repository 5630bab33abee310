"""Weight maps of nuclei tiles a second, beside one distance transform of SciPy's a tile, in one run.

Called by ``tools/benchmark.py weights``. A weight map needs the distance of every pixel to its two nearest nuclei; one
distance transform of the tile, to the nearest alone, is the least that anybody would compute. Both run in this one
thread. Repeats alternate, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tfseg.data.border_weights import border_weights
from tfseg.types import AnnotationError

TILE_PX = 256


def weights_benchmark(labels: Path | None = None, tiles: int = 40, repeats: int = 7) -> dict[str, float]:
    """Measures and prints.

    Args:
        labels: folder of label pictures (PNG) at least 256 px wide and high, cut into tiles; None makes tiles of 60
            ellipses.
        tiles: of 256² px, spread over all pictures.
        repeats: measurements of each side.

    Returns:
        weights and transform (tiles a second, medians), per_processor_second (weight maps a second of processor time),
        ratio (weights / transform), nuclei (a tile, mean).
    """
    images = _made_tiles(tiles) if labels is None else _read_tiles(labels, tiles)
    rates: dict[str, list[tuple[float, float]]] = {"weights": [], "transform": []}
    for _ in range(repeats):
        rates["transform"].append(_rate(lambda tile: ndimage.distance_transform_edt(tile == 0), images))
        rates["weights"].append(_rate(border_weights, images))
        print("  ".join(f"{name} {values[-1][0]:.0f}/s" for name, values in rates.items()), file=sys.stderr)
    result = {name: statistics.median(wall for wall, _ in values) for name, values in rates.items()}
    pairs = zip(rates["weights"], rates["transform"], strict=True)
    result["per_processor_second"] = statistics.median(cpu for _, cpu in rates["weights"])
    result["ratio"] = statistics.median(weights[1] / transform[1] for weights, transform in pairs)
    result["nuclei"] = statistics.fmean(np.count_nonzero(np.unique(tile)) for tile in images)
    print(
        f"weights: {result['weights']:.0f} tiles of {TILE_PX}² px a second (goal at least 20), "
        f"{result['per_processor_second']:.0f} a second of processor time, one distance transform "
        f"{result['transform']:.0f} a second; ratio {result['ratio']:.2f}, of processor time; "
        f"{len(images)} tiles of {result['nuclei']:.0f} nuclei"
    )
    return result


def _rate(work: Callable[[NDArray[np.int32]], object], tiles: list[NDArray[np.int32]]) -> tuple[float, float]:
    """Tiles a second of time and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for tile in tiles:
        work(tile)
    return len(tiles) / (time.perf_counter() - wall), len(tiles) / (time.process_time() - cpu)


def _made_tiles(count: int) -> list[NDArray[np.int32]]:
    y, x = np.mgrid[:TILE_PX, :TILE_PX]
    random = np.random.default_rng(0)
    tiles = np.zeros((count, TILE_PX, TILE_PX), np.int32)
    for tile in tiles:
        for index in range(60):
            (cy, cx), (a, b) = random.uniform(0, TILE_PX, 2), random.uniform(7, 14, 2)
            tile[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1] = index + 1
    return list(tiles)


def _read_tiles(folder: Path, count: int) -> list[NDArray[np.int32]]:
    from PIL import Image

    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise AnnotationError(f"{folder}: no label pictures (*.png). Give the folder that holds them.")
    tiles = []
    for path in paths:
        labels = np.asarray(Image.open(path)).astype(np.int32)
        for top in range(0, labels.shape[0] - TILE_PX + 1, TILE_PX):
            for left in range(0, labels.shape[1] - TILE_PX + 1, TILE_PX):
                tiles.append(labels[top : top + TILE_PX, left : left + TILE_PX].copy())
    return [tiles[i] for i in np.linspace(0, len(tiles) - 1, min(count, len(tiles))).astype(int)]
