"""fit, evaluate and batches with several inputs: a tuple of arrays, data sets and pairs in place of x."""

import operator
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")

N = 50
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, N)
IMAGE = RNG.normal(size=(N, 4, 4, 1)) + Y[:, None, None, None]
SERIES, LENGTHS = RNG.normal(size=(N, 5, 2)), RNG.integers(0, 6, N)
KIND = (Y[:, None] + RNG.integers(0, 2, (N, 1))) % 4
X = IMAGE, (SERIES, LENGTHS), KIND


def new_model(dtype="float64"):
    image, series = [tn.Flatten(), tn.Dense(4, activation="relu")], [tn.GRU(3, return_sequences=False)]
    kind = [tn.Embedding(4, 2), tn.Flatten()]
    layers = [tn.Parallel([image, series, kind]), tn.Dropout(0.1), tn.Dense(3)]
    return tn.Sequential(layers, ((4, 4, 1), (5, 2), (1,)), seed=2, dtype=dtype)


def trained(x=X, y=Y, model=None, **options):
    model = model or new_model()
    options = {"loss": "cross_entropy", "epochs": 2, "progress": False, **options}
    if y is not None:
        options.setdefault("batch_size", 12)
    history = tn.fit(model, x, y, optimizer=tn.Adam(model, 0.01), **options)
    return model, history


def rows(index):
    return IMAGE[index], (SERIES[index], LENGTHS[index]), KIND[index]


def test_fit_does_what_the_loop_does():
    model, history = trained(epochs=8, metrics="accuracy")
    assert history["loss"][-1] < history["loss"][0]
    same = new_model()
    optimizer = tn.Adam(same, 0.01)
    for epoch in range(1, 9):
        for x, y in tn.batches(X, Y, 12, seed=(0, epoch)):
            _, dz = tn.softmax_cross_entropy(same.forward(x, training=True), y)
            same.backward(dz)
            optimizer.step()
    np.testing.assert_array_equal(model.flat_values, same.flat_values)
    found = tn.evaluate(model, X, Y, loss="cross_entropy", metrics="accuracy", batch_size=7)
    assert found["loss"] == pytest.approx(tn.softmax_cross_entropy(model.predict(X), Y)[0], rel=1e-12)
    assert found["accuracy"] == tn.accuracy(model.predict(X), Y)


def test_batches_of_several_inputs_are_tuples_of_the_same_samples():
    seen = []
    for (image, (series, lengths), kind), y in tn.batches(X, Y, 12, seed=1):
        for n in range(len(y)):
            [place] = np.flatnonzero((image[n] == IMAGE).all(axis=(1, 2, 3)))
            seen.append(place)
            np.testing.assert_array_equal(series[n], SERIES[place])
            assert (lengths[n], kind[n, 0], y[n]) == (LENGTHS[place], KIND[place, 0], Y[place])
    assert sorted(seen) == list(range(N))
    shards = [list(tn.batches(X, Y, 20, seed=1, shard=(rank, 2), drop_last=True)) for rank in (0, 1)]
    wholes = list(tn.batches(X, Y, 20, seed=1, drop_last=True, sample_weight=np.ones(N)))
    assert [len(weights) for _, _, weights in wholes] == [20, 20]
    for (whole, y, _), *parts in zip(wholes, *shards, strict=True):
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), y)
        for k in (0, 2):
            np.testing.assert_array_equal(np.concatenate([part[0][k] for part in parts]), whole[k])


def test_a_tuple_is_several_inputs_where_each_of_its_parts_has_as_many_samples_as_y():
    [(x, _)] = tn.batches((np.ones((3, 2)), np.zeros((3, 4))), [0, 1, 2], 3)
    assert [part.shape for part in x] == [(3, 2), (3, 4)]
    [(x, _)] = tn.batches((["a", "b", "c"], np.zeros(3)), [0, 1, 2], 3, shuffle=False)
    assert x[0] == ["a", "b", "c"]
    [(x, _)] = tn.batches((np.ones(4), np.zeros(4), np.ones(4)), [0, 1, 2], 3)  # three samples
    assert x.shape == (3, 4)
    [((x, lengths), _)] = tn.batches((np.ones((3, 2)), np.array([2, 0, 1])), [0, 1, 2], 3, shuffle=False)
    assert lengths.tolist() == [2, 0, 1]
    with pytest.raises(
        ValueError, match=r"x has 2 samples, but y has 3; each of several .* in this tuple they have 3, 4"
    ):
        tn.batches((np.ones((3, 2)), np.zeros((4, 2))), [0, 1, 2], 3)
    with pytest.raises(ValueError, match="similar_length=True is for one input with lengths, and x has 3 inputs"):
        tn.batches(X, Y, 3, similar_length=True)
    with pytest.raises(ValueError, match="batches: x, input 1: the length of sequence"):
        tn.batches((IMAGE, (SERIES, LENGTHS + 5), KIND), Y, 3)


