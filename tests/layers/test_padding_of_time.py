"""A padded batch of sequences: each layer gives each sequence what it gets alone, and padding changes nothing."""

import numba
import numpy as np
import pytest
import torch

import tinynet as tn
from tinynet.layers.activations import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("one_thread")

T, LENGTHS = 7, np.array([3, 0, 7, 1, 5])
N = len(LENGTHS)
ENDS = ["relu", "gelu", "sigmoid"]
POOLS = [tn.GlobalAvgPool1D, tn.GlobalMaxPool1D]

# Layers that take sequences (N, T, 4), or words (N, T).
MODELS = {
    "Embedding": lambda: [tn.Embedding(6, 5, padding=0), tn.Dense(3)],
    **{name: lambda name=name: [tn.Dense(5, activation=name), tn.Dense(3)] for name in ACTIVATIONS},
    "LayerNorm": lambda: [tn.Dense(5), tn.LayerNorm(), tn.GELU(), tn.Dense(3)],
    "Softmax": lambda: [tn.Dense(5), tn.Softmax(), tn.Dense(3)],
    "GroupNorm": lambda: [tn.GroupNorm(2), tn.Dense(6), tn.GroupNorm(3), tn.Dense(3)],
    "Residual": lambda: [tn.Residual([tn.GroupNorm(1), tn.ReLU(), tn.Dense(4)]), tn.Dense(3)],
    "Parallel": lambda: [tn.Concat([tn.Dense(3)]), tn.Parallel([[tn.GroupNorm(1)], [tn.Tanh()]])],
    "GlobalAvgPool1D": lambda: [tn.Dense(5), tn.GlobalAvgPool1D(), tn.Dense(3)],
    "GlobalMaxPool1D": lambda: [tn.Dense(5), tn.GlobalMaxPool1D(), tn.LayerNorm(), tn.Dense(3)],
    "Conv1D": lambda: [tn.Dense(5), tn.Conv1D(6, 3, padding="same", activation="gelu"), tn.Dense(3)],
    "causal Conv1D": lambda: [tn.Dense(5), tn.Conv1D(5, 3, padding=(4, 0), dilation=2, groups=5), tn.Dense(3)],
    "Conv1D and a maximum": lambda: [tn.Conv1D(5, 3, padding=1), tn.GlobalMaxPool1D(), tn.Dense(3)],
    "MaxPool1D": lambda: [tn.Dense(5), tn.MaxPool1D(3, 1, 1), tn.Dense(3)],
    "AvgPool1D": lambda: [tn.Dense(5), tn.AvgPool1D(3, 1, 1), tn.AvgPool1D(3, 1, 1, False, False), tn.Dense(3)],
    "RMSNorm": lambda: [tn.Dense(5), tn.RMSNorm(), tn.SpatialDropout(0), tn.Dense(3)],
    "both pools": lambda: [tn.Parallel([[tn.GlobalMaxPool1D()], [tn.Dense(5), tn.GlobalAvgPool1D()]])],
}
every_model = pytest.mark.parametrize("name", MODELS)


def model_and_batch(name, dtype="float64"):
    """A model with random parameters, and sequences with something finite behind their lengths."""
    layers, rng = MODELS[name](), np.random.default_rng(0)
    words = isinstance(layers[0], tn.Embedding)
    model = tn.Sequential(layers, T if words else (T, 4), dtype=dtype)
    model.flat_values += rng.normal(0, 0.3, model.flat_values.shape)
    return model, rng.integers(0, 6, (N, T)) if words else rng.standard_normal((N, T, 4)).astype(dtype)


def behind(array, value):
    """A copy with this value behind the lengths."""
    array = array.copy()
    for row, length in zip(array, LENGTHS, strict=True):
        row[length:] = value
    return array


def passes(model, x, dy):
    """y, the gradients, and dx where there is one."""
    y = model.forward(x, training=True)
    words = isinstance(model.layers[0], tn.Embedding)
    dx = model.backward(dy, input_grad=not words)
    return y, model.flat_grads.copy(), dx


@every_model
def test_a_padded_batch_gives_each_sequence_what_it_gets_alone(name):
    model, x = model_and_batch(name)
    dy = np.random.default_rng(1).standard_normal((N, *model.output_shape))
    keeps_time = len(model.output_shape) == 2
    y, grads, dx = passes(model, (x, LENGTHS), dy)
    total = np.zeros_like(grads)
    for n, length in enumerate(LENGTHS):
        within = slice(length) if keeps_time else slice(None)
        if length == 0 and keeps_time:
            assert not y[n].any()
        if length:
            alone, its, its_dx = passes(model, x[n : n + 1, :length], np.ascontiguousarray(dy[n : n + 1, within]))
            total += its
            np.testing.assert_allclose(y[n, within], alone[0], rtol=0, atol=1e-13)
            if dx is not None:
                np.testing.assert_allclose(dx[n, :length], its_dx[0], rtol=0, atol=1e-13)
        if dx is not None:
            assert not dx[n, length:].any()
        assert not keeps_time or not y[n, length:].any()
    if keeps_time:  # of a sequence of length 0, what comes after the pooling still has a say
        np.testing.assert_allclose(grads, total, rtol=0, atol=1e-12)


