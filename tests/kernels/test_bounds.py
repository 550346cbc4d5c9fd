"""No kernel reads or writes outside of its arrays: with every index checked, and between pages that can't be touched.

NUMBA_BOUNDSCHECK=1 checks each index, and what is given to the vector instructions that Numba knows nothing of; that
those then take no more than that is seen with arrays that end where readable memory ends, or begin where it begins.
Where TINYNET_VALGRIND is set, Valgrind looks at every address that the kernels for AVX2 read and write.
"""

import ctypes
import importlib
import itertools
import mmap
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import FunctionType

import numba
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import tinynet as tn
from tinynet.kernels import compile, dense_tall, memory, vectors, winograd
from tinynet.kernels.compile import kernel
from tinynet.kernels.correlation import correlate
from tinynet.kernels.matmul import View, gathered, matmul, places
from tinynet.kernels.memory import piece
from tinynet.kernels.one_row import outer_products
from tinynet.kernels.packed import HIGH, packed_product
from tinynet.kernels.packed_blocks import product_of_blocks
from tinynet.kernels.packed_tile import ROWS, VECTORS
from tinynet.kernels.planes import deinterleave, interleave
from tinynet.kernels.pooling_2x2 import max_pool_2x2_backward, max_pool_2x2_forward
from tinynet.kernels.tile import TILE, height_of
from tinynet.kernels.transpose import transpose
from tinynet.kernels.turned import DEEP, PIECE, turned_product
from tinynet.kernels.vectors import lanes_of
from tinynet.layers.activations import ACTIVATIONS
from tinynet.layers.pooling import max_pool_forward_plain
from tinynet.losses.linear_cross_entropy import linear_cross_entropy

pytestmark = pytest.mark.slow

AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+movbe,+f16c,+bmi,+bmi2,+lzcnt,+fma,+avx,+avx2",
}


