"""Losses: cross-entropy and soft Dice that leave out what nobody annotated, weights for them; those of Mask R-CNN."""

from tfseg.losses.crossentropy import (
    ClusterWeightedCrossentropy,
    Crossentropy,
    PixelWeightedCrossentropy,
    WeightedCrossentropy,
    crossentropy,
    pixel_weighted_crossentropy,
)
from tfseg.losses.dice import SoftDice, WeightedSoftDice, soft_dice
from tfseg.losses.mask_rcnn import mask_rcnn_losses
from tfseg.losses.weights import class_weights, cluster_weights, dynamic_class_weights

__all__ = [
    "ClusterWeightedCrossentropy",
    "Crossentropy",
    "PixelWeightedCrossentropy",
    "SoftDice",
    "WeightedCrossentropy",
    "WeightedSoftDice",
    "class_weights",
    "cluster_weights",
    "crossentropy",
    "dynamic_class_weights",
    "mask_rcnn_losses",
    "pixel_weighted_crossentropy",
    "soft_dice",
]
