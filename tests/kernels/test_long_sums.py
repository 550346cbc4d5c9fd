"""Sums that grow with the image, the batch, the inputs or the vocabulary: equal numbers, which all round alike.

Each is right to 1e-6, a few ulp of float32.  In the same settings PyTorch's errors are from 2e-7 (the mean of an image,
a product of matrices) to 3e-3 (a convolution's gradients); numbers added one by one lose 1 % at a million.
"""

import numpy as np
import pytest

import tinynet as tn
from tinynet.kernels.compile import kernel
from tinynet.kernels.matmul import View, matmul

TENTH, THIRD = np.float32(0.1), np.float32(1 / 3)
PRODUCT = float(TENTH) * float(THIRD)


def layer_of(layer, shape, x, weight=None, dy=None):
    """The layer, its y, and its dx for a constant dy; with a constant weight, if one is given."""
    model = tn.Sequential([layer], shape)
    if weight is not None:
        layer.parameters[0].value[...] = weight
    y = model.forward(x, training=True)
    takes = not layer.takes_integers
    dx = None if dy is None else model.backward(np.full(y.shape, dy, np.float32), input_grad=takes)
    return layer, y, dx


def mean_of_image(side, channels):
    return layer_of(tn.GlobalAvgPool2D(), (side, side, channels), np.full((1, side, side, channels), TENTH))[1], TENTH


def mean_of_windows():
    return layer_of(tn.AvgPool2D(32), (64, 64, 2), np.full((1, 64, 64, 2), TENTH))[1], TENTH


def windows_on_a_pixel():
    _, _, dx = layer_of(tn.AvgPool2D(32, stride=1), (63, 63, 2), np.zeros((1, 63, 63, 2), np.float32), dy=TENTH)
    return dx[0, 31, 31], TENTH  # which all 32 x 32 windows hold


def windows_won_by_a_pixel():
    x = np.zeros((1, 63, 63, 1), np.float32)
    x[0, 31, 31] = 1
    return layer_of(tn.MaxPool2D(32, stride=1), (63, 63, 1), x, dy=TENTH)[2][0, 31, 31], 1024 * float(TENTH)


def dense(N, I, O):
    return layer_of(tn.Dense(O), (I,), np.full((N, I), TENTH), THIRD)[1], I * PRODUCT


def dense_gradients(N, I, O):
    layer, _, dx = layer_of(tn.Dense(O), (I,), np.full((N, I), TENTH), TENTH, dy=THIRD)
    dw, db = (parameter.grad for parameter in layer.parameters)
    return (dw, db, dx), (N * PRODUCT, N * float(THIRD), O * PRODUCT)


def convolution(size, shape, N=1):
    K, C = size[-1], shape[-1]
    layer, y, dx = layer_of(tn.Conv2D(K, size[:2], padding="same"), shape, np.full((N, *shape), TENTH), TENTH, dy=THIRD)
    I, J = size[:2]
    P, Q, _ = y.shape[1:]
    dw, db = (parameter.grad for parameter in layer.parameters)
    i, j, p, q = I // 2, J // 2, P // 2, Q // 2  # where the whole window is inside
    inside = y[0, p, q], dw[i, j], db, dx[0, p, q]
    terms = I * J * C * float(TENTH) ** 2, N * P * Q * PRODUCT, N * P * Q * float(THIRD), I * J * K * PRODUCT
    return inside, terms


def word_that_is_everywhere(places):
    layer, _, _ = layer_of(tn.Embedding(3, 2), (1,), np.ones((places, 1), int), dy=TENTH)
    return layer.parameters[0].grad[1], places * float(TENTH)


def linear_loss(N, D, C):
    """All classes are as likely: dw and db of a class that is no target are 1 / C of the sums over the rows."""
    x, w, t = np.full((N, D), TENTH), np.zeros((D, C), np.float32), np.zeros(N, int)
    _, _, dw, db = tn.linear_cross_entropy(x, w, np.zeros(C, np.float32), t, reduction="sum")
    return (C * dw[:, 1:], C * db[1:]), (N * float(TENTH), N)


def linear_gradient_of_inputs(C):
    """All classes are as likely, and their weights are equal, but those of the label, which are 0."""
    w = np.full((4, C), TENTH)
    w[:, 0] = 0
    _, dx, _, _ = tn.linear_cross_entropy(np.zeros((20, 4), np.float32), w, np.zeros(C, np.float32), np.zeros(20, int))
    return 20 * C / (C - 1) * dx, float(TENTH)


def linear_loss_of_inputs(D):
    """The logits are (sum of x w, 0), and the loss of class 1 is their difference where that is large."""
    w = np.stack([np.full(D, THIRD), np.zeros(D, np.float32)], axis=1)
    loss, *_ = tn.linear_cross_entropy(np.full((1, D), TENTH), w, np.zeros(2, np.float32), [1])
    return loss, D * PRODUCT


def similarities(D):
    """Three of four embeddings are equal, and the fourth, the partner of one, points the other way."""
    x = np.full((4, D), TENTH)
    x[0] *= -1
    losses, _ = tn.nt_xent(x, temperature=0.05, reduction="none")
    return losses[2], 40 + np.log(2)  # similarities of 20, 20 and -20


