"""``tfseg export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from tfseg.export.fast import export_cascade
from tfseg.export.fast_dense import export_dense
from tfseg.export.onnx import export_onnx
from tfseg.infer.networks import is_dense
from tfseg.types import CascadeSpec


def export(
    model: Positional[Path],
    /,
    profile: Literal["default", "fast"] = "fast",
    engine: Literal["OpenVINO", "ONNXRuntime", "TensorRT"] = "OpenVINO",
) -> None:
    """Exports the networks of a cascade, or a single one, to ONNX and to FAST text pipelines.

    Args:
        model: model or cascade folder.
        profile: "default" writes model.onnx, for ONNX Runtime and `tfseg segment`; "fast" also writes
            model_fast.onnx, free of operators that FAST's OpenVINO gets wrong (a dense network as one graph that
            cuts its own fields), and the pipelines for FastPathology and for running without a screen.
        engine: of FAST, in the pipelines.
    """
    spec = CascadeSpec.load(model)
    if profile == "fast":
        written = export_dense(model, engine) if is_dense(model) else export_cascade(model, engine)
    else:
        written = [export_onnx(model / part) for part in (spec.classifier, spec.refinement) if part is not None]
    print(*written, sep="\n")
