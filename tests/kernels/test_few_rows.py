"""Products of few rows against the other products, plain loops and PyTorch."""

import numba
import numpy as np
import pytest
import torch
from test_bounds import gathered_once
from test_packed import assert_same_bits, in_place, numbers

import tinynet as tn
from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import kernel
from tinynet.kernels.few_rows import (
    DISTANT,
    DISTANT_TRANSPOSED,
    FEW,
    IN_ORDER,
    L2,
    SHAPES,
    TRANSPOSED,
    columns_at_once,
    few_rows_pay,
    few_rows_product,
)
from tinynet.kernels.matmul import places
from tinynet.kernels.one_row import one_row
from tinynet.kernels.packed import HALF_A_PAGE_FROM, HIGH
from tinynet.kernels.tile import BLOCK, GROUP
from tinynet.kernels.vectors import lanes_of

I = 700
BEYOND_L2 = cache_size(2) // 2 // (4 * I) + 21  # outputs of so many inputs whose weights are read in order


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_rows_have_the_bits_of_any_number_at_every_remainder(dtype):
    C = max(vectors for _, vectors in SHAPES) * lanes_of(np.dtype(dtype))
    for M in (1, 2, 3, 5, FEW):
        for N in (1, 2, C // 2, C - 1, C, C + 1, 2 * C + 1):
            assert_same_bits(dtype, M, N, 1 + (7 * M + N) % 70, floor=0 if N % 2 else -np.inf)


@kernel()
def few_rows_alone(size, a, b, start, out, floor):
    """The product for few rows, of matrices in C order, however many rows and however small b."""
    M, N, K = size
    lines = places(K, M), places(1, K), places(1, N), places(N, K), places(N, M), places(N, M)
    few_rows_product(size, (a.reshape(-1), b.reshape(-1), start.reshape(-1), out.reshape(-1)), lines, floor)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("M", [FEW + 1, IN_ORDER, DISTANT])
def test_more_rows_have_the_bits_of_the_product_in_place(dtype, M):
    for N, K in ((1, 3), (33, 70), (65, 257), (31, 4160)):
        floor = np.dtype(dtype).type(0 if N % 2 else -np.inf)
        a, b, start = numbers(dtype, (M, K), (K, N), (M, N))
        expected, out = np.empty((M, N), dtype), np.full((M, N), np.nan, dtype)
        in_place(a, (M, N, K), (K, 1), b, N, start, N, expected, N, floor)
        few_rows_alone((M, N, K), a, b, start, out, floor)
        assert np.array_equal(out, expected), (M, N, K)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("K", [0, 1, 2, 63, 64, 65, 255, 256, 257, 511, 4095, 4096, 4097, 4160, 8192, 8200])
def test_few_rows_have_the_bits_of_any_number_for_every_length_of_the_sum(dtype, K):
    for M in (1, 3):
        assert_same_bits(dtype, M, 33, K)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_single_row_whose_terms_lie_apart_has_the_same_bits(dtype):
    for K in (257, 511, 8200):
        (a, b, start), floor = numbers(dtype, (1, 2 * K), (K, 33), (33,)), dtype(-np.inf)
        expected, out = np.empty((1, 33), dtype), np.empty((1, 33), dtype)
        in_place(np.ascontiguousarray(a[:, ::2]), (1, 33, K), (K, 1), b, 33, start, 0, expected, 33, floor)
        gathered_once(a, (1, 33, K), 2 * K, 2, np.ascontiguousarray(b.T), 1, K, start, 0, out, 33, floor)
        assert np.array_equal(out, expected), K


def test_few_rows_have_the_bits_of_any_number_over_several_pieces_of_columns():
    assert columns_at_once(1, 20_000, 70, 4) < 20_000
    assert_same_bits(np.float32, 1, 20_001, 70)
    assert_same_bits(np.float32, FEW, 1_030, 300)
    for M in (2, FEW + 1, IN_ORDER):
        assert_same_bits(np.float32, M, 512, HALF_A_PAGE_FROM + 3)


def test_rows_a_page_apart_have_the_bits_of_any_number():
    for M in (8, 9, FEW):
        assert_same_bits(np.float32, M, 33, 1024)


def test_rows_and_terms_may_lie_anywhere():
    (a, b, start), floor = numbers(np.float32, (40, 90), (90, 50), (50,)), np.float32(-np.inf)
    rng = np.random.default_rng(0)
    rows, terms, columns = rng.permutation(40)[:5], rng.permutation(90), rng.permutation(50)
    out = np.zeros((5, 50), np.float32)
    gathered_once(a, (5, 50, 90), rows * 90, terms, b, terms * 50, columns, start, 0, out, np.arange(5) * 50, floor)
    np.testing.assert_allclose(out, a[rows] @ b[:, columns] + start, rtol=1e-5, atol=1e-5)


def test_a_nan_and_infinities_stay_in_their_row_and_column():
    (a, b), floor = numbers(np.float32, (4, 70), (70, 50)), np.float32(0)
    a[3, 5], b[7, 9] = np.nan, np.inf
    out = np.empty((4, 50), np.float32)
    gathered_once(a, (4, 50, 70), 70, 1, b, 50, 1, np.zeros(50, np.float32), 0, out, 50, floor)
    assert np.isnan(out[3]).all()
    assert np.isfinite(np.delete(out[:3], 9, 1)).all()
    assert (out[:3, 9] == np.where(a[:3, 7] > 0, np.inf, 0)).all()


def test_weights_beyond_the_cache_are_read_in_order_for_few_samples_only():
    N, K = 256, L2 // 1024  # of one L2 cache
    nearer = DISTANT if HIGH else IN_ORDER
    for in_order, caches, most in (
        (False, 33, DISTANT_TRANSPOSED),
        (False, 5, TRANSPOSED),
        (False, 1, TRANSPOSED),
        (True, 33, DISTANT),
        (True, 5, nearer),
        (True, 1, IN_ORDER),
    ):
        assert few_rows_pay(1, N, caches * K, in_order, N, 4)
        assert few_rows_pay(most, N, caches * K, in_order, N, 4)
        assert not few_rows_pay(most + 1, N, caches * K, in_order, N, 4)
    assert not few_rows_pay(1, 10, 84, True, 10, 4)


def test_weights_in_the_cache_are_read_in_order_where_a_low_tile_would_read_rows_half_a_page_apart():
    N, K = 512, HALF_A_PAGE_FROM
    for rows, terms, apart, expected in (
        (2, K, N, True),
        (IN_ORDER, K, 3 * N, True),
        (1, K, N, False),
        (IN_ORDER + 1, K, N, False),
        (2, K - 1, N, False),
        (2, K, N + 16, False),
    ):
        assert few_rows_pay(rows, N, terms, True, apart, 4) == (expected and not HIGH)
        assert not few_rows_pay(rows, N, terms, False, apart, 4)


def test_a_sample_has_the_same_bits_alone_and_in_any_batch_on_any_number_of_threads():
    x, dy = numbers(np.float32, (30, I), (30, BEYOND_L2))
    counts = 1, 2, 8, 9, FEW, FEW + 1, IN_ORDER, IN_ORDER + 1
    model = tn.Sequential([tn.Dense(BEYOND_L2, activation="relu")], I, seed=0)
    threads, found = numba.get_num_threads(), []
    try:
        for count in range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1):
            tn.set_num_threads(count)
            y = model.forward(x, training=True)
            dx = model.backward(dy, input_grad=True)
            for n in counts:
                assert np.array_equal(model.forward(x[:n], training=True), y[:n])
                assert np.array_equal(model.backward(dy[:n], input_grad=True), dx[:n])
                found.append([y, dx, model.flat_grads.copy()])
    finally:
        tn.set_num_threads(threads)
    for k, results in enumerate(found):
        for one, other in zip(found[k % len(counts)], results, strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("K", [0, 1, 256, 257, 1023, BLOCK * GROUP - 1])
def test_one_row_has_the_bits_of_the_product_in_place(dtype, K):
    columns = 4 * lanes_of(np.dtype(dtype))
    for N, a_k in ((columns - 1, 1), (columns, 5), (3 * columns + 5, 1)):
        a, b, start = numbers(dtype, (K * a_k,), (K, N), (N,))
        expected, out, floor = np.empty((1, N), dtype), start.copy(), dtype(0)
        start[:: N - 1] = out[:: N - 1] = np.nan
        in_place(a, (1, N, K), (1, a_k), b.reshape(-1), N, start, 0, expected, N, floor)
        done = one_row(N, K, a, a_k, b.reshape(-1), N, out, out, floor)
        assert done == N // columns * columns
        assert np.array_equal(out[:done], expected[0, :done], equal_nan=True)
        assert np.array_equal(out[done:], start[done:], equal_nan=True)
    assert one_row(N, BLOCK * GROUP, a, 0, b.reshape(-1), 0, out, out, floor) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("N", "inputs", "outputs"),
    [*((N, I, BEYOND_L2) for N in (0, 1, 3, 5, 8, 30)), (8, 9, L2 // 16 + 3), (1, 9, 150), (0, 9, 150)],
)
def test_gradients_of_few_samples_are_those_of_pytorch(N, inputs, outputs, dtype):
    x, dy = numbers(dtype, (N, inputs), (N, outputs))
    model = tn.Sequential([tn.Dense(outputs)], inputs, seed=0, dtype=dtype)
    w, b = (torch.from_numpy(p.value.copy()).requires_grad_() for p in model.parameters())
    given = torch.from_numpy(x).requires_grad_()
    (given @ w + b).backward(torch.from_numpy(dy))
    model.forward(x, training=True)
    dx = model.backward(dy, input_grad=True)
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    for mine, theirs in zip([dx, *(p.grad for p in model.parameters())], [given, w, b], strict=True):
        np.testing.assert_allclose(mine, theirs.grad.numpy(), rtol=tolerance, atol=tolerance)


def test_the_weights_gradient_of_one_sample_is_an_outer_product():
    x, dy = numbers(np.float32, (1, 100), (1, 151))
    model = tn.Sequential([tn.Dense(151)], 100, seed=0)
    model.forward(x, training=True)
    model.backward(dy)
    assert np.array_equal(model.parameters()[0].grad, np.outer(x, dy))
    assert np.array_equal(model.parameters()[1].grad, dy[0])
