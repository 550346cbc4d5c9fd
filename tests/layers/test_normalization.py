"""BatchNorm and LayerNorm: running statistics, digits, merging; what the table in test_layers.py can't say."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import normalized
import numba
import numpy as np
import pytest
import torch

import tinynet as tn
from tinynet.gradcheck import check
from tinynet.kernels.batchnorm import merge_moments, row_width
from tinynet.layers import batchnorm, groupnorm, layernorm
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.groupnorm import GroupNorm
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.shape import Flatten
from tinynet.model import Sequential

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
both_layers = pytest.mark.parametrize("make", [BatchNorm, LayerNorm])


pytestmark = pytest.mark.usefixtures("one_thread")


def built(make, shape, dtype=np.float64, seed=0):
    """The layer for samples of that shape, with random scales and shifts."""
    rng, layer = np.random.default_rng(seed), make()
    layer.build(shape, dtype, rng)
    for parameter in layer.parameters:
        parameter.value[...] = rng.normal(1, 0.5, parameter.value.shape)
    return layer


def random(shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def in_torch(layer):
    """PyTorch's layer with the same parameters, for rows (M, C)."""
    C, dtype = layer.parameters[0].value.size, torch.from_numpy(layer.parameters[0].value).dtype
    if isinstance(layer, BatchNorm):
        twin = torch.nn.BatchNorm1d(C, eps=layer.eps, momentum=1 - layer.momentum, dtype=dtype)
    else:
        twin = torch.nn.LayerNorm(C, eps=layer.eps, dtype=dtype)
    with torch.no_grad():
        twin.weight.copy_(torch.from_numpy(layer.parameters[0].value))
        twin.bias.copy_(torch.from_numpy(layer.parameters[1].value))
    return twin


# --- kernels and plain loops -------------------------------------------------------------------------------


