"""DenseNet: each layer sees what all layers before it in its block have found, and adds a few channels to that.

    a dense block   y = [x, f(x)], again and again      f: BatchNorm, ReLU, 1x1 to 4 growth channels,
                                                           BatchNorm, ReLU, 3x3 to `growth` channels
    a transition    BatchNorm, ReLU, 1x1 to half of the channels, and each 2 x 2 pixels become their mean

What was found once is not found again, so layers can be narrow: the network is deep and has few parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import DTypeLike

from tinynet.checks import positive_int
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Concat
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from tinynet.model import Sequential


def densenet(
    blocks: Sequence[int] = (6, 12, 24, 16), growth: int = 32, classes: int = 1000,
    input_shape: tuple[int, int, int] = (224, 224, 3), *, small_images: bool = False, dropout: float = 0.0,
    seed: int = 0, dtype: DTypeLike = "float32",
) -> Sequential:  # fmt: skip
    """DenseNet, by default of 121 layers: images (N, 224, 224, 3) -> logits (N, classes).

    blocks         how many layers each dense block has: (6, 12, 32, 32) for 169, (6, 12, 48, 32) for 201
    growth         how many channels each of them adds; the first convolution gives twice as many
    small_images   True begins with a 3x3 convolution in place of 7x7 with stride 2 and pooling
    dropout        behind each 3x3 convolution

    Source: Huang et al. 2017, section 3 and table 1.

    >>> tn.zoo.densenet((2, 4), growth=8, classes=14, input_shape=(28, 28, 1), small_images=True).output_shape
    (14,)
    """
    if not isinstance(blocks, (list, tuple)) or not blocks:
        raise TypeError(f"densenet: blocks must be a list of numbers of layers, got {blocks!r}")
    blocks = [positive_int(count, "densenet: a number of layers in blocks") for count in blocks]
    channels = 2 * positive_int(growth, "densenet: growth")
    layers = [convolution(channels, 3 if small_images else 7, 1 if small_images else 2), norm()]
    if not small_images:
        layers += [MaxPool2D(3, stride=2, padding=1)]
    for index, count in enumerate(blocks):
        for _ in range(count):
            finds = [norm(), convolution(4 * growth, 1), norm(), convolution(growth, 3)]
            layers += [Concat([*finds, *([Dropout(dropout)] if dropout else [])])]
        channels += count * growth
        layers += [norm()]
        if index < len(blocks) - 1:
            channels //= 2
            layers += [convolution(channels, 1), AvgPool2D(2)]
    return Sequential([*layers, GlobalAvgPool2D(), Dense(classes)], input_shape, seed, dtype)


def convolution(filters, window, stride=1):
    return Conv2D(filters, window, stride, window // 2, bias=False, init="he")


def norm():
    return BatchNorm(activation="relu")
