"""Embedding: against its plain loops, central differences and PyTorch; and what it refuses."""

import copy
import pickle

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_threads import assert_threads_predict

import tinynet as tn
from tinynet.layers.embedding import embedding_backward_plain, embedding_forward_plain

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
# vocabulary, dim, the shape of x, padding; the larger ones take threads
SIZES = [
    (5, 3, (4, 6), None),
    (5, 3, (4, 6), 2),
    (9, 1, (7,), None),
    (4, 17, (3, 2, 5), 0),
    (1, 16, (2, 3), None),
    (300, 33, (16, 40), None),
    (300, 64, (16, 40), 299),
]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)


pytestmark = pytest.mark.usefixtures("one_thread")


def built(size, dtype=np.float32):
    """The layer, words x and a gradient of its output."""
    vocabulary, dim, shape, padding = size
    rng = np.random.default_rng(0)
    layer = tn.Embedding(vocabulary, dim, padding=padding)
    layer.build(shape[1:], dtype, rng)
    layer.parameters[0].grad[...] = np.nan  # which backward must overwrite, not add to
    return layer, rng.integers(0, vocabulary, shape), rng.standard_normal((*shape, dim)).astype(dtype)


# --- right ------------------------------------------------------------------------------------------------


def test_it_looks_up_rows_and_gives_their_gradients_back():
    layer = tn.Embedding(4, 2)
    assert layer.build((3,), np.float64, np.random.default_rng(0)) == (3, 2)
    layer.parameters[0].value[...] = [[0, 1], [2, 3], [4, 5], [6, 7]]
    y = layer.forward(np.array([[3, 0, 3], [1, 3, 0]]), training=True)
    assert np.array_equal(y, [[[6, 7], [0, 1], [6, 7]], [[2, 3], [6, 7], [0, 1]]])
    assert layer.backward(np.array([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]])) is None
    assert np.array_equal(layer.parameters[0].grad, [[14, 16], [7, 8], [0, 0], [15, 18]])


@sizes
@both_dtypes
def test_output_and_gradient_are_what_the_formulas_say(size, dtype):
    layer, x, dy = built(size, dtype)
    w = layer.parameters[0]
    y = layer.forward(x, training=True)
    assert y.dtype == dtype
    assert y.shape == (len(x), *layer.output_shape)
    np.testing.assert_array_equal(y, embedding_forward_plain(x, w.value, layer.padding))
    assert layer.backward(dy) is None
    assert w.grad.dtype == dtype
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(
        w.grad, embedding_backward_plain(dy.astype(float), x, layer.padding, np.zeros(w.value.shape)), **tolerance
    )


@sizes
@both_dtypes
def test_output_and_gradient_agree_with_pytorch(size, dtype):
    layer, x, dy = built(size, dtype)
    w = torch.from_numpy(layer.parameters[0].value.copy()).requires_grad_()
    expected = F.embedding(torch.from_numpy(x), w, padding_idx=layer.padding)
    expected.backward(torch.from_numpy(dy))
    np.testing.assert_array_equal(layer.forward(x, training=True), expected.detach().numpy())
    layer.backward(dy)
    np.testing.assert_allclose(layer.parameters[0].grad, w.grad.numpy(), rtol=1e-5, atol=1e-5)


@sizes
def test_the_gradient_is_what_central_differences_say(size):
    layer, x, _ = built(size)
    result = tn.gradcheck.check(layer, x)
    assert result.passed
    assert list(result.errors) == ["weight"]  # words are not moved


@sizes
def test_one_thread_and_two_give_the_same_bits_and_so_does_a_sample_alone(size):
    layer, x, dy = built(size)
    results = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        y = layer.forward(x, training=True)
        layer.backward(dy)
        results.append((y, layer.parameters[0].grad.copy()))
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(layer.forward(x[1:2])[0], results[0][0][1])


def test_words_that_do_not_occur_have_a_gradient_of_exactly_zero():
    layer, _, dy = built((300, 33, (16, 40), None))
    x = np.full((16, 40), 7)
    layer.forward(x, training=True)
    layer.backward(dy)
    assert np.flatnonzero(layer.parameters[0].grad.any(1)).tolist() == [7]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "<i4", ">i4", "u4", "<i8", ">i8", "u8"])
