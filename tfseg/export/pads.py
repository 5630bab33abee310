"""Transposed convolutions of ONNX in the one form that every engine computes alike."""

from __future__ import annotations

import onnx
from onnx import helper, shape_inference

from tfseg.types import ExportError


def explicit_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrites ``output_shape`` and ``auto_pad`` of every ConvTranspose into ``pads`` and ``output_padding``.

    By the ONNX specification, per axis with input size I, stride s, kernel k, dilation d and output size O:
    total = s (I − 1) + output_padding + d (k − 1) + 1 − O, of which SAME_UPPER puts the smaller half in front, every
    other mode the larger. A negative total becomes output padding. OpenVINO 2022.3 ignores part of this, silently.

    Args:
        model: is not changed.

    Returns:
        A model without ``output_shape`` and ``auto_pad``; the same one where there is nothing to rewrite.

    Raises:
        ExportError: the spatial size of such a node's input is not known before the network runs.
    """
    if not any(_is_implicit(node) for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = shape_inference.infer_shapes(result).graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes.update({tensor.name: list(tensor.dims) for tensor in graph.initializer})
    for node in result.graph.node:
        if _is_implicit(node):
            _rewrite(node, shapes)
    return result


def _attributes(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _is_implicit(node: onnx.NodeProto) -> bool:
    if node.op_type != "ConvTranspose":
        return False
    given = _attributes(node)
    return bool(given.get("output_shape")) or given.get("auto_pad", b"NOTSET") != b"NOTSET"


def _rewrite(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> None:
    given = _attributes(node)
    kernel = list(given.get("kernel_shape") or shapes[node.input[1]][2:])
    sizes = shapes.get(node.input[0], [])[2:]
    if len(sizes) != len(kernel) or not all(sizes):
        raise ExportError(
            f"node {node.name} (ConvTranspose): its input's height and width are not fixed, so its padding cannot be "
            "made explicit. Give the network fixed input sizes."
        )
    mode = given.get("auto_pad", b"NOTSET")
    ones, zeros = [1] * len(kernel), [0] * len(kernel)
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    extra = list(given.get("output_padding", zeros))
    begin, end = list(zeros), list(zeros)
    if mode != b"VALID" or given.get("output_shape"):
        outputs = list(given.get("output_shape") or [n * s for n, s in zip(sizes, strides, strict=True)])[
            -len(kernel) :
        ]
        for axis, size in enumerate(sizes):
            full = strides[axis] * (size - 1) + extra[axis] + dilations[axis] * (kernel[axis] - 1) + 1
            total = full - outputs[axis]
            extra[axis] += max(0, -total)
            half = max(0, total) // 2
            begin[axis], end[axis] = (
                (half, max(0, total) - half) if mode == b"SAME_UPPER" else (max(0, total) - half, half)
            )
    for name in ("output_shape", "auto_pad", "pads", "output_padding"):
        for attribute in [a for a in node.attribute if a.name == name]:
            node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute("pads", [*begin, *end]))
    if any(extra):
        node.attribute.append(helper.make_attribute("output_padding", extra))
