"""The heatmap on the refinement network's pixels: the small network against tfseg's own lookup."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from tfseg.export.align import write_align
from tfseg.export.check_fast import check_fast
from tfseg.geometry import Grid
from tfseg.infer.slide import Heatmap, heatmap_to_field

STRIDE_PX, SIZE_PX = 64, (48, 100)


def ours(probability: np.ndarray, grid: Grid) -> np.ndarray:
    both = np.stack([1 - probability, probability], axis=-1)
    return heatmap_to_field(Heatmap(both, grid, np.ones(grid.shape, bool)), SIZE_PX)


def from_network(folder, probability: np.ndarray, level_size: tuple[int, int]) -> np.ndarray:
    path = write_align(folder / "align.onnx", STRIDE_PX, SIZE_PX)
    check_fast(path)
    feed = {
        "input_0_heatmap": probability[None, ..., None],
        "input_1_image": np.full((1, *reversed(level_size), 3), 200, np.float32),
        "input_2_picture": np.full((1, *SIZE_PX, 3), 200, np.float32),
    }
    return onnxruntime.InferenceSession(str(path)).run(None, feed)[0][0, ..., 0]


@pytest.mark.parametrize(
    "slide_size", [(2048, 1536), (1960, 1480), (20480, 1024), (4000, 6600), (704, 640), (144, 656)]
)
@pytest.mark.parametrize("level", [0, 1, 3])
def test_equals_tfseg_whatever_the_level(slide_size, level, tmp_path):
    grid = Grid(slide_size, 0.5, STRIDE_PX, STRIDE_PX, 1.0)
    probability = np.random.default_rng(0).random(grid.shape, np.float32)
    found = from_network(tmp_path, probability, (slide_size[0] >> level, slide_size[1] >> level))
    np.testing.assert_allclose(found, ours(probability, grid), atol=1e-5)


def test_stretches_where_the_pyramid_has_other_steps(tmp_path):
    """A third of the slide's size fits no power of two, so the heatmap covers the whole picture."""
    probability = np.random.default_rng(0).random((24, 32), np.float32)
    found = from_network(tmp_path, probability, (4096 // 3, 3072 // 3))
    grid = Grid((4096, 3072), 0.5, STRIDE_PX, STRIDE_PX, 1.0)
    np.testing.assert_allclose(found, ours(probability, grid), atol=1e-5)