def test_any_dtype_of_integers_and_any_layout_gives_the_same_bits(dtype):
    layer, x, dy = built((5, 3, (4, 6), None))
    expected = layer.forward(x)
    given = x.astype(dtype)
    wide = np.full((4, 12), 99, dtype)
    wide[:, ::2] = given
    read_only = given.copy()
    read_only.setflags(write=False)
    unaligned = np.frombuffer(b"." + given.tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape)
    for same in (given, wide[:, ::2], np.asfortranarray(given), read_only, unaligned, given.tolist()):
        assert np.array_equal(layer.forward(same, training=True), expected)
        layer.backward(dy)
        np.testing.assert_allclose(
            layer.parameters[0].grad, embedding_backward_plain(dy, x, None, np.zeros((5, 3))), rtol=1e-5
        )


def test_an_empty_batch_gives_an_empty_output_and_a_gradient_of_zero():
    layer, x, dy = built((5, 3, (4, 6), None))
    assert layer.forward(x[:0], training=True).shape == (0, 6, 3)
    layer.backward(dy[:0])
    assert not layer.parameters[0].grad.any()


def test_words_that_change_after_forward_change_no_gradient():
    layer, x, dy = built((5, 3, (4, 6), None))
    expected = embedding_backward_plain(dy, x, None, np.zeros((5, 3)))
    layer.forward(x, training=True)
    x[...] = 10**9  # unchecked, backward would write there
    layer.backward(dy)
    np.testing.assert_allclose(layer.parameters[0].grad, expected, rtol=1e-5)


def test_what_is_returned_is_the_callers():
    layer, x, dy = built((5, 3, (4, 6), None))
    y = layer.forward(x, training=True)
    kept = y.copy()
    layer.parameters[0].value[...] += 1
    layer.forward(x, training=True)
    assert np.array_equal(y, kept)
    model = tn.Sequential([tn.Embedding(5, 3)], input_shape=6)
    y = model.forward(x, training=True)
    model.backward(dy)
    expected = model.flat_grads.copy()
    y[...] = np.nan
    model.backward(dy)
    assert np.array_equal(model.flat_grads, expected)


# --- padding ----------------------------------------------------------------------------------------------


def test_padding_is_zero_and_stays_so_whatever_trains_it():
    x, y = np.array([[1, 2, 0], [3, 0, 0], [2, 2, 1]]), np.array([0, 1, 0])
    for make in (tn.SGD, tn.Adam, tn.AdamW, tn.RMSprop):
        model = tn.Sequential([tn.Embedding(4, 5, padding=0), tn.Flatten(), tn.Dense(2)], input_shape=3)
        w = model.parameters()[0]
        before = w.value.copy()
        optimizer = make(model, lr=0.1, weight_decay=0.1)
        for _ in range(5):
            _, dlogits = tn.softmax_cross_entropy(model.forward(x, training=True), y)
            model.backward(dlogits)
            optimizer.step()
        assert not w.value[0].any()
        assert (w.value[1:] != before[1:]).all()


def test_the_row_of_the_padding_is_not_read():
    layer, x, _ = built((4, 17, (3, 2, 5), 0))
    layer.parameters[0].value[...] = np.nan
    y = layer.forward(x)
    assert not y[x == 0].any()
    assert np.isnan(y[x != 0]).all()


# --- start, copies, threads ---------------------------------------------------------------------------------


def test_it_starts_normal_with_deviation_a_tenth_the_same_in_both_dtypes():
    models = [
        tn.Sequential([tn.Embedding(1000, 50)], input_shape=3, seed=seed, dtype=dtype)
        for seed, dtype in ((1, "float32"), (1, "float64"), (2, "float32"))
    ]
    one, same, other = (model.flat_values for model in models)
    assert abs(one.mean()) < 4 * 0.1 / np.sqrt(one.size)
    assert abs(one.std() - 0.1) < 4 * 0.1 / np.sqrt(2 * one.size)
    assert np.array_equal(one, same.astype(np.float32))
    assert (one != other).any()


