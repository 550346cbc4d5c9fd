"""Sequential: the chain rule over layers, its flat vectors, and what it hands out."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from in_threads import assert_threads_predict

import tinynet as tn


def small_cnn(dtype="float32", seed=0):
    return tn.Sequential(
        [
            tn.Conv2D(4, 3, padding="same", activation="relu"),
            tn.MaxPool2D(2),
            tn.Conv2D(32, 3, padding="same", activation="tanh"),
            tn.Conv2D(32, 3, padding="same"),  # by Winograd's method
            tn.GELU(),
            tn.Flatten(),
            tn.Dense(7, activation="leaky_relu"),
            tn.Dense(3),
        ],
        input_shape=(8, 8, 2),
        seed=seed,
        dtype=dtype,
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((6, 8, 8, 2))


def one_step(model, x, labels):
    logits = model.forward(x, training=True)
    loss, dlogits = tn.softmax_cross_entropy(logits, labels)
    dx = model.backward(dlogits, input_grad=True)
    return loss, dx


def test_the_whole_chain_agrees_with_finite_differences(images):
    model, labels = small_cnn("float64"), np.array([0, 1, 2, 0, 1, 2])
    assert tn.gradcheck.check(model, images, labels, loss=tn.softmax_cross_entropy).passed


def test_values_and_gradients_are_views_of_the_flat_vectors():
    model = small_cnn()
    assert sum(p.value.size for p in model.parameters()) == model.flat_values.size == model.flat_grads.size
    for flat, views in (
        (model.flat_values, [p.value for p in model.parameters()]),
        (model.flat_grads, [p.grad for p in model.parameters()]),
    ):
        flat[:] = np.arange(flat.size)
        np.testing.assert_array_equal(np.concatenate([view.ravel() for view in views]), np.arange(flat.size))


def test_parameters_are_named_by_layer_and_role():
    names = [p.name for p in small_cnn().parameters()]
    assert names[:4] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [p.decay for p in small_cnn().parameters()][:2] == [True, False]


def test_backward_overwrites_gradients_and_does_not_add(images):
    model, labels = small_cnn(), np.array([0, 1, 2, 0, 1, 2])
    one_step(model, images, labels)
    first = model.flat_grads.copy()
    one_step(model, images, labels)
    np.testing.assert_array_equal(model.flat_grads, first)


def test_backward_returns_the_input_gradient_only_when_asked(images):
    model, labels = small_cnn(), np.array([0, 1, 2, 0, 1, 2])
    _, dx = one_step(model, images, labels)
    assert dx.shape == images.shape
    whole = model.flat_grads.copy()
    _, dlogits = tn.softmax_cross_entropy(model.forward(images, training=True), labels)
    assert model.backward(dlogits) is None
    np.testing.assert_array_equal(model.flat_grads, whole)


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    np.testing.assert_array_equal(small_cnn(seed=3).flat_values, small_cnn(seed=3).flat_values)
    assert (small_cnn(seed=3).flat_values != small_cnn(seed=4).flat_values).any()
    np.testing.assert_array_equal(small_cnn("float64").flat_values.astype(np.float32), small_cnn().flat_values)


def test_what_forward_returns_is_the_callers(images):
    for last in (tn.Dense(3), tn.Dense(3, activation="tanh"), tn.Sigmoid(), tn.Flatten(), tn.Softmax()):
        model = tn.Sequential([tn.Flatten(), tn.Dense(3, activation="sigmoid"), last], input_shape=(8, 8, 2))
        dy = np.ones((6, 3), np.float32)
        first = model.forward(images, training=True)
        kept = first.copy()
        model.backward(dy)
        expected = model.flat_grads.copy()
        again = model.forward(images, training=True)
        np.testing.assert_array_equal(first, kept)  # a later call left it alone
        again[:] = np.nan  # and writing into it harms no gradient
        model.backward(dy)
        np.testing.assert_array_equal(model.flat_grads, expected)


def test_predict_is_forward_in_batches_of_any_size(images):
    model = small_cnn()
    expected = model.forward(images)
    for batch_size in (1, 4, 6, 100):
        np.testing.assert_array_equal(model.predict(images, batch_size=batch_size), expected)
    assert model.predict(images[:0]).shape == (0, 3)
    np.testing.assert_array_equal(model(images), expected)


class Own:
    """A data set with items and a length, and nothing else: NumPy would read it until an IndexError comes."""

    def __init__(self, x, length):
        self.x, self.length = x, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.x[index]


def test_a_data_set_of_ones_own_is_as_long_as_it_says(images):
    model, y, N = small_cnn(), np.arange(len(images)) % 3, len(images) - 1
    expected = model.predict(images[:N])
    for batch_size in (2, 100):
        np.testing.assert_array_equal(model.predict(Own(images, N), batch_size), expected)
    options = {"loss": "cross_entropy", "metrics": "accuracy"}
    assert tn.evaluate(model, Own(images, N), y[:N], **options) == tn.evaluate(model, images[:N], y[:N], **options)


def many_layers():
    """A model of words with many kinds of layers in it."""
    inner = [tn.Conv2D(8, 3, padding="same"), tn.BatchNorm(), tn.ReLU(), tn.Dropout(0.2)]
    layers = [tn.Embedding(50, 4), tn.LayerNorm(), tn.Reshape((8, 8, 4)), tn.Concat([tn.Conv2D(4, 1), tn.LeakyReLU()])]
    layers += [tn.Residual(inner), tn.AvgPool2D(2), tn.GELU(), tn.GroupNorm(2), tn.MaxPool2D(2), tn.Swish()]
    layers += [tn.Parallel([[tn.GlobalMaxPool2D()], [tn.GlobalAvgPool2D()], [tn.Flatten(), tn.Dense(9), tn.Tanh()]])]
    layers += [tn.Dense(5), tn.Sigmoid(), tn.Softmax()]
    return tn.Sequential(layers, (64,))


@pytest.mark.parametrize("make", [small_cnn, many_layers])
def test_predict_from_eight_threads_at_once_is_right(make):
    model, rng = make(), np.random.default_rng(1)
    x = rng.integers(0, 50, (64, 64)) if make is many_layers else rng.standard_normal((64, 8, 8, 2)).astype(np.float32)
    model.forward(x, training=True)  # moves running statistics, and keeps what must not be in the way
    expected = model.predict(x)
    assert_threads_predict(model, x, expected, batch_size=5)


def test_copies_and_pickles_are_models_of_their_own(images):
    model = small_cnn()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict(images), model.predict(images))
        other.flat_values[:] = 0
        assert (other.predict(images) == 0).all()
        assert (model.flat_values != 0).any()


def test_summary_says_how_many_parameters_are_frozen():
    model = tn.Sequential([tn.Dense(4), tn.Dense(2)], 3)
    assert model.summary().splitlines()[-1].split()[0] == "total"
    model.layers[0].trainable = False
    *_, total, frozen = model.summary().splitlines()
    assert (total.split()[:2], frozen.split()) == (["total", "26"], ["of", "these", "frozen", "16"])
    assert "of these frozen" in model._repr_html_()


def test_summary_counts_parameters_and_operations():
    model = tn.Sequential([tn.Conv2D(6, 5, activation="relu"), tn.Flatten(), tn.Dense(10)], input_shape=(28, 28, 1))
    table = model.summary().splitlines()
    assert "156" in table[2]
    assert f"{2 * 24 * 24 * 25 * 6:,}" in table[2]
    assert "(N, 24, 24, 6)" in table[2]
    assert f"{156 + 3456 * 10 + 10:,}" in table[-1]


TRAINING = """
import hashlib
import numpy as np
import tinynet as tn
import test_model
tn.set_num_threads({threads})
rng = np.random.default_rng(0)
x, y = rng.standard_normal((200, 8, 8, 2)).astype(np.float32), rng.integers(0, 3, 200)
model = test_model.small_cnn()
optimizer = tn.Adam(model, lr=1e-2)
for xb, yb in tn.batches(x, y, batch_size=48, seed=1):
    loss, dlogits = tn.softmax_cross_entropy(model.forward(xb, training=True), yb)
    model.backward(dlogits)
    optimizer.step()
print(hashlib.sha256(model.flat_values.tobytes()).hexdigest())
"""


def test_training_gives_the_same_bits_for_any_number_of_threads(pytestconfig):
    digests = set()
    for threads in (1, 2):
        code = TRAINING.format(threads=threads)
        folder = pytestconfig.rootpath / "tests"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=folder,
            check=True,
            env=os.environ | {"NUMBA_NUM_THREADS": "2"},
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_no_output_shares_memory_with_the_input():
    x = np.ones((2, 2, 3), np.float32)
    model = tn.Sequential([tn.Flatten()], input_shape=(2, 3))
    for y in (model.forward(x), model.forward(x, training=True), model.predict(x)):
        assert not np.shares_memory(x, y)


def test_layers_of_a_model_that_could_not_be_built_can_be_used_again():
    layers = [tn.Dense(3), tn.Conv2D(2, 3)]
    with pytest.raises(ValueError, match=r"Conv2D \(layer 1\)"):
        tn.Sequential(layers, input_shape=5)
    assert tn.Sequential(layers[:1], input_shape=5).output_shape == (3,)
