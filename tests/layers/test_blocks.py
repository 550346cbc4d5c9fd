"""Residual, Concat and Parallel: what the table of layers can't say of layers that hold others."""

import copy
import hashlib
import pickle
import re

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_threads import assert_threads_predict

import tinynet as tn
from tinynet.layers.base import Layer

pytestmark = pytest.mark.usefixtures("one_thread")


class Spy(Layer):
    """y = 2 x, which notes how its backward was called; with a buffer that counts the training steps."""

    def __init__(self):
        super().__init__()
        self.buffers, self.calls = {"steps": np.zeros(1)}, []

    def forward(self, x, training=False):
        x = self.checked(x)
        self.buffers["steps"] += training
        return 2 * x

    def backward(self, dy, input_grad=True):
        self.calls.append(input_grad)
        return 2 * dy if input_grad else None


def nested(dtype="float32", rate=0.3):
    """Blocks in blocks, some three deep, with every way to join."""
    return tn.Sequential(
        [
            tn.Conv2D(4, 3, padding="same", activation="relu"),
            tn.Residual(
                [
                    tn.Conv2D(5, 3, stride=2, padding="same", activation="tanh"),
                    tn.Concat([tn.Residual([tn.ReLU(), tn.Conv2D(5, 1)]), tn.Dropout(rate)]),
                    tn.Conv2D(6, 3, padding="same"),
                ],
                shortcut=[tn.AvgPool2D(2), tn.Conv2D(6, 1, bias=False)],
            ),
            tn.Parallel([[tn.GlobalAvgPool2D()], [tn.GlobalMaxPool2D(), tn.Dense(3)], [tn.Flatten()]]),
            tn.Dense(3),
        ],
        input_shape=(8, 8, 2),
        seed=5,
        dtype=dtype,
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((6, 8, 8, 2)).astype(np.float32)


def built(layer, shape, dtype=np.float64):
    layer.build(shape, dtype, np.random.default_rng(0))
    return layer


# --- right ------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_sum_reaches_x_whole_and_once_more_through_the_layers():
    layer = built(tn.Residual([tn.Dense(2, bias=False)]), (2,))
    layer.parameters[0].value[...] = [[1, 2], [3, 4]]
    y = layer.forward(np.array([[1, 10]]), training=True)
    assert np.array_equal(y, [[1 + 31, 10 + 42]])
    dx = layer.backward(np.array([[1, 100]]))
    assert np.array_equal(dx, [[1 + 201, 100 + 403]])
    assert np.array_equal(layer.parameters[0].grad, [[1, 100], [10, 1000]])


def test_the_gradient_of_what_stands_beside_is_shared_out_by_columns():
    layer = built(tn.Concat([tn.Dense(1, bias=False)]), (2,))
    layer.parameters[0].value[...] = [[2], [3]]
    assert np.array_equal(layer.forward(np.array([[1, 10]]), training=True), [[1, 10, 32]])
    assert np.array_equal(layer.backward(np.array([[5, 6, 7]])), [[5 + 14, 6 + 21]])
    assert np.array_equal(layer.parameters[0].grad, [[7], [70]])


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_blocks_in_blocks_pass_the_gradient_check(rate):
    x, labels = np.random.default_rng(0).standard_normal((4, 8, 8, 2)), np.array([0, 1, 2, 0])
    result = tn.gradcheck.check(nested(rate=rate), x, labels, loss=tn.softmax_cross_entropy, samples=60)
    assert result.passed
    assert "1.1.0.1.weight" in result.errors
    assert tn.gradcheck.check(nested(rate=rate), samples=20).passed
    assert tn.gradcheck.check(nested(rate=rate).layers[1], samples=20).passed


def test_blocks_in_blocks_agree_with_pytorch(images):
    model = nested("float64", rate=0.0)
    x = torch.from_numpy(images.astype(np.float64).transpose(0, 3, 1, 2).copy()).requires_grad_()
    p = {p.name: torch.from_numpy(p.value.copy()).requires_grad_() for p in model.parameters()}

    def conv(x, name, **options):
        return F.conv2d(x, p[f"{name}.weight"].permute(3, 2, 0, 1), p.get(f"{name}.bias"), **options)

    a = conv(x, "0", padding=1).relu()
    b = conv(F.pad(a, (0, 1, 0, 1)), "1.0", stride=2).tanh()  # "same" at stride 2: the odd row and column at the end
    c = torch.cat([b, b + conv(b.relu(), "1.1.0.1")], 1)
    d = conv(c, "1.2", padding=1) + conv(F.avg_pool2d(a, 2), "1.4")
    dense = d.amax((2, 3)) @ p["2.2.weight"] + p["2.2.bias"]
    e = torch.cat([d.mean((2, 3)), dense, d.permute(0, 2, 3, 1).flatten(1)], 1)
    expected = e @ p["3.weight"] + p["3.bias"]
    y = model.forward(images, training=True)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    expected.backward(torch.from_numpy(dy))
    dx = model.backward(dy, input_grad=True)
    np.testing.assert_allclose(dx, x.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-9, atol=1e-12)
    for parameter in model.parameters():
        np.testing.assert_allclose(parameter.grad, p[parameter.name].grad.numpy(), rtol=1e-9, atol=1e-12)


def test_training_learns_and_gives_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    # Batches large enough for the first convolution to take threads.
    x, y = rng.standard_normal((384, 8, 8, 2)).astype(np.float32), np.arange(384) % 3
    x += y[:, None, None, None] - 1
    digests = set()
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        tn.set_num_threads(threads)
        model = nested()
        optimizer = tn.Adam(model, lr=0.01)
        history = tn.fit(
            model, x, y, loss=tn.softmax_cross_entropy, optimizer=optimizer, epochs=4, batch_size=128, progress=False
        )
        assert history["loss"][-1] < 0.5 * history["loss"][0]
        digests.add(hashlib.sha256(model.flat_values.tobytes()).hexdigest())
    assert len(digests) == 1


# --- part of a model --------------------------------------------------------------------------------------


def test_layers_inside_are_numbered_named_and_walked_in_order():
    model = nested()
    labels = [layer.label for layer in model.walk()]
    assert labels == [
        "Conv2D (layer 0)",
        "Residual (layer 1)",
        "Conv2D (layer 1.0)",
        "Concat (layer 1.1)",
        "Residual (layer 1.1.0)",
        "ReLU (layer 1.1.0.0)",
        "Conv2D (layer 1.1.0.1)",
        "Dropout (layer 1.1.1)",
        "Conv2D (layer 1.2)",
        "AvgPool2D (layer 1.3)",
        "Conv2D (layer 1.4)",
        "Parallel (layer 2)",
        "GlobalAvgPool2D (layer 2.0)",
        "GlobalMaxPool2D (layer 2.1)",
        "Dense (layer 2.2)",
        "Flatten (layer 2.3)",
        "Dense (layer 3)",
    ]
    names = [p.name for p in model.parameters()]
    assert names == [
        *("0.weight", "0.bias", "1.0.weight", "1.0.bias", "1.1.0.1.weight", "1.1.0.1.bias"),
        *("1.2.weight", "1.2.bias", "1.4.weight", "2.2.weight", "2.2.bias", "3.weight", "3.bias"),
    ]
    assert [p.decay for p in model.parameters()] == [not name.endswith("bias") for name in names]


def test_branches_start_from_different_random_numbers_and_the_same_seed_gives_the_same():
    layer = built(tn.Parallel([[tn.Dense(3)], [tn.Dense(3)]]), (4,))
    assert (layer.parameters[0].value != layer.parameters[2].value).any()
    assert np.array_equal(nested().flat_values, nested().flat_values)
    assert np.array_equal(nested("float64").flat_values.astype(np.float32), nested().flat_values)


def test_buffers_of_layers_inside_are_the_models_and_the_same_arrays():
    model = tn.Sequential([tn.Dense(3), tn.Residual([tn.Dense(3), tn.Concat([Spy()]), tn.Dense(3)])], input_shape=4)
    model.forward(np.zeros((2, 4)), training=True)
    model.forward(np.zeros((2, 4)))
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(other.buffers()) == ["1.1.0.steps"]
        assert other.buffers()["1.1.0.steps"] == 1
        other.buffers()["1.1.0.steps"][...] = 7
        assert other.layers[1].layers[1].layers[0].buffers["steps"] == 7


def test_a_block_of_he_et_al_passes_the_gradient_check_and_keeps_its_running_means():
    model = tn.Sequential(
        [
            tn.Residual(
                [
                    tn.Conv2D(4, 3, stride=2, padding="same", bias=False),
                    tn.BatchNorm(),
                    tn.ReLU(),
                    tn.Conv2D(4, 3, padding="same", bias=False),
                    tn.BatchNorm(),
                ],
                shortcut=[tn.Conv2D(4, 1, stride=2, bias=False), tn.BatchNorm()],
            ),
            tn.ReLU(),
            tn.GlobalAvgPool2D(),
            tn.Dense(3),
        ],
        input_shape=(8, 8, 2),
    )
    assert tn.gradcheck.check(model, (5, 8, 8, 2), samples=50).passed
    means = [name for name in model.buffers() if name.endswith("mean")]
    assert [name.split(".")[:2] for name in means] == [["0", "1"], ["0", "4"], ["0", "6"]]
    before = {name: model.buffers()[name].copy() for name in means}
    model.forward(np.random.default_rng(0).standard_normal((5, 8, 8, 2)), training=True)
    assert all((model.buffers()[name] != before[name]).all() for name in means)


def test_the_summary_indents_what_is_inside_and_counts_nothing_twice():
    model = nested()
    head, _, *rows, _, total = model.summary().splitlines()
    assert len(rows) == 17
    assert [re.match(r" *[\d.]+ \w+", row)[0] for row in rows][1:8] == [
        "1 Residual",
        "  1.0 Conv2D",
        "  1.1 Concat",
        "    1.1.0 Residual",
        "      1.1.0.0 ReLU",
        "      1.1.0.1 Conv2D",
        "    1.1.1 Dropout",
    ]
    assert "(N, 4, 4, 6)" in rows[1]
    assert "y = s(x) + f(x), s = layers 3-4" in rows[1]
    assert "y = [layer 0 of x, layers 1-2 of x, layer 3 of x]" in rows[11]
    numbers = [[int(cell.replace(",", "")) for cell in row.split()[-2:]] for row in [*rows, total]]
    assert np.array_equal(np.sum(numbers[:-1], axis=0), numbers[-1])
    assert numbers[-1] == [model.flat_values.size, sum(layer.flops for layer in model.layers)]
    assert numbers[1] == [0, 4 * 4 * 6]  # the additions
    assert "Residual([Conv2D, Concat([Residual([ReLU, Conv2D]), Dropout]), Conv2D, AvgPool2D, Conv2D])" in repr(model)


def test_values_and_gradients_inside_are_views_of_the_flat_vectors(images):
    model = nested()
    inside = model.layers[1].layers[1].layers[0].layers[1].parameters[0]
    assert inside is model.parameters()[4]
    assert np.shares_memory(inside.value, model.flat_values)
    model.forward(images, training=True)
    model.backward(np.ones((6, 3)))
    assert inside.grad.any()
    assert np.shares_memory(inside.grad, model.flat_grads)


def test_copies_and_pickles_are_models_of_their_own(images):
    model = nested()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict(images), model.predict(images))
        np.testing.assert_array_equal(other.forward(images, training=True), copy.deepcopy(model).forward(images, True))
        other.backward(np.ones((6, 3)))
        assert other.flat_grads.any()
        assert not model.flat_grads.any()
        other.flat_values[:] = 0
        assert not other.predict(images).any()
        assert model.flat_values.any()


