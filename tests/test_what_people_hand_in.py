"""What people hand in for an array, or type for a name: taken where nothing is lost, else a message says what to do."""

import datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas
import pytest
import scipy.sparse

import tinynet as tn
from tinynet import metrics
from tinynet.checks import numbers

EYE = np.eye(3)
LOGITS = np.zeros((4, 2), np.float32)
TABLE = pandas.DataFrame({"length": [1.5, 2.0], "colour": ["red", "green"], "ripe": [True, False]})
DUMMIES = pandas.get_dummies(TABLE)
NULLABLE = pandas.DataFrame(
    {"n": pandas.array([1, 2], "Int64"), "ok": pandas.array([True, False], "boolean"), "x": 0.5}
)


def dense(inputs=3, outputs=2):
    return tn.Sequential([tn.Dense(outputs)], inputs)


def cross_entropy(targets, logits=LOGITS, **options):
    return tn.softmax_cross_entropy(logits, targets, **options)


def fitted(x, y, **options):
    model = dense()
    tn.fit(model, x, y, loss="softmax_cross_entropy", optimizer=tn.SGD(model, 0.1), epochs=1, progress=False, **options)


def masked(numbers, mask):
    return np.ma.array(numbers, mask=mask)


# --- what is taken --------------------------------------------------------------------------------------------

# What is handed in, and the array that it stands for.
TAKEN = {
    "a table with bools and floats": (DUMMIES, [[1.5, 1, 0, 1], [2, 0, 1, 0]]),
    "a table with pandas' own integers and bools": (NULLABLE, [[1, 1, 0.5], [2, 0, 0.5]]),
    "a column of pandas' own integers": (pandas.Series([1, 2], dtype="Int64"), [1, 2]),
    "a categorical column of numbers": (pandas.Series([3, 4], dtype="category"), [3, 4]),
    "a sparse table of pandas": (pandas.DataFrame({"a": pandas.arrays.SparseArray([0, 1])}), [[0], [1]]),
    "objects that are floats and ints": (np.array([[1, 2.5], [True, np.float32(3)]], object), [[1, 2.5], [1, 3]]),
    "objects that are ints": (np.array([1, np.uint8(2)], object), [1, 2]),
    "objects that are bools": (np.array([True, np.False_], object), [True, False]),
    "objects with a NaN": (np.array([np.nan, 1], object), [np.nan, 1]),
    "no objects": (np.array([], object), []),
    "an integer of 71 bits that float64 holds": ([2**70], [2.0**70]),
    "a masked array without a mask": (np.ma.array([1.0, 2.0]), [1.0, 2.0]),
    "a matrix": (np.matrix([[1, 2]]), [[1, 2]]),
    "a range": (range(3), [0, 1, 2]),
    "half precision": (np.array([0.5], np.float16), [0.5]),
    "bytes of an image": (np.array([255], np.uint8), np.array([255], np.uint8)),
    "big-endian numbers": (np.array([1.5], ">f8"), [1.5]),
    "rows of NumPy's": ([np.array([1, 2]), np.array([3, 4])], [[1, 2], [3, 4]]),
}


@pytest.mark.parametrize("thing", TAKEN)
def test_what_is_numbers_without_loss_is_taken(thing):
    given, expected = TAKEN[thing]
    found = numbers(given, "x")
    np.testing.assert_array_equal(found, expected)
    assert type(found) is np.ndarray
    assert found.dtype.kind in "fiub"
    assert found.dtype.kind == np.asarray(expected).dtype.kind


def test_a_plain_array_is_not_even_copied():
    assert numbers(EYE, "x") is EYE


def test_every_door_takes_a_table_with_bools_and_floats():
    x = DUMMIES.to_numpy(float)
    model = dense(4)
    expected = model.predict(x)
    for found in (model.forward(DUMMIES), model.predict(DUMMIES), model.predict(DUMMIES, batch_size=1)):
        np.testing.assert_array_equal(found, expected)
    (batch, labels), *_ = tn.batches(DUMMIES, NULLABLE["n"], 2, shuffle=False)
    np.testing.assert_array_equal(batch, x)
    np.testing.assert_array_equal(labels, [1, 2])
    value, gradient = tn.mean_squared_error(x, DUMMIES)
    assert value == 0
    assert not gradient.any()
    assert tn.softmax_cross_entropy(np.log(x + 1), NULLABLE["n"])[0] > 0
    assert tn.gradcheck.check(tn.Dense(2), DUMMIES).passed
    assert tn.explain(model, DUMMIES, [0, 1], "softmax_cross_entropy", samples=0, repeats=1).rows[0].shape == (2, 4)
    fit_to = tn.Sequential([tn.Dense(3)], 4)
    options = {"loss": "softmax_cross_entropy", "optimizer": tn.SGD(fit_to, 0.1), "epochs": 1, "progress": False}
    assert tn.fit(fit_to, DUMMIES, NULLABLE["n"], validation=(DUMMIES, NULLABLE["n"]), **options)["val_loss"]
    assert metrics.accuracy(DUMMIES, NULLABLE["n"].astype("int64")) >= 0