@every_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_in_the_padding_changes_no_bit(name, dtype):
    model, x = model_and_batch(name, dtype)
    dy = np.random.default_rng(1).standard_normal((N, *model.output_shape)).astype(dtype)
    hidden = behind(dy, np.nan) if len(model.output_shape) == 2 else dy
    expected = passes(model, (behind(x, 0), LENGTHS), dy)
    predicted = model.predict((behind(x, 0), LENGTHS))
    for value in [-9, 10**6] if x.dtype.kind == "i" else [np.nan, np.inf]:
        found = passes(model, (behind(x, value), LENGTHS), hidden)
        for array, wanted in zip(found, expected, strict=True):
            assert wanted is None or np.array_equal(array, wanted)
        assert np.array_equal(model.predict((behind(x, value), LENGTHS)), predicted)
        assert np.array_equal(model.predict((behind(x, value), LENGTHS), batch_size=2), predicted)


@every_model
def test_the_gradients_of_a_padded_batch_are_what_central_differences_say(name):
    model, x = model_and_batch(name)
    dy = np.random.default_rng(1).standard_normal((N, *model.output_shape))
    _, grads, _ = passes(model, (x, LENGTHS), dy)
    h, slopes = 1e-5, []
    entries = np.random.default_rng(2).choice(grads.size, min(grads.size, 30), replace=False)
    for entry in entries:
        middle = model.flat_values[entry]
        model.flat_values[entry] = middle + h
        above = model.forward((x, LENGTHS), training=True)
        model.flat_values[entry] = middle - h
        slopes.append(np.sum((above - model.forward((x, LENGTHS), training=True)) * dy) / (2 * h))
        model.flat_values[entry] = middle
    assert np.abs(grads[entries] - slopes).max() <= 1e-7 * np.abs(grads).max()


@every_model
def test_sequences_shorter_than_the_model_was_built_for_are_taken_as_they_are(name):
    model, x = model_and_batch(name)
    for t in (1, 4):
        y = model.forward(x[:, :t], training=True)
        keeps_time = len(model.output_shape) == 2
        assert y.shape == (N, t, *model.output_shape[1:]) if keeps_time else (N, *model.output_shape)
        whole = model.forward((x, np.full(N, t)))
        np.testing.assert_allclose(y, whole[:, :t] if keeps_time else whole, rtol=0, atol=1e-13)
        assert model.backward(np.ones_like(y), input_grad=False) is None
        if keeps_time:
            with pytest.raises(ValueError, match="expected the gradient of its output"):
                model.backward(np.ones((N, *model.output_shape)))


@every_model
@pytest.mark.parametrize("lengths", [[0], [0, 0], [], [1]])
def test_batches_without_any_position_give_zeros_and_gradients_without_nan(name, lengths):
    model, x = model_and_batch(name)
    n = len(lengths)
    y = model.forward((x[:n], lengths), training=True)
    assert y.shape == (n, *model.output_shape)
    assert np.isfinite(y).all()
    model.backward(np.ones_like(y))
    assert np.isfinite(model.flat_grads).all()
    if len(model.output_shape) == 2 and sum(lengths) == 0:
        assert not y.any()
        assert not model.flat_grads.any()