def test_predict_from_eight_threads_at_once_is_right(images):
    model = nested()
    expected = model.predict(images)
    assert_threads_predict(model, images, expected)


def test_predicting_between_forward_and_backward_changes_no_gradient(images):
    model, dy = nested(), np.random.default_rng(1).standard_normal((6, 3))
    model.forward(images, training=True)
    model.backward(dy)
    expected = model.flat_grads.copy()
    model.predict(2 * images[:3])
    model.backward(dy)
    np.testing.assert_array_equal(model.flat_grads, expected)


def test_a_dropout_inside_goes_on_where_its_state_says(images):
    model = nested()
    [dropout] = [layer for layer in model.walk() if isinstance(layer, tn.Dropout)]
    model.forward(images, training=True)
    key, steps = dropout.state
    assert steps == 1
    expected = model.forward(images, training=True)
    assert (model.forward(images, training=True) != expected).any()
    dropout.state = key, steps
    np.testing.assert_array_equal(model.forward(images, training=True), expected)


# --- arrays are left alone --------------------------------------------------------------------------------

LASTS = {  # what ends a branch of vectors of 4: layers that keep their output, and views
    "relu": tn.ReLU,
    "sigmoid": lambda: tn.Dense(4, activation="sigmoid"),
    "gelu": tn.GELU,
    "softmax": tn.Softmax,
    "flatten": tn.Flatten,
    "dropout": lambda: tn.Dropout(0.5),
}


