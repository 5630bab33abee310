"""Networks of the task "instances" whose output is known: every piece of one grey, or the same two boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy import ndimage

from tfseg.files import write_json
from tfseg.types import NUCLEI_CLASSES, InputSpec, ModelSpec

SPEC = ModelSpec(
    name="finder",
    architecture="mask_rcnn",
    arguments={},
    task="instances",
    inputs=(InputSpec("image", (64, 64), 3, 0.25),),
    outputs=("instances", "instances_boxes", "instances_masks"),
    classes=NUCLEI_CLASSES,
)


def two_classes(*scores: float) -> np.ndarray:
    return np.array([[1 - score, score] for score in scores])


def picture(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Squares of 9 px, each of a grey of its own on black, as image and labels."""
    random = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    for y in range(2, height - 9, 14):
        for x in range(2, width - 9, 14):
            dy, dx = random.integers(0, 4, 2)
            labels[y + dy : y + dy + 9, x + dx : x + dx + 9][: height - y - dy, : width - x - dx] = labels.max() + 1
    return np.repeat(labels[..., None], 3, axis=2).astype(np.uint8), labels


def finder(images: np.ndarray) -> dict[str, np.ndarray]:
    """Finds every piece of one grey in each field, surer of lighter ones; places that are left are certain of none."""
    assert images.shape[1:] == (64, 64, 3) and images.dtype == np.float32
    found: list[list[tuple[float, list[int]]]] = []
    for image in images[..., 0]:
        found.append([])
        for grey in np.unique(image[image > 0]):
            for rows, columns in ndimage.find_objects(ndimage.label(image == grey)[0]):
                found[-1].append((0.5 + grey / 512, [rows.start, columns.start, rows.stop, columns.stop]))
    most = max(1, *map(len, found))
    filled = [one + [(0.0, [0, 0, 0, 0])] * (most - len(one)) for one in found]
    return {
        "instances": np.array([two_classes(*(score for score, _ in one)) for one in filled]),
        "instances_boxes": np.array([[box for _, box in one] for one in filled], np.float32),
        "instances_masks": np.ones((len(images), most, 28, 28), np.float32),
    }


def write_finder(folder: Path) -> Path:
    """An ONNX network of two detections, the same whatever it sees: the first score is the image's mean / 255."""
    constants = {
        "boxes": np.array([[[4, 4, 20, 20], [30, 30, 50, 50]]], np.float32),
        "masks": np.ones((1, 2, 28, 28), np.float32),
        "scale": np.float32([[[-1 / 255, 1 / 255], [0, 0]]]),
        "offset": np.float32([[[1, 0], [0.3, 0.7]]]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["one"]),
        helper.make_node("Mul", ["one", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["instances"]),
        helper.make_node("Sub", ["one", "one"], ["zero"]),  # as many as images: boxes and masks are those of each
        helper.make_node("Add", ["zero", "boxes"], ["instances_boxes"]),
        helper.make_node("Reshape", ["zero", "shape4"], ["zero4"]),
        helper.make_node("Add", ["zero4", "masks"], ["instances_masks"]),
    ]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64, 64, 3])
    shapes = {"instances_masks": ["batch", 2, 28, 28], "instances_boxes": ["batch", 2, 4], "instances": ["batch", 2, 2]}
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    known = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    known += [
        numpy_helper.from_array(np.array([-1, *[1] * more]), name) for name, more in (("shape", 2), ("shape4", 3))
    ]
    graph = helper.make_graph(nodes, "finder", [given], results, known)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(folder / "model.onnx")
    )
    write_json(folder / "config.json", SPEC.to_dict())
    return folder
