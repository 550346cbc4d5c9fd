"""What explain says of a training step: its numbers against those of the step itself, and what it leaves alone."""

import copy
import functools
import sys

import numpy as np
import pytest

import tinynet as tn
from tinynet.explain import Explanation
from tinynet.layers.base import Layer, Parameter
from tinynet.losses.by_name import LOSSES

RNG = np.random.default_rng(0)
X, Y = RNG.random((6, 8, 8, 1)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])


def digits_model(**options):
    layers = [tn.Conv2D(4, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dropout(0.3), tn.Dense(3)]
    return tn.Sequential(layers, input_shape=(8, 8, 1), seed=1, **options)


def explained(model, x=X, y=Y, loss=tn.softmax_cross_entropy, **options):
    return tn.explain(model, x, y, loss, **options)


def norm(array):
    return np.sqrt((np.asarray(array, np.float64) ** 2).sum())


class Twice(Layer):
    """y = 2 f(x), f the layers inside; it writes into what they return."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        shape, self.parameters = self.input_shape, []
        for k, layer in enumerate(self.layers):
            layer.place = f"{self.place[:-1]}.{k})" if self.place else ""
            shape = layer.build(shape, dtype, rng)
            for p in layer.parameters:
                p.name = f"{k}.{p.name}"
            self.parameters += layer.parameters
        self.output_shape = shape
        return shape

    def forward(self, x, training=False):
        for layer in self.layers:
            x = layer.forward(x, training)
        x *= 2
        return x

    def backward(self, dy, input_grad=True):
        dy = 2 * dy
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def formula(self):
        return "y = 2 f(x)"

    def backward_formula(self):
        return "dx = 2 f'(x) dy"


class Words(Layer):
    """y = x w for whole numbers x: without a gradient of x."""

    takes_integers = True

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = [Parameter("weight", np.ones(1, self.dtype))]
        return self.output_shape

    def forward(self, x, training=False):
        if x.dtype.kind != "i":
            raise TypeError("words are whole numbers")
        self._x = x
        return (x * self.parameters[0].value).astype(self.dtype)

    def backward(self, dy, input_grad=True):
        if input_grad:
            raise ValueError("words have no gradient")
        self.parameters[0].grad[0] = (self._x * dy).sum()


class Wrong(tn.Dense):
    """A Dense with a mistake: the gradient of x is transposed badly."""

    def backward(self, dy, input_grad=True):
        dx = super().backward(dy, input_grad)
        return None if dx is None else dx[:, ::-1].copy()


def test_its_numbers_are_those_of_a_step_computed_by_hand():
    x, t = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[1.0], [0.0]])
    model = tn.Sequential([tn.Dense(2, activation="relu"), tn.Dense(1, bias=False)], input_shape=2, dtype="float64")
    (w, b, v) = (p.value for p in model.parameters())
    w[...], b[...], v[...] = [[1, -1], [2, 0]], [0, 1], [[3], [4]]
    # z = [[5, 0], [1, -2]], of which the second column is not above 0; prediction = [[15], [3]]; d = [[14], [3]]
    result = explained(model, x, t, tn.mean_squared_error)
    first, hidden, last, loss = result.rows
    assert result.loss == pytest.approx((14**2 + 3**2) / 2)
    dy, dz = np.array([[14.0], [3.0]]), np.array([[42.0, 0.0], [9.0, 0.0]])
    assert first.norm == pytest.approx(norm(x))
    assert first.gradient_norm == pytest.approx(norm(dz @ w.T))
    assert (hidden.norm, last.norm) == pytest.approx((norm([5, 1]), norm([15, 3])))
    assert (hidden.gradient_norm, last.gradient_norm) == pytest.approx((norm(dy @ v.T), norm(dy)))
    weight, bias = hidden.parameters
    assert (weight.norm, bias.norm) == pytest.approx((norm(w), 1))
    assert (weight.gradient_norm, bias.gradient_norm) == pytest.approx((norm(x.T @ dz), norm(dz.sum(axis=0))))
    (weight,) = last.parameters
    assert weight.gradient_norm == pytest.approx(norm([5 * 14 + 3, 0]))
    assert (loss.norm, loss.gradient_norm, loss.shape) == (result.loss, 1, ())
    assert [row.name for row in result.rows] == ["input", "0 Dense", "1 Dense", "loss"]
    assert [row.shape for row in result.rows] == [(2, 2), (2, 2), (2, 1), ()]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_its_numbers_are_those_of_the_next_training_step(dtype):
    model = digits_model(dtype=dtype)
    result = explained(model)
    y = model.forward(X, training=True)  # Dropout drops what it dropped for explain
    value, gradient = tn.softmax_cross_entropy(y, Y)
    dx = model.backward(gradient, input_grad=True)
    assert result.loss == value
    assert result.rows[0].gradient_norm == pytest.approx(norm(dx), rel=1e-12)
    assert result.rows[-2].norm == pytest.approx(norm(y), rel=1e-12)
    assert result.rows[-2].gradient_norm == pytest.approx(norm(gradient), rel=1e-12)
    shown = [p for row in result.rows for p in row.parameters]
    for p, row in zip(model.parameters(), shown, strict=True):
        assert p.name.endswith(row.name)
        assert row.shape == p.value.shape
        assert (row.norm, row.gradient_norm) == pytest.approx((norm(p.value), norm(p.grad)), rel=1e-12)


def test_the_model_is_as_it_was():
    model, twin = digits_model(), digits_model()
    for one in (model, twin):
        value, gradient = tn.softmax_cross_entropy(one.forward(X, training=True), Y)
        one.backward(gradient)
    before = model.flat_values.copy(), model.flat_grads.copy(), model.layers[3].state
    explained(model, X[::-1], Y)
    np.testing.assert_array_equal(model.flat_values, before[0])
    np.testing.assert_array_equal(model.flat_grads, before[1])
    assert model.layers[3].state == before[2]
    for layer in model.layers:
        assert not {"forward", "backward"} & vars(layer).keys()
    # What forward had kept for backward is still there.
    np.testing.assert_array_equal(model.backward(gradient, input_grad=True), twin.backward(gradient, input_grad=True))


def test_running_means_are_as_they_were():
    model = tn.Sequential([tn.Flatten(), tn.Dense(4), tn.BatchNorm(), tn.Dense(3)], input_shape=(8, 8, 1))
    before = copy.deepcopy(model.buffers())
    result = explained(model)
    assert before
    for name, array in model.buffers().items():
        np.testing.assert_array_equal(array, before[name])
    # On its batch: every column of BatchNorm's output has the mean 0 and, before its scale of 1, the variance 1.
    assert result.rows[3].norm == pytest.approx(np.sqrt(6 * 4), rel=1e-3)
    assert result.max_error < 1e-6


def test_every_gradient_is_checked_and_a_wrong_one_is_found_where_it_is():
    result = explained(digits_model(), samples=20)
    assert result.max_error < 1e-7
    for row in result.rows[1:]:
        assert row.error is not None
        assert all(p.error is not None for p in row.parameters)
    layers = [tn.Flatten(), tn.Dense(5, activation="tanh"), Wrong(4), tn.Dense(3)]
    result = explained(tn.Sequential(layers, input_shape=(8, 8, 1)))
    assert [row.name for row in result.rows if row.error is not None and row.error > 1e-3] == ["2 Wrong"]
    assert max(p.error for row in result.rows for p in row.parameters) < 1e-7
    assert result.max_error > 1e-3
    unchecked = explained(digits_model(), samples=0)
    assert unchecked.max_error is None
    assert unchecked.rows[1].error is unchecked.rows[1].parameters[0].error is unchecked.rows[-1].error is None


def test_layers_inside_a_layer_come_indented_between_its_formulas_and_its_output():
    inner = Twice([tn.Dense(4, activation="relu"), Twice([tn.Dense(4)])])
    model = tn.Sequential([tn.Flatten(), inner, tn.Dense(3)], input_shape=(8, 8, 1), seed=2)
    result = explained(model)
    names = [(row.depth, row.name) for row in result.rows[1:-1]]
    assert names == [
        (0, "0 Flatten"),
        (0, "1 Twice"),
        (1, "1.0 Dense"),
        (1, "1.1 Twice"),
        (2, "1.1.0 Dense"),
        (0, "2 Dense"),
    ]
    _, block, first, second, third, _ = result.rows[1:-1]
    assert block.parameters == second.parameters == ()
    assert [p.name for p in third.parameters] == ["weight", "bias"]
    w, b, v, c = (p.value.astype(np.float64) for p in model.parameters()[:4])
    x = X.reshape(6, 64).astype(np.float64)
    hidden = np.maximum(x @ w + b, 0)
    assert first.norm == pytest.approx(norm(hidden), rel=1e-5)
    assert third.norm == pytest.approx(norm(hidden @ v + c), rel=1e-5)  # before Twice wrote into it
    assert second.norm == pytest.approx(2 * third.norm, rel=1e-5)
    assert block.norm == pytest.approx(2 * second.norm, rel=1e-5)
    assert third.gradient_norm == pytest.approx(4 * block.gradient_norm, rel=1e-5)
    assert result.max_error < 1e-7
    lines = str(result).splitlines()
    starts = [
        line.split("  y ")[0] + "  y" if line.lstrip().startswith("y ") else line.split(" | ")[0] for line in lines
    ]
    heads = [line[: len("    1.1.0 Dense")].rstrip() for line in starts]
    begin = heads.index("1 Twice")
    assert heads[begin : begin + 14] == [
        "1 Twice",
        "  1.0 Dense",
        "    weight",
        "    bias",
        "    y",
        "  1.1 Twice",
        "    1.1.0 Dense",
        "      weight",
        "      bias",
        "      y",
        "    y",
        "  y",
        "2 Dense",
        "  weight",
    ]


def test_blocks_of_the_library_are_explained_and_checked():
    block = tn.Residual([tn.Conv2D(4, 3, padding="same", activation="relu"), tn.BatchNorm()])
    layers = [tn.Conv2D(4, 3), block, tn.Concat([tn.Conv2D(2, 1)]), tn.GlobalAvgPool2D(), tn.Dense(3)]
    result = explained(tn.Sequential(layers, input_shape=(8, 8, 1)))
    assert result.max_error < 1e-6
    assert all(row.formula and row.backward_formula for row in result.rows[1:])
    assert {row.name for row in result.rows if row.depth == 1} == {"1.0 Conv2D", "1.1 BatchNorm", "2.0 Conv2D"}


class Forgetful(tn.Embedding):
    """An Embedding whose gradient counts a word once, however often it occurs."""

    def backward(self, dy, input_grad=True):
        super().backward(dy, input_grad)
        used, counts = np.unique(self._x, return_counts=True)
        self.parameters[0].grad[used] /= counts[:, None]


def test_a_wrong_gradient_of_words_is_found_among_many_that_do_not_occur():
    x = np.random.default_rng(3).integers(0, 400, (16, 50))
    for kind, passes in ((tn.Embedding, True), (Forgetful, False)):
        model = tn.Sequential([kind(5000, 8), tn.Flatten(), tn.Dense(3)], input_shape=50)
        result = explained(model, x, np.arange(16) % 3)
        assert (result.max_error < 1e-7) == passes


def test_whole_numbers_have_no_gradient():
    model = tn.Sequential([Words(), tn.Dense(3)], input_shape=4)
    x = RNG.integers(0, 5, (6, 4))
    first, words, *_ = explained(model, x).rows
    assert first.gradient_norm is None
    assert first.norm is None
    assert words.error is None
    assert words.parameters[0].error < 1e-7
    assert words.gradient_norm > 0
    model = tn.Sequential([tn.Embedding(9, 5), tn.Flatten(), tn.Dense(3)], input_shape=4)
    assert explained(model, x).max_error < 1e-7


def test_times_are_the_best_of_the_steps_and_those_of_a_block_include_its_layers(monkeypatch):
    now, pace, paces = 0, 7, iter([7, 1, 7, 7])

    def clock():  # every look at it takes `pace` microseconds
        nonlocal now
        now += pace
        return 1e-6 * now

    def loss(prediction, target):  # called once a step: the second half of one and the first of the next are quick
        nonlocal pace
        pace = next(paces)
        return tn.softmax_cross_entropy(prediction, target)

    model = tn.Sequential([tn.Flatten(), Twice([tn.Dense(3)])], input_shape=(8, 8, 1))
    explained(model, samples=0)  # compiling looks at the clock, too
    monkeypatch.setattr(sys.modules["tinynet.explain"].time, "perf_counter", clock)
    flatten, block, dense, row = explained(model, loss=loss, samples=0, repeats=3).rows[1:]
    times = [flatten.forward_us, block.forward_us, dense.forward_us, row.forward_us]
    assert times == pytest.approx([1, 3, 1, 1])  # Dense looks at the clock twice while Twice waits
    assert [block.backward_us, dense.backward_us] == pytest.approx([3, 1])
    assert flatten.backward_us is None  # nothing before the first parameters is asked for a gradient
    assert row.backward_us is None


def test_it_returns_the_table_and_prints_it_only_when_asked_to(capsys):
    result = tn.explain(digits_model(), X, Y, "softmax_cross_entropy", samples=2, repeats=1)
    assert isinstance(result, Explanation)
    assert capsys.readouterr().out == ""
    shown = tn.explain(digits_model(), X, Y, "softmax_cross_entropy", samples=0, repeats=1, show=True)
    assert capsys.readouterr().out == f"{shown}\n"
    text = str(result)
    assert repr(result) == text
    assert text.startswith("Sequential, softmax_cross_entropy, one training step of 6 samples")
    for words in ("values flow down", "gradients flow up", "y = relu(conv(x, w) + b)", "dw = x.T dy", "(6, 3, 3, 4)"):
        assert words in text
    for row in result.rows:
        assert f"{row.norm:.4g}" in text
        assert f"{row.gradient_norm:.4g}" in text


def zoo():
    conv = [tn.Conv2D(4, 3, stride=2, padding="same", activation="gelu"), tn.LeakyReLU(), tn.AvgPool2D(2), tn.Tanh()]
    blocks = [tn.Residual([tn.Conv2D(4, 1), tn.BatchNorm()]), tn.Concat([tn.GELU()]), tn.LayerNorm()]
    return [*conv, *blocks, tn.GlobalMaxPool2D(), tn.Reshape((2, 4)), tn.Flatten(), tn.Sigmoid(), tn.Dense(3)]


def test_the_table_fits_120_columns():
    result = explained(tn.Sequential(zoo(), input_shape=(8, 8, 1)), samples=2, repeats=1)
    assert max(map(len, str(result).splitlines())) <= 120
    assert all(row.formula and row.backward_formula for row in result.rows[1:])


def test_every_layer_says_its_backward_pass():
    layers = {
        name for name in tn.__all__ if isinstance(getattr(tn, name), type) and issubclass(getattr(tn, name), Layer)
    }
    for name in layers - {"Layer"}:
        assert getattr(tn, name).backward_formula is not Layer.backward_formula, name
        assert getattr(tn, name).formula is not Layer.formula, name
    assert tn.Dense(3).backward_formula() == "dw = x.T dy, db = sum dy, dx = dy w.T"
    assert tn.Dense(3, "relu", bias=False).backward_formula() == "dz = relu'(z) dy, dw = x.T dz, dx = dz w.T"


def test_every_loss_of_fit_says_its_formulas():
    formulas = [loss.declaration.formulas for loss in LOSSES.values()]
    assert all(forward.startswith("L = ") and backward.startswith("d") for forward, backward in formulas)


def test_a_loss_with_options_or_of_ones_own_is_named_without_a_formula_unless_it_declares_one():
    model = tn.Sequential([tn.Flatten(), tn.Dense(3)], input_shape=(8, 8, 1))
    smooth = functools.partial(tn.softmax_cross_entropy, label_smoothing=0.1, weight=np.ones(3))
    row = explained(model, loss=smooth).rows[-1]
    assert row.formula == "L = softmax_cross_entropy(label_smoothing=0.1, weight=...)"
    assert row.backward_formula == ""
    assert row.norm == pytest.approx(smooth(model.forward(X), Y)[0])

    def mine(prediction, target):
        return float((prediction**2).sum() / 2), prediction

    row = explained(model, loss=mine).rows[-1]
    assert row.formula == "L = mine"
    assert row.error < 1e-7

    row = explained(model, loss=tn.declares("scores", "L = sum z^2 / 2", "dz = z")(mine)).rows[-1]
    assert (row.formula, row.backward_formula) == ("L = sum z^2 / 2", "dz = z")
    with pytest.raises(ValueError, match=r"declares: expects must be one of 'logits', .*, got 'logit'"):
        tn.declares("logit", "L = ...", "dz = ...")


def test_a_model_that_is_not_finite_is_shown_as_it_is():
    model = digits_model()
    model.layers[-1].parameters[0].value[0, 0] = np.nan
    result = explained(model)
    assert np.isnan(result.loss)
    assert np.isnan(result.max_error)
    assert "nan" in str(result)
    assert np.isfinite(result.rows[4].norm)


def test_the_module_and_the_function_have_one_name():
    assert callable(tn.explain)
    assert sys.modules["tinynet.explain"].explain is tn.explain


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: explained(m, X[:, 1:]), ValueError, r"Conv2D \(layer 0\): expected input \(N, 8, 8, 1\), got"),
        (lambda m: explained(m, X[:0]), ValueError, r"at least one sample, got shape \(0, 8, 8, 1\)"),
        (lambda m: explained(m, 3.0), ValueError, r"at least one sample, got shape \(\)"),
        (lambda m: explained(m, X, Y[:5]), ValueError, r"must have shape \(6,\), got \(5,\)"),
        (lambda m: explained(m, X, Y + 1), ValueError, "the 3 classes are from 0 to 2"),
        (
            lambda m: explained(m, loss="cross_entropi"),
            ValueError,
            "there is no loss 'cross_entropi'; there are softmax",
        ),
        (lambda m: explained(m, loss=None), TypeError, "loss must be a function"),
        (lambda m: explained(m.layers[0]), TypeError, "must be a tinynet.Sequential, got Conv2D"),
        (lambda m: explained(m, samples=-1), ValueError, "samples must be at least 0"),
        (lambda m: explained(m, repeats=0), ValueError, "repeats must be at least 1"),
        (lambda m: explained(m, loss=lambda p, t: 1.0), ValueError, "must return a pair"),
        (
            lambda m: explained(m, loss=functools.partial(tn.softmax_cross_entropy, grad=False)),
            ValueError,
            "must return a pair",
        ),
        (
            lambda m: explained(m, loss=functools.partial(tn.softmax_cross_entropy, reduction="none")),
            ValueError,
            r"one number, got an array of shape \(6,\).*reduction",
        ),
        (lambda m: explained(m, loss=lambda p, t: (1.0, p[0])), ValueError, r"prediction's shape \(6, 3\), got \(3,\)"),
    ],
)
def test_what_cannot_be_explained_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(digits_model())
