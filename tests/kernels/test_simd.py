"""matmul, vectors and what is made of them, the exponential and the order of floats, against NumPy."""

import numba
import numpy as np
import pytest

from tinynet.kernels import floats, memory, vectors
from tinynet.kernels.compile import chunk_count, kernel
from tinynet.kernels.correlation import correlate
from tinynet.kernels.few_filters import sum_lanes
from tinynet.kernels.matmul import View, matmul
from tinynet.kernels.padded import with_zeros_around
from tinynet.kernels.planes import deinterleave, interleave
from tinynet.kernels.pooling_2x2 import max_pool_2x2_backward, max_pool_2x2_forward
from tinynet.kernels.surprisal import surprisal
from tinynet.kernels.transpose import transpose


@kernel(matmul=True)
def matmul_once(a, size, a0, a_step, b, b0, b_step, start, s0, s_step, c, c0, c_step, floor):
    start, out = View(start, s0, s_step), View(c, c0, c_step)
    matmul(size, View(a, a0, a_step), View(b, b0, b_step), start=start, out=out, floor=floor)


@kernel()
def exp_of(x, y):
    for i in range(x.size):
        y[i] = floats.exp(x[i])


@kernel()
def maximum_by_key(x):
    key = floats.lowest_key(x[0])
    for i in range(x.size):
        key = max(key, floats.order_key(x[i]))
    return floats.from_order_key(key)


GUARD = 7777.0


def product_between_guards(dtype, M, N, J, K, floor=-np.inf, add=False):
    """C = start + A B by matmul, on arrays that end where the product ends; and what it should be."""
    rng = np.random.default_rng([M, N, J, K])
    a = rng.standard_normal((M, J, K)).astype(dtype)
    b = rng.standard_normal((J, K, N)).astype(dtype)
    row = N + 3  # c's rows have room between them
    c = np.full((M + 2) * row, GUARD, dtype)
    inside = c[row : row + M * row].reshape(M, row)[:, :N]
    bias = rng.standard_normal(N).astype(dtype)
    inside[...] = bias if add else GUARD
    expected = np.full_like(c, GUARD)
    total = bias.astype(np.float64) + np.einsum("mjk,jkn->mn", a.astype(np.float64), b.astype(np.float64))
    expected[row : row + M * row].reshape(M, row)[:, :N] = np.maximum(total, floor)
    # a and b are the ends of longer arrays of NaN, so that a wrong offset shows in every number
    a_all = np.concatenate([np.full(5, np.nan, dtype), a.ravel()])
    b_all = np.concatenate([np.full(9, np.nan, dtype), b.ravel()])
    start = (c, row, row) if add else (bias, 0, 0)
    matmul_once(a_all, (M, N, J, K), 5, (J * K, K, 1), b_all, 9, (K * N, N), *start, c, row, row, dtype(floor))
    return c, expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("M", range(1, 41))
def test_matmul_is_right_for_every_remainder_of_rows_and_columns_and_writes_nowhere_else(dtype, M):
    tolerance = 1e-5 if dtype is np.float32 else 1e-13
    for N in range(1, 41):
        for J, K in [(1, 1), (1, 5), (3, 2), (0, 1), (1, 0)]:
            c, expected = product_between_guards(dtype, M, N, J, K)
            np.testing.assert_allclose(c, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_is_right_for_every_length_of_both_sums(dtype):
    for J in range(1, 41):
        for K in range(1, 41):
            c, expected = product_between_guards(dtype, 5, 9, J, K)
            np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul_adds_to_what_is_there_and_cuts_off_at_the_floor(dtype):
    for M, N in [(1, 1), (13, 33), (12, 32), (25, 7)]:
        c, expected = product_between_guards(dtype, M, N, 2, 3, floor=0.0, add=True)
        np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)
        assert (c == 0).any() or M * N == 1


def test_every_element_of_a_product_has_the_same_bits_whatever_block_it_is_in():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, 50)).astype(np.float32), rng.standard_normal((50, 40)).astype(np.float32)
    bias = np.zeros(40, np.float32)

    def product(m0, n0, M, N):
        c = np.empty((M, N), np.float32)
        matmul_once(a, (M, N, 50), m0 * 50, (50, 1), b, n0, 40, bias, 0, 0, c, 0, N, np.float32(-np.inf))
        return c

    whole = product(0, 0, 40, 40)
    for m0, n0, M, N in [(0, 0, 1, 1), (3, 5, 11, 17), (39, 0, 1, 40), (7, 31, 30, 9), (20, 3, 12, 32)]:
        np.testing.assert_array_equal(product(m0, n0, M, N), whole[m0 : m0 + M, n0 : n0 + N])


