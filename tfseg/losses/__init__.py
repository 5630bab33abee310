"""Losses: cross-entropy and soft Dice that leave pixels out that nobody annotated, and the weights of samples."""

from tfseg.losses.crossentropy import ClusterWeightedCrossentropy, Crossentropy, crossentropy
from tfseg.losses.dice import SoftDice
from tfseg.losses.weights import cluster_weights

__all__ = ["ClusterWeightedCrossentropy", "Crossentropy", "SoftDice", "cluster_weights", "crossentropy"]
