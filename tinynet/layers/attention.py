"""MultiHeadAttention: each position of a sequence looks at all others, and takes a weighted mean of what they hold.

Three Denses, side by side in one, make of each x[t] what it looks for, q[t] (its query), what it is found by, k[t] (its
key), and what it has to give, v[t] (its value).  Their C columns are cut into heads of d = C / heads; each head does
the same by itself, and a last Dense mixes what they found.  Of a sample and a head, with rows for positions:

    z = [q, k, v] = x w + b                 x (T, C)   w (C, 3C)   b (3C,)   in a head q, k, v, o are (T, d)
    score[t,j] = sum_c q[t,c] k[j,c] / sqrt(d)      how well key j fits query t; of variance 1 if q and k are
    p[t,j] = exp(score[t,j] - m[t]) / s[t]          a softmax: the share that t takes of j, all j together 1
             m[t] = max_j score[t,j]   s[t] = sum_j exp(score[t,j] - m[t])           (softmax.py says why m)
    o[t,c] = sum_j p[t,j] v[j,c]                    the mean of the values, by these shares
    y = o w_out + b_out                     the heads' o side by side, (T, C)   w_out (C, C)   b_out (C,)

j runs over the keys that t sees: those within the sequence's length, and if `causal` those with j <= t.  p is 0
elsewhere.  What lies behind the length is seen by no one, and y is 0 there.

Backward.  Of each number, the last one first: which numbers did it touch, and times what?  The Denses' part is in
dense.py: the last one gives do.

    v[j,c]      touched o[t,c] of every t that sees j, times p[t,j]:     dv[j,c] = sum_t p[t,j] do[t,c]
    p[t,j]      touched o[t,c] of every c, times v[j,c]:                 dp[t,j] = sum_c do[t,c] v[j,c]
    score[t,j]  touched p[t,i] of every i that t sees, as softmax.py derives, times p[t,i] ([i = j] - p[t,j]),
                where [i = j] is 1 if i is j, else 0:                    dscore[t,j] = p[t,j] (dp[t,j] - mean[t])
                                                                         mean[t] = sum_i p[t,i] dp[t,i]
    q[t,c]      touched score[t,j] of every j, times k[j,c] / sqrt(d):   dq[t,c] = sum_j dscore[t,j] k[j,c] / sqrt(d)
    k[j,c]      touched score[t,j] of every t, times q[t,c] / sqrt(d):   dk[j,c] = sum_t dscore[t,j] q[t,c] / sqrt(d)

mean needs no sum over all keys: sum_i p[t,i] sum_c do[t,c] v[i,c] = sum_c do[t,c] o[t,c].  As matrices, of a head:

    o = p v     dv = p.T do     dp = do v.T     dscore = p (dp - mean)
                dq = dscore k / sqrt(d)         dk = dscore.T q / sqrt(d)

p is T x T numbers a head.  It is not kept: with m and s, two numbers a query, the backward pass makes it again.

Dropout of the shares.  keep[t,j] is 0 with probability `dropout`, else 1 / (1 - dropout), and o = (p keep) v, number by
number.  Then p touched o times keep v: dv = (p keep).T do, dp = keep (do v.T), and all else, mean too, is as before.

Sources: Vaswani et al. 2017, section 3.2; p made again, Dao et al. 2022.
"""

from __future__ import annotations

import math
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import positive_int
from tinynet.kernels import attention as kernels
from tinynet.kernels.compile import either
from tinynet.kernels.dropout import step_keys, threshold
from tinynet.layers.along_time import padded
from tinynet.layers.dense import dense_backward, dense_backward_input, dense_forward
from tinynet.layers.dropout import Random, checked_rate
from tinynet.layers.initialization import glorot
from tinynet.layers.parameter import Parameter


def attention_forward_plain(z, first, sees, keep):
    """z (N, S, 3, heads, d) holds q, k and v of S positions; the T queries of sample n begin in row first[n].

    sees (N, T, S) says which keys a query sees; keep (N, heads, T, S) is 1 without dropout.  It returns o (N, T, heads,
    d) and m, s (N, heads, T); of m, the kernel keeps m sqrt(d), the largest product of query and key, and so does this.
    """
    (N, _, _, heads, d), T = z.shape, sees.shape[1]
    q, k, v = z[:, :, 0], z[:, :, 1], z[:, :, 2]
    o, m, s = np.zeros((N, T, heads, d)), np.zeros((N, heads, T)), np.ones((N, heads, T))
    for n, h, t in np.ndindex(N, heads, T):
        j = np.flatnonzero(sees[n, t])
        if len(j) > 0:
            products = k[n, j, h] @ q[n, first[n] + t, h]
            m[n, h, t] = products.max()
            exp = np.exp((products - products.max()) / math.sqrt(d))
            s[n, h, t] = exp.sum()
            p = exp / exp.sum()
            o[n, t, h] = (p * keep[n, h, t, j]) @ v[n, j, h]
    return o, m, s