@pytest.mark.parametrize("last", LASTS)
@pytest.mark.parametrize(
    "block", [tn.Residual, tn.Concat, lambda f: tn.Parallel([f]), lambda f: tn.Residual([tn.Flatten()], shortcut=f)]
)
def test_writing_into_what_a_block_returns_or_was_given_harms_nothing(block, last):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4))
    layer = built(block([tn.Dense(4), LASTS[last]()]), (4,))
    y = layer.forward(x, training=True)
    dy = rng.standard_normal(y.shape)
    dy_before, x_before = dy.copy(), x.copy()
    dx = layer.backward(dy)
    kept, grads = dx.copy(), [p.grad.copy() for p in layer.parameters]
    y[...] = np.nan
    dx[...] = np.nan
    np.testing.assert_array_equal(dy, dy_before)
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(layer.backward(dy), kept)
    for parameter, grad in zip(layer.parameters, grads, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)


@pytest.mark.parametrize("block", [tn.Residual, tn.Concat])
def test_a_model_that_ends_in_a_block_hands_out_what_is_the_callers(block):
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    model = tn.Sequential([block([tn.Dense(4, activation="tanh")])], input_shape=4)
    y = model.forward(x, training=True)
    assert not np.shares_memory(y, x)
    dy = np.ones_like(y)
    model.backward(dy)
    expected = model.flat_grads.copy()
    y[...] = np.nan
    model.backward(dy)
    np.testing.assert_array_equal(model.flat_grads, expected)
    assert (dy == 1).all()


