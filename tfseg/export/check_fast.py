"""Refuses ONNX files that FAST would compute wrongly, or would crash on.

pyFAST 4.18 brings OpenVINO 2022.3, which reads newer files without complaint and computes some operators wrongly; the
rules below are what was measured against ONNX Runtime. FAST's own conventions (ports by name, layout by size) come on
top. FAST's ONNX Runtime engine has no trouble with the operators, but a user does not always choose the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from tfseg.types import ExportError

NEWEST_OPSET = 17
"""Opset 18 moved the axes of the Reduce operators from attributes to inputs, which OpenVINO 2022.3 overlooks."""

REFUSED_OPERATORS = {
    "MaxUnpool": "OpenVINO 2022.3 does not know it. Upsample and mask, or scatter",
    "Gelu": "OpenVINO 2022.3 does not know it. Write it with Erf or Tanh",
    "GroupNormalization": "OpenVINO 2022.3 does not know it. Write it with InstanceNormalization",
    "LayerNormalization": "it crashes OpenVINO 2022.3. Write it with ReduceMean at opset 17 or below",
    "QuantizeLinear": "OpenVINO 2022.3 computes quantised networks wrongly. Export in float32",
    "DequantizeLinear": "OpenVINO 2022.3 computes quantised networks wrongly. Export in float32",
}
"""Operator → why FAST cannot have it, and what would help."""

AXES_BECAME_INPUT = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)
"""Operators whose axes are an input from opset 18 on; OpenVINO 2022.3 then reduces over all axes."""

_SHOWN = 5
_LARGEST_CHANNELS = 4


def check_fast(path: str | Path) -> None:
    """Checks a network for FAST's engines.

    Args:
        path: an ONNX file.

    Raises:
        ExportError: unreadable, or FAST would compute it wrongly; names each node with the reason.
    """
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, checker and file errors share no base class
        raise ExportError(f"{path}: not an ONNX network. {error}") from error
    problems = [*_node_problems(model), *_opset_problems(model), *_port_problems(model)]
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "\n  ".join(problems[:_SHOWN])
        raise ExportError(
            f"{path}: FAST would not run this network faithfully.\n  {shown}{more}\n"
            'Export it with the "fast" profile (opset 13, explicit pads, names in port order).'
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


def _node_problems(model: onnx.ModelProto) -> Iterator[str]:
    for node in _nodes(model.graph):
        where = f"node {node.name or '(no name, makes ' + ', '.join(node.output) + ')'} ({node.op_type})"
        if node.domain not in ("", "ai.onnx"):
            yield f"{where}: an operator of {node.domain}, not of ONNX."
        elif node.op_type in REFUSED_OPERATORS:
            yield f"{where}: {REFUSED_OPERATORS[node.op_type]}."
        elif node.op_type in AXES_BECAME_INPUT and len(node.input) > 1:
            yield f"{where}: axes given as input (opset 18 and above), which OpenVINO 2022.3 takes as all axes."
        elif node.op_type == "ConvTranspose":
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if given.get("output_shape"):
                yield f"{where}: output_shape, which OpenVINO 2022.3 computes wrongly. Use explicit pads."
            if given.get("auto_pad", b"NOTSET") != b"NOTSET":
                yield f"{where}: auto_pad, which OpenVINO 2022.3 computes wrongly. Use explicit pads."


def _opset_problems(model: onnx.ModelProto) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > NEWEST_OPSET:
            yield f"opset {opset.version}: at most {NEWEST_OPSET} is safe in OpenVINO 2022.3."


def _port_problems(model: onnx.ModelProto) -> Iterator[str]:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for kind, values in (("input", inputs), ("output", list(model.graph.output))):
        names = [value.name for value in values]
        if names != sorted(names):
            yield (
                f"{kind}s {', '.join(names)}: FAST numbers its ports by the alphabet ({', '.join(sorted(names))}). "
                f"Name them {kind}_0_…, {kind}_1_…."
            )
        for value in values:
            tensor = value.type.tensor_type
            if tensor.elem_type != onnx.TensorProto.FLOAT:
                what = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
                yield f"{kind} {value.name}: {what}, but FAST's tensors are float32."
    for value in inputs:
        yield from _layout_problems(value)


def _layout_problems(value: onnx.ValueInfoProto) -> Iterator[str]:
    """FAST takes the last axis for the channels if it has at most 4, else the second."""
    sizes = [axis.dim_value if axis.HasField("dim_value") else 0 for axis in value.type.tensor_type.shape.dim]
    if len(sizes) != 4 or 0 < sizes[3] <= _LARGEST_CHANNELS:
        return
    if not 0 < sizes[1] <= _LARGEST_CHANNELS:
        yield f"input {value.name}: neither the last axis (NHWC) nor the second (NCHW) has 1 to 4 channels: no layout."
    elif not (sizes[2] and sizes[3]):
        yield f"input {value.name}: NCHW with open height or width, which FAST misreads. Use NHWC or a fixed size."