def test_the_model_tells_whole_numbers_from_lengths():
    model = tn.Sequential([tn.Parallel([[], [tn.Embedding(9, 2)]]), tn.Dense(3)], ((2,), ()))
    codes = RNG.integers(5, 9, N)  # as lengths of (N, 2) they would be too large
    x = SERIES[:, 0], codes
    _, history = trained(x, Y, model, validation=(x, Y))
    assert len(history["val_loss"]) == 2
    assert tn.evaluate(model, x, Y, loss="cross_entropy")["loss"] == pytest.approx(history["val_loss"][-1])


def test_a_share_for_the_validation_holds_out_the_same_samples_of_each_input():
    model, history = trained(validation=0.2, metrics="accuracy", sample_weight=np.linspace(0.5, 2, N))
    same, again = trained(list(X), validation=0.2, metrics="accuracy", sample_weight=np.linspace(0.5, 2, N))
    assert history["val_loss"] == again["val_loss"]
    np.testing.assert_array_equal(model.flat_values, same.flat_values)
    read = []

    class Watched(Images):
        def __getitem__(self, index):
            read.append(index)
            return IMAGE[index]

    def keep(x, rng):
        read.append([np.flatnonzero((one == SERIES).all(axis=(1, 2)))[0] for one in x[1][0]])
        assert (x[0] == IMAGE[read[-1]]).all()
        return x

    trained((Watched(), (SERIES, LENGTHS), KIND), validation=0.2, augment=keep, prefetch=False, epochs=1)
    trained_on = {int(n) for numbers in read if isinstance(numbers, list) for n in numbers}
    assert len(trained_on) == 40