def test_batches_leave_sentences_alone():
    sentences = pandas.Series(["a b", "c"])
    (x, _), *_ = tn.batches(sentences, [0, 1], 2, shuffle=False)
    assert list(x) == ["a b", "c"]


# --- what is refused ------------------------------------------------------------------------------------------

# What is handed in, the error, and what its message must say.
REFUSED = {
    **{
        f"{kind}_{name}": (getattr(scipy.sparse, f"{kind}_{name}")(EYE), TypeError, [f"{kind}_{name}", "x.toarray()"])
        for kind in ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")
        for name in ("matrix", "array")
    },
    "a list of sparse rows": ([scipy.sparse.csr_array(EYE[:1])], TypeError, ["at 0", "sparse", "toarray"]),
    "objects that are sparse": (pandas.Series([scipy.sparse.csr_array(EYE)]), TypeError, ["position (0,)", "toarray"]),
    "a masked array": (masked(EYE, EYE), ValueError, ["masked", "3 of its 9", "x.filled(value)"]),
    "a list of masked rows": ([EYE[0], masked(EYE[0], EYE[0])], ValueError, ["at 1", "masked", "1 of its 3"]),
    "one masked number": ([1.0, np.ma.masked], ValueError, ["at 1", "masked"]),
    "a table with words": (TABLE, TypeError, ["column 'colour', row 0", "'red'", "np.unique", "tn.data.Table(x)"]),
    "a table without names": (pandas.DataFrame([[1, "red"]]), TypeError, ["column 1, row 0", "'red'"]),
    "a table with a missing integer": (
        pandas.DataFrame({"n": pandas.array([1, None], "Int64"), "x": 0.5}),
        ValueError,
        ["column 'n', row 1", "<NA>", "fillna"],
    ),
    "a column with a missing bool": (
        pandas.Series([None, True], dtype="boolean"),
        ValueError,
        ["position (0,)", "<NA>", "fillna"],
    ),
    "a table with None": (
        pandas.DataFrame({"n": pandas.Series([1, None], dtype=object)}),
        TypeError,
        ["column 'n', row 1", "None", "fillna"],
    ),
    "a table with a day": (
        pandas.DataFrame({"day": [datetime.date(2020, 1, 1)], "x": 0.5}),
        TypeError,
        ["column 'day', row 0", "datetime.date(2020, 1, 1)", "timedelta64"],
    ),
    "a categorical column": (pandas.Series(["a", "b"], dtype="category"), TypeError, ["'a'", "np.unique"]),
    "a missing number": (np.array([[1.0, None]], object), TypeError, ["position (0, 1)", "None", "missing"]),
    "decimals": (np.array([Decimal("1.5")]), TypeError, ["Decimal('1.5')", "position (0,)", "astype(float)"]),
    "fractions": ([Fraction(1, 2)], TypeError, ["Fraction(1, 2)", "astype(float)"]),
    "an integer of 71 bits": ([2**70 + 1], TypeError, [str(2**70 + 1), "does not fit", "astype(float)"]),
    "an integer of a thousand digits": ([10**999], TypeError, ["1000000", "does not fit"]),
    "an integer beside floats": (np.array([2**53 + 1, 0.5], object), TypeError, ["position (0,)", "does not fit"]),
    "rows of unequal length": ([[1, 2], [3]], ValueError, ["not an array", "padded"]),
    "objects of unequal length": (np.array([[1, 2], [3]], object), TypeError, ["[1, 2]", "padded"]),
    "objects that are rows": (pandas.Series([EYE[0], EYE[1]]), TypeError, ["position (0,)", "np.stack"]),
    "words": ([["a", "b"]], TypeError, ["<U1", "np.unique"]),
    "numbers as text": (["1", "2.5"], TypeError, ["<U3", "astype(float)"]),
    "numbers as objects of text": (np.array([1, "2.5"], object), TypeError, ["'2.5'", "(1,)", "astype(float)"]),
    "bytes": (b"abc", TypeError, ["|S3"]),
    "complex numbers": (EYE * 1j, TypeError, ["complex128", "x.real"]),
    "complex objects": (np.array([1j, 2], object), TypeError, ["1j", "x.real"]),
    "days": (np.array(["2020-01-01"], "M8[D]"), TypeError, ["datetime64[D]", "x - x.min()"]),
    "durations": (np.array([1], "m8[D]"), TypeError, ["timedelta64[D]", "x / np.timedelta64"]),
    "raw bytes": (np.zeros(2, "V2"), TypeError, ["V2"]),
    "records": (np.zeros(2, [("a", "f4"), ("b", "f4")]), TypeError, ["'a'", "structured_to_unstructured"]),
    "nothing": (None, TypeError, ["got None"]),
    "a generator": ((row for row in EYE), TypeError, ["a generator", "list(x)"]),
    "a map": (map(abs, EYE), TypeError, ["a map", "list(x)"]),
    "a dict": ({"a": [1, 2]}, TypeError, ["a dict", "np.stack"]),
    "a set": ({1, 2}, TypeError, ["a set", "no order"]),
    "a dict's values": ({1: 2}.values(), TypeError, ["dict_values", "list(x)"]),
    "a model": (dense(), TypeError, ["a Sequential"]),
}


