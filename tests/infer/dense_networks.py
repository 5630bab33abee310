"""Dense networks whose output is known exactly: what they see is what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tfseg.files import write_json
from tfseg.geometry import field_name
from tfseg.types import ClassSpec, InputSpec, ModelSpec

CLASSES = (ClassSpec("red one", (200, 0, 0)), ClassSpec("green", (0, 200, 0)), ClassSpec("blue", (0, 0, 200)))


def dense_spec(
    field_px: int = 32,
    output_px: tuple[int, int] = (16, 16),
    mpps: tuple[float, ...] = (1.0,),
    stride_px: int | None = None,
    classes: tuple[ClassSpec, ...] = CLASSES,
) -> ModelSpec:
    inputs = tuple(
        InputSpec("image" if len(mpps) == 1 else field_name(mpp), (field_px, field_px), 3, mpp) for mpp in mpps
    )
    return ModelSpec(
        "fake dense",
        "fake",
        {},
        "segmentation",
        inputs,
        ("segmentation",),
        classes,
        stride_px=stride_px or output_px[0],
        output_px=output_px,
        output_mpp=mpps[0],
    )


def centre(images: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The central pixels of (B, H, W, 3)."""
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


class Identity:
    """Red, green and blue of the central pixels / 255 as the three classes' probabilities.

    Of several fields each gives one of them: the first field red, the second, enlarged to the first's pixels, green, …
    """

    def __init__(self, spec: ModelSpec, parallel: int = 1) -> None:
        self.spec, self.parallel, self.windows = spec, parallel, 0

    def __call__(self, *fields: NDArray[np.float32]) -> NDArray[np.float32]:
        assert all(field.dtype == np.float32 for field in fields)
        self.windows += len(fields[0])
        height, width = self.spec.output_px
        if len(fields) == 1:
            return centre(fields[0], height, width) / 255
        found = []
        for index, (field, one) in enumerate(zip(fields, self.spec.inputs, strict=True)):
            factor = round(one.mpp / self.spec.output_mpp)
            part = centre(field, height // factor, width // factor)[..., index]
            found.append(part.repeat(factor, axis=1).repeat(factor, axis=2))
        return np.stack(found, axis=-1) / np.float32(255)


class StopAfter(Identity):
    """Fails when it has seen so many windows."""

    def __init__(self, spec: ModelSpec, windows: int) -> None:
        super().__init__(spec)
        self.left = windows

    def __call__(self, *fields: NDArray[np.float32]) -> NDArray[np.float32]:
        self.left -= len(fields[0])
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__call__(*fields)


def noise(height: int, width: int, block: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    """Random colours, of blocks of ``block`` pixels: no pixel is like its neighbour."""
    random = np.random.default_rng(seed).integers(0, 256, (-(-height // block), -(-width // block), 3), np.uint8)
    return random.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]


def write_dense(folder: Path, spec: ModelSpec | None = None, steep: float = 0.1) -> Path:
    """A model folder: softmax of the central pixels' colour times ``steep``, so that the strongest colour wins."""
    spec = spec or dense_spec()
    (field_h, field_w), (height, width) = spec.inputs[0].size_px, spec.output_px
    top, left = (field_h - height) // 2, (field_w - width) // 2
    constants = [
        numpy_helper.from_array(np.array([top, left]), "starts"),
        numpy_helper.from_array(np.array([top + height, left + width]), "ends"),
        numpy_helper.from_array(np.array([1, 2]), "axes"),
        numpy_helper.from_array(np.float32(steep), "steep"),
    ]
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["crop"]),
        helper.make_node("Mul", ["crop", "steep"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["segmentation"], axis=-1),
    ]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", field_h, field_w, 3])
    result = helper.make_tensor_value_info("segmentation", TensorProto.FLOAT, ["batch", height, width, 3])
    graph = helper.make_graph(nodes, "dense", [given], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    write_json(folder / "config.json", spec.to_dict())
    return folder