def assert_same(kernel, plain, arguments, dtypes, tolerance):
    """The kernel fills arrays with what the plain loops return."""
    expected = plain(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = [np.full(array.shape, np.nan, dtype) for array, dtype in zip(expected, dtypes, strict=True)]
    kernel(*arguments, *found)
    for array, wanted in zip(found, expected, strict=True):
        assert np.abs(array - wanted).max() <= tolerance * np.abs(wanted).max()
    return expected


@both_dtypes
@pytest.mark.parametrize("is_relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 1), (40, 3), (300, 7), (33, 300), (20_000, 2)])
def test_batch_norms_kernels_equal_the_plain_loops(dtype, shape, is_relu):
    x, dy = 5 + 2 * random(shape, dtype), random(shape, dtype, seed=1)
    w, b = random((2, shape[1]), dtype, seed=2)
    close = 2e-7 if dtype == np.float32 else 1e-11
    wide = [np.float64] * 2
    mu, S = assert_same(batchnorm.kernels.batchnorm_moments, batchnorm.batchnorm_moments_plain, [x], wide, 1e-12)
    v = S / len(x)
    arguments = np.append(3 * v, 1e39), np.append(v, 1e39), 0.75, w  # float32 has no 1e39
    with np.errstate(over="ignore"):
        assert_same(batchnorm.kernels.batchnorm_running, batchnorm.batchnorm_running_plain, arguments, wide[:1], 1e-15)
    arguments = x, mu, v, w, b, 1e-5, is_relu
    assert_same(batchnorm.kernels.batchnorm_forward, batchnorm.batchnorm_forward_plain, arguments, [dtype], close)
    arguments = dy, *arguments
    dw, db = assert_same(
        batchnorm.kernels.batchnorm_backward, batchnorm.batchnorm_backward_plain, arguments, wide, 1e-6
    )
    arguments = *arguments, dw, db, 1.5 * len(x)  # of a batch of which x is a part
    kernel, plain = batchnorm.kernels.batchnorm_backward_input, batchnorm.batchnorm_backward_input_plain
    assert_same(kernel, plain, arguments, [dtype], close)


def test_the_steps_of_batch_norms_chain_rule_give_the_collected_form():
    x, dy, w = 5 + 2 * random((40, 3)), random((40, 3), seed=1), random(3, seed=2)
    mu, S = batchnorm.batchnorm_moments_plain(x)
    given = dy, x, mu, S / len(x), w
    dw, db = batchnorm.batchnorm_backward_plain(*given, 0, 1e-5, False)
    collected = batchnorm.batchnorm_backward_input_plain(*given, 0, 1e-5, False, dw, db, len(x))
    np.testing.assert_allclose(batchnorm.batchnorm_chain_plain(*given, 1e-5), collected, rtol=0, atol=1e-13)


@both_dtypes
@pytest.mark.parametrize("shape", [(1, 2), (40, 3), (7, 300), (600, 50)])
def test_layer_norms_kernels_equal_the_plain_loops(dtype, shape):
    x, dy = 5 + 2 * random(shape, dtype), random(shape, dtype, seed=1)
    w, b = random((2, shape[1]), dtype, seed=2)
    close, wide = 2e-7 if dtype == np.float32 else 1e-11, [np.float64] * 2
    kernel, plain = layernorm.kernels.layernorm_forward, layernorm.layernorm_forward_plain
    mu, r, _ = assert_same(kernel, plain, (x, w, b, 1e-5), [*wide, dtype], close)
    kernel, plain = layernorm.kernels.layernorm_backward, layernorm.layernorm_backward_plain
    assert_same(kernel, plain, (dy, x, w, mu, r), [*wide, dtype], close)


@both_dtypes
@pytest.mark.parametrize(("shape", "G"), [((3, 1, 6), 2), ((2, 9, 12), 12), ((5, 100, 8), 1), ((40, 64, 20), 5)])
@pytest.mark.parametrize("full", [True, False])
def test_group_norms_kernels_equal_the_plain_loops(dtype, shape, G, full):
    S = np.full(shape[0], shape[1]) if full else np.arange(shape[0]) * shape[1] // (shape[0] - 1)
    x, dy = 5 + 2 * random(shape, dtype), random(shape, dtype, seed=1)
    w, b = random((2, shape[-1]), dtype, seed=2)
    close, wide = 2e-7 if dtype == np.float32 else 1e-11, [np.float64] * 2
    kernel, plain = groupnorm.kernels.groupnorm_forward, groupnorm.groupnorm_forward_plain
    mu, r, _ = assert_same(kernel, plain, (x, S, w, b, G, 1e-5), [*wide, dtype], close)
    kernel, plain = groupnorm.kernels.groupnorm_backward, groupnorm.groupnorm_backward_plain
    assert_same(kernel, plain, (dy, x, S, w, mu, r), [*wide, dtype], close)


# --- GroupNorm ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 32, 32, 8), (3000, 24), (1, 64, 64, 8)])
def test_group_norm_has_the_same_bits_with_one_thread_and_two_and_for_a_sample_alone(shape):
    x, dy, results = 3 + random(shape, np.float32), random(shape, np.float32, seed=1), []
    layer = built(lambda: GroupNorm(4), shape[1:], np.float32)
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        gradients = (p.grad.copy() for p in layer.parameters)
        results.append([layer.forward(x, training=True), layer.backward(dy), *gradients])
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(layer.forward(x[-1:])[0], results[0][0][-1])


@pytest.mark.parametrize(("mean", "std"), [(1e4, 1), (-3, 1e-3), (0, 1e6)])
def test_group_norm_keeps_its_digits_where_the_mean_is_far_from_zero(mean, std):
    x, dy = (mean + std * random((4, 9, 9, 6))).astype(np.float32), random((4, 9, 9, 6), np.float32, seed=1)
    layer = built(lambda: GroupNorm(3), x.shape[1:], np.float32)
    twin = torch.nn.GroupNorm(3, 6, dtype=torch.float64)
    with torch.no_grad():
        for theirs, ours in zip((twin.weight, twin.bias), layer.parameters, strict=True):
            theirs.copy_(torch.from_numpy(ours.value))
    tensor = torch.from_numpy(x.astype(float)).requires_grad_()
    y = twin(tensor.movedim(-1, 1)).movedim(1, -1)
    y.backward(torch.from_numpy(dy.astype(float)))
    found = layer.forward(x, training=True), layer.backward(dy), *(p.grad for p in layer.parameters)
    expected = y.detach(), tensor.grad, twin.weight.grad, twin.bias.grad
    for array, wanted in zip(found, expected, strict=True):
        assert np.abs(array - wanted.numpy()).max() <= 2e-6 * np.abs(wanted.numpy()).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_reach_their_own_group_alone(bad):
    layer, x = built(lambda: GroupNorm(2), (5, 4)), random((3, 5, 4))
    x[1, 2, 3] = bad
    hit = np.zeros(x.shape, bool)
    hit[1, :, 2:] = True
    np.testing.assert_array_equal(np.isnan(layer.forward(x)), hit)


@pytest.mark.parametrize(
    ("make", "shape", "error", "message"),
    [
        (lambda: GroupNorm(3), (5, 4), ValueError, "GroupNorm: expected channels that 3 groups divide, got 4 channels"),
        (lambda: GroupNorm(1), (), ValueError, "GroupNorm: expected channels that 1 groups divide, got scalars"),
        (lambda: GroupNorm(0), (4,), ValueError, "GroupNorm: groups must be at least 1, got 0"),
        (lambda: GroupNorm(2.5), (4,), TypeError, "GroupNorm: groups must be a whole number, got 2.5"),
        (lambda: GroupNorm(2, eps=0), (4,), ValueError, "GroupNorm: eps must be a finite number above 0, got 0"),
    ],
)
def test_groups_that_make_no_sense_are_refused(make, shape, error, message):
    with pytest.raises(error, match=message):
        make().build(shape, np.float32, np.random.default_rng(0))


def test_group_norm_of_an_empty_batch_is_empty():
    layer = built(lambda: GroupNorm(2), (3, 4))
    assert layer.forward(np.empty((0, 3, 4)), training=True).shape == (0, 3, 4)
    assert layer.backward(np.empty((0, 3, 4))).shape == (0, 3, 4)
    assert not any(p.grad.any() for p in layer.parameters)


# --- running statistics -----------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0, 1.0])
@pytest.mark.parametrize("shape", [(6,), (3, 4, 5), (4, 3)])
def test_running_statistics_follow_pytorchs_over_steps_and_so_do_predictions(dtype, momentum, shape):
    layer = built(lambda: BatchNorm(momentum), shape, dtype)
    twin = in_torch(layer)
    rows = -1, shape[-1]
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    for step in range(6):
        x = 3 + 2 * random((5, *shape), dtype, seed=step)
        y = layer.forward(x, training=True)
        expected = twin.train()(torch.from_numpy(x).reshape(rows)).detach().numpy().reshape(y.shape)
        np.testing.assert_allclose(y, expected, **tolerance)
        np.testing.assert_allclose(layer.buffers["running_mean"], twin.running_mean.numpy(), **tolerance)
        np.testing.assert_allclose(layer.buffers["running_var"], twin.running_var.numpy(), **tolerance)
        expected = twin.eval()(torch.from_numpy(x).reshape(rows)).detach().numpy().reshape(y.shape)
        np.testing.assert_allclose(layer.forward(x), expected, **tolerance)
    assert {array.dtype for array in layer.buffers.values()} == {np.dtype(np.float64)}


def test_a_step_by_hand():
    layer = BatchNorm(momentum=0.75, eps=1.0)
    layer.build((1,), np.float64, np.random.default_rng(0))
    layer.parameters[0].value[...], layer.parameters[1].value[...] = 4.0, 1.0
    # The mean of -3, 0, 0, 3, 5, 1 is 1, the squared deviations are 16, 1, 1, 4, 16, 0: in all 38, so eps makes
    # 38/6 + 1 = 22/3 of the variance, and the running one moves to 3/4 + 1/4 * 38/5.
    x = np.array([-3.0, 0, 0, 3, 5, 1])[:, None]
    np.testing.assert_allclose(layer.forward(x, training=True), 4 * (x - 1) / np.sqrt(22 / 3) + 1, rtol=1e-14)
    np.testing.assert_allclose(layer.buffers["running_mean"], [0.25], rtol=1e-14)
    np.testing.assert_allclose(layer.buffers["running_var"], [0.75 + 38 / 20], rtol=1e-14)
    predicted = 4 * (x - 0.25) / np.sqrt(2.65 + 1) + 1
    np.testing.assert_allclose(layer.forward(x), predicted, rtol=1e-14)


def test_buffers_are_written_in_place_and_only_in_training():
    layer = built(BatchNorm, (5,))
    mean, var = layer.buffers["running_mean"], layer.buffers["running_var"]
    assert (mean == 0).all()
    assert (var == 1).all()
    layer.forward(random((4, 5)))
    assert (mean == 0).all()
    assert (var == 1).all()
    layer.forward(random((4, 5)), training=True)
    layer.backward(random((4, 5)))
    np.testing.assert_allclose(mean, 0.1 * random((4, 5)).mean(0), rtol=1e-12)
    np.testing.assert_allclose(var, 0.9 + 0.1 * random((4, 5)).var(0, ddof=1), rtol=1e-12)


def test_predicting_a_sample_alone_gives_the_same_bits_as_in_a_batch():
    layer = built(BatchNorm, (8, 8, 3), np.float32)
    x = random((300, 8, 8, 3), np.float32)
    layer.forward(x, training=True)
    y = layer.forward(x)
    for n in (0, 150, 299):
        assert np.array_equal(layer.forward(x[n : n + 1])[0], y[n])


def test_several_threads_may_predict_at_once():
    layer = built(BatchNorm, (6, 6, 5))
    layer.forward(random((9, 6, 6, 5)), training=True)
    batches = [random((4, 6, 6, 5), seed=k) for k in range(20)]
    with ThreadPoolExecutor(4) as pool:
        for y, x in zip(pool.map(layer.forward, batches), batches, strict=True):
            assert np.array_equal(y, layer.forward(x))


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize(("name", "layer"), [("relu", tn.ReLU), ("gelu", tn.GELU), ("sigmoid", tn.Sigmoid)])
@pytest.mark.parametrize("shape", [(40, 5), (3, 4, 5, 64), (4, 70, 64)])
def test_batch_norm_with_an_activation_is_that_and_the_activations_layer(name, layer, trainable, shape):
    x, dy, found = random(shape, np.float32), random(shape, np.float32, seed=1), []
    for layers in ([BatchNorm(activation=name)], [BatchNorm(), layer()]):
        layers[0].trainable = trainable
        model = Sequential(layers, shape[1:])
        model.flat_values = random(model.flat_values.shape, seed=2)
        model.buffers()["0.running_mean"] = random(shape[-1:], seed=3)
        y = model.forward(x, training=True)
        found.append([y.copy()])
        y[...] = np.nan  # it is the caller's
        found[-1] += [model.backward(dy, input_grad=True), model.flat_grads, model.predict(x)]
    for one, two in zip(*found, strict=True):
        assert np.array_equal(one, two)


def small_model():
    layers = [Conv2D(5, 3), BatchNorm(), Flatten(), Dense(7), LayerNorm(), BatchNorm(momentum=0.5), Dense(2)]
    return Sequential(layers, (6, 6, 2), seed=1)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_has_buffers_of_its_own_that_work(duplicate):
    model = small_model()
    model.forward(random((4, 6, 6, 2), seed=1), training=True)
    twin = duplicate(model)
    before = {name: array.copy() for name, array in model.buffers().items()}
    assert set(before) == {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"}
    buffers, x = twin.buffers(), random((4, 6, 6, 2), seed=2)
    for name, array in buffers.items():
        assert np.array_equal(array, before[name])
    twin.forward(x, training=True)
    for name, array in buffers.items():
        assert not np.array_equal(array, before[name])
        assert np.array_equal(model.buffers()[name], before[name])
    model.forward(x, training=True)
    for name, array in model.buffers().items():
        assert np.array_equal(array, buffers[name])
    assert np.array_equal(model(x), twin(x))


def test_writing_into_a_models_buffers_is_what_its_predictions_follow():
    model = small_model()
    x = random((4, 6, 6, 2))
    other = small_model()
    other.forward(x, training=True)
    assert not np.array_equal(model(x), other(x))
    for name, array in model.buffers().items():
        array[...] = other.buffers()[name]
    assert np.array_equal(model(x), other(x))


def test_scales_and_shifts_have_no_weight_decay():
    model = small_model()
    norms = {p.name for p in model.parameters() if p.name[0] in "145"}
    assert norms == {"1.weight", "1.bias", "4.weight", "4.bias", "5.weight", "5.bias"}
    assert not any(p.decay for p in model.parameters() if p.name in norms)


# --- digits -----------------------------------------------------------------------------------------------


@both_layers
@both_dtypes
@pytest.mark.parametrize("shape", [(50, 6), (9, 8, 8, 3), (4, 300), (40, 33)])
@pytest.mark.parametrize(("mean", "std"), [(1e4, 1), (-3, 1e-3), (1e-6, 1e-6), (0, 1e6)])
def test_the_digits_stay_where_the_mean_is_far_from_zero(make, dtype, shape, mean, std):
    layer = built(make, shape[1:], dtype)
    x, g = (mean + std * random(shape)).astype(dtype), random(shape, dtype, seed=1)
    exactly = [torch.from_numpy(a.astype(float)).requires_grad_() for a in (x, *(p.value for p in layer.parameters))]
    # In float64 the rounding of the mean, some 1e-12 of the deviation, is what both sides have.
    rows = exactly[0].reshape(-1, shape[-1])
    axis = 0 if make is BatchNorm else 1
    d = rows - rows.mean(axis, keepdim=True)
    y = (d / torch.sqrt((d**2).mean(axis, keepdim=True) + layer.eps) * exactly[1] + exactly[2]).reshape(shape)
    y.backward(torch.from_numpy(g.astype(float)))
    tolerance = 2e-7 if dtype == np.float32 else 1e-10
    found = [layer.forward(x, training=True), layer.backward(g), *(p.grad for p in layer.parameters)]
    for array, expected in zip(found, (y, *(tensor.grad for tensor in exactly)), strict=True):
        expected = expected.detach().numpy()
        assert np.abs(array - expected).max() <= tolerance * np.abs(expected).max()


def test_running_variances_keep_their_digits_with_an_outlier_in_front():
    x = 1e4 + random((100_000, 2), np.float32)
    x[0, 0] = 1e9  # the number that all differences of its chunk are taken from
    layer = built(lambda: BatchNorm(momentum=0.0), (2,), np.float32)
    layer.forward(x, training=True)
    np.testing.assert_allclose(layer.buffers["running_mean"], x.mean(0, dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(layer.buffers["running_var"], x.var(0, dtype=np.float64, ddof=1), rtol=1e-7)


@both_dtypes
def test_two_numbers_of_a_channel_have_gradients_that_are_nearly_nothing_and_still_right(dtype):
    # h is +1 and -1 but for eps, whatever they are: dx, the difference of numbers near 1, is eps / (v + eps) of them.
    layer = built(BatchNorm, (3,), dtype)
    x, g = random((2, 3), dtype), random((2, 3), dtype, seed=1)
    layer.forward(x, training=True)
    w, d = layer.parameters[0].value.astype(float), (x[0].astype(float) - x[1]) / 2
    one = w * (g[0].astype(float) - g[1]) / 2 * layer.eps / (d**2 + layer.eps) ** 1.5
    np.testing.assert_allclose(layer.backward(g), [one, -one], rtol=1e-6 if dtype == np.float32 else 1e-9)


@both_layers
@both_dtypes
def test_numbers_that_are_all_the_same_give_the_shift_and_a_gradient_that_is_finite(make, dtype):
    layer = built(make, (5,), dtype)
    x, g = np.full((40, 5), dtype(0.1)), random((40, 5), dtype)
    y = layer.forward(x, training=True)
    np.testing.assert_allclose(y, np.broadcast_to(layer.parameters[1].value, y.shape), rtol=1e-6)
    twin, tensor = in_torch(layer).double(), torch.from_numpy(x.astype(float)).requires_grad_()
    twin(tensor).backward(torch.from_numpy(g.astype(float)))
    np.testing.assert_allclose(layer.backward(g), tensor.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_a_row_of_one_number_is_its_own_mean():
    layer = built(LayerNorm, (1,), np.float32)
    x = random((6, 1), np.float32)
    assert np.array_equal(layer.forward(x, training=True), np.broadcast_to(layer.parameters[1].value, (6, 1)))
    assert not layer.backward(random((6, 1), np.float32)).any()
    assert not layer.parameters[0].grad.any()


@both_layers
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 4, 8])
@both_dtypes
def test_nan_and_infinity_reach_the_output_and_stay_where_they_are(make, bad, place, dtype):
    layer = built(make, (3,), dtype)
    x = random((9, 3), dtype)
    x[place, 1] = bad
    y = layer.forward(x, training=True)
    layer.backward(np.ones_like(y))
    hit = np.zeros((9, 3), bool)
    hit[(slice(None), 1) if make is BatchNorm else place] = True
    np.testing.assert_array_equal(np.isnan(y), hit)
    twin = in_torch(layer)
    np.testing.assert_array_equal(np.isnan(twin(torch.from_numpy(x)).detach().numpy()), hit)
    if make is BatchNorm:
        for array in layer.buffers.values():
            assert np.isfinite(array).tolist() == [True, False, True]
        assert not torch.isfinite(twin.running_mean[1] + twin.running_var[1])
        assert np.isnan(layer.forward(random((2, 3), dtype)))[:, 1].all()


@both_layers
def test_numbers_near_the_limits_of_float32_are_no_warnings(make):
    layer = built(make, (4,), np.float32)
    x = np.float32(3e38) * random((8, 4), np.float32).clip(-1, 1)
    y = layer.forward(x, training=True)
    assert np.isfinite(y).all()  # the squares fit into float64
    layer.backward(np.full_like(y, 3e38))
    assert np.isinf(layer.parameters[1].grad).all()


# --- merging ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[5], [3, 4], [1, 1, 1], [0, 7, 0, 2, 30, 0], [0, 0]])
def test_moments_of_parts_merge_into_those_of_the_whole(counts):
    parts = [50 + random((count, 4), seed=k) for k, count in enumerate(counts)]
    means = np.array([part.mean(0) if len(part) else np.zeros(4) for part in parts])
    squares = np.array([((part - mean) ** 2).sum(0) for part, mean in zip(parts, means, strict=True)])
    mean, total = np.empty(4), np.empty(4)
    assert merge_moments(np.array(counts, float), means, squares, mean, total) == sum(counts)
    whole = np.concatenate(parts)
    expected = whole.mean(0) if len(whole) else np.zeros(4)
    np.testing.assert_allclose(mean, expected, rtol=1e-14)
    np.testing.assert_allclose(total, ((whole - expected) ** 2).sum(0), rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("C", [*range(1, 70), 100, 255, 256, 257, 1000])
def test_wide_rows_are_whole_pixels_and_neither_short_nor_long(C):
    W = row_width(C)
    assert W % C == 0
    assert 256 <= W < max(2 * C, 512, 16 * C + 256)
    assert C >= 64 or W % 16 == 0


@pytest.mark.parametrize("M", [1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 1000])
@pytest.mark.parametrize("C", [1, 3, 16, 17, 64, 100])
def test_any_number_of_rows_and_channels_adds_up(M, C):
    x, g, layer = random((M, C)), random((M, C), seed=1), built(BatchNorm, (C,))
    if M == 1:
        layer, x, g = built(BatchNorm, (2, C)), random((1, 2, C)), random((1, 2, C), seed=1)
    w, b = (p.value for p in layer.parameters)
    np.testing.assert_allclose(layer.forward(x, training=True), normalized.batchnorm(x, w, b), rtol=1e-9, atol=1e-12)
    layer.backward(g)
    h = normalized.batchnorm(x, np.ones(C), np.zeros(C))
    axes = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(layer.parameters[0].grad, (g * h).sum(axes), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(layer.parameters[1].grad, g.sum(axes), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(300, 8, 8, 3), (40_000, 1), (500, 257), (70, 3000)])
def test_running_statistics_have_the_same_bits_with_one_thread_and_two(shape):
    x, results = random(shape, np.float32), []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        layer = built(BatchNorm, shape[1:], np.float32)
        layer.forward(x, training=True)
        results.append([array.copy() for array in layer.buffers.values()])
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


# --- gradients of what they are part of -------------------------------------------------------------------


def test_the_gradients_of_a_model_with_both_are_right():
    result = check(small_model(), random((5, 6, 6, 2)))
    assert result.passed, result
    assert {"1.weight", "1.bias", "4.weight", "5.bias"} <= set(result.errors)


@pytest.mark.parametrize("make", [BatchNorm, LayerNorm, lambda: BatchNorm(momentum=0.0), lambda: BatchNorm(eps=0.1)])
@pytest.mark.parametrize("shape", [(5, 3), (1, 4, 3, 5), (3, 4, 7)])
def test_a_gradient_check_passes_and_leaves_the_layer_as_it_was(make, shape):
    layer = built(make, shape[1:], np.float32)
    layer.forward(random(shape, np.float32), training=True)
    before = {name: array.copy() for name, array in layer.buffers.items()}
    result = check(layer, shape)
    assert result.passed, result
    for name, array in layer.buffers.items():
        assert np.array_equal(array, before[name])


# --- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (1, 1, 5), (1, 5)])
def test_one_number_a_channel_is_refused_in_training_and_nothing_changes(shape):
    layer = built(BatchNorm, shape)
    layer.place = " (layer 3)"
    x, g = random((4, *shape)), random((4, *shape), seed=1)
    layer.forward(x, training=True)
    dx, buffers = layer.backward(g), copy.deepcopy(layer.buffers)
    message = rf"BatchNorm \(layer 3\): training needs more than one number a channel, got input \(1, {shape[0]}"
    with pytest.raises(ValueError, match=message):
        layer.forward(x[:1], training=True)
    with pytest.raises(ValueError, match="expected input"):
        layer.forward(x[..., :-1], training=True)
    for name, array in layer.buffers.items():
        assert np.array_equal(array, buffers[name])
    assert np.array_equal(layer.backward(g), dx)
    assert layer.forward(x[:1]).shape == (1, *shape)  # predicting takes one


def test_an_empty_batch_moves_no_running_statistics():
    layer = built(BatchNorm, (4, 3))
    before = copy.deepcopy(layer.buffers)
    assert layer.forward(np.empty((0, 4, 3)), training=True).shape == (0, 4, 3)
    for name, array in layer.buffers.items():
        assert np.array_equal(array, before[name])


def test_a_wrong_gradient_leaves_the_gradients_there_are():
    for make in (BatchNorm, LayerNorm):
        layer = built(make, (5,))
        layer.forward(random((4, 5)), training=True)
        layer.backward(random((4, 5)))
        before = [p.grad.copy() for p in layer.parameters]
        with pytest.raises(ValueError, match="expected the gradient of its output"):
            layer.backward(random((3, 5)))
        assert all(np.array_equal(p.grad, grad) for p, grad in zip(layer.parameters, before, strict=True))


@pytest.mark.parametrize(
    ("construct", "error", "message"),
    [
        (lambda: BatchNorm(1.5), ValueError, "BatchNorm: momentum must lie between 0 and 1, got 1.5"),
        (lambda: BatchNorm(-0.1), ValueError, "BatchNorm: momentum"),
        (lambda: BatchNorm(np.nan), ValueError, "BatchNorm: momentum"),
        (lambda: BatchNorm(None), TypeError, "BatchNorm: momentum must be a number, got None"),
        (lambda: BatchNorm(eps=0), ValueError, "BatchNorm: eps must be a finite number above 0, got 0"),
        (lambda: BatchNorm(eps=np.inf), ValueError, "BatchNorm: eps"),
        (lambda: BatchNorm(activation="rellu"), ValueError, "BatchNorm: unknown activation 'rellu'"),
        (lambda: LayerNorm(eps=-1e-5), ValueError, "LayerNorm: eps must be a finite number above 0, got -1e-05"),
        (lambda: LayerNorm(eps=np.nan), ValueError, "LayerNorm: eps"),
        (lambda: LayerNorm("small"), TypeError, "LayerNorm: eps must be a number, got 'small'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_at_once(construct, error, message):
    with pytest.raises(error, match=message):
        construct()


@both_layers
def test_samples_that_are_single_numbers_are_refused(make):
    with pytest.raises(ValueError, match=r"Norm: expected samples with .* got scalars"):
        make().build((), np.float32, np.random.default_rng(0))


# --- very large and very small numbers ------------------------------------------------------------------------


def test_predictions_from_numbers_whose_variance_float32_cannot_hold_are_right():
    model, x = tn.Sequential([BatchNorm(momentum=0.0)], 3), random((64, 3), np.float32) * np.float32(1e20)
    trained = model.forward(x, training=True)
    deviation = x.std(axis=0, ddof=1, dtype=np.float64)
    assert (deviation > 1e19).all()
    np.testing.assert_allclose(model.forward(x), (x - x.mean(0, dtype=np.float64)) / deviation, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.forward(x), trained, rtol=0.01, atol=1e-6)
    dx = model.backward(random(x.shape, np.float32, seed=1), input_grad=True)
    assert (dx != 0).all()
    assert np.isfinite(dx).all()


def test_such_a_variance_is_kept_by_copies_and_checkpoints(tmp_path):
    model, x = tn.Sequential([BatchNorm(momentum=0.5)], 3), random((64, 3), np.float32) * np.float32(1e20)
    model.forward(x, training=True)
    tn.save(model, tmp_path / "model")
    other = tn.Sequential([BatchNorm(momentum=0.5)], 3)
    tn.load(other, tmp_path / "model")
    np.testing.assert_array_equal(other.forward(x), model.forward(x))
    np.testing.assert_array_equal(copy.deepcopy(model).forward(x), model.forward(x))


def test_running_statistics_that_float32_can_hold_are_float32_numbers():
    layer = built(BatchNorm, (4,), np.float32)
    for step in range(3):
        layer.forward(random((9, 4), np.float32, seed=step), training=True)
    for array in layer.buffers.values():
        np.testing.assert_array_equal(array, array.astype(np.float32))


@pytest.mark.parametrize("layer", [BatchNorm, LayerNorm])
def test_a_variance_that_float64_cannot_hold_makes_nan_and_not_constants(layer):
    x = random((16, 8), np.float64) * 1e200
    model = tn.Sequential([layer()], 8, dtype="float64")
    assert np.isnan(model.forward(x, training=True)).all()
    assert np.isnan(model.forward(x)).all()


@pytest.mark.parametrize("size", [1e20, 1e25, 1e37])
def test_layer_norm_normalises_very_large_numbers(size):
    x = random((5, 16), np.float32) * np.float32(size)
    y = tn.Sequential([LayerNorm()], 16).forward(x)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(axis=1, keepdims=True)) / exact.std(axis=1, keepdims=True)
    np.testing.assert_allclose(y, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [BatchNorm, LayerNorm])
def test_very_small_numbers_are_divided_by_the_root_of_eps(layer):
    x = random((32, 16), np.float32) * np.float32(1e-30)
    y = tn.Sequential([layer()], 16).forward(x, training=True)
    exact = (x - x.mean(0 if layer is BatchNorm else 1, dtype=np.float64, keepdims=True)) / np.sqrt(1e-5)
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-35)