@pytest.mark.parametrize("thing", REFUSED)
def test_what_is_no_array_of_numbers_is_refused_with_advice(thing):
    given, error, parts = REFUSED[thing]
    with pytest.raises(error, match=r"^Dense: the input") as caught:
        numbers(given, "Dense: the input")
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)


def test_an_array_that_cannot_be_had_is_refused_with_its_own_words():
    class Elsewhere:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("the numbers are on the moon")

    with pytest.raises(TypeError, match=r"^x is not an array: the numbers are on the moon$"):
        numbers(Elsewhere(), "x")


# Every function that takes arrays, and how its message names the argument.
SPARSE = scipy.sparse.csr_array(EYE)
HIDDEN = masked(EYE, EYE)
DOORS = {
    "forward": (lambda x: dense().forward(x), r"Dense \(layer 0\): the input"),
    "call": (lambda x: dense()(x), r"Dense \(layer 0\): the input"),
    "predict": (lambda x: dense().predict(x), r"Dense \(layer 0\): the input"),
    "backward": (
        lambda dy: (m := dense(3, 3)).forward(EYE, training=True) is None or m.backward(dy),
        r"Dense \(layer 0\): the gradient",
    ),
    "words": (lambda x: tn.Sequential([tn.Embedding(5, 2)], 3).forward(x), r"Embedding \(layer 0\): the input"),
    "fit x": (lambda x: fitted(x, [0, 1, 1]), "batches: x"),
    "fit y": (lambda y: fitted(EYE, y), "batches: y"),
    "validation x": (lambda x: fitted(EYE, [0, 1, 1], validation=(x, [0, 1, 1])), "fit: x of validation"),
    "validation y": (lambda y: fitted(EYE, [0, 1, 1], validation=(EYE, y)), "fit: y of validation"),
    "batches": (lambda x: tn.batches(EYE, x, 2), "batches: y"),
    "logits": (lambda z: tn.softmax_cross_entropy(z, [0, 1, 2]), "softmax_cross_entropy: logits"),
    "labels": (lambda t: tn.softmax_cross_entropy(EYE, t), "softmax_cross_entropy: targets"),
    "weights": (
        lambda w: tn.softmax_cross_entropy(EYE, [0, 1, 2], weight=w),
        "softmax_cross_entropy: weight",
    ),
    "a prediction": (lambda y: tn.huber(y, EYE), "huber: prediction"),
    "targets": (lambda t: tn.sigmoid_cross_entropy(EYE, t), "sigmoid_cross_entropy: targets"),
    "accuracy": (lambda p: tn.accuracy(p, [0, 1, 2]), "accuracy: predictions"),
    "a metric's labels": (lambda t: metrics.top_k_accuracy(EYE, t, k=1), "top_k_accuracy: labels"),
    "information": (lambda p: tn.information.entropy(p), "entropy: p"),
    "class weights": (lambda t: tn.balanced_class_weights(t), "balanced_class_weights: labels"),
    "augmentation": (lambda x: tn.data.random_flip(x, np.random.default_rng(0)), "random_flip: batch"),
    "mixup": (lambda x: tn.data.mixup(x, [0], np.random.default_rng(0)), "mixup: x"),
    "gradcheck": (lambda x: tn.gradcheck.check(tn.Dense(2), x), "gradcheck.check: x"),
    "explain": (lambda x: tn.explain(dense(), x, [0], "softmax_cross_entropy"), "explain: x"),
    "plots": (lambda x: tn.plots.image_grid(None, x, [0, 1, 2]), "image_grid: images"),
    "plots of labels": (lambda t: tn.plots.image_grid(None, EYE[None], t), "image_grid: labels"),
    "plots of activations": (lambda x: tn.plots.activations(dense(), x), "activations: x"),
    "initial weights": (
        lambda w: tn.Sequential([tn.Dense(3, init=lambda *_: w)], 3),
        r"Dense \(layer 0\): what init returned",
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_says_what_a_sparse_matrix_and_a_mask_need(door):
    enter, name = DOORS[door]
    with pytest.raises(TypeError, match=rf"^{name}.* is a sparse matrix, csr_array \(3, 3\).* x.toarray\(\)"):
        enter(SPARSE)
    with pytest.raises(ValueError, match=rf"^{name}.* is a masked array with 3 of its 9 numbers hidden"):
        enter(HIDDEN)


def test_a_data_set_of_masked_rows_is_refused_when_a_batch_is_read():
    rows = [masked([1.0, 2], [0, 1]), masked([1.0, 2], [0, 0])]
    with pytest.raises(ValueError, match=r"^batches: a sample is a masked array with 1 of its 2 numbers hidden"):
        next(tn.batches(rows, [0, 1], 2, shuffle=False))


def test_a_file_that_gives_masked_arrays_is_refused_when_a_batch_is_read():
    class Variable:  # as netCDF4 has them
        shape, dtype = (3, 3), np.dtype(float)

        def __len__(self):
            return 3

        def __getitem__(self, rows):
            return HIDDEN[rows]

        def __array__(self, dtype=None, copy=None):
            raise AssertionError("the whole file was read")

    with pytest.raises(ValueError, match=r"^batches: a sample is a masked array with 2 of its 6 numbers hidden"):
        next(tn.batches(Variable(), [0, 1, 1], 2, shuffle=False))


def test_a_table_with_words_is_refused_by_fit_before_anything_is_trained():
    with pytest.raises(TypeError, match=r"^fit: x must hold real numbers, got 'red' in column 'colour', row 0"):
        fitted(TABLE, [0, 1])
    with pytest.raises(TypeError, match=r"^fit: x of validation must hold real numbers, got 'red' in column 'colour'"):
        fitted(EYE, [0, 1, 1], validation=(TABLE, [0, 1]))


# --- shapes ---------------------------------------------------------------------------------------------------

# The shape of a sample, the shape that is handed in for a batch, and what the message must say.
SHAPES = {
    "one vector": (784, (784,), "one sample? x[None]"),
    "one image": ((8, 8, 3), (8, 8, 3), "one sample? x[None]"),
    "one image without channels": ((8, 8, 1), (8, 8), "one sample without its last axis? x[None, ..., None]"),
    "one image with channels first": ((8, 8, 3), (3, 8, 8), "np.moveaxis(x, 0, -1)[None]"),
    "images with channels first": ((6, 8, 3), (4, 3, 6, 8), "np.moveaxis(x, 1, -1)"),
    "sequences with channels first": ((9, 4), (2, 4, 9), "np.moveaxis(x, 1, -1)"),
    "images without channels": ((8, 8, 1), (4, 8, 8), "x[..., None]"),
    "vectors with an axis too many": (5, (4, 5, 1), "drop the last axis: x[..., 0]"),
    "images for vectors": (64, (4, 8, 8), "x.reshape(-1, 64)"),
    "vectors for images": ((8, 8, 1), (4, 64), "x.reshape(-1, 8, 8, 1)"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_batch_of_another_shape_is_told_what_is_likely(case):
    sample, given, advice = SHAPES[case]
    model, x = tn.Sequential([tn.ReLU()], sample), np.zeros(given, np.float32)
    for enter in (model.forward, model.predict, lambda x: model.predict(x, batch_size=1)):
        with pytest.raises(ValueError, match=r"^ReLU \(layer 0\): expected input \(N, ") as caught:
            enter(x)
        assert str(caught.value).endswith(advice)
        assert f"got {given};" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ((5, 4), "one sequence? x[None]"),
        ((9, 4), "one sample? x[None]"),
        ((4,), "one step of one sequence? x[None, None]"),
        ((2, 10, 4), "the model was built for sequences of up to 9, by its input_shape"),
    ],
)
def test_a_batch_of_sequences_of_another_shape_is_told_what_is_likely(given, advice):
    model = tn.Sequential([tn.GRU(2)], (9, 4))
    with pytest.raises(ValueError, match=r"^GRU \(layer 0\): expected input \(N, 9, 4\), got ") as caught:
        model.predict(np.zeros(given))
    assert str(caught.value).endswith(f"got {given}; {advice}")


def test_the_shape_is_looked_at_by_fit_before_anything_is_trained():
    message = r"^Dense \(layer 0\): expected input \(N, 3\), got \(3,\); one sample\? x\[None\]"
    with pytest.raises(ValueError, match=message):
        fitted(np.zeros(3), np.zeros(3, int))
    with pytest.raises(ValueError, match=r"those of validation are \(1, 3\); .* x.reshape\(-1, 3\)"):
        fitted(EYE, [0, 1, 1], validation=(EYE[:, None], [0, 1, 1]))


def test_a_gradient_with_channels_first_is_told_so():
    model = tn.Sequential([tn.ReLU()], (4, 5, 3))
    model.forward(np.zeros((2, 4, 5, 3)), training=True)
    with pytest.raises(ValueError, match=r"\(2, 4, 5, 3\), got \(2, 3, 4, 5\); .*np.moveaxis\(dy, 1, -1\)"):
        model.backward(np.zeros((2, 3, 4, 5)), input_grad=True)


PIXELS, SOFT = np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 3, 4, 5), np.float32)
SOFT[:, 0] = 1
TARGETS = {
    "labels of pixels, channels first": (
        lambda: cross_entropy(np.zeros((2, 4, 5), int), PIXELS),
        "np.moveaxis(logits, 1",
    ),
    "labels of words, channels first": (
        lambda: cross_entropy(np.zeros((2, 4), int), PIXELS[..., 0]),
        "np.moveaxis(logits, 1, -1)",
    ),
    "probabilities, channels first": (lambda: cross_entropy(SOFT, PIXELS), "np.moveaxis(targets, 1, -1)"),
    "one of two, channels first": (
        lambda: tn.mean_squared_error(PIXELS, np.zeros((2, 4, 5, 3))),
        "np.moveaxis(x, 1, -1)",
    ),
    "targets with an axis too many": (lambda: tn.huber(LOGITS[:, 0], [[0]] * 4), "drop the last axis: targets[..., 0]"),
    "labels with an axis too many": (lambda: cross_entropy([[0]] * 4), "drop the last axis: targets[..., 0]"),
    "labels of a metric, channels first": (
        lambda: tn.accuracy(PIXELS, np.zeros((2, 4, 5), int)),
        "np.moveaxis(scores, 1, -1)",
    ),
    "one-hot rows for a metric": (
        lambda: metrics.top_k_accuracy(LOGITS, np.ones((4, 2), int), k=1),
        "labels.argmax(-1)",
    ),
    "pictures, channels first": (lambda: tn.plots.image_grid(np.zeros((2, 3, 8, 8)), [0, 1]), "np.moveaxis(images, 1"),
    "a crop, channels first": (
        lambda: tn.data.random_crop(np.zeros((2, 3, 8, 8)), np.random.default_rng(0)),
        "np.moveaxis(batch, 1, -1)",
    ),
    "a model of images, channels first": (
        lambda: tn.Sequential([tn.Conv2D(4, 3)], (1, 28, 28)),
        "images are (H, W, C): are the channels first in (1, 28, 28)?",
    ),
    "pooling, channels first": (
        lambda: tn.Sequential([tn.MaxPool2D(4)], (3, 8, 8)),
        "are the channels first in (3, 8, 8)?",
    ),
    "one image to flip": (lambda: tn.data.random_flip(np.zeros((8, 8, 3)), np.random.default_rng(0)), "x[None]"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_what_does_not_fit_together_is_told_what_is_likely(case):
    enter, advice = TARGETS[case]
    with pytest.raises(ValueError) as caught:
        enter()
    assert advice in str(caught.value)


# --- labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels", [np.array([True, False] * 2), [True] * 4, pandas.Series([True] * 4, dtype="boolean")]
)
def test_bools_as_classes_are_told_the_two_losses_of_two_classes(labels):
    with pytest.raises(TypeError, match=r"dtype bool; for two classes, targets.astype\(int\).* sigmoid_cross_entropy"):
        cross_entropy(labels)
    value, _ = tn.sigmoid_cross_entropy(LOGITS[:, 0], labels)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)


