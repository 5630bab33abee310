"""What it changes that FAST's network makes its own fields instead of reading the slide's levels.

python tools/measure_fields.py MODEL SLIDE     # a dense network with `tfseg export MODEL`, a slide with levels

Prints, for each field, how many grey levels lie between the mean over level-0 pixels and the picture that is read from
the best level; and how many pixels get another class, and by how much the probabilities differ, when the one graph
(model_fast.onnx) labels the slide in tfseg, and in FAST.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from tfseg.export.fast_dense import fast_stride, write_dense_fpl
from tfseg.export.one_input import PADDING
from tfseg.export.onnx import FILES
from tfseg.export.run_fast import has_fast, run_headless
from tfseg.infer.dense import DenseResult, segment_dense
from tfseg.infer.predictors import OnnxPredictor, Predictor, available_cores, load_predictor
from tfseg.infer.windows import dense_grid, read_fields
from tfseg.slides.base import Slide, open_slide
from tfseg.types import ModelSpec, TfsegError, read_config

_WINDOWS = 24


def main(
    model: Annotated[Path, tyro.conf.Positional], path: Annotated[Path, tyro.conf.Positional], mpp: float | None = None
) -> None:
    """Measures and prints.

    Args:
        model: folder of a dense network, exported.
        path: slide.
        mpp: µm per level-0 pixel, in place of what the slide says.
    """
    slide = open_slide(path, mpp)
    predict, spec = load_predictor(model)
    config = model / FILES["fast"][1]
    single = ModelSpec.from_dict(read_config(config), str(config))
    print(f"{path.name}: {slide.mpp:g} µm/px, levels {', '.join(f'{d:g}' for d in slide.level_downsamples)}")
    for one, differences in zip(spec.inputs, _grey_levels(slide, spec, single), strict=True):
        print(
            f"  {one.name}: {differences.mean():.2f} grey levels on average, 99 % below "
            f"{np.quantile(differences, 0.99):.1f}, at most {differences.max():.1f}"
        )
    levels = segment_dense(slide, predict, spec, probabilities=True)
    graph = segment_dense(slide, _cropped(model, single), single, probabilities=True)
    changes = np.abs(_probabilities(levels) - _probabilities(graph)) / 255
    same = float(np.mean(levels.labels == graph.labels))
    print(f"  one graph in tfseg: {same:.4f} of the pixels alike, probabilities {changes.mean():.5f} apart on average")
    if has_fast():
        for engine in ("OpenVINO", "ONNXRuntime"):
            print(f"  FAST with {engine}: {_fast(model, path, engine, single, levels):.4f} of the pixels alike")


def _grey_levels(slide: Slide, spec: ModelSpec, single: ModelSpec) -> list[NDArray[np.float32]]:
    """|mean over level-0 pixels − level as read| of every field, over windows that show something."""
    grid = dense_grid(slide, spec)
    cells = np.random.default_rng(0).permutation(np.argwhere(np.ones(grid.shape, bool))).tolist()
    found: list[list[NDArray[np.float32]]] = [[] for _ in spec.inputs]
    for cell in cells:
        centres = [grid.centre(*cell)]
        (large,) = read_fields(slide, single.inputs, centres, "zero")
        if large.std() < 8 or len(found[0]) == _WINDOWS:
            continue
        for one, field, kept in zip(spec.inputs, read_fields(slide, spec.inputs, centres, "zero"), found, strict=True):
            kept.append(np.abs(_made(large[0], one.size_px, round(one.mpp / single.inputs[0].mpp)) - field[0]))  # type: ignore[operator]
    return [np.stack(kept) for kept in found]


def _made(large: NDArray[np.float32], size_px: tuple[int, int], factor: int) -> NDArray[np.float32]:
    """A field cut out of the large one, (h, w, 3)."""
    height, width = size_px
    top, left = (large.shape[0] - height * factor) // 2, (large.shape[1] - width * factor) // 2
    part = large[top : top + height * factor, left : left + width * factor]
    return part.reshape(height, factor, width, factor, 3).mean((1, 3))


def _cropped(model: Path, single: ModelSpec) -> Predictor:
    """The one graph without the zeros around its output."""
    predict = OnnxPredictor(model / FILES["fast"][0], single, available_cores(), ("CPUExecutionProvider",))
    down, across = single.provenance[PADDING]
    return lambda batch: predict(batch)[:, down : -down or None, across : -across or None]


def _probabilities(result: DenseResult) -> NDArray[np.float32]:
    planes = [result.store.plane(index).rows(0, result.store.rows) for index in range(1, result.store.planes)]
    return np.stack(planes, axis=-1).astype(np.float32)


def _fast(model: Path, path: Path, engine: str, single: ModelSpec, levels: DenseResult) -> float:
    """Part of the pixels that FAST labels alike, of those that it labels."""
    import tifffile

    with tempfile.TemporaryDirectory() as name:
        fpl = write_dense_fpl(model, "headless", engine, Path(name) / "headless.fpl")
        found: Any = tifffile.imread(run_headless(fpl, path, Path(name) / "mask.tiff").output, level=0)
    stride, side = fast_stride(single), single.inputs[0].size_px[0]
    rows, columns = (
        sum(stride for cell in range(0, length, stride) if length - cell >= (side - stride) // 2)
        for length in levels.labels.shape
    )
    return float(np.mean(found[:rows, :columns] == levels.labels[:rows, :columns]))


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except TfsegError as error:
        sys.exit(f"measure_fields: {error}")
