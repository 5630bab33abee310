from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "keras", "openslide", "cv2", "pandas", "matplotlib", "onnxruntime", "segmentation_models")


@pytest.mark.parametrize(
    "module", ["tfseg", "tfseg.types", "tfseg.geometry", "tfseg.cli", "tfseg.slides", "tfseg.metrics"]
)
def test_light_modules_load_nothing_heavy(module):
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    if module == "tfseg.slides":
        loaded = [m for m in loaded if m in ("tensorflow", "keras", "openslide", "matplotlib", "onnxruntime")]
    assert loaded == []
