"""Transposed convolutions before and after, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tfseg.export.pads import explicit_pads
from tfseg.types import ExportError

CASES = {
    "same upper": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (3, 3)),
    "same lower": ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (3, 3)),
    "valid": ({"auto_pad": "VALID", "strides": [2, 2]}, (3, 3)),
    "even size": ({"output_shape": [10, 14], "strides": [2, 2]}, (3, 3)),
    "odd size, same upper": ({"output_shape": [9, 13], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, (3, 3)),
    "odd size, same lower": ({"output_shape": [9, 13], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, (4, 4)),
    "stride 3, dilation": ({"output_shape": [15, 21], "strides": [3, 3], "dilations": [2, 2]}, (2, 3)),
}


def network(attributes: dict, kernel: tuple[int, int], height: int | str = 5) -> onnx.ModelProto:
    weights = np.random.default_rng(0).normal(size=(2, 3, *kernel)).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", **attributes)
    graph = helper.make_graph(
        [node],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 2, height, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, None, None])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("case", CASES)
def test_rewritten_node_computes_the_same(case):
    model = network(*CASES[case])
    rewritten = explicit_pads(model)
    names = {attribute.name for attribute in rewritten.graph.node[0].attribute}
    assert "pads" in names and not names & {"auto_pad", "output_shape"}
    x = np.random.default_rng(1).normal(size=(2, 2, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(run(rewritten, x), run(model, x), atol=1e-6)


def test_explicit_nodes_stay_as_they_are():
    model = network({"strides": [2, 2], "pads": [0, 0, 1, 1]}, (3, 3))
    assert explicit_pads(model) is model


def test_open_size_is_refused():
    with pytest.raises(ExportError, match=r"up \(ConvTranspose\)"):
        explicit_pads(network({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (3, 3), height="h"))
