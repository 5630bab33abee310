"""Each rule of the checker on a network of one node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tfseg.export.check_fast import check_fast
from tfseg.types import ExportError

F, NHWC = TensorProto.FLOAT, ("b", 8, 8, 3)


def value(name: str, shape=NHWC, kind: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def network(folder: Path, nodes, inputs, outputs, constants=(), opset: int = 13) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(folder / "tiny.onnx"))
    return folder / "tiny.onnx"


def one(operator: str, *more: str, outputs: int = 1, **attributes) -> onnx.NodeProto:
    return helper.make_node(operator, ["x", *more], ["y", "z"][:outputs], name="culprit", **attributes)


WEIGHTS = {"w": np.zeros((3, 3, 3, 3), np.float32)}
NCHW = ("b", 3, 8, 8)
OPEN = ("b", "?", "?", "?")
SCALE = {"s": np.float32(1), "b": np.zeros(3, np.float32), "g": np.ones(3, np.float32)}

REFUSED_NODES = {
    "mean with axes as input": (one("ReduceMean", "a"), {"a": np.array([1])}, 18, "all axes"),
    "max with axes as input": (one("ReduceMax", "a"), {"a": np.array([1])}, 18, "all axes"),
    "output_shape": (one("ConvTranspose", "w", output_shape=[16, 16], strides=[2, 2]), WEIGHTS, 13, "output_shape"),
    "auto_pad": (one("ConvTranspose", "w", auto_pad="SAME_UPPER", strides=[2, 2]), WEIGHTS, 13, "auto_pad"),
    "unpooling": (
        one("MaxUnpool", "i", kernel_shape=[2, 2], strides=[2, 2]),
        {"i": np.zeros((1, 3, 8, 8), np.int64)},
        13,
        "does not know",
    ),
    "gelu": (one("Gelu"), {}, 20, "does not know"),
    "group norm": (one("GroupNormalization", "g", "b", num_groups=3), SCALE, 21, "does not know"),
    "layer norm": (one("LayerNormalization", "g"), {"g": np.ones(8, np.float32)}, 17, "crashes"),
    "quantise": (one("QuantizeLinear", "s"), SCALE, 13, "wrongly"),
}


@pytest.mark.parametrize("case", REFUSED_NODES)
def test_refuses_operators_naming_the_node(case, tmp_path):
    node, constants, opset, reason = REFUSED_NODES[case]
    kind = TensorProto.UINT8 if node.op_type == "QuantizeLinear" else F
    constants = {name: array for name, array in constants.items() if name in node.input}
    path = network(tmp_path, [node], [value("x", NCHW)], [value("y", OPEN, kind)], constants, opset)
    with pytest.raises(ExportError, match=f"(?s)tiny.onnx.*culprit.*{node.op_type}.*{reason}"):
        check_fast(path)


def test_refuses_dequantisation(tmp_path):
    nodes = [one("QuantizeLinear", "s"), helper.make_node("DequantizeLinear", ["y", "s"], ["out"], name="back")]
    path = network(tmp_path, nodes, [value("x")], [value("out", OPEN)], {"s": np.float32(1)})
    with pytest.raises(ExportError, match=r"back.*DequantizeLinear"):
        check_fast(path)


def test_refuses_nodes_inside_branches(tmp_path):
    body = helper.make_graph([helper.make_node("Gelu", ["x"], ["t"], name="hidden")], "then", [], [value("t", OPEN)])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "else", [], [value("e", OPEN)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other)
    path = network(tmp_path, [node], [value("x")], [value("y", OPEN)], {"c": np.array(True)}, 20)
    with pytest.raises(ExportError, match="hidden"):
        check_fast(path)


REFUSED_PORTS = {
    "opset": ([value("x")], [value("y")], 18, "opset 18"),
    "uint8": ([value("x", NHWC, TensorProto.UINT8)], [value("y", NHWC, TensorProto.UINT8)], 13, "input x: uint8"),
    "float16": ([value("x", NHWC, TensorProto.FLOAT16)], [value("y", NHWC, TensorProto.FLOAT16)], 13, "float16"),
    "open NCHW": ([value("x", ("b", 3, "h", "w"))], [value("y", OPEN)], 13, "NCHW"),
    "no channels": ([value("x", ("b", 8, 8, 16))], [value("y", OPEN)], 13, "layout"),
    "input order": ([value("x"), value("a")], [value("y")], 13, "inputs x, a: FAST numbers"),
    "output order": ([value("x")], [value("y"), value("b")], 13, "outputs y, b: FAST numbers"),
}


@pytest.mark.parametrize("case", REFUSED_PORTS)
def test_refuses_inputs_and_outputs(case, tmp_path):
    inputs, outputs, opset, reason = REFUSED_PORTS[case]
    nodes = [helper.make_node("Identity", ["x"], [output.name]) for output in outputs]
    path = network(tmp_path, nodes, inputs, outputs, opset=opset)
    with pytest.raises(ExportError, match=reason):
        check_fast(path)


def test_accepts_what_fast_computes_right(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["input_0_image"], ["n"], perm=[0, 3, 1, 2]),
        helper.make_node("ConvTranspose", ["n", "w"], ["c"], strides=[2, 2], pads=[0, 0, 1, 1], auto_pad="NOTSET"),
        helper.make_node("ReduceMean", ["c"], ["output_0_x"], axes=[2, 3]),
    ]
    inputs = [value("input_0_image", ("b", "h", "w", 3)), value("input_1_heatmap", ("b", 8, 8, 1))]
    check_fast(network(tmp_path, nodes, inputs, [value("output_0_x", OPEN)], WEIGHTS))


def test_no_network_is_an_error(tmp_path):
    with pytest.raises(ExportError, match=r"none\.onnx"):
        check_fast(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ExportError, match=r"bad\.onnx: not an ONNX network"):
        check_fast(tmp_path / "bad.onnx")
