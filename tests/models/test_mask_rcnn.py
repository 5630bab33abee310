from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_encoder
from numpy.testing import assert_array_equal

from tfseg.data.nuclei_boxes import instance_boxes
from tfseg.losses import mask_rcnn_losses
from tfseg.models import build, describe, load, save
from tfseg.models.mask_rcnn import MASK_PX, MaskRCNNSettings, mask_rcnn, training_network
from tfseg.train.step import Objective, Stepper
from tfseg.types import NUCLEI_CLASSES, ModelError

SETTINGS = {
    "pyramid_width": 4,
    "rpn_width": 4,
    "head_width": 4,
    "before_nms": 40,
    "proposals": 10,
    "detections": 6,
}
TINY = {"size_px": (64, 96), "encoder": tiny_encoder.NAME, "settings": SETTINGS}


def batch(instances: int = 5) -> dict[str, np.ndarray]:
    labels = np.zeros((2, 64, 96), int)
    labels[:, 3:20, 5:25], labels[1, 30:50, 60:80] = 7, 3
    boxes, classes, numbered = (
        np.stack(one) for one in zip(*(instance_boxes(one, instances) for one in labels), strict=True)
    )
    image = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    return {"image": image, "boxes": boxes, "classes": classes, "labels": numbered}


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return mask_rcnn(**TINY)


def test_pyramid_has_the_sizes_and_strides(network):
    maps = {level: network.get_layer(f"fpn_p{level}").output.shape[1:] for level in range(2, 7)}
    assert maps == {2: (16, 24, 4), 3: (8, 12, 4), 4: (4, 6, 4), 5: (2, 3, 4), 6: (1, 2, 4)}
    assert network.get_layer("rpn_logits").output.shape[1:] == (3 * (384 + 96 + 24 + 6 + 2), 2)


def test_logits_are_in_the_order_of_the_anchors(network):
    """A pattern on P2 comes back cell by cell, ratio by ratio."""
    weights = [np.zeros_like(w) for w in network.get_layer("rpn_logits_conv").get_weights()]
    weights[1][:] = np.arange(6)
    head = keras.layers.Conv2D(6, 1)
    head.build((None, None, None, 4))
    head.set_weights(weights)
    found = network.get_layer("rpn_logits_p2")(head(np.zeros((1, 16, 24, 4))))
    assert_array_equal(found[0, :4], [[0, 1], [2, 3], [4, 5], [0, 1]])


def test_outputs(network):
    found = {k: np.asarray(v) for k, v in network({"image": batch()["image"]}, training=False).items()}
    assert {name: value.shape for name, value in found.items()} == {
        "instances": (2, 6, 2),
        "instances_boxes": (2, 6, 4),
        "instances_masks": (2, 6, MASK_PX, MASK_PX),
    }
    scores = found["instances"][..., 1]
    assert (np.diff(scores, axis=1) <= 0).all(), "by falling score"
    boxes = found["instances_boxes"]
    assert boxes.min() >= 0 and boxes[..., 2].max() <= 64 and boxes[..., 3].max() <= 96
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_training_shares_every_weight(network):
    training = training_network(network, max_instances=5, anchors=16, rois=9)
    assert {id(w) for w in training.weights} == {id(w) for w in network.weights}
    outputs = training(batch(), training=True)
    shapes = {name: value.shape[1:] for name, value in outputs.items()}
    assert shapes == {
        **dict.fromkeys(("anchor_logits",), (1536, 2)),
        **dict.fromkeys(("anchor_deltas", "anchor_truth"), (1536, 4)),
        "anchor_classes": (1536,),
        "roi_logits": (9, 2),
        "roi_deltas": (9, 8),
        "roi_truth": (9, 4),
        "roi_classes": (9,),
        "roi_masks": (3, 28, 28),
        "mask_logits": (3, 28, 28, 2),
    }
    assert {value.dtype for value in outputs.values()} == {tf.float32}
    assert outputs["roi_classes"][0, 0] == 1, "the instances' own boxes are candidates"


def test_the_loop_learns_and_goes_on_exactly():
    """The state of the draws is among the variables that are saved: put back, they give the same weights again."""
    keras.utils.set_random_seed(0)
    training = training_network(mask_rcnn(**TINY), max_instances=5, anchors=16, rois=9)
    stepper = Stepper(training, Objective(mask_rcnn_losses()), keras.optimizers.Adam(1e-2), 1)
    variables = [v for group in stepper.variables().values() for v in group]
    assert sum("seed" in v.path for v in variables) == 2
    tensors = {name: tf.constant(value) for name, value in batch().items()}

    def train() -> tuple[list[float], list[np.ndarray]]:
        losses = [stepper.train(tensors, {}, step) for step in range(1, 9)]
        return losses, [np.array(v) for v in variables]

    start = [np.array(v) for v in variables]
    losses, after = train()
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert any("seed" in v.path and (a != b).any() for v, a, b in zip(variables, start, after, strict=True))
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    assert train()[0] == losses
    for variable, value in zip(variables, after, strict=True):
        assert_array_equal(variable, value, err_msg=variable.path)


def test_validation_draws_the_same_each_time(network):
    training = training_network(network, max_instances=5, anchors=16, rois=9)
    once, again = (training(batch(), training=False) for _ in range(2))
    for name in ("anchor_classes", "roi_classes", "roi_masks"):
        assert_array_equal(once[name], again[name])


def test_a_loaded_network_trains_on(network, tmp_path):
    save(network, describe(network, "mask_rcnn", TINY, 0.25, NUCLEI_CLASSES), tmp_path)
    loaded, spec = load(tmp_path)
    assert spec.task == "instances" and not spec.dense
    outputs = [
        training_network(one, max_instances=5, rois=9)(batch(), training=False)["mask_logits"]
        for one in (network, loaded)
    ]
    assert_array_equal(*outputs)


def test_batch_norms_of_the_heads_keep_their_statistics(network):
    training = training_network(network, max_instances=5, rois=9)
    norm = network.get_layer("box_head").get_layer("box_bn1")
    training(batch(), training=True)
    assert_array_equal(norm.moving_mean, 0)
    assert_array_equal(norm.moving_variance, 1)
    assert norm.gamma.trainable


def test_what_is_wrong_is_said():
    with pytest.raises(ModelError, match=r"unknown settings \['anchors'\]\. Known: anchor_px, anchor_ratios"):
        build("mask_rcnn", settings={"anchors": 3})
    with pytest.raises(ModelError, match=r"anchor_px must be 5, of P2 … P6\. Received: \(8, 16\)"):
        MaskRCNNSettings.of({"anchor_px": (8, 16)})
