"""The gradient check finds what is wrong, and nothing where all is right."""

import copy
from functools import partial

import numpy as np
import pytest

from tinynet.gradcheck import check
from tinynet.layers.activations import ReLU, Tanh
from tinynet.layers.base import Layer
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.blocks import Concat, Residual
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.parameter import Parameter
from tinynet.layers.shape import Flatten
from tinynet.layers.softmax import Softmax
from tinynet.losses.linear_cross_entropy import linear_cross_entropy
from tinynet.losses.nt_xent import nt_xent
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy
from tinynet.model import Sequential


class Square(Layer):
    """y = x^2, with a backward that is off by the factor `wrong`."""

    def __init__(self, wrong=1.0):
        super().__init__()
        self.wrong = wrong

    def forward(self, x, training=False):
        self._x = x
        return x * x

    def backward(self, dy, input_grad=True):
        return 2 * self.wrong * self._x * dy


class PlainSoftmax(Softmax):
    """A softmax whose backward forgets the sum: dx = p dy - p would pass a check with dy = 1."""

    def backward(self, dy, input_grad=True):
        return np.zeros_like(dy)


def small_model(**options):
    layers = [Conv2D(4, 3, activation="relu"), Flatten(), Dropout(0.3), Dense(5, activation="tanh"), Dense(3)]
    return Sequential(layers, (6, 6, 1), **options)


def test_a_right_layer_passes():
    result = check(Square(), (4, 3))
    assert result.passed
    assert list(result.errors) == ["input"]
    assert result.max_error < 1e-9


def test_where_every_gradient_is_zero_by_nature_rounding_is_no_error():
    for seed in range(30):
        x = 1 + np.abs(np.random.default_rng(seed).standard_normal((3, 4)))  # above 0, where ReLU(x) is x
        for layers, some in (
            ([Concat([ReLU()]), Softmax()], x[:, :1]),
            ([Dropout(0.9), ReLU(), Tanh()], 5 * x),
        ):
            result = check(Sequential(layers, some.shape[1:]), some, seed=seed)
            assert result.passed, result
    assert not check(Square(1.001), 1e-3 * np.ones((4, 3))).passed


@pytest.mark.parametrize("wrong", [-1.0, 0.0, 1.001, 1 + 1e-6, np.nan])
def test_a_wrong_layer_fails(wrong):
    result = check(Square(wrong), (4, 3))
    assert not result.passed
    assert "FAILED" in str(result)


def test_random_output_gradients_catch_what_a_plain_sum_would_hide():
    assert not check(PlainSoftmax(), (4, 3)).passed


def test_a_float32_layer_is_checked_as_a_float64_copy_and_left_alone():
    layer = Dense(3)
    layer.build((4,), np.float32, np.random.default_rng(0))
    before = [p.value.copy() for p in layer.parameters]
    result = check(layer)
    assert result.passed
    assert set(result.errors) == {"input", "weight", "bias"}
    assert layer.dtype == np.float32
    for p, value in zip(layer.parameters, before, strict=True):
        np.testing.assert_array_equal(p.value, value)
        assert not p.grad.any()


def test_a_whole_model_is_checked_and_left_alone():
    model = small_model()
    before = model.flat_values.copy()
    state = model.layers[2].state
    result = check(model, samples=None)
    assert result.passed
    assert {"input", "0.weight", "3.bias", "4.weight"} <= set(result.errors)
    np.testing.assert_array_equal(model.flat_values, before)
    assert model.layers[2].state == state
    assert model.dtype == np.float32
    assert not model.flat_grads.any()


