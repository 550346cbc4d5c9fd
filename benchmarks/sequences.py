"""Layers that look along time, forward and backward: tinynet beside PyTorch.

    python benchmarks/sequences.py [--only NAME ...] [--headlines] [--rounds 9] [--vectors both] [--threads both]
                                   [--quick] [--json PATH]

    predict        forward without what the backward pass needs
    step           forward and backward, with the gradients of the weights, as in a model's first layer
    step with dx   and with that of the input
    lengths        a step with sequences of unequal length: PyTorch's are packed, and padded again; JAX keeps the state

PyTorch is eager: torch.compile leaves its recurrent layers as they are.  In JAX, where it is installed, the layers are
written out, with lax.scan over time.  Outputs and gradients are compared to 1e-4 of the largest number before they are
timed.  The memory of a step is all that a process takes for three of them, weights and gradients included.  The last
rows are steps whose gates are nearly closed, beside the same steps with open ones: denormal numbers must not make them
slower.
"""

from functools import partial

import numpy as np
from side_by_side import jax, torch
from works import Work, compare_works

import tinynet as tn

SHAPES = {"32 x 50, 100 to 128": (32, 50, 100, 128), "64 x 28, 28 to 128": (64, 28, 28, 128)}
TINY = 2, 3, 4, 5
PARTS = "predict", "step", "step with dx", "lengths"


def flops(kind, shape, part):
    """Of the products, a multiply-add as two: x w and h u, and backward two like each, but dx if it is left out."""
    N, T, I, H = shape
    gates = {"LSTM": 4, "GRU": 3}[kind]
    products = {"predict": I + H, "step": 2 * I + 3 * H, "step with dx": 3 * (I + H)}
    return 2 * N * T * gates * H * products[part] if part in products else None


def built(kind, shape):
    N, T, I, H = shape
    layer = getattr(tn, kind)(H)
    layer.build((T, I), "float32", np.random.default_rng(0))
    return layer


def data(shape, part):
    """x, dy, and lengths or None."""
    N, T, I, H = shape
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal((N, T, size), np.float32) for size in (I, H))
    if part != "lengths":
        return x, dy, None
    lengths = rng.integers(1, T + 1, N)
    lengths[0] = T
    dy[np.arange(T) >= lengths[:, None]] = 0
    return x, dy, lengths


def makers(kind, part, shape):
    """{side: a function that makes its step}; a step returns y, dx and the gradients of w and u."""
    x, dy, lengths = data(shape, part)

    def ours():
        layer = built(kind, shape)
        w, u, *_ = layer.parameters

        def step():
            y = layer.forward(x, training=True, lengths=lengths)
            return y, layer.backward(dy, input_grad=part == "step with dx"), w.grad.T, u.grad.T

        return (lambda: (layer.forward(x), None, None, None)) if part == "predict" else step

    found = {"tinynet": ours}
    if torch:
        found["PyTorch eager"] = partial(in_torch, kind, part, shape)
    if jax:
        found["JAX"] = partial(in_jax, kind, part, shape)
    return found


def in_torch(kind, part, shape):
    (_, T, I, H), (x, dy, lengths) = shape, map(tensor, data(shape, part))
    module = getattr(torch.nn, kind)(I, H, batch_first=True)
    with torch.no_grad():
        for name, array, _ in built(kind, shape).torch_arrays():
            getattr(module, name).copy_(torch.from_numpy(array))
    x.requires_grad_(part == "step with dx")

    def predict():
        with torch.no_grad():
            return module(x)[0], None, None, None

    def step():
        module.zero_grad(set_to_none=True)
        x.grad = None
        if lengths is None:
            y, _ = module(x)
        else:
            given = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(module(given)[0], batch_first=True, total_length=T)
        y.backward(dy)
        return y.detach(), x.grad, module.weight_ih_l0.grad, module.weight_hh_l0.grad

    return predict if part == "predict" else step


def tensor(array):
    return None if array is None else torch.from_numpy(array)


def in_jax(kind, part, shape):
    jnp, (x, dy, lengths) = jax.numpy, data(shape, part)
    N, T, _, H = shape
    weights = [jnp.array(parameter.value) for parameter in built(kind, shape).parameters]
    there = jnp.arange(T)[:, None, None] < (jnp.full(N, T) if lengths is None else jnp.array(lengths))[:, None]

    def lstm(u, _, state, z):
        h, c = state
        i, f, g, o = jnp.split(z + h @ u, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def gru(u, bias, state, z):
        (h,) = state
        m = h @ u
        r, update = jnp.split(jax.nn.sigmoid(z[:, : 2 * H] + m[:, : 2 * H]), 2, axis=1)
        n = jnp.tanh(z[:, 2 * H :] + r * (m[:, 2 * H :] + bias))
        return ((1 - update) * n + update * h,)

    def forward(weights, x):
        w, u, b, *more = weights
        one = partial(lstm if kind == "LSTM" else gru, u, *more or [None])

        def next_step(state, given):
            z, open_now = given
            new = one(state, z)
            if lengths is None:
                return new, new[0]
            return tuple(jnp.where(open_now, a, b) for a, b in zip(new, state, strict=True)), new[0] * open_now

        before = (jnp.zeros((N, H), x.dtype),) * (2 if kind == "LSTM" else 1)
        return jax.lax.scan(next_step, before, ((x @ w + b).swapaxes(0, 1), there))[1].swapaxes(0, 1)

    @jax.jit
    def both(weights, x, dy):
        if part == "step with dx":
            y, back = jax.vjp(forward, weights, x)
            (dw, du, *_), dx = back(dy)
        else:
            y, back = jax.vjp(lambda weights: forward(weights, x), weights)
            ((dw, du, *_),), dx = back(dy), None
        return y, dx, dw.T, du.T

    x, dy, only_forward = jnp.array(x), jnp.array(dy), jax.jit(forward)
    if part == "predict":
        return lambda: (only_forward(weights, x).block_until_ready(), None, None, None)
    return lambda: jax.block_until_ready(both(weights, x, dy))


def makers_of_gates(kind, shape):
    """A step whose gates are nearly closed, and one whose gates are not."""

    def make(bias):
        layer, (x, dy, _) = built(kind, shape), data(shape, "step")
        dy[:, :-1] = 0  # what reaches the first steps has passed all the gates
        layer.parameters[2].value[:] = bias
        return lambda: (layer.forward(x, training=True), layer.backward(dy))

    return {"tinynet": partial(make, -12.0), "tinynet, one with open gates": partial(make, 0.0)}


def works(quick):
    shapes = {"2 x 3, 4 to 5": TINY} if quick else SHAPES
    for kind in ("LSTM", "GRU"):
        for name, shape in shapes.items():
            for part in PARTS:
                about = {"flops": flops(kind, shape, part), "headline": part != "step with dx"}
                tiny = TINY if part == "step" else None
                yield Work(f"{kind} {name}, {part}", partial(makers, kind, part), shape, tiny=tiny, **about)
        shape = next(iter(shapes.values()))
        yield Work(f"{kind}, a step with closed gates", partial(makers_of_gates, kind), shape, headline=False)


if __name__ == "__main__":
    compare_works(__doc__, works)
