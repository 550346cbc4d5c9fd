"""Mistakes in building or feeding a model are refused at once, by a message that names the place."""

import math
from functools import partial

import numpy as np
import pytest

import tinynet as tn


def model(*layers, input_shape=(8, 8, 1), **options):
    return tn.Sequential(list(layers), input_shape=input_shape, **options)


def digits_model():
    return model(tn.Conv2D(4, 3, activation="relu"), tn.Flatten(), tn.Dense(10))


def fed(x):
    return digits_model().forward(x)


LOGITS = np.zeros((4, 10), np.float32)
IMAGES = np.zeros((4, 8, 8, 1), np.float32)
LABELS = np.zeros(4, int)


def fitted(m=None, y=LABELS, loss="softmax_cross_entropy", lr=0.1, **options):
    m = m or digits_model()
    tn.fit(m, IMAGES, y, loss=loss, optimizer=tn.SGD(m, lr), epochs=1, progress=False, **options)


# What is done, the error, and what its message must say: the layer and its index, what was expected, what was given.
MISTAKES = {
    "dense on images": (
        lambda: fitted(model(tn.Dense(10))),
        ValueError,
        ["softmax_cross_entropy", "(4, 8, 8, 10)", "(4,)", "put a Flatten() before its Dense"],
    ),
    "dense on images, one-hot rows": (
        lambda: fitted(model(tn.Dense(10)), y=np.eye(10)[LABELS], loss="mean_squared_error"),
        ValueError,
        ["mean_squared_error", "(4, 8, 8, 10)", "(4, 10)", "put a Flatten() before its Dense"],
    ),
    "conv on vectors": (
        lambda: model(tn.Dense(5), tn.Conv2D(4, 3), input_shape=64),
        ValueError,
        ["Conv2D (layer 1)", "(H, W, C)", "(5,)"],
    ),
    "conv after flatten": (
        lambda: model(tn.Flatten(), tn.Conv2D(4, 3)),
        ValueError,
        ["Conv2D (layer 1)", "(H, W, C)", "(64,)"],
    ),
    "window larger than image": (
        lambda: model(tn.Conv2D(4, 3), tn.Conv2D(4, 9)),
        ValueError,
        ["Conv2D (layer 1)", "window 9", "image 6", "padding"],
    ),
    "pool larger than image": (lambda: model(tn.MaxPool2D(9)), ValueError, ["MaxPool2D (layer 0)", "9", "8"]),
    "pool on vectors": (lambda: model(tn.MaxPool2D(2), input_shape=64), ValueError, ["MaxPool2D (layer 0)", "(64,)"]),
    "reshape to another size": (
        lambda: model(tn.Reshape((5, 5))),
        ValueError,
        ["Reshape (layer 0)", "(8, 8, 1)", "(5, 5)"],
    ),
    "unknown activation": (
        lambda: model(tn.Flatten(), tn.Dense(10, activation="rleu")),
        ValueError,
        ["Dense", "'rleu'", "'relu'", "did you mean"],
    ),
    "activation that is no name": (
        lambda: tn.Conv2D(4, 3, activation=max),
        TypeError,
        ["Conv2D", "activation", "relu"],
    ),
    "unknown initializer": (
        lambda: model(tn.Flatten(), tn.Dense(10, init="xavier")),
        ValueError,
        ["Dense (layer 1)", "'glorot'", "'xavier'"],
    ),
    "no units": (lambda: tn.Dense(0), ValueError, ["Dense: units", "at least 1", "0"]),
    "units not whole": (lambda: tn.Dense(2.5), TypeError, ["Dense: units", "whole number", "2.5"]),
    "stride of zero": (lambda: tn.Conv2D(4, 3, stride=0), ValueError, ["Conv2D: stride", "at least 1", "0"]),
    "kernel of three sizes": (
        lambda: tn.Conv2D(4, (3, 3, 3)),
        ValueError,
        ["Conv2D: kernel_size", "(3, 3, 3)", "pair"],
    ),
    "unknown padding": (lambda: tn.Conv2D(4, 3, padding="full"), ValueError, ["Conv2D: padding", '"same"', "'full'"]),
    "negative padding": (lambda: tn.Conv2D(4, 3, padding=-1), ValueError, ["Conv2D: padding", "at least 0", "-1"]),
    "dropout of everything": (lambda: tn.Dropout(1.5), ValueError, ["Dropout", "1.5"]),
    "layer left uncalled": (lambda: model(tn.Flatten), TypeError, ["layer 0", "Flatten(...)"]),
    "not a layer": (lambda: model(tn.Flatten(), "relu"), TypeError, ["layer 1", "'relu'"]),
    "layers without a list": (
        lambda: tn.Sequential(tn.Flatten(), tn.Dense(10)),
        TypeError,
        ["Sequential", "list of layers", "a Flatten alone"],
    ),
    "no layers": (lambda: model(), ValueError, ["Sequential", "empty"]),
    "one layer twice": (lambda: model(*[tn.ReLU()] * 2), ValueError, ["layer 1", "twice"]),
    "a layer of another model, for another shape": (
        lambda: model(digits_model().layers[-1]),
        ValueError,
        ["Dense (layer 0)", "another model", "weight", "(N, 8, 8, 1)"],
    ),
    "batch size within the input shape": (
        lambda: model(tn.Flatten(), input_shape=(None, 8, 8)),
        TypeError,
        ["Flatten (layer 0)", "batch axis", "None"],
    ),
    "no precision": (lambda: model(tn.Flatten(), dtype=None), TypeError, ["float32", "float64", "None"]),
    "half precision": (lambda: model(tn.Flatten(), dtype="float16"), TypeError, ["float32", "float64", "float16"]),
    "images without channels": (
        lambda: fed(IMAGES[..., 0]),
        ValueError,
        ["Conv2D (layer 0)", "(N, 8, 8, 1)", "(4, 8, 8)"],
    ),
    "images of another width": (
        lambda: fed(IMAGES[:, :, :7]),
        ValueError,
        ["Conv2D (layer 0)", "(N, 8, 8, 1)", "(4, 8, 7, 1)"],
    ),
    "channels first": (
        lambda: fed(IMAGES.transpose(0, 3, 1, 2)),
        ValueError,
        ["Conv2D (layer 0)", "(N, 8, 8, 1)", "(4, 1, 8, 8)"],
    ),
    "one image without a batch": (
        lambda: fed(IMAGES[0]),
        ValueError,
        ["Conv2D (layer 0)", "(N, 8, 8, 1)", "(8, 8, 1)"],
    ),
    "text as input": (lambda: fed(np.array([["a"]])), TypeError, ["Conv2D (layer 0)", "real numbers", "<U1"]),
    "complex input": (lambda: fed(IMAGES * 1j), TypeError, ["Conv2D (layer 0)", "real numbers", "complex"]),
    "ragged input": (lambda: fed([[1.0], [1.0, 2.0]]), ValueError, ["Conv2D (layer 0)", "not an array"]),
    "gradient of another shape": (
        lambda: (m := digits_model()).forward(IMAGES, training=True) is None or m.backward(np.ones((4, 9))),
        ValueError,
        ["Dense (layer 2)", "(4, 10)", "(4, 9)"],
    ),
    "backward before forward": (
        lambda: digits_model().backward(LOGITS),
        RuntimeError,
        ["Dense (layer 2)", "forward(x, training=True)"],
    ),
    "a layer never built": (lambda: tn.Dense(3).forward(LOGITS), RuntimeError, ["Dense", "not built"]),
    "predict with no batch": (lambda: digits_model().predict(IMAGES, batch_size=0), ValueError, ["batch_size", "0"]),
    "floats as labels": (
        lambda: tn.softmax_cross_entropy(LOGITS, np.array([0.0, 1.0, 2.0, 3.0])),
        TypeError,
        ["integers", "float64"],
    ),
    "labels from one": (
        lambda: tn.softmax_cross_entropy(LOGITS, np.array([1, 2, 3, 10])),
        ValueError,
        ["position (3,)", "10", "0 to 9", "from 1"],
    ),
    "one-hot rows of integers": (
        lambda: tn.softmax_cross_entropy(LOGITS, np.eye(10, dtype=int)[:4]),
        ValueError,
        ["(4, 10)", "(4,)", "one-hot"],
    ),
    "labels that are words": (
        lambda: tn.softmax_cross_entropy(LOGITS, ["cat", "dog", "cat", "cat"]),
        TypeError,
        ["integer labels", "<U3", "np.unique"],
    ),
    "a label that is missing": (
        lambda: tn.softmax_cross_entropy(LOGITS, [0, 1, np.nan, 2]),
        TypeError,
        ["integers", "float64", "NaN"],
    ),
    "two classes with one logit": (
        lambda: tn.softmax_cross_entropy(LOGITS[:, :1], [0, 1, 0, 1]),
        ValueError,
        ["position (1,)", "the one class is 0", "sigmoid_cross_entropy"],
    ),
    "a yes and a no without their axis": (
        lambda: tn.sigmoid_cross_entropy(LOGITS[:, :1], [0, 1, 0, 1]),
        ValueError,
        ["(4, 1)", "(4,)", "targets[..., None]"],
    ),
    "class labels for squares": (
        lambda: tn.mean_squared_error(LOGITS, LABELS),
        ValueError,
        ["(4, 10)", "(4,)", "np.eye(10)[targets]"],
    ),
    "logits that are images still": (
        lambda: fitted(model(tn.Conv2D(10, 3))),
        ValueError,
        ["(4, 6, 6, 10)", "(4,)", "end in (N, C)"],
    ),
    "too few labels": (lambda: tn.softmax_cross_entropy(LOGITS, np.zeros(3, int)), ValueError, ["(4,)", "(3,)"]),
    "-1 for unknown labels": (
        lambda: tn.softmax_cross_entropy(LOGITS, np.array([0, -1, 2, 3])),
        ValueError,
        ["position (1,)", "-1", "ignore_index=-1"],
    ),
    "optimizer without a model": (lambda: tn.SGD(digits_model().parameters(), lr=0.1), TypeError, ["SGD", "model"]),
    "an optimizer's class": (
        lambda: tn.fit(digits_model(), IMAGES, LABELS, loss="mean_squared_error", optimizer=tn.Adam, epochs=1),
        TypeError,
        ["fit", "optimizer", "Adam(model"],
    ),
    "a callback's class": (
        lambda: fitted(callbacks=[tn.EarlyStopping], validation=(IMAGES, LABELS)),
        TypeError,
        ["fit", "callback", "class EarlyStopping", "EarlyStopping(...)"],
    ),
    "a metric of every sample": (
        lambda: fitted(metrics={"right": lambda p, t: p.argmax(1) == t}),
        TypeError,
        ["fit", "'right'", "a number", "shape (4,)"],
    ),
    "a metric without a result": (
        lambda: fitted(metrics={"right": lambda p, t: None}),
        TypeError,
        ["'right'", "a number", "None"],
    ),
    "a loss without its gradient": (
        lambda: fitted(loss=lambda p, t: 0.5),
        ValueError,
        ["fit", "pair (value, gradient)", "a float"],
    ),
    "a loss that was told to leave out the gradient": (
        lambda: fitted(loss=partial(tn.softmax_cross_entropy, grad=False)),
        ValueError,
        ["fit", "pair (value, gradient)", "None"],
    ),
    "a loss of every sample": (
        lambda: fitted(loss=partial(tn.softmax_cross_entropy, reduction="none")),
        ValueError,
        ["fit", "one number", "(4,)", 'reduction="mean"'],
    ),
    "validation of another shape": (
        lambda: fitted(validation=(IMAGES[:, :7], LABELS)),
        ValueError,
        ["fit", "validation", "(8, 8, 1)", "(7, 8, 1)"],
    ),
    "negative learning rate": (lambda: tn.Adam(digits_model(), lr=-1.0), ValueError, ["Adam", "lr", "-1"]),
    "more images than labels": (
        lambda: tn.batches(IMAGES, np.zeros(3, int), batch_size=2),
        ValueError,
        ["4", "3"],
    ),
    "a callback as Keras has it": (
        lambda: fitted(callbacks=[lambda epoch, logs: None]),
        TypeError,
        ["fit", "a function of a Training", "(epoch, logs)", "missing", "'logs'"],
    ),
    "a schedule as Keras has it": (
        lambda: fitted(schedule=lambda epoch, lr: lr),
        TypeError,
        ["fit", "schedule", "a function of the step's number", "(epoch, lr)", "'lr'"],
    ),
    "a schedule that is no number": (
        lambda: fitted(schedule=lambda step: math.nan),
        ValueError,
        ["fit", "schedule(0)", "at least 0", "nan"],
    ),
    "augment that returns the targets, too": (
        lambda: fitted(augment=lambda x, y: (x, y)),
        TypeError,
        ["fit", "augment(x, rng) returned a tuple", "augment(x, y, rng)"],
    ),
    "two writers of one file": (
        lambda: fitted(callbacks=[tn.CSVLog("one"), tn.Checkpoint("one")]),
        ValueError,
        ["fit", "CSVLog and Checkpoint", "one", "a file of its own"],
    ),
    "a checkpoint that a callback writes, too": (
        lambda: fitted(checkpoint="./one", callbacks=[tn.Checkpoint("one")]),
        ValueError,
        ["fit", "checkpoint and Checkpoint", "a file of its own"],
    ),
    "saving as a folder": (lambda: tn.save(digits_model(), "."), IsADirectoryError, ["is a folder, not a file"]),
    "threads that are not there": (lambda: tn.set_num_threads(0), ValueError, ["threads", "0"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_a_message_that_names_the_place(mistake):
    action, error, parts = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        action()
    assert type(caught.value) is error
    for part in parts:
        assert part.lower() in str(caught.value).lower()


def test_what_is_wrong_with_the_validation_says_that_it_is_there():
    with pytest.raises(ValueError, match="from 1") as caught:
        fitted(validation=(IMAGES, LABELS + 10))
    assert caught.value.__notes__ == ["fit: this is about the validation set"]


def test_a_prediction_that_grew_without_bounds_points_at_the_learning_rate():
    m = model(tn.Flatten(), tn.Dense(1, bias=False), input_shape=(1, 1, 1), dtype="float64")
    m.flat_values[...] = 1
    x, y = np.full((4, 1, 1, 1), 1e200), np.zeros((4, 1))
    with pytest.raises(tn.NonFiniteError, match=r"in the loss: its predictions reach 1e\+200, and the learning rate"):
        tn.fit(m, x, y, loss="mean_squared_error", optimizer=tn.SGD(m, 1.0), epochs=1, progress=False)
