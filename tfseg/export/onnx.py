"""Keras network → ONNX, compared with Keras before it is kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

from tfseg.export.check_fast import check_fast
from tfseg.export.gate import TissueGate, with_gate
from tfseg.export.one_input import with_one_input
from tfseg.export.pads import explicit_pads
from tfseg.export.parity import compare
from tfseg.files import atomic_path, write_json
from tfseg.models import build, load
from tfseg.models.blocks import float32_policy
from tfseg.types import ExportError, ModelSpec

OPSETS = {"default": 17, "fast": 13}
"""Profile → ONNX opset. FAST's OpenVINO 2022.3 is safe up to 17; 13 is what its authors' own models use."""

FILES = {"default": ("model.onnx", "config.json"), "fast": ("model_fast.onnx", "model_fast.json")}
"""Profile → names of the network and of its ModelSpec. The fast profile has names of its own for inputs and outputs."""

_SOURCE = "tfseg_source"


def export_onnx(
    folder: str | Path,
    profile: str = "default",
    out: str | Path | None = None,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    heads: bool | None = None,
    gate: TissueGate | None = None,
) -> Path:
    """Writes a trained network as ONNX, with its ModelSpec beside it.

    Inputs and outputs are float32, NHWC, of fixed height and width and any batch size, softmax inside. A network
    trained in mixed precision is exported in float32. Before the file gets its name, ONNX Runtime's probabilities are
    compared with those of Keras.

    Args:
        folder: model.keras and config.json, as ``tfseg.models.save`` writes them.
        profile: "default": opset 17, names of the spec, all outputs. "fast": for FAST and FastPathology: opset 13,
            explicit pads, inputs ``input_0_image``, ``input_1_heatmap`` and outputs ``output_0_segmentation``, … so
            that the alphabet (by which FAST numbers its ports) is the order, the main output only. A dense network
            becomes one graph on a single large field (:func:`tfseg.export.one_input.with_one_input`).
        out: the ONNX file; ``folder``/model.onnx or ``folder``/model_fast.onnx by default.
        pictures: real pictures, uint8 (h, w, 3) of any size, on which to compare; a generated H&E-like one by default.
        heads: whether to write the deep-supervision outputs too; the profile's way by default.
        gate: of a classifier: the tissue test to build into the network (the fast profile of a cascade has one).

    A file that was exported from the same weights and settings is left as it is: conversion names nodes differently
    every time, and what was computed with the file is recognised by its bytes.

    Returns:
        Path of the ONNX file. The spec is config.json (default) or model_fast.json (fast) in the same folder.

    Raises:
        ModelError: the folder holds no network.
        ExportError: the network cannot be converted, FAST could not run it (nor any Mask R-CNN), or probabilities
            differ by more than 1e-4 (detections: see :mod:`tfseg.export.parity`).
    """
    if profile not in OPSETS:
        raise ExportError(f"profile: unknown {profile!r}. Known: {', '.join(OPSETS)}.")
    folder = Path(folder)
    if profile == "fast" and ModelSpec.load(folder).task == "instances":
        raise ExportError(
            f"{folder}: FAST has no step that draws the boxes and masks of a network of instances. Export it with "
            "--profile default, for ONNX Runtime and tfseg.infer.mask_rcnn."
        )
    model, spec = load(folder)
    model = in_float32(model, spec)
    if gate is not None:
        model = with_gate(model, spec, gate)
        spec = replace(spec, provenance={**spec.provenance, "tissue_gate": asdict(gate)})
    if profile == "fast" and spec.dense:
        model, spec = with_one_input(model, spec)
    keep_heads = profile == "default" if heads is None else heads
    keras_names = spec.outputs if keep_heads else spec.outputs[:1]
    named = fast_names(replace(spec, outputs=keras_names)) if profile == "fast" else replace(spec, outputs=keras_names)
    file_name, spec_name = FILES[profile]
    target = folder / file_name if out is None else Path(out)
    source = _fingerprint(model, named, OPSETS[profile])
    if pictures is None and _source(target) == source and (target.parent / spec_name).is_file():
        return target
    network = convert(model, spec, keras_names, named, OPSETS[profile])
    network.metadata_props.add(key=_SOURCE, value=source)
    with atomic_path(target) as temporary:
        onnx.save(network, str(temporary))
        if profile == "fast":
            check_fast(temporary)
        compare(model, temporary, spec, keras_names, pictures or [he_picture(512, 512)], target)
    if not (keep_heads and target.parent.resolve() == folder.resolve() and profile == "default"):
        write_json(target.parent / spec_name, named.to_dict())
    return target


def _fingerprint(model: keras.Model, named: ModelSpec, opset: int) -> str:
    """Hash of all that decides what an exported network computes and how it is called."""
    content = replace(named, provenance={"tissue_gate": named.provenance.get("tissue_gate")}).to_dict()
    digest = hashlib.sha256(json.dumps([content, opset], sort_keys=True, default=list).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _source(path: Path) -> str | None:
    """The fingerprint that an exported file carries; None where there is no file, or none of ours."""
    if not path.is_file():
        return None
    try:
        properties = onnx.load(str(path), load_external_data=False).metadata_props
    except Exception:  # protobuf's errors have no common class; a damaged file is exported anew
        return None
    return next((one.value for one in properties if one.key == _SOURCE), None)


def in_float32(model: keras.Model, spec: ModelSpec) -> keras.Model:
    """The same network and weights, computing in float32 throughout; ``model`` itself where it does already."""
    if all(layer.compute_dtype == "float32" for layer in model.layers):
        return model
    with float32_policy():
        clean = build(spec)
    clean.set_weights(model.get_weights())
    return clean


def fast_names(spec: ModelSpec) -> ModelSpec:
    """The spec with names whose alphabetical order is their order: ``input_0_image``, ``output_0_segmentation``, …"""
    digits = len(str(max(len(spec.inputs), len(spec.outputs)) - 1))
    inputs = tuple(replace(one, name=f"input_{n:0{digits}}_{one.name}") for n, one in enumerate(spec.inputs))
    return replace(spec, inputs=inputs, outputs=tuple(f"output_{n:0{digits}}_{o}" for n, o in enumerate(spec.outputs)))


def convert(
    model: keras.Model, spec: ModelSpec, keras_outputs: Sequence[str], named: ModelSpec, opset: int
) -> onnx.ModelProto:
    """Keras → frozen graph → ONNX with the names of ``named``.

    The variables are frozen into constants first: tf2onnx would otherwise make inputs of some of them (the
    normalisation layers of ``keras.applications``).

    Args:
        model: takes a dict of inputs, returns a dict of outputs.
        spec: of the model.
        keras_outputs: the outputs to keep, in order.
        named: its inputs and outputs give the ONNX names, in the same order.
        opset: of the ONNX file.

    Raises:
        ExportError: tf2onnx cannot convert it.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    names = [one.name for one in spec.inputs]
    signature = [tf.TensorSpec((None, *one.size_px, one.channels), tf.float32, name=one.name) for one in spec.inputs]

    @tf.function(input_signature=signature)
    def forward(*tensors: tf.Tensor) -> list[tf.Tensor]:
        result = model(dict(zip(names, tensors, strict=True)), training=False)
        return [result[output] for output in keras_outputs]

    frozen = convert_variables_to_constants_v2(forward.get_concrete_function(), lower_control_flow=False)
    # Nested functions of the same tensor would share one name, so order, not name, tells the outputs apart.
    inputs, outputs = [t.name for t in frozen.inputs], [t.name for t in frozen.outputs]
    try:
        network = _to_onnx(frozen.graph.as_graph_def(), inputs, outputs, opset)
    except Exception as error:  # tf2onnx raises whatever it stumbles over
        raise ExportError(
            f"{spec.name}: tf2onnx cannot convert {spec.architecture} at opset {opset}. {error}"
        ) from error
    network = explicit_pads(network)
    renamed = dict(zip([*inputs, *outputs], [*(i.name for i in named.inputs), *named.outputs], strict=True))
    _rename(network.graph, renamed)
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return network


