"""Exports a trained network to ONNX, or a cascade to ONNX and FAST text pipelines.

Usage: python tools/export_onnx.py FOLDER [--profile default|fast] [--out FILE] [--pictures IMAGE ...]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tfseg.types import TfsegError


@dataclass
class Options:
    """Exports a trained network to ONNX; ONNX Runtime is compared with Keras before the file is kept."""

    folder: Annotated[Path, tyro.conf.Positional]
    """A network (config.json, model.keras); or a cascade, which is exported with everything that FAST needs."""
    profile: Literal["default", "fast"] = "default"
    """"fast": for FAST and FastPathology. A cascade is always exported in both profiles."""
    out: Path | None = None
    """The ONNX file; beside the network by default."""
    pictures: tuple[Path, ...] = ()
    """Pictures on which Keras and ONNX Runtime are compared; a generated one by default."""
    engine: Literal["OpenVINO", "ONNXRuntime", "TensorRT"] = "OpenVINO"
    """FAST's engine in the text pipelines of a cascade."""


def main(options: Options) -> None:
    from tfseg.export.fast import export_cascade
    from tfseg.export.onnx import export_onnx
    from tfseg.types import read_config

    if read_config(options.folder / "config.json").get("format") == "tfseg-cascade":
        paths = export_cascade(options.folder, options.engine)
    else:
        paths = [export_onnx(options.folder, options.profile, options.out, [_picture(p) for p in options.pictures])]
    for path in paths:
        print(path)


def _picture(path: Path):
    import cv2

    image = cv2.imread(str(path))
    if image is None:
        raise TfsegError(f"{path}: no picture that OpenCV can read.")
    return image[..., ::-1].copy()


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except TfsegError as error:
        sys.exit(f"error: {error}")
