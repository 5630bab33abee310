"""An encoder that is built in milliseconds: the real ones take seconds, and their shapes are tested on their own."""

from __future__ import annotations

import keras
from keras import layers

from tfseg.models.encoders import ENCODERS, Encoder

NAME = "tiny"


def trunk(include_top: bool, weights: None, input_tensor: keras.KerasTensor, alpha: float = 1.0) -> keras.Model:
    """The same behind layers that are there already, as ``keras.applications`` does it: a patch classifier's trunk."""
    return keras.Model(keras.utils.get_source_inputs(input_tensor), _halve_five_times(input_tensor))


def _network(include_top: bool, weights: None, input_shape: tuple) -> keras.Model:
    image = layers.Input(input_shape)
    return keras.Model(image, _halve_five_times(image))


def _halve_five_times(x: keras.KerasTensor) -> keras.KerasTensor:
    for depth in range(1, 6):
        x = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"pad{depth}")(x)
        x = layers.Conv2D(4, 3, strides=2, use_bias=False, name=f"conv{depth}")(x)
        x = layers.BatchNormalization(name=f"bn{depth}")(x)
        x = layers.Activation("relu", name=f"out{depth}")(x)
    return x


ENCODERS[NAME] = Encoder(_network, {depth: f"out{depth}" for depth in range(1, 6)}, 1 / 255, 0.0)
