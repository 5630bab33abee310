"""A whole ``tfseg segment`` beside ONNX Runtime alone on the same patches in memory, and beside FAST on the same slide.

Called by ``tools/benchmark.py segment``. What is timed of tfseg is everything from the slide's path to the last file:
loading the network, tissue, reading, classifying, mask, heatmap, polygons, overlay. ONNX Runtime alone gets the
patches as float32 arrays in batches of the same size, once as it comes (all cores work on one batch) and once as tfseg
runs it (a batch a core). FAST runs our headless pipeline with OpenVINO, timed inside its process. Repeats alternate, so
that whatever else the machine does hits all alike; ratios are medians over the repeats. On a busy machine the ratio of
processor time is the steadier one, but it flatters tfseg beside ONNX Runtime as it comes, whose threads spin while they
wait.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_process import apart, peak_mib
from numpy.typing import NDArray

from tfseg.infer.cascade import SegmentOptions, segment_slide
from tfseg.infer.predictors import OnnxPredictor, available_cores, load_predictor
from tfseg.infer.slide import patch_grid
from tfseg.infer.tiles import Streaming
from tfseg.slides.base import open_slide
from tfseg.slides.tissue import tissue_mask
from tfseg.types import CascadeSpec, ModelSpec

Timing = tuple[float, float]
"""Seconds of time, and of processor time of this process."""


def segment_benchmark(
    model: Path | None = None,
    slide: Path | None = None,
    *,
    size_px: int = 16384,
    batch_size: int = 4,
    repeats: int = 5,
    fast: bool = True,
) -> dict[str, float]:
    """Measures and prints.

    Args:
        model: folder of a patch classifier, exported; None builds MobileNetV2 for 256² at 1 µm/px with random weights.
        slide: a slide that OpenSlide and FAST read; None makes a synthetic one of ``size_px``² at 0.5 µm/px.
        size_px: of the synthetic slide.
        batch_size: patches a batch.
        repeats: measurements of each side.
        fast: also run FAST, if it is installed.

    Returns:
        patches; segment, alone, alone_per_core, fast (seconds, medians); ratio and ratio_per_core (alone / segment,
        goal at least 0.9), cpu_ratio and cpu_ratio_per_core (the same of processor time), fast_ratio (fast / segment,
        goal at least 1); process (seconds with the start of Python) and peak_mib of a process that segments.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model is None:
            print("building and exporting MobileNetV2", file=sys.stderr)
            model = folder / "model"
            apart(_build, model)
        if slide is None:
            print(f"making a synthetic slide of {size_px} x {size_px} px", file=sys.stderr)
            slide = folder / "slide.tif"
            apart(_draw, slide, size_px)
        result = _measure(model, slide, folder, batch_size, repeats, _fast(model, slide, folder) if fast else None)
    _report(result)
    return result


def _build(folder: Path) -> None:
    from tfseg import models
    from tfseg.export.fast import export_cascade

    network = models.build("mobilenetv2_classifier")
    models.save(network, models.describe(network, "mobilenetv2_classifier", {}, mpp=1.0), folder)
    export_cascade(folder)


def _draw(path: Path, size_px: int) -> None:
    from tfseg.slides.synthetic import Recipe, synthetic_slide

    synthetic_slide(path, Recipe(size_px=size_px))