class Images:
    """A data set that reads one image at a time."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return IMAGE[index]


def test_each_input_may_be_a_data_set_a_list_or_a_memory_map(tmp_path):
    expected, _ = trained()
    np.save(tmp_path / "series.npy", SERIES)
    series = np.load(tmp_path / "series.npy", mmap_mode="r")
    for image in (Images(), list(IMAGE), torch.tensor(IMAGE)):
        model, _ = trained((image, (series, LENGTHS.tolist()), KIND.tolist()), Y.tolist())
        np.testing.assert_array_equal(model.flat_values, expected.flat_values)


def test_what_fit_takes_for_an_input_predict_and_evaluate_take_too():
    class OneByOne(Images):
        def __getitem__(self, index):
            return super().__getitem__(operator.index(index))

    model, of_arrays = trained(validation=(X, Y))
    same, history = trained((OneByOne(), *X[1:]), validation=((OneByOne(), *X[1:]), Y))
    np.testing.assert_array_equal(model.flat_values, same.flat_values)
    assert history["val_loss"] == of_arrays["val_loss"]
    np.testing.assert_array_equal(model.predict((OneByOne(), *X[1:]), 7), model.predict(X, 7))


def test_a_tuple_of_as_many_samples_as_each_has_numbers_is_one_input():
    x, y = RNG.normal(size=(4, 4)), np.array([0, 1, 0, 1])
    found = []
    for given in (x, tuple(x)):
        model = tn.Sequential([tn.Normalize().fit(given), tn.Dense(2)], 4, dtype="float64")
        model, history = trained(given, y, model, validation=(given, y), batch_size=4)
        found.append([*model.flat_values, *model.layers[0].buffers["mean"], *history["loss"], *history["val_loss"]])
    assert found[0] == found[1]


def test_a_dataloader_gives_several_inputs():
    class Pairs(Dataset):
        def __len__(self):
            return N

        def __getitem__(self, n):
            return (IMAGE[n], (SERIES[n], LENGTHS[n]), KIND[n]), Y[n]

    expected, history = trained([(rows(slice(n, n + 12)), Y[n : n + 12]) for n in range(0, N, 12)], None)
    loader = DataLoader(Pairs(), batch_size=12)
    model, same = trained(loader, None, validation=loader)
    np.testing.assert_array_equal(model.flat_values, expected.flat_values)
    assert history["loss"] == same["loss"]
    assert tn.evaluate(model, loader, loss="cross_entropy")["loss"] == pytest.approx(same["val_loss"][-1])


def test_augment_is_given_all_inputs_and_returns_them():
    def mirrored(x, rng):
        image, series, kind = x
        return image[:, :, ::-1] if rng.random() < 2 else image, series, kind

    expected, _ = trained((IMAGE[:, :, ::-1], (SERIES, LENGTHS), KIND))
    model, _ = trained(augment=mirrored)
    np.testing.assert_array_equal(model.flat_values, expected.flat_values)
    model, _ = trained(augment=lambda x, y, rng: (mirrored(x, rng), y))
    np.testing.assert_array_equal(model.flat_values, expected.flat_values)


def test_a_resumed_run_gives_the_same_bits_and_other_lengths_are_another_run(tmp_path):
    expected, _ = trained(epochs=3)
    path = tmp_path / "run.safetensors"
    trained(epochs=1, checkpoint=path)
    model, _ = trained(epochs=3, checkpoint=path, resume=True)
    np.testing.assert_array_equal(model.flat_values, expected.flat_values)
    with pytest.raises(ValueError, match="the checksum of the lengths was"):
        trained((IMAGE, (SERIES, LENGTHS // 2), KIND), epochs=4, checkpoint=path, resume=True)
    np.testing.assert_array_equal(tn.load(path).predict(X), expected.predict(X))


def test_the_last_layer_may_go_with_its_loss():
    apart, joined = trained(), trained(loss="linear_cross_entropy", metrics="accuracy", validation=(X, Y))
    np.testing.assert_allclose(joined[0].flat_values, apart[0].flat_values, rtol=1e-9)


def test_what_is_not_finite_is_named_by_the_number_of_the_input():
    broken = SERIES.copy()
    row = int(np.flatnonzero(LENGTHS > 2)[0])
    broken[row, 1, 0] = np.nan
    broken[LENGTHS < 5, 4] = np.nan  # padding, which is no matter
    with pytest.raises(tn.NonFiniteError, match="input 1 is not finite, in row") as caught:
        trained((IMAGE, (broken, LENGTHS), KIND))
    assert caught.value.samples == (row,)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": IMAGE}, TypeError, r"fit: x: expected a tuple of 3 inputs, .*, got one of shape \(50, 4"),
        ({"x": X[:2]}, TypeError, "fit: x: expected a tuple of 3 inputs, .*, got a tuple of 2"),
        ({"x": (*X[:2], KIND[:9])}, ValueError, "fit: x: input 0 has 50 samples, and input 2 has 9"),
        ({"x": (None, *X[1:])}, TypeError, "fit: x: input 0 must be an array or have a length and items"),
        ({"x": (IMAGE[:, :3], *X[1:])}, ValueError, r"input 0: expected \(N, 4, 4, 1\), got \(50, 3, 4, 1\)"),
        ({"x": (IMAGE, (SERIES, LENGTHS - 1), KIND)}, ValueError, "the length of sequence .* is -1"),
        ({"y": Y[:9]}, ValueError, "x has 50 samples, but y has 9"),
        ({"validation": (X[:2], Y)}, TypeError, "fit: x of validation: expected a tuple of 3 inputs"),
        (
            {"validation": ((*X[:2], KIND[:, :0]), Y)},
            ValueError,
            r"takes samples \(1,\) as input 2, those of validation",
        ),
        ({"augment": lambda x, rng: x[0]}, TypeError, "augment must return the tuple of 3 inputs"),
        ({"augment": lambda x, y, rng: (x[:2], y)}, TypeError, "augment must return the tuple of 3 inputs"),
        ({"x": [((IMAGE, KIND), Y)], "y": None}, TypeError, "fit: x: batch 0: expected a tuple of 3 inputs"),
        (
            {"model": partial(tn.Sequential, [tn.Dense(3)], 2)},
            TypeError,
            "expected one input, of samples .*, got a tuple",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_the_number_of_the_input(arguments, error, message):
    model = arguments.get("model", new_model)()
    if "model" in arguments:
        arguments = {"x": (IMAGE, SERIES)}
    before = model.flat_values.copy()
    with pytest.raises(error) as caught:
        trained(**{**arguments, "model": model})
    assert re.search(message, str(caught.value)), str(caught.value)
    np.testing.assert_array_equal(model.flat_values, before)


def test_bytes_are_warned_of_by_the_number_of_the_input():
    model = tn.Sequential([tn.Parallel([[tn.Flatten()], [tn.Normalize().fit(KIND)]]), tn.Dense(3)], ((4, 4, 1), (1,)))
    with pytest.warns(UserWarning, match="fit: input 0 is bytes, .* begin the branch with Normalize"):
        trained((RNG.integers(0, 255, (N, 4, 4, 1), np.uint8), KIND.astype(np.uint8)), Y, model)
