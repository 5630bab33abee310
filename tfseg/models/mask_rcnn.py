"""Mask R-CNN: every instance of an image with its box, class probabilities and mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import layers

from tfseg.models.blocks import Tensor, size_pair
from tfseg.models.boxes import STRIDES
from tfseg.models.encoders import DEEPEST, pyramid
from tfseg.models.proposals import ClassMasks, Detections, PerImage, Proposals
from tfseg.models.roi_align import RoIAlign
from tfseg.models.roi_targets import AnchorTargets, RoiTargets
from tfseg.types import ModelError

MASK_PX = 28
_BOX_BINS, _MASK_BINS = 7, MASK_PX // 2


@dataclass(frozen=True)
class MaskRCNNSettings:
    """Widths and numbers of a Mask R-CNN.

    Attributes:
        anchor_px: √area of the anchors on P2 … P6, in pixels of the image.
        anchor_ratios: their heights over widths.
        pyramid_width: channels of P2 … P6 and of the mask head.
        rpn_width: channels of the region proposal network.
        head_width: neurons of the two layers of the box head.
        before_nms: anchors of highest objectness that suppression looks at.
        proposals: most boxes that it leaves.
        proposal_iou: above which IoU the weaker of two proposals goes.
        detections: most instances an image.
        detection_iou: above which IoU the weaker of two detections of a class goes.
        min_score: least probability of a detection; what is reported is chosen later, by the spec's ``threshold``.
        samples: RoIAlign's points to a side of a bin.
    """

    anchor_px: Sequence[float] = (8, 16, 32, 64, 128)
    anchor_ratios: Sequence[float] = (0.5, 1, 2)
    pyramid_width: int = 256
    rpn_width: int = 512
    head_width: int = 1024
    before_nms: int = 6000
    proposals: int = 1000
    proposal_iou: float = 0.7
    detections: int = 256
    detection_iou: float = 0.3
    min_score: float = 0.05
    samples: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> MaskRCNNSettings:
        """The defaults with ``settings`` in their places.

        Raises:
            ModelError: an unknown name, or not five anchor sides.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(settings or {}) - known)
        if unknown:
            raise ModelError(f"mask_rcnn: unknown settings {unknown}. Known: {', '.join(sorted(known))}.")
        found = cls(**(settings or {}))
        if len(found.anchor_px) != len(STRIDES):
            raise ModelError(f"anchor_px must be {len(STRIDES)}, of P2 … P6. Received: {tuple(found.anchor_px)}.")
        return found


