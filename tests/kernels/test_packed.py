"""The packed and the turned product against the product in place, NumPy and PyTorch."""

from itertools import product

import numba
import numpy as np
import pytest
import torch
from llvmlite import binding
from test_bounds import AVX2, gathered_once, packed_elsewhere, run, turned_once

import tinynet as tn
from tinynet.kernels import packed
from tinynet.kernels.compile import kernel
from tinynet.kernels.few_rows import FEW
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.packed import (
    AS_THEY_LIE,
    HALF_A_PAGE_FROM,
    HIGH,
    IN_PANELS,
    L2,
    PACKED,
    TURNED,
    WAYS,
    best_way,
    block_shape,
    in_a_set,
)
from tinynet.kernels.packed_tile import ROWS, VECTORS
from tinynet.kernels.tile import BLOCK, GROUP
from tinynet.kernels.vectors import lanes_of


@kernel(matmul=True)
def in_place(a, size, a_steps, b, b_k, start, s_m, out, o_m, floor):
    M, N, K = size  # matmul never packs a product with an axis j
    a_view, b_view = View(a, 0, (a_steps[0], 0, a_steps[1])), View(b, 0, (0, b_k))
    matmul((M, N, 1, K), a_view, b_view, start=View(start, 0, s_m), out=View(out, 0, o_m), floor=floor)


@kernel(matmul=True)
def matmul_once(a, size, rows, terms, b, b_terms, columns, start, s_rows, out, o_rows, floor):
    a_view, b_view, start_view = View(a, 0, (rows, terms)), View(b, 0, (b_terms, columns)), View(start, 0, s_rows)
    matmul(size, a_view, b_view, start=start_view, out=View(out, 0, o_rows), floor=floor)


def numbers(dtype, *shapes):
    rng = np.random.default_rng(sum(shapes, ()))
    return (rng.standard_normal(shape).astype(dtype) for shape in shapes)


