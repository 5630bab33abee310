"""The slides of the demo stay what they were: hashes taken before further stains and classes were added."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest

from tfseg.slides.synthetic import Recipe, synthetic_slide

# OpenCV rounds differently between versions and without AVX2; NumPy's choice of instructions makes no difference.
AVX2 = 10  # CV_CPU_AVX2, a name that Python does not get
SAME_OPENCV = cv2.__version__ == "5.0.0" and cv2.checkHardwareSupport(AVX2)


@pytest.mark.skipif(not SAME_OPENCV, reason="the hashes are of OpenCV 5.0.0 on a processor with AVX2")
@pytest.mark.parametrize(
    ("recipe", "picture", "labels"),
    [
        (Recipe(640, 0.5, 1, "A", "P", (5, 1)), "892934b7bd2ae0e1", "c5d31b7fd12ca78d"),
        (Recipe(640, 1.0, 2, "B", "Q", (5, 2)), "4b5cb7db00cdb6a4", "55eed9bffa439a90"),
        (Recipe(1100, 0.25, 3, "C", "R", (5, 3)), "61d5ec2046e2ef10", "2eada97cef738619"),
    ],
)
def test_known_recipes_give_the_pixels_they_always_gave(monkeypatch, recipe, picture, labels):
    drawn = []

    def keep(path, source, **_):
        drawn.append(hashlib.sha256(np.ascontiguousarray(source.tile(0, 0, *source.shape[:2]))).hexdigest()[:16])

    monkeypatch.setattr("tfseg.slides.synthetic.write_pyramid", keep)
    synthetic_slide("slide.tif", recipe, labels="labels.tif")
    assert drawn == [picture, labels]
