"""ResNet: a block adds to its input what its layers make of it, so that the gradient reaches the first of 50 layers.

    basic        y = ReLU(x + f(x))     f: 3x3, BatchNorm, ReLU, 3x3, BatchNorm                        18, 34 layers
    bottleneck   the same with          f: 1x1 to a quarter of the channels, 3x3, 1x1 back, likewise   50, 101, 152

Where a block halves the image and doubles the channels, x goes through a 1x1 convolution and BatchNorm of its own.  The
blocks of 50 layers and more have their stride in the 3x3 convolution, which sees all pixels then; the paper has it in
the first 1x1, which leaves three of four unseen.
"""

from __future__ import annotations

from numpy.typing import DTypeLike

from tinynet.checks import positive_int
from tinynet.layers.activations import ReLU
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Residual
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.pooling import GlobalAvgPool2D, MaxPool2D
from tinynet.model import Sequential

FILTERS = 64, 128, 256, 512  # of each stage
COUNTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # of blocks


def resnet(
    depth: int = 18, classes: int = 1000, input_shape: tuple[int, int, int] = (224, 224, 3), *,
    small_images: bool = False, seed: int = 0, dtype: DTypeLike = "float32",
) -> Sequential:  # fmt: skip
    """ResNet of 18, 34, 50, 101 or 152 layers: images (N, 224, 224, 3) -> logits (N, classes).

    small_images   True begins with a 3x3 convolution in place of 7x7 with stride 2 and pooling, which make an image 16
                   times smaller: as people do it for CIFAR's of 32 x 32

    Source: He et al. 2016, table 1 and section 4.2.

    >>> tn.zoo.resnet(18, classes=10, input_shape=(32, 32, 3), small_images=True).flat_values.size
    11173962
    """
    if positive_int(depth, "resnet: depth") not in COUNTS:
        raise ValueError(f"resnet: depth must be one of {', '.join(map(str, COUNTS))}, got {depth!r}")
    if small_images:
        layers = convolution(64, 3, activation="relu")
    else:
        layers = [*convolution(64, 7, stride=2, activation="relu"), MaxPool2D(3, stride=2, padding=1)]
    channels, block, widening = 64, *((basic, 1) if depth < 50 else (bottleneck, 4))
    for stage, (filters, count) in enumerate(zip(FILTERS, COUNTS[depth], strict=True)):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            changes = stride == 2 or channels != filters * widening
            shortcut = convolution(filters * widening, 1, stride) if changes else None
            layers += [Residual(block(filters, stride), shortcut), ReLU()]
            channels = filters * widening
    return Sequential([*layers, GlobalAvgPool2D(), Dense(classes)], input_shape, seed, dtype)


def basic(filters, stride):
    return [*convolution(filters, 3, stride, activation="relu"), *convolution(filters, 3)]


def bottleneck(filters, stride):
    return [
        *convolution(filters, 1, activation="relu"),
        *convolution(filters, 3, stride, activation="relu"),
        *convolution(4 * filters, 1),
    ]


def convolution(filters, window, stride=1, groups=1, activation=None):
    """A convolution that keeps the size of the image, but for the stride, and BatchNorm, whose b makes its own idle."""
    conv = Conv2D(filters, window, stride, window // 2, bias=False, init="he_out", groups=groups)
    return [conv, BatchNorm(activation=activation)]
