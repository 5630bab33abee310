"""A small network that lays FAST's heatmap over the slide as tfseg does.

The last cells of a heatmap reach past the slide's edge when its sides are no multiples of the patch. FAST knows nothing
of that: it stretches the whole heatmap over the picture, which moves it by up to a cell at the far edges. A text
pipeline cannot crop, but it can run a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfseg.files import atomic_path

_OPSET = 13
_SLACK = 0.01
_LEAST_CELLS = 0.05


def write_align(path: str | Path, stride_px: int, size_px: tuple[int, int]) -> Path:
    """Writes the network: heatmap and a level of the slide in, heatmap on the refinement network's pixels out.

    Only the size of the level's picture is used, (h, w). The slide's size at the patches' resolution is W = w · 2^k:
    levels of a pyramid differ by powers of two, and of the multiples that fit c cells of s pixels, (c − 1) s < W ≤ c s,
    there is one: k = ⌊log2(c s / w)⌋. Where none fits (a pyramid of other steps), the heatmap is stretched as FAST
    does. Output pixel i is looked up at (i + ½) W / (S s) − ½ cells, linearly between cell centres and clamped, as in
    ``tfseg.infer.slide.heatmap_to_field``; as matrices: field = A_y · heatmap · A_xᵀ, A[i, j] = max(0, 1 − |p_i − j|).

    Args:
        path: the ONNX file.
        stride_px: s, step between patches, pixels at their resolution.
        size_px: (height, width) of the refinement network's heatmap input.

    Returns:
        The file. Inputs ``input_0_heatmap`` (1, rows, columns, 1), ``input_1_image`` (1, h, w, 3) and
        ``input_2_picture`` (1, height, width, 3), output ``output_0_heatmap`` (1, height, width, 1). The third is the
        level once more, for FAST's sake: it gives the output the pixel spacing that it computed when it resized the
        last input, and uninitialised memory where it resized none, which later crashes its TIFF exporter.
    """
    graph = _Graph()
    cells, exact = {}, {}
    for axis in ("y", "x"):
        index = 1 if axis == "y" else 2
        cells[axis] = graph.side("input_0_heatmap", index)
        level = graph.side("input_1_image", index)
        exact[axis] = graph.add("Div", level, graph.constant(np.float32(stride_px)))
    ratios = [graph.add("Div", cells[axis], exact[axis]) for axis in ("y", "x")]
    # The axis with the smaller ratio has less of a last cell beyond the edge, so it is the one to trust.
    logarithm = graph.add("Div", graph.add("Log", graph.add("Min", *ratios)), graph.constant(np.log(np.float32(2))))
    power = graph.add("Floor", graph.add("Add", logarithm, graph.constant(np.float32(_SLACK))))
    factor = graph.add("Pow", graph.constant(np.float32(2)), power)
    matrices = {}
    for axis, size in zip(("y", "x"), size_px, strict=True):
        across = graph.add("Min", graph.add("Mul", exact[axis], factor), cells[axis])
        fits = graph.add("Greater", across, graph.add("Sub", cells[axis], graph.constant(np.float32(1 + _LEAST_CELLS))))
        across = graph.add("Where", fits, across, cells[axis])
        matrices[axis] = graph.lookup(size, across, cells[axis])
    plane = graph.add("Squeeze", "input_0_heatmap", graph.constant(np.array([0, 3])))
    rows = graph.add("MatMul", matrices["y"], plane)
    field = graph.add("MatMul", rows, graph.add("Transpose", matrices["x"], perm=[1, 0]))
    # Zero, since no pixel is negative, but no engine can know that and drop the input.
    darkest = graph.add("ReduceMin", "input_2_picture", axes=[0, 1, 2, 3], keepdims=0)
    field = graph.add("Add", field, graph.add("Relu", graph.add("Neg", darkest)))
    graph.add("Unsqueeze", field, graph.constant(np.array([0, 3])), output="output_0_heatmap")
    return graph.write(Path(path), size_px)


class _Graph:
    """Collects nodes; every method returns the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray | np.generic) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"{name}_node", **attributes))
        return name

    def side(self, tensor: str, axis: int) -> str:
        """Size of an axis as a float32 scalar."""
        size = self.add("Gather", self.add("Shape", tensor), self.constant(np.array(axis)), axis=0)
        return self.add("Cast", size, to=TensorProto.FLOAT)

    def lookup(self, size: int, across: str, cells: str) -> str:
        """Weights (size, cells) of linear interpolation; ``across`` is the slide's side in cells."""
        centres = self.constant(((np.arange(size, dtype=np.float32) + 0.5) / size)[:, None])
        position = self.add("Sub", self.add("Mul", centres, across), self.constant(np.float32(0.5)))
        last = self.add("Sub", cells, self.constant(np.float32(1)))
        position = self.add("Min", self.add("Max", position, self.constant(np.float32(0))), last)
        zero, one = self.constant(np.float32(0)), self.constant(np.float32(1))
        columns = self.add("Range", zero, cells, one)
        distance = self.add("Abs", self.add("Sub", position, columns))
        return self.add("Relu", self.add("Sub", one, distance))

    def write(self, path: Path, size_px: tuple[int, int]) -> Path:
        inputs = [
            helper.make_tensor_value_info("input_0_heatmap", TensorProto.FLOAT, [1, "rows", "columns", 1]),
            helper.make_tensor_value_info("input_1_image", TensorProto.FLOAT, [1, "height", "width", 3]),
            helper.make_tensor_value_info("input_2_picture", TensorProto.FLOAT, [1, *size_px, 3]),
        ]
        outputs = [helper.make_tensor_value_info("output_0_heatmap", TensorProto.FLOAT, [1, *size_px, 1])]
        graph = helper.make_graph(self.nodes, "align", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        with atomic_path(path) as temporary:
            onnx.save(model, str(temporary))
        return path