@keras.saving.register_keras_serializable("tfseg")
class FixedBatchNormalization(layers.BatchNormalization):
    """Batch norm that uses and keeps its statistics in training, too; scale and shift train.

    A batch of boxes, empty ones among them, has no statistics worth taking.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        # A network around it hands its own ``training`` down, whatever the layer was called with.
        return super().call(inputs, training=False, mask=mask)


def mask_rcnn(
    size_px: int | tuple[int, int] = 256,
    num_classes: int = 2,
    encoder: str = "resnet101",
    weights: str | Path | None = None,
    alpha: float = 1.0,
    freeze_batch_norm: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Mask R-CNN with a feature pyramid, for finding; :func:`training_network` trains the same weights.

    He et al. 2017, Mask R-CNN, with Lin et al. 2017, Feature Pyramid Networks; GB U-Net, "Mask R-CNN", which ran
    matterport's package on ResNet101.

    - Pyramid: 1×1 convolutions of the encoder's maps of depth 2 … 5, from the coarsest down each plus the nearest ×2 of
      the one above, a 3×3 convolution each: P2 … P5; every other cell of P5: P6.
    - Region proposal network on each: 3×3 convolution, ReLU, 1×1 convolutions to two logits and four offsets an anchor;
      then :class:`tfseg.models.proposals.Proposals`.
    - Box head: RoIAlign to 7², two dense layers with batch norm and ReLU; logits of the classes and offsets for each;
      then :class:`tfseg.models.proposals.Detections`.
    - Mask head: RoIAlign of the detections' boxes to 14², four of (3×3 convolution, batch norm, ReLU), 2×2 transposed
      convolution of stride 2, ReLU, 1×1 convolution to a mask a class.

    At the defaults 63 733 406 parameters, 63 621 918 of them trainable.

    Args:
        size_px: side, or (height, width), of the image; multiples of 32.
        num_classes: C, background included.
        encoder: key of ``tfseg.models.encoders.ENCODERS``.
        weights: of the encoder: None (random), "imagenet" (fetched by Keras), or the path of a ``.weights.h5`` of the
            same ``keras.applications`` network without top.
        alpha: width multiplier of MobileNetV2.
        freeze_batch_norm: keep the encoder's batch norms as loaded, in inference mode; see
            :func:`tfseg.models.encoders.pyramid`. Mask R-CNN does, for batches of a few images.
        settings: fields of :class:`MaskRCNNSettings` that differ from its defaults.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to, of the N best instances by falling score, float32,
        {"instances": (B, N, C) class probabilities, "instances_boxes": (B, N, 4) y1, x1, y2, x2 in pixels,
        "instances_masks": (B, N, 28, 28) probabilities over the box}. An empty place is class 0 for certain.

    Raises:
        ModelError: the size does not divide, unknown encoder or setting, or weights that are missing or of another
            network.

    Differs from the paper in: GB U-Net starts from weights trained on COCO, which are those of another program; here
    the encoder alone can be pretrained. It gives no other setting than SGD (rate 1e-3, momentum 0.9, decay 1e-4) and
    the tiles of 256². The rest are matterport's defaults, but for anchors of 8 … 128 px in place of 32 … 512, the sizes
    of nuclei in such a tile, and centred in their cells; RoIAlign's samples at the centres of bins, not on the box's
    edges; 1000 proposals in training, too, where it takes 2000; 256 detections in place of 100, for a tile may hold 220
    nuclei; and detections down to a probability of 0.05 in place of 0.7, for the average precision over the ranking.
    From He et al. it differs in that the heads have batch norms, whose statistics stay 0 and 1 so that they scale and
    shift alone (matterport freezes them, too), and the region proposal network 512 channels; in one sample a bin,
    suppression at 0.3 in place of 0.5, one class a proposal, and masks of all detections, not of the first 100.
    """
    size = size_pair(size_px, 2**DEEPEST, "the encoder halves five times")
    chosen = MaskRCNNSettings.of(settings)
    image = layers.Input((*size, 3), name="image")
    maps = _feature_pyramid(pyramid(image, encoder, "enc", weights, alpha, freeze_batch_norm), chosen.pyramid_width)
    proposals = Proposals(
        chosen.before_nms, chosen.proposals, chosen.proposal_iou, **_anchors(size, chosen), name="proposals"
    )(_region_proposals(maps, chosen))
    regions = RoIAlign(_BOX_BINS, size, chosen.samples, name="box_align")([proposals, *maps[:4]])
    boxes = _box_head(chosen, num_classes)(regions)
    per_proposal = PerImage(chosen.proposals, name="box_logits_per_image")(boxes["logits"])
    moved = PerImage(chosen.proposals, name="box_deltas_per_image")(boxes["deltas"])
    select = Detections(size, chosen.detections, chosen.detection_iou, chosen.min_score, name="detections")
    found = select([proposals, per_proposal, moved])
    regions = RoIAlign(_MASK_BINS, size, chosen.samples, name="mask_align")([found["boxes"], *maps[:4]])
    masks = PerImage(chosen.detections, name="masks_per_image")(_mask_head(chosen, num_classes)(regions))
    outputs = {
        "instances": layers.Identity(dtype="float32", name="instances")(found["classes"]),
        "instances_boxes": layers.Identity(dtype="float32", name="instances_boxes")(found["boxes"]),
        "instances_masks": ClassMasks(dtype="float32", name="instances_masks")([masks, found["classes"]]),
    }
    return keras.Model({"image": image}, outputs, name="mask_rcnn")


def training_network(
    network: keras.Model,
    max_instances: int = 256,
    anchors: int = 256,
    rois: int = 200,
    positive_share: float = 0.33,
    seed: int = 0,
) -> keras.Model:
    """The network to train: it shares all layers with ``network``, so that what it learns is there at once.

    Args:
        network: of :func:`mask_rcnn`, new or loaded.
        max_instances: G, most instances an image, as of ``tfseg.data.nuclei_boxes.instance_boxes``.
        anchors: an image, of which the region proposal network learns.
        rois: R, boxes an image of which the heads learn.
        positive_share: most boxes that hold an instance, as a share of R; P = round(positive_share · R).
        seed: of the draws; see :class:`tfseg.models.roi_targets.AnchorTargets`.

    Returns:
        Model from {"image": (B, H, W, 3), "boxes": (B, G, 4) px, "classes": int32 (B, G), 0 where there is no instance,
        "labels": int32 (B, H, W), g + 1 on the pixels of instance g} to what the terms of
        ``tfseg.losses.mask_rcnn_losses`` take, float32: "anchor_logits" (B, A, 2), "anchor_deltas" (B, A, 4) and their
        truths "anchor_classes" (B, A), "anchor_truth" (B, A, 4); "roi_logits" (B, R, C), "roi_deltas" (B, R, C · 4),
        "mask_logits" (B, P, 28, 28, C) and their truths "roi_classes" (B, R), "roi_truth" (B, R, 4), "roi_masks"
        (B, P, 28, 28).

    Differs from the paper in: 200 boxes an image as matterport's, where He et al. take 512 with a feature pyramid; at
    most a third of them positive, not a quarter; the instances' own boxes are among the candidates, as in
    py-faster-rcnn, for at first no proposal is near; negatives fill their own places alone.
    """
    image = network.input["image"]
    size = tuple(image.shape[1:3])
    boxes = layers.Input((max_instances, 4), name="boxes")
    classes = layers.Input((max_instances,), name="classes", dtype="int32")
    labels = layers.Input(size, name="labels", dtype="int32")
    maps = [network.get_layer(f"fpn_p{level}").output for level in range(2, 6)]
    known = {name: network.get_layer("proposals").get_config()[name] for name in ("size_px", "sides_px", "ratios")}
    truth = AnchorTargets(anchors, seed, **known, name="anchor_targets")([boxes, classes])
    targets = RoiTargets(rois, positive_share, MASK_PX, seed, name="roi_targets")
    sampled = targets([network.get_layer("proposals").output, boxes, classes, labels])
    positives = sampled["masks"].shape[1]
    heads = network.get_layer("box_head")(network.get_layer("box_align")([sampled["boxes"], *maps]))
    holding = layers.Cropping1D((0, rois - positives), name="positive_boxes")(sampled["boxes"])
    masks = network.get_layer("mask_head")(network.get_layer("mask_align")([holding, *maps]))
    outputs = {
        "anchor_logits": network.get_layer("rpn_logits").output,
        "anchor_deltas": network.get_layer("rpn_deltas").output,
        "anchor_classes": truth["classes"],
        "anchor_truth": truth["deltas"],
        "roi_logits": PerImage(rois, name="roi_logits")(heads["logits"]),
        "roi_deltas": PerImage(rois, name="roi_deltas")(heads["deltas"]),
        "roi_classes": sampled["classes"],
        "roi_truth": sampled["deltas"],
        "mask_logits": PerImage(positives, name="mask_logits")(masks),
        "roi_masks": sampled["masks"],
    }
    inputs = {"image": image, "boxes": boxes, "classes": classes, "labels": labels}
    return keras.Model(inputs, outputs, name="mask_rcnn_training")


