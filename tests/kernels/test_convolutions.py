"""The convolutions' kernels against the plain loops, however the work is cut into tasks."""

import numpy as np
import pytest

import tinynet as tn
from tinynet.kernels import conv2d, conv2d_backward, conv2d_rows, winograd
from tinynet.layers.conv2d import conv2d_backward_plain, conv2d_forward_plain


def random_convolution(seed, window, stride, channels, filters, low=None, high=14):
    """Arrays of a random convolution, in float32 or float64: x, w, b, stride, before, size, floor.

    Images are of `low` to `high` pixels either way; the window at least.
    """
    rng = np.random.default_rng(seed)
    dtype, (I, J), (s, r) = (np.float32, np.float64)[seed % 2], window, stride
    top, bottom, left, right = (int(n) for n in rng.integers(0, [I, I, J, J]))
    N = int(rng.integers(1, 6) * rng.choice([1, 1, 2]))
    H, W = int(rng.integers(low or I, high)), int(rng.integers(low or J, high))
    size = (H + top + bottom - I) // s + 1, (W + left + right - J) // r + 1
    x, w, b = (
        rng.standard_normal(shape).astype(dtype)
        for shape in ((N, H, W, channels), (I, J, channels, filters), (filters,))
    )
    return x, w, b, stride, (top, left), size, dtype(0 if seed % 3 else -np.inf)


def check(given, forward, backward):
    """forward(threads, y) and backward(threads, y, dy, is_relu, dw, db, dx), as if for so many threads."""
    x, w, b, stride, before, size, floor = given
    results, is_relu = [], bool(floor == 0)
    for threads in (1, 2, 3, 4):
        y = np.full((len(x), *size, w.shape[3]), np.nan, x.dtype)
        forward(threads, y)
        dy = np.random.default_rng(0).standard_normal(y.shape).astype(x.dtype)
        dw, db, dx = (np.full_like(a, np.nan) for a in (w, b, x))
        backward(threads, y, dy, is_relu, dw, db, dx)
        results.append((y, dw, db, dx))
        for first, later in zip(results[0], results[-1], strict=True):
            assert np.array_equal(first, later)
    y, *gradients = results[0]
    dz = np.where(y <= 0, 0, dy) if is_relu else dy
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if x.dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-10}
    np.testing.assert_allclose(y, conv2d_forward_plain(x, w, b, stride, before, (1, 1), 1, size, floor), **tolerance)
    for found, expected in zip(gradients, conv2d_backward_plain(x, w, dz, stride, before, (1, 1), 1), strict=True):
        np.testing.assert_allclose(found, expected, **tolerance)


