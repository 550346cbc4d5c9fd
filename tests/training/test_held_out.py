"""fit holds out a share of the samples, weighs classes, drops what is left over, and waits for real improvements."""

from functools import partial

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.utils.class_weight import compute_class_weight

import tinynet as tn
from tinynet.losses.by_name import loss_function
from tinynet.training.held_out import hold_out

rng = np.random.default_rng(0)
Y = rng.choice(4, 200, p=[0.5, 0.3, 0.15, 0.05])
X = np.stack([np.arange(200.0), Y, rng.standard_normal(200)], axis=1)


def trained(x=X, y=Y, units=4, **options):
    model = tn.Sequential([tn.Dense(units)], 3, dtype="float64")
    options = {"loss": "cross_entropy", "epochs": 2, "batch_size": 32, "progress": False, **options}
    history = tn.fit(model, x / [100, 1, 1], y, optimizer=tn.SGD(model, 0.1), **options)
    return model.flat_values, {name: values for name, values in history.items() if name != "seconds"}


# --- a share held out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.77])
def test_every_class_is_held_out_by_the_same_share_and_every_sample_is_on_one_side(share):
    (x, y, _, kept), (x_val, y_val) = hold_out(X, Y, None, share, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate([x[:][:, 0], x_val[:][:, 0]])), np.arange(200))
    np.testing.assert_array_equal(x[:][:, 1], y)
    np.testing.assert_array_equal(x_val[:][:, 1], y_val)
    np.testing.assert_array_equal(x[:][:, 0], kept)
    assert len(y_val) == round(200 * share)
    split = StratifiedShuffleSplit(1, test_size=len(y_val), random_state=0)
    _, held = next(split.split(X, Y))
    assert abs(np.bincount(y_val, minlength=4) - np.bincount(Y[held], minlength=4)).max() <= 1
    assert (abs(np.bincount(y_val, minlength=4) - share * np.bincount(Y)) < 1).all()


def test_the_seed_alone_says_which_samples_are_held_out():
    found = [hold_out(X, y, None, 0.2, seed)[0][3] for y, seed in ((Y, 0), (Y.tolist(), 0), (Y, 1))]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_fit_with_a_share_is_fit_with_the_two_parts():
    s = rng.random(200)
    (x, y, w, _), (x_val, y_val, w_val) = hold_out(X, Y, s, 0.2, 5)
    options = {"metrics": ["accuracy", "f1"], "seed": 5}
    found = trained(validation=0.2, sample_weight=s, **options)
    expected = trained(x[:], y, validation=(x_val[:] / [100, 1, 1], y_val, w_val), sample_weight=w, **options)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_the_last_sample_of_a_class_is_trained_on():
    y = np.array([0] * 6 + [1] * 3 + [2])
    for seed in range(20):
        (_, trained_on, _, _), (_, held) = hold_out(np.zeros((10, 3)), y, None, 0.5, seed)
        assert 2 in trained_on
        assert 2 not in held


def test_numbers_are_held_out_at_random_whatever_they_are():
    for y in (rng.random(200), np.arange(200), rng.random((200, 2)), [f"{k}" for k in range(200)]):
        (_, _, _, kept), (_, held) = hold_out(X, y, None, 0.25, 0)
        assert len(held) == 50
        assert len(kept) == 150
        assert 55 < (kept < 100).sum() < 95


class Stored:
    """Images on a disk: read by their numbers, never as a whole."""

    def __init__(self, x):
        self.x, self.shape, self.dtype, self.most = x, x.shape, x.dtype, 0

    def __len__(self):
        return len(self.x)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("read as a whole")

    def __getitem__(self, index):
        assert np.ndim(index) == 0 or (np.diff(index) > 0).all()  # as h5py wants it
        self.most = max(self.most, np.size(index))
        return self.x[index]


@pytest.mark.parametrize("kind", ["stored", "list", "pair"])
def test_whatever_holds_the_samples_a_share_of_them_is_held_out(kind):
    scaled = X / [100, 1, 1]
    model = tn.Sequential([tn.Dense(4)], 3, dtype="float64")
    x = {"stored": Stored(scaled), "list": list(scaled), "pair": None}[kind]
    if kind == "pair":
        model = tn.Sequential([tn.Dense(4), tn.GlobalAvgPool1D()], (2, 3), dtype="float64")
        x = (np.stack([scaled, scaled], axis=1), np.full(200, 2))
    history = tn.fit(
        model, x, Y, loss="cross_entropy", optimizer=tn.SGD(model, 0.1), epochs=2, batch_size=32, validation=0.2,
        progress=False, metrics="accuracy",
    )  # fmt: skip
    expected = trained(validation=0.2, metrics="accuracy")
    np.testing.assert_allclose(model.flat_values, expected[0], rtol=1e-12)
    assert history["val_loss"] == pytest.approx(expected[1]["val_loss"], rel=1e-12)
    if kind == "stored":
        assert x.most <= 40


def test_a_broken_sample_is_named_by_its_number_in_all_of_the_data():
    x = X.copy()
    (_, _, _, kept), _ = hold_out(X, Y, None, 0.5, 0)
    x[kept[17], 2] = np.nan
    with pytest.raises(tn.NonFiniteError) as caught:
        trained(x, validation=0.5)
    assert caught.value.samples == (kept[17],)