def _anchors(size: tuple[int, int], settings: MaskRCNNSettings) -> dict[str, Any]:
    return {"size_px": size, "sides_px": settings.anchor_px, "ratios": settings.anchor_ratios}


def _feature_pyramid(features: Mapping[int, Tensor], width: int) -> list[Tensor]:
    """P2 … P6 from the encoder's maps of depth 2 … 5."""
    merged: dict[int, Tensor] = {}
    for depth in range(DEEPEST, 1, -1):
        x = layers.Conv2D(width, 1, name=f"fpn_c{depth}")(features[depth])
        if depth < DEEPEST:
            above = layers.UpSampling2D(2, name=f"fpn_p{depth + 1}_up")(merged[depth + 1])
            x = layers.Add(name=f"fpn_p{depth}_add")([above, x])
        merged[depth] = x
    maps = [
        layers.Conv2D(width, 3, padding="same", name=f"fpn_p{depth}")(merged[depth]) for depth in range(2, DEEPEST + 1)
    ]
    return [*maps, layers.MaxPooling2D(1, strides=2, name="fpn_p6")(maps[-1])]


def _region_proposals(maps: Sequence[Tensor], settings: MaskRCNNSettings) -> list[Tensor]:
    """[logits (B, A, 2), offsets (B, A, 4)] in the order of the anchors, float32."""
    shapes = len(settings.anchor_ratios)
    shared = layers.Conv2D(settings.rpn_width, 3, padding="same", activation="relu", name="rpn_conv")
    seen = [shared(one) for one in maps]
    found = []
    for what, values in (("logits", 2), ("deltas", 4)):
        head = layers.Conv2D(shapes * values, 1, name=f"rpn_{what}_conv")
        rows = [layers.Reshape((-1, values), name=f"rpn_{what}_p{n}")(head(one)) for n, one in enumerate(seen, 2)]
        found.append(layers.Concatenate(axis=1, dtype="float32", name=f"rpn_{what}")(rows))
    return found


def _box_head(settings: MaskRCNNSettings, num_classes: int) -> keras.Model:
    """(n, 7, 7, width) → {"logits": (n, C), "deltas": (n, C · 4)}."""
    regions = layers.Input((_BOX_BINS, _BOX_BINS, settings.pyramid_width))
    x = layers.Flatten(name="box_flat")(regions)
    for number in (1, 2):
        x = _scaled_relu(layers.Dense(settings.head_width, name=f"box_dense{number}")(x), f"box_bn{number}")
    outputs = {
        "logits": layers.Dense(num_classes, name="box_logits")(x),
        "deltas": layers.Dense(4 * num_classes, name="box_deltas")(x),
    }
    return keras.Model(regions, outputs, name="box_head")


def _mask_head(settings: MaskRCNNSettings, num_classes: int) -> keras.Model:
    """(n, 14, 14, width) → logits (n, 28, 28, C)."""
    width = settings.pyramid_width
    x = regions = layers.Input((_MASK_BINS, _MASK_BINS, width))
    for number in range(1, 5):
        x = layers.Conv2D(width, 3, padding="same", kernel_initializer="he_normal", name=f"mask_conv{number}")(x)
        x = _scaled_relu(x, f"mask_bn{number}")
    x = layers.Conv2DTranspose(width, 2, strides=2, activation="relu", name="mask_up")(x)
    return keras.Model(regions, layers.Conv2D(num_classes, 1, name="mask_logits")(x), name="mask_head")


def _scaled_relu(x: Tensor, name: str) -> Tensor:
    return layers.Activation("relu", name=f"{name}_relu")(FixedBatchNormalization(name=name)(x))
