"""The fast kernels of LSTM and GRU: the products of matrices, and the loop over time.

The rows of x (R, I) are the steps of all sequences, one sequence after another: number n has the rows begins[n] to
begins[n+1].  Nothing here is padded, so sequences may have any lengths.  Of D directions, the second goes backwards.

Forward.    A task is a direction and a block of sequences, for all steps of time, so that tasks don't wait for each
            other.  x w + b is made for some steps at once, in one product; at each step there is one for h u, added to
            that, and then the gates (gates.py), while its result is in the caches.
Backward.   Likewise the tasks go back through time: the gradient da of what the gates are made of, dh = da u.T.  When
            da of all rows is there, dw = x.T da and du = h_before.T da are single products, and so is dx = da w.T.

The sequences of a block are in order of their length, the longest first.  So those that go on at a step are the first
ones, and the block's product has as many rows.  A sequence's numbers are the same in whatever block it is.

w and u are copied into panels (panels.py), since they are read at each step again.

GRU's candidate takes x w and h u apart.  So a has four parts for it too: those of r and z, then the candidate's x w +
b, and its h u + b; and u's columns are in two parts, `first` for r and z, and `last` for the candidate.  LSTM's are all
in the former.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import prange

from tinynet.kernels import memory
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import kernel, sized_kernel
from tinynet.kernels.denormals import flush_denormals, restore_denormals
from tinynet.kernels.gates import Block, Kept, gru_step, gru_step_backward, lstm_step, lstm_step_backward
from tinynet.kernels.matmul import THREADS_FROM, View, matmul
from tinynet.kernels.packed_tile import VECTORS
from tinynet.kernels.panels import in_panels, panel_columns, product, transposed_in_panels
from tinynet.kernels.vectors import width

MOST = 64  # sequences in a block
ROWS = 48  # of dx, for a task
TOGETHER = 8192  # rows whose sum is made in their own dtype; these sums are added in float64
L1, L2 = cache_size(1), cache_size(2)


# --- blocks of sequences ------------------------------------------------------------------------------------------


class Sequences(NamedTuple):
    begins: Any  # (N + 1,): number n has the rows begins[n] to begins[n+1]
    order: Any  # (N,): their numbers, the longest first
    blocks: int  # into so many they are dealt, as cards are


def dealt(begins, directions):
    """The Sequences, in blocks enough for the threads, but of 8 or more, since a product of fewer rows is slow."""
    N, threads = len(begins) - 1, numba.get_num_threads()
    order = np.argsort(begins[:-1] - begins[1:], kind="stable")
    for_threads = min((threads + directions - 1) // directions, (N + 7) // 8)
    return Sequences(begins, order, max(1, for_threads, (N + MOST - 1) // MOST))


@kernel()
def block_of(task, sequences, spans):
    """spans (2, B): where each sequence of the block begins, and its length.  Returns the greatest length."""
    begins, order, blocks = sequences
    B = spans.shape[1]
    for j in range(B):
        n = order[task % blocks + j * blocks]
        spans[0, j], spans[1, j] = begins[n], begins[n + 1] - begins[n]
    return spans[1, 0] if B else 0


@kernel()
def active_at(step, spans, places, reverse):
    """How many sequences go on at this step; and into places, at which row of x each is."""
    for j in range(spans.shape[1]):
        begin, length = spans[0, j], spans[1, j]
        if length <= step:
            return j
        places[j] = begin + (length - 1 - step if reverse else step)
    return spans.shape[1]


# --- forward ------------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Panels and biases, each with an axis of directions in front."""

    w: Any
    first: Any
    last: Any  # empty for LSTM
    b: Any  # (D, 4 H), or GRU's 3 H
    b_last: Any  # (D, H), or empty


class State(NamedTuple):
    h: Any  # (D, N, H): before the first step, and then after the last
    c: Any  # likewise, and empty for GRU
    begun: bool  # whether one of them isn't 0


def _work(x, sequences, weights, *_):
    return len(x) * (weights.w.size + weights.first.size)