def assert_same_bits(dtype, M, N, K, floor=-np.inf):
    """However a and b lie, the packed product has the bits of the one in place, and writes nothing else; so the turned.

    Rows of out lie further apart than they are long; and what it starts with may stand there already.
    """
    floor = np.dtype(dtype).type(floor)
    a, b, start = numbers(dtype, (M, K), (K, N), (M, N))
    expected, out = np.empty((M, N), dtype), np.empty((M, N + 3), dtype)
    in_place(a, (M, N, K), (K, 1), b, N, start, N, expected, N, floor)
    at, bt = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    for given, rows, terms in ((a, K, 1), (at, 1, M)):
        for other, b_terms, columns in ((b, N, 1), (bt, 1, K)):
            for once in (gathered_once, packed_elsewhere, matmul_once):
                out[...], started = np.nan, once is matmul_once
                if started:
                    out[:, :N] = start
                begin, step = (out, N + 3) if started else (start, N)
                once(given, (M, N, K), rows, terms, other, b_terms, columns, begin, step, out, N + 3, floor)
                assert np.array_equal(out[:, :N], expected), (once, M, N, K, rows, b_terms)
                assert np.isnan(out[:, N:]).all()
    for begin, step in ((start, N), (out, N + 3)):
        out[...] = np.nan
        if step > N:
            out[:, :N] = start
        turned_once(a, (M, N, K), bt, begin, step, out, N + 3, floor)
        assert np.array_equal(out[:, :N], expected), ("turned", M, N, K)
        assert np.isnan(out[:, N:]).all()
    exact = np.maximum(a.astype(float) @ b.astype(float) + start, floor)
    np.testing.assert_allclose(expected, exact, rtol=0, atol=K * 10 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_packed_has_the_bits_of_in_place_at_every_remainder(dtype):
    C = VECTORS * lanes_of(np.dtype(dtype))
    for M in range(FEW + 1, FEW + 2 * ROWS + 2):
        for N in (*range(1, 5), *range(C - 2, C + 3), 2 * C + 1):
            assert_same_bits(dtype, M, N, 1 + (7 * M + N) % 70, floor=0 if N % 2 else -np.inf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("K", [0, 1, 2, 255, 256, 257, 511, 4095, 4096, 4097, 4160, 4400, 8192, 8200, 30_001])
def test_packed_has_the_bits_of_in_place_for_every_length_of_the_sum(dtype, K):
    assert_same_bits(dtype, max(ROWS, FEW) + 1, 33, K)


def long_sums_and_few_rows():
    for dtype in (np.float32, np.float64):
        for K in (4095, 4097, 8200):
            assert_same_bits(dtype, 45, 33, K)
        for K in (257, 511, 4097):
            assert_same_bits(dtype, 1, 33, K)
        for inputs, outputs in ((700, 2000), (1000, 1024), (1001, 2048)):
            w, dz = numbers(dtype, (inputs, outputs), (2, outputs))
            model = tn.Sequential([tn.Dense(outputs)], inputs, dtype=dtype)
            model.parameters()[0].value = w
            dx = [None] * 3
            for k, rows in enumerate((slice(0, 1), slice(1, 2), slice(0, 2))):
                model.forward(np.zeros((len(dz[rows]), inputs), dtype), training=True)
                dx[k] = model.backward(dz[rows], input_grad=True)
            assert np.array_equal(np.concatenate(dx[:2]), dx[2])
            np.testing.assert_allclose(dx[2], dz.astype(float) @ w.T.astype(float), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_long_sums_and_few_rows_are_right_with_avx2_too(tmp_path):
    machine = AVX2 if binding.get_host_cpu_features().get("avx2") else {}
    done = run("long_sums_and_few_rows()", module="test_packed", NUMBA_CACHE_DIR=str(tmp_path), **machine)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(("M", "N", "K"), [(0, 3, 4), (3, 0, 4), (40, 0, 4), (3, 4, 0), (40, 3, 0), (0, 0, 0)])
def test_of_nothing_there_is_nothing_and_of_no_terms_the_start(M, N, K):
    assert_same_bits(np.float32, M, N, K)


@pytest.mark.parametrize(("M", "N", "K"), [(400, 1100, 700), (1030, 70, 1100), (45, 1100, 5000), (520, 40, 4161)])
def test_packed_has_the_bits_of_in_place_over_several_blocks(M, N, K):
    assert_same_bits(np.float32, M, N, K)


def test_packed_has_the_bits_of_in_place_where_tiles_go_along_the_rows_of_a_far_out():
    M = 2 * packed.block_height.py_func(10**6, 90, 4)
    for rows, columns in ((130, L2 // 4 // 130 + 70), (M, max(700, L2 // 4 // M + 70))):
        assert_same_bits(np.float32, rows, columns, 90)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_and_terms_may_lie_anywhere(dtype):
    """Windows of an image as rows, in runs that are no whole vectors; and everything in any order."""
    (image, w, start), (I, J, C, K) = numbers(dtype, (9, 11, 3), (3, 5, 3, 40), (50,)), (3, 5, 3, 40)
    positions = np.array([(p * 11 + q) * 3 for p in range(7) for q in range(7)])
    window = np.array([(i * 11 + j) * 3 + c for i in range(I) for j in range(J) for c in range(C)])
    patches = np.array([[image[p : p + I, q : q + J].ravel() for q in range(7)] for p in range(7)]).reshape(49, -1)
    rng, out = np.random.default_rng(0), np.zeros((49, K), dtype)
    for terms in (np.arange(I * J * C), rng.permutation(I * J * C)):
        for rows in (np.arange(49), rng.permutation(49)):
            columns, o_rows = rng.permutation(K) if rows[0] else np.arange(K), rows * K
            size, floor = (49, K, I * J * C), np.dtype(dtype).type(-np.inf)
            gathered_once(
                image, size, positions[rows], window[terms], w, terms * K, columns, start, 0, out, o_rows, floor
            )
            expected = patches @ w.reshape(-1, K)[:, columns] + start[:K]
            np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("L1", [2**13, 2**15, 48 * 2**10, 2**17, 2**21, 2**30])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_sums_are_cut_into_whole_blocks_and_those_of_many_terms_always(L1, itemsize, monkeypatch):
    monkeypatch.setattr(packed, "L1", L1)
    for K in (1, 255, 256, 257, 400, 1000, 2049, 4095, 4096, 4097, 8192, 100_000):
        deep = packed.depth.py_func(K, itemsize)
        assert deep == K or deep % BLOCK == 0 < deep < K
        if K >= BLOCK * GROUP:
            assert deep < K
            assert BLOCK * GROUP % deep == 0


def test_a_nan_and_infinities_stay_in_their_row_and_column():
    (a, b), floor = numbers(np.float32, (40, 70), (70, 50)), np.float32(0)
    a[3, 5], b[7, 9] = np.nan, np.inf
    out = np.empty((40, 50), np.float32)
    gathered_once(a, (40, 50, 70), 70, 1, b, 50, 1, np.zeros(50, np.float32), 0, out, 50, floor)
    assert np.isnan(out[3]).all()
    assert np.isfinite(np.delete(np.delete(out, 3, 0), 9, 1)).all()
    assert (np.delete(out[:, 9], 3) == np.where(np.delete(a[:, 7], 3) > 0, np.inf, 0)).all()


def test_errors_are_no_larger_than_those_of_pytorch():
    """Over 500 random products, of up to 600 terms: in the mean, and nearly everywhere in the greatest."""
    rng, ours, theirs = np.random.default_rng(0), [], []
    floor = np.float32(-np.inf)
    for _ in range(500):
        M, N, K = rng.integers(1, 60), rng.integers(1, 60), rng.integers(1, 600)
        a, b = rng.standard_normal((M, K)).astype(np.float32), rng.standard_normal((K, N)).astype(np.float32)
        out, exact = np.empty((M, N), np.float32), a.astype(float) @ b.astype(float)
        gathered_once(a, (M, N, K), K, 1, b, N, 1, np.zeros(N, np.float32), 0, out, N, floor)
        ours.append(np.abs(out - exact).mean())
        theirs.append(np.abs((torch.from_numpy(a) @ torch.from_numpy(b)).numpy() - exact).mean())
    assert np.mean(ours) <= np.mean(theirs)


def test_blocks_for_threads_are_whole_tiles_of_nearly_equal_shares():
    C = VECTORS * lanes_of(np.dtype("float32"))
    sizes = [(1, 1, 1), (64, 10, 4), (1000, 30, 2), (30, 1000, 3), (513, 777, 16), (4096, 4096, 5)]
    for (M, N, count), way in product(sizes, (IN_PANELS, PACKED)):
        rows, columns = block_shape(M, N, count, way, 4)
        assert rows % ROWS == columns % C == 0
        blocks = -(-M // rows) * -(-N // columns)
        assert blocks <= 2 * count
        assert rows * columns <= (M + 2 * ROWS) * (N + 2 * C) / count * 2


def test_a_large_product_reads_rows_of_a_where_they_are_unless_they_are_long_and_copies_columns():
    assert best_way(256, 512, 128, 1, 512, 1, 4) == IN_PANELS
    long = L2 // 512  # 256 rows of a then take twice the L2 cache
    assert best_way(1024, 1024, long, 1, 1024, 1, 4) == PACKED
    assert best_way(1024, 128, 512, 1, 1, 512, 4) == IN_PANELS
    assert best_way(1024, 1024, 1024, 1024, 1024, 1, 4) == PACKED
    assert best_way(1024, 1024, 10**6, 1, 1024, 1, 4) == PACKED  # a panel of 128 MB
    assert best_way(64, 1000, 1000, 1, 1, 1000, 4) == best_way(64, 3000, 700, 1, 1, 700, 4) == TURNED  # w.T, for dx
    assert best_way(64, 1000, 1000, 64, 1, 1000, 4) == PACKED  # a's terms are not side by side
    assert best_way(64, 10, 84, 1, 10, 1, 4) == AS_THEY_LIE
    assert best_way(512, 512, 8, 512, 512, 1, 4) == AS_THEY_LIE
    assert (best_way(48, 1024, 100, 1, 1024, 1, 4) == AS_THEY_LIE) == HIGH  # rows of b a page apart
    assert best_way(48, 1024, HALF_A_PAGE_FROM - 1, 1, 1024, 1, 4) == AS_THEY_LIE
    assert best_way(1, 4096, 4096, 1, 4096, 1, 4) == AS_THEY_LIE


@pytest.mark.parametrize(("N", "I", "O"), [(70, 700, 600), (300, 520, 130), (700, 130, 150)])
def test_a_packed_dense_layer_has_the_same_bits_on_any_number_of_threads_and_in_any_batch(N, I, O):
    x, dy = numbers(np.float32, (N, I), (N, O))
    model = tn.Sequential([tn.Dense(O, activation="relu")], I, seed=0)
    found, threads = [], numba.get_num_threads()
    try:
        for count in range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1):
            tn.set_num_threads(count)
            y = model.forward(x, training=True)
            dx = model.backward(dy, input_grad=True)
            found.append([y, dx, model.flat_grads.copy()])
            for n in (1, 3, 50):
                assert np.array_equal(model.forward(x[:n], training=True), y[:n])
                assert np.array_equal(model.backward(dy[:n], input_grad=True), dx[:n])
    finally:
        tn.set_num_threads(threads)
    for results in found[1:]:
        for one, other in zip(found[0], results, strict=True):
            assert np.array_equal(one, other)


def test_lines_that_share_a_set_of_the_cache():
    assert [in_a_set(step, 64) for step in (4, 64, 128, 1024, 1088, 4000, 4096, 12288)] == [0, 0, 2, 16, 1, 1, 64, 64]
    if ROWS <= 8:  # then reading a's and b's rows, all of them one page apart, takes longer than to copy them
        assert best_way(256, 1024, WAYS + 4, 1024, 1024, 1, 4) == PACKED
        assert best_way(256, 1000, WAYS + 4, 1000, 1000, 1, 4) == AS_THEY_LIE
