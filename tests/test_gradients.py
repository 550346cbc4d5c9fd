"""tn.gradients: dL/dx and each layer's output and gradient, of the model as it predicts; differences as the oracle."""

from functools import partial

import numpy as np
import pytest

import tinynet as tn

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 6, 6, 1))
Y = np.array([0, 3, 1])


@pytest.fixture
def model():
    inner = tn.Residual([tn.Dense(5), tn.Dropout(0.5), tn.BatchNorm()])
    layers = [
        tn.Conv2D(3, 3, padding="same", activation="tanh"), tn.BatchNorm(), tn.MaxPool2D(2), tn.Dropout(0.5),
        tn.Flatten(), tn.Dense(5, activation="tanh"), inner, tn.Dense(4),
    ]  # fmt: skip
    model = tn.Sequential(layers, (6, 6, 1), dtype="float64")
    for _ in range(3):
        model.forward(rng.standard_normal((8, 6, 6, 1)), training=True)  # moves the running statistics
    return model


def differences(f, x, h=1e-6):
    """Central differences of f, a number, at every entry of x."""
    d = np.empty_like(x)
    for where in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[where] += h
        down[where] -= h
        d[where] = (f(up) - f(down)) / (2 * h)
    return d


def test_dx_is_the_derivative_of_what_is_predicted(model):
    found = tn.gradients(model, X, Y, "cross_entropy")
    expected = differences(lambda x: tn.softmax_cross_entropy(model.predict(x), Y)[0], X)
    np.testing.assert_allclose(found.dx, expected, atol=1e-7)
    assert found.value == tn.softmax_cross_entropy(model.predict(X), Y)[0]


def test_the_gradient_of_every_layer_is_the_derivative_by_its_output(model):
    found = tn.gradients(model, X, Y)
    assert len(found.activations) == len(found.gradients) == len(model.layers)
    for k, (y, dy) in enumerate(zip(found.activations, found.gradients, strict=True)):

        def score(y, k=k):
            for layer in model.layers[k + 1 :]:
                y = layer.forward(y)
            return y[np.arange(3), Y].sum()

        np.testing.assert_allclose(dy, differences(score, y), atol=1e-7, err_msg=str(k))
        np.testing.assert_allclose(y, model.layers[k].forward(X if k == 0 else found.activations[k - 1]), rtol=1e-12)
    np.testing.assert_allclose(found.prediction, model.predict(X), rtol=1e-12)
    assert found.value == pytest.approx(model.predict(X)[np.arange(3), Y].sum())


def test_a_sample_s_score_is_its_own_matter(model):
    whole = tn.gradients(model, X, Y).dx
    for n in range(3):
        np.testing.assert_allclose(tn.gradients(model, X[n : n + 1], Y[n]).dx[0], whole[n], rtol=1e-9, atol=1e-12)
    total = tn.gradients(model, X, Y, partial(tn.softmax_cross_entropy, reduction="sum")).dx
    np.testing.assert_allclose(3 * tn.gradients(model, X, Y, "cross_entropy").dx, total, rtol=1e-12)


def test_pytorch_in_eval_mode_has_the_same_gradient(model):
    torch = pytest.importorskip("torch")
    module = tn.interop.to_torch_module(model).double().eval()
    x = torch.tensor(X.transpose(0, 3, 1, 2), requires_grad=True)
    torch.nn.functional.cross_entropy(module(x), torch.tensor(Y)).backward()
    found = tn.gradients(model, X, Y, "cross_entropy")
    np.testing.assert_allclose(found.dx, x.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-9, atol=1e-12)


def test_the_model_stays_as_it_was(model):
    model.forward(X, training=True)
    model.backward(np.ones((3, 4)))
    before = [model.flat_values.copy(), model.flat_grads.copy(), *(b.copy() for b in model.buffers().values())]
    states = [layer.state for layer in model.walk()]
    tn.gradients(model, X, 2)
    after = [model.flat_values, model.flat_grads, *model.buffers().values()]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert states == [layer.state for layer in model.walk()]


def test_behind_its_length_a_sequence_has_no_gradient():
    model = tn.Sequential([tn.LSTM(4), tn.GlobalAvgPool1D(), tn.Dense(3)], (5, 2), dtype="float64")
    x, lengths = rng.standard_normal((3, 5, 2)), np.array([2, 5, 1])
    found = tn.gradients(model, (x, lengths), Y % 3)
    for n, T in enumerate(lengths):
        alone = tn.gradients(model, x[n : n + 1, :T], Y[n] % 3)
        np.testing.assert_allclose(found.dx[n, :T], alone.dx[0], rtol=1e-9, atol=1e-12)
        assert (found.dx[n, T:] == 0).all()
    tagger = tn.Sequential([tn.GRU(4), tn.Dense(3)], (5, 2), dtype="float64")
    tags = rng.integers(0, 3, (3, 5))
    found = tn.gradients(tagger, (x, lengths), tags, "cross_entropy")
    counts = np.arange(5) < lengths[:, None]
    expected, _ = tn.softmax_cross_entropy(tagger.predict((x, lengths))[counts], tags[counts])
    assert found.value == pytest.approx(expected)
    assert (found.dx[~counts] == 0).all()


def test_words_have_no_gradient_but_what_is_made_of_them_has():
    model = tn.Sequential([tn.Embedding(9, 4), tn.GlobalAvgPool1D(), tn.Dense(2)], 5)
    found = tn.gradients(model, rng.integers(0, 9, (3, 5)), 1)
    assert found.dx is None
    assert found.gradients[0].shape == found.activations[0].shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, 4), ValueError, "without a loss, y must be from 0 to 3, got 4"),
        ((X, [0, 1]), ValueError, r"y must be a whole number or \(3,\) of them, got \[0, 1\]"),
        ((X, 0.5), ValueError, "y must be a whole number"),
        ((X, Y, "cross_entropi"), ValueError, "gradients: there is no loss 'cross_entropi'"),
        ((X, Y[:2], "cross_entropy"), ValueError, r"must have shape \(3,\), got \(2,\)"),
        ((X[:0], Y[:0]), ValueError, "a batch of at least one sample"),
        ((X[:, 1:], Y), ValueError, r"Conv2D \(layer 0\): expected input"),
        ((X, Y, lambda p, t: 1.0), ValueError, "gradients: the loss must return a pair"),
    ],
)
def test_what_has_no_gradient_is_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        tn.gradients(model, *arguments)
    with pytest.raises(TypeError, match=r"gradients: model must be a tinynet.Sequential, got Dense"):
        tn.gradients(tn.Dense(3), *arguments)
    with pytest.raises(ValueError, match=r"the model must end in scores \(N, C\), it gives \(3, 6, 6, 2\)"):
        tn.gradients(tn.Sequential([tn.Conv2D(2, 1)], (6, 6, 1)), X, 0)
