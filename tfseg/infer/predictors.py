"""From a model folder to a callable that takes batches and gives probabilities; the rest of inference knows no more.

A :data:`Predictor` takes one batch per input, in the order of the :class:`tfseg.types.ModelSpec`, uint8 or float32:
images (B, H, W, 3) in 0..255, heatmaps (B, H, W, 1) in 0..1. It returns float32 probabilities, (B, C) or (B, H, W, C).
It may have an attribute ``parallel``: how many threads should call it at once; without one, it is called by one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tfseg.types import ModelError, ModelSpec, one_of

Predictor = Callable[..., NDArray[np.float32]]
Engine = Literal["onnxruntime", "keras"]
ENGINES = ("onnxruntime", "keras")
ONNX_FILE, FAST_ONNX_FILE, KERAS_FILE = "model.onnx", "model_fast.onnx", "model.keras"


def load_predictor(
    folder: str | Path, engine: Engine = "onnxruntime", threads: int | None = None
) -> tuple[Predictor, ModelSpec]:
    """The network of a model folder and its spec.

    Args:
        folder: holds config.json and model.onnx (or model.keras).
        engine: "onnxruntime" or "keras".
        threads: processor threads of ONNX Runtime; None takes all that this process may use.

    Raises:
        ModelError: a file is missing or unreadable, the network is not the one of the spec, or unknown engine.
    """
    spec = ModelSpec.load(folder)
    if one_of("engine", engine, ENGINES) == "keras":
        return keras_predictor(folder), spec
    return onnx_predictor(folder, threads), spec


def onnx_predictor(
    folder_or_file: str | Path, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> OnnxPredictor:
    """ONNX Runtime on ``model.onnx`` of a model folder, or on an ONNX file beside a config.json.

    Args:
        folder_or_file: the folder or the file.
        threads: processor threads; None takes all that this process may use.
        providers: of ONNX Runtime, by preference.

    Raises:
        ModelError: a file is missing or unreadable, or the network's inputs or classes are not those of the spec.
    """
    path = Path(folder_or_file)
    if path.suffix != ".onnx":
        path = onnx_file(path)
    spec = ModelSpec.load(path.parent)
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Write it with `tfseg export {path.parent}`, or use engine keras.")
    return OnnxPredictor(path, spec, threads or available_cores(), providers)


def onnx_file(folder: str | Path) -> Path:
    """model.onnx of a folder; where there is none, what was exported for FAST: of one input it is the same network."""
    usual, fast = Path(folder) / ONNX_FILE, Path(folder) / FAST_ONNX_FILE
    return fast if fast.is_file() and not usual.is_file() else usual


class OnnxPredictor:
    """A network in ONNX Runtime; may be called from many threads.

    Attributes:
        parallel: threads that should call it. A patch classifier runs on one core per call and as many calls at once
            as there are cores: small batches in step with one core's cache, and no core waits for another within a
            layer. A network on whole slides runs on all cores in one call.
    """

    def __init__(self, path: Path, spec: ModelSpec, threads: int, providers: Sequence[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.parallel = threads if spec.task == "classification" else 1
        options.intra_op_num_threads = max(1, threads // self.parallel)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise ModelError(f"{path}: not a network that ONNX Runtime can load. {error}") from error
        self._path = path
        self._inputs = _match_inputs(path, spec, self._session.get_inputs())
        self._output = _match_output(path, spec, self._session.get_outputs())

    def __call__(self, *batches: NDArray[Any]) -> NDArray[np.float32]:
        return self._run([self._output], batches)[0]

    def every_output(self, *batches: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """All outputs by name, as :func:`tfseg.infer.mask_rcnn.predict_instances` wants them."""
        names = [node.name for node in self._session.get_outputs()]
        return dict(zip(names, self._run(names, batches), strict=True))

    def _run(self, names: list[str], batches: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        feed = {name: np.asarray(batch, np.float32) for name, batch in zip(self._inputs, batches, strict=True)}
        try:
            return [np.asarray(found, np.float32) for found in self._session.run(names, feed)]
        except Exception as error:
            shapes = ", ".join(f"{name} {batch.shape}" for name, batch in feed.items())
            raise ModelError(f"{self._path}: ONNX Runtime failed on {shapes}. {error}") from error


def _match_inputs(path: Path, spec: ModelSpec, found: Sequence[Any]) -> list[str]:
    """The ONNX inputs in the order of the spec: by name, or, where the export renamed them for FAST, alphabetically."""
    shapes = {node.name: node.shape for node in found}
    names = [wanted.name for wanted in spec.inputs]
    if set(names) != set(shapes):
        names = sorted(shapes)
    wanted_shapes = [(None, *wanted.size_px, wanted.channels) for wanted in spec.inputs]
    if len(names) != len(wanted_shapes) or not all(
        _fits(shapes[name], shape) for name, shape in zip(names, wanted_shapes, strict=False)
    ):
        wants = {wanted.name: wanted_shapes[i][1:] for i, wanted in enumerate(spec.inputs)}
        has = {name: tuple(shape[1:]) for name, shape in shapes.items()}
        raise ModelError(
            f"{path}: the network's inputs {has} are not those of config.json {wants} (H, W, channels). "
            f"They do not belong together: run `tfseg export {path.parent}` again."
        )
    return names


def _match_output(path: Path, spec: ModelSpec, found: Sequence[Any]) -> str:
    """The output that the spec names first; where the export renamed them for FAST, the alphabetically first."""
    shapes = {node.name: node.shape for node in found}
    name = spec.outputs[0] if spec.outputs[0] in shapes else min(shapes)
    rank = {"classification": 2, "instances": 3}.get(spec.task, 4)
    shape = shapes[name]
    if len(shape) != rank or not _fits(shape[-1:], (len(spec.classes),)):
        raise ModelError(
            f"{path}: output {name} has shape {shape}; config.json says {spec.task} into {len(spec.classes)} classes. "
            f"They do not belong together: run `tfseg export {path.parent}` again."
        )
    return name


def _fits(shape: Sequence[Any], wanted: Sequence[int | None]) -> bool:
    """Whether two shapes agree where both are known; ONNX names unknown sides with text."""
    return len(shape) == len(wanted) and all(
        side == size for side, size in zip(shape, wanted, strict=True) if isinstance(side, int) and size is not None
    )


def keras_predictor(folder: str | Path) -> KerasPredictor:
    """Keras on ``model.keras`` of a model folder.

    Networks with layers of tfseg's own (Mask R-CNN) want ``tfseg.models`` imported before, which registers them.

    Raises:
        ModelError: a file is missing or unreadable, or the network's inputs are not those of the spec.
    """
    folder = Path(folder)
    spec, path = ModelSpec.load(folder), folder / KERAS_FILE
    if not path.is_file():
        raise ModelError(f"{path}: no such file. `tfseg train` writes it; model.onnx runs with engine onnxruntime.")
    import keras

    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # zipfile, h5py and Keras each raise their own
        raise ModelError(f"{path}: not a Keras network that can be loaded. {error}") from error
    has = {name: tuple(tensor.shape[1:]) for name, tensor in model.input.items()}
    wants = {wanted.name: (*wanted.size_px, wanted.channels) for wanted in spec.inputs}
    if has != wants:
        raise ModelError(f"{path}: the network's inputs {has} are not those of config.json {wants} (H, W, channels).")
    return KerasPredictor(model, spec)


class KerasPredictor:
    """A network in Keras. It takes one call at a time, whichever thread it comes from."""

    def __init__(self, model: Any, spec: ModelSpec) -> None:
        self._model, self._spec, self._lock = model, spec, threading.Lock()

    def __call__(self, *batches: NDArray[Any]) -> NDArray[np.float32]:
        return self.every_output(*batches)[self._spec.outputs[0]]

    def every_output(self, *batches: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """All outputs by name, as :func:`tfseg.infer.mask_rcnn.predict_instances` wants them."""
        names = [wanted.name for wanted in self._spec.inputs]
        feed = {name: np.asarray(batch, np.float32) for name, batch in zip(names, batches, strict=True)}
        with self._lock:
            found = self._model.predict_on_batch(feed)
        return {name: np.asarray(values, np.float32) for name, values in found.items()}


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
