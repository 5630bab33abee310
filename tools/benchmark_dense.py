"""A whole ``tfseg segment`` with a dense network, of three fields by default: memory, speed beside ONNX Runtime alone.

Called by ``tools/benchmark.py dense``. The slide repeats one texture, so that it is written in a minute; a process of
its own segments it, from the path to the last file, and tells the most memory that it held. ONNX Runtime alone gets
windows that lie in memory as float32 arrays, in batches of the same size, before and after, on all cores as in tfseg.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from benchmark_process import apart, peak_mib
from numpy.typing import NDArray

from tfseg.infer.cascade import SegmentOptions, segment_slide
from tfseg.infer.dense import DenseOptions
from tfseg.infer.outputs import OutputOptions
from tfseg.infer.predictors import Predictor, available_cores, load_predictor
from tfseg.infer.tiles import Streaming
from tfseg.infer.windows import dense_grid, read_fields
from tfseg.slides.base import open_slide

MPP = 0.5
TEXTURE_PX = 512
MOST_MIB = 3072
_ALONE_WINDOWS = 32


def dense_benchmark(
    model: Path | None = None,
    slide: Path | None = None,
    *,
    size_px: int = 32768,
    architecture: Literal["dmmn_m3", "plain_unet"] = "dmmn_m3",
    window_px: int = 256,
    widths: tuple[int, ...] = (8, 16, 16, 16, 16),
    stride_px: int | None = None,
    batch_size: int = 4,
    probability: bool = False,
    keep: Path | None = None,
) -> dict[str, float]:
    """Measures and prints.

    Args:
        model: folder of a dense network, exported; None builds one with random weights.
        slide: None writes one of ``size_px``² at 0.5 µm/px.
        size_px: of that slide.
        architecture: of that network: DMMN-M3 at 0.5, 1 and 2 µm/px, or the U-Net at 0.5 µm/px.
        window_px: side of its fields.
        widths: its channels.
        stride_px: output pixels between windows; None takes the network's, without overlap.
        batch_size: windows a batch.
        probability: also write each class's probability.
        keep: folder that gets the slide's results; None drops them.

    Returns:
        windows; seconds (of all), segment_seconds (reading and computing); alone (windows/s of ONNX Runtime in memory);
        ratio and segment_ratio (windows/s beside that); peak_mib, goal at most 3072.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model is None:
            print(f"building and exporting {architecture}", file=sys.stderr)
            model = folder / "model"
            apart(_build, model, architecture, window_px, widths)
        if slide is None:
            print(f"making a slide of {size_px} x {size_px} px", file=sys.stderr)
            slide = folder / "slide.tif"
            apart(_draw, slide, size_px)
        before = _alone(model, slide, batch_size)
        job = {
            "slide": str(slide),
            "model": str(model),
            "out": str(folder / "out"),
            "stride_px": stride_px,
            "batch_size": batch_size,
            "probability": probability,
        }
        found = _process(job)
        alone = statistics.mean((before, _alone(model, slide, batch_size)))
        if keep is not None:
            shutil.copytree(folder / "out", keep, dirs_exist_ok=True)
    result = {
        **found,
        "alone": alone,
        "ratio": found["windows"] / found["seconds"] / alone,
        "segment_ratio": found["windows"] / found["segment_seconds"] / alone,
    }
    _report(result)
    return result


def _build(folder: Path, architecture: str, window_px: int, widths: tuple[int, ...]) -> None:
    from tfseg import models
    from tfseg.export.onnx import export_onnx
    from tfseg.slides.class_table import ClassTable

    arguments: dict[str, Any] = {"size_px": window_px, "num_classes": 7, "widths": widths}
    several = architecture == "dmmn_m3"
    if several:
        arguments["mpps"] = (MPP, 2 * MPP, 4 * MPP)
    network = models.build(architecture, **arguments)
    classes = ClassTable.dmmn().classes
    spec = models.describe(network, architecture, arguments, mpp=None if several else MPP, classes=classes)
    models.save(network, spec, folder)
    export_onnx(folder)


def _draw(path: Path, size_px: int) -> None:
    from tfseg.export.onnx import he_picture
    from tfseg.slides.tiff_writer import write_pyramid

    write_pyramid(path, _Repeated(he_picture(TEXTURE_PX, TEXTURE_PX), size_px), mpp=MPP, objective_power=20)


class _Repeated:
    """A texture over and over: a :class:`tfseg.slides.tiff_writer.TileSource`."""

    dtype = np.uint8

    def __init__(self, texture: NDArray[np.uint8], size_px: int) -> None:
        self._texture = texture
        self.shape = (size_px, size_px, 3)

    def tile(self, row0: int, col0: int, height: int, width: int) -> NDArray[np.uint8]:
        rows, columns = (
            np.arange(first, first + count) % len(self._texture) for first, count in ((row0, height), (col0, width))
        )
        return self._texture[rows][:, columns]


def _alone(model: Path, path: Path, batch_size: int) -> float:
    """Windows a second of ONNX Runtime on windows in memory."""
    predict, spec = load_predictor(model)
    with open_slide(path) as slide:
        grid = dense_grid(slide, spec)
        rows, columns = grid.shape
        cells = [divmod(n * rows * columns // _ALONE_WINDOWS, columns) for n in range(_ALONE_WINDOWS)]
        centres = [grid.centre(*cell) for cell in cells]
        batches = [
            read_fields(slide, spec.inputs, centres[n : n + batch_size], "zero")
            for n in range(0, len(cells), batch_size)
        ]
    _run(predict, batches[:1])
    begun = time.perf_counter()
    _run(predict, batches)
    return len(cells) / (time.perf_counter() - begun)


def _run(predict: Predictor, batches: list[tuple[NDArray[np.float32], ...]]) -> None:
    for batch in batches:
        predict(*batch)


def _process(job: dict[str, Any]) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, json.dumps(job)], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _segment(job: dict[str, Any]) -> dict[str, float]:
    options = SegmentOptions(
        streaming=Streaming(job["batch_size"]),
        dense=DenseOptions(stride_px=job["stride_px"]),
        outputs=OutputOptions(probability=job["probability"]),
        progress=True,
    )
    summary = segment_slide(job["slide"], job["model"], job["out"], options)
    seconds = summary["seconds"]
    return {
        "windows": summary["grid"]["windows"],
        "seconds": seconds["total"],
        "segment_seconds": seconds["segment"],
        "peak_mib": peak_mib(),
    }


def _report(result: dict[str, float]) -> None:
    print(
        f"dense: {result['windows']:.0f} windows in {result['seconds']:.0f} s ({result['segment_seconds']:.0f} s of it "
        f"reading and computing), {available_cores()} cores\n"
        f"  beside ONNX Runtime alone ({result['alone']:.1f} windows/s): {result['segment_ratio']:.2f} reading and "
        f"computing, {result['ratio']:.2f} with all that is written\n"
        f"  peak memory {result['peak_mib']:.0f} MiB (goal at most {MOST_MIB})"
    )


if __name__ == "__main__":
    print(json.dumps(_segment(json.loads(sys.argv[1]))))
