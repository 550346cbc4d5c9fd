"""Every layer, from one table of cases: against the reference, central differences and PyTorch; and its promises."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F

from tinynet.layers.activations import ACTIVATIONS, GELU, LeakyReLU, ReLU, Sigmoid, Tanh
from tinynet.layers.base import Layer
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.pooling import AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, MaxPool2D
from tinynet.layers.shape import Flatten, Reshape
from tinynet.layers.softmax import Softmax

SEED = 3
KEY = int(np.random.default_rng(SEED).integers(2**63))  # what a Dropout built with this seed draws


@dataclass
class Case:
    """A layer, the shape (N, ...) of its input, and the same mathematics elsewhere, as functions of x, *parameters."""

    name: str
    layer: Callable[[], Layer]
    shape: tuple
    reference: Callable
    torch: Callable | None  # takes and returns channels last; None where PyTorch has no such layer


# --- the table --------------------------------------------------------------------------------------------

TORCH = {
    None: lambda z: z,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
}
LAYERS = {"relu": ReLU, "leaky_relu": LeakyReLU, "sigmoid": Sigmoid, "tanh": Tanh, "gelu": GELU}


def channels_first(function):
    """The torch function of images (N, C, H, W), for images (N, H, W, C)."""
    return lambda x, *p: function(x.permute(0, 3, 1, 2), *p).permute(0, 2, 3, 1)


def dense_case(shape, units, act=None, bias=True):
    return Case(
        f"Dense {shape}->{units} {act or 'linear'}{'' if bias else ' without bias'}",
        lambda: Dense(units, activation=act, bias=bias),
        shape,
        lambda x, w, b=0: reference.activation(act, reference.dense(x, w, b)),
        lambda x, w, b=0: TORCH[act](x @ w + b),
    )


def conv2d_case(shape, filters, size, stride=1, padding="valid", act=None, bias=True):
    (I, J), (s, r) = ((v, v) if isinstance(v, int) else v for v in (size, stride))

    def in_torch(x, w, b=None):
        w = w.permute(3, 2, 0, 1)
        if padding == "same":
            totals = [max((-(-n // t) - 1) * t + k - n, 0) for n, t, k in ((x.shape[3], r, J), (x.shape[2], s, I))]
            x = F.pad(x, [half for total in totals for half in (total // 2, total - total // 2)])
        y = F.conv2d(x.contiguous(), w.contiguous(), b, (s, r), 0 if isinstance(padding, str) else padding)
        return TORCH[act](y)

    return Case(
        f"Conv2D {shape}->{filters} window {size} stride {stride} {padding} {act or 'linear'}"
        + ("" if bias else " without bias"),
        lambda: Conv2D(filters, size, stride=stride, padding=padding, activation=act, bias=bias),
        shape,
        lambda x, w, b=0: reference.activation(act, reference.conv2d(x, w, b, (s, r), padding)),
        channels_first(in_torch),
    )


def conv2d_cases():
    sizes, strides, paddings = (1, 2, 3, 5, (3, 2), (1, 5)), (1, 2, 3, (2, 1)), ("valid", "same", 1)
    for k, (size, stride, padding) in enumerate(itertools.product(sizes, strides, paddings)):
        channels, filters = (1, 3, 5, 16, 33)[k % 5], (4, 1, 17)[k // 3 % 3]
        yield conv2d_case((1 + k % 2, 9, 7, channels), filters, size, stride, padding)
    for act in ACTIVATIONS:
        yield conv2d_case((2, 6, 6, 3), 8, 3, 1, "same", act)
    yield conv2d_case((3, 8, 8, 4), 5, 3, padding="same", bias=False)
    yield conv2d_case((3, 7, 7, 4), 16, 3, stride=2, act="relu", bias=False)
    yield conv2d_case((1, 6, 5, 2), 3, 3, padding=(0, 2))
    yield conv2d_case((2, 3, 3, 2), 40, 3)
    yield conv2d_case((1, 32, 32, 16), 16, 3, padding="same", act="relu")


def pool_case(kind, shape, size, stride=None):
    layer, reduce, in_torch = (MaxPool2D, np.max, F.max_pool2d) if kind == "max" else (AvgPool2D, np.mean, F.avg_pool2d)
    both = [(v, v) if isinstance(v, int) else v for v in (size, size if stride is None else stride)]
    return Case(
        f"{layer.__name__} {shape} window {size} stride {stride}",
        lambda: layer(size, stride),
        shape,
        lambda x: reference.pool2d(x, *both, reduce),
        channels_first(lambda x: in_torch(x, *both)),
    )


def pool_cases():
    for kind in ("max", "avg"):
        yield pool_case(kind, (2, 6, 8, 3), 2)
        yield pool_case(kind, (2, 8, 4, 32), 2)
        yield pool_case(kind, (1, 7, 5, 17), 2)
        yield pool_case(kind, (3, 9, 6, 1), 3)
        yield pool_case(kind, (2, 9, 7, 5), 3, 2)
        yield pool_case(kind, (1, 5, 5, 16), 2, 1)
        yield pool_case(kind, (1, 8, 9, 18), 2, 3)
        yield pool_case(kind, (1, 8, 7, 4), (3, 2), (1, 2))
        yield pool_case(kind, (2, 4, 4, 3), 4)
        yield pool_case(kind, (1, 5, 6, 2), 1)
        yield pool_case(kind, (1, 20, 20, 2), 17)  # 289 numbers in the window: more than a byte can tell apart


CASES = [
    *itertools.starmap(dense_case, [((4, 3), 5), ((1, 7), 1), ((33, 20), 17), ((5, 40), 33, None, False)]),
    *(dense_case((6, 5), 9, act) for act in ACTIVATIONS),
    dense_case((6, 5), 9, "relu", bias=False),
    *conv2d_cases(),
    *pool_cases(),
    Case(
        "GlobalMaxPool2D",
        GlobalMaxPool2D,
        (3, 5, 4, 6),
        lambda x: x.max((1, 2)).astype(float),
        lambda x: x.amax((1, 2)),
    ),
    Case(
        "GlobalAvgPool2D",
        GlobalAvgPool2D,
        (3, 5, 4, 6),
        lambda x: x.astype(float).mean((1, 2)),
        lambda x: x.mean((1, 2)),
    ),
    *(
        Case(layer.__name__, layer, (5, 7), lambda x, name=name: reference.activation(name, x), TORCH[name])
        for name, layer in LAYERS.items()
    ),
    Case(
        "LeakyReLU slope 0.3",
        lambda: LeakyReLU(0.3),
        (2, 3, 4, 5),
        lambda x: reference.activation("leaky_relu", x, 0.3),
        lambda x: F.leaky_relu(x, 0.3),
    ),
    *(
        Case(f"Softmax {shape}", Softmax, shape, reference.softmax, lambda x: torch.softmax(x, -1))
        for shape in [(4, 10), (2, 3, 5), (3, 1), (2, 130)]
    ),
    *(
        Case(
            f"Dropout {rate}",
            lambda rate=rate: Dropout(rate),
            (5, 9, 200),
            lambda x, rate=rate: reference.dropout(x, rate, KEY, 0),
            None,
        )
        for rate in (0, 0.3, 0.75)
    ),
    Case("Flatten", Flatten, (3, 4, 5, 2), lambda x: x.reshape(3, 40).astype(float), lambda x: x.flatten(1)),
    Case(
        "Reshape",
        lambda: Reshape((5, -1, 2)),
        (3, 4, 5),
        lambda x: x.reshape(3, 5, 2, 2).astype(float),
        lambda x: x.reshape(3, 5, 2, 2),
    ),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of calls on tiny arrays: waiting for a second thread, while others use the machine, takes minutes."""
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


