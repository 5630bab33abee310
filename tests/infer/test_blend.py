"""Sums of overlapping windows: what moves on to the next row of windows, and what that costs.

How windows are weighted is in test_dense.py.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tfseg.infer.blend import Blend
from tfseg.infer.windows import DenseGrid


def blend(output_px: int, stride_px: int, width: int = 20) -> Blend:
    found = Blend(DenseGrid((width, 100), 1.0, (output_px, output_px), stride_px, 1.0), 3)
    random = np.random.default_rng(0)
    found.sums[...], found.total[...] = random.random(found.sums.shape), random.random(found.total.shape)
    return found


@pytest.mark.parametrize("stride_px", [1, 3, 4, 8, 11, 16])
def test_advancing_drops_the_first_rows_and_begins_new_ones(stride_px):
    found = blend(16, stride_px)
    sums, total = found.sums.copy(), found.total.copy()
    found.advance()
    for now, before in ((found.sums, sums), (found.total, total)):
        np.testing.assert_array_equal(now[: 16 - stride_px], before[stride_px:])
        assert (now[16 - stride_px :] == 0).all()


@pytest.mark.parametrize("stride_px", [16, 24, 48])
def test_advancing_needs_no_second_copy(stride_px):
    """Of 64 rows, 48, 40 or 16 stay."""
    found = blend(64, stride_px, width=2000)
    tracemalloc.start()
    found.advance()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < found.sums.nbytes / 64