def run(function, *under, module="test_bounds", **environment):
    """Call a function of this module in a Python process of its own, which a wrong address may end.

    The process may be run `under` another program with its options; the function may be of another `module`.
    """
    return subprocess.run(
        [*under, sys.executable, "-X", "faulthandler", "-c", f"import {module}; {module}.{function}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env=os.environ | {"NUMBA_NUM_THREADS": "1"} | environment,
    )


def layers_and_inputs(dtype, threads=False):
    """Every layer of the table of cases: its name, the layer, an input and a gradient; `threads`: enough for those."""
    from test_layers import CASES, built, enough_for_threads

    for case in CASES:
        yield case.name, *built(case, dtype, enough_for_threads(case) if threads else None)
    layer, rng = tn.Embedding(9, 5, padding=0), np.random.default_rng(0)
    layer.build((7,), dtype, rng)
    yield "Embedding", layer, rng.integers(0, 9, (4, 7)), rng.standard_normal((4, 7, 5)).astype(dtype)
    for vocabulary, dim, n in ((9, 5, 4), (130, 33, 7), (700, 64, 40 if threads else 3)):
        words = tn.Embedding(vocabulary, dim)
        words.build((7,), dtype, rng)
        layer = tn.TiedDense(words, bias=n == 7)
        layer.build((dim,), dtype, rng)
        h, dz = rng.standard_normal((n, dim)), rng.standard_normal((n, vocabulary))
        yield "TiedDense", layer, h.astype(dtype), dz.astype(dtype)


def losses_and_inputs(dtype):
    """Every loss, with all that it can be given: its name, a function, prediction, targets and options."""
    import test_losses
    from test_losses_family import FAMILY, configuration

    for seed in range(8):
        for name, (loss, _, _) in FAMILY.items():
            prediction, targets, options = configuration(name, seed)
            yield name, loss, prediction.astype(dtype), targets, options
        z, targets, options = test_losses.softmax_configuration(seed)
        yield "softmax", tn.softmax_cross_entropy, z.astype(dtype), (targets,), options
    rng = np.random.default_rng(0)
    for N, C in ((3000, 5), (700, 50), (9, 3000)):  # enough for several chunks
        z, labels = rng.standard_normal((N, C)).astype(dtype), rng.integers(0, C, N)
        p = np.full((N, C), 1 / C, dtype)
        labels[::7] = -100
        for options in ({}, {"label_smoothing": 0.1}, {"weight": np.linspace(0, 1, C), "reduction": "none"}):
            for targets in (labels, p):
                yield "softmax", tn.softmax_cross_entropy, z, (targets,), options
            yield "sigmoid", tn.sigmoid_cross_entropy, z, (p,), options
        yield "nll", tn.nll, np.log(p), (labels,), {}
        yield "categorical", tn.categorical_cross_entropy, p, (labels,), {}
        for loss in (tn.mean_squared_error, tn.huber, tn.mean_absolute_error, tn.kl_divergence, tn.self_distillation):
            yield loss.__name__, loss, z, (p,), {}
        yield "poisson_nll", tn.poisson_nll, z, (p,), {"full": True}
        yield "kl_divergence", tn.kl_divergence, z, (p,), {"per_class": True, "reduction": "none"}
        yield "softmax_focal", tn.softmax_focal, z, (p,), {}
        yield "sigmoid_focal", tn.sigmoid_focal, z, (p,), {"weight": p}
        yield "binary", tn.binary_cross_entropy, p, (p,), {}
        yield "multiclass_hinge", tn.multiclass_hinge, z, (labels,), {}


# --- every index checked ------------------------------------------------------------------------------------


@kernel(parallel=True)
def fill(a, n):
    for i in numba.prange(n):
        a[i] = 1


@kernel()
def size_of_piece(a, first, size):
    return memory.piece(a, first, size).size


@kernel(parallel=True, matmul=True)
def matmul_once(a, size, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor):
    for _ in numba.prange(1):
        out = View(c, c0, c_step)
        matmul(size, View(a, a0, a_step), View(b, b0, b_step), start=View(start, s0, s_step), out=out, floor=floor)


@kernel()
def correlate_once(a, size, a0, a_step, b, b0, b_step, c, c0, c_step):
    correlate(size, View(a, a0, a_step), View(b, b0, b_step), out=View(c, c0, c_step))


@kernel()
def planes_once(pixels, C, count, planes, step, back, end):
    if back:
        interleave(planes, 0, step, pixels, 0, C, count, end)
    else:
        deinterleave(pixels, 0, C, count, planes, 0, step, count)


@kernel()
def rows_once(a, i, step, n, b, j):
    LANES = vectors.width(a)
    vectors.store_rows(vectors.load_rows(a, i, step, n), b, j, LANES, n)
    vectors.store_rows_some(vectors.load_rows_some(a, i, step, n, 1), b, j, LANES, n, 1)


load_half_lines, _, store_half_lines, _ = vectors.lines(2)


@kernel()
def lines_once(a, i, step, b, j):
    v = load_half_lines(a, i, step, a)
    store_half_lines((v, v), b, j, step)


@kernel()
def points(source, s0, s_step, result, r0, r_step, count, add):
    if add:
        winograd.add_points_to_window(View(source, s0, s_step), View(result, r0, r_step), count)
    else:
        winograd.rows_to_points(View(source, s0, s_step), View(result, r0, r_step), count)


@kernel()
def mapped(windows, w_step, v, v_step, sums, s_step, C, K):
    winograd.products_of_points(View(windows, 0, w_step), View(v, 0, v_step), View(sums, 0, s_step), C, K)


def outside():
    """What must be an IndexError under NUMBA_BOUNDSCHECK=1, and right beside it what must not."""
    a = np.zeros(64, np.float32)
    part = slice(None, 8)

    def product(a=a[part], b=a[:12], start=a[:3], c=a[:6], a0=0, steps=(4, 1), c0=0):
        matmul_once(a, (2, 3, 4), a0, steps, b, 0, 3, start, 0, 0, c, c0, 3, a[0])

    def sum_of_two(a=a[:16], b=a[:24], a_steps=(8, 4, 1), b_steps=(12, 3)):  # over j and k
        matmul_once(a, (2, 3, 2, 4), 0, a_steps, b, 0, b_steps, a[:3].copy(), 0, 0, np.empty_like(a[:6]), 0, 3, a[0])

    image, y, argmax = (
        np.zeros((1, *shape, 2), dtype) for shape, dtype in (((2, 4), "f4"), ((1, 2), "f4"), ((1, 2), "u1"))
    )
    W, rows = lanes_of(np.dtype("f4")), np.zeros(1000, np.float32)

    def correlated(a=rows[: 3 * W + 2], b=rows[: 8 * W], c=rows[: 6 * W]):
        correlate_once(a, (3, 2, 2, 2), 0, W, b, 0, (4 * W, 2 * W), c, 0, (2 * W, W))

    def planes(pixels=rows[: 6 * W], planes=rows[: 6 * W], back=False, end=6 * W):
        planes_once(pixels, 3, 2 * W, planes, 2 * W, back, end)

    def maps(windows=rows[:90], v=rows[:72], sums=rows[100:280]):
        mapped(windows, 10, v, 2, sums, 5, 2, 5)

    yield lambda: fill(a, 64), lambda: fill(a, 65)
    yield lambda: size_of_piece(a, 60, 4), lambda: size_of_piece(a, 60, 5)
    yield lambda: size_of_piece(a, 0, 4), lambda: size_of_piece(a, -1, 4)
    yield product, lambda: product(a=a[:7])
    yield product, lambda: product(b=a[:11])
    yield product, lambda: product(start=a[:2])
    yield product, lambda: product(c=a[:5])
    yield product, lambda: product(a0=1)
    yield product, lambda: product(c0=-1)
    yield lambda: product(a0=4, steps=(-4, 1)), lambda: product(a0=3, steps=(-4, 1))
    yield sum_of_two, lambda: sum_of_two(a_steps=(8, 5, 1))
    yield sum_of_two, lambda: sum_of_two(b_steps=(13, 3))
    for add in (False, True):
        yield lambda add=add: points(a, 0, 8, a, 0, 8, 8, add), lambda add=add: points(a[:47], 0, 8, a, 0, 8, 8, add)
        end = 24 if add else 48
        yield (
            lambda add=add: points(a, 1, 8, a, 1, 8, 8, add),
            lambda add=add, end=end: points(a, 1, 8, a[:end], 1, 8, 8, add),
        )
    yield lambda: transpose(a, 0, 8, a.copy(), 0, 8, 8, 8), lambda: transpose(a, 1, 8, a.copy(), 0, 8, 8, 8)
    yield lambda: transpose(a, 0, 8, a.copy(), 0, 8, 8, 8), lambda: transpose(a, 0, 8, a[:63].copy(), 0, 8, 8, 8)
    yield correlated, lambda: correlated(a=rows[: 3 * W + 1])
    yield correlated, lambda: correlated(b=rows[: 8 * W - 1])
    yield correlated, lambda: correlated(c=rows[: 6 * W - 1])
    yield maps, lambda: maps(windows=rows[:89])
    yield maps, lambda: maps(v=rows[:71])
    yield maps, lambda: maps(sums=rows[100:279])
    for back in (False, True):
        yield lambda back=back: planes(back=back), lambda back=back: planes(pixels=rows[: 6 * W - 1], back=back)
        yield lambda back=back: planes(back=back), lambda back=back: planes(planes=rows[: 6 * W - 1], back=back)
    yield lambda: planes(back=True), lambda: planes(back=True, end=6 * W + 1)
    square = rows[: W * W]
    yield lambda: rows_once(square, 0, W, W, square, 0), lambda: rows_once(square, 1, W, W, square, 0)
    yield lambda: rows_once(square, 0, W, W, square, 0), lambda: rows_once(square, 0, W, W, square, 1)
    yield lambda: rows_once(square, 0, W, 2, square, 0), lambda: rows_once(square, -1, W, 2, square, 0)
    yield lambda: lines_once(rows[: W + 1], 1, W // 2, square, 0), lambda: lines_once(rows[:W], 1, W // 2, square, 0)
    yield lambda: lines_once(square, 0, W, square[: 4 * W], 0), lambda: lines_once(square, 0, W, square[: 3 * W], 0)
    pool, give = (image, (2, 2), y, argmax), (y, argmax, image)
    yield lambda: max_pool_2x2_forward(*pool), lambda: max_pool_2x2_forward(*pool[:3], argmax[:, :, :1])
    yield lambda: max_pool_2x2_backward(*give), lambda: max_pool_2x2_backward(y, argmax[:, :, :1], image)


def kernels():
    """Every kernel of tinynet, as Dispatchers: those in modules, and those behind functions that choose one."""
    found, package = {}, Path(tn.__file__).parent
    for path in package.rglob("*.py"):
        if "cuda" in path.name or "torch" in path.name or "distributed" in path.name:
            continue  # they need packages that are optional, and have no kernels for the CPU
        module = ".".join(["tinynet", *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__")
        for value in vars(importlib.import_module(module)).values():
            values, wrappers = [value], []
            while values:
                value = values.pop()
                if isinstance(value, Dispatcher):
                    function = value.py_func
                    key = function.__module__, function.__code__.co_name, function.__code__.co_firstlineno
                    found.setdefault(key, []).append(value)
                elif isinstance(value, FunctionType) and value.__closure__ and value not in wrappers:
                    wrappers.append(value)
                    values += [cell.cell_contents for cell in value.__closure__]
                elif isinstance(value, tuple):
                    values += value
    return found


def run_every_kernel():
    for name, layer, x, g in layers_and_inputs(np.float32):
        try:
            layer.forward(x)
            layer.forward(x, training=True)
            layer.backward(g, input_grad=not layer.takes_integers)
        except IndexError as error:
            raise AssertionError(name) from error
    for name in ("leaky_relu", "sigmoid", "tanh"):
        ACTIVATIONS[name].forward_in_place(np.ones((3, 5), np.float32))
    for name, loss, prediction, targets, options in losses_and_inputs(np.float32):
        try:
            loss(prediction, *targets, **options)
            loss(prediction, *targets, **options, out=prediction.copy())
        except IndexError as error:
            raise AssertionError(name) from error
    rng = np.random.default_rng(0)
    for N, D, C in ((130, 20, 33), (10, 64, 9000)):
        x, w, t = rng.standard_normal((N, D)), rng.standard_normal((D, C)), rng.integers(0, C, N)
        for weights in (w, np.asfortranarray(w)):
            linear_cross_entropy(x, weights, None, t)
    x, w, dy = (np.ones(shape, np.float32) for shape in ((100, 20), (20, 17), (100, 17)))
    for is_relu in (False, True):  # which in a layer takes more samples
        dense_tall.backward_kernel(x, w, dy, dy, is_relu, True, 3, 20, w.copy(), dy[0].copy(), x.copy())
    packed_elsewhere(x, (100, 17, 20), 20, 1, w, 17, 1, dy, 17, dy.copy(), 17, np.float32(0))
    model = tn.Sequential([tn.Dense(300)], 50)  # several pieces, and a last one that is short
    model.flat_grads[:] = 1
    amsgrad, centered = partial(tn.Adam, amsgrad=True), partial(tn.RMSprop, centered=True)
    for make in (tn.SGD, tn.Adagrad, tn.RMSprop, centered, tn.Adam, amsgrad):
        make(model, lr=0.1, clip_norm=1.0).step()
    tn.SGD(model, lr=0.1, momentum=0.9).step()


def check_every_kernel():
    assert compile.CHECKED
    for right, wrong in outside():
        right()
        try:
            wrong()
        except IndexError:
            continue
        raise AssertionError("an index outside of its array was let through")
    run_every_kernel()
    # The threads have no part in this: where bounds are checked, there is one.
    found = {key: dispatchers for key, dispatchers in kernels().items() if key[0] != "tinynet.kernels.threads"}
    compiled = {key: [k.signatures or k._part.signatures for k in dispatchers] for key, dispatchers in found.items()}
    missed = [key for key, signatures in compiled.items() if not any(signatures)]
    assert not missed, missed
    print(len(found))


def test_no_kernel_indexes_outside_of_its_arrays(tmp_path):
    # Compiled anew: of a kernel that comes out of a cache, nothing tells which others became part of it.
    done = run("check_every_kernel()", NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 340


def test_wrong_indices_go_unnoticed_only_without_the_check():
    assert not compile.CHECKED
    assert size_of_piece(np.zeros(3), 1, 9) == 9


# --- between pages that can't be touched ------------------------------------------------------------------------


class Guarded:
    """Memory with a page before and behind it that can't be touched."""

    def __init__(self, size):
        pages = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, pages + 2 * mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (address, address + mmap.PAGESIZE + pages):
            if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.bytes = np.frombuffer(self.memory, np.uint8)[mmap.PAGESIZE : mmap.PAGESIZE + pages]

    def array(self, shape, dtype, end):
        """An array that ends where the memory ends, or begins where it begins."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        part = self.bytes[self.bytes.size - size :] if end else self.bytes[:size]
        return part.view(dtype).reshape(shape)

    def copy(self, a, end):
        result = self.array(a.shape, a.dtype, end)
        result[...] = a
        return result


def guarded(a, end):
    """A copy of the array in memory of its own."""
    return Guarded(a.nbytes).copy(a, end)


def touch(index, end):
    """Read one number beside a guarded array, as a kernel with a wrong index would."""
    a = guarded(np.ones(10), end)
    first = np.zeros(1)
    copy_one(a, 0, first)  # compiles
    assert first == 1
    copy_one(a, index, first)


@kernel()
def copy_one(source, index, result):
    result[0] = memory.piece(source, index, 1)[0]


@kernel(matmul=True)
def gathered_once(a, size, rows, terms, b, b_terms, columns, start, s_rows, out, o_rows, floor):
    views = View(a, 0, (rows, terms)), View(b, 0, (b_terms, columns))
    gathered(size, *views, View(start, 0, s_rows), View(out, 0, o_rows), floor)


product_elsewhere = product_of_blocks if HIGH else packed_product  # where tiles are not HIGH, or are


@kernel()
def packed_elsewhere(a, size, rows, terms, b, b_terms, columns, start, s_rows, out, o_rows, floor):
    """gathered_once by the product that is packed on other processors."""
    M, N, K = size
    a_lines, b_lines = (places(rows, M), places(terms, K)), (places(columns, N), places(b_terms, K))
    lines = a_lines + b_lines + (places(s_rows, M), places(o_rows, M))
    arrays = piece(a, 0, a.size), piece(b, 0, b.size), piece(start, 0, start.size), piece(out, 0, out.size)
    product_elsewhere(size, arrays, lines, floor)


@kernel()
def turned_once(a, size, b, start, s_row, out, o_row, floor):
    """Of an a (M, K) and a b.T (N, K)."""
    M, N, K = size
    addresses = np.int64(a.ctypes.data), np.int64(b.ctypes.data), np.int64(start.ctypes.data), np.int64(out.ctypes.data)
    turned_product(M, N, K, *addresses, K, K, s_row, o_row, floor)


def products():
    """All remainders of M and N, and sums of several lengths, against NumPy."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        rows, vectors, lanes = TILE[np.dtype(dtype)]
        memory = [Guarded(2**16) for _ in range(4)]
        for M in range(1, 2 * height_of(rows, 1) + 2):
            for N in range(1, 2 * vectors * lanes + 2):
                J, K = (1, 1 + (M + N) % 7) if N % 2 else (2, 1 + (M + N) % 3)
                a, b = rng.standard_normal((M, J, K)).astype(dtype), rng.standard_normal((J, K, N)).astype(dtype)
                bias, expected = rng.standard_normal(N).astype(dtype), np.einsum("mjk,jkn->mn", a, b)
                for end in (False, True):
                    a_, b_, start = (place.copy(x, end) for place, x in zip(memory, (a, b, bias), strict=False))
                    c = memory[3].array((M, N), dtype, end)
                    size, steps = (M, N, J, K), (J * K, K, 1)
                    matmul_once(a_, size, 0, steps, b_, 0, (K * N, N), start, 0, 0, c, 0, N, dtype(-np.inf))
                    np.testing.assert_allclose(c, expected + bias, rtol=1e-4, atol=1e-4)
                    # The same with a transposed, and added to what is there.
                    a_ = memory[0].copy(a.reshape(M, J * K).T, end)
                    matmul_once(a_, size, 0, (1, K * M, M), b_, 0, (K * N, N), c, 0, N, c, 0, N, dtype(-np.inf))
                    np.testing.assert_allclose(c, 2 * expected + bias, rtol=1e-4, atol=1e-4)


def packed_products():
    """Edges of the packed product, with a and b as they are and transposed."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        memory = [Guarded(2**20) for _ in range(4)]
        for M in (1, 2, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3):
            for N in (1, 7, 16, 17, 31, 32, 33, 65):
                K = 1 + 5 * M * N % 67 if M > 1 else 1023 + N % 3  # a page apart, or nearly
                a, b, start = (rng.standard_normal(s).astype(dtype) for s in ((M, K), (K, N), (M, N)))
                for a_, a_steps in ((a, (K, 1)), (a.T, (1, M))):
                    for b_, b_steps in ((b, (N, 1)), (b.T, (1, K))):
                        for end in (False, True):
                            given = [place.copy(x, end) for place, x in zip(memory, (a_, b_, start), strict=False)]
                            c, floor = memory[3].array((M, N), dtype, end), dtype(-np.inf)
                            for once in (gathered_once, packed_elsewhere):
                                once(given[0], (M, N, K), *a_steps, given[1], *b_steps, given[2], N, c, N, floor)
                                np.testing.assert_allclose(c, a @ b + start, rtol=1e-4, atol=1e-4)
                                c[...] = np.nan


def turned_products():
    """Edges of the turned product, of its panels and of long sums; from a start, a bias and what is there."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        C, floor = VECTORS * lanes_of(np.dtype(dtype)), dtype(-np.inf)
        memory = [Guarded(2**19) for _ in range(4)]
        sizes = [(M, N, 1 + 5 * M * N % 67) for M in (1, 2, C - 1, C, C + 1, 2 * C + 3) for N in (1, 7, 16, 33, 65)]
        for M, N, K in [*sizes, (C + 1, PIECE + 1, 5), (3, 5, DEEP + 65), (3, 5, DEEP + 200)]:
            a, bt, start = (rng.standard_normal(s).astype(dtype) for s in ((M, K), (N, K), (M, N)))
            for end in (False, True):
                given = [place.copy(x, end) for place, x in zip(memory, (a, bt, start), strict=False)]
                c = memory[3].array((M, N), dtype, end)
                turned_once(given[0], (M, N, K), given[1], given[2], N, c, N, floor)
                np.testing.assert_allclose(c, a @ bt.T + start, rtol=1e-4, atol=1e-4)
                c[...] = start
                turned_once(given[0], (M, N, K), given[1], c, N, c, N, floor)
                np.testing.assert_allclose(c, a @ bt.T + start, rtol=1e-4, atol=1e-4)
                bias = memory[2].copy(start[0], end)
                turned_once(given[0], (M, N, K), given[1], bias, 0, c, N, floor)
                np.testing.assert_allclose(c, a @ bt.T + bias, rtol=1e-4, atol=1e-4)


def transposes_and_maps():
    for dtype in (np.float32, np.float64):
        memory = [Guarded(2**16) for _ in range(2)]
        for rows in range(1, 20):
            for columns in range(1, 20):
                for end in (False, True):
                    a = memory[0].copy(np.arange(rows * columns, dtype=dtype).reshape(rows, columns), end)
                    result = memory[1].array((columns, rows), dtype, end)
                    transpose(a, 0, columns, result, 0, rows, rows, columns)
                    assert np.array_equal(result, a.T)
        for count in range(1, 70):
            for add, matrix in ((False, winograd.B.T), (True, winograd.G.T)):
                for end in (False, True):
                    a = memory[0].copy(np.random.default_rng(count).standard_normal((6, count)).astype(dtype), end)
                    result = memory[1].copy(np.ones((len(matrix), count), dtype), end)
                    points(a, 0, count, result, 0, count, count, add)
                    np.testing.assert_allclose(result, matrix @ a + add, rtol=1e-4, atol=1e-4)
        for K in range(1, 40):
            for C in (1, 2, 7):
                for end in (False, True):
                    rng = np.random.default_rng(K)
                    windows, v = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 3, C, K), (6, 6, C)))
                    u = np.einsum("xi,ijck,yj->xyck", winograd.G, windows, winograd.G)
                    sums = memory[1].copy(np.ones((6, 6, K), dtype), end)
                    mapped(memory[0].copy(windows, end), C * K, v, C, sums, K, C, K)
                    np.testing.assert_allclose(sums, 1 + np.einsum("xyc,xyck->xyk", v, u), rtol=1e-4, atol=1e-4)


def planes_and_correlations():
    for dtype in (np.float32, np.float64):
        memory, W, rng = [Guarded(2**16) for _ in range(3)], lanes_of(np.dtype(dtype)), np.random.default_rng(0)
        for end in (False, True):
            for C in range(1, 20):
                for n in range(1, 40):
                    step = -(-n // W) * W
                    x, planes = rng.standard_normal((n, C)).astype(dtype), memory[1].array((C, step), dtype, end)
                    planes_once(memory[0].copy(x, end), C, n, planes, step, False, 0)
                    assert np.array_equal(planes[:, :n], x.T)
                    back = memory[2].array((n, C), dtype, end)
                    planes_once(back, C, n, planes, step, True, back.size)
                    assert np.array_equal(back, x)
            for M in range(1, 9):
                for N in range(1, 14):
                    a, b = rng.standard_normal((2, 2 * W + M - 1)), rng.standard_normal((2, N, 2 * W))
                    c = memory[2].copy(np.zeros((M, N, W), dtype), end)
                    a, b = memory[0].copy(a.astype(dtype), end), memory[1].copy(b.astype(dtype), end)
                    correlate_once(a, (M, N, 2, 2), 0, a.shape[1], b, 0, (N * 2 * W, 2 * W), c, 0, (N * W, W))
                    expected = np.einsum("mpi,pni->mn", np.stack([a[:, m : m + 2 * W] for m in range(M)]), b)
                    np.testing.assert_allclose(c.sum(2), expected, rtol=1e-4, atol=1e-4)


def pools():
    for dtype in (np.float32, np.float64):
        memory = [Guarded(2**16) for _ in range(4)]
        for N, H, W in ((1, 2, 2), (2, 3, 2), (1, 2, 5), (2, 5, 4), (1, 4, 9)):
            for C in (*range(1, 18), 31, 32, 33):
                x = np.random.default_rng(C).standard_normal((N, H, W, C)).astype(dtype)
                for end in (False, True):
                    shape = N, H // 2, W // 2, C
                    y, argmax = memory[1].array(shape, dtype, end), memory[2].array(shape, np.uint8, end)
                    max_pool_2x2_forward(memory[0].copy(x, end), (2, 2), y, argmax)
                    assert np.array_equal(y, max_pool_forward_plain(x, (2, 2), (2, 2), (0, 0), (1, 1), y.shape[1:3])[0])
                    dx = memory[3].array(x.shape, dtype, end)
                    max_pool_2x2_backward(y, argmax, dx)
                    assert np.array_equal(dx[dx != 0], x[dx != 0])
                    assert np.isclose(dx.sum(dtype=float), y.sum(dtype=float))


def rows_of_few_samples():
    for dtype in (np.float32, np.float64):
        memory, W, rng = [Guarded(2**16) for _ in range(3)], lanes_of(np.dtype(dtype)), np.random.default_rng(0)
        for N, O, end in itertools.product((1, 3, 8, 67), (1, W - 1, W, 2 * W + 1), (False, True)):
            x, dz = (rng.standard_normal(shape).astype(dtype) for shape in ((N, 6), (N, O)))
            given, slopes, dw = memory[0].copy(x, end), memory[1].copy(dz, end), memory[2].array((6, O), dtype, end)
            dw[...] = 7
            outer_products(given, 2, 3, slopes, dw)
            np.testing.assert_allclose(dw[2:5], (x.T @ dz)[2:5], rtol=1e-4, atol=1e-5)
            assert (dw[[0, 1, 5]] == 7).all()
            db = memory[2].array((O,), dtype, end)
            dense_tall.sums_of_rows(slopes, db)
            np.testing.assert_allclose(db, dz.sum(axis=0), rtol=1e-4, atol=1e-4)


def with_guarded_results(function, end):
    """Call it once as it is, which compiles what it needs, and again while np.empty gives guarded arrays."""
    results = function()
    empty, empty_like = np.empty, np.empty_like
    try:
        np.empty = lambda shape, dtype=float: guarded(empty(shape, dtype), end)
        np.empty_like = lambda a: guarded(empty_like(a), end)
        again = function()
    finally:
        np.empty, np.empty_like = empty, empty_like
    for one, other in zip(results, again, strict=True):
        if one is not None:
            np.testing.assert_array_equal(one, other)


def layers():
    for end in (False, True):
        for name, layer, x, g in layers_and_inputs(np.float32):
            print(name, end, flush=True)
            for parameter in layer.parameters:
                parameter._value, parameter._grad = guarded(parameter.value, end), guarded(parameter.grad, end)
            x, g = guarded(x, end), guarded(g, end)
            state = getattr(layer, "state", None)

            def step(layer=layer, x=x, g=g, state=state):
                if state is not None:
                    layer.state = state  # the same mask again
                y, predicted = layer.forward(x, training=True).copy(), layer.forward(x).copy()
                dx = layer.backward(g, input_grad=not layer.takes_integers)
                buffers = () if layer.buffers else (predicted,)  # running means move on
                return [y, dx, *buffers, *(p.grad.copy() for p in layer.parameters)]

            with_guarded_results(step, end)


def losses():
    for end in (False, True):
        for name, loss, prediction, targets, options in losses_and_inputs(np.float32):
            print(name, prediction.shape, options, end, flush=True)
            prediction, targets = guarded(prediction, end), [guarded(t, end) for t in targets]
            options = {key: guarded(v, end) if isinstance(v, np.ndarray) else v for key, v in options.items()}
            out = guarded(prediction, end)

            def call(loss=loss, prediction=prediction, targets=targets, options=options, out=out):
                value, gradient = loss(prediction, *targets, **options)
                return value, gradient, *loss(prediction, *targets, **options, out=out)

            with_guarded_results(call, end)


guards = pytest.mark.skipif(sys.platform == "win32", reason="this system has no mprotect")


@guards
@pytest.mark.parametrize(("index", "end"), [(10, True), (-1, False)])
def test_a_number_beside_a_guarded_array_ends_the_process(index, end):
    assert run(f"touch({index}, {end})").returncode < 0
    assert run(f"touch({9 if end else 0}, {end})").returncode == 0


@guards
@pytest.mark.parametrize(
    "part",
    [
        "products",
        "packed_products",
        "turned_products",
        "transposes_and_maps",
        "planes_and_correlations",
        "pools",
        "rows_of_few_samples",
        "layers",
        "losses",
    ],
)
def test_nothing_outside_of_the_arrays_is_touched(part):
    done = run(f"{part}()")
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-3000:]}"


# --- under Valgrind ---------------------------------------------------------------------------------------------


def take_one(index):
    """Read one number of ten, or one beside them."""
    copy_one(np.ones(10), index, np.zeros(1))


@pytest.mark.skipif("TINYNET_VALGRIND" not in os.environ, reason="takes minutes; runs where TINYNET_VALGRIND is set")
def test_valgrind_sees_no_wrong_address_in_a_kernel(tmp_path):
    machine = AVX2 | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONMALLOC": "malloc"}  # Valgrind knows no AVX-512

    def seen(function):
        """What Valgrind reports of compiled kernels, whose functions have no names: ???."""
        log = tmp_path / "log"
        assert run(function, **machine).returncode == 0  # compiles, which would take hours under Valgrind
        done = run(function, "valgrind", "--error-limit=no", f"--log-file={log}", **machine)
        assert done.returncode == 0, done.stderr[-3000:]
        return re.findall(r"==\d+== (\w.*)\n==\d+==    at 0x\w+: \?\?\?", log.read_text())

    assert seen("take_one(9)") == []
    assert seen("take_one(10)") == ["Invalid read of size 8"]
    assert seen("run_every_kernel()") == []