def test_a_model_and_its_loss_are_checked_together():
    x, y = np.random.default_rng(0).standard_normal((4, 6, 6, 1)), np.array([0, 2, 1, 1])
    result = check(small_model(), x, y, loss=softmax_cross_entropy, samples=30)
    assert result.passed
    assert result.counts["3.weight"] == "30 of 320"
    assert check(small_model(), x, y, loss="softmax_cross_entropy", samples=30).errors == result.errors
    model = Sequential([Dense(1)], 6)  # of one output, as fit takes its targets
    assert check(model, x[0, ..., 0], np.arange(6) % 2, loss="bce").passed


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_loss_is_checked_with_its_options(reduction):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 4)).astype(np.float32)
    assert check(
        softmax_cross_entropy, logits, np.array([0, 1, 2, 3, 0, -100]), label_smoothing=0.1, reduction=reduction
    ).passed
    assert check(sigmoid_cross_entropy, logits, rng.random((6, 4)), pos_weight=3.0, reduction=reduction).passed


def test_a_wrong_loss_fails():
    def half(prediction, target):
        return np.sum((prediction - target) ** 2), prediction - target

    result = check(half, np.ones((3, 2)), np.zeros((3, 2)))
    assert not result.passed
    assert result.max_error == pytest.approx(0.5)


def test_a_function_of_several_arrays_is_checked_in_each():
    def product(x, w, target):
        d = x @ w - target
        return 0.5 * np.sum(d**2), d @ w.T, x.T @ d

    rng = np.random.default_rng(0)
    result = check(product, rng.random((3, 4)), rng.random((4, 2)), rng.random((3, 2)))
    assert result.passed
    assert list(result.errors) == ["input 0", "input 1"]


def test_a_kink_is_not_taken_for_an_error():
    class Corner(Square):
        def forward(self, x, training=False):
            self._x = x
            return np.abs(x)

        def backward(self, dy, input_grad=True):
            return np.sign(self._x) * dy

    assert check(Corner(), np.array([[1e-6, -2e-6, 0.5]])).passed  # nearer to 0 than the step


def test_whole_numbers_are_not_moved():
    class Lookup(Dense):
        def forward(self, x, training=False):
            self._x = x
            return self.parameters[0].value[x[:, 0]]

        def backward(self, dy, input_grad=True):
            assert not input_grad
            for p in self.parameters:
                p.grad[...] = 0
            np.add.at(self.parameters[0].grad, self._x[:, 0], dy)

    result = check(Lookup(5), np.array([[0, 0, 0], [2, 0, 0], [0, 0, 0]]))
    assert result.passed
    assert "input" not in result.errors


class Growing(Layer):
    """y = k x, where k counts the training steps: in a buffer, as a BatchNorm keeps its averages."""

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.buffers = {"k": np.ones((), self.dtype)}
        return self.output_shape

    def forward(self, x, training=False):
        if training:
            self.buffers["k"][...] += 1
            self._k = float(self.buffers["k"])
        return self.buffers["k"] * x

    def backward(self, dy, input_grad=True):
        return self._k * dy


def test_what_forward_leaves_behind_changes_neither_the_result_nor_the_layer():
    layer, x = Growing(), np.random.default_rng(0).standard_normal((5, 4))
    layer.build((4,), np.float32, np.random.default_rng(0))
    layer.buffers["k"][...] = 6
    once, again = check(layer, x), check(layer, x)
    assert once.passed
    assert once.errors == again.errors
    assert layer.buffers["k"] == 6
    assert not hasattr(layer, "_k")
    model = Sequential([Dense(4), Residual([BatchNorm(), Dropout(0.5)]), Growing()], 3)
    model.forward(np.random.default_rng(1).standard_normal((5, 3)), training=True)
    before, state = copy.deepcopy(model.buffers()), model.layers[1].layers[1].state
    assert check(model).passed
    assert set(before) == {"1.0.running_mean", "1.0.running_var", "2.k"}
    for name, array in model.buffers().items():
        np.testing.assert_array_equal(array, before[name])
    assert model.layers[1].layers[1].state == state


def test_the_result_reads_as_a_table():
    text = str(check(Dense(3), (5, 4)))
    lines = text.splitlines()
    assert lines[0] == "gradient check: Dense at x (5, 4)"
    assert lines[1].startswith("  input   error ")
    assert lines[1].endswith("(all 20)")
    assert lines[-1].startswith("passed: largest error ")


