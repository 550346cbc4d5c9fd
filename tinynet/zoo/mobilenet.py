"""MobileNetV2: a convolution in two cheap parts, one for each channel alone and one that mixes them.

    a block   y = x + f(x)     f: 1x1 to 6 times as many channels, ReLU6,
                                  3x3 of each channel by itself ("depthwise"), ReLU6,
                                  1x1 to few channels, which nothing bends: a ReLU would lose there what it sets to 0

each followed by BatchNorm.  Where f changes the size, y = f(x).  A 3x3 convolution of 384 channels takes 9 x 384^2
multiplications a pixel; these two parts take 9 x 384 and 64 x 384.
"""

from __future__ import annotations

from numpy.typing import DTypeLike

from tinynet.checks import number_within
from tinynet.layers.blocks import Residual
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.pooling import GlobalAvgPool2D
from tinynet.model import Sequential
from tinynet.zoo.resnet import convolution

# (widening, channels, blocks, stride of the first of them) of each stage
STAGES = (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)


def mobilenet_v2(
    classes: int = 1000, input_shape: tuple[int, int, int] = (224, 224, 3), *, width: float = 1.0,
    dropout: float = 0.2, seed: int = 0, dtype: DTypeLike = "float32",
) -> Sequential:  # fmt: skip
    """MobileNetV2: images (N, 224, 224, 3), or of 32 pixels and more, -> logits (N, classes).

    width   multiplies the channels everywhere, 0.5 say; they are rounded to a multiple of 8

    Source: Sandler et al. 2018, tables 1 and 2.

    >>> tn.zoo.mobilenet_v2(classes=10, input_shape=(32, 32, 3), width=0.5).output_shape
    (10,)
    """
    width = number_within(width, "mobilenet_v2: width")
    channels = rounded(32 * width)
    layers = convolution(channels, 3, stride=2, activation="relu6")
    for widening, filters, count, first_stride in STAGES:
        filters = rounded(filters * width)
        for index in range(count):
            stride, wide = first_stride if index == 0 else 1, widening * channels
            block = convolution(wide, 1, activation="relu6") if widening > 1 else []
            block += [*convolution(wide, 3, stride, groups=wide, activation="relu6"), *convolution(filters, 1)]
            layers += [Residual(block)] if stride == 1 and channels == filters else block
            channels = filters
    layers += [*convolution(max(1280, rounded(1280 * width)), 1, activation="relu6"), GlobalAvgPool2D()]
    return Sequential([*layers, Dropout(dropout), Dense(classes)], input_shape, seed, dtype)


def rounded(channels):
    """The nearest multiple of 8, which is at least 8 and not below nine tenths of them."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