@pytest.mark.parametrize("room", [300, 2000, 4000, 2**17])
def test_products_of_windows_are_what_the_plain_loops_say_for_any_tasks(room, monkeypatch):
    monkeypatch.setattr(conv2d, "ROOM", room)
    monkeypatch.setattr(conv2d, "POSITIONS", max(1, room // 300))
    for cached in (conv2d.forward_tasks, conv2d.backward_tasks):
        monkeypatch.setattr(conv2d, cached.__name__, cached.__wrapped__)
    rng = np.random.default_rng(room)
    for seed in range(16):
        (I, J, s, r), C, K = rng.integers(1, 5, 4), rng.choice([1, 3, 5, 16, 33, 40]), rng.choice([1, 2, 7, 16, 32, 37])
        given = random_convolution(seed, (int(I), int(J)), (int(s), int(r)), int(C), int(K))
        x, w, b, stride, before, size, floor = given

        def forward(threads, y, given=given):
            x, w, b, stride, before, size, floor = given
            tasks = conv2d.forward_tasks(len(x), size, w.shape, stride, threads)
            conv2d.forward_kernel(x, w, b, stride, before, floor, tasks, y)

        def backward(threads, y, dy, is_relu, dw, db, dx, given=given):
            x, w, b, stride, before, size, floor = given
            tasks = conv2d.backward_tasks(len(x), size, w.shape, stride, threads)
            conv2d_backward.backward_kernel(x, w, dy, y, is_relu, stride, before, True, tasks, dw, db, dx)

        check(given, forward, backward)


@pytest.mark.parametrize("seed", range(12))
def test_rows_of_positions_are_what_the_plain_loops_say_in_bands_of_large_images(seed):
    rng = np.random.default_rng(seed)
    (I, J), stride = rng.integers(1, 6, 2), (1, 1) if seed % 2 else tuple(map(int, rng.integers(1, 4, 2)))
    C, K = int(rng.choice([1, 3, 8, 17])), int(rng.choice([3, 16, 20]))
    given = x, w, b, stride, before, size, floor = random_convolution(seed, (int(I), int(J)), stride, C, K, 46, 60)
    x = x[:2]

    def with_threads(threads, kernel, *arguments):
        before = tn.get_num_threads()
        tn.set_num_threads(min(threads, before))
        kernel(*arguments)
        tn.set_num_threads(before)

    def forward(threads, y):
        with_threads(threads, conv2d_rows.conv2d_forward, x, w, b, stride, before, floor, y)

    def backward(threads, y, dy, is_relu, dw, db, dx):
        arguments = x, w, dy, y, is_relu, stride, before, True, dw, db, dx
        with_threads(threads, conv2d_rows.conv2d_backward, *arguments)
        alone, no_dx = np.full_like(dw, np.nan), x[:0]
        conv2d_rows.conv2d_backward(x, w, dy, y, is_relu, stride, before, False, alone, db.copy(), no_dx)
        assert np.array_equal(alone, dw)

    check((x, *given[1:]), forward, backward)


@pytest.mark.parametrize("left", [0, 2, 4])
@pytest.mark.parametrize(("rows", "columns", "step"), [(1, 300, 1), (1, 401, 2), (3, 150, 1), (1, 9000, 1)])
def test_pieces_of_long_rows_are_what_the_plain_loops_say(rows, columns, step, left):
    rng, dtype = np.random.default_rng(columns), np.float64 if columns == 300 else np.float32
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((9, rows, columns, 5), (1, 5, 5, 20), (20,)))
    size, stride, before = (rows, (columns + left - 5) // step + 1), (1, step), (0, left)
    assert size[1] >= 2 * conv2d_rows.PIECE
    y, alone = np.full((9, *size, 20), np.nan, dtype), np.full((1, *size, 20), np.nan, dtype)
    conv2d_rows.conv2d_forward(x, w, b, stride, before, dtype(0), y)
    conv2d_rows.conv2d_forward(x[:1], w, b, stride, before, dtype(0), alone)
    assert np.array_equal(alone, y[:1])
    expected = conv2d_forward_plain(x[:1], w, b, stride, before, (1, 1), 1, size, 0)
    np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-4)


def test_a_piece_of_a_long_row_may_lie_in_the_zeros_alone():
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape, np.float32) for shape in ((1, 1, 20, 3), (1, 5, 3, 20), (20,)))
    y = np.full((1, 1, 400, 20), np.nan, np.float32)
    conv2d_rows.conv2d_forward(x, w, b, (1, 1), (0, 150), np.float32(-np.inf), y)
    expected = conv2d_forward_plain(x, w, b, (1, 1), (0, 150), (1, 1), 1, (1, 400), -np.inf)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_one_patch_of_winograds_method_has_the_bits_of_many():
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape, np.float32) for shape in ((9, 4, 4, 40), (3, 3, 40, 33), (33,)))
    y, alone = np.full((9, 4, 4, 33), np.nan, np.float32), np.full((1, 4, 4, 33), np.nan, np.float32)
    winograd.winograd_forward(x, w, b, (1, 1), np.float32(0), y)
    winograd.winograd_forward(x[:1], w, b, (1, 1), np.float32(0), alone)
    assert np.array_equal(alone, y[:1])
    expected = conv2d_forward_plain(x[:1], w, b, (1, 1), (1, 1), (1, 1), 1, (4, 4), 0)
    np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("cache", [2**15, 2**19])
def test_winograds_method_is_what_the_plain_loops_say_for_any_tasks(cache, monkeypatch):
    monkeypatch.setattr(winograd, "L2", cache)
    monkeypatch.setattr(winograd, "PATCHES", 6)
    monkeypatch.setattr(winograd.numba, "get_num_threads", lambda: threads_now)
    for cached in (winograd.forward_tasks, winograd.backward_tasks):
        monkeypatch.setattr(winograd, cached.__name__, cached.__wrapped__)
    rng, threads_now = np.random.default_rng(cache), 1
    many = [(300, 33), (32, 300)]  # channels: they are transformed some at a time, for y or for dx
    for seed in range(8):
        C, K = (int(rng.choice([32, 40, 65])), int(rng.choice([32, 33, 70]))) if seed < 6 else many[seed - 6]
        given = x, w, b, _, before, _, floor = random_convolution(seed, (3, 3), (1, 1), C, K)
        monkeypatch.setattr(winograd, "FEW_FOR_DW", 100 * (seed % 4 // 2))

        def forward(threads, y, x=x, w=w, b=b, before=before, floor=floor):
            nonlocal threads_now
            threads_now = threads
            winograd.winograd_forward(x, w, b, before, floor, y)

        def backward(threads, y, dy, is_relu, dw, db, dx, x=x, w=w, before=before):
            winograd.winograd_backward(x, w, dy, y, is_relu, before, True, dw, db, dx)

        check(given, forward, backward)