def text_model(words=10, vocabulary=20, dim=8, dtype="float32"):
    return tn.Sequential(
        [
            tn.Embedding(vocabulary, dim, padding=0),
            tn.Reshape((words, 1, dim)),
            tn.Parallel([[tn.Conv2D(6, (width, 1), activation="relu"), tn.GlobalMaxPool2D()] for width in (2, 3, 4)]),
            tn.Dropout(0.2),
            tn.Dense(2),
        ],
        input_shape=words,
        dtype=dtype,
    )


def test_copies_and_pickles_are_models_of_their_own_and_many_threads_may_predict():
    model, x = text_model(), np.random.default_rng(0).integers(0, 20, (50, 10))
    expected = model.forward(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other.predict(x, batch_size=7), expected)
        other.flat_values[:] = 0
        assert not other.predict(x).any()
    assert_threads_predict(model, x, expected, batch_size=5)


def test_a_model_of_words_passes_the_gradient_check():
    x, y = np.random.default_rng(0).integers(0, 20, (6, 10)), np.array([0, 1, 0, 1, 1, 0])
    result = tn.gradcheck.check(text_model(), x, y, loss=tn.softmax_cross_entropy, samples=None)
    assert result.passed
    assert "0.weight" in result.errors


def test_convolutions_over_words_agree_with_pytorch():
    model, x = text_model(dtype="float64"), np.random.default_rng(0).integers(0, 20, (6, 10))
    model.layers[3].rate = 0.0
    tensors = [torch.from_numpy(p.value.copy()).requires_grad_() for p in model.parameters()]
    vectors = F.embedding(torch.from_numpy(x), tensors[0], padding_idx=0)[:, :, None].permute(0, 3, 1, 2)
    seen = [
        F.conv2d(vectors, w.permute(3, 2, 0, 1), b).relu().amax((2, 3))
        for w, b in zip(tensors[1:7:2], tensors[2:7:2], strict=True)
    ]
    expected = torch.cat(seen, 1) @ tensors[7] + tensors[8]
    y = model.forward(x, training=True)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    expected.backward(torch.from_numpy(dy))
    model.backward(dy)
    for parameter, tensor in zip(model.parameters(), tensors, strict=True):
        np.testing.assert_allclose(parameter.grad, tensor.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_convolutions_over_words_learn_a_phrase():
    """Word 3 right before word 7, wherever: no bag of words can tell, for both occur alone as often."""
    rng = np.random.default_rng(0)
    x = rng.integers(8, 20, (600, 10))
    y = np.arange(600) % 2
    for row, label in zip(x, y, strict=True):
        place = rng.integers(0, 9)
        row[place : place + 2] = (3, 7) if label else (7, 3)
    model = text_model()
    tn.fit(
        model,
        x[:500],
        y[:500],
        loss=tn.softmax_cross_entropy,
        optimizer=tn.Adam(model, lr=0.01),
        epochs=8,
        progress=False,
    )
    assert tn.accuracy(model.predict(x[500:]), y[500:]) > 0.98


# --- what cannot be -------------------------------------------------------------------------------------

HUGE = np.array([[0, 1, 2], [3, 2**63 + 5, 0]], np.uint64)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((2, 3)), TypeError, r"must hold integers, got an array of dtype float64; try .astype\(int\)"),
        (np.zeros((2, 3), bool), TypeError, "must hold integers, got an array of dtype bool$"),
        (np.zeros((2, 3), complex), TypeError, "must hold integers, got an array of dtype complex128$"),
        (
            [["a", "b", "c"]],
            TypeError,
            "must hold integers, got an array of dtype <U1; number the words: tn.data.Vocabulary",
        ),
        (np.array([[1, None, 3]], object), TypeError, r"must hold integers, got None at position \(0, 1\)"),
        ([[1, 2, 3], [1, 2]], ValueError, "the input is not an array"),
        (np.zeros((2, 4), int), ValueError, r"expected input \(N, 3\), got \(2, 4\)"),
        (np.zeros(3, int), ValueError, r"expected input \(N, 3\), got \(3,\)"),
        (np.array([[0, 1, 2], [3, 0, 5]]), ValueError, r"position \(1, 2\) is 5, but the 5 words are .* from 0 to 4"),
        (np.array([[0, -1, 9]], np.int8), ValueError, r"position \(0, 1\) is -1"),
        (HUGE, ValueError, r"position \(1, 1\) is 9223372036854775813"),
    ],
    ids=str,
)
def test_words_that_are_none_are_refused_before_anything_changes(x, error, message):
    layer, words, dy = built((5, 3, (2, 3), None))
    layer.place = " (layer 0)"
    layer.forward(words, training=True)
    with pytest.raises(error, match=rf"^Embedding \(layer 0\): .*{message}"):
        layer.forward(x, training=True)
    layer.backward(dy)  # of the words before
    expected = embedding_backward_plain(dy, words, None, np.zeros((5, 3)))
    np.testing.assert_allclose(layer.parameters[0].grad, expected, rtol=1e-5, atol=1e-6)