REFUSED = [
    (lambda: check(Dense(3)), TypeError, "needs the shape of its input"),
    (lambda: check(Dense), TypeError, "takes a layer, a model or a loss"),
    (lambda: check(3), TypeError, "takes a layer, a model or a loss, got 3"),
    (lambda: check(Dense(3), (5, 4), smoothing=1), TypeError, "only a loss takes options"),
    (lambda: check(Dense(3), (5, 4), samples=0), ValueError, "samples must be"),
    (lambda: check(small_model(), loss=softmax_cross_entropy), TypeError, "x, or x and y with loss=; got 0 arrays$"),
    (lambda: check(small_model(), np.zeros((2, 6, 6, 1)), np.zeros(2)), TypeError, "got 2 arrays and no loss"),
    (lambda: check(softmax_cross_entropy, np.zeros((2, 3))), TypeError, "targets"),
    (lambda: check(softmax_cross_entropy, np.zeros((2, 3)), [0, 1], loss=abs), TypeError, "goes with a model"),
    (lambda: check(small_model(), [], [], loss="sofmax"), ValueError, "gradcheck.check: there is no loss 'sofmax'"),
    (lambda: check(Dense(3), np.array([["a"]])), TypeError, "real numbers"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_losses_of_one_array_partial_ones_and_missing_biases_can_be_checked():
    rng = np.random.default_rng(0)
    assert check(nt_xent, rng.standard_normal((6, 3)), temperature=0.7).passed
    smoothed = partial(softmax_cross_entropy, label_smoothing=0.1)
    found = check(smoothed, rng.standard_normal((4, 3)), np.array([0, 1, 2, 0]))
    assert found.passed
    assert "softmax_cross_entropy" in repr(found)
    x, w, t = rng.standard_normal((4, 3)), rng.standard_normal((3, 5)), np.array([0, 4, 2, 1])
    assert set(check(linear_cross_entropy, x, w, None, t).errors) == {"input 0", "input 1"}
    assert check(linear_cross_entropy, x, w, np.zeros(5), t).passed


class Linear(Layer):
    """y = x w + b, whose gradients `mistake` spoils."""

    def __init__(self, units, mistake):
        super().__init__()
        self.units, self.mistake = units, mistake

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        weight = rng.standard_normal((*input_shape, self.units)).astype(dtype)
        self.parameters = [Parameter("weight", weight), Parameter("bias", np.ones(self.units, dtype))]
        self.output_shape = (self.units,)
        return self.output_shape

    def forward(self, x, training=False):
        self._x = x
        return x @ self.parameters[0].value + self.parameters[1].value

    def backward(self, dy, input_grad=True):
        weight, bias = self.parameters
        gradients = {"weight": self._x.T @ dy, "bias": dy.sum(axis=0), "input": dy @ weight.value.T}
        self.mistake(gradients, self._x, dy)
        weight.grad, bias.grad = gradients["weight"], gradients["bias"]
        return gradients["input"]


def spoiled(name, change):
    def mistake(gradients, x, dy):
        gradients[name] = change(gradients[name], x, dy)

    return mistake


def without_last_row(g, x, dy):
    return np.concatenate([g[:-1], 0 * g[-1:]])


MISTAKES = {  # what backward does wrong -> which gradient is, and what the check says about it
    "a sign": (spoiled("weight", lambda g, x, dy: -g), "weight", "the sign is wrong everywhere"),
    "a sign of some": (
        spoiled("weight", lambda g, x, dy: g * [1, -1, 1, -1]),
        "weight",
        "8 of 16 entries have the wrong sign, the first at [0, 1]",
    ),
    "a mean in place of a sum": (
        spoiled("bias", lambda g, x, dy: g / len(dy)),
        "bias",
        "1/5 of what it should be, and there are 5 samples: is it divided by N twice?",
    ),
    "a mean's 1/N is missing": (spoiled("weight", lambda g, x, dy: g * 5), "weight", "is the 1/N of a mean missing?"),
    "a factor": (spoiled("input", lambda g, x, dy: 2 * g), "input", "it is 2 times what it should be everywhere"),
    "few digits": (spoiled("input", lambda g, x, dy: 1.00001 * g), "input", "it is right to 1e-05: a rounded constant"),
    "a transpose": (spoiled("weight", lambda g, x, dy: g.T), "weight", "in the order of the transposed array"),
    "never written": (spoiled("bias", lambda g, x, dy: 0 * g), "bias", "is this gradient ever written?"),
    "a loop that ends early": (spoiled("weight", without_last_row), "weight", "the first at [3, 0]: are they left out"),
    "a NaN": (spoiled("bias", lambda g, x, dy: g * np.nan), "bias", "backward gives NaN or infinity"),
    "a forgotten term": (spoiled("weight", lambda g, x, dy: g - x[:1].T @ dy[:1]), "weight", "a term is missing"),
    "another array in a factor": (spoiled("weight", lambda g, x, dy: dy.T @ dy), "weight", "the ratio varies"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_likely_cause_of_a_wrong_gradient_is_named(mistake):
    spoil, name, said = MISTAKES[mistake]
    found = check(Linear(4, spoil), (5, 4))
    assert not found.passed
    assert list(found.causes) == [name]
    assert said in found.causes[name]
    assert said in str(found)


def test_the_worst_entry_is_shown_with_both_sides():
    found = check(Linear(2, spoiled("weight", lambda g, x, dy: g + np.eye(3, 2))), (5, 3))
    worst = found.worst["weight"]
    assert worst.index in ((0, 0), (1, 1))
    assert worst.backward - worst.quotient == pytest.approx(1, abs=1e-7)
    assert f"worst at [{worst.index[0]}, {worst.index[1]}]: backward says {worst.backward:.6g}" in str(found)
    assert worst.ratio == pytest.approx(worst.backward / worst.quotient)


def test_a_layer_that_passes_is_told_no_cause():
    found = check(Linear(2, lambda *_: None), (5, 3))
    assert found.passed
    assert not found.causes
    assert "worst" not in str(found)
    assert set(found.worst) == {"input", "weight", "bias"}


def test_a_loss_without_its_1_over_N_is_told_so():
    def my_loss(prediction, target):
        return ((prediction - target) ** 2).mean(), 2 * (prediction - target) / prediction.shape[1]

    rng = np.random.default_rng(0)
    found = check(my_loss, rng.standard_normal((6, 3)), rng.standard_normal((6, 3)))
    assert found.causes["prediction"].startswith("it is 6 times too large everywhere, as many as there are samples")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda dy: dy * [1, 2, 3, 4], "the ratio varies from entry to entry"),  # each of the few that are not 0
        (lambda dy: dy * [1, 1, 0, 0], "5 of 20 entries are wrong, the first at [2, 2]: are they left out of a loop?"),
    ],
)
def test_where_most_of_a_gradient_is_0_the_cause_is_seen_in_the_rest(spoil, said):
    def my_loss(prediction, target):
        dy = np.zeros(prediction.shape)
        dy[np.arange(5), [0, 0, 2, 2, 3]] = dy[np.arange(5), [1, 1, 3, 0, 2]] = 1
        return (prediction * dy).sum(), spoil(dy)

    assert said in check(my_loss, np.ones((5, 4)), np.zeros(5)).causes["prediction"]


def test_a_forward_that_gives_no_number_is_not_blamed_on_backward():
    def my_loss(prediction, target):
        return np.log(prediction - target).sum(), np.ones_like(prediction)

    with np.errstate(all="ignore"):
        found = check(my_loss, np.array([[2.0, 3.0]]), np.array([[1.0, 3.0]]))
    assert found.causes["prediction"].startswith("the difference quotient is NaN or infinite")
