"""Patches a second of the training pipeline beside a bare threaded OpenSlide loop, on the same patches, in one run.

Called by ``tools/benchmark.py read``. Both read the same random patches of the same slide from the same level with the
same number of threads; the bare loop only turns each into an array and throws it away. Start-up is not timed: training
pays it once. Repeats alternate, so that whatever else the machine does hits both alike; ratios are medians over the
repeats. On a busy machine the ratio of processor time is the steadier of the two.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import tensorflow as tf

from tfseg.data.augment import PatchAugment
from tfseg.data.index import IndexConfig, PatchIndex
from tfseg.data.pipeline import patch_dataset
from tfseg.data.sampling import HierarchicalSampler
from tfseg.geometry import Grid
from tfseg.slides.base import open_slide
from tfseg.slides.synthetic import Recipe, synthetic_slide
from tfseg.types import H2G_CLASSES

BATCH = 64
WARM_UP = 4
"""Batches before the clock starts."""


def read_benchmark(
    slide: str | Path | None = None,
    *,
    threads: int = 8,
    steps: int = 30,
    repeats: int = 7,
    patch_px: int = 256,
    level: int = 1,
    size_px: int = 8192,
) -> dict[str, float]:
    """Measures and prints.

    Args:
        slide: a file that OpenSlide reads; None makes a synthetic slide of ``size_px``² in a temporary folder.
        threads: reading threads of both sides.
        steps: batches of 64 a measurement.
        repeats: measurements of each side.
        patch_px: side of a patch, at the level's own pixel size.
        level: of the file; 0 where it has fewer.
        size_px: of the synthetic slide.

    Returns:
        bare, pipeline, augmented (patches a second, medians), ratio (pipeline / bare), cpu_ratio (the same for patches
        a second of processor time), peak_mib (most memory held before and while the pipeline
        read) and before_mib (of which before).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(slide) if slide else Path(folder) / "slide.tif"
        if slide is None:
            print(f"making a synthetic slide of {size_px} x {size_px} px", file=sys.stderr)
            synthetic_slide(path, Recipe(size_px=size_px))
        return _measure(path, threads, steps, repeats, patch_px, level)


def _measure(path: Path, threads: int, steps: int, repeats: int, patch_px: int, level: int) -> dict[str, float]:
    index, level = _whole_index(path, patch_px, level)
    sampler = HierarchicalSampler(index.table, columns=())
    before = _peak_mib()
    rates: dict[str, list[tuple[float, float]]] = {"bare": [], "pipeline": [], "augmented": []}
    for repeat in range(repeats):
        first = repeat * (WARM_UP + steps)
        for name, augment in (("augmented", PatchAugment()), ("pipeline", None)):
            batches = patch_dataset(index, sampler, BATCH, augment=augment, start_step=first, threads=threads)
            rates[name].append(_rate((len(image["image"]) for image, _ in batches), WARM_UP, steps))
        if repeat == 0:  # the peak never falls: what the bare loop needs must not count
            peak = _peak_mib()
        rows = sampler.draw(tf.range(first * BATCH, (first + WARM_UP + steps) * BATCH)).numpy()
        with ThreadPoolExecutor(threads) as pool:
            arrays = pool.map(_bare_reader(path, index, level), rows)
            rates["bare"].append(_rate((1 for _ in arrays), WARM_UP * BATCH, steps * BATCH))
        print("  ".join(f"{name} {values[-1][0]:.0f}/s" for name, values in rates.items()), file=sys.stderr)
    result = {name: statistics.median(wall for wall, _ in values) for name, values in rates.items()}
    pairs = list(zip(rates["pipeline"], rates["bare"], strict=True))
    result["ratio"] = statistics.median(pipeline[0] / bare[0] for pipeline, bare in pairs)
    result["cpu_ratio"] = statistics.median(pipeline[1] / bare[1] for pipeline, bare in pairs)
    result["peak_mib"], result["before_mib"] = peak, before
    print(
        f"read: pipeline {result['pipeline']:.0f} patches/s ({result['augmented']:.0f} with augmentation), bare "
        f"OpenSlide loop {result['bare']:.0f}; ratio {result['ratio']:.2f} (goal at least 0.9), of processor time "
        f"{result['cpu_ratio']:.2f}; {threads} threads; peak memory {peak:.0f} MiB, {before:.0f} of it before reading"
    )
    return result


def _whole_index(path: Path, patch_px: int, level: int) -> tuple[PatchIndex, int]:
    """Every patch of the slide at a level's own pixel size, without regard to tissue; and the level."""
    with open_slide(path) as slide:
        level = min(level, len(slide.level_downsamples) - 1)
        config = IndexConfig(patch_px, patch_px, slide.mpp * slide.level_downsamples[level])
        grid = Grid(slide.size, slide.mpp, patch_px, patch_px, config.mpp)
        centres = [(w.x, w.y) for w in (grid.window(*cell) for cell in grid.cells())]
        half = grid.patch_level0 / 2
        centres = [(x, y) for x, y in centres if x + half <= slide.size[0] and y + half <= slide.size[1]]
        table = pd.DataFrame(centres, columns=["x", "y"])
        table["slide"], table["slide_mpp"], table["class_index"] = str(path), slide.mpp, np.arange(len(table)) % 2
    return PatchIndex(table, config, H2G_CLASSES, {}, pd.DataFrame()), level


def _rate(sizes: Iterator[int], skip: int, count: int) -> tuple[float, float]:
    """Patches a second of time and of processor time, over ``count`` items after the first ``skip``."""
    for _ in itertools.islice(sizes, skip):
        pass
    wall, cpu = time.perf_counter(), time.process_time()
    patches = sum(itertools.islice(sizes, count))
    return patches / (time.perf_counter() - wall), patches / (time.process_time() - cpu)


def _bare_reader(path: Path, index: PatchIndex, level: int) -> Callable[[int], np.ndarray]:
    """``read_region`` alone, a handle a thread."""
    local, size = threading.local(), index.config.patch_px
    half = size * index.config.mpp / float(index.table["slide_mpp"].iloc[0]) / 2
    corners = [(round(x - half), round(y - half)) for x, y in index.table[["x", "y"]].to_numpy()]

    def read(row: int) -> np.ndarray:
        if not hasattr(local, "slide"):
            local.slide = openslide.OpenSlide(str(path))
        return np.asarray(local.slide.read_region(corners[row], level, (size, size)))

    return read


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", nargs="?", help="a slide file; without one, a synthetic slide is made")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--patch-px", type=int, default=256)
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--size-px", type=int, default=8192, help="side of the synthetic slide")
    arguments = vars(parser.parse_args())
    read_benchmark(arguments.pop("slide"), **arguments)


if __name__ == "__main__":
    main()
