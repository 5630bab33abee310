"""What an installation holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_holds_every_package_and_the_trained_networks(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "tfseg", source / "tfseg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    network = source / "saved_models" / "some_network"
    network.mkdir(parents=True)
    for name in ("config.json", "model.onnx", "card.md", "headless.fpl"):
        (network / name).write_text(name)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(source)) for path in source.glob("tfseg/**/*.py")}
    assert held == modules | {f"tfseg/saved_models/some_network/{path.name}" for path in network.iterdir()}
