"""Dense's backward pass for many samples and few weights, against its plain loops, however the samples are cut."""

import numpy as np
import pytest

import tinynet as tn
from tinynet.kernels import dense_tall
from tinynet.kernels.dense import dense_backward
from tinynet.layers.dense import dense_backward_plain


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("is_relu", [False, True])
@pytest.mark.parametrize("shape", [(300, 20, 33), (1000, 17, 16), (257, 64, 40), (31, 16, 16)])
@pytest.mark.parametrize(("chunks", "rows"), [(1, 1000), (3, 40), (1, 3), (16, 1), (16, 64)])
def test_gradients_are_what_the_plain_loops_say(chunks, rows, shape, is_relu, dtype):
    (N, I, O), rng = shape, np.random.default_rng(0)
    x, w, dy, y = (rng.standard_normal(size).astype(dtype) for size in ((N, I), (I, O), (N, O), (N, O)))
    dw, db, dx = np.full_like(w, np.nan), np.full(O, np.nan, dtype), np.full_like(x, np.nan)
    dense_tall.backward_kernel(x, w, dy, y, is_relu, True, chunks, rows, dw, db, dx)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}
    expected = dense_backward_plain(x, w, np.where(y <= 0, 0, dy) if is_relu else dy)
    for found, gradient in zip((dw, db, dx), expected, strict=True):
        np.testing.assert_allclose(found, gradient, **tolerance)
    alone = np.full_like(w, np.nan)
    dense_tall.backward_kernel(x, w, dy, y, is_relu, False, chunks, rows, alone, db, x[:0])
    assert np.array_equal(alone, dw)


def test_many_samples_go_this_way_with_the_same_bits_for_any_number_of_threads():
    N, I, O = 4 * dense_tall.L2 // (4 * 96) + 100, 64, 32
    assert dense_tall.fits(N, I, O, 4)
    x, w, dy = np.full((N, I), 0.1, np.float32), np.ones((I, O), np.float32), np.full((N, O), 1 / 3, np.float32)
    results, threads = [], tn.get_num_threads()
    for count in {1, threads}:
        tn.set_num_threads(count)
        dw, db, dx = np.empty_like(w), np.empty(O, np.float32), np.empty_like(x)
        dense_backward(x, w, dy, dy, False, True, dw, db, dx)
        results.append((dw, db, dx))
    tn.set_num_threads(threads)
    for first, last in zip(results[0], results[-1], strict=True):
        assert np.array_equal(first, last)
    product = float(x[0, 0]) * float(dy[0, 0])
    np.testing.assert_allclose(dw, N * product, rtol=1e-6)  # equal numbers, which all round alike
    np.testing.assert_allclose(db, N * float(dy[0, 0]), rtol=1e-6)
    np.testing.assert_allclose(dx, O * float(dy[0, 0]), rtol=1e-6)