@sized_kernel(THREADS_FROM, of=_work, matmul=True)
def forward_blocks(x, sequences, weights, state, y, kept):
    for task in prange(weights.b.shape[0] * sequences.blocks):
        before = flush_denormals()
        forward_block(task, x, sequences, weights, state, y, kept)
        restore_denormals(before)


@kernel()
def forward_block(task, x, sequences, weights, state, y, kept):
    blocks, (w, first, last, b, b_last) = sequences.blocks, weights
    (_, N, H), I, G, Z, is_gru = state.h.shape, x.shape[1], b.shape[1], 4 * state.h.shape[2], b_last.size > 0
    d, B = task // blocks, (N - task % blocks + blocks - 1) // blocks
    spans, places = memory.scratch((2, B), sequences.order), memory.scratch((B,), sequences.order)
    longest = block_of(task, sequences, spans)
    pitch = (H + width(x) - 1) // width(x) * width(x)
    h, c = memory.scratch((B * pitch,), x), memory.scratch((0 if is_gru else B * pitch,), x)
    block = Block(places, h, c, pitch)
    states(task, sequences, state.h, h, pitch, False)
    if not is_gru:
        states(task, sequences, state.c, c, pitch, False)
    # So many steps' x w + b at once that they stay in the L2 cache.
    chunk = max(1, min(longest, 16, L2 // 4 // (Z * x.itemsize) // max(B, 1)))
    a, some = memory.scratch((chunk * B * Z + width(x),), x), memory.scratch((chunk * B * I,), x)
    for begin in range(0, longest, chunk):
        end, rows = min(longest, begin + chunk), 0
        for step in range(begin, end):
            for j in range(active_at(step, spans, places, d == 1)):
                copy_row(x, places[j] * I, some, rows * I, I)
                rows += 1
        product((rows, G), View(some, 0, (I, 1)), w, d, View(b, d * G, 0), View(a, 0, Z))
        row = 0
        for step in range(begin, end):
            active, now = active_at(step, spans, places, d == 1), View(a, row * Z, Z)
            if step > 0 or state.begun:
                product((active, 2 * H if is_gru else Z), View(h, 0, (pitch, 1)), first, d, now, now)
            if is_gru:
                m, bias = View(a, row * Z + 3 * H, Z), View(b_last, d * H, 0)
                product((active, H), View(h, 0, (pitch, 1)), last, d, bias, m)
                gru_step(active, d, block, now, y, kept)
            else:
                lstm_step(active, d, block, now, y, kept)
            row += active
    states(task, sequences, state.h, h, pitch, True)
    if not is_gru:
        states(task, sequences, state.c, c, pitch, True)


@kernel()
def states(task, sequences, of_all, of_block, pitch, back):
    """of_block (B, pitch) = the block's rows of of_all (D, N, H), or back."""
    _, order, blocks = sequences
    _, N, H = of_all.shape
    for j in range(of_block.size // pitch):
        n = order[task % blocks + j * blocks]
        if back:
            copy_row(of_block, j * pitch, of_all, (task // blocks * N + n) * H, H)
        else:
            copy_row(of_all, (task // blocks * N + n) * H, of_block, j * pitch, H)


@kernel()
def copy_row(source, s, result, r, count):
    given, to = memory.piece(source, s, count), memory.piece(result, r, count)
    for i in range(count):
        to[i] = given[i]


# --- backward -----------------------------------------------------------------------------------------------------


@sized_kernel(THREADS_FROM, of=lambda da, dy, dh, *_: da.size * dh.shape[2], matmul=True)
def backward_blocks(da, dy, dh, sequences, first, last, kept):
    for task in prange(dh.shape[0] * sequences.blocks):
        before = flush_denormals()
        backward_block(task, da, dy, dh, sequences, first, last, kept)
        restore_denormals(before)


@kernel()
def backward_block(task, da, dy, dh, sequences, first, last, kept):
    """da (D, R, .) of the block's rows, from the last step to the first; `first` and `last` are of u.T."""
    blocks, (_, N, H), is_gru, row_of_da = sequences.blocks, dh.shape, last.size > 0, da.shape[2]
    d, B = task // blocks, (N - task % blocks + blocks - 1) // blocks
    spans, places = memory.scratch((2, B), sequences.order), memory.scratch((B,), sequences.order)
    longest = block_of(task, sequences, spans)
    pitch = (H + width(da) - 1) // width(da) * width(da)
    dh_block, dc = memory.scratch((B * pitch,), da), memory.scratch((0 if is_gru else B * pitch,), da)
    das = memory.scratch((B * row_of_da,), da)
    block = Block(places, dh_block, dc, pitch)
    states(task, sequences, dh, dh_block, pitch, False)
    for k in range(dc.size):
        dc[k] = 0
    for step in range(longest - 1, -1, -1):
        active = active_at(step, spans, places, d == 1)
        if is_gru:
            gru_step_backward(active, d, block, dy, kept, da, das)
        else:
            lstm_step_backward(active, d, block, dy, kept, da, das)
        if step > 0:
            out = View(dh_block, 0, pitch)
            product((active, H), View(das, 0, (row_of_da, 1)), first, d, out, out)
            product((active, H), View(das, 3 * H, (row_of_da, 1)), last, d, out, out)


class Sums(NamedTuple):
    dw: Any  # (D, I, 4 H), or GRU's 3 H
    du: Any  # (D, H, 4 H), likewise
    db: Any  # (D, 4 H)


@sized_kernel(THREADS_FROM, of=lambda x, h_before, da, *_: da.size * x.shape[1], matmul=True)
def sums_over_rows(x, h_before, da, rows, groups, sums):
    """Adds x.T da to dw, h_before.T da to du, the sum of da to db, over these rows, (first, end), of each direction."""
    for task in prange(da.shape[0] * groups):
        before = flush_denormals()
        sums_of_group(task // groups, (task % groups, groups), x, h_before, da, rows, sums)
        restore_denormals(before)


@kernel()
def sums_of_group(d, group, x, h_before, da, rows, sums):
    """A part of the sums: it takes every third panel of da's columns, say, if there are three groups.

    `group` is (which, how many).  It takes as many rows at once as leave a panel of them in the L1 cache.
    da has 4 H columns.  GRU's third part of them is for dw alone, and its fourth for du.
    """
    (_, R, H), I, step, (dw, du, db) = h_before.shape, x.shape[1], da.shape[2], sums
    no_floor, one, G, C = x.dtype.type(-np.inf), np.ones(1, x.dtype), dw.shape[2], VECTORS * width(x)
    both = 4 * H if G == 4 * H else 2 * H  # columns that are for dw and du
    panels, rest = (both + C - 1) // C, (H + C - 1) // C if G < 4 * H else 0
    count, at_once = panels + 2 * rest, max(64, min(256, L1 // 2 // (C * x.itemsize) // 64 * 64))
    for r in range(rows[0], rows[1], at_once):
        K = min(at_once, rows[1] - r)
        for p in range(group[0], count, group[1]):
            part = 0 if p < panels else 1 + (p - panels) // rest
            o = p * C if part == 0 else (p - panels) % rest * C
            n, at = min(C, (both if part == 0 else H) - o), o if part == 0 else (1 + part) * H + o
            b, out = View(da, (d * R + r) * step + at, step), View(db, d * 4 * H + at, 0)
            matmul((1, n, K), View(one, 0, (0, 0)), b, start=out, out=out, floor=no_floor)
            if part < 2:
                out = View(dw, d * I * G + at, G)
                matmul((I, n, K), View(x, r * I, (1, I)), b, start=out, out=out, floor=no_floor)
            if part != 1:
                out = View(du, d * H * G + (at if part == 0 else 2 * H + o), G)
                a = View(h_before, (d * R + r) * H, (1, H))
                matmul((H, n, K), a, b, start=out, out=out, floor=no_floor)


@sized_kernel(THREADS_FROM, of=lambda da, w, dx: da.size * dx.shape[1], matmul=True)
def input_gradient(da, w, dx):
    """dx = da w.T, summed over the directions; w is that of w.T."""
    (D, R, row_of_da), I = da.shape, dx.shape[1]
    zeros = np.zeros(I, dx.dtype)
    for task in prange((R + ROWS - 1) // ROWS):
        before = flush_denormals()
        r = task * ROWS
        size, out = (min(ROWS, R - r), I), View(dx, r * I, I)
        product(size, View(da, r * row_of_da, (row_of_da, 1)), w, 0, View(zeros, 0, 0), out)
        for d in range(1, D):
            product(size, View(da, (d * R + r) * row_of_da, (row_of_da, 1)), w, d, out, out)
        restore_denormals(before)


# --- what the layers call -----------------------------------------------------------------------------------------


def _forward(x, begins, w, u, biases, before, y, after, kept):
    H, G = u.shape[1:]
    first = 4 * H if G == 4 * H else 2 * H
    for array, given in zip(after, before, strict=True):
        array[...] = given
    parts = (w, 0, G), (u, 0, first), (u, first, G)
    weights = Weights(*(in_panels(*part, len(x)) for part in parts), *biases)
    state = State(*after, any(bool(array.any()) for array in before))
    forward_blocks(x, dealt(begins, len(w)), weights, state, y, kept)


def row_of_da(H, dtype):
    """How many numbers a row has: an odd number of cache lines, since a power of two would use few of the cache's sets.

    There are 4 H numbers in it, and behind them room for a vector.
    """
    line = 64 // np.dtype(dtype).itemsize
    return (4 * H // line + 1 | 1) * line


def _backward(dy, dh, x, begins, w, u, kept, da, sums, dx):
    D, H, G = u.shape
    first = 4 * H if G == 4 * H else 2 * H
    panels = transposed_in_panels(u, 0, first), transposed_in_panels(u, first, G)
    backward_blocks(da, dy, dh, dealt(begins, D), *panels, kept)
    if sums.dw.size:
        all_sums(x, kept.h_before, da, sums)
    if dx.size:
        input_gradient(da, transposed_in_panels(w, 0, G), dx)


def all_sums(x, h_before, da, sums):
    """x.T da, h_before.T da and the sum of da: in float64, where there are many rows."""
    R, columns = len(x), 4 * h_before.shape[2]
    wide = [np.zeros(array.shape) for array in sums] if R > TOGETHER else []
    groups = max(1, min(numba.get_num_threads(), columns // panel_columns(x.dtype)))
    for begin in range(0, max(R, 1), TOGETHER):
        for array in sums:
            array[...] = 0
        sums_over_rows(x, h_before, da, (begin, min(R, begin + TOGETHER)), groups, sums)
        for total, part in zip(wide, sums, strict=False):
            total += part
    for total, array in zip(wide, sums, strict=False):
        array[...] = total


def lstm_forward(x, begins, w, u, b, h, c, y, h_after, c_after, gates, h_before, c_before):
    kept, none = Kept(gates, h_before, c_before), np.empty((len(w), 0), x.dtype)
    _forward(x, begins, w, u, (b, none), (h, c), y, (h_after, c_after), kept)


def lstm_backward(dy, dh, x, begins, w, u, gates, h_before, c_before, da, dw, du, db, dx):
    _backward(dy, dh, x, begins, w, u, Kept(gates, h_before, c_before), da, Sums(dw, du, db), dx)


def gru_forward(x, begins, w, u, b, b_m, h, y, h_after, gates, h_before):
    none = np.empty((len(w), 0, h.shape[2]), x.dtype)
    _forward(x, begins, w, u, (b, b_m), (h, none), y, (h_after, none), Kept(gates, h_before, none))


def gru_backward(dy, dh, x, begins, w, u, gates, h_before, da, dw, du, db, db_m, dx):
    D, _, H = h_before.shape
    sums, none = np.empty((D, 4 * H), x.dtype), np.empty((D, 0, H), x.dtype)
    _backward(dy, dh, x, begins, w, u, Kept(gates, h_before, none), da, Sums(dw, du, sums), dx)
    if db.size:
        db[...], db_m[...] = sums[:, : 3 * H], sums[:, 3 * H :]