def test_a_nan_goes_through_the_floor_of_matmul():
    a, b = np.full((1, 1), np.nan, np.float32), np.ones((1, 1), np.float32)
    c = np.zeros((1, 1), np.float32)
    matmul_once(a, (1, 1, 1, 1), 0, (1, 0, 1), b, 0, (0, 1), np.zeros(1, np.float32), 0, 0, c, 0, 1, np.float32(0))
    assert np.isnan(c[0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_is_right_to_an_ulp_and_exact_at_the_ends(dtype):
    lowest = -87.3 if dtype is np.float32 else -708.3
    x = np.concatenate([np.linspace(lowest, 0, 100_001), -np.logspace(-30, 0, 1000)]).astype(dtype)
    y = np.empty_like(x)
    exp_of(x, y)
    expected = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(y - expected) / expected) < np.finfo(dtype).eps
    ends = np.array([0.0, -np.inf, np.nan, -1e30, lowest * 1.01], dtype)
    y = np.empty_like(ends)
    exp_of(ends, y)
    np.testing.assert_array_equal(y, np.array([1, 0, np.nan, 0, 0], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_keys_sort_as_their_floats(dtype):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(1000) * 10.0 ** rng.integers(-30, 30, 1000)).astype(dtype)
    assert maximum_by_key(x) == x.max()
    assert maximum_by_key(-np.abs(x)) == -np.abs(x).min()
    assert maximum_by_key(np.array([-np.inf, -np.inf], dtype)) == -np.inf
    assert maximum_by_key(np.array([-np.inf, np.inf], dtype)) == np.inf


def test_chunks_depend_on_the_number_of_items_alone():
    assert [chunk_count(n, 10) for n in (0, 1, 10, 19, 20, 640, 10_000)] == [1, 1, 1, 1, 2, 64, 64]


def test_zeros_around_an_image_stay_within_their_array():
    memory = np.full(400, GUARD)
    for H, W, U, V, first, left in [(1, 1, 5, 1, -2, 2), (3, 4, 5, 6, -1, 1), (2, 2, 2, 3, 0, 5), (4, 4, 2, 2, 1, 0)]:
        memory[:] = GUARD
        image, padded = np.arange(1.0, 1 + H * W * 2).reshape(H, W, 2), memory[100 : 100 + U * V * 2].reshape(U, V, 2)
        with_zeros_around(image, first, left, padded)
        expected = np.zeros((U + 20, V + 20, 2))
        for u in range(U):
            if 0 <= first + u < H:
                expected[u, left : left + W] = image[first + u]
        np.testing.assert_array_equal(padded, expected[:U, :V])
        assert (np.delete(memory, slice(100, 100 + U * V * 2)) == GUARD).all()


# --- vectors ------------------------------------------------------------------------------------------------


@kernel()
def through_vectors(x, y, n):
    """The first n numbers of x behind the guard through vectors; also their sum and maximum, by two vectors at once."""
    W = vectors.width(x)
    sums, most = vectors.splat(x, 0), vectors.splat2(x, -np.inf)
    whole = n - n % W
    for c in range(0, whole, W):
        v = vectors.load(x, 1 + c)
        vectors.store(v, y, 1 + c)
        sums = sums + v
    for c in range(whole, n, W):
        v = vectors.load_some(x, 1 + c, n - c, 0)
        vectors.store_some(v, y, 1 + c, n - c)
        sums = sums + v
    for c in range(0, n, 2 * W):
        most = vectors.maximum(vectors.load2_some(x, 1 + c, n - c, -np.inf), most)
    return vectors.sum_of(sums), vectors.greatest(most)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_take_any_number_of_numbers_and_no_other(dtype):
    rng = np.random.default_rng(0)
    for n in range(1, 70):
        x, y = np.full(n + 2, np.nan, dtype), np.full(n + 2, GUARD, dtype)
        x[1:-1] = rng.integers(-9, 9, n)
        sum_, most = through_vectors(x, y, n)
        assert (y[1:-1] == x[1:-1]).all()
        assert (y[[0, -1]] == GUARD).all()
        assert sum_ == x[1:-1].sum()
        assert most == x[1:-1].max()


@kernel()
def lanes_of_arithmetic(x, y, results):
    """The operators on one vector each; results (9, W)."""
    W = vectors.width(x)
    v, w = vectors.load(x, 0), vectors.load(y, 0)
    vectors.store(v + w, results, 0)
    vectors.store(v - 2, results, W)
    vectors.store(3 * w, results, 2 * W)
    vectors.store(v / w, results, 3 * W)
    vectors.store(vectors.select(v < w, v, 7), results, 4 * W)
    vectors.store(vectors.select(v > w, 7, w), results, 5 * W)
    vectors.store(vectors.select(v >= 1, v, vectors.select(v == 0, w, v)), results, 6 * W)
    vectors.store(vectors.maximum(v, w), results, 7 * W)
    vectors.store(floats.log1p(floats.exp(v)), results, 8 * W)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operators_of_vectors_are_those_of_numbers(dtype):
    W = vectors.lanes_of(dtype(0).dtype)
    x = np.resize(np.array([-3, -0.5, 0, -np.inf, np.nan, -700, -1e-9, -2], dtype), W)
    y = np.resize(np.array([-4, 2, 1, 5, 1, -0.25], dtype), W)
    results = np.empty((9, W), dtype)
    lanes_of_arithmetic(x, y, results)
    with np.errstate(invalid="ignore", under="ignore"):
        expected = [x + y, x - 2, 3 * y, x / y, np.where(x < y, x, 7), np.where(x > y, 7, y)]
        expected += [np.where(x >= 1, x, np.where(x == 0, y, x)), np.where(x > y, x, y)]
        np.testing.assert_array_equal(results[:8], expected)
        np.testing.assert_allclose(results[8], np.log1p(np.exp(x)), rtol=4 * np.finfo(dtype).eps, atol=1e-37)


@kernel()
def logarithms(x, results):
    """log1p, log and -log of x, of its numbers and of its vectors; results (3, 2, n)."""
    n, W = x.size, vectors.width(x)
    for i in range(n):
        results[0, 0, i], results[1, 0, i] = floats.log1p(x[i]), floats.log(x[i])
        results[2, 0, i] = surprisal(x[i])
    for i in range(0, n, W):
        v = vectors.load(x, i)
        vectors.store(floats.log1p(v), results, n + i)
        vectors.store(floats.log(v), results, 3 * n + i)
        vectors.store(surprisal(v), results, 5 * n + i)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logarithms_are_right_to_few_units_in_the_last_place(dtype):
    rng, n = np.random.default_rng(0), 2**14
    several = rng.random(n), 1 - 1e-3 * rng.random(n), 1 + rng.random(n), 10.0 ** (60 * rng.random(n) - 30)
    for numbers in several:
        x = numbers.astype(dtype)
        results = np.empty((3, 2, n), dtype)
        logarithms(x, results)
        exact = np.log1p(x.astype(np.longdouble)), np.log(x.astype(np.longdouble)), -np.log(x.astype(np.longdouble))
        for both, right in zip(results, exact, strict=True):
            np.testing.assert_array_equal(*both)
            most = (1.5 if dtype is np.float32 else 2.6) * np.spacing(np.abs(right).astype(dtype)).astype(np.longdouble)
            assert (np.abs(both[0] - right) <= most).all()
    special = np.full(16, 1, dtype)  # whole vectors of any width
    special[:3] = 0, np.nan, np.finfo(dtype).smallest_subnormal
    results = np.empty((3, 2, special.size), dtype)
    logarithms(special, results)
    with np.errstate(divide="ignore"):
        expected = -np.log(special)
    for found in results[2]:
        np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype is np.float32 else 1e-15)
        assert found[3] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_transposed_matrix_of_any_shape_is_written_and_nothing_else(dtype):
    rng = np.random.default_rng(0)
    for rows in (1, 2, 7, 8, 9, 16, 17, 33):
        for columns in (1, 3, 8, 15, 16, 31):
            a = rng.standard_normal((rows, columns + 2)).astype(dtype)
            result = np.full((columns + 2, rows + 3), GUARD, dtype)
            transpose(a, 1, columns + 2, result, rows + 4, rows + 3, rows, columns)
            expected = np.full_like(result, GUARD)
            expected[1:-1, 1:-2] = a[:, 1:-1].T
            np.testing.assert_array_equal(result, expected)


# --- rows and lines -----------------------------------------------------------------------------------------


@kernel()
def through_rows(x, step, n, m, rows, some, back, back_some):
    """Rows x[1 + r step] of two lengths, transposed: as they are, and the first m numbers of the first n alone."""
    LANES = vectors.width(x)
    vectors.store_rows(vectors.transposed(vectors.load_rows(x, 1, step, n)), rows, 0, LANES, LANES)
    vectors.store_rows(vectors.transposed(vectors.load_rows_some(x, 1, step, n, m)), some, 0, LANES, LANES)
    vectors.store_rows(vectors.load_rows(x, 1, step, n), back, 1, step, n)
    vectors.store_rows_some(vectors.load_rows(x, 1, step, n), back_some, 1, step, n, m)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_read_transposed_and_written_and_nothing_else(dtype):
    LANES = vectors.lanes_of(np.dtype(dtype))
    step = LANES + 3
    x = np.random.default_rng(0).standard_normal(LANES * step + 2).astype(dtype)
    matrix = x[1 : 1 + LANES * step].reshape(LANES, step)[:, :LANES]
    for n in range(1, LANES + 3):
        for m in range(1, LANES + 3):
            rows, some = np.empty((2, LANES, LANES), dtype)
            back, back_some = np.full((2, x.size), GUARD, dtype)
            through_rows(x, step, n, m, rows, some, back, back_some)
            np.testing.assert_array_equal(rows, matrix[np.minimum(np.arange(LANES), n - 1)].T)
            expected = np.zeros_like(matrix)
            expected[:n, :m] = matrix[:n, :m]
            np.testing.assert_array_equal(some, expected.T)
            for written, columns in ((back, LANES), (back_some, m)):
                expected = np.full_like(x, GUARD)
                expected[1 : 1 + LANES * step].reshape(LANES, step)[:n, : min(columns, LANES)] = matrix[:n, :columns]
                np.testing.assert_array_equal(written, expected)


def through_lines(part):
    load_joined, load_lines, store_lines, load_short_rows = vectors.lines(part)

    @kernel()
    def run(x, step, columns, lines, one, short):
        LANES = vectors.width(x)
        rows = load_lines(x, 1, step)
        vectors.store_rows(vectors.transposed(rows), columns, 0, LANES, LANES)
        store_lines(rows, lines, 1, step)
        v = load_joined(x, 1, step, x)
        vectors.store(v, one, 0)
        store_lines((v, v), one, LANES, LANES // part)
        twice = vectors.times(load_short_rows(x, 0, LANES, 2), vectors.splat(x, 2))
        vectors.store_rows(twice, short, 0, LANES, LANES)

    return run


@pytest.mark.parametrize("part", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lines_are_joined_to_rows_and_written_back(dtype, part):
    LANES = vectors.lanes_of(np.dtype(dtype))
    if part > LANES:
        pytest.skip("a register has too few numbers")
    R = LANES // part
    step = R + 2
    x = np.random.default_rng(0).standard_normal(max(LANES * step, 2 * LANES) + 1).astype(dtype)
    columns, short, one = np.empty((R, LANES), dtype), np.empty((R, LANES), dtype), np.empty(3 * LANES, dtype)
    lines = np.full_like(x, GUARD)
    through_lines(part)(x, step, columns, lines, one, short)
    matrix = x[1 : 1 + LANES * step].reshape(LANES, step)[:, :R]
    np.testing.assert_array_equal(columns, matrix.T)
    expected = np.full_like(x, GUARD)
    expected[1 : 1 + LANES * step].reshape(LANES, step)[:, :R] = matrix
    np.testing.assert_array_equal(lines, expected)
    np.testing.assert_array_equal(one[:LANES], matrix[:part].ravel())
    np.testing.assert_array_equal(one[LANES:], np.repeat(matrix[:part], 2, axis=0).ravel())
    np.testing.assert_array_equal(short, 2 * x[: 2 * LANES].reshape(2, LANES)[np.minimum(np.arange(R), 1)])


@pytest.mark.parametrize("stride", [(2, 2), (1, 1), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_of_two_by_two_takes_the_first_of_equal_maxima_and_the_last_nan(dtype, stride):
    rng = np.random.default_rng(0)
    for C in (1, 2, 3, 4, 6, 8, 9, 16, 33):
        N, H, W = 3, 7, 12
        x = rng.integers(-2, 3, (N, H, W, C)).astype(dtype)
        x[rng.random(x.shape) < 0.05] = np.nan
        P, Q = (H - 2) // stride[0] + 1, (W - 2) // stride[1] + 1
        h, g = np.arange(P)[:, None] * stride[0], np.arange(Q) * stride[1]
        window = np.stack([x[:, h + i, g + j] for i in (0, 1) for j in (0, 1)])
        y, argmax = np.empty((N, P, Q, C), dtype), np.empty((N, P, Q, C), np.uint8)
        max_pool_2x2_forward(x, stride, y, argmax)
        np.testing.assert_array_equal(y, window.max(axis=0))
        last_nan = 3 - np.isnan(window[::-1]).argmax(axis=0)
        np.testing.assert_array_equal(argmax, np.where(np.isnan(y), last_nan, window.argmax(axis=0)))
        if stride == (2, 2):
            dy, dx = rng.standard_normal(y.shape).astype(dtype), np.full_like(x, GUARD)
            max_pool_2x2_backward(dy, argmax, dx)
            expected = np.zeros_like(x)
            for k in range(4):
                expected[:, k // 2 : 2 * P : 2, k % 2 : 2 * Q : 2] = np.where(argmax == k, dy, 0)
            np.testing.assert_array_equal(dx, expected)


# --- planes, and their correlation ----------------------------------------------------------------------------


@kernel()
def to_planes(x, planes, V, upto):
    for u in range(x.shape[0]):
        deinterleave(x, u * x.shape[1] * x.shape[2], x.shape[2], x.shape[1], planes, u * x.shape[2] * V, V, upto)


@kernel()
def from_planes(planes, V, y, whole):
    U, n, C = y.shape
    for u in range(U):
        interleave(planes, u * C * V, V, y, u * n * C, C, n, (U if whole else u + 1) * n * C)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_become_planes_and_planes_pixels(dtype):
    rng, W = np.random.default_rng(0), vectors.lanes_of(dtype(0).dtype)
    for C in (1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 33):
        for n in (1, 3, W - 1, W, W + 1, 2 * W + 3):
            x, V = rng.standard_normal((3, n, C)).astype(dtype), -(-n // W) * W + 3
            planes = np.full((3, C, V), GUARD, dtype)
            to_planes(x, planes, V, n + 2)
            np.testing.assert_array_equal(planes[:, :, :n], x.transpose(0, 2, 1))
            assert (planes[:, :, n : n + 2] == 0).all()
            for whole in (False, True):
                y = np.full((3, n, C), GUARD, dtype)
                from_planes(planes, V, y, whole)
                np.testing.assert_array_equal(y, x)


@kernel()
def correlate_once(a, size, a0, a_step, b, b0, b_step, c, c0, c_step, count, total, t0):
    correlate(size, View(a, a0, a_step), View(b, b0, b_step), out=View(c, c0, c_step))
    sum_lanes(memory.piece(c, c0, count * vectors.width(c)), count, total, t0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_correlated_at_every_number_of_shifts_and_rows(dtype):
    rng, W = np.random.default_rng(0), vectors.lanes_of(dtype(0).dtype)
    tolerance = 1e-5 if dtype is np.float32 else 1e-13
    for M in range(1, 10):
        for N in range(1, 14):
            P, Q = 1 + M % 3, 1 + N % 2
            a = rng.standard_normal((P, Q * W + M - 1)).astype(dtype)
            b = rng.standard_normal((P, N, Q * W)).astype(dtype)
            c, total = np.full((M * N + 2) * W, GUARD, dtype), np.full(M * N + 2, GUARD, dtype)
            c[W:-W] = 1
            correlate_once(
                a, (M, N, P, Q), 0, a.shape[1], b, 0, (N * Q * W, Q * W), c, W, (N * W, W), M * N, total, 1
            )  # fmt: skip
            windows = np.stack([a[:, m : m + Q * W] for m in range(M)])
            expected = np.einsum("mpi,pni->mn", windows.astype(float), b.astype(float)).ravel() + W
            np.testing.assert_allclose(total[1:-1], expected, atol=tolerance * 9)
            assert (c[:W] == GUARD).all()
            assert (c[-W:] == GUARD).all()
            assert (total[[0, -1]] == GUARD).all()


def test_a_vector_goes_only_into_an_array_of_its_dtype():
    @numba.njit
    def mixed(x, y):
        vectors.store(vectors.load(x, 0), y, 0)

    with pytest.raises(numba.TypingError, match="a vector of float32 does not go into an array of float64"):
        mixed(np.zeros(99, np.float32), np.zeros(99))
