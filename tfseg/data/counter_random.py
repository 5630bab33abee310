"""Random numbers that are a function of (seed, counter): no state to save, the same one by one or all at once.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as a counter-based generator. ``tf.random.stateless_uniform`` gives
one array a call, so drawing numbers 5, 6, 7 together differs from drawing them one at a time; this does not.
CPU operations only (TensorFlow has no 64-bit unsigned arithmetic on GPUs), which is where tf.data runs.
"""

from __future__ import annotations

import tensorflow as tf

_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = 2**64 - 1


def mix64(state: tf.Tensor) -> tf.Tensor:
    """SplitMix64's output function, uint64 of any shape → uint64; a bijection that scatters all bits."""

    def shift(value: tf.Tensor, bits: int) -> tf.Tensor:
        return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, tf.constant(bits, tf.uint64)))

    state = shift(state, 30) * tf.constant(_MIX_1, tf.uint64)
    state = shift(state, 27) * tf.constant(_MIX_2, tf.uint64)
    return shift(state, 31)


def bits(seed: int | tf.Tensor, counter: tf.Tensor, count: int, purpose: int = 0) -> tf.Tensor:
    """``count`` independent 64-bit numbers for every element of ``counter``.

    Args:
        seed: any integer, or int64 that broadcasts against ``counter``.
        counter: int64 of any shape, ≥ 0.
        count: numbers an element.
        purpose: 0..65535; keeps uses of the same seed apart (which patch, how it is augmented).

    Returns:
        uint64 (*counter.shape, count).
    """
    if isinstance(seed, int):
        seed = tf.constant(seed & _MASK, tf.uint64)
    gamma = tf.constant(_GAMMA, tf.uint64)
    key = mix64(mix64(tf.cast(seed, tf.uint64) + gamma) + tf.constant((purpose * _GAMMA) & _MASK, tf.uint64))
    number = tf.cast(counter, tf.uint64)[..., None] * tf.constant(count, tf.uint64)
    number += tf.cast(tf.range(1, count + 1), tf.uint64)
    return mix64(key[..., None] + number * gamma)


def integers(random_bits: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Uniform int64 in 0..bound - 1 from uint64 bits; ``bound`` int64 in 1..2³², bias below bound / 2³²."""
    high = tf.bitwise.right_shift(random_bits, tf.constant(32, tf.uint64))
    product = high * tf.cast(bound, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(product, tf.constant(32, tf.uint64)), tf.int64)


def uniform(seed: int | tf.Tensor, counter: tf.Tensor, count: int, purpose: int = 0) -> tf.Tensor:
    """Uniform float32 in [0, 1), shape (*counter.shape, count); arguments as of :func:`bits`."""
    top = tf.bitwise.right_shift(bits(seed, counter, count, purpose), tf.constant(40, tf.uint64))
    return tf.cast(top, tf.float32) * 2.0**-24
