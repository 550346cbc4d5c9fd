"""The fast kernels of LSTM and GRU: the products of matrices, and the loop over time.

The rows of x (R, I) are the steps of all sequences, one sequence after another: number n has the rows begins[n] to
begins[n+1].  Nothing here is padded, so sequences may have any lengths.  Of D directions, the second goes backwards.

Forward.    A task is a direction and a block of sequences, for all steps of time, so that tasks don't wait for each
            other.  x w + b is made for some steps at once, in one product; at each step there is one for h u, added to
            that, and then the gates (gates.py), while its result is in the caches.
Backward.   Likewise the tasks go back through time: the gradient dz of what the gates are made of, dh = dz u.T.  When
            dz of all rows is there, dw = x.T dz and du = h_before.T dz are single products, and so is dx = dz w.T.

The sequences of a block are in order of their length, the longest first.  So those that go on at a step are the first
ones, and the block's product has as many rows.  A sequence's numbers are the same in whatever block it is.

w and u are copied into panels: some columns, as many as the tile in registers has, lie together.  A row of panels, 128
bytes, follows the one before in memory, where rows of u whose distance is a power of two would fall into the same few
sets of the caches.  Where there are few rows, w and u stay as they are: as one panel, which has all columns.

GRU's candidate takes x w and h u apart.  So z has four parts for it too: r, u, then the candidate's x w + b, and its
h u + b; and u's columns are in two parts, `first` for r and u, and `last` for the candidate.  LSTM's are all in `first`.
"""

import numba
import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.denormals import flush_denormals, restore_denormals
from tinynet.kernels.gates import gru_step, gru_step_backward, lstm_step, lstm_step_backward
from tinynet.kernels.llvm import LANES
from tinynet.kernels.matmul import THREADS_FROM, View, matmul
from tinynet.kernels.tile import TILE
from tinynet.kernels.transpose import transpose
from tinynet.kernels.vectors import load_some, store, width

PACKED_FROM = 32  # rows from which copying w and u pays
MOST = 64  # sequences in a block
ROWS = 48  # of dx, for a task
TOGETHER = 8192  # rows whose sum is made in their own dtype; these sums are added in float64
L1, L2 = cache_size(1), cache_size(2)


# --- panels -------------------------------------------------------------------------------------------------------


def panel_columns(dtype):
    _, vectors, lanes = TILE[np.dtype(dtype)]
    return vectors * lanes