def test_bools_as_one_hot_rows_are_told_argmax():
    with pytest.raises(TypeError, match=r"dtype bool; of one-hot rows, targets.argmax\(-1\)"):
        cross_entropy(np.eye(2, dtype=bool)[[0, 1, 1, 0]])


def test_labels_in_objects_are_taken_and_a_wrong_one_is_still_named():
    labels = np.array([0, 1, np.int8(1), 0], object)
    np.testing.assert_array_equal(cross_entropy(labels)[1], cross_entropy(labels.astype(int))[1])
    with pytest.raises(ValueError, match=r"the target at position \(2,\) is 7, but the 2 classes are from 0 to 1"):
        cross_entropy(np.array([0, 1, 7, 0], object))
    with pytest.raises(ValueError, match=r"must sum to 1, but those at position \(1,\) sum to 2"):
        cross_entropy(np.array([[0.0, 1], [1.0, 1], [0, 1.0], [0, 1.0]], object))


# --- names ----------------------------------------------------------------------------------------------------


def explained(loss):
    return tn.explain(dense(), EYE, [0, 1, 1], loss)


NAMES = {
    "softmax at a Dense": (lambda: tn.Dense(2, activation="softmax"), ValueError, ["loss", "Softmax()"]),
    "log-softmax": (lambda: tn.Conv2D(2, 3, activation="log_softmax"), ValueError, ["loss", "Softmax()"]),
    "celu": (lambda: tn.Dense(2, activation="celu"), ValueError, ["'celu'", "18_your_own_layer"]),
    "mish": (lambda: tn.Dense(2, activation="mish"), ValueError, ["18_your_own_layer"]),
    "linear": (lambda: tn.Dense(2, activation="linear"), ValueError, ["leave activation out"]),
    "none as text": (lambda: tn.Dense(2, activation="none"), ValueError, ["leave activation out"]),
    "capitals": (lambda: tn.Dense(2, activation="LeakyReLU"), ValueError, ["Did you mean 'leaky_relu'?"]),
    "PyTorch's name": (lambda: tn.Dense(2, activation="SiLU"), ValueError, ["Did you mean 'swish'?"]),
    "a layer's class": (lambda: tn.Dense(2, activation=tn.ReLU), TypeError, ["Did you mean 'relu'?"]),
    "a layer": (lambda: tn.Dense(2, activation=tn.ReLU()), TypeError, ["a layer ReLU", "Did you mean 'relu'?"]),
    "a function": (lambda: tn.Dense(2, activation=np.tanh), TypeError, ["Did you mean 'tanh'?"]),
    "Xavier's": (lambda: tn.Sequential([tn.Dense(2, init="xavier_uniform")], 3), ValueError, ["mean 'glorot'?"]),
    "Kaiming He's": (lambda: tn.Sequential([tn.Dense(2, init="kaiming_normal")], 3), ValueError, ["mean 'he'?"]),
    "normal": (lambda: tn.Sequential([tn.Dense(2, init="normal")], 3), ValueError, ["lambda shape, fan_in"]),
    "padding in capitals": (lambda: tn.Conv2D(2, 3, padding="SAME"), ValueError, ['did you mean "same"?']),
    "full padding": (lambda: tn.Conv2D(2, 3, padding="full"), ValueError, ["'full'", "padding=2 for 3"]),
    "mirrored padding": (lambda: tn.Conv2D(2, 3, padding="reflect"), ValueError, ["zeros", "np.pad"]),
    "padding of three sides": (
        lambda: tn.Conv2D(2, 3, padding=((1, 2), 0)),
        ValueError,
        ["((1, 2), 0)", "((above, below), (left, right))"],
    ),
    "padding of four numbers": (lambda: tn.Conv2D(2, 3, padding=(1, 2, 0, 1)), ValueError, ["((above, below), "]),
    "no padding": (lambda: tn.Conv2D(2, 3, padding=None), TypeError, ['"valid"', "None"]),
    "half a pixel": (lambda: tn.Conv2D(2, 3, padding=0.5), TypeError, ['"valid"', "whole number", "0.5"]),
    "softmax over another axis": (
        lambda: tn.Softmax(axis=1),
        ValueError,
        ["last axis", "axis=1", "np.moveaxis(x, 1, -1)"],
    ),
    "bce without a model": (
        lambda: tn.gradcheck.check(tn.Dense(2), EYE, EYE[:, :2], loss="bce"),
        ValueError,
        ["'bce' is 'sigmoid_cross_entropy', for logits, or 'binary_cross_entropy', for probabilities: give one"],
    ),
    "bce of what nobody knows": (
        lambda: tn.explain(tn.Sequential([tn.Dense(2), tn.Tanh()], 3), EYE, EYE[:, :2], "bce"),
        ValueError,
        ["for probabilities; what the model's last layer gives, it does not say"],
    ),
    "cross-entropy of one output": (
        lambda: tn.explain(dense(outputs=1), EYE, EYE[:, :1], "cross_entropy"),
        ValueError,
        ["is between classes, and the model has one output; for a yes or no, give 'bce'"],
    ),
    "focal": (lambda: explained("focal"), ValueError, ["'softmax_focal', for classes, or 'sigmoid_focal'"]),
    "a slip": (lambda: explained("sofmax_cross_entropy"), ValueError, ["Did you mean 'softmax_cross_entropy'?"]),
    "a metric's slip": (lambda: fitted(EYE, [0, 1, 1], metrics="acuracy"), ValueError, ["Did you mean 'accuracy'?"]),
    "a loss's slip": (lambda: fitted(EYE, [0, 1, 1], metrics="hubber"), ValueError, ["Did you mean 'huber'?"]),
    "kappa": (lambda: fitted(EYE, [0, 1, 1], metrics="kappa"), ValueError, ["a function (prediction, target)"]),
    "perplexity": (lambda: fitted(EYE, [0, 1, 1], metrics="perplexity"), ValueError, ["np.exp of its cross-entropy"]),
    "batchmean": (lambda: cross_entropy([0] * 4, reduction="batchmean"), ValueError, ['"mean" of kl_divergence']),
    "no reduction": (lambda: cross_entropy([0] * 4, reduction=None), ValueError, ['reduction="none"']),
    "average": (lambda: cross_entropy([0] * 4, reduction="average"), ValueError, ['that is "mean" here']),
    "half precision": (lambda: tn.Sequential([tn.Dense(2)], 3, dtype="float16"), TypeError, ["float32 or float64"]),
    "brain floats": (lambda: tn.Sequential([tn.Dense(2)], 3, dtype="bfloat16"), TypeError, ["float32 or float64"]),
}


