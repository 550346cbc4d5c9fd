"""TransformerBlock: positions exchange what they hold (attention), then each thinks for itself (two Denses).

Both are added to what comes in, as in Residual, and LayerNorm keeps the numbers in range: before them, as GPT-2 and
vision transformers have it, or behind the sums, as the first transformer and BERT:

    norm_first         r = x + attention(norm(x))          y = r + mlp(norm(r))
    not norm_first     r = norm(x + attention(x))          y = norm(r + mlp(r))

    mlp(r) = f(r w1 + b1) w2 + b2    w1 (C, M)   w2 (M, C)   M = mlp_ratio C   f: the activation
    x, r, y (N, T, C)

With dropout, the output of attention and of the mlp is dropped from, and the weights within attention.

Backward.  There is nothing new to derive: it is the chain rule over the layers that it is made of (in_a_row.py), whose
own derivations stand in attention.py, dense.py, layernorm.py, dropout.py and, for the sums, blocks.py.

Sources: Vaswani et al. 2017, section 3.1; norm_first, Radford et al. 2019, section 2.3, Xiong et al. 2020.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import number, positive_int
from tinynet.layers.activated import known_activation
from tinynet.layers.along_time import padded
from tinynet.layers.attention import MultiHeadAttention
from tinynet.layers.base import Layer, checked_eps
from tinynet.layers.blocks import Residual
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout, checked_rate
from tinynet.layers.in_a_row import (
    backward_in_a_row,
    build_in_a_row,
    ending_in_a_row,
    forward_in_a_row,
    leave_unbuilt,
)
from tinynet.layers.layernorm import LayerNorm


class TransformerBlock(Layer):
    """Attention between positions, then two Denses for each (an mlp), both added to what came in: x, y (N, T, C).

    heads, causal   as MultiHeadAttention takes them: an encoder's block, or with causal=True one of a GPT
    dropout         of the attention's weights, and of what is added to x
    mlp_ratio       how many times as wide as C the mlp's hidden layer is
    norm_first      LayerNorm before attention and mlp; False: behind the sums
    activation      the hidden layer's, as Dense takes it
    bias            False leaves all biases out, LayerNorm's too
    eps             LayerNorm's

    Its layers are built with it, since their widths follow from C; afterwards they are `layers`:

        [Residual([LayerNorm, MultiHeadAttention]), Residual([LayerNorm, Dense, Dense])]      norm_first
        [Residual([MultiHeadAttention]), LayerNorm, Residual([Dense, Dense]), LayerNorm]      not norm_first

    with a Dropout at the end of each Residual if there is any.

    >>> model = tn.Sequential([tn.TransformerBlock(heads=2)], input_shape=(5, 8))
    >>> model.forward(np.zeros((3, 5, 8))).shape
    (3, 5, 8)
    """

    keeps_output = False

    def __init__(
        self, heads: int, causal: bool = False, dropout: float = 0.0, mlp_ratio: float = 4, norm_first: bool = True,
        activation: str | None = "gelu", bias: bool = True, eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.causal = positive_int(heads, "TransformerBlock: heads"), bool(causal)
        self.dropout, self.eps = checked_rate(self, dropout, "dropout"), checked_eps(self, eps)
        self.mlp_ratio = number(mlp_ratio, "TransformerBlock: mlp_ratio")
        if not 0 < self.mlp_ratio < math.inf:
            raise ValueError(f"TransformerBlock: mlp_ratio must be a finite number above 0, got {mlp_ratio!r}")
        known_activation(activation, "TransformerBlock")
        self.norm_first, self.activation_name, self.bias = bool(norm_first), activation, bool(bias)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 2:
            raise ValueError(f"{self.label}: expected sequences, input shape (T, C), got {self.input_shape}")
        C = self.input_shape[1]
        attention = [MultiHeadAttention(self.heads, self.causal, self.dropout, self.bias)]
        mlp = [Dense(max(1, round(self.mlp_ratio * C)), self.activation_name, self.bias), Dense(C, bias=self.bias)]
        if self.dropout:
            attention.append(Dropout(self.dropout))
            mlp.append(Dropout(self.dropout))
        norms = LayerNorm(self.eps, self.bias), LayerNorm(self.eps, self.bias)
        if self.norm_first:
            layers = [Residual([norms[0], *attention]), Residual([norms[1], *mlp])]
        else:
            layers = [Residual(attention), norms[0], Residual(mlp), norms[1]]
        try:
            self.output_shape = build_in_a_row(layers, self.input_shape, self.dtype, rng, self.place)
        except Exception:
            leave_unbuilt(layers)
            raise
        self.layers = layers
        self.parameters = [parameter for layer in layers for parameter in layer.parameters]
        self.flops = sum(layer.flops for layer in layers)
        return self.output_shape

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x = self.checked(x)
        lengths = self.checked_lengths(lengths, x)
        if lengths is not None:
            x = padded(x, lengths, x.shape[1])
        if training:
            self._kept = *x.shape[:2], lengths
        y = forward_in_a_row(self.layers, x, training, lengths, state)
        return y if lengths is None else padded(y, lengths, x.shape[1])

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        N, T, lengths = self.kept("_kept")
        dy = self.checked_gradient(dy, N, T)
        if lengths is not None:
            dy = padded(dy, lengths, T)
        return backward_in_a_row(self.layers, dy, input_grad)

    def formula(self):
        if self.norm_first:
            return "y = r + mlp(norm(r)), r = x + attention(norm(x))"
        return "y = norm(r + mlp(r)), r = norm(x + attention(x))"

    def backward_formula(self):
        return "dx from dy through the layers"

    # What others ask of it.

    of_time = "lengths"
    in_a_row = True

    def ending(self, before):
        return ending_in_a_row(self.layers, before)

    def onnx(self, graph, x):
        return graph.through(self.layers, x)

    torch_names = ("TransformerEncoderLayer",)

    def torch_arrays(self):
        """Those of its layers, by PyTorch's names for these."""
        found, dense, norms = [], iter(("linear1", "linear2")), iter(("norm1", "norm2"))
        for layer in self.walk():
            if isinstance(layer, MultiHeadAttention):
                found += [(f"self_attn.{name}", *array) for name, *array in layer.torch_arrays()]
            elif isinstance(layer, (Dense, LayerNorm)):
                name = next(dense if isinstance(layer, Dense) else norms)
                for kind, parameter in zip(("weight", "bias"), layer.parameters, strict=False):
                    array = parameter._value.T
                    found.append((f"{name}.{kind}", array.copy(), partial(np.copyto, array)))
        return sorted(found, key=lambda each: "sln".index(each[0][0]))  # self_attn, linear, norm

    def torch_module(self, nn):
        f = known_activation(self.activation_name, self.label)
        return nn.TransformerEncoderLayer(
            self.input_shape[1], self.heads, max(1, round(self.mlp_ratio * self.input_shape[1])), self.dropout,
            f.torch_module(nn) if f else nn.Identity(), self.eps, batch_first=True, norm_first=self.norm_first,
            bias=self.bias,
        )  # fmt: skip

    def torch_options(self, module):
        """PyTorch's drops from the mlp's hidden layer, too, where there is dropout."""
        f = known_activation(self.activation_name, self.label)
        theirs = module.activation
        if getattr(theirs, "__name__", "") in ("relu", "gelu"):  # a function
            same = f is not None and f.name == theirs.__name__
        else:
            same = type(theirs).__name__ in (f.torch_names if f else ("Identity",))
            same = same and all(ours == given for _, ours, given in (f.torch_options(theirs) if f else ()))
        return [
            ("activation", self.activation_name, self.activation_name if same else theirs),
            ("heads", self.heads, module.self_attn.num_heads),
            ("dropout", self.dropout, module.dropout.p),
            ("norm_first", self.norm_first, module.norm_first),
            ("eps", self.eps, module.norm1.eps),
        ]
