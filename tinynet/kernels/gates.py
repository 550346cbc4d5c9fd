"""One step of time of LSTM and GRU, number by number, in vectors: what comes after the product with the state.

    lstm_step, gru_step                      the gates, the new state, and what the backward pass will need
    lstm_step_backward, gru_step_backward    the gradient of z, and that of the state before, as far as it passes by z

Each is for the first `active` sequences of a block, in direction d; recurrent.py has the loop over time.

    z           a View (., 4 H), with a row for each sequence: what the gates are made of
    y (R, D H)  of direction d, the columns from d H on
    dz          the gradient of z: (D, R, .), by the rows of x; dzs has it once more by those of the block

Vectors are read from the middle of rows: behind the last one of z, and of what is in a Block, there is room for one.
"""

from typing import Any, NamedTuple

from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.floats import exp
from tinynet.kernels.vectors import fma, load, load_some, select, splat, store, store_some, width


class Block(NamedTuple):
    """The sequences of a task, at one step of time."""

    places: Any  # (B,), the row of x where each is
    h: Any  # their states, or the gradients of these, in rows of `pitch` numbers, whole vectors
    c: Any
    pitch: Any


class Kept(NamedTuple):
    """What forward keeps for the backward pass; without rows, if there will be none."""

    gates: Any  # (D, R, 4, H)
    h_before: Any  # (D, R, H)
    c_before: Any  # likewise, and empty for GRU


@helper
def sigmoid(x):
    """1 / (1 + exp(-x)), of a vector, as in layers/activations.py."""
    e = exp(select(x < 0, x, 0 - x))
    return select(x < 0, e, 1) / (1 + e)


@helper
def tanh(x):
    """Of a vector, as in special.py: near 0 Lambert's fraction, elsewhere by an exponential."""
    a = select(x < 0, 0 - x, x)
    q = x * x
    e = exp(-2 * a)
    far = select(x < 0, e - 1, 1 - e)
    above = x * fma(q, fma(q, q + 378, 17325), 135135)
    below = fma(q, fma(q, fma(q, 28, 3150), 62370), 135135)
    near = a < 0.5
    return select(near, above, far) / select(near, below, 1 + e)


@helper
def get(a, i, count):
    """The vector from a.flat[i] on, of which the first `count` numbers are there."""
    return load(a, i) if count >= width(a) else load_some(a, i, count, 0)


@helper
def put(v, a, i, count):
    if count >= width(a):
        store(v, a, i)
    else:
        store_some(v, a, i, count)


# --- LSTM ---------------------------------------------------------------------------------------------------------


@kernel()
def lstm_step(active, d, block, z, y, kept):
    gates, h_before, c_before = kept
    (_, R, _, H), LANES, pitch = gates.shape, width(y), block.pitch
    D, keep = y.shape[1] // H, R > 0
    for j in range(active):
        r = block.places[j]
        for u in range(0, H, LANES):
            at, k, n = z.first + j * 4 * H + u, j * pitch + u, H - u
            i, f = sigmoid(load(z.array, at)), sigmoid(load(z.array, at + H))
            g, o = tanh(load(z.array, at + 2 * H)), sigmoid(load(z.array, at + 3 * H))
            before = load(block.c, k)
            c = fma(f, before, i * g)
            if keep:
                to, row = (d * R + r) * 4 * H + u, (d * R + r) * H + u
                put(i, gates, to, n)
                put(f, gates, to + H, n)
                put(g, gates, to + 2 * H, n)
                put(o, gates, to + 3 * H, n)
                put(load(block.h, k), h_before, row, n)
                put(before, c_before, row, n)
            h = o * tanh(c)
            store(c, block.c, k)
            store(h, block.h, k)
            put(h, y, (r * D + d) * H + u, n)