def test_a_wrong_gradient_is_refused_and_so_is_backward_without_forward():
    layer, x, dy = built((5, 3, (4, 6), None))
    layer.forward(x)
    with pytest.raises(RuntimeError, match=r"backward needs forward\(x, training=True\) first"):
        layer.backward(dy)
    layer.forward(x, training=True)
    with pytest.raises(
        ValueError, match=r"Embedding: expected the gradient of its output, \(4, 6, 3\), got \(3, 6, 3\)"
    ):
        layer.backward(dy[1:])
    assert np.isnan(layer.parameters[0].grad).all()
    with pytest.raises(RuntimeError, match="Embedding is not built"):
        tn.Embedding(5, 3).forward(x)


def test_words_have_no_gradient():
    layer, x, dy = built((5, 3, (4, 6), None))
    layer.forward(x, training=True)
    with pytest.raises(ValueError, match="Embedding: its input is whole numbers, which have no gradient"):
        layer.backward(dy, input_grad=True)
    model = text_model()
    words = np.random.default_rng(0).integers(0, 20, (5, 10))
    model.forward(words, training=True)
    with pytest.raises(ValueError, match=r"Embedding \(layer 0\): its input is whole numbers"):
        model.backward(np.ones((5, 2)), input_grad=True)
    assert not model.flat_grads.any()
    assert model.backward(np.ones((5, 2))) is None
    assert model.flat_grads.any()


@pytest.mark.parametrize(
    "before", [tn.Flatten, lambda: tn.Dense(6), lambda: tn.Dropout(0.1), lambda: tn.Embedding(5, 6)]
)
def test_nothing_can_come_before_it(before):
    layers = [before(), tn.Embedding(5, 3)]
    name = type(layers[0]).__name__
    message = rf"Embedding \(layer 1\): it takes whole numbers, but {name} \(layer 0\) before it gives real ones"
    with pytest.raises(ValueError, match=message):
        tn.Sequential(layers, input_shape=6)
    assert tn.Sequential(layers[1:], input_shape=6).output_shape == (6, 3)


@pytest.mark.parametrize(
    ("construct", "error", "message"),
    [
        (lambda: tn.Embedding(0, 3), ValueError, "Embedding: vocabulary must be at least 1, got 0"),
        (lambda: tn.Embedding(5.0, 3), TypeError, "Embedding: vocabulary must be a whole number, got 5.0"),
        (lambda: tn.Embedding(5, -3), ValueError, "Embedding: dim must be at least 1, got -3"),
        (lambda: tn.Embedding(5, "a"), TypeError, "Embedding: dim must be a whole number, got 'a'"),
        (lambda: tn.Embedding(5, 3, padding=5), ValueError, "padding must be below the vocabulary's size, 5, got 5"),
        (lambda: tn.Embedding(5, 3, padding=-1), ValueError, "Embedding: padding must be at least 0, got -1"),
        (lambda: tn.Embedding(5, 3, padding=True), TypeError, "Embedding: padding must be a whole number, got True"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_at_once(construct, error, message):
    with pytest.raises(error, match=message):
        construct()


def test_it_says_its_formulas():
    layer, _, _ = built((5, 3, (4, 6), 2))
    assert layer.formula() == "y = w[x], 0 where x = 2"
    assert layer.backward_formula() == "dw[v] = sum of dy where x = v, 0 for v = 2"
    layer, _, _ = built((5, 3, (4, 6), None))
    assert (layer.formula(), layer.backward_formula()) == ("y = w[x]", "dw[v] = sum of dy where x = v")