OPTIONS = {
    "Keras's bias": (lambda: tn.Conv2D(2, 3, use_bias=False), ["Conv2D: ", "'use_bias'", "Did you mean 'bias'?"]),
    "Keras's strides": (lambda: tn.Conv1D(2, 3, strides=2), ["Conv1D: ", "Did you mean 'stride'?"]),
    "PyTorch's hidden size": (lambda: tn.LSTM(hidden_size=8), ["LSTM: ", "'hidden_size'", "Did you mean 'units'?"]),
    "PyTorch's batch_first": (lambda: tn.GRU(8, batch_first=True), ["GRU: ", "(N, T, C)"]),
    "PyTorch's p": (lambda: tn.Dropout(p=0.5), ["Dropout: ", "it takes (rate). Did you mean 'rate'?"]),
    "channels in": (lambda: tn.Conv2D(in_channels=1, filters=2, kernel_size=3), ["'in_channels'", "No layer is told"]),
    "Keras's learning rate": (lambda: tn.Adam(dense(), learning_rate=1e-3), ["Adam: ", "Did you mean 'lr'?"]),
    "a slip": (lambda: tn.SGD(dense(), weightdecay=0.1), ["SGD: ", "Did you mean 'weight_decay'?"]),
    "no shape": (
        lambda: tn.Sequential([tn.Dense(2)]),
        ["missing a required argument: 'input_shape'; it takes (layers, "],
    ),
    "Keras's validation": (lambda: fitted(EYE, [0, 1, 1], validation_data=1), ["fit: ", "Did you mean 'validation'?"]),
    "of a layer of one's own": (lambda: Mine(units=3), ["Mine: ", "'units'", "it takes (scale=1)."]),
    "Linear's two numbers": (lambda: tn.Dense(8, 3), ["got 3. No layer is told what goes into it"]),
    "LSTM's two numbers": (lambda: tn.LSTM(8, 3), ["got 3; no layer is told what goes into it"]),
}
VALUES = {
    "LayerNorm's number": (lambda: tn.LayerNorm(64), ["eps is a small number", "no layer is told its channels"]),
    "BatchNorm2d's number": (lambda: tn.BatchNorm(64), ["momentum", "got 64; no layer is told its channels"]),
    "a sequence of any length": (lambda: tn.Sequential([tn.GRU(2)], (None, 4)), ["(None, 4)", "the longest length"]),
    "an LSTM's end under an LSTM": (
        lambda: tn.Sequential([tn.LSTM(2, return_sequences=False), tn.LSTM(2)], (5, 3)),
        ["LSTM (layer 1): expected sequences", "return_sequences=False"],
    ),
}