# --- work that is left out ----------------------------------------------------------------------------------


def test_without_input_grad_a_branch_walks_back_no_further_than_its_first_parameters():
    first, second, alone = Spy(), Spy(), Spy()
    layer = built(tn.Parallel([[first, tn.Dense(3), second], [alone], []]), (4,))
    y = layer.forward(np.ones((2, 4)), training=True)
    assert layer.backward(np.ones_like(y), input_grad=False) is None
    assert (first.calls, second.calls, alone.calls) == ([], [True], [])
    expected = layer.parameters[0].grad.copy()
    assert layer.backward(np.ones_like(y)).shape == (2, 4)
    assert (first.calls, second.calls, alone.calls) == ([True], [True] * 2, [True])
    np.testing.assert_array_equal(layer.parameters[0].grad, expected)


def test_a_block_without_parameters_before_the_first_weights_is_left_out_by_the_model():
    spy = Spy()
    model = tn.Sequential([tn.Residual([spy]), tn.Dense(3)], input_shape=4)
    model.forward(np.ones((2, 4)), training=True)
    model.backward(np.ones((2, 3)))
    assert spy.calls == []


# --- the loss that fits the ending ----------------------------------------------------------------------------


def fitted(layers, loss):
    model = tn.Sequential(layers, input_shape=4)
    x = np.random.default_rng(0).standard_normal((6, 4))
    width = model.output_shape[0]
    labels = np.arange(6) % 2 if loss.startswith("softmax") else np.ones((6, width))
    optimizer = tn.SGD(model, lr=0.1)
    return tn.fit(model, x, labels, loss=loss, optimizer=optimizer, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("make", "loss", "message"),
    [
        (lambda: [tn.Residual([tn.Dense(4)])], "binary_cross_entropy", r"logits, from Dense \(layer 0.0\)"),
        (
            lambda: [tn.Residual([tn.Sigmoid()], shortcut=[tn.Dense(4), tn.Dropout(0.1)])],
            "binary_cross_entropy",
            r"logits, from Dense \(layer 0.1\)",
        ),
        (
            lambda: [tn.Parallel([[tn.Dense(2)], [tn.ReLU(), tn.Dense(3)]])],
            "binary_cross_entropy",
            r"logits, from Dense \(layer 0.0\)",
        ),
        (
            lambda: [tn.Parallel([[tn.Dense(2), tn.Softmax()], [tn.Dense(3, activation="sigmoid")]])],
            "softmax_cross_entropy",
            r"probabilities, from Softmax \(layer 0.1\)",
        ),
        (
            lambda: [tn.Dense(3), tn.Sigmoid(), tn.Concat([tn.Dropout(0.1)]), tn.Flatten()],
            "softmax_cross_entropy",
            r"probabilities, from Sigmoid \(layer 1\)",
        ),
    ],
)
def test_a_loss_that_takes_what_a_block_gives_for_something_else_is_refused(make, loss, message):
    with pytest.raises(ValueError, match=f"fit: {loss} expects .*, but the model ends in {message}"):
        fitted(make(), loss)


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (lambda: [tn.Residual([tn.Dense(4)])], "softmax_cross_entropy"),
        (lambda: [tn.Residual([tn.Dense(4), tn.Sigmoid()])], "softmax_cross_entropy"),
        (lambda: [tn.Parallel([[tn.Dense(2)], [tn.Sigmoid()]])], "softmax_cross_entropy"),
        (lambda: [tn.Concat([tn.Dense(4, activation="sigmoid")])], "softmax_cross_entropy"),
        (lambda: [tn.Dense(3), tn.Sigmoid(), tn.Concat([tn.Dense(2), tn.Softmax()])], "binary_cross_entropy"),
    ],
)
def test_a_loss_that_may_fit_what_a_block_gives_is_trained(make, loss):
    assert np.isfinite(fitted(make(), loss)["loss"][0])