def _to_onnx(graph_def: Any, inputs: list[str], outputs: list[str], opset: int) -> onnx.ModelProto:
    """What ``tf2onnx.convert.from_graph_def`` does, in half the memory: 9 GB for GB U-Net instead of 20.

    tf2onnx would freeze the graph once more, copy it before each of its optimisers, and write the weights into the
    nodes' protocol buffers after each, where the copies before them are never freed. ``make_model`` writes them once.
    """
    import tensorflow as tf
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with tf.Graph().as_default():
        graph_def = tf2onnx.tf_loader.tf_optimize(inputs, outputs, graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        converted = tf2onnx.tfonnx.process_tf_graph(graph, opset=opset, input_names=inputs, output_names=outputs)
        with mock.patch.object(tf2onnx.graph.Graph, "update_proto"):
            converted = tf2onnx.optimizer.optimize_graph(converted, catch_errors=False)
        return converted.make_model("tfseg")


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Renames tensors; keeps inputs and outputs in the order of ``names``."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    order = list(names.values())
    for values in (graph.input, graph.output):
        for value in values:
            value.name = names.get(value.name, value.name)
        ordered = sorted(values, key=lambda value: order.index(value.name))
        del values[:]
        values.extend(ordered)
    del graph.value_info[:]


def he_picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture in the colours of haematoxylin and eosin: dark round nuclei on pink, glass in one corner.

    Returns:
        uint8 (height, width, 3).
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.array([225.0, 165.0, 195.0]) + 15 * np.sin(x / 23)[..., None] + random.normal(0, 6, (height, width, 1))
    for _ in range(height * width // 1500):
        centre, radius = random.uniform((0, 0), (height, width)), random.uniform(4, 9)
        near = tuple(slice(max(0, int(c - radius)), int(c + radius) + 2) for c in centre)
        inside = (y[near] - centre[0]) ** 2 + (x[near] - centre[1]) ** 2 < radius**2
        image[near][inside] = np.array([95, 60, 140]) + random.normal(0, 8, 3)
    image[x + y < min(height, width) // 3] = 243
    return image.clip(0, 255).astype(np.uint8)