class Mine(tn.Layer):
    def __init__(self, scale=1):
        super().__init__()
        self.scale = scale


@pytest.mark.parametrize("case", [*OPTIONS, *VALUES])
def test_arguments_as_others_have_them_are_told_what_they_are_here(case):
    enter, parts = (OPTIONS | VALUES)[case]
    with pytest.raises((TypeError, ValueError) if case in VALUES else TypeError) as caught:
        enter()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("case", NAMES)
def test_a_name_from_elsewhere_is_told_what_it_is_here(case):
    enter, error, parts = NAMES[case]
    with pytest.raises(error) as caught:
        enter()
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)


def test_no_function_of_elsewhere_is_taken_for_a_slip():
    for name in ("celu", "mish", "glu", "linear", "identity", "none"):
        with pytest.raises(ValueError, match=f"unknown activation '{name}'") as caught:
            tn.Dense(2, activation=name)
        assert "Did you mean" not in str(caught.value)


def test_softmax_takes_the_axis_that_it_has():
    np.testing.assert_array_equal(tn.Sequential([tn.Softmax(axis=-1)], 2).forward([[0, 0]]), [[0.5, 0.5]])


# --- steps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("constant", tn.constant(0.1)),
        ("step_decay", tn.step_decay(0.1, 5)),
        ("cosine", tn.cosine(0.1, 10)),
        ("cosine", tn.cosine(0.1, 10, warmup=2)),
        ("one_cycle", tn.one_cycle(0.1, 10)),
    ],
)
def test_a_schedule_says_what_is_no_step(name, schedule):
    with pytest.raises(ValueError, match=f"^{name}: step must be at least 0, got -1$"):
        schedule(-1)
    for step in (1.5, True, None, "1"):
        with pytest.raises(TypeError, match=f"^{name}: step must be a whole number, got {step!r}$"):
            schedule(step)
    assert schedule(np.int32(3)) == schedule(3)
    assert schedule(10**6) >= 0


