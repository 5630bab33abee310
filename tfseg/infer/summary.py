"""What summary.json says of a slide: which file, which networks, which versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import tfseg
from tfseg.infer.dense import DenseResult
from tfseg.infer.networks import Cascade, DenseModel, Network
from tfseg.infer.slide import Heatmap
from tfseg.slides.base import Slide
from tfseg.types import OutputError

_ENDS_BYTES = 2**20
_PACKAGES = (
    "numpy",
    "onnxruntime",
    "keras",
    "tensorflow",
    "openslide-python",
    "openslide-bin",
    "opencv-python-headless",
)


def slide_identity(slide: Slide) -> dict[str, Any]:
    """Tells one slide file from another: path, bytes, time of change, and a hash of its first and last MiB."""
    if slide.path is None:
        return {"path": None, "bytes": None, "modified": None, "sha256_ends": content_hash([slide.name, slide.size])}
    status = slide.path.stat()
    digest = hashlib.sha256()
    with slide.path.open("rb") as file:
        digest.update(file.read(_ENDS_BYTES))
        file.seek(max(0, status.st_size - _ENDS_BYTES))
        digest.update(file.read(_ENDS_BYTES))
    return {
        "path": str(slide.path),
        "bytes": status.st_size,
        "modified": status.st_mtime_ns,
        "sha256_ends": digest.hexdigest(),
    }


def content_hash(content: Any) -> str:
    """SHA-256 of JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe_slide(slide: Slide, name: str, identity: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        **identity,
        "size_px": list(slide.size),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "objective_power": slide.objective_power,
    }


def describe_cascade(cascade: Cascade) -> dict[str, Any]:
    return {
        "name": cascade.spec.name,
        "folder": str(cascade.folder) if cascade.folder is not None else None,
        "classifier": _describe_network(cascade.classifier),
        "refinement": _describe_network(cascade.refinement),
    }


def describe_dense(model: DenseModel) -> dict[str, Any]:
    return {
        "name": model.network.spec.name,
        "folder": str(model.folder) if model.folder is not None else None,
        "network": _describe_network(model.network),
    }


def _describe_network(network: Network | None) -> dict[str, Any] | None:
    if network is None:
        return None
    return {"name": network.spec.name, "architecture": network.spec.architecture, "sha256": network.identity}


def describe_grid(found: Heatmap | None) -> dict[str, Any] | None:
    """The patches; "sha256" is the same where the same patches were classified."""
    if found is None:
        return None
    return {
        "patch_px": found.grid.patch_px,
        "stride_px": found.grid.stride_px,
        "mpp": found.grid.mpp,
        "rows": found.grid.shape[0],
        "columns": found.grid.shape[1],
        "patches": int(found.classified.sum()),
        "resumed_patches": found.resumed,
        "sha256": hashlib.sha256(repr(found.grid).encode() + found.classified.tobytes()).hexdigest(),
    }


def describe_windows(found: DenseResult) -> dict[str, Any]:
    """The windows of a dense network; "sha256" is the same where the same windows were predicted."""
    grid = found.grid
    return {
        "output_px": list(grid.output_px),
        "stride_px": grid.stride_px,
        "mpp": grid.mpp,
        "rows": grid.shape[0],
        "columns": grid.shape[1],
        "windows": int(found.predicted.sum()),
        "resumed_windows": found.resumed,
        "sha256": hashlib.sha256(repr(grid).encode() + found.predicted.tobytes()).hexdigest(),
    }


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def earlier_summary(path: Path, key: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of an earlier run with this key whose files are all there; None where there is none.

    Raises:
        OutputError: the folder holds the results of another slide.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        slide, outputs = summary["slide"], summary["outputs"]
        other = slide["path"] != identity["path"] and slide["sha256_ends"] != identity["sha256_ends"]
        same = summary["key"] == key and all((path.parent / file).is_file() for file in outputs)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if other:
        raise OutputError(
            f"{path.parent} holds the results of another slide of that name ({slide['path']}). Choose another folder "
            "(--out), or overwrite them (--force)."
        )
    return summary if same else None


def versions() -> dict[str, str]:
    """Of tfseg, Python and the packages that decide about results."""
    found = {"tfseg": tfseg.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