@pytest.mark.parametrize(
    "layer", [*POOLS, lambda: tn.GroupNorm(2), tn.BatchNorm, *(lambda f=f: tn.BatchNorm(activation=f) for f in ENDS)]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_by_itself_reads_nothing_behind_the_lengths(layer, training):
    x = np.random.default_rng(0).standard_normal((N, T, 4))
    layer = layer()
    layer.build((T, 4), np.float64, np.random.default_rng(0))
    y = layer.forward(behind(x, 0), False, LENGTHS)
    assert np.array_equal(layer.forward(behind(x, np.nan), False, LENGTHS), y)
    if training:
        y = layer.forward(behind(x, 0), True, LENGTHS)
        assert np.array_equal(layer.forward(behind(x, np.nan), True, LENGTHS), y)
    assert np.isfinite(y).all()
    if y.ndim == 3:
        assert np.array_equal(behind(y, 0), y)
    if training:
        dy = np.random.default_rng(1).standard_normal(y.shape)
        dx = layer.backward(behind(dy, np.nan) if y.ndim == 3 else dy)
        assert np.array_equal(behind(dx, 0), dx)
        assert np.isfinite(dx).all()
        assert all(np.isfinite(p.grad).all() for p in layer.parameters)


def test_batch_norm_takes_its_moments_of_what_is_within_the_lengths():
    rng = np.random.default_rng(0)
    x, dy, within = rng.standard_normal((N, T, 3)), rng.standard_normal((N, T, 3)), np.arange(T) < LENGTHS[:, None]
    padded, flat = (tn.Sequential([tn.BatchNorm()], shape, dtype="float64") for shape in [(T, 3), 3])
    for model in (padded, flat):
        model.flat_values = np.arange(1, 7) / 3
    y, dx = padded.forward((x, LENGTHS), training=True), padded.backward(dy, input_grad=True)
    np.testing.assert_array_equal(y[within], flat.forward(x[within], training=True))
    np.testing.assert_array_equal(dx[within], flat.backward(dy[within], input_grad=True))
    np.testing.assert_array_equal(padded.flat_grads, flat.flat_grads)
    assert not y[~within].any()
    assert not dx[~within].any()
    for name, buffer in padded.buffers().items():
        np.testing.assert_array_equal(buffer, flat.buffers()[name])
    np.testing.assert_array_equal(padded.predict((x, LENGTHS))[within], flat.predict(x[within]))
    with pytest.raises(ValueError, match=r"BatchNorm .*: training needs more than one number a channel"):
        padded.forward((x[:2], [1, 0]), training=True)
    before = {name: buffer.copy() for name, buffer in padded.buffers().items()}
    padded.forward((x[:2], [0, 0]), training=True)  # there is nothing to learn from
    assert all(np.array_equal(before[name], buffer) for name, buffer in padded.buffers().items())


@pytest.mark.parametrize("layer", POOLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooling_over_time_agrees_with_pytorch_within_the_lengths(layer, dtype):
    rng = np.random.default_rng(0)
    close = 1e-6 if dtype == np.float32 else 1e-14
    for shape in [(5, 7, 1), (9, 30, 33), (40, 50, 64)]:
        x, lengths = rng.standard_normal(shape).astype(dtype), rng.integers(1, shape[1] + 1, shape[0])
        ours = layer()
        ours.build(shape[1:], dtype, rng)
        tensor = torch.from_numpy(x.copy()).requires_grad_()
        outside = torch.arange(shape[1])[None, :, None] >= torch.from_numpy(lengths)[:, None, None]
        if layer is tn.GlobalAvgPool1D:
            expected = tensor.masked_fill(outside, 0).sum(1) / torch.from_numpy(lengths)[:, None].to(tensor.dtype)
        else:
            expected = tensor.masked_fill(outside, -torch.inf).max(1).values
        dy = rng.standard_normal(expected.shape).astype(dtype)
        expected.backward(torch.from_numpy(dy))
        for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
            numba.set_num_threads(threads)
            y = ours.forward(x, True, lengths)
            np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=close)
            np.testing.assert_allclose(ours.backward(dy), tensor.grad.numpy(), rtol=1e-6)


def test_of_equal_maxima_the_first_has_the_gradient_and_a_nan_is_the_largest():
    x = np.array([[3.0, 3, 1], [np.nan, 5, np.nan], [-1, -2, 9]])[..., None]
    layer = tn.GlobalMaxPool1D()
    layer.build((3, 1), np.float64, None)
    np.testing.assert_array_equal(layer.forward(x, True, [3, 3, 2])[:, 0], [3, np.nan, -1])
    np.testing.assert_array_equal(layer.backward(np.ones((3, 1)))[..., 0], [[1, 0, 0], [0, 0, 1], [1, 0, 0]])


def test_the_mean_of_a_million_equal_positions_keeps_its_digits():
    layer = tn.GlobalAvgPool1D()
    layer.build((10**6, 1), np.float32, None)
    assert abs(layer.forward(np.full((1, 10**6, 1), 0.1, np.float32)).item() - 0.1) < 1e-7


def test_dropout_drops_the_same_however_long_the_rest_of_the_batch_is():
    x = np.ones((N, T, 1000))
    whole, padded, cut, part = (tn.Sequential([tn.Dropout(0.5)], (T, 1000), seed=1) for _ in range(4))
    whole = whole.forward(x, training=True)
    np.testing.assert_array_equal(padded.forward((x, LENGTHS), training=True), behind(whole, 0))
    np.testing.assert_array_equal(cut.forward(x[:, :5], training=True), whole[:, :5])
    np.testing.assert_array_equal(cut.backward(x[:, :5], input_grad=True), whole[:, :5])
    part.layers[0].first_row = 3
    np.testing.assert_array_equal(part.forward((x[3:], LENGTHS[3:]), training=True), behind(whole, 0)[3:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tn.Sequential([tn.GlobalAvgPool1D()], (3, 2)).forward(np.ones((1, 3, 2)), state={}),
            "on from a state",
        ),
        (lambda: tn.Sequential([tn.GroupNorm(1)], (3, 2)).forward(np.ones((1, 3, 2)), state={}), "on from a state"),
        (lambda: tn.Sequential([tn.Dense(2)], 3).forward((np.ones((1, 3)), [2])), "no axis of time"),
        (lambda: tn.Sequential([tn.Softmax()], 3).forward(np.ones((1, 3)), state={}), "no axis of time"),
    ],
)
def test_what_cannot_be_done_along_time_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
