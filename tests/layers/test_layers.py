"""Every layer, from one table of cases: against its plain loops, central differences and PyTorch; and its promises."""

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F

import tinynet as tn
from tinynet import interop
from tinynet.kernels import conv2d, conv2d_rows, convolution, few_filters, winograd, winograd_whole
from tinynet.kernels.compile import plain_loops
from tinynet.kernels.matmul import THREADS_FROM
from tinynet.kernels.vectors import lanes_of
from tinynet.layers.activations import ACTIVATIONS, GELU, LeakyReLU, ReLU, Sigmoid, Swish, Tanh
from tinynet.layers.attention import MultiHeadAttention
from tinynet.layers.base import Layer
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Concat, Residual
from tinynet.layers.class_token import ClassToken, Select
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.groupnorm import GroupNorm
from tinynet.layers.gru import GRU
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.lstm import LSTM
from tinynet.layers.parallel import Parallel
from tinynet.layers.pooling import AdaptiveAvgPool2D, AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, MaxPool2D
from tinynet.layers.pooling_over_time import GlobalAvgPool1D, GlobalMaxPool1D
from tinynet.layers.position_embedding import PositionEmbedding
from tinynet.layers.shape import Flatten, Reshape
from tinynet.layers.softmax import Softmax, softmax_backward_plain, softmax_forward, softmax_jacobian
from tinynet.layers.transformer import TransformerBlock
from tinynet.model import Sequential

SEED = 3
KEY = int(np.random.default_rng(SEED).integers(2**63))  # what a Dropout built with this seed draws


@dataclass
class Case:
    """A layer, the shape (N, ...) of its input, and the same in PyTorch, as a function of x, *parameters."""

    name: str
    layer: Callable[[], Layer]
    shape: tuple
    torch: Callable | None  # takes and returns channels last; None where PyTorch has no such layer


# --- the table --------------------------------------------------------------------------------------------

TORCH = {
    None: lambda z: z,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "swish": F.silu,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
}
LAYERS = {"relu": ReLU, "leaky_relu": LeakyReLU, "sigmoid": Sigmoid, "tanh": Tanh, "gelu": GELU, "swish": Swish}
LAYERS |= {"elu": tn.ELU, "selu": tn.SELU, "softplus": tn.Softplus, "relu6": tn.ReLU6}


def channels_first(function):
    """The torch function of images (N, C, H, W), for images (N, H, W, C)."""
    return lambda x, *p: function(x.permute(0, 3, 1, 2), *p).permute(0, 2, 3, 1)


def dense_case(shape, units, act=None, bias=True):
    return Case(
        f"Dense {shape}->{units} {act or 'linear'}{'' if bias else ' without bias'}",
        lambda: Dense(units, activation=act, bias=bias),
        shape,
        lambda x, w, b=0: TORCH[act](x @ w + b),
    )


