"""Models of several inputs: a Parallel over a tuple of them, each of which may be a pair (x, lengths)."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")

N = 5
RNG = np.random.default_rng(0)
IMAGE, CATEGORY = RNG.normal(size=(N, 6, 6, 1)), RNG.integers(0, 4, (N, 2))
SERIES, LENGTHS, TABLE = RNG.normal(size=(N, 7, 2)), np.array([7, 0, 3, 1, 6]), RNG.normal(size=(N, 3))
X, Y = (IMAGE, CATEGORY, (SERIES, LENGTHS), TABLE), np.array([0, 2, 1, 1, 0])
SHAPES = ((6, 6, 1), (2,), (7, 2), 3)


def branches():
    return [
        [tn.Conv2D(2, 3, activation="tanh"), tn.Flatten()],
        [tn.Embedding(4, 3), tn.Flatten()],
        [tn.LSTM(3, return_sequences=False)],
        [],
    ]


def model_of_four(dtype="float64"):
    return tn.Sequential([tn.Parallel(branches()), tn.Dense(3)], input_shape=SHAPES, seed=1, dtype=dtype)


def test_each_branch_does_what_a_model_of_its_own_does_with_its_input():
    model = model_of_four()
    outputs = []
    for first, layers, x, shape in zip((0, 2, 4), branches(), X, SHAPES, strict=False):
        inside = model.layers[0].layers[first : first + len(layers)]
        outputs.append(tn.Sequential(list(inside), shape, dtype="float64").predict(x))
    side_by_side = np.concatenate([*outputs, TABLE], axis=1)
    np.testing.assert_array_equal(model.layers[0].forward(X), side_by_side)
    np.testing.assert_array_equal(model.forward(X), model.layers[1].forward(side_by_side))


def test_values_and_gradients_are_pytorchs():
    layers = [[tn.Conv2D(2, 3, activation="relu"), tn.Flatten()], [tn.Embedding(4, 3), tn.Flatten()], []]
    model = tn.Sequential([tn.Parallel(layers), tn.Dense(3)], ((6, 6, 1), (2,), (3,)), seed=1, dtype="float64")
    image, table = (torch.tensor(a, requires_grad=True) for a in (IMAGE, TABLE))
    w, b, words, v, c = (torch.tensor(p.value, requires_grad=True) for p in model.parameters())
    convolved = F.conv2d(image.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1), b).relu().permute(0, 2, 3, 1).flatten(1)
    beside = torch.cat([convolved, F.embedding(torch.tensor(CATEGORY), words).flatten(1), table], 1)
    loss = F.cross_entropy(beside @ v + c, torch.tensor(Y))
    loss.backward()
    found, dz = tn.softmax_cross_entropy(model.forward((IMAGE, CATEGORY, TABLE), training=True), Y)
    dimage, dcategory, dtable = model.backward(dz, input_grad=True)
    assert found == pytest.approx(loss.item(), rel=1e-12)
    assert dcategory is None
    ours = [dimage, dtable, *(p.grad for p in model.parameters())]
    for mine, theirs in zip(ours, (image, table, w, b, words, v, c), strict=True):
        np.testing.assert_allclose(mine, theirs.grad, rtol=1e-10, atol=1e-13)


def test_gradients_are_those_of_finite_differences():
    model = model_of_four("float32")
    found = tn.gradcheck.check(model, X, Y, loss="cross_entropy")
    assert list(found.errors)[:3] == ["input 0", "input 2", "input 3"]
    assert len(found.errors) == 3 + len(model.parameters())
    assert found.passed, found
    assert tn.gradcheck.check(model.layers[0], X).passed
    floats = tn.Sequential([tn.Parallel([[tn.Dense(2), tn.Tanh()], []]), tn.Dense(1)], ((3,), (4,)))
    assert tn.gradcheck.check(floats).passed
    found = tn.gradcheck.check(floats.layers[0], ((2, 3), (2, 4)))
    assert found.title == "Parallel at x (2, 3) and (2, 4)"
    assert found.passed


def test_what_gradcheck_finds_wrong_it_says_of_which_input():
    class Wrong(tn.Tanh):
        def backward(self, dy, input_grad=True):
            return 2 * super().backward(dy, input_grad)

    found = tn.gradcheck.check(tn.Sequential([tn.Parallel([[tn.Tanh()], [Wrong()]])], ((3,), (4,))))
    assert set(found.causes) == {"input 1"}
    assert not found.passed


def test_padding_changes_nothing_and_has_no_gradient():
    model = model_of_four()
    inside = np.arange(7) < LENGTHS[:, None]
    broken = (IMAGE, CATEGORY, (np.where(inside[..., None], SERIES, np.nan), LENGTHS), TABLE)
    np.testing.assert_array_equal(model.predict(broken), model.predict(X))
    dy = RNG.normal(size=(N, 3))
    model.forward(broken, training=True)
    _, _, dseries, _ = model.backward(dy, input_grad=True)
    assert dseries.shape == SERIES.shape
    assert not dseries[~inside].any()
    assert dseries[inside].any()
    model.forward((IMAGE, CATEGORY, SERIES, TABLE), training=True)
    assert model.backward(dy, input_grad=True)[2][~inside].any()
    assert model.backward(dy) is None


def test_predict_gives_the_same_bits_in_pieces_of_any_size_and_takes_what_arrays_can_be_made_of():
    model = model_of_four("float32")
    expected = model.predict(X)
    np.testing.assert_array_equal(model(X), expected)
    for size in (1, 2, 4):
        np.testing.assert_array_equal(model.predict(X, batch_size=size), expected)
    lists = [IMAGE.tolist(), CATEGORY.tolist(), (SERIES.tolist(), LENGTHS.tolist()), torch.tensor(TABLE)]
    np.testing.assert_array_equal(model.predict(lists, batch_size=2), expected)
    assert model.predict(tuple(a[:0] for a in (IMAGE, CATEGORY, SERIES, TABLE))).shape == (0, 3)


def test_a_whole_number_stands_for_a_vector_and_a_scalar_is_one_number_a_sample():
    model = tn.Sequential([tn.Parallel([[tn.Embedding(5, 2)], []])], ((), 1))
    assert model.input_shape == ((), (1,))
    assert model.predict((np.array([4, 0, 3]), np.ones((3, 1)))).shape == (3, 3)  # no lengths, though they look like it


def test_only_whole_numbers_have_no_gradient_at_all():
    two = [[tn.Embedding(3, 2), tn.Flatten()], [tn.Embedding(4, 2), tn.Flatten()]]
    model = tn.Sequential([tn.Parallel(two)], ((1,), (2,)))
    y = model.forward((CATEGORY[:, :1] % 3, CATEGORY), training=True)
    assert model.backward(y) is None
    with pytest.raises(ValueError, match=r"Parallel \(layer 0\): its input is whole numbers"):
        model.backward(y, input_grad=True)


def test_a_copy_a_pickle_and_a_file_predict_the_same(tmp_path):
    model = model_of_four("float32")
    expected = model.predict(X)
    tn.save(model, tmp_path / "model.safetensors")
    loaded = tn.load(tmp_path / "model.safetensors")
    model.forward(X, training=True)
    for other in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(other) == repr(model)
        assert other.input_shape == ((6, 6, 1), (2,), (7, 2), (3,))
        np.testing.assert_array_equal(other.predict(X), expected)
    with pytest.raises(ValueError, match="does not fit the model"):
        tn.load(tn.Sequential([tn.Dense(3)], 3), tmp_path / "model.safetensors")
    again = tn.Sequential([model.layers[0], tn.Dense(2)], SHAPES)  # a copy, with its numbers
    np.testing.assert_array_equal(again.layers[0].forward(X), model.layers[0].forward(X))


def test_models_may_be_branches():
    image, table = tn.Sequential(branches()[0], (6, 6, 1)), tn.Sequential([tn.Dense(2), tn.Tanh()], 3)
    model = tn.Sequential([tn.Parallel([[image], [table]])], ((6, 6, 1), (3,)))
    expected = np.concatenate([image.predict(IMAGE), table.predict(TABLE)], axis=1)
    np.testing.assert_array_equal(model.predict((IMAGE, TABLE)), expected)


def test_it_says_which_branch_takes_which_input():
    model = model_of_four()
    assert "y = [layers 0-1 of x0, layers 2-3 of x1, layer 4 of x2, x3]" in model.summary()
    assert "input_shape=((6, 6, 1), (2,), (7, 2), (3,))" in repr(model)


def test_gradients_has_one_for_each_input():
    model = model_of_four()
    found = tn.gradients(model, X, Y, "cross_entropy")
    _, dz = tn.softmax_cross_entropy(model.forward(X, training=True), Y)
    for mine, theirs in zip(found.dx, model.backward(dz, input_grad=True), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert [array.shape for array in found.activations] == [(N, 32 + 6 + 3 + 3), (N, 3)]
    with pytest.raises(ValueError, match="gradients: x must be a batch of at least one sample"):
        tn.gradients(model, tuple(a[:0] for a in (IMAGE, CATEGORY, SERIES, TABLE)), 0)


def test_explain_has_a_row_for_each_input_and_checks_all_gradients():
    model = model_of_four()
    found = tn.explain(model, X, Y, "cross_entropy", samples=5)
    first = found.rows[:4]
    assert [(row.name, row.shape) for row in first] == [
        ("input 0", (N, 6, 6, 1)), ("input 1", (N, 2)), ("input 2", (N, 7, 2)), ("input 3", (N, 3)),
    ]  # fmt: skip
    within = SERIES[np.arange(7) < LENGTHS[:, None]]
    norms = [None if a is None else pytest.approx(np.linalg.norm(a)) for a in (IMAGE, None, within, TABLE)]
    assert [row.norm for row in first] == norms
    dx = tn.gradients(model, X, Y, "cross_entropy").dx
    norms = [None if d is None else pytest.approx(np.linalg.norm(d)) for d in dx]
    assert [row.gradient_norm for row in first] == norms
    assert found.max_error < 1e-7
    assert found.rows[4].name == "0 Parallel"
    assert found.rows[4].error is not None
    assert "input 3" in str(found)


def test_pictures_of_layers_leave_the_inputs_out():
    model = model_of_four()
    for figure in (tn.plots.activations(model, X), tn.plots.gradients(model, X, Y, tn.softmax_cross_entropy)):
        assert [panel.get_title(loc="left").split("  ")[0] for panel in figure.axes] == ["0 Parallel", "1 Dense"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: m.predict(IMAGE),
            TypeError,
            r"expected a tuple of 4 inputs, of samples .*, got one of shape \(5, 6",
        ),
        (lambda m: m.forward(IMAGE), TypeError, r"Parallel \(layer 0\): expected a tuple of 4 inputs"),
        (lambda m: m.forward(X[:3]), TypeError, "expected a tuple of 4 inputs, .*, got a tuple of 3"),
        (lambda m: m.predict((*X[:3], TABLE[:4])), ValueError, "input 0 has 5 samples, and input 3 has 4"),
        (lambda m: m.forward((*X[:3], TABLE[:4])), ValueError, "input 0 has 5 samples, and input 3 has 4"),
        (lambda m: m.predict((*X[:3], TABLE.T)), ValueError, r"input 0 has 5 samples, and input 3 has 3"),
        (lambda m: m.predict((*X[:3], TABLE[:, :2])), ValueError, r"input 3: expected \(N, 3\), got \(5, 2\)"),
        (lambda m: m.forward((*X[:3], TABLE[:, :2])), ValueError, r"input 3: expected \(N, 3\), got \(5, 2\)"),
        (lambda m: m.forward((*X[:3], [["a"] * 3] * N)), TypeError, r"input 3 must hold real numbers"),
        (lambda m: m.forward((*X[:3], None)), TypeError, r"input 3 must hold real numbers, got None"),
        (
            lambda m: m.forward((np.moveaxis(IMAGE, 3, 1), *X[1:])),
            ValueError,
            r"Parallel \(layer 0\): input 0: expected \(N, 6, 6, 1\), got \(5, 1, 6, 6\); are the channels first\?",
        ),
        (lambda m: m.forward((IMAGE, CATEGORY + 0.5, *X[2:])), TypeError, r"Embedding \(layer 0.2\).*\n.*input 1"),
        (lambda m: m.forward((IMAGE, CATEGORY + 3, *X[2:])), ValueError, r"numbered from 0 to 3\n.*about .*input 1"),
        (
            lambda m: m.forward((IMAGE, CATEGORY, (SERIES, LENGTHS + 1), TABLE)),
            ValueError,
            "input 2: the length of seq",
        ),
        (lambda m: m.forward(((SERIES, LENGTHS), *X[1:])), ValueError, "input 0 is not an array"),
        (lambda m: m.forward(X, state={}), ValueError, "a state is of one sequence given in pieces"),
        (lambda m: m.backward(np.ones((N, 3))), RuntimeError, "backward needs forward"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_number_of_the_input(call, error, message):
    with pytest.raises(error) as caught:
        call(model_of_four())
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert re.search(message, text), text


def test_a_branch_whose_input_has_lengths_must_end_the_time():
    model = tn.Sequential([tn.Parallel([[tn.LSTM(3)], [tn.Dense(2)]])], ((7, 2), (7, 3)))
    assert model.predict((SERIES, np.ones((N, 7, 3)))).shape == (N, 7, 5)
    with pytest.raises(ValueError, match=r"input 0 has lengths, so its branch must end the axis of time: .*LSTM"):
        model.predict(((SERIES, LENGTHS), np.ones((N, 7, 3))))
    with pytest.raises(ValueError, match=r"of sequences \(\(5, 7, 2\), \(5, 6, 3\)\), its branches make \(5, 7, 3\), "):
        model.predict((SERIES, np.ones((N, 6, 3))))


@pytest.mark.parametrize(
    ("layers", "shape", "error", "message"),
    [
        (lambda: [tn.Dense(3)], ((3,), (4,)), ValueError, r"Dense \(layer 0\): .* is of several inputs: .* a Parallel"),
        (lambda: [tn.Concat([tn.Dense(3)])], ((3,), (4,)), ValueError, r"Concat \(layer 0\): .* of several inputs"),
        (lambda: [tn.Parallel([[tn.Dense(1)], []])], ((3,), 4, 5), ValueError, "its 2 branches take as many inputs"),
        (lambda: [tn.Parallel([[tn.Dense(1)], []])], (((3,), 4), 5), ValueError, "each of a shape such as"),
        (
            lambda: [tn.Parallel([[tn.Dense(1)], []])],
            ((3,), "ab"),
            TypeError,
            "a size of the input shape|tuple of whole",
        ),
        (
            lambda: [tn.Parallel([[tn.Dense(1)], []])],
            ((3,), (4, 4)),
            ValueError,
            "must have one shape, but for the last",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused_when_it_is_built(layers, shape, error, message):
    with pytest.raises(error, match=message):
        tn.Sequential(layers(), shape)
