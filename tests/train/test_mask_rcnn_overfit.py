"""Mask R-CNN under the training loop on real nuclei: what it is trained on, it must find."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.nuclei import read_nuclei
from tfseg.data.nuclei_boxes import instance_boxes
from tfseg.data.nuclei_tiles import cut_tile
from tfseg.export.onnx import export_onnx
from tfseg.infer.mask_rcnn import PasteOptions, paste_instances
from tfseg.losses import mask_rcnn_losses
from tfseg.metrics import instance_scores
from tfseg.models import build, describe, load, save
from tfseg.models.mask_rcnn import training_network
from tfseg.train.fit import TrainConfig, fit, reproducible
from tfseg.train.step import Objective
from tfseg.types import NUCLEI_CLASSES

SIDE, EPOCHS, STEPS = 128, 4, 50
SETTINGS = {
    "pyramid_width": 48,
    "rpn_width": 48,
    "head_width": 128,
    "before_nms": 250,
    "proposals": 60,
    "detections": 40,
}


@pytest.mark.slow
@pytest.mark.realdata
def test_four_images_are_learnt_by_heart(shared_data: Path, tmp_path: Path):
    """The mean AJI of the four is above 0.8, by the network that was saved and loaded; its ONNX finds the same."""
    items = [item for item in read_nuclei(shared_data / "nuclei" / "dsb2018_he") if item.size() == (256, 320)][:4]
    crops = [[cut_tile(array, 64, 96, SIDE) for array in item.load()] for item in items]
    images = np.stack([image for image, _ in crops]).astype(np.float32)
    boxes, classes, labels = (
        np.stack(one) for one in zip(*(instance_boxes(label, 32, 10) for _, label in crops), strict=True)
    )
    arguments = {
        "size_px": SIDE,
        "encoder": "mobilenetv2",
        "freeze_batch_norm": True,
        "settings": SETTINGS,
    }
    reproducible(0)
    weights = shared_data / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"
    network = build("mask_rcnn", **arguments, weights=weights)
    inputs = {"image": images, "boxes": boxes, "classes": classes, "labels": labels}
    fit(
        training_network(network, max_instances=32, rois=24),
        lambda start: tf.data.Dataset.from_tensors((inputs, {})).repeat(),
        None,
        TrainConfig(epochs=EPOCHS, steps_per_epoch=STEPS, validation_steps=None, monitor="loss"),
        tmp_path / "run",
        Objective(
            mask_rcnn_losses(),
            optimizer=keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * STEPS), global_clipnorm=5.0
            ),
        ),
    )
    save(network, describe(network, "mask_rcnn", arguments, 0.25, NUCLEI_CLASSES), tmp_path / "model")
    found = load(tmp_path / "model")[0].predict({"image": images}, verbose=0)
    ajis = [
        instance_scores(truth, paste_instances(*one, (SIDE, SIDE), PasteOptions(min_area_px=10)).labels)["aji"]
        for truth, *one in zip(
            labels, found["instances"], found["instances_boxes"], found["instances_masks"], strict=True
        )
    ]
    print("AJI", ajis)
    assert np.mean(ajis) > 0.8, ajis
    export_onnx(tmp_path / "model", pictures=[crop for crop, _ in crops])
    assert (tmp_path / "model" / "model.onnx").is_file()