# --- words ------------------------------------------------------------------------------------------------


def test_branches_may_begin_with_embeddings_which_are_given_the_words_as_they_are():
    two = tn.Parallel([[tn.Embedding(20, 3), tn.Flatten()], [tn.Embedding(20, 2), tn.Flatten()], []])
    model = tn.Sequential([two, tn.Dense(2)], input_shape=5, dtype="float64")
    x = np.random.default_rng(0).integers(0, 20, (4, 5))
    a, b = two.layers[0].parameters[0].value, two.layers[2].parameters[0].value
    expected = np.hstack([a[x].reshape(4, 15), b[x].reshape(4, 10), x])
    np.testing.assert_array_equal(two.forward(x), expected)
    assert tn.gradcheck.check(model, x, samples=None).passed
    model.forward(x, training=True)
    with pytest.raises(ValueError, match=r"Parallel \(layer 0\): its input is whole numbers, which have no gradient"):
        model.backward(np.ones((4, 2)), input_grad=True)
    with pytest.raises(ValueError, match=r"Parallel \(layer 0\): .* pass input_grad=False"):
        two.backward(np.ones((4, 30)))
    assert not model.flat_grads.any()
    with pytest.raises(TypeError, match=r"Embedding \(layer 0.0\): the input must hold integers"):
        model.forward(x.astype(float))