@sized_kernel(2**18)
def copy_to_panels(w, first, columns, panels):
    """panels[d,p,k,c] = w[d,k,first + p C + c], of so many columns."""
    D, P, K, C = panels.shape
    N = w.shape[2]
    for task in prange(D * P):
        n = task % P * C
        for k in range(K):
            of, to = (task // P * K + k) * N + first + n, (task * K + k) * C
            for c in range(0, C, width(w)):
                store(load_some(w, of + c, columns - n - c, 0), panels, to + c)


@sized_kernel(2**18)
def transpose_to_panels(w, first, panels):
    """panels[d,p,k,c] = w[d,p C + c,first + k]: those of w.T."""
    D, P, K, C = panels.shape
    rows, N = w.shape[1:]
    for task in prange(D * P):
        n = task % P * C
        transpose(w, (task // P * rows + n) * N + first, N, panels, task * K * C, C, min(C, rows - n), K)


def in_panels(w, first, end, rows):
    """The columns `first` to `end` of w (D, K, N) in panels (D, P, K, C), for products of so many rows."""
    D, K, N = w.shape
    if rows < PACKED_FROM:
        columns = w[:, :, first:end]
        return np.require(columns, requirements=("C", "A", "W")).reshape(D, 1 if end > first else 0, K, end - first)
    C = panel_columns(w.dtype)
    panels = np.empty((D, (end - first + C - 1) // C, K, C), w.dtype)
    copy_to_panels(w, first, end - first, panels)
    return panels


def transposed_in_panels(w, first, end):
    """The same of those columns of w as rows: of w.T."""
    D, K, N = w.shape
    C = panel_columns(w.dtype)
    panels = np.empty((D, (K + C - 1) // C if end > first else 0, end - first, C), w.dtype)
    transpose_to_panels(w, first, panels)
    return panels


@kernel()
def product(size, a, panels, d, start, out):
    """out = start + a times the panels of direction d: `size` is (rows, columns)."""
    M, N = size
    _, P, K, C = panels.shape
    no_floor = out.array.dtype.type(-np.inf)
    for p in range(P):
        b = View(panels, (d * P + p) * K * C, C)
        given, to = View(start.array, start.first + p * C, start.steps), View(out.array, out.first + p * C, out.steps)
        matmul((M, min(C, N - p * C), K), a, b, start=given, out=to, floor=no_floor)


# --- blocks of sequences ------------------------------------------------------------------------------------------


def blocks_of(begins, directions):
    """Sequences in order of their length, the longest first, and into how many blocks to deal them, as cards."""
    N, threads = len(begins) - 1, numba.get_num_threads()
    lengths = np.diff(begins)
    order = np.argsort(-lengths, kind="stable")
    for_threads = min((threads + directions - 1) // directions, (N + 7) // 8)
    return order, max(1, for_threads, (N + MOST - 1) // MOST)


@kernel()
def block_of(task, order, blocks, begins, longest_first):
    """longest_first (2, B): where the sequences of the block begin, and their lengths.  Returns the greatest."""
    B = longest_first.shape[1]
    for j in range(B):
        n = order[task % blocks + j * blocks]
        longest_first[0, j], longest_first[1, j] = begins[n], begins[n + 1] - begins[n]
    return longest_first[1, 0] if B else 0


@kernel()
def active_at(step, sequences, places, reverse):
    """How many sequences go on at this step, and at which row of x each is."""
    for j in range(sequences.shape[1]):
        begin, length = sequences[0, j], sequences[1, j]
        if length <= step:
            return j
        places[j] = begin + (length - 1 - step if reverse else step)
    return sequences.shape[1]


# --- forward ------------------------------------------------------------------------------------------------------


def _work(x, begins, order, blocks, w, *_):
    return len(x) * w.size


@sized_kernel(THREADS_FROM, of=_work, matmul=True)
def forward_blocks(x, begins, order, blocks, w, first, last, b, b_last, started, y, h, c, gates, h_before, c_before):
    D = h.shape[0]
    for task in prange(D * blocks):
        before = flush_denormals()
        forward_block(
            task, x, begins, order, blocks, w, first, last, b, b_last, started, y, h, c, gates, h_before, c_before
        )
        restore_denormals(before)


@kernel()
def forward_block(
    task, x, begins, order, blocks, w, first, last, b, b_last, started, y, h, c, gates, h_before, c_before
):
    (D, N, H), I, LANES, is_gru = h.shape, x.shape[1], width(x), b_last.size > 0
    d, G, Z = task // blocks, b.shape[1], 4 * H
    split, B = 2 * H if is_gru else Z, (N - task % blocks + blocks - 1) // blocks
    sequences, places = memory.scratch((2, B), begins), memory.scratch((B,), begins)
    longest = block_of(task, order, blocks, begins, sequences)
    pitch = (H + LANES - 1) // LANES * LANES
    hs, cs = memory.scratch((B * pitch,), x), memory.scratch((0 if is_gru else B * pitch,), x)
    for j in range(B):
        n = order[task % blocks + j * blocks]
        for k in range(H):
            hs[j * pitch + k] = h[d, n, k]
            if not is_gru:
                cs[j * pitch + k] = c[d, n, k]
    chunk = max(1, min(longest, 16, L2 // 4 // (Z * x.itemsize) // max(B, 1)))
    z, some = memory.scratch((chunk * B * Z + LANES,), x), memory.scratch((chunk * B, I), x)
    for begin in range(0, longest, chunk):
        end, rows = min(longest, begin + chunk), 0
        for step in range(begin, end):
            for j in range(active_at(step, sequences, places, d == 1)):
                copy_row(x, places[j] * I, some, (rows + j) * I, I)
            rows += active_at(step, sequences, places, d == 1)
        product((rows, G), View(some, 0, (I, 1)), w, d, View(b, d * G, 0), View(z, 0, Z))
        row = 0
        for step in range(begin, end):
            active = active_at(step, sequences, places, d == 1)
            if step > 0 or started:
                state, out = View(hs, 0, (pitch, 1)), View(z, row * Z, Z)
                product((active, split), state, first, d, out, out)
                if is_gru:
                    product((active, H), state, last, d, View(b_last, d * H, 0), View(z, row * Z + 3 * H, Z))
            elif is_gru:
                for j in range(active):
                    for k in range(H):
                        z[(row + j) * Z + 3 * H + k] = b_last[d, k]
            if is_gru:
                gru_step(active, d, places, z, row * Z, pitch, hs, y, gates, h_before)
            else:
                lstm_step(active, d, places, z, row * Z, pitch, hs, cs, y, gates, h_before, c_before)
            row += active
    for j in range(B):
        n = order[task % blocks + j * blocks]
        for k in range(H):
            h[d, n, k] = hs[j * pitch + k]
            if not is_gru:
                c[d, n, k] = cs[j * pitch + k]


@kernel()
def copy_row(source, s, result, r, count):
    given, to = memory.piece(source, s, count), memory.piece(result, r, count)
    for i in range(count):
        to[i] = given[i]


# --- backward -----------------------------------------------------------------------------------------------------


def _work_backward(dy, dh, begins, order, blocks, first, last, gates, *_):
    return gates.size * dh.shape[2]


@sized_kernel(THREADS_FROM, of=_work_backward, matmul=True)
def backward_blocks(dy, dh, begins, order, blocks, first, last, gates, h_before, c_before, dz):
    D = dh.shape[0]
    for task in prange(D * blocks):
        before = flush_denormals()
        backward_block(task, dy, dh, begins, order, blocks, first, last, gates, h_before, c_before, dz)
        restore_denormals(before)


@kernel()
def backward_block(task, dy, dh, begins, order, blocks, first, last, gates, h_before, c_before, dz):
    """dz (D, R, .) of the block's rows, from the last step to the first; `first` and `last` are of u.T."""
    (D, N, H), LANES, is_gru, row_of_dz = dh.shape, width(dz), last.size > 0, dz.shape[2]
    d, B = task // blocks, (N - task % blocks + blocks - 1) // blocks
    sequences, places = memory.scratch((2, B), begins), memory.scratch((B,), begins)
    longest = block_of(task, order, blocks, begins, sequences)
    pitch = (H + LANES - 1) // LANES * LANES
    dhs, dcs = memory.scratch((B * pitch,), dz), memory.scratch((0 if is_gru else B * pitch,), dz)
    dzs = memory.scratch((B * row_of_dz,), dz)
    for j in range(B):
        n = order[task % blocks + j * blocks]
        for k in range(H):
            dhs[j * pitch + k] = dh[d, n, k]
            if not is_gru:
                dcs[j * pitch + k] = 0
    for step in range(longest - 1, -1, -1):
        active = active_at(step, sequences, places, d == 1)
        if is_gru:
            gru_step_backward(active, d, places, dy, dhs, pitch, gates, h_before, dz, dzs)
        else:
            lstm_step_backward(active, d, places, dy, dhs, dcs, pitch, gates, c_before, dz, dzs)
        if step > 0:
            out = View(dhs, 0, pitch)
            product((active, H), View(dzs, 0, (row_of_dz, 1)), first, d, out, out)
            product((active, H), View(dzs, 3 * H, (row_of_dz, 1)), last, d, out, out)


def _work_of_sums(x, h_before, dz, *_):
    return dz.size * x.shape[1]


@sized_kernel(THREADS_FROM, of=_work_of_sums, matmul=True)
def sums_over_rows(x, h_before, dz, begin, end, columns, groups, dw, du, db):
    """Adds x.T dz to dw, h_before.T dz to du, the sum of dz to db, over the rows `begin` to `end` of each direction."""
    for task in prange(dz.shape[0] * groups):
        before = flush_denormals()
        sums_of_group(task // groups, task % groups, x, h_before, dz, begin, end, columns, groups, dw, du, db)
        restore_denormals(before)


@kernel()
def sums_of_group(d, group, x, h_before, dz, begin, end, columns, groups, dw, du, db):
    """So many of dz's columns are a panel, and the group has some panels.

    It takes as many rows at once as leave a panel of them in the L1 cache.
    dz has 4 H columns.  GRU's third part of them is for dw alone, and its fourth for du.
    """
    (D, R, H), I, row_of_dz, G = h_before.shape, x.shape[1], dz.shape[2], dw.shape[2]
    no_floor, one = x.dtype.type(-np.inf), np.ones(1, x.dtype)
    split = 4 * H if G == 4 * H else 2 * H  # the columns that are for both
    panels_first, panels = (split + columns - 1) // columns, (H + columns - 1) // columns if G < 4 * H else 0
    count = panels_first + 2 * panels
    at_once = max(64, min(256, L1 // 2 // (columns * x.itemsize) // 64 * 64))
    for r in range(begin, end, at_once):
        K = min(at_once, end - r)
        for p in range(group * count // groups, (group + 1) * count // groups):
            part = 0 if p < panels_first else 1 + (p - panels_first) // panels
            o = p * columns if part == 0 else (p - panels_first) % panels * columns
            n, at = min(columns, (split if part == 0 else H) - o), o if part == 0 else (1 + part) * H + o
            rows = View(dz, (d * R + r) * row_of_dz + at, row_of_dz)
            sums = View(db, d * 4 * H + at, 0)
            matmul((1, n, K), View(one, 0, (0, 0)), rows, start=sums, out=sums, floor=no_floor)
            if part < 2:
                sums = View(dw, d * I * G + at, G)
                matmul((I, n, K), View(x, r * I, (1, I)), rows, start=sums, out=sums, floor=no_floor)
            if part != 1:
                sums = View(du, d * H * G + (at if part == 0 else 2 * H + o), G)
                states = View(h_before, (d * R + r) * H, (1, H))
                matmul((H, n, K), states, rows, start=sums, out=sums, floor=no_floor)


@sized_kernel(THREADS_FROM, of=lambda dz, w, dx: dz.size * dx.shape[1], matmul=True)
def input_gradient(dz, w, dx):
    """dx = dz w.T, summed over the directions."""
    (D, R, row_of_dz), I = dz.shape, dx.shape[1]
    zeros = np.zeros(I, dx.dtype)
    for task in prange((R + ROWS - 1) // ROWS):
        before = flush_denormals()
        r = task * ROWS
        size, out = (min(ROWS, R - r), I), View(dx, r * I, I)
        product(size, View(dz, r * row_of_dz, (row_of_dz, 1)), w, 0, View(zeros, 0, 0), out)
        for d in range(1, D):
            product(size, View(dz, (d * R + r) * row_of_dz, (row_of_dz, 1)), w, d, out, out)
        restore_denormals(before)


# --- what the layers call -----------------------------------------------------------------------------------------


def _forward(x, begins, w, u, b, b_last, h, c, y, h_end, c_end, gates, h_before, c_before):
    H = h.shape[2]
    split = 2 * H if b_last.size else 4 * H
    order, blocks = blocks_of(begins, len(w))
    started = bool(h.any() or c.any())
    h_end[...], c_end[...] = h, c
    panels = [in_panels(*part, len(x)) for part in ((w, 0, w.shape[2]), (u, 0, split), (u, split, u.shape[2]))]
    arrays = y, h_end, c_end, gates, h_before, c_before
    forward_blocks(x, begins, order, blocks, *panels, b, b_last, started, *arrays)


def _backward(dy, dh, x, begins, w, u, gates, h_before, c_before, dw, du, db, dx):
    D, R, _, H = gates.shape
    G = u.shape[2]
    split = 4 * H if G == 4 * H else 2 * H
    order, blocks = blocks_of(begins, D)
    columns = panel_columns(x.dtype)
    # Rows apart by an odd number of cache lines: those of a power of two share a few sets of the cache.
    lanes = LANES[x.dtype]
    dz = np.empty((D, R, ((4 * H + lanes - 1) // lanes | 1) * lanes), x.dtype)
    first, last = transposed_in_panels(u, 0, split), transposed_in_panels(u, split, G)
    backward_blocks(dy, dh, begins, order, blocks, first, last, gates, h_before, c_before, dz)
    groups = max(1, min(numba.get_num_threads(), 4 * H // columns))
    wide = [np.zeros(array.shape) for array in (dw, du, db)] if R > TOGETHER else []
    for begin in range(0, max(R, 1), TOGETHER):
        for array in (dw, du, db):
            array[...] = 0
        sums_over_rows(x, h_before, dz, begin, min(R, begin + TOGETHER), columns, groups, dw, du, db)
        for total, part in zip(wide, (dw, du, db), strict=False):
            total += part
    for total, array in zip(wide, (dw, du, db), strict=False):
        array[...] = total
    if dx.size:
        input_gradient(dz, transposed_in_panels(w, 0, G), dx)


def lstm_forward(x, begins, w, u, b, h, c, y, h_end, c_end, gates, h_before, c_before):
    none = np.empty((len(w), 0), x.dtype)
    _forward(x, begins, w, u, b, none, h, c, y, h_end, c_end, gates, h_before, c_before)


def lstm_backward(dy, dh, x, begins, w, u, gates, h_before, c_before, dw, du, db, dx):
    _backward(dy, dh, x, begins, w, u, gates, h_before, c_before, dw, du, db, dx)


def gru_forward(x, begins, w, u, b, b_n, h, y, h_end, gates, h_before):
    none = np.empty((len(w), 0, h.shape[2]), x.dtype)
    _forward(x, begins, w, u, b, b_n, h, none, y, h_end, none, gates, h_before, none)


def gru_backward(dy, dh, x, begins, w, u, gates, h_before, dw, du, db, db_n, dx):
    H = h_before.shape[2]
    sums = np.empty((len(w), 4 * H), x.dtype)
    none = np.empty((len(w), 0, H), x.dtype)
    _backward(dy, dh, x, begins, w, u, gates, h_before, none, dw, du, sums, dx)
    db[...], db_n[...] = sums[:, : 3 * H], sums[:, 3 * H :]
