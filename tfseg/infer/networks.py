"""Model folders as loaded: the networks of a cascade, checked against each other, or a dense network.

And the refinement of a slide (H2G-Net, 2.5).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.dense_options import DenseOptions
from tfseg.infer.predictors import KERAS_FILE, Engine, Predictor, load_predictor, onnx_file
from tfseg.infer.slide import Heatmap, check_classifier, heatmap_to_field
from tfseg.infer.windows import check_dense
from tfseg.types import H2G_CLASSES, CascadeSpec, ClassSpec, ModelError, ModelSpec, read_config


@dataclass(frozen=True)
class Network:
    """A loaded network: the callable, its spec, and a hash that changes with either."""

    predict: Predictor
    spec: ModelSpec
    identity: str


@dataclass(frozen=True)
class Cascade:
    """A loaded cascade.

    Attributes:
        spec: its config.json.
        classifier, refinement: its networks; None where it has none.
        folder: where it comes from, for the record.

    Raises:
        ModelError: networks that do not make a cascade.
    """

    spec: CascadeSpec
    classifier: Network | None = None
    refinement: Network | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.classifier is not None:
            check_classifier(self.classifier.spec)
        if self.refinement is not None:
            _check_refinement(self.refinement.spec, self.classifier is not None)

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """Of the mask."""
        last = self.refinement or self.classifier
        return last.spec.classes if last is not None else H2G_CLASSES

    @property
    def identity(self) -> str:
        """Changes with the networks and with the settings."""
        networks = [network and network.identity for network in (self.classifier, self.refinement)]
        spec = {**self.spec.to_dict(), "provenance": None}
        return hashlib.sha256(json.dumps([networks, spec], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class DenseModel:
    """A loaded dense network.

    Attributes:
        network: it.
        folder: where it comes from, for the record.

    Raises:
        ModelError: not a dense network.
    """

    network: Network
    folder: Path | None = None

    def __post_init__(self) -> None:
        check_dense(self.network.spec)

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """Of the mask."""
        return self.network.spec.classes

    @property
    def identity(self) -> str:
        """Changes with the network."""
        return self.network.identity

    def settings(self, options: DenseOptions) -> dict[str, Any]:
        """What decides about the results, for the summary."""
        return {"dense": asdict(options)}


def is_dense(folder: str | Path) -> bool:
    """Whether a model folder holds a dense network. Raises ModelError where it holds no model."""
    content = read_config(Path(folder) / "config.json")
    return content.get("format") == "tfseg-model" and ModelSpec.load(folder).dense


def load_model(folder: str | Path, engine: Engine = "onnxruntime", threads: int | None = None) -> Cascade | DenseModel:
    """Loads what a folder holds: a dense network, or a cascade.

    Raises:
        ModelError: config.json or a network is missing, or they do not fit together.
    """
    folder = Path(folder)
    if is_dense(folder):
        return DenseModel(load_network(folder, engine, threads), folder)
    return load_cascade(folder, engine, threads)


def load_cascade(folder: str | Path, engine: Engine = "onnxruntime", threads: int | None = None) -> Cascade:
    """Loads the networks of a cascade's folder, or of a folder of a single network.

    Raises:
        ModelError: config.json or a network is missing, or they do not fit together.
    """
    folder = Path(folder)
    spec = CascadeSpec.load(folder)

    def network(part: str | None) -> Network | None:
        return None if part is None else load_network(folder / part, engine, threads)

    return Cascade(spec, network(spec.classifier), network(spec.refinement), folder)


def load_network(folder: Path, engine: Engine = "onnxruntime", threads: int | None = None) -> Network:
    """The network of a model folder. Raises ModelError."""
    predict, spec = load_predictor(folder, engine, threads)
    file = onnx_file(folder) if engine == "onnxruntime" else folder / KERAS_FILE
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    digest.update(file.read_bytes())
    return Network(predict, spec, digest.hexdigest())


def _check_refinement(spec: ModelSpec, has_heatmap: bool) -> None:
    kinds = [i.kind for i in spec.inputs]
    if spec.task != "segmentation" or kinds.count("image") != 1 or any(i.mpp is not None for i in spec.inputs):
        raise ModelError(
            f"{spec.name}: not a network on whole slides. Expected task segmentation and inputs without mpp, one of "
            f"them an image. Received: task {spec.task}, inputs {[asdict(i) for i in spec.inputs]}."
            + (" It finds instances: add --nuclei." if spec.task == "instances" else "")
        )
    if "heatmap" in kinds and not has_heatmap:
        raise ModelError(
            f"{spec.name}: takes a heatmap, but there is no classifier to make it. Give the cascade's folder, which "
            "holds both (`classifier` in its config.json), not the refinement network alone."
        )


def refine(network: Network, image: NDArray[np.uint8], found: Heatmap | None) -> NDArray[np.float32]:
    """Class probabilities of a whole slide by the refinement network.

    Args:
        network: on one image and at most one heatmap.
        image: the slide resized to its image input.
        found: the slide's heatmap; needed where the network takes one.

    Returns:
        float32 (h, w, C).

    Raises:
        ModelError: the network returns something else than finite numbers of that shape.
    """
    batches: list[NDArray[Any]] = []
    for wanted in network.spec.inputs:
        if wanted.kind == "image":
            batches.append(image[None])
        else:
            assert found is not None
            batches.append(heatmap_to_field(found, wanted.size_px)[None, ..., None])
    result = np.asarray(network.predict(*batches), np.float32)
    num_classes = len(network.spec.classes)
    if result.ndim != 4 or result.shape[0] != 1 or result.shape[3] != num_classes or not np.isfinite(result).all():
        raise ModelError(
            f"{network.spec.name}: returned shape {result.shape} or values that are no numbers; expected finite "
            f"(1, H, W, {num_classes}). Is config.json the one of this network? Did its training diverge?"
        )
    return result[0]