# --- class_weight ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "softmax_focal", "linear_cross_entropy"])
def test_class_weight_is_the_weight_of_the_loss(loss):
    weight = compute_class_weight("balanced", classes=np.arange(4), y=Y)
    function = partial(loss_function(loss, "fit", with_layer=True), weight=weight)
    expected = trained(loss=function, validation=(X[:50], Y[:50]))
    for given in ("balanced", dict(enumerate(weight)), weight.tolist()):
        found = trained(loss=loss, class_weight=given, validation=(X[:50], Y[:50]))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        assert found[1]["val_loss"] == pytest.approx(expected[1]["val_loss"], rel=1e-12)
    some = trained(loss=loss, class_weight={1: 5.0})
    np.testing.assert_array_equal(some[0], trained(loss=loss, class_weight=[1, 5, 1, 1])[0])


@pytest.mark.parametrize("dtype", [int, float, bool])
@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "bce"])
def test_a_yes_or_no_has_two_classes(loss, dtype):
    y = (Y == 2)[:, None].astype(dtype)
    zero, one = compute_class_weight("balanced", classes=np.arange(2), y=y[:, 0].astype(int))
    options = {"units": 1, "y": y}
    expected = trained(loss=partial(tn.sigmoid_cross_entropy, weight=zero, pos_weight=one / zero), **options)
    for given in ("balanced", {0: zero, 1: one}):
        np.testing.assert_allclose(trained(loss=loss, class_weight=given, **options)[0], expected[0], rtol=1e-12)
    with pytest.raises(ValueError, match="class_weight of class 0 must be above 0"):
        trained(loss=loss, class_weight=[0, 1], **options)


def test_weights_of_classes_do_not_weigh_metrics():
    frozen = trained(class_weight=[1, 0, 0, 0], metrics="accuracy", epochs=1, validation=0.5)
    model = tn.Sequential([tn.Dense(4)], 3, dtype="float64")
    model.flat_values = frozen[0]
    _, (x, y) = hold_out(X / [100, 1, 1], Y, None, 0.5, 0)
    assert frozen[1]["val_accuracy"] == [tn.accuracy(model.predict(x), y)]


# --- drop_last ------------------------------------------------------------------------------------------------


def test_drop_last_leaves_out_what_is_left_over():
    sizes = [len(y) for _, y in tn.batches(X, Y, 32, drop_last=True)]
    assert sizes == [32] * 6
    seen = []
    trained(drop_last=True, augment=lambda x, y, rng: seen.append(len(y)) or (x, y))
    assert seen == [32] * 12
    x, lengths = np.ones((200, 5, 1)), rng.integers(0, 6, 200)
    some = tn.batches((x, lengths), Y, 32, similar_length=True, drop_last=True)
    assert [len(y) for _, y in some] == [32] * 6
    norm = tn.Sequential([tn.Dense(4), tn.BatchNorm()], 3)
    fitted = partial(tn.fit, norm, X[:65], Y[:65], loss="cross_entropy", optimizer=tn.SGD(norm, 0.1), epochs=1)
    with pytest.raises(ValueError, match="batches of 32 leave a last one of 1"):
        fitted(batch_size=32, progress=False)
    fitted(batch_size=32, drop_last=True, progress=False)


def test_the_bar_counts_what_is_trained_on(capsys):
    trained(drop_last=True, progress=True, epochs=1)
    assert capsys.readouterr().out.startswith("epoch 1/1")


# --- min_delta ------------------------------------------------------------------------------------------------


class Training:
    """What a callback is given, with a history of its own."""

    def __init__(self, values):
        self.values, self.epoch, self.stop, self.history = values, 0, False, {}
        self.model = tn.Sequential([tn.Dense(1)], 1)
        self.optimizer = tn.SGD(self.model, 1.0)

    def run(self, callback):
        callback.start(self)
        for value in self.values:
            self.epoch += 1
            self.history = {"val_loss": [value]}
            callback(self)
            if self.stop:
                break
        return self


def test_an_improvement_below_min_delta_is_none():
    values = [1.0, 0.95, 0.9, 0.89, 0.88, 0.87, 0.86]
    assert Training(values).run(tn.EarlyStopping(patience=2)).epoch == 7
    stopping = tn.EarlyStopping(patience=2, min_delta=0.08)
    assert Training(values).run(stopping).epoch == 5
    assert (stopping.best, stopping.best_epoch) == (0.9, 3)
    lowered = Training(values).run(tn.ReduceOnPlateau(patience=2, min_delta=0.08))
    assert lowered.optimizer.lr == pytest.approx(0.01)
    higher = tn.EarlyStopping(patience=2, min_delta=0.08, mode="max")
    assert Training([-v for v in values]).run(higher).epoch == 5


@pytest.mark.parametrize("bad", [-0.1, float("nan"), "0.1"])
def test_what_is_no_min_delta_is_refused(bad):
    with pytest.raises((ValueError, TypeError), match="EarlyStopping: min_delta must be"):
        tn.EarlyStopping(min_delta=bad)
