"""fit without y: a DataLoader, a list or a function makes the batches; and a thread reads what is slow ahead."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import tinynet as tn
from tinynet.data.batches import ahead

rng = np.random.default_rng(0)
Y = rng.integers(0, 3, 50)
X = (rng.standard_normal((50, 4)) + np.eye(3, 4)[Y]).astype(np.float32)
S = rng.integers(1, 4, 50).astype(float)
BATCHES = [(X[k : k + 16], Y[k : k + 16]) for k in range(0, 50, 16)]
WEIGHED = [(X[k : k + 16], Y[k : k + 16], S[k : k + 16]) for k in range(0, 50, 16)]


def trained(x, y=None, **options):
    model = tn.Sequential([tn.Dense(3)], 4, seed=0)
    options = {"loss": "cross_entropy", "epochs": 3, "progress": False, **options}
    history = tn.fit(model, x, y, optimizer=tn.SGD(model, 0.1), **options)
    return model.flat_values, {name: values for name, values in history.items() if name != "seconds"}


def by_hand(batches, epochs=3):
    model = tn.Sequential([tn.Dense(3)], 4, seed=0)
    optimizer = tn.SGD(model, 0.1)
    for _ in range(epochs):
        for x, y, *s in batches:
            weights = {"sample_weight": s[0]} if s else {}
            _, gradient = tn.softmax_cross_entropy(model.forward(x, training=True), y, **weights)
            model.backward(gradient)
            optimizer.step()
    return model.flat_values


def loader():
    return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=16)


@pytest.mark.parametrize(
    "source", [BATCHES, tuple(BATCHES)[:], loader(), partial(iter, BATCHES), lambda: (pair for pair in BATCHES)]
)
def test_whatever_makes_the_batches_they_are_trained_on_in_its_order(source):
    source = list(source) if isinstance(source, tuple) else source
    found, history = trained(source, metrics=["accuracy", "f1"], validation=source)
    np.testing.assert_array_equal(found, by_hand(BATCHES))
    expected = trained(BATCHES, metrics=["accuracy", "f1"], validation=(X, Y))[1]
    assert history == expected
    assert len(history["val_f1"]) == 3


def test_a_list_of_two_is_still_a_pair():
    assert trained(X, Y, validation=[X, Y])[1] == trained(X, Y, validation=(X, Y))[1]


def test_weights_come_with_the_batches():
    found, history = trained(WEIGHED, validation=WEIGHED, metrics="accuracy")
    np.testing.assert_array_equal(found, by_hand(WEIGHED))
    assert history["val_loss"] == trained(WEIGHED, validation=(X, Y, S))[1]["val_loss"]


def test_sequences_of_unequal_length_come_in_batches_too():
    x, lengths = rng.standard_normal((20, 5, 4)).astype(np.float32), rng.integers(1, 6, 20)
    batches = [((x[:10], lengths[:10]), Y[:10]), [(torch.tensor(x[10:]), torch.tensor(lengths[10:])), Y[10:20]]]

    def run(x, y=None, **options):
        model = tn.Sequential([tn.LSTM(4, return_sequences=False), tn.Dense(3)], (5, 4), seed=0)
        tn.fit(model, x, y, loss="cross_entropy", optimizer=tn.SGD(model, 0.1), epochs=1, progress=False, **options)
        return model, tn.evaluate(model, x, y, loss="cross_entropy", metrics="accuracy")

    model, found = run(batches)
    expected = tn.evaluate(model, (x, lengths), Y[:20], loss="cross_entropy", metrics="accuracy")
    assert found == pytest.approx(expected, rel=1e-6)


def test_targets_may_be_what_only_the_loss_understands():
    given = []

    def loss(prediction, targets):  # each sample has as many right classes as it likes
        given.append(targets)
        hit = np.zeros_like(prediction)
        for row, classes in zip(hit, targets, strict=True):
            row[classes] = 1
        return tn.sigmoid_cross_entropy(prediction, hit)

    y = [[1], [0, 2], []]
    found, history = trained([(X[:3], y)], loss=loss, epochs=1)
    assert given == [y]
    expected = trained(X[:3], np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0]]), loss="sigmoid_cross_entropy", epochs=1)
    assert history["loss"] == pytest.approx(expected[1]["loss"])
    with pytest.raises(ValueError, match=r"mean_squared_error: targets is not an array.* must be padded"):
        model = tn.Sequential([tn.Dense(1)], 4)
        tn.fit(model, X[:3], y, loss="mse", optimizer=tn.SGD(model, 0.1), epochs=1, progress=False)


def test_augment_and_nonfinite_errors_know_them():
    np.testing.assert_array_equal(
        trained(BATCHES, augment=lambda x, rng: 2 * x)[0], by_hand([(2 * x, y) for x, y in BATCHES])
    )
    broken = [BATCHES[0], (np.full((4, 4), np.nan), Y[:4])]
    with pytest.raises(tn.NonFiniteError, match=r"epoch 1, step 2: .* the input is not finite") as caught:
        trained(broken)
    assert caught.value.samples == ()


def test_samples_in_place_of_batches_are_told_how_to_be_some():
    with pytest.raises(TypeError, match=r"the targets of batch 0 must be \(N, ...\), got .*x\[None\] and \[y\]"):
        trained([(X[0], Y[0]), (X[1], Y[1])])


def test_evaluate_takes_them():
    model = tn.Sequential([tn.Dense(3)], 4, seed=0)
    options = {"loss": "cross_entropy", "metrics": ["accuracy", "auc"]}
    expected = tn.evaluate(model, X, Y, **options)
    for source in (BATCHES, iter(BATCHES), loader()):
        assert tn.evaluate(model, source, **options) == expected
    assert tn.evaluate(model, WEIGHED, **options) == tn.evaluate(model, X, Y, sample_weight=S, **options)


def test_a_run_goes_on_with_whatever_comes_next(tmp_path):
    path = tmp_path / "run"
    expected = trained(BATCHES, epochs=4)
    trained(BATCHES, epochs=2, checkpoint=path)
    found = trained(BATCHES, epochs=4, checkpoint=path, resume=True)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    with pytest.raises(ValueError, match="batch_size was absent and is 64 here; the number"):
        trained(X, Y, epochs=4, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X,), {}, TypeError, "fit: y is missing; without it, x must be batches"),
        ((3,), {}, TypeError, "y is missing; .* got int"),
        ((iter(BATCHES),), {}, TypeError, "the list_iterator is used up after one epoch; give a function that makes a"),
        ((BATCHES,), {"sample_weight": S}, TypeError, "sample_weight needs the samples themselves, x and y"),
        ((BATCHES,), {"validation": 0.2}, TypeError, "a share as validation needs the samples themselves"),
        ((BATCHES,), {"drop_last": True}, TypeError, "drop_last needs the samples themselves"),
        ((BATCHES,), {"batch_size": 32}, TypeError, "batch_size needs the samples themselves"),
        ((BATCHES,), {"class_weight": "balanced"}, TypeError, "needs the labels y as an array"),
        (([X, Y],), {}, TypeError, r"batch 0 must be \(x, y\), or \(x, y, sample_weight\), got a ndarray"),
        (([{"x": X, "y": Y}],), {}, TypeError, "batch 0 must be .*, got a dict"),
        (([(X, Y[:3])],), {}, ValueError, "batch 0 has 50 samples and 3 targets"),
        (([(X, Y, -S)],), {}, ValueError, "fit: x: batch 0: sample_weight must be finite and at least 0"),
        (([],), {}, ValueError, "epoch 1 has no batches; what is used up"),
        ((BATCHES,), {"validation": []}, ValueError, r"validation must be a pair .* got a list of 0"),
        ((BATCHES,), {"validation": lambda: iter([])}, ValueError, "fit: validation has no batches"),
        ((BATCHES,), {"validation": iter(BATCHES)}, TypeError, "fit: validation: the list_iterator is used up"),
        (([BATCHES[0], WEIGHED[1]],), {}, ValueError, "fit: x: some batches have a sample_weight, and others have"),
        ((BATCHES,), {"validation": [BATCHES[0], WEIGHED[1]]}, ValueError, "some batches have a sample_weight, and ot"),
    ],
)
def test_what_makes_no_batches_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        trained(*arguments, **options)


# --- a thread that reads ahead --------------------------------------------------------------------------------


class Items:
    """A data set that is read a sample at a time."""

    def __init__(self, broken=None):
        self.broken, self.threads, self.count, self.next_batch = broken, set(), 0, threading.Event()

    def __len__(self):
        return 50

    def __getitem__(self, index):
        self.threads.add(threading.current_thread().name)
        if index == self.broken:
            raise OSError("the disk is gone")
        self.count += 1
        if self.count == 20:
            self.next_batch.set()
        return X[index]


@pytest.mark.parametrize("prefetch", [True, False])
def test_the_same_batches_come_whoever_reads_them(prefetch):
    data = Items()
    found = trained(data, Y, prefetch=prefetch, batch_size=16, seed=2)
    expected = trained(X, Y, batch_size=16, seed=2)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert any(name.startswith("tinynet-batches") for name in data.threads) == prefetch


def test_the_next_batch_is_read_while_the_model_is_trained():
    data = Items()
    seen = []

    class Waiting(tn.Dense):
        """Its first step ends once the samples of the next batch are read, if that ever comes."""

        def forward(self, x, training=False):
            if training and not seen:
                seen.append(data.next_batch.wait(20))
            return super().forward(x, training)

    model = tn.Sequential([Waiting(3)], 4)
    tn.fit(model, data, Y, loss="cross_entropy", optimizer=tn.SGD(model, 0.1), epochs=1, batch_size=10, progress=False)
    assert seen == [True]


def test_an_error_in_the_thread_is_raised_where_its_batch_was_due():
    data = Items(broken=7)
    with pytest.raises(OSError, match="the disk is gone"):
        trained(data, Y, batch_size=5)
    before = threading.active_count()
    for index, item in enumerate(ahead(iter(range(100)))):
        assert item == index
        if index == 3:
            break
    assert threading.active_count() == before
    assert list(ahead([])) == []