def built(case, dtype=np.float64, samples=None):
    """The layer with random parameters, an input and a gradient of its output."""
    rng = np.random.default_rng(SEED)
    layer = case.layer()
    output_shape = layer.build(case.shape[1:], dtype, rng)
    for parameter in layer.parameters:
        parameter.value[...] = rng.normal(0, 1 / math.sqrt(max(1, parameter.value[..., 0].size)), parameter.value.shape)
        parameter.grad[...] = np.nan  # which backward must overwrite, not add to
    samples = samples or case.shape[0]
    x = rng.standard_normal((samples, *case.shape[1:])).astype(dtype)
    g = rng.standard_normal((samples, *output_shape)).astype(dtype)
    return layer, x, g


def forward(layer, x):
    """In training, and always as the first step: a Dropout drops the same numbers."""
    if isinstance(layer, Dropout):
        layer.state = KEY, 0
    return layer.forward(x, training=True)


def assert_close(found, expected, tolerance):
    """Equal within `tolerance`, relative to the largest number there is."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=1e-300)


# --- right ------------------------------------------------------------------------------------------------


@every_case
@both_dtypes
def test_the_output_is_what_the_formula_says(case, dtype):
    layer, x, _ = built(case, dtype)
    y = forward(layer, x)
    assert y.dtype == dtype
    assert y.shape == (len(x), *layer.output_shape)
    expected = case.reference(x, *(p.value for p in layer.parameters))
    assert_close(y, expected, 1e-12 if dtype == np.float64 else 2e-5)


@every_case
def test_the_gradients_are_what_central_differences_say(case):
    layer, x, g = built(case)
    forward(layer, x)
    dx = layer.backward(g)
    rng = np.random.default_rng(0)
    for array, gradient in [(x, dx), *((p.value, p.grad.copy()) for p in layer.parameters)]:
        flat, h = array.reshape(-1), 1e-5
        entries = np.arange(flat.size) if flat.size <= 25 else rng.choice(flat.size, 25, replace=False)
        slopes = []
        for entry in entries:
            middle = flat[entry]
            flat[entry] = middle + h
            above = forward(layer, x).copy()  # a Flatten returns a view of x
            flat[entry] = middle - h
            slopes.append(np.sum((above - forward(layer, x)) * g) / (2 * h))
            flat[entry] = middle
        assert gradient.shape == array.shape
        assert np.abs(gradient.reshape(-1)[entries] - slopes).max() <= 1e-7 * np.abs(gradient).max(), array.shape


@pytest.mark.parametrize("case", [case for case in CASES if case.torch], ids=lambda case: case.name)
@both_dtypes
def test_output_and_gradients_agree_with_pytorch(case, dtype):
    layer, x, g = built(case, dtype)
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, *(p.value for p in layer.parameters))]
    expected = case.torch(*tensors)
    expected.backward(torch.from_numpy(g))
    tolerance = 1e-10 if dtype == np.float64 else 1e-5
    assert_close(forward(layer, x), expected.detach().numpy(), tolerance)
    dx = layer.backward(g)
    for found, tensor in zip((dx, *(p.grad for p in layer.parameters)), tensors, strict=True):
        assert found.dtype == dtype
        assert_close(found, tensor.grad.numpy(), tolerance)


# --- promises that every layer keeps ----------------------------------------------------------------------


@every_case
def test_one_thread_and_two_give_the_same_bits_and_so_does_a_sample_alone(case):
    one_sample = math.prod(case.shape[1:])
    layer, x, g = built(case, np.float32, samples=max(2, 70_000 // one_sample))  # enough for every kernel's threads
    results = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        y, dx = forward(layer, x), layer.backward(g)
        results.append([y.copy(), dx.copy(), *(p.grad.copy() for p in layer.parameters)])
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)
    if not isinstance(layer, Dropout):  # whose mask belongs to the place in the batch
        y, dx = results[0][:2]
        for n in (0, len(x) // 2, len(x) - 1):
            assert np.array_equal(forward(layer, x[n : n + 1])[0], y[n])
            assert np.array_equal(layer.backward(g[n : n + 1])[0], dx[n])


@every_case
def test_what_is_returned_stays_as_it_was_and_what_is_given_too(case):
    layer, x, g = built(case)
    x_before, g_before = x.copy(), g.copy()
    y = forward(layer, x)
    dx = layer.backward(g)
    predicted = layer.forward(x)
    copies = y.copy(), dx.copy(), predicted.copy()
    forward(layer, -x)
    layer.backward(2 * g)
    layer.forward(3 * x)
    assert np.array_equal(x, x_before)
    assert np.array_equal(g, g_before)
    for array, copy in zip((y, dx, predicted), copies, strict=True):
        assert np.array_equal(array, copy)
        assert isinstance(layer, Reshape) or not (np.shares_memory(array, x) or np.shares_memory(array, g))


@every_case
def test_any_layout_of_the_arrays_gives_the_same_bits(case):
    layer, x, g = built(case)
    y, dx = forward(layer, x).copy(), layer.backward(g).copy()
    grads = [p.grad.copy() for p in layer.parameters]
    for change in (every_second, np.asfortranarray, big_endian, read_only, unaligned):
        assert np.array_equal(forward(layer, change(x)), y)
        assert np.array_equal(layer.backward(change(g)), dx)
        for parameter, grad in zip(layer.parameters, grads, strict=True):
            assert np.array_equal(parameter.grad, grad)


def every_second(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan)
    wide[..., ::2] = a
    return wide[..., ::2]


def big_endian(a):
    return a.astype(a.dtype.newbyteorder(">"))


def read_only(a):
    a = a.copy()
    a.setflags(write=False)
    return a


def unaligned(a):
    return np.frombuffer(b"." + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)


@every_case
def test_backward_before_a_training_forward_is_an_error(case):
    layer, x, g = built(case)
    layer.forward(x)
    with pytest.raises(RuntimeError, match=r"backward needs forward\(x, training=True\) first"):
        layer.backward(g)


@every_case
def test_predicting_leaves_no_state(case):
    layer, x, g = built(case)
    forward(layer, x)
    before = dict(vars(layer))
    dx = layer.backward(g).copy()
    layer.forward(2 * x[:1])
    assert vars(layer).keys() == before.keys()
    assert all(vars(layer)[name] is before[name] for name in before)
    assert np.array_equal(layer.backward(g), dx)


@every_case
def test_without_input_grad_backward_returns_none_and_fills_the_same_gradients(case):
    layer, x, g = built(case)
    forward(layer, x)
    layer.backward(g)
    grads = [p.grad.copy() for p in layer.parameters]
    for parameter in layer.parameters:
        parameter.grad[...] = np.nan
    assert layer.backward(g, input_grad=False) is None
    for parameter, grad in zip(layer.parameters, grads, strict=True):
        assert np.array_equal(parameter.grad, grad)


@every_case
def test_an_empty_batch_gives_an_empty_output_and_gradients_of_zero(case):
    layer, x, g = built(case)
    y = forward(layer, x[:0])
    assert y.shape == (0, *layer.output_shape)
    assert layer.backward(g[:0]).shape == (0, *layer.input_shape)
    assert all(not p.grad.any() for p in layer.parameters)


@every_case
def test_a_wrong_shape_is_refused_by_name(case):
    layer, x, g = built(case)
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}: expected input \(N, .*got"):
        layer.forward(x[..., None])
    forward(layer, x)
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}: expected the gradient of its output"):
        layer.backward(g[..., None])
    with pytest.raises(TypeError, match=rf"{type(layer).__name__}: the input must hold real numbers"):
        layer.forward(x.astype(complex))


@every_case
def test_it_says_its_formula(case):
    layer, _, _ = built(case)
    assert layer.formula().startswith("y = ")
    assert layer.flops >= 0