def conv2d_case(shape, filters, size, stride=1, padding="valid", act=None, bias=True, **options):
    (I, J), (s, r) = ((v, v) if isinstance(v, int) else v for v in (size, stride))

    def in_torch(x, w, b=None):
        w = w.permute(3, 2, 0, 1)
        if padding == "same":
            totals = [max((-(-n // t) - 1) * t + k - n, 0) for n, t, k in ((x.shape[3], r, J), (x.shape[2], s, I))]
            x = F.pad(x, [half for total in totals for half in (total // 2, total - total // 2)])
        zeros = 0 if isinstance(padding, str) else padding
        if isinstance(zeros, tuple) and isinstance(zeros[0], tuple):
            x, zeros = F.pad(x, [*zeros[1], *zeros[0]]), 0
        y = F.conv2d(x.contiguous(), w.contiguous(), b, (s, r), zeros, **options)
        return TORCH[act](y)

    return Case(
        f"Conv2D {shape}->{filters} window {size} stride {stride} {padding} {act or 'linear'}"
        + ("" if bias else " without bias")
        + "".join(f", {name} {value}" for name, value in options.items()),
        lambda: Conv2D(filters, size, stride=stride, padding=padding, activation=act, bias=bias, **options),
        shape,
        channels_first(in_torch),
    )


def conv2d_cases():
    sizes, strides, paddings = (1, 2, 3, 5, (3, 2), (1, 5)), (1, 2, 3, (2, 1)), ("valid", "same", 1)
    for k, (size, stride, padding) in enumerate(itertools.product(sizes, strides, paddings)):
        channels, filters = (1, 3, 5, 16, 33)[k % 5], (4, 1, 17)[k // 3 % 3]
        yield conv2d_case((1 + k % 2, 9, 7, channels), filters, size, stride, padding)
    for act in ACTIVATIONS:
        yield conv2d_case((2, 6, 6, 3), 8, 3, 1, "same", act)
    yield conv2d_case((3, 8, 8, 4), 5, 3, padding="same", bias=False)
    yield conv2d_case((3, 7, 7, 4), 16, 3, stride=2, act="relu", bias=False)
    yield conv2d_case((1, 6, 5, 2), 3, 3, padding=(0, 2))
    yield conv2d_case((2, 3, 3, 2), 40, 3)
    yield conv2d_case((2, 2, 1, 3), 4, (5, 1), stride=(1, 9), padding=2)  # every window lies beside the image
    # These have few filters for their rows; the gradient of the input has few channels too, or many.
    yield conv2d_case((2, 9, 32, 3), 2, 5, act="relu")
    yield conv2d_case((1, 12, 17, 1), 2, (3, 2), padding="same", act="tanh")
    yield conv2d_case((3, 3, 50, 20), 1, 3, padding=(2, 1), bias=False)
    yield conv2d_case((17, 4, 31, 2), 3, (1, 4), padding=(0, 3))
    yield conv2d_case((2, 5, 33, 4), 7, 3, padding="same", act="relu")
    # Its pixels are narrow, and some rows lie under no window.
    yield conv2d_case((2, 7, 9, 3), 16, (1, 3), stride=(2, 1))
    # A column, and windows of one pixel.
    yield conv2d_case((2, 19, 1, 20), 33, (5, 1), padding=(2, 0), act="relu")
    yield conv2d_case((2, 5, 4, 18), 34, 1)
    yield conv2d_case((2, 7, 9, 18), 34, 1, stride=(2, 3), act="relu")
    yield conv2d_case((2, 4, 5, 6), 7, 1, stride=3, padding=((0, 4), (0, 0)))  # some positions are beside the image
    # These are wide enough for Winograd's method: patches that are partly outside, of several images, odd channels, no
    # padding.
    yield conv2d_case((2, 7, 9, 32), 35, 3, padding="same", act="relu")
    yield conv2d_case((1, 5, 6, 34), 32, 3, padding=2)
    yield conv2d_case((3, 8, 12, 33), 37, 3, padding=1, act="tanh")
    yield conv2d_case((2, 10, 6, 32), 40, 3, padding="valid", bias=False)
    yield conv2d_case((1, 32, 32, 32), 32, 3, padding="same", act="relu")
    yield conv2d_case((3, 4, 4, 70), 65, 3, padding="same", act="relu")  # a single patch
    yield conv2d_case((2, 4, 4, 290), 33, 3, padding=1)  # of more channels than are summed at once
    # Padding that differs by side; pixels that are apart; groups, and with one for each channel.
    yield conv2d_case((2, 6, 5, 3), 4, 3, stride=2, padding=((0, 1), (2, 0)), act="relu")
    yield conv2d_case((2, 7, 9, 3), 4, 3, padding=2, act="relu", dilation=2)
    yield conv2d_case((1, 11, 9, 5), 17, (3, 2), stride=(2, 3), padding=(3, 1), bias=False, dilation=(4, 2))
    yield conv2d_case((1, 9, 8, 32), 32, 3, padding=2, act="tanh", dilation=2)
    yield conv2d_case((2, 5, 6, 6), 4, 3, padding=1, act="relu", groups=2)
    yield conv2d_case((1, 8, 7, 4), 6, 2, stride=2, bias=False, groups=2, dilation=(2, 3))
    yield conv2d_case((2, 7, 9, 5), 5, 3, padding=1, act="relu", groups=5)
    yield conv2d_case((1, 6, 13, 32), 32, 3, padding=1, groups=32)
    yield conv2d_case((2, 9, 8, 20), 20, 3, stride=2, padding=1, act="relu", groups=20)
    yield conv2d_case((1, 8, 9, 3), 6, (5, 2), stride=(1, 2), padding=((2, 1), (0, 3)), groups=3, bias=False)
    yield conv2d_case((2, 7, 8, 18), 18, 3, padding=2, act="gelu", groups=18, dilation=2)


def pool_case(kind, shape, size, stride=None, **options):
    layer, in_torch = (MaxPool2D, F.max_pool2d) if kind == "max" else (AvgPool2D, F.avg_pool2d)
    return Case(
        f"{layer.__name__} {shape} window {size} stride {stride} {', '.join(f'{k} {v}' for k, v in options.items())}",
        lambda: layer(size, stride, **options),
        shape,
        channels_first(lambda x: in_torch(x, size, stride, **options)),
    )


def pool_cases():
    for kind in ("max", "avg"):
        yield pool_case(kind, (2, 6, 8, 3), 2)
        yield pool_case(kind, (2, 8, 4, 32), 2)
        yield pool_case(kind, (1, 7, 5, 17), 2)
        yield pool_case(kind, (2, 5, 9, 6), 2)
        yield pool_case(kind, (17, 4, 6, 8), 2)
        yield pool_case(kind, (1, 5, 4, 40), 2, (1, 2))
        yield pool_case(kind, (3, 9, 6, 1), 3)
        yield pool_case(kind, (2, 9, 7, 5), 3, 2)
        yield pool_case(kind, (1, 5, 5, 16), 2, 1)
        yield pool_case(kind, (1, 8, 9, 18), 2, 3)
        yield pool_case(kind, (1, 8, 7, 4), (3, 2), (1, 2))
        yield pool_case(kind, (2, 4, 4, 3), 4)
        yield pool_case(kind, (1, 5, 6, 2), 1)
        yield pool_case(kind, (1, 20, 20, 2), 17)  # 289 numbers in the window: more than a byte can tell apart
        yield pool_case(kind, (2, 9, 8, 20), 3, 2, padding=1)
        yield pool_case(kind, (2, 5, 6, 32), 2, padding=1)
        yield pool_case(kind, (1, 8, 7, 3), 3, 2, padding=(1, 0), ceil_mode=True)
        yield pool_case(kind, (1, 5, 9, 17), 2, ceil_mode=True)
        yield pool_case(kind, (1, 6, 6, 2), 2, 3, padding=1, ceil_mode=True)  # no window may begin behind the image
        yield pool_case(kind, (1, 19, 18, 2), 17, 1, padding=8)
    yield pool_case("max", (2, 9, 7, 16), 3, 1, padding=1, dilation=2)
    yield pool_case("max", (2, 8, 11, 5), (2, 3), (3, 2), padding=(0, 1), dilation=(3, 2), ceil_mode=True)
    yield pool_case("avg", (2, 7, 8, 5), 3, 2, padding=1, count_include_pad=False)
    yield pool_case("avg", (1, 6, 9, 3), (2, 4), 3, padding=(1, 2), ceil_mode=True, count_include_pad=False)
    for size in (1, 3, (4, 2), (7, 9)):
        yield Case(
            f"AdaptiveAvgPool2D {size}",
            lambda size=size: AdaptiveAvgPool2D(size),
            (2, 6, 7, 5),
            channels_first(lambda x, size=size: F.adaptive_avg_pool2d(x, size)),
        )


def recurrent_case(kind, shape, units, bidirectional=False, return_sequences=True):
    D = 1 + bidirectional

    def in_torch(x, *p):
        arrays, kinds = [], len(p) // D
        for d in range(D):
            w, u, b, *b_n = p[d * kinds : (d + 1) * kinds]
            hidden = torch.cat([torch.zeros_like(b[: 2 * units]), *b_n]) if b_n else torch.zeros_like(b)
            arrays += [w.T.contiguous(), u.T.contiguous(), b, hidden]
        zeros = x.new_zeros(D, len(x), units)
        function, state = (torch.gru, zeros) if kind is GRU else (torch.lstm, (zeros, zeros))
        y, last, *_ = function(x, state, arrays, True, 1, 0.0, True, bidirectional, True)
        return y if return_sequences else last.transpose(0, 1).flatten(1)

    options = (" both ways" if bidirectional else "") + ("" if return_sequences else " at last")
    return Case(
        f"{kind.__name__} {shape}->{units}{options}",
        lambda: kind(units, bidirectional, return_sequences),
        shape,
        in_torch,
    )


def recurrent_cases():
    for kind in (LSTM, GRU):
        yield recurrent_case(kind, (3, 4, 5), 6)
        yield recurrent_case(kind, (5, 9, 20), 18, bidirectional=True)
        yield recurrent_case(kind, (34, 2, 3), 33, bidirectional=True, return_sequences=False)
        yield recurrent_case(kind, (2, 5, 1), 1)


def channels_in_the_middle(function):
    """The torch function of sequences (N, C, T), for sequences (N, T, C)."""
    return lambda x, *p: function(x.permute(0, 2, 1), *p).permute(0, 2, 1)


def conv1d_case(shape, filters, size, stride=1, padding="valid", act=None, bias=True, **options):
    def in_torch(x, w, b=None):
        zeros = (0, 0) if padding == "valid" else (padding, padding) if isinstance(padding, int) else padding
        if padding == "causal":
            zeros = (size - 1) * options.get("dilation", 1), 0
        if padding == "same":
            total = max((-(-x.shape[2] // stride) - 1) * stride + (size - 1) * options.get("dilation", 1) + 1, 0)
            total = max(total - x.shape[2], 0)
            zeros = total // 2, total - total // 2
        return TORCH[act](F.conv1d(F.pad(x, zeros), w.permute(2, 1, 0), b, stride, **options))

    return Case(
        f"Conv1D {shape}->{filters} window {size} stride {stride} {padding} {act} bias {bias} {options}",
        lambda: tn.Conv1D(filters, size, stride, padding, act, bias, **options),
        shape,
        channels_in_the_middle(in_torch),
    )


def along_time_cases():
    yield conv1d_case((3, 9, 5), 4, 3, act="relu")
    yield conv1d_case((2, 11, 6), 4, 3, 2, "same", "gelu", groups=2)
    yield conv1d_case((2, 8, 3), 17, 2, padding=(4, 0), bias=False, dilation=4)
    yield conv1d_case((2, 8, 20), 20, 5, padding=2, groups=20)
    yield conv1d_case((2, 7, 4), 3, 3, padding="causal", dilation=2)
    for options in ((2,), (3, 2, 1), (3, 1, 1, 2), (3, 2, 1, 1, True)):
        in_torch = channels_in_the_middle(lambda x, options=options: F.max_pool1d(x, *options))
        yield Case(f"MaxPool1D {options}", lambda options=options: tn.MaxPool1D(*options), (2, 10, 6), in_torch)
    for options in ((2,), (3, 2, 1), (3, 2, 1, True, False)):
        in_torch = channels_in_the_middle(lambda x, options=options: F.avg_pool1d(x, *options))
        yield Case(f"AvgPool1D {options}", lambda options=options: tn.AvgPool1D(*options), (2, 10, 6), in_torch)


def larger_image_cases():
    def transposed(shape, filters, *options, act=None, bias=True):
        return Case(
            f"ConvTranspose2D {shape}->{filters} {options} {act}{'' if bias else ' without bias'}",
            lambda: tn.ConvTranspose2D(filters, *options, activation=act, bias=bias),
            shape,
            channels_first(
                lambda x, w, b=None: TORCH[act](F.conv_transpose2d(x, w.permute(3, 2, 0, 1), b, *options[1:]))
            ),
        )

    yield transposed((2, 4, 5, 3), 4, 3)
    yield transposed((2, 4, 3, 5), 3, 4, 2, 1, act="relu")
    yield transposed((1, 3, 4, 6), 17, 3, 2, 1, 1, bias=False)
    yield transposed((2, 3, 3, 2), 2, (1, 2), (3, 2), 0, (2, 0), act="tanh")  # some pixels lie under no window
    yield transposed((1, 5, 4, 3), 4, (3, 5), (1, 2), (2, 3), act="gelu")
    for factor in (2, (3, 1)):
        yield Case(
            f"Upsample2D {factor}",
            lambda factor=factor: tn.Upsample2D(factor),
            (2, 3, 4, 5),
            channels_first(lambda x, factor=factor: F.interpolate(x, scale_factor=factor)),
        )
    for shape in ((5, 3), (2, 4, 5, 3), (2, 7, 3)):
        mean, std = [0.5, -2.0, 3.0], [2.0, 0.1, 1.0]
        yield Case(
            f"Normalize {shape}",
            lambda mean=mean, std=std: tn.Normalize(mean, std),
            shape,
            lambda x, mean=mean, std=std: (x - torch.tensor(mean, dtype=x.dtype)) / torch.tensor(std, dtype=x.dtype),
        )


def block_cases():
    def conv(x, w, b=None, stride=1, padding=0):  # in PyTorch, for images (N, H, W, C)
        return channels_first(lambda x: F.conv2d(x, w.permute(3, 2, 0, 1), b, stride, padding))(x)

    yield Case(
        "Residual of two Dense",
        lambda: Residual([Dense(5, activation="tanh"), Dense(7)]),
        (4, 7),
        lambda x, v, a, w, b: x + torch.tanh(x @ v + a) @ w + b,
    )
    yield Case(
        "Residual with a shortcut of Conv2D",
        lambda: Residual(
            [Conv2D(4, 3, stride=2, padding=1, activation="relu"), Conv2D(6, 3, padding=1)],
            shortcut=[Conv2D(6, 1, stride=2, bias=False)],
        ),
        (2, 6, 7, 3),
        lambda x, v, a, w, b, s: conv(conv(x, v, a, 2, 1).relu(), w, b, 1, 1) + conv(x, s, None, 2),
    )
    yield Case(
        "Residual of ReLU, which keeps what it returns",
        lambda: Residual([ReLU()]),
        (5, 3, 4),
        lambda x: x + x.relu(),
    )
    yield Case(
        "Residual that begins and ends in views",
        lambda: Residual([Flatten(), Dense(12), Reshape((3, 4))]),
        (5, 3, 4),
        lambda x, w, b: x + (x.flatten(1) @ w + b).reshape(x.shape),
    )
    yield Case(
        "Residual of nothing but views",
        lambda: Residual([Flatten(), Reshape((3, 4))], shortcut=[Reshape((3, 4))]),
        (5, 3, 4),
        lambda x: 2 * x,
    )
    yield Case(
        "Concat of Conv2D",
        lambda: Concat([Conv2D(5, 3, padding=1, activation="relu")]),
        (2, 4, 5, 3),
        lambda x, w, b: torch.cat([x, conv(x, w, b, 1, 1).relu()], -1),
    )
    yield Case(
        "Concat of Residual of Concat",
        lambda: Concat([Residual([Concat([Dense(3, activation="gelu")]), Dense(4)]), Tanh()]),
        (6, 4),
        lambda x, v, a, w, b: torch.hstack([x, torch.tanh(x + torch.hstack([x, F.gelu(x @ v + a)]) @ w + b)]),
    )
    yield Case(
        "Parallel windows of three widths",
        lambda: Parallel([[Conv2D(4, (k, 1), activation="relu"), GlobalMaxPool2D()] for k in (2, 3, 4)]),
        (3, 6, 1, 5),
        lambda x, *p: torch.hstack([conv(x, *p[k : k + 2]).relu().amax((1, 2)) for k in (0, 2, 4)]),
    )
    yield Case(
        "Parallel of x, x again and a view",
        lambda: Parallel([[], [Sigmoid()], [], [Reshape((2, 3))]]),
        (4, 2, 3),
        lambda x: torch.cat([x, x.sigmoid(), x, x], -1),
    )
    yield Case(
        "Parallel of one branch, a view",
        lambda: Parallel([[Flatten()]]),
        (4, 2, 3),
        lambda x: x.flatten(1),
    )


def attention(x, w, b, w_out, b_out, heads, causal=False):
    """Self-attention in PyTorch."""
    q, k, v = ((x @ w + b).unflatten(-1, (3, heads, -1))).permute(2, 0, 3, 1, 4)
    o = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return o.transpose(1, 2).flatten(2) @ w_out + b_out


def attention_cases():
    for shape, heads, causal in [((3, 7, 6), 2, False), ((2, 37, 20), 4, True), ((2, 1, 3), 1, True)]:
        yield Case(
            f"MultiHeadAttention {shape} in {heads}{' causal' if causal else ''}",
            lambda heads=heads, causal=causal: MultiHeadAttention(heads, causal),
            shape,
            lambda x, *p, heads=heads, causal=causal: attention(x, *p, heads, causal),
        )

    dropped = "MultiHeadAttention with dropout"
    yield Case(dropped, lambda: MultiHeadAttention(2, causal=True, dropout=0.4), (2, 21, 10), None)

    def norm(x, *p):
        return F.layer_norm(x, x.shape[-1:], *p)

    def mlp(x, v, a, w, b, f=F.gelu):
        return f(x @ v + a) @ w + b

    def before(x, n1, m1, w, b, v, a, n2, m2, *p):
        x = x + attention(norm(x, n1, m1), w, b, v, a, 2)
        return x + mlp(norm(x, n2, m2), *p)

    def behind(x, w, b, v, a, n1, m1, k1, a1, k2, a2, n2, m2):
        x = norm(x + attention(x, w, b, v, a, 3, True), n1, m1)
        return norm(x + mlp(x, k1, a1, k2, a2, torch.relu), n2, m2)

    yield Case("TransformerBlock", lambda: TransformerBlock(2), (3, 5, 8), before)
    yield Case(
        "TransformerBlock causal, norms behind",
        lambda: TransformerBlock(3, causal=True, norm_first=False, mlp_ratio=2.5, activation="relu"),
        (2, 9, 6),
        behind,
    )


CASES = [
    *itertools.starmap(dense_case, [((4, 3), 5), ((1, 7), 1), ((33, 20), 17), ((5, 40), 33, None, False)]),
    *itertools.starmap(dense_case, [((3, 1100), 20), ((2, 1100), 3)]),  # so many inputs that tasks are wide
    *(dense_case((6, 5), 9, act) for act in ACTIVATIONS),
    dense_case((6, 5), 9, "relu", bias=False),
    dense_case((3, 5, 7), 6, "relu"),
    dense_case((2, 4, 3, 5), 17, "gelu", bias=False),
    dense_case((2, 1, 2, 3, 4), 1),
    *conv2d_cases(),
    *pool_cases(),
    *along_time_cases(),
    *larger_image_cases(),
    Case("GlobalMaxPool2D", GlobalMaxPool2D, (3, 5, 4, 6), lambda x: x.amax((1, 2))),
    Case("GlobalAvgPool2D", GlobalAvgPool2D, (3, 5, 4, 6), lambda x: x.mean((1, 2))),
    *(Case(f"GlobalMaxPool1D {s}", GlobalMaxPool1D, s, lambda x: x.max(1).values) for s in [(3, 5, 7), (2, 1, 40)]),
    *(Case(f"GlobalAvgPool1D {s}", GlobalAvgPool1D, s, lambda x: x.mean(1)) for s in [(3, 5, 7), (2, 1, 40)]),
    *(Case(layer.__name__, layer, (5, 7), TORCH[name]) for name, layer in LAYERS.items()),
    Case("LeakyReLU slope 0.3", lambda: LeakyReLU(0.3), (2, 3, 4, 5), lambda x: F.leaky_relu(x, 0.3)),
    *(
        Case(f"Softmax {shape}", Softmax, shape, lambda x: torch.softmax(x, -1))
        for shape in [(4, 10), (2, 3, 5), (3, 1), (2, 130)]
    ),
    *(
        Case(
            f"BatchNorm {shape}",
            BatchNorm,
            shape,
            lambda x, w, b: F.batch_norm(x.reshape(-1, len(w)), None, None, w, b, training=True).reshape(x.shape),
        )
        for shape in [(5, 7), (1, 5, 4, 6), (3, 4, 5, 3), (2, 3, 3, 64), (4, 6, 5), (6, 1), (3, 300)]
    ),
    *(
        Case(
            f"BatchNorm {name} {shape}",
            lambda name=name: BatchNorm(activation=name),
            shape,
            lambda x, w, b, name=name: TORCH[name](
                F.batch_norm(x.reshape(-1, len(w)), None, None, w, b, training=True).reshape(x.shape)
            ),
        )
        for name in ("relu", "gelu", "sigmoid")
        for shape in [(5, 7), (3, 4, 5, 3), (2, 3, 3, 64)]
    ),
    Case(
        "BatchNorm eps 0.5",
        lambda: BatchNorm(eps=0.5),
        (4, 3),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True, eps=0.5),
    ),
    *(
        Case(
            f"LayerNorm {shape}",
            LayerNorm,
            shape,
            lambda x, w, b: F.layer_norm(x, w.shape, w, b),
        )
        for shape in [(5, 7), (2, 4, 5, 3), (3, 4, 33), (2, 300)]
    ),
    Case("LayerNorm eps 0.5", lambda: LayerNorm(eps=0.5), (4, 3), lambda x, w, b: F.layer_norm(x, w.shape, w, b, 0.5)),
    *(
        Case(
            f"GroupNorm {shape} in {groups}",
            lambda groups=groups: GroupNorm(groups),
            shape,
            lambda x, w, b, groups=groups: F.group_norm(x.movedim(-1, 1), groups, w, b).movedim(1, -1),
        )
        for shape, groups in [((5, 6), 2), ((2, 4, 5, 12), 3), ((3, 4, 8), 1), ((2, 9, 8, 40), 8), ((3, 7, 4), 4)]
    ),
    *(Case(f"Dropout {rate}", lambda rate=rate: Dropout(rate), (5, 9, 200), None) for rate in (0, 0.3, 0.75, 1)),
    *(
        Case(f"SpatialDropout {shape}", lambda: tn.SpatialDropout(0.4), shape, None)
        for shape in [(5, 3, 4, 6), (4, 3, 7)]
    ),
    Case("ELU alpha 0.3", lambda: tn.ELU(0.3), (5, 7), lambda x: F.elu(x, 0.3)),
    *(
        Case(f"RMSNorm {shape}", tn.RMSNorm, shape, lambda x, w: F.rms_norm(x, w.shape, w, 1e-5))
        for shape in [(5, 7), (2, 4, 5, 3), (2, 300)]
    ),
    Case("RMSNorm alone", lambda: tn.RMSNorm(0.5, affine=False), (3, 4, 6), lambda x: F.rms_norm(x, (6,), None, 0.5)),
    Case("LayerNorm alone", lambda: LayerNorm(affine=False), (3, 4, 6), lambda x: F.layer_norm(x, (6,))),
    Case(
        "GroupNorm alone",
        lambda: GroupNorm(2, affine=False),
        (3, 5, 4, 6),
        channels_first(lambda x: F.group_norm(x, 2)),
    ),
    Case(
        "BatchNorm alone",
        lambda: BatchNorm(affine=False),
        (5, 6),
        lambda x: F.batch_norm(x, None, None, training=True),
    ),
    Case("Flatten", Flatten, (3, 4, 5, 2), lambda x: x.flatten(1)),
    Case("Reshape", lambda: Reshape((5, -1, 2)), (3, 4, 5), lambda x: x.reshape(3, 5, 2, 2)),
    *recurrent_cases(),
    *block_cases(),
    *attention_cases(),
    Case("GELU tanh", lambda: GELU("tanh"), (5, 7), TORCH["gelu_tanh"]),
    Case("PositionEmbedding", lambda: PositionEmbedding(6), (3, 4, 5), lambda x, w: x + w[:4]),
    Case("ClassToken", ClassToken, (3, 4, 5), lambda x, w: torch.cat([w.expand(len(x), 1, -1), x], 1)),
    Case("Select", lambda: Select(1), (3, 4, 5), lambda x: x[:, 1]),
    Case("Select the last", lambda: Select(-1), (3, 4, 5, 2), lambda x: x[:, -1]),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


pytestmark = pytest.mark.usefixtures("one_thread")


def built(case, dtype=np.float64, samples=None):
    """The layer with random parameters, an input and a gradient of its output."""
    rng = np.random.default_rng(SEED)
    layer = case.layer()
    output_shape = layer.build(case.shape[1:], dtype, rng)
    for parameter in layer.parameters:
        parameter.value[...] = rng.normal(0, 1 / math.sqrt(max(1, parameter.value[..., 0].size)), parameter.value.shape)
        parameter.grad[...] = np.nan  # which backward must overwrite, not add to
    samples = samples or case.shape[0]
    x = rng.standard_normal((samples, *case.shape[1:])).astype(dtype)
    g = rng.standard_normal((samples, *output_shape)).astype(dtype)
    return layer, x, g


def enough_for_threads(case):
    """How many samples make every kernel take its threads, those of the layers within a layer too."""
    layer = case.layer()
    layer.build(case.shape[1:], np.float32, np.random.default_rng(SEED))
    multiplications = [inner.flops // 2 for inner in layer.walk() if isinstance(inner, (Dense, Conv2D))]
    multiplications += [inner.flops // 16 for inner in layer.walk() if isinstance(inner, (LSTM, GRU))]  # of one product
    return max(2, 70_000 // math.prod(case.shape[1:]), *(-(-THREADS_FROM // count) for count in multiplications))


def forward(layer, x):
    """In training, and always as the first step: a Dropout drops the same numbers."""
    if layer.state is not None:
        layer.state = KEY, 0
    return layer.forward(x, training=True)


def assert_close(found, expected, tolerance):
    """Equal within `tolerance`, relative to the largest number there is."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=1e-300)


def test_the_table_has_every_layer_but_those_of_words():
    kinds = {kind for kind in vars(tn).values() if isinstance(kind, type) and issubclass(kind, Layer)}
    assert {type(layer) for case in CASES for layer in case.layer().walk()} == kinds - {
        Layer,
        tn.Embedding,
        tn.TiedDense,
    }


# --- right ------------------------------------------------------------------------------------------------


def use_plain_loops(monkeypatch):
    """From now on layers call their plain loops, as with NUMBA_DISABLE_JIT=1; returns the names of those there are."""
    found = []
    for module in [module for name, module in sys.modules.items() if name.startswith("tinynet.layers.")]:
        for name, value in vars(module).copy().items():
            if callable(value) and value in plain_loops:
                monkeypatch.setattr(module, name, plain_loops[value])
                found.append(name)
    return found


@every_case
@both_dtypes
def test_the_kernels_compute_what_the_plain_loops_do(case, dtype, monkeypatch):
    """These in float64, whatever the kernels' dtype."""
    layer, x, g = built(case, dtype)
    plain, _, _ = built(case)
    for parameter, other in zip(plain.parameters, layer.parameters, strict=True):
        parameter.value[...] = other.value
    y, dx = forward(layer, x), layer.backward(g)
    assert y.dtype == dx.dtype == dtype
    assert y.shape == (len(x), *layer.output_shape)
    use_plain_loops(monkeypatch)
    expected_y, expected_dx = forward(plain, x), plain.backward(g)
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    assert_close(y, expected_y, tolerance)
    assert_close(dx, expected_dx, tolerance)
    for parameter, other in zip(layer.parameters, plain.parameters, strict=True):
        assert parameter.grad.dtype == dtype
        assert_close(parameter.grad, other.grad, 5 * tolerance)  # such sums may cancel


def test_these_layers_have_plain_loops(monkeypatch):
    layers = ["dense", "conv2d", "max_pool", "avg_pool", "mean_over_time", "max_over_time", "embedding"]
    layers += ["softmax", "dropout", "lstm", "gru"]
    assert {f"{name}_{way}" for name in layers for way in ("forward", "backward")} <= set(use_plain_loops(monkeypatch))


@every_case
def test_the_gradients_are_what_central_differences_say(case):
    layer, x, g = built(case)
    forward(layer, x)
    dx = layer.backward(g)
    rng = np.random.default_rng(0)
    for array, gradient in [(x, dx), *((p.value, p.grad.copy()) for p in layer.parameters)]:
        flat, h = array.reshape(-1), 1e-5
        entries = np.arange(flat.size) if flat.size <= 25 else rng.choice(flat.size, 25, replace=False)
        slopes = []
        for entry in entries:
            middle = flat[entry]
            flat[entry] = middle + h
            above = forward(layer, x).copy()  # a Flatten returns a view of x
            flat[entry] = middle - h
            slopes.append(np.sum((above - forward(layer, x)) * g) / (2 * h))
            flat[entry] = middle
        assert gradient.shape == array.shape
        assert np.abs(gradient.reshape(-1)[entries] - slopes).max() <= 1e-7 * np.abs(gradient).max(), array.shape


OF_A_KIND = {(type(case.layer()).__name__, len(case.shape)): case for case in CASES if case.torch}
del OF_A_KIND["Flatten", 4]  # whose numbers are in another order there
for kind in ("PositionEmbedding", "ClassToken", "Select", "Normalize"):  # which PyTorch lacks
    OF_A_KIND = {key: case for key, case in OF_A_KIND.items() if key[0] != kind}


@pytest.mark.parametrize("case", OF_A_KIND.values(), ids=lambda case: case.name)
def test_it_becomes_a_module_of_pytorchs_and_comes_back(case):
    def with_numbers(seed):
        model = Sequential([case.layer()], case.shape[1:], seed, "float64")
        rng = np.random.default_rng(seed)
        model.flat_values = rng.normal(1, 0.5, model.flat_values.shape)
        for buffer in model.buffers().values():
            buffer[...] = rng.uniform(1, 2, buffer.shape)
        return model

    def first(x):  # PyTorch's layout of images
        return np.moveaxis(x, -1, 1) if x.ndim == 4 else x

    model, other = with_numbers(1), with_numbers(2)
    module = interop.to_torch_module(model).eval()
    x = np.random.default_rng(0).standard_normal(case.shape)
    y = module(torch.from_numpy(first(x).copy())).detach().numpy()
    assert np.allclose(y, first(model.predict(x)), rtol=1e-9, atol=1e-12)
    interop.from_torch(other, module)
    assert np.array_equal(other.predict(x), model.predict(x))


@pytest.mark.parametrize("case", [case for case in CASES if case.torch], ids=lambda case: case.name)
@both_dtypes
def test_output_and_gradients_agree_with_pytorch(case, dtype):
    assert_agrees_with_pytorch(case, *built(case, dtype), 1e-10 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name.startswith(("Dense", "Conv2D", "LSTM", "GRU"))],
    ids=lambda case: case.name,
)
def test_so_many_samples_that_threads_take_them_agree_with_pytorch_too(case):
    assert_agrees_with_pytorch(case, *built(case, samples=enough_for_threads(case)), 1e-10)


def assert_agrees_with_pytorch(case, layer, x, g, tolerance):
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, *(p.value for p in layer.parameters))]
    expected = case.torch(*tensors)
    expected.backward(torch.from_numpy(g))
    assert_close(forward(layer, x), expected.detach().numpy(), tolerance)
    dx = layer.backward(g)
    for found, tensor in zip((dx, *(p.grad for p in layer.parameters)), tensors, strict=True):
        assert found.dtype == x.dtype
        assert_close(found, tensor.grad.numpy(), tolerance)


# --- promises that every layer keeps ----------------------------------------------------------------------


@every_case
def test_one_thread_and_two_give_the_same_bits_and_so_does_a_sample_alone(case):
    layer, x, g = built(case, np.float32, samples=enough_for_threads(case))
    results = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        y, dx = forward(layer, x), layer.backward(g)
        results.append([y.copy(), dx.copy(), *(p.grad.copy() for p in layer.parameters)])
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)
    if (
        not isinstance(layer, (Dropout, BatchNorm)) and "dropout" not in case.name
    ):  # a mask belongs to the place in the batch, a mean to all of it
        y, dx = results[0][:2]
        for n in (0, len(x) // 2, len(x) - 1):
            assert np.array_equal(forward(layer, x[n : n + 1])[0], y[n])
            assert np.array_equal(layer.backward(g[n : n + 1])[0], dx[n])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_some_cases_are_convolved_in_each_way(dtype):
    layers = [built(case, dtype)[0] for case in CASES if case.name.startswith("Conv2D")]
    ways = [way(layer) for layer in layers]
    assert ways.count(few_filters) >= (4 if lanes_of(np.dtype(dtype)) >= 8 else 0)
    assert ways.count(winograd) + ways.count(winograd_whole) >= 4
    assert {winograd, conv2d, conv2d_rows} <= set(ways)
    if winograd_whole.fits((8, 8, 32), 32, np.dtype(dtype).itemsize):  # some L2 caches are too small
        assert winograd_whole in ways


def way(layer):
    """The module of kernels/ that convolves for a Conv2D."""
    return convolution.way(
        layer.parameters[0].value.shape, layer.stride, layer._before, layer.output_shape[:2], layer.dtype
    )


@every_case
def test_what_is_returned_stays_as_it_was_and_what_is_given_too(case):
    layer, x, g = built(case)
    x_before, g_before = x.copy(), g.copy()
    y = forward(layer, x)
    dx = layer.backward(g)
    predicted = layer.forward(x)
    copies = y.copy(), dx.copy(), predicted.copy()
    forward(layer, -x)
    layer.backward(2 * g)
    layer.forward(3 * x)
    assert np.array_equal(x, x_before)
    assert np.array_equal(g, g_before)
    for array, copy in zip((y, dx, predicted), copies, strict=True):
        assert np.array_equal(array, copy)
        assert isinstance(layer, Reshape) or not (np.shares_memory(array, x) or np.shares_memory(array, g))


@every_case
def test_any_layout_of_the_arrays_gives_the_same_bits(case):
    layer, x, g = built(case)
    y, dx = forward(layer, x).copy(), layer.backward(g).copy()
    grads = [p.grad.copy() for p in layer.parameters]
    for change in (every_second, np.asfortranarray, big_endian, read_only, unaligned):
        assert np.array_equal(forward(layer, change(x)), y)
        assert np.array_equal(layer.backward(change(g)), dx)
        for parameter, grad in zip(layer.parameters, grads, strict=True):
            assert np.array_equal(parameter.grad, grad)


def every_second(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan)
    wide[..., ::2] = a
    return wide[..., ::2]


def big_endian(a):
    return a.astype(a.dtype.newbyteorder(">"))


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


def unaligned(a):
    return np.frombuffer(b"." + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)


@every_case
def test_backward_before_a_training_forward_is_an_error(case):
    layer, x, g = built(case)
    layer.forward(x)
    with pytest.raises(RuntimeError, match=r"backward needs forward\(x, training=True\) first"):
        layer.backward(g)


@every_case
def test_predicting_leaves_no_state(case):
    layer, x, g = built(case)
    forward(layer, x)
    before = dict(vars(layer))
    dx = layer.backward(g).copy()
    layer.forward(2 * x[:1])
    assert vars(layer).keys() == before.keys()
    assert all(vars(layer)[name] is before[name] for name in before)
    assert np.array_equal(layer.backward(g), dx)


@every_case
def test_without_input_grad_backward_returns_none_and_fills_the_same_gradients(case):
    layer, x, g = built(case)
    forward(layer, x)
    layer.backward(g)
    grads = [p.grad.copy() for p in layer.parameters]
    for parameter in layer.parameters:
        parameter.grad[...] = np.nan
    assert layer.backward(g, input_grad=False) is None
    for parameter, grad in zip(layer.parameters, grads, strict=True):
        assert np.array_equal(parameter.grad, grad)


@every_case
def test_an_empty_batch_gives_an_empty_output_and_gradients_of_zero(case):
    layer, x, g = built(case)
    y = forward(layer, x[:0])
    assert y.shape == (0, *layer.output_shape)
    assert layer.backward(g[:0]).shape == (0, *layer.input_shape)
    assert all(not p.grad.any() for p in layer.parameters)


@every_case
def test_a_wrong_shape_is_refused_by_name(case):
    layer, x, g = built(case)
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}: expected input \(N, .*got"):
        layer.forward(x[..., None])
    forward(layer, x)
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}: expected the gradient of its output"):
        layer.backward(g[..., None])
    with pytest.raises(TypeError, match=rf"{type(layer).__name__}: the input must hold real numbers"):
        layer.forward(x.astype(complex))


@every_case
def test_it_says_its_formula(case):
    layer, _, _ = built(case)
    assert layer.formula().startswith("y = ")
    assert layer.flops >= 0


# --- activations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["leaky_relu", "sigmoid", "tanh", "elu", "selu"]
)  # the others can't, or kernels of Dense do it
@both_dtypes
@pytest.mark.parametrize("size", [37, 100_003])
def test_an_activation_in_place_gives_the_same_bits(name, dtype, size):
    z = np.random.default_rng(0).standard_normal(size).astype(dtype)
    y = ACTIVATIONS[name].forward(z)
    ACTIVATIONS[name].forward_in_place(z)
    assert np.array_equal(z, y)


@both_dtypes
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "elu", "selu"])
def test_activations_of_infinities_nans_and_huge_numbers_are_pytorchs(name, dtype):
    z = np.array([np.nan, -np.nan, np.inf, -np.inf, 1e30, -1e30, 1e4, -1e4, 0, -0.0, 1e-30, -1e-30] * 3, dtype)
    tensor = torch.from_numpy(z.copy()).requires_grad_()
    expected = TORCH[name](tensor)
    expected.sum().backward()
    y = ACTIVATIONS[name].forward(z)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-6)
    slopes = ACTIVATIONS[name].backward(np.ones_like(z), y)
    np.testing.assert_allclose(slopes, tensor.grad.numpy(), rtol=1e-6)


@both_dtypes
@pytest.mark.parametrize(("name", "far"), [("gelu", 40), ("gelu_tanh", 40), ("swish", 1000)])
def test_gelu_and_swish_far_out_go_to_their_limits(name, far, dtype):
    z = np.array([np.inf, 1e30, far, -far, -1e30, -np.inf, np.nan], dtype)
    known = ACTIVATIONS[name]
    np.testing.assert_array_equal(known.forward(z), [*z[:3], 0, 0, 0, np.nan])
    np.testing.assert_array_equal(known.backward(np.ones_like(z), z), [1, 1, 1, 0, 0, 0, np.nan])


TO_FOUR_ULPS = [(name, 4) for name in ("tanh", "sigmoid", "swish", "elu", "selu", "softplus")]


@both_dtypes
def test_tanh_sigmoid_swish_elu_and_gelu_keep_their_digits_near_zero_and_in_the_tails(dtype):
    a = np.concatenate([np.geomspace(1e-30, 9, 4000), np.linspace(0.4, 0.6, 1000)]).astype(dtype)
    z = np.concatenate([a, -a])
    ulp = np.finfo(dtype).eps
    with np.errstate(over="ignore"):
        for name, ulps in (*TO_FOUR_ULPS, ("gelu", 50)):  # exp(-x^2 / 2) magnifies x^2's
            expected = reference.activation(name, z.astype(np.longdouble))
            error = np.abs(ACTIVATIONS[name].forward(z) - expected) / np.abs(expected)
            assert error.max() < ulps * ulp, name


@both_dtypes
def test_a_row_of_softmax_has_the_same_bits_in_any_batch_and_wherever_it_lies(dtype):
    for C in range(1, 70):
        x = np.random.default_rng(C).standard_normal((4200 // C + 1, C)).astype(dtype)
        layer = Softmax()
        layer.build((C,), dtype, None)
        y = layer.forward(x)
        for n in (1, 2, 7):
            np.testing.assert_array_equal(layer.forward(x[:n]), y[:n])
        memory = np.zeros((2, 1, C), dtype)  # a result that lies right behind what it is made of
        memory[0] = x[0]
        softmax_forward(*memory)
        np.testing.assert_array_equal(memory[1], y[:1])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("rleu", ValueError, r"Dense: unknown activation 'rleu'; accepted are None, 'relu', .*Did you mean 'relu'\?"),
        ("ReLU", ValueError, r"Did you mean 'relu'\?"),
        ("softmax", ValueError, r"unknown activation 'softmax'"),
        ("", ValueError, r"unknown activation ''"),
        (3, TypeError, r"Dense: activation must be None or one of 'relu', .*; got 3"),
        (np.tanh, TypeError, r"Dense: activation must be None or one of"),
    ],
)
def test_an_unknown_activation_is_refused_with_the_names_there_are(name, error, message):
    with pytest.raises(error, match=message):
        Dense(3, activation=name)


# --- softmax ----------------------------------------------------------------------------------------------


@both_dtypes
def test_softmax_of_masked_huge_and_broken_rows_is_pytorchs(dtype):
    rows = [
        [0, 1, 2],
        [-np.inf, 1, 2],
        [-np.inf, -np.inf, 5],
        [1e30, -1e30, 1e30],
        [1e4, 1e4, -1e4],
        [-np.inf] * 3,
        [np.inf, 0, 0],
        [np.nan, 0, 1],
        [0, -np.nan, 1],
    ]
    x = np.array(rows, dtype)
    layer = Softmax()
    layer.build((3,), dtype, np.random.default_rng(0))
    np.testing.assert_allclose(layer.forward(x), torch.softmax(torch.from_numpy(x), -1).numpy(), rtol=1e-6)


def test_softmax_over_many_classes_keeps_its_digits_in_float32():
    x = np.random.default_rng(0).standard_normal((2, 200_000)).astype(np.float32)
    layer = Softmax()
    layer.build((200_000,), np.float32, np.random.default_rng(0))
    y = layer.forward(x)
    np.testing.assert_allclose(y, reference.softmax(x), rtol=2e-6)
    assert abs(y.sum(dtype=np.float64) - 2) < 1e-6


def test_the_backward_pass_of_softmax_is_its_jacobians():
    rng = np.random.default_rng(0)
    y, dy = rng.dirichlet(np.ones(7), 4), rng.standard_normal((4, 7))
    for n in range(4):
        np.testing.assert_allclose(softmax_backward_plain(dy, y)[n], dy[n] @ softmax_jacobian(y[n]), atol=1e-15)


# --- pooling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "stride", "options"),
    [
        *(((2, 2, {}), (2, 1, {}), (3, 3, {}), (3, 2, {}))),
        (3, 2, {"padding": 1}),
        (2, 2, {"padding": 1, "ceil_mode": True}),
        (3, 1, {"padding": 1, "dilation": 2}),
    ],
)
@pytest.mark.parametrize("channels", [3, 16])
def test_ties_and_nans_in_a_window_go_where_pytorch_lets_them(size, stride, options, channels):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (4, 9, 9, channels)).astype(np.float64)  # full of ties
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = -np.inf
    x[0, :3, :3] = -np.inf
    layer = MaxPool2D(size, stride, **options)
    layer.build(x.shape[1:], np.float64, rng)
    y = layer.forward(x, training=True)
    g = rng.standard_normal(y.shape)
    tensor = torch.from_numpy(x.copy()).requires_grad_()
    expected = channels_first(lambda x: F.max_pool2d(x, size, stride, **options))(tensor)
    expected.backward(torch.from_numpy(g))
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_allclose(layer.backward(g), tensor.grad.numpy(), rtol=1e-15)


@pytest.mark.parametrize("channels", [3, 16])
def test_a_window_with_nothing_but_padding_has_the_maximum_of_no_numbers(channels):
    x = np.random.default_rng(0).standard_normal((2, 2, 5, channels))
    layer = MaxPool2D(2, 1, padding=1, dilation=3)  # 3 apart, and none of the two rows is inside
    layer.build(x.shape[1:], np.float64, np.random.default_rng(0))
    y = layer.forward(x, training=True)
    in_torch = channels_first(lambda x: F.max_pool2d(x, 2, 1, padding=1, dilation=3))
    np.testing.assert_array_equal(y, in_torch(torch.from_numpy(x)).numpy())
    assert (y == -np.inf).all()
    assert not layer.backward(np.ones_like(y)).any()


def test_the_argmax_of_a_window_is_kept_in_one_byte():
    layer = MaxPool2D(2)
    layer.build((8, 8, 3), np.float32, np.random.default_rng(0))
    before = set(vars(layer))
    layer.forward(np.zeros((5, 8, 8, 3), np.float32), training=True)
    kept = [vars(layer)[name] for name in set(vars(layer)) - before]
    assert [array.nbytes for array in kept] == [5 * 4 * 4 * 3]


# --- dropout ----------------------------------------------------------------------------------------------


def built_dropout(rate, shape, seed=0, dtype=np.float32):
    layer = Dropout(rate)
    layer.build(shape, dtype, np.random.default_rng(seed))
    return layer


@pytest.mark.parametrize("rate", [0, 0.3, 0.75])
@both_dtypes
def test_dropout_drops_what_the_formula_says(rate, dtype):
    layer = built_dropout(rate, (9, 200), dtype=dtype)
    x = np.random.default_rng(0).standard_normal((5, 9, 200)).astype(dtype)
    for step in range(3):
        expected = reference.dropout(x, rate, layer.state[0], step)
        np.testing.assert_allclose(layer.forward(x, training=True), expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_the_rate_keeps_the_mean_and_every_mask_is_another(rate):
    x = np.ones((10, 20_000), np.float32)
    layer = built_dropout(rate, (20_000,))
    masks = [layer.forward(x, training=True) for _ in range(8)] + [built_dropout(rate, (20_000,), 1).forward(x, True)]
    deviation = math.sqrt(rate * (1 - rate))  # of one number's being kept; then of the mean of them all
    for y in masks:
        assert set(np.unique(y)) == {0, np.float32(1 / (1 - rate))}
        assert abs((y == 0).mean() - rate) < 4 * deviation / math.sqrt(x.size)
    for a, b in itertools.combinations([(y == 0) - rate for y in masks], 2):
        assert abs((a * b).mean()) < 4.5 * deviation**2 / math.sqrt(x.size)
    a = ((masks[0] == 0) - rate).ravel()
    for distance in (1, 2, 3, 4, 8, 16, 64, 4096, 20_000):
        assert abs((a[distance:] * a[:-distance]).mean()) < 4.5 * deviation**2 / math.sqrt(x.size - distance)


def test_dropout_goes_on_with_the_same_masks_after_its_state_is_put_back():
    x = np.ones((3, 50), np.float32)
    layer = built_dropout(0.5, (50,))
    layer.forward(x, training=True)
    state = layer.state
    expected = [layer.forward(x, training=True) for _ in range(3)]
    other = built_dropout(0.5, (50,), seed=9)
    other.state = state
    for y in expected:
        assert np.array_equal(other.forward(x, training=True), y)
    assert other.state == layer.state == (state[0], state[1] + 3)


def test_dropout_is_the_identity_when_predicting_and_its_steps_do_not_advance():
    layer = built_dropout(0.5, (50,))
    x, state = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32), layer.state
    assert np.array_equal(layer.forward(x), x)
    assert layer.state == state


@pytest.mark.parametrize(
    ("state", "error"), [(5, ValueError), ((1, 2, 3), ValueError), ((1.5, 0), TypeError), ((1, -1), ValueError)]
)
def test_a_state_that_is_none_is_refused(state, error):
    layer = built_dropout(0.5, (50,))
    before = layer.state
    with pytest.raises(error, match="Dropout: "):
        layer.state = state
    assert layer.state == before


# --- what cannot be -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("construct", "error", "message"),
    [
        (lambda: LeakyReLU(-0.1), ValueError, "LeakyReLU: slope must be a finite number of at least 0, got -0.1"),
        (lambda: LeakyReLU(math.nan), ValueError, "LeakyReLU: slope"),
        (lambda: LeakyReLU("a"), TypeError, "LeakyReLU: slope must be a number, got 'a'"),
        (lambda: Dropout(1.1), ValueError, "Dropout: rate must be at least 0 and at most 1, got 1.1"),
        (lambda: tn.ELU(-1), ValueError, "ELU: alpha must be a finite number of at least 0, got -1"),
        (lambda: Conv2D(3, 3, groups=2), ValueError, "Conv2D: groups must divide the 3 filters, got 2"),
        (lambda: tn.Conv1D(3, 3, groups=2), ValueError, "Conv1D: groups must divide the 3 filters, got 2"),
        (lambda: tn.Conv1D(3, 3, padding=(1, -1)), ValueError, "Conv1D: padding must be at least 0, got -1"),
        (
            lambda: tn.Conv1D(3, 3, padding="Causal"),
            ValueError,
            r'Conv1D: .* or a pair .*, got .Causal.; did you mean "causal"',
        ),
        (lambda: tn.Conv1D(3, 3, padding=None), TypeError, "Conv1D: padding, .* must be a whole number, got None"),
        (lambda: tn.MaxPool1D(3, padding=2), ValueError, "padding must be at most half of the window 3, got 2"),
        (
            lambda: tn.ConvTranspose2D(2, 3, 1, 0, 1),
            ValueError,
            "output_padding must be less than the stride .1, 1., got",
        ),
        (lambda: tn.Normalize(1.0), ValueError, "Normalize: give mean and std, or neither"),
        (lambda: tn.Normalize(0.0, 0.0), ValueError, "Normalize: mean and std must be one number, or one a channel,"),
        (lambda: tn.Normalize(0.0, -1.0), ValueError, "Normalize: .* finite, and std above 0"),
        (lambda: tn.Normalize([0.0, math.nan], 1.0), ValueError, "Normalize: .* finite, and std above 0"),
        (lambda: tn.Normalize("a", 1.0), TypeError, "Normalize: mean must hold real numbers"),
        (lambda: tn.Upsample2D(0), ValueError, "Upsample2D: factor must be at least 1, got 0"),
        (lambda: Dropout(-0.5), ValueError, "Dropout: rate"),
        (lambda: Dropout(math.nan), ValueError, "Dropout: rate"),
        (lambda: Dropout(True), TypeError, "Dropout: rate must be a number, got True"),
        (lambda: MaxPool2D(0), ValueError, "MaxPool2D: size must be at least 1, got 0"),
        (lambda: MaxPool2D(2.0), TypeError, "MaxPool2D: size must be a whole number"),
        (lambda: MaxPool2D((2, 2, 2)), ValueError, "MaxPool2D: size must be a whole number or a pair"),
        (lambda: AvgPool2D(2, 0), ValueError, "AvgPool2D: stride must be at least 1, got 0"),
        (lambda: AvgPool2D(2, padding=-1), ValueError, "AvgPool2D: padding must be at least 0, got -1"),
        (lambda: MaxPool2D(3, padding=2), ValueError, "padding must be at most half of the window .3, 3., got 2"),
        (lambda: MaxPool2D(3, dilation=0), ValueError, "MaxPool2D: dilation must be at least 1, got 0"),
        (lambda: AdaptiveAvgPool2D(0), ValueError, "AdaptiveAvgPool2D: output_size must be at least 1, got 0"),
        (lambda: Reshape((2, 0)), ValueError, "Reshape: a size of shape must be at least 1, got 0"),
        (lambda: Reshape((-1, -1)), ValueError, "Reshape: only one size of shape may be -1"),
        (lambda: Reshape("ab"), TypeError, "Reshape: a size of shape must be a whole number, got 'ab'"),
        (lambda: Reshape((2, 2.5)), TypeError, "Reshape: a size of shape must be a whole number, got 2.5"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_at_once(construct, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        construct()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (MaxPool2D(2), (64,), r"MaxPool2D \(layer 3\): expected images \(N, H, W, C\), got samples of shape \(64,\)"),
        (MaxPool2D(4), (3, 8, 1), r"MaxPool2D \(layer 3\): the window \(4, 4\) is larger than the image \(3, 8\)"),
        (GlobalAvgPool2D(), (8, 8), r"GlobalAvgPool2D \(layer 3\): expected images"),
        (
            GlobalAvgPool1D(),
            (8, 8, 3),
            r"GlobalAvgPool1D \(layer 3\): expected seq.*; of images, GlobalAvgPool2D",
        ),
        (GlobalMaxPool1D(), (8,), r"GlobalMaxPool1D \(layer 3\): expected sequences \(N, T, C\), got samples of shape"),
        (Reshape((4, 4)), (15,), r"Reshape \(layer 3\): the input shape \(15,\) has 15 numbers, .* shape \(4, 4\)"),
        (Reshape((-1, 4)), (15,), r"Reshape \(layer 3\): .* don't fit shape \(-1, 4\)"),
        (Softmax(), (), r"Softmax \(layer 3\): expected samples with at least one axis"),
        (Conv2D(4, 3, groups=4), (6, 6, 3), r"Conv2D \(layer 3\): expected channels that 4 groups divide, got 3"),
        (tn.Conv1D(2, 5), (3, 2), r"Conv1D \(layer 3\): a window 5 long does not fit into a sequence 3 long"),
        (tn.Conv1D(2, 5), (3, 3, 2), r"Conv1D \(layer 3\): expected sequences, input shape \(T, C\)"),
        (tn.MaxPool1D(5), (3, 2), r"MaxPool1D \(layer 3\): its window needs sequences of at least 5 positions, got 3"),
        (tn.ConvTranspose2D(2, 3, 1, 4), (3, 3, 2), r"ConvTranspose2D \(layer 3\): padding \(4, 4\) leaves nothing"),
        (tn.SpatialDropout(0.5), (3,), r"SpatialDropout \(layer 3\): expected samples .* try Dropout"),
        (Dense(2), (), r"Dense \(layer 3\): expected vectors, input shape \(I,\), got scalars"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_when_the_layer_is_built(layer, shape, message):
    layer.place = " (layer 3)"
    with pytest.raises(ValueError, match=message):
        layer.build(shape, np.float32, np.random.default_rng(0))