def attention_backward_plain(do, z, first, sees, keep, o, m, s):
    (N, _, _, heads, d), T = z.shape, sees.shape[1]
    q, k, v = z[:, :, 0], z[:, :, 1], z[:, :, 2]
    dz = np.zeros(z.shape)
    dq, dk, dv = dz[:, :, 0], dz[:, :, 1], dz[:, :, 2]
    for n, h, t in np.ndindex(N, heads, T):
        j = np.flatnonzero(sees[n, t])
        if len(j) > 0:
            this, kept = first[n] + t, keep[n, h, t, j]
            p = np.exp((k[n, j, h] @ q[n, this, h] - m[n, h, t]) / math.sqrt(d)) / s[n, h, t]
            dp = kept * (v[n, j, h] @ do[n, t, h])
            dscore = p * (dp - do[n, t, h] @ o[n, t, h])
            dv[n, j, h] += np.outer(p * kept, do[n, t, h])  # v[j] touched this o, times p keep
            dk[n, j, h] += np.outer(dscore, q[n, this, h]) / math.sqrt(d)  # k[j]: score[t,j], times q[t] / sqrt(d)
            dq[n, this, h] = dscore @ k[n, j, h] / math.sqrt(d)  # q[t]: score[t,j] of every j, times k[j] / sqrt(d)
    return dz


def seen_keys(T, S, causal, first, lengths):
    """sees (N, T, S): query t of sample n stands at position first[n] + t, if t < lengths[n], and keys from 0 on."""
    t, j, first, lengths = np.arange(T)[:, None], np.arange(S), first[:, None, None], lengths[:, None, None]
    within = (t < lengths) & (j < first + lengths)
    return within & (j <= first + t) if causal else within


def for_plain(z, T, causal, first, lengths, drops):
    """What the plain loops take, of what the kernels do: these make `sees` and `keep` as they go."""
    N, S, _, heads, _ = z.shape
    keep = kernels.dropout_factors((N, heads, T, S), first, drops)
    return z, first, seen_keys(T, S, causal, first, lengths), keep


attention_forward = either(attention_forward_plain, kernels.attention_forward, for_plain)
attention_backward = either(
    attention_backward_plain,
    kernels.attention_backward,
    lambda do, z, causal, first, lengths, drops, o, m, s: (
        do, *for_plain(z, do.shape[1], causal, first, lengths, drops), o, m, s,
    ),
)  # fmt: skip