CASES = {
    "the mean of an image": lambda: mean_of_image(512, 3),
    "the mean of an image of a million pixels": lambda: mean_of_image(1024, 1),
    "the means of windows": mean_of_windows,
    "means, backward": windows_on_a_pixel,
    "maxima, backward": windows_won_by_a_pixel,
    "Dense, 784 inputs": lambda: dense(64, 784, 10),
    "Dense, 150,528 inputs": lambda: dense(2, 150_528, 16),
    "Dense, a million inputs": lambda: dense(1, 1_000_000, 1),
    "Dense, backward, few outputs": lambda: dense_gradients(100_000, 3, 2),
    "Dense, backward, many outputs": lambda: dense_gradients(2_000, 3, 20_000),
    "Conv2D, many channels": lambda: convolution((1, 1, 16), (7, 7, 2048)),
    "Conv2D, a large image": lambda: convolution((1, 1, 32), (8, 8192, 2)),
    "Conv2D, a large batch": lambda: convolution((1, 1, 32), (4, 4, 2), N=5000),
    "Conv2D, few filters, a large image": lambda: convolution((3, 3, 2), (256, 256, 1)),
    "Conv2D, few filters, a large batch": lambda: convolution((3, 3, 2), (16, 32, 1), N=3000),
    "Conv2D by Winograd": lambda: convolution((3, 3, 32), (128, 128, 32)),
    "Embedding, backward": lambda: word_that_is_everywhere(200_000),
    "linear_cross_entropy, many rows": lambda: linear_loss(20_000, 4, 300),
    "linear_cross_entropy, a large vocabulary": lambda: linear_loss(1_500, 2, 200_000),
    "linear_cross_entropy, a large vocabulary, its inputs": lambda: linear_gradient_of_inputs(150_000),
    "linear_cross_entropy, many inputs": lambda: linear_loss_of_inputs(4096),
    "nt_xent, many numbers an embedding": lambda: similarities(7000),
}


@pytest.mark.parametrize("name", CASES)
def test_a_long_sum_of_equal_numbers_is_right_to_a_millionth(name):
    results, exact = CASES[name]()
    for result, value in zip(results, exact, strict=True) if isinstance(results, tuple) else [(results, exact)]:
        error = np.abs(np.asarray(result, np.float64) / value - 1).max()
        assert error < 1e-6, f"{error:.1e}"


@kernel(matmul=True)
def product(a, b, c, size, a_step, b_step):
    """c (M, N) += a b, where the sum runs over J x K."""
    M, N, J, K = size
    no_floor, out = a.dtype.type(-np.inf), View(c, 0, N)
    matmul(size, View(a, 0, a_step), View(b, 0, b_step), start=out, out=out, floor=no_floor)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("J", "K"),
    [
        (1, 256),
        (1, 257),
        (1, 321),
        (4, 64),
        (5, 64),
        (2, 200),
        (300, 1),
        (7, 90),
        (1, 4096),
        (1, 4097),
        (64, 65),
        (1, 9000),
    ],
)
def test_matmul_of_any_number_of_terms_is_the_product_of_matrices(J, K, dtype):
    M, N = 13, 37  # every width of its bodies, and two heights
    rng = np.random.default_rng(J * K)
    a, b, c = (rng.standard_normal(shape).astype(dtype) for shape in ((M, J, K), (J, K, N), (M, N)))
    exact = c.astype(np.longdouble) + np.einsum("mjk,jkn->mn", a.astype(np.longdouble), b.astype(np.longdouble))
    largest = np.abs(c) + np.einsum("mjk,jkn->mn", np.abs(a), np.abs(b))
    product(a, b, c, (M, N, J, K), (J * K, K, 1), (K * N, N))
    assert (np.abs(c - exact) <= 2 * np.finfo(dtype).eps * largest).all()


def test_a_long_sum_that_overflows_is_infinite_and_one_with_a_nan_is_nan():
    x = np.full((3, 5000), 1e35, np.float32)
    x[1] *= -1
    x[2, 4000] = np.nan
    _, y, _ = layer_of(tn.Dense(20), (5000,), x, 1)
    np.testing.assert_array_equal(y, np.array([np.inf, -np.inf, np.nan], np.float32).repeat(20).reshape(3, 20))


def test_a_long_sum_has_the_same_bits_for_a_row_alone_and_in_a_batch_and_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((700, 5000)).astype(np.float32), rng.standard_normal((700, 24)).astype(np.float32)
    model = tn.Sequential([tn.Dense(24)], 5000)
    found, most = [], tn.get_num_threads()
    for n in (1, most):
        tn.set_num_threads(n)
        y = model.forward(x, training=True)
        dx = model.backward(dy, input_grad=True)
        found.append((y, dx, model.flat_grads.copy()))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
    for n in (0, 13, 699):
        np.testing.assert_array_equal(model.forward(x[n : n + 1]), y[n : n + 1])