@kernel()
def lstm_step_backward(active, d, block, dy, kept, dz, dzs):
    gates, _, c_before = kept
    (D, R, _, H), LANES, pitch, row_of_dz = gates.shape, width(dz), block.pitch, dz.shape[2]
    for j in range(active):
        r = block.places[j]
        for u in range(0, H, LANES):
            k, n, of = j * pitch + u, H - u, (d * R + r) * 4 * H + u
            i, f = get(gates, of, n), get(gates, of + H, n)
            g, o = get(gates, of + 2 * H, n), get(gates, of + 3 * H, n)
            before = get(c_before, (d * R + r) * H + u, n)
            q, a = tanh(fma(f, before, i * g)), load(block.h, k)
            if dy.size > 0:
                a = a + get(dy, (r * D + d) * H + u, n)
            e = load(block.c, k) + a * o * (1 - q * q)
            di, df = e * g * i * (1 - i), e * before * f * (1 - f)
            dg, do = e * i * (1 - g * g), a * q * o * (1 - o)
            store(e * f, block.c, k)
            store(splat(dz, 0), block.h, k)
            to, row = (d * R + r) * row_of_dz + u, j * row_of_dz + u
            put(di, dz, to, n)
            put(df, dz, to + H, n)
            put(dg, dz, to + 2 * H, n)
            put(do, dz, to + 3 * H, n)
            put(di, dzs, row, n)
            put(df, dzs, row + H, n)
            put(dg, dzs, row + 2 * H, n)
            put(do, dzs, row + 3 * H, n)


# --- GRU ----------------------------------------------------------------------------------------------------------


@kernel()
def gru_step(active, d, block, z, y, kept):
    gates, h_before, _ = kept
    (_, R, _, H), LANES, pitch = gates.shape, width(y), block.pitch
    D, keep = y.shape[1] // H, R > 0
    for j in range(active):
        r = block.places[j]
        for k in range(0, H, LANES):
            at, state, n = z.first + j * 4 * H + k, j * pitch + k, H - k
            reset, u, m = sigmoid(load(z.array, at)), sigmoid(load(z.array, at + H)), load(z.array, at + 3 * H)
            new, before = tanh(fma(reset, m, load(z.array, at + 2 * H))), load(block.h, state)
            if keep:
                to = (d * R + r) * 4 * H + k
                put(reset, gates, to, n)
                put(u, gates, to + H, n)
                put(new, gates, to + 2 * H, n)
                put(m, gates, to + 3 * H, n)
                put(before, h_before, (d * R + r) * H + k, n)
            h = fma(u, before, (1 - u) * new)
            store(h, block.h, state)
            put(h, y, (r * D + d) * H + k, n)


@kernel()
def gru_step_backward(active, d, block, dy, kept, dz, dzs):
    gates, h_before, _ = kept
    (D, R, _, H), LANES, pitch, row_of_dz = gates.shape, width(dz), block.pitch, dz.shape[2]
    for j in range(active):
        r = block.places[j]
        for k in range(0, H, LANES):
            state, n, of = j * pitch + k, H - k, (d * R + r) * 4 * H + k
            reset, u = get(gates, of, n), get(gates, of + H, n)
            new, m = get(gates, of + 2 * H, n), get(gates, of + 3 * H, n)
            before, a = get(h_before, (d * R + r) * H + k, n), load(block.h, state)
            if dy.size > 0:
                a = a + get(dy, (r * D + d) * H + k, n)
            dn, du = a * (1 - u) * (1 - new * new), a * (before - new) * u * (1 - u)
            dr, dm = dn * m * reset * (1 - reset), dn * reset
            store(a * u, block.h, state)
            to, row = (d * R + r) * row_of_dz + k, j * row_of_dz + k
            put(dr, dz, to, n)
            put(du, dz, to + H, n)
            put(dn, dz, to + 2 * H, n)
            put(dm, dz, to + 3 * H, n)
            put(dr, dzs, row, n)
            put(du, dzs, row + H, n)
            put(dn, dzs, row + 2 * H, n)
            put(dm, dzs, row + 3 * H, n)
