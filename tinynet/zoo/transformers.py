"""Transformers: GPT-2 and BERT, of words, and ViT, of patches of an image.

model = tn.zoo.gpt2(vocabulary=65, length=64, layers=4, heads=4, dim=128)
tn.interop.from_torch(model, network)    weights of the `transformers` package's GPT2LMHeadModel, by their names
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from tinynet.checks import pair
from tinynet.layers.class_token import ClassToken, Select
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.embedding import Embedding
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.parameter import Parameter
from tinynet.layers.position_embedding import PositionEmbedding
from tinynet.layers.shape import Reshape
from tinynet.layers.tied_dense import TiedDense
from tinynet.layers.transformer import TransformerBlock
from tinynet.model import Sequential


def gpt2(
    vocabulary: int = 50257, length: int = 1024, layers: int = 12, heads: int = 12, dim: int = 768, *,
    dropout: float = 0.0, bias: bool = True, activation: str = "gelu_tanh", seed: int = 0,
    dtype: DTypeLike = "float32",
) -> Sequential:  # fmt: skip
    """GPT-2, by default its smallest: words (N, T) -> logits (N, T, vocabulary) for each next word, T <= length.

    bias         False leaves all biases out, those of LayerNorm too
    activation   GPT-2's, or "gelu" for nanoGPT's

    Weights start normal with deviation 0.02; those of the last matrix in front of each sum with 0.02 / sqrt(2 layers),
    for that many outputs add up.

    Source: Radford et al. 2019, section 2.3.

    >>> model = tn.zoo.gpt2(vocabulary=65, length=64, layers=4, heads=4, dim=128)
    >>> model.flat_values.size
    809856
    """
    words, drop = Embedding(vocabulary, dim), [Dropout(dropout)] if dropout else []
    blocks = [
        TransformerBlock(heads, causal=True, dropout=dropout, activation=activation, bias=bias) for _ in range(layers)
    ]
    parts = [words, PositionEmbedding(length), *drop, *blocks, LayerNorm(bias=bias), TiedDense(words)]
    model = Sequential(parts, length, seed, dtype)
    _start_normal(model)
    for block in blocks:
        for residual in block.layers:
            matrices: list[Parameter] = [parameter for parameter in residual.parameters if parameter.value.ndim == 2]
            matrices[-1].value = matrices[-1].value / math.sqrt(2 * layers)
    return model


def bert(
    vocabulary: int = 30522, length: int = 512, layers: int = 12, heads: int = 12, dim: int = 768, *,
    mlp_ratio: float = 4, dropout: float = 0.0, head: bool = False, seed: int = 0, dtype: DTypeLike = "float32",
) -> Sequential:  # fmt: skip
    """BERT, by default its base: words (N, T) -> a vector for each, (N, T, dim), T <= length.

    head   True adds what BERT is trained with, logits (N, T, vocabulary) for words that were masked

    Texts of unequal length are a pair (x, lengths).  There is one segment: the vector that BERT adds to all words of
    the first one is part of the position's.  Weights start normal with deviation 0.02.

    Source: Devlin et al. 2019, section 3.

    >>> tn.zoo.bert(vocabulary=100, length=10, layers=1, heads=2, dim=8).output_shape
    (10, 8)
    """
    words, drop = Embedding(vocabulary, dim), [Dropout(dropout)] if dropout else []
    blocks = [
        TransformerBlock(heads, dropout=dropout, mlp_ratio=mlp_ratio, norm_first=False, eps=1e-12)
        for _ in range(layers)
    ]
    last = [Dense(dim, "gelu"), LayerNorm(1e-12), TiedDense(words, bias=True)] if head else []
    model = Sequential([words, PositionEmbedding(length), LayerNorm(1e-12), *drop, *blocks, *last], length, seed, dtype)
    _start_normal(model)
    return model


def vit(
    classes: int = 1000, input_shape: tuple[int, int, int] = (224, 224, 3), *, patch: int | tuple[int, int] = 16,
    layers: int = 12, heads: int = 3, dim: int = 192, mlp_ratio: float = 4, dropout: float = 0.0,
    seed: int = 0, dtype: DTypeLike = "float32",
) -> Sequential:  # fmt: skip
    """A vision transformer, by default ViT-tiny: images (N, 224, 224, 3) -> logits (N, classes).

    patch   the size of the patches into which an image is cut, each a position of the sequence.  What is left over on
            the right and below is not seen

    ViT-base has heads=12 and dim=768.  Weights start normal with deviation 0.02.

    Sources: Dosovitskiy et al. 2021, section 3.1; its tiny form, Touvron et al. 2021, table 1.

    >>> tn.zoo.vit(classes=10, input_shape=(32, 32, 3), patch=4, layers=2).output_shape
    (10,)
    """
    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3:
        raise ValueError(f"vit: input_shape must be that of an image, (H, W, C), got {input_shape!r}")
    rows, columns = (size // window for size, window in zip(input_shape, pair(patch, "vit: patch"), strict=False))
    if rows * columns == 0:
        raise ValueError(f"vit: a patch of {patch} does not fit into images of {input_shape[:2]}")
    patches = [Conv2D(dim, patch, stride=patch), Reshape((rows * columns, dim))]
    parts = [*patches, ClassToken(), PositionEmbedding(rows * columns + 1), *([Dropout(dropout)] if dropout else [])]
    parts += [TransformerBlock(heads, dropout=dropout, mlp_ratio=mlp_ratio, eps=1e-6) for _ in range(layers)]
    model = Sequential([*parts, LayerNorm(1e-6), Select(0), Dense(classes)], input_shape, seed, dtype)
    _start_normal(model)
    return model


def _start_normal(model, deviation=0.02):
    rng = np.random.default_rng(model.seed)
    for parameter in model.parameters():
        if parameter.value.ndim == 2:
            parameter.value = rng.normal(0, deviation, parameter.value.shape)
