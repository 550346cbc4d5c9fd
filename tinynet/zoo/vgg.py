"""VGG: nothing but windows of 3 x 3, in 8 to 16 layers: two of them see 5 x 5 pixels, three see 7 x 7."""

from __future__ import annotations

from numpy.typing import DTypeLike

from tinynet.checks import positive_int
from tinynet.layers.base import Layer
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.pooling import AdaptiveAvgPool2D, MaxPool2D
from tinynet.layers.shape import Flatten
from tinynet.model import Sequential

FILTERS = 64, 128, 256, 512, 512  # of each stage, which ends in pooling
COUNTS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # {depth: convolutions}


def vgg(
    depth: int = 16, classes: int = 1000, input_shape: tuple[int, int, int] = (224, 224, 3), *,
    batch_norm: bool = False, units: int = 4096, dropout: float = 0.5, seed: int = 0, dtype: DTypeLike = "float32",
) -> Sequential:  # fmt: skip
    """VGG of 11, 13, 16 or 19 layers with weights: images (N, 224, 224, 3), or of 32 pixels and more, -> logits.

    batch_norm   True puts a BatchNorm behind each convolution, which the paper, being older, does not have
    units        of the two wide layers at the end; 512 are enough for small images
    dropout      of these

    Source: Simonyan and Zisserman 2015, table 1 (A, B, D and E).

    >>> tn.zoo.vgg(11, classes=10, input_shape=(32, 32, 3)).output_shape
    (10,)
    """
    if positive_int(depth, "vgg: depth") not in COUNTS:
        raise ValueError(f"vgg: depth must be one of {', '.join(map(str, COUNTS))}, got {depth!r}")
    layers: list[Layer] = []
    for filters, count in zip(FILTERS, COUNTS[depth], strict=True):
        for _ in range(count):
            if batch_norm:
                layers += [Conv2D(filters, 3, padding=1, init="he_out"), BatchNorm(activation="relu")]
            else:
                layers += [Conv2D(filters, 3, padding=1, init="he_out", activation="relu")]
        layers += [MaxPool2D(2)]
    layers += [AdaptiveAvgPool2D(7), Flatten()]
    for _ in range(2):
        layers += [Dense(units, "relu"), Dropout(dropout)]
    return Sequential([*layers, Dense(classes)], input_shape, seed, dtype)