# --- tensors --------------------------------------------------------------------------------------------------


def test_tensors_that_share_no_memory_with_an_array_are_told_what_to_do():
    torch = pytest.importorskip("torch")
    ones = torch.ones(2, 3)
    cases = [
        (ones.bfloat16(), r"is of dtype bfloat16, which NumPy does not have; give x\.float\(\)$"),
        (ones.requires_grad_(), r"needs a gradient; give x\.detach\(\)$"),
        (ones.bfloat16(), r"needs a gradient and is of dtype bfloat16, .* give x\.detach\(\)\.float\(\)$"),
        (torch.ones(2, 3, device="meta"), "on the device meta, which holds no numbers$"),
        (torch.eye(3).to_sparse(), r"is sparse \(torch.sparse_coo\); give x\.to_dense\(\)$"),
        ([torch.ones(3), torch.ones(3, requires_grad=True)], r", at 1, is .* needs a gradient; give x\.detach\(\)$"),
    ]
    for tensor, message in cases:
        with pytest.raises(TypeError, match=message):
            dense().predict(tensor)
        with pytest.raises(TypeError, match=message):
            tn.softmax_cross_entropy(tensor, [0, 1])
    np.testing.assert_array_equal(dense().predict(torch.eye(3)), dense().predict(EYE))
    np.testing.assert_array_equal(dense().predict([torch.ones(3).half()] * 2), dense().predict(np.ones((2, 3))))