def test_a_block_of_embeddings_can_only_come_first():
    block = tn.Parallel([[tn.Dense(3)], [tn.Embedding(5, 3), tn.Flatten()]])
    with pytest.raises(ValueError, match=r"Parallel \(layer 1\): it takes whole numbers, but Dense \(layer 0\) before"):
        tn.Sequential([tn.Dense(4), block], input_shape=4)
    with pytest.raises(ValueError, match=r"Embedding \(layer 0.1\): it takes whole numbers, but Reshape \(layer 0.0\)"):
        tn.Sequential([tn.Residual([tn.Reshape((4,)), tn.Embedding(5, 3)])], input_shape=4)


# --- what cannot be ---------------------------------------------------------------------------------------


def image_model(*layers):
    return tn.Sequential([tn.Conv2D(4, 3, padding="same"), *layers], input_shape=(8, 8, 2))


@pytest.mark.parametrize(
    ("construct", "error", "message"),
    [
        (
            lambda: image_model(tn.Residual([tn.ReLU(), tn.Conv2D(5, 3)])),
            ValueError,
            r"Residual \(layer 1\): what is added must have one shape, but its last layer, Conv2D \(layer 1.1\), gives"
            r" \(6, 6, 5\) and x is \(8, 8, 4\); give it a shortcut=\[...\]",
        ),
        (
            lambda: image_model(tn.Residual([tn.Conv2D(5, 1)], shortcut=[tn.Conv2D(5, 2, stride=2), tn.ReLU()])),
            ValueError,
            r"its last layer, Conv2D \(layer 1.0\), gives \(8, 8, 5\) and the shortcut's last, ReLU \(layer 1.2\),"
            r" gives \(4, 4, 5\)$",
        ),
        (
            lambda: image_model(tn.Concat([tn.Conv2D(5, 3)])),
            ValueError,
            r"Concat \(layer 1\): what stands side by side must have one shape, but for the last axis; got \(8, 8, 4\)"
            r" of x, \(6, 6, 5\) of layer 0$",
        ),
        (
            lambda: image_model(tn.Parallel([[tn.Flatten()], [tn.ReLU(), tn.Conv2D(5, 3)]])),
            ValueError,
            r"Parallel \(layer 1\): .*; got \(256,\) of layer 0, \(6, 6, 5\) of layers 1-2$",
        ),
        (
            lambda: tn.Sequential([tn.Concat([tn.ReLU()])], input_shape=()),
            ValueError,
            r"Concat \(layer 0\): .*; got \(\) of x, \(\) of layer 0$",
        ),
        (
            lambda: image_model(tn.Residual([tn.Concat([tn.MaxPool2D(9)])])),
            ValueError,
            r"MaxPool2D \(layer 1.0.0\): the window \(9, 9\) is larger",
        ),
        (lambda: tn.Residual([]), ValueError, "Residual: the list of layers is empty"),
        (lambda: tn.Residual([tn.ReLU()], shortcut=[]), ValueError, "Residual: shortcut: the list of layers is empty"),
        (lambda: tn.Concat([]), ValueError, "Concat: the list of layers is empty"),
        (lambda: tn.Parallel([]), ValueError, "Parallel: the list of layers is empty"),
        (lambda: tn.Parallel([[], []]), ValueError, "Parallel: the list of layers is empty"),
        (lambda: tn.Residual(tn.ReLU()), TypeError, "Residual: layers must be a list of layers, got a ReLU alone"),
        (lambda: tn.Concat(tn.ReLU()), TypeError, "Concat: layers must be a list of layers, got a ReLU alone"),
        (lambda: tn.Residual([tn.ReLU()], tn.ReLU()), TypeError, "Residual: shortcut: layers must be a list"),
        (
            lambda: tn.Parallel(tn.ReLU()),
            TypeError,
            r"Parallel: branches must be a list of lists .*, got ReLU\(\)",
        ),
        (lambda: tn.Parallel([tn.ReLU()]), TypeError, r"Parallel: branch 0 must be a list of layers, got ReLU\(\)"),
        (lambda: tn.Parallel([[], [tn.ReLU(), 3]]), TypeError, "Parallel: layer 1 must be a layer, got 3"),
        (lambda: tn.Concat([tn.ReLU]), TypeError, r"Concat: layer 0 is the class ReLU; write ReLU\(...\)"),
        (lambda: tn.Residual([tn.Sequential]), TypeError, "Residual: layer 0 must be a layer, got <class"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(construct, error, message):
    with pytest.raises(error, match=message):
        construct()


def test_a_layer_stands_in_a_model_once_however_deep():
    a, b = tn.Dense(3), tn.Dense(3)
    for construct in (
        lambda: tn.Residual([a, b, a]),
        lambda: tn.Residual([a], shortcut=[a]),
        lambda: tn.Parallel([[a], [b], [a]]),
        lambda: tn.Residual([a, tn.Concat([a])]),
        lambda: tn.Sequential([a, tn.Residual([tn.Concat([a]), b])], input_shape=3),
        lambda: tn.Sequential([tn.Residual([tn.Concat([a]), b]), a], input_shape=3),
    ):
        with pytest.raises(ValueError, match=r"layer \d (is|holds) Dense, which stands in the list twice"):
            construct()
    block = tn.Concat([b])
    tn.Sequential([b], input_shape=3)
    with pytest.raises(ValueError, match=r"layer 0 holds Dense \(layer 0\), which is built already"):
        tn.Sequential([block], input_shape=3)


def test_what_could_not_be_built_can_be_used_again():
    inner = tn.Residual([tn.Dense(3), tn.ReLU()])
    layers = [tn.Concat([inner]), tn.Conv2D(2, 3)]
    with pytest.raises(ValueError, match=r"Conv2D \(layer 1\)"):
        tn.Sequential(layers, input_shape=3)
    with pytest.raises(ValueError, match=r"Residual \(layer 0.0\)"):
        tn.Sequential(layers[:1], input_shape=4)
    with pytest.raises(ValueError, match=r"Residual \(layer 0\)"):
        layers[0].build((4,), np.float32, np.random.default_rng(0))
    assert all(layer.dtype is None and layer.place == "" for layer in layers[0].walk())
    model = tn.Sequential([tn.Dense(3), layers[0]], input_shape=5)
    assert model.output_shape == (6,)
    assert inner.layers[0].label == "Dense (layer 1.0.0)"


@pytest.mark.parametrize("block", [tn.Residual, tn.Concat])
def test_inputs_and_gradients_that_do_not_fit_are_refused_by_the_blocks_name(block):
    with pytest.raises(RuntimeError, match=f"{block.__name__} is not built"):
        block([tn.ReLU()]).forward(np.ones((2, 4)))
    layer = built(block([tn.ReLU()]), (4,))
    with pytest.raises(ValueError, match=rf"^{block.__name__}: expected input \(N, 4\), got \(2, 5\)"):
        layer.forward(np.ones((2, 5)))
    with pytest.raises(RuntimeError, match=f"^{block.__name__}: backward needs forward"):
        layer.backward(np.ones((2, 4)))
    y = layer.forward(np.ones((2, 4)), training=True)
    with pytest.raises(ValueError, match=f"^{block.__name__}: expected the gradient of its output"):
        layer.backward(y[:1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: tn.Residual([tn.Dense(4)]),
        lambda: tn.Residual([tn.Flatten()], shortcut=[tn.Flatten()]),
        lambda: tn.Concat([tn.Dense(3)]),
        lambda: tn.Parallel([[tn.Flatten()], [], [tn.Dense(2)]]),
    ],
)
def test_backward_leaves_the_gradient_that_it_is_given_alone(make):
    model = tn.Sequential([make()], 4, dtype="float64")
    x = np.random.default_rng(0).standard_normal((3, 4))
    dy = np.random.default_rng(1).standard_normal(model.forward(x, training=True).shape)
    before = dy.copy()
    dx = model.backward(dy, input_grad=True)
    np.testing.assert_array_equal(dy, before)
    assert not np.may_share_memory(dx, dy)
    np.testing.assert_array_equal(model.backward(dy, input_grad=True), dx)
    assert tn.gradcheck.check(model, x).passed
