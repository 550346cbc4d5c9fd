"""A user's program, as a type checker sees it: `mypy` reads this file, and nothing runs it."""

from functools import partial
from typing import Any, assert_type

import numpy as np

import tinynet as tn

(x_train, y_train), (x_test, y_test) = tn.data.digits()
assert_type(x_train, np.ndarray)
model = tn.Sequential([tn.Flatten(), tn.Dense(10)], input_shape=(8, 8, 1), seed=0)

# A loop of one's own.
optimizer = tn.SGD(model, lr=0.1, momentum=0.9, nesterov=True, clip_norm=1.0)
schedule = tn.cosine(0.1, steps=1000, warmup=10)
assert_type(schedule(0), float)
for step, (x, y) in enumerate(tn.batches(x_train, y_train, batch_size=64, seed=(0, 1))):
    optimizer.lr = schedule(step)
    loss, dlogits = tn.softmax_cross_entropy(model.forward(x, training=True), y)
    model.backward(dlogits)
    optimizer.step()
assert_type(optimizer.lr, float)
optimizer.load_state_dict(optimizer.state_dict())
adam = tn.AdamW(model, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
assert_type(adam.betas, tuple[float, float])


# fit, with callbacks.
def watch(training: tn.training.Training) -> None:
    training.stop = training.history["loss"][-1] < 0.01 or training.loss > 10.0


def augment(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return tn.data.cutout(tn.data.random_shift(x, rng, pixels=(0, 1)), rng, size=2)


history = tn.fit(
    model,
    x_train,
    y_train,
    loss="softmax_cross_entropy",
    optimizer=adam,
    epochs=2,
    validation=(x_test, y_test),
    metrics={"accuracy": "accuracy", "top 3": partial(tn.metrics.top_k_accuracy, k=3)},
    augment=augment,
    schedule=schedule,
    callbacks=[tn.EarlyStopping(patience=3), tn.Checkpoint("best", monitor="val_loss", mode="min"), watch],
)
assert_type(history["val_accuracy"], list[float])
history.plot("history.png")

# Afterwards.
assert_type(tn.accuracy(model.predict(x_test), y_test), float)
assert_type(tn.metrics.precision_recall_f1([0, 1], [0, 1], average="macro"), tuple[float, float, float])
precision, recall, f1 = tn.metrics.precision_recall_f1([0, 1], [0, 1])
assert_type(precision, np.ndarray)
assert_type(tn.metrics.calibration_bins([[0.9, 0.1]], [0]).count, np.ndarray)
assert_type(tn.balanced_class_weights([0, 0, 1]), np.ndarray)
assert_type(tn.information.entropy([0.5, 0.5], base=2), float | np.ndarray)
assert_type(tn.show_config("dict"), dict[str, str])
assert_type(tn.gradcheck.check(tn.Dense(3), (5, 4)).passed, bool)
sentences, labels = tn.data.movie_reviews()
vocabulary = tn.data.Vocabulary(sentences, min_count=2)
assert_type(vocabulary.encode(sentences, length=32), np.ndarray)
(texts, stars), _ = tn.data.imdb()
assert_type(texts, list[str])
_, (x_validation, y_validation), _ = tn.data.pneumonia_mnist()
assert_type(x_validation, np.ndarray)
pieces = tn.data.BPE(texts, size=8000, lower=True, special=["<mask>"])
assert_type(pieces.sequences(texts), list[np.ndarray])
assert_type(pieces.special["<mask>"], int)
tn.save(model, "model")
assert_type(tn.load(model, "model", strict=False).read, list[str])
assert_type(tn.load("model"), tn.Sequential)
state: dict[str, Any] = adam.state_dict()

# A loss by itself: a number and an array, unless its options say otherwise.
value, gradient = tn.huber(
    model.predict(x_test), np.zeros((len(x_test), 10)), delta=0.5, sample_weight=[1.0] * len(x_test)
)
assert value > 0
assert gradient.shape == (len(x_test), 10)