def test_a_tensor_on_a_gpu_is_told_to_come_to_the_cpu():
    class Device:
        type = "cuda"

        def __str__(self):
            return "cuda:0"

    class Tensor:  # what of PyTorch's is asked for, since no GPU is needed to run this
        requires_grad, layout, dtype, device = True, "torch.strided", "torch.float32", Device()

    message = r"^x is a PyTorch tensor that needs a gradient and is on the device cuda:0; give x\.detach\(\)\.cpu\(\)$"
    with pytest.raises(TypeError, match=message):
        numbers(Tensor(), "x")


def test_a_loss_of_pytorch_is_told_that_it_gives_no_gradient():
    torch = pytest.importorskip("torch")
    for loss in (torch.nn.MSELoss(), torch.nn.functional.mse_loss):
        with pytest.raises(TypeError, match=r"its gradient as well, and PyTorch's do not.* 'mean_squared_error'\?$"):
            explained(loss)


def test_an_optimizer_of_pytorch_is_refused_for_it_would_train_nothing():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.1)
    with pytest.raises(TypeError, match=r"^fit: optimizer must be .* Adam\(model, lr=1e-3\), got PyTorch's$"):
        tn.fit(dense(), EYE, [0, 1, 1], loss="softmax_cross_entropy", optimizer=optimizer, epochs=1, progress=False)


# --- what tells something -------------------------------------------------------------------------------------


def test_a_summary_shows_itself_as_print_shows_it():
    summary = dense().summary()
    assert isinstance(summary, str)
    assert repr(summary) == str(summary)
    assert "\n" in repr(summary)