def _measure(
    model: Path, slide: Path, folder: Path, batch_size: int, repeats: int, fast: Callable[[], float] | None
) -> dict[str, float]:
    child = _process(slide, model, folder / "process", batch_size)
    spec, batches = _patches(model, slide, batch_size)
    default, per_core = _default_session(model), load_predictor(model / (spec.classifier or "."))[0]
    assert isinstance(per_core, OnnxPredictor)
    sides: dict[str, Callable[[], Any]] = {
        "segment": lambda: _segment(slide, model, folder / "out", batch_size),
        "alone": lambda: [default(batch) for batch in batches],
        "alone_per_core": lambda: _in_threads(per_core, batches),
    }
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            timings[name].append(_timed(run))
        if fast is not None:
            timings.setdefault("fast", []).append((fast(), math.nan))
        print("  ".join(f"{name} {timing[-1][0]:.2f} s" for name, timing in timings.items()), file=sys.stderr)
    result = {"patches": float(sum(map(len, batches)))}
    result |= {name: statistics.median(wall for wall, _ in values) for name, values in timings.items()}
    for name, suffix in (("alone", ""), ("alone_per_core", "_per_core")):
        pairs = list(zip(timings[name], timings["segment"], strict=True))
        result[f"ratio{suffix}"] = statistics.median(a[0] / b[0] for a, b in pairs)
        result[f"cpu_ratio{suffix}"] = statistics.median(a[1] / b[1] for a, b in pairs)
    if fast is not None:
        result["fast_ratio"] = statistics.median(
            a[0] / b[0] for a, b in zip(timings["fast"], timings["segment"], strict=True)
        )
    return {**result, "process": child["seconds"], "peak_mib": child["peak_mib"]}


def _segment(slide: Path, model: Path, out: Path, batch_size: int) -> None:
    segment_slide(slide, model, out, SegmentOptions(streaming=Streaming(batch_size), force=True))


def _patches(model: Path, path: Path, batch_size: int) -> tuple[CascadeSpec, list[NDArray[np.float32]]]:
    """The cascade, and the patches that it classifies, in batches."""
    spec = CascadeSpec.load(model)
    with open_slide(path) as slide:
        grid = patch_grid(slide, ModelSpec.load(model / (spec.classifier or ".")))
        cells = np.argwhere(tissue_mask(slide, **spec.tissue).fractions(grid) > spec.min_tissue).tolist()
        parts = [cells[start : start + batch_size] for start in range(0, len(cells), batch_size)]
        return spec, [
            np.stack([slide.read(grid.window(row, column)) for row, column in part]).astype(np.float32)
            for part in parts
        ]


def _default_session(model: Path) -> Callable[[NDArray[np.float32]], Any]:
    """ONNX Runtime with none of its settings touched."""
    import onnxruntime

    path = model / (CascadeSpec.load(model).classifier or ".") / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def _in_threads(predict: OnnxPredictor, batches: list[NDArray[np.float32]]) -> None:
    with ThreadPoolExecutor(predict.parallel) as pool:
        list(pool.map(predict, batches))


def _timed(run: Callable[[], Any]) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def _process(slide: Path, model: Path, out: Path, batch_size: int) -> dict[str, float]:
    """Seconds and peak memory of a fresh Python that segments the slide."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, str(slide), str(model), str(out), str(batch_size)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return {"seconds": time.perf_counter() - begun, **json.loads(done.stdout.splitlines()[-1])}


def _fast(model: Path, slide: Path, folder: Path) -> Callable[[], float] | None:
    """Runs the headless pipeline in FAST and returns its seconds; None where that cannot be."""
    from tfseg.export.fast import FLAVOURS
    from tfseg.export.run_fast import has_fast, run_headless

    pipeline = model / FLAVOURS["headless"]
    if not has_fast() or not pipeline.is_file():
        print("FAST is left out: pyfast is not installed, or the model folder has no headless.fpl", file=sys.stderr)
        return None
    return lambda: run_headless(pipeline, slide, folder / "fast.hdf5").seconds


def _report(result: dict[str, float]) -> None:
    patches = result["patches"]
    rates = {name: patches / result[name] for name in ("segment", "alone", "alone_per_core", "fast") if name in result}
    print(
        f"segment: {patches:.0f} patches, {available_cores()} cores; patches/s: "
        + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        + f"\n  beside ONNX Runtime alone: {result['ratio']:.2f} (goal at least 0.9), of processor time "
        f"{result['cpu_ratio']:.2f}\n  beside ONNX Runtime alone with a batch a core: {result['ratio_per_core']:.2f}, "
        f"of processor time {result['cpu_ratio_per_core']:.2f}"
        + (f"\n  beside FAST: {result['fast_ratio']:.2f} (goal at least 1)" if "fast" in result else "")
        + f"\n  a process that segments: {result['process']:.1f} s, peak memory {result['peak_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    _segment(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps({"peak_mib": peak_mib()}))
