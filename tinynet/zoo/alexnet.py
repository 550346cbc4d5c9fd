"""AlexNet: the network of 2012 that showed how far a deep one comes, with ReLU, dropout and many images."""

from __future__ import annotations

from numpy.typing import DTypeLike

from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.pooling import AdaptiveAvgPool2D, MaxPool2D
from tinynet.layers.shape import Flatten
from tinynet.model import Sequential


def alexnet(
    classes: int = 1000, input_shape: tuple[int, int, int] = (224, 224, 3), *, units: int = 4096, dropout: float = 0.5,
    seed: int = 0, dtype: DTypeLike = "float32",
) -> Sequential:  # fmt: skip
    """AlexNet: images (N, 224, 224, 3), or larger than 62 pixels, -> logits (N, classes).

    In its second form, without the two groups that were for two GPUs, and with fewer filters; torchvision's weights fit
    it.  Windows overlap where they are pooled: 3 x 3, 2 apart.  `units` and `dropout` are those of the two wide layers
    at the end.

    Sources: Krizhevsky, Sutskever and Hinton 2012; Krizhevsky 2014, section 5.

    >>> tn.zoo.alexnet(classes=10, input_shape=(64, 64, 3)).output_shape
    (10,)
    """
    layers = [
        *(Conv2D(64, 11, stride=4, padding=2, activation="relu"), MaxPool2D(3, stride=2)),
        *(Conv2D(192, 5, padding=2, activation="relu"), MaxPool2D(3, stride=2)),
        Conv2D(384, 3, padding=1, activation="relu"),
        Conv2D(256, 3, padding=1, activation="relu"),
        *(Conv2D(256, 3, padding=1, activation="relu"), MaxPool2D(3, stride=2)),
        *(AdaptiveAvgPool2D(6), Flatten()),
        *(Dropout(dropout), Dense(units, "relu")),
        *(Dropout(dropout), Dense(units, "relu")),
        Dense(classes),
    ]
    return Sequential(layers, input_shape, seed, dtype)