class MultiHeadAttention(Random):
    """Self-attention: each position takes of all others what it needs: x (N, T, C) -> y (N, T, C).

    Of each position x[n,t], a head makes a query q, a key k and a value v, by weights that are trained.  How well the
    query of t fits the key of j says what share of j's value t takes: p[t,j], all j together 1.

    heads     how many do so side by side, each with its C / heads of q's, k's and v's columns
    causal    each position sees itself and what is before it, and nothing later: to predict what comes next
    dropout   the probability with which a share p[t,j] is dropped in training; `state` as in Dropout
    bias      False leaves b and b_out out

    Parameters "qkv_weight" (C, 3C) and "qkv_bias" (3C,), whose columns are those of q, k and v in turn, each with its
    heads side by side; "out_weight" (C, C) and "out_bias" (C,).  The columns lie as PyTorch's do; weights start
    as Glorot's, those of q, k and v each as a matrix (C, C), biases at 0.

    With `lengths` (N,), what lies behind a sequence's length is seen by no other position, and y is 0 there.  With a
    `state`, a causal layer goes on from the keys and values of the positions before.  In training it keeps x, q, k, v,
    o and two numbers a query and head.

    >>> model = tn.Sequential([tn.MultiHeadAttention(heads=2, causal=True)], input_shape=(5, 4))
    >>> x = np.random.default_rng(0).normal(size=(1, 5, 4))
    >>> weights = model.layers[0].weights(x)
    >>> weights.shape
    (1, 2, 5, 5)
    >>> weights[0, 0, 0]  # the first position sees itself alone
    array([1., 0., 0., 0., 0.], dtype=float32)
    """

    keeps_output = False
    settable = MappingProxyType(
        {**Random.settable, "dropout": lambda layer, rate: checked_rate(layer, rate, "dropout")}
    )

    def __init__(self, heads: int, causal: bool = False, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.heads = positive_int(heads, "MultiHeadAttention: heads")
        self.causal, self.bias = bool(causal), bool(bias)
        self.dropout = dropout

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        if len(self.input_shape) != 2:
            raise ValueError(f"{self.label}: expected sequences, input shape (T, C), got {self.input_shape}")
        T, C = self.input_shape
        if C % self.heads:
            raise ValueError(f"{self.label}: {C} numbers a position can't be cut into {self.heads} heads of one size")
        *w, w_out = (glorot((C, C), C, C, rng).astype(self.dtype) for _ in range(4))
        self.parameters = [Parameter("qkv_weight", np.concatenate(w, axis=1)), Parameter("out_weight", w_out)]
        self._zeros = np.zeros(3 * C, self.dtype)  # the biases where there are none
        if self.bias:
            self.parameters.insert(1, Parameter("qkv_bias", self._zeros.copy(), decay=False))
            self.parameters.append(Parameter("out_bias", self._zeros[:C].copy(), decay=False))
        self.flops = 8 * T * C * C + 4 * T * T * C
        self._kept = None
        return self.output_shape

    def _arrays(self, of):
        """w, b, w_out, b_out or their gradients: `of` is "_value" or "_grad"."""
        found = [getattr(parameter, of) for parameter in self.parameters]
        if self.bias:
            return found
        unused = self._zeros if of == "_value" else np.empty_like(self._zeros)
        return found[0], unused, found[1], unused[: self.input_shape[1]]

    def forward(self, x: ArrayLike, training: bool = False, lengths=None, state=None) -> np.ndarray:
        x = self.checked(x)
        lengths = self.checked_lengths(lengths, x)
        (N, T, C), (_, _, w_out, b_out) = x.shape, self._arrays("_value")
        if lengths is not None:
            x = padded(x, lengths, T)
        counts = np.full(N, T) if lengths is None else lengths
        z, first = self._projected(x), np.zeros(N, np.int64)
        if state is not None:
            z, first = self._after(state, z, counts)
        drops = self._draw() if training else kernels.NO_DROPS
        o, (m, s) = np.empty((N, T, *z.shape[3:]), self.dtype), np.empty((2, N, self.heads, T), self.dtype)
        attention_forward(z, T, self.causal, first, counts, drops, o, m, s)
        y = np.empty((N * T, C), self.dtype)
        dense_forward(o.reshape(-1, C), w_out, b_out, self.dtype.type(-np.inf), y)
        y = y.reshape(N, T, C)
        if training:
            self._kept = x.view(), lengths, z, first, counts, drops, o, m, s
        return y if lengths is None else padded(y, lengths, T)

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> np.ndarray | None:
        x, lengths, z, first, counts, drops, o, m, s = self.kept("_kept")
        N, T, C = x.shape
        dy = self.checked_gradient(dy, N, T)
        if lengths is not None:
            dy = padded(dy, lengths, T)
        (w, _, w_out, _), (dw, db, *of_out) = self._arrays("_value"), self._arrays("_grad")
        dy, do, dz = dy.reshape(-1, C), np.empty_like(o), np.empty_like(z)
        if self.trains:
            dense_backward(o.reshape(-1, C), w_out, dy, dy, False, True, *of_out, do.reshape(-1, C))
        elif input_grad:
            dense_backward_input(w_out, dy, do.reshape(-1, C))
        else:
            return None
        attention_backward(do, z, self.causal, first, counts, drops, o, m, s, dz)
        if dz.shape[1] != T or first.any():  # after a state: what was there before is a constant
            dz = _rows(dz, first, counts, T)
        dx, dz = np.empty_like(x if input_grad else x[:0]), dz.reshape(-1, 3 * C)
        if self.trains:
            dense_backward(x.reshape(-1, C), w, dz, dz, False, input_grad, dw, db, dx.reshape(-1, C))
        else:
            dense_backward_input(w, dz, dx.reshape(-1, C))
        return dx if input_grad else None

    def weights(self, x: ArrayLike, lengths: ArrayLike | None = None) -> np.ndarray:
        """The shares p (N, heads, T, T) for inputs x (N, T, C), without dropout.

        Row t is how much position t takes of each, 0 of those that it doesn't see; all 0 behind the sequence's length.
        """
        x = self.checked(x)
        lengths = self.checked_lengths(lengths, x)
        N, T, _ = x.shape
        counts = np.full(N, T) if lengths is None else lengths
        z = self._projected(padded(x, counts, T))
        sees = seen_keys(T, T, self.causal, np.zeros(N, np.int64), counts)[:, None]
        q, k = z[:, :, 0].transpose(0, 2, 1, 3), z[:, :, 1].transpose(0, 2, 3, 1)
        score = np.where(sees, q @ k / math.sqrt(z.shape[-1]), -np.inf)
        exp = np.exp(score - np.where(sees.any(-1, keepdims=True), score.max(-1, keepdims=True, initial=-np.inf), 0))
        return (exp / np.where(exp.any(-1, keepdims=True), exp.sum(-1, keepdims=True), 1)).astype(self.dtype)

    def _draw(self):
        """What the kernels take as `drops`, of the next step."""
        keys = step_keys(self._key, self._steps)
        self._steps += 1
        if not self.dropout:
            return kernels.NO_DROPS
        return *keys, self.first_row, threshold(self.dropout), 1 / (1 - self.dropout)

    def _projected(self, x):
        """z (N, T, 3, heads, d): q, k and v of each position."""
        N, T, C = x.shape
        w, b, _, _ = self._arrays("_value")
        z = np.empty((N * T, 3 * C), self.dtype)
        dense_forward(x.reshape(-1, C), w, b, self.dtype.type(-np.inf), z)
        return z.reshape(N, T, 3, self.heads, C // self.heads)

    def _after(self, state, z, counts):
        """z with the rows of the positions before it, which it joins in `state`; and how many these are, (N,)."""
        if not self.causal:
            raise ValueError(
                f"{self.label}: only a causal one can go on from a state; others see what comes later, too"
            )
        before, first = state.get(self, (z[:, :0], np.zeros(len(z), np.int64)))
        if len(first) != len(z):
            raise ValueError(f"{self.label}: the state is of {len(first)} sequences, and x has {len(z)}")
        ends = first + counts
        joined = np.zeros((len(z), ends.max(initial=0), *z.shape[2:]), self.dtype)
        joined[:, : before.shape[1]] = before
        for n, (start, end) in enumerate(zip(first, ends, strict=True)):
            joined[n, start:end] = z[n, : end - start]
        state[self] = joined, ends
        return joined, first

    def formula(self):
        heads = f"{self.heads} heads of " if self.heads > 1 else ""
        return f"y = {heads}softmax(q k.T / sqrt d) v, mixed" + (", of what is before" if self.causal else "")

    def backward_formula(self):
        return "dv = p.T do, dscore = p (do v.T - sum do o), dq = dscore k / sqrt d, dk = dscore.T q / sqrt d"

    # What others ask of it.

    of_time = "lengths"

    def ending(self, before):
        return "logits", self.label  # any numbers, whatever came in

    def as_it_predicts(self):
        self.dropout = 0.0

    def onnx(self, graph, x):
        C, (w, b, w_out, b_out) = self.input_shape[1], self._arrays("_value")
        z = graph.add("Add", graph.add("MatMul", x.last(), w), b)
        z = graph.add("Reshape", z, [0, 0, 3, self.heads, C // self.heads])
        q = graph.add("Transpose", graph.add("Gather", z, 0, axis=2), perm=[0, 2, 1, 3])
        k = graph.add("Transpose", graph.add("Gather", z, 1, axis=2), perm=[0, 2, 3, 1])
        v = graph.add("Transpose", graph.add("Gather", z, 2, axis=2), perm=[0, 2, 1, 3])
        score = graph.add("Mul", graph.add("MatMul", q, k), np.array(1 / math.sqrt(C // self.heads)))
        if self.causal:
            T = graph.add("Shape", x.last(), start=1, end=2)
            later = graph.add("Expand", np.array(-np.inf), graph.add("Concat", T, T, axis=0))
            score = graph.add("Add", score, graph.add("Trilu", later, 1, upper=1))
        if x.lengths is not None:
            seen = graph.add("Unsqueeze", x.inside(), [1, 2])
            score = graph.add("Where", seen, score, np.array(-np.inf))
        o = graph.add("MatMul", graph.add("Softmax", score, axis=-1), v)
        o = graph.add("Reshape", graph.add("Transpose", o, perm=[0, 2, 1, 3]), [0, 0, C])
        return graph.value(graph.add("Add", graph.add("MatMul", o, w_out), b_out), 3)

    torch_names = ("MultiheadAttention",)

    def torch_arrays(self):
        names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")[:: 1 if self.bias else 2]
        arrays = [parameter._value.T for parameter in self.parameters]
        return [(name, a.copy(), partial(np.copyto, a)) for name, a in zip(names, arrays, strict=True)]

    def torch_module(self, nn):
        C = self.input_shape[1]
        return nn.MultiheadAttention(C, self.heads, self.dropout, self.bias, batch_first=True)

    def torch_options(self, module):
        return [
            ("heads", self.heads, module.num_heads),
            ("dropout", self.dropout, module.dropout),
            ("add_zero_attn", False, module.add_zero_attn),
        ]


def _rows(dz, first, counts, T):
    """Of each sample the rows that are not of its state, (N, T, ...), and zeros behind them."""
    found = np.zeros((len(dz), T, *dz.shape[2:]), dz.dtype)
    for n, (start, count) in enumerate(zip(first, counts, strict=True)):
        found[n, :count] = dz[n, start : start + count]
    return found
