"""LeNet-5: what a convolutional network is, since 1998: windows that share their weights, pooling, a classifier."""

from __future__ import annotations

from numpy.typing import DTypeLike

from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.pooling import AvgPool2D
from tinynet.layers.shape import Flatten
from tinynet.model import Sequential


def lenet5(
    classes: int = 10, input_shape: tuple[int, int, int] = (28, 28, 1), *, seed: int = 0, dtype: DTypeLike = "float32"
) -> Sequential:
    """LeNet-5: digits (N, 28, 28, 1) -> logits (N, classes).

    Three things are as people build it today: the pooling has no weights of its own, each filter of the second layer
    sees all six maps and not some of them, and the last layer is linear, for the softmax of the loss.  The paper has
    digits of 28 x 28 in images of 32 x 32; here the first layer's padding makes up for that.

    Source: LeCun, Bottou, Bengio and Haffner 1998, section II B.

    >>> tn.zoo.lenet5().flat_values.size
    61706
    """
    layers = [
        *(Conv2D(6, 5, padding=2, activation="tanh"), AvgPool2D(2)),
        *(Conv2D(16, 5, activation="tanh"), AvgPool2D(2)),
        *(Flatten(), Dense(120, "tanh"), Dense(84, "tanh"), Dense(classes)),
    ]
    return Sequential(layers, input_shape, seed, dtype)
