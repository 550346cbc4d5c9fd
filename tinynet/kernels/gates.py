"""One step of time of LSTM and GRU, number by number, in vectors: what comes after the product with the state.

    lstm_step, gru_step                      the gates, the new state, and what the backward pass will need
    lstm_step_backward, gru_step_backward    the gradient of z, and that of the state before, as far as it passes by z

Each is for the first `active` sequences of a block; recurrent.py has the loop over time, and says what lies where:

    z (., 4 H)             a row for each sequence: what the gates are made of
    hs, cs, dh, dc         the block's states and their gradients, in rows of `pitch` numbers, whole vectors
    places (B,)            the row of x and y where each sequence is at this step
    y (R, D H)             of direction d, the columns from d H on
    gates (D, R, 4, H), h_before, c_before (D, R, H)    kept for the backward pass, or empty
    dz (D, R, .), dzs      the gradient of z, by rows of x, and once more by rows of the block
"""

from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.floats import exp
from tinynet.kernels.vectors import fma, load, load_some, select, splat, store, store_some, width


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
def lstm_step(active, d, places, z, first, pitch, hs, cs, y, gates, h_before, c_before):
    (D, R, _, H), LANES = gates.shape, width(z)
    D, keep = y.shape[1] // H, R > 0
    for j in range(active):
        r = places[j]
        for u in range(0, H, LANES):
            at, k, n = first + j * 4 * H + u, j * pitch + u, H - u
            i, f = sigmoid(load(z, at)), sigmoid(load(z, at + H))
            g, o = tanh(load(z, at + 2 * H)), sigmoid(load(z, at + 3 * H))
            before = load(cs, k)
            c = fma(f, before, i * g)
            if keep:
                to, row = (d * R + r) * 4 * H + u, (d * R + r) * H + u
                put(i, gates, to, n)
                put(f, gates, to + H, n)
                put(g, gates, to + 2 * H, n)
                put(o, gates, to + 3 * H, n)
                put(load(hs, k), h_before, row, n)
                put(before, c_before, row, n)
            h = o * tanh(c)
            store(c, cs, k)
            store(h, hs, k)
            put(h, y, (r * D + d) * H + u, n)


@kernel()
def lstm_step_backward(active, d, places, dy, dh, dc, pitch, gates, c_before, dz, dzs):
    (D, R, _, H), LANES, row_of_dz = gates.shape, width(dz), dz.shape[2]
    for j in range(active):
        r = places[j]
        for u in range(0, H, LANES):
            k, n, of = j * pitch + u, H - u, (d * R + r) * 4 * H + u
            i, f = get(gates, of, n), get(gates, of + H, n)
            g, o = get(gates, of + 2 * H, n), get(gates, of + 3 * H, n)
            before = get(c_before, (d * R + r) * H + u, n)
            q, a = tanh(fma(f, before, i * g)), load(dh, k)
            if dy.size > 0:
                a = a + get(dy, (r * D + d) * H + u, n)
            e = load(dc, k) + a * o * (1 - q * q)
            di, df = e * g * i * (1 - i), e * before * f * (1 - f)
            dg, do = e * i * (1 - g * g), a * q * o * (1 - o)
            store(e * f, dc, k)
            store(splat(dh, 0), dh, k)
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
def gru_step(active, d, places, z, first, pitch, hs, y, gates, h_before):
    (D, R, _, H), LANES = gates.shape, width(z)
    D, keep = y.shape[1] // H, R > 0
    for j in range(active):
        r = places[j]
        for k in range(0, H, LANES):
            at, state, n = first + j * 4 * H + k, j * pitch + k, H - k
            reset, u, m = sigmoid(load(z, at)), sigmoid(load(z, at + H)), load(z, at + 3 * H)
            new, before = tanh(fma(reset, m, load(z, at + 2 * H))), load(hs, state)
            if keep:
                to = (d * R + r) * 4 * H + k
                put(reset, gates, to, n)
                put(u, gates, to + H, n)
                put(new, gates, to + 2 * H, n)
                put(m, gates, to + 3 * H, n)
                put(before, h_before, (d * R + r) * H + k, n)
            h = fma(u, before, (1 - u) * new)
            store(h, hs, state)
            put(h, y, (r * D + d) * H + k, n)


@kernel()
def gru_step_backward(active, d, places, dy, dh, pitch, gates, h_before, dz, dzs):
    (D, R, _, H), LANES, row_of_dz = gates.shape, width(dz), dz.shape[2]
    for j in range(active):
        r = places[j]
        for k in range(0, H, LANES):
            state, n, of = j * pitch + k, H - k, (d * R + r) * 4 * H + k
            reset, u = get(gates, of, n), get(gates, of + H, n)
            new, m = get(gates, of + 2 * H, n), get(gates, of + 3 * H, n)
            before, a = get(h_before, (d * R + r) * H + k, n), load(dh, state)
            if dy.size > 0:
                a = a + get(dy, (r * D + d) * H + k, n)
            dn, du = a * (1 - u) * (1 - new * new), a * (before - new) * u * (1 - u)
            dr, dm = dn * m * reset * (1 - reset), dn * reset
            store(a * u, dh, state)
            to, row = (d * R + r) * row_of_dz + k, j * row_of_dz + k
            put(dr, dz, to, n)
            put(du, dz, to + H, n)
            put(dn, dz, to + 2 * H, n)
            put(dm, dz, to + 3 * H, n)
            put(dr, dzs, row, n)
            put(du, dzs, row + H, n)
            put(dn, dzs, row + 2 * H, n)
            put(dm, dzs, row + 3 * H, n)
