"""Normalize: mean and deviation of data of any kind, kept with the model; and bytes without it are warned about."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

import tinynet as tn

rng = np.random.default_rng(0)
X = rng.standard_normal((1000, 3)) * [1, 100, 1e-3] + [0, 5e4, 7]
IMAGES = rng.integers(0, 256, (300, 4, 5, 3), dtype=np.uint8)


def built(layer, shape, dtype="float64"):
    return tn.Sequential([layer], shape, dtype=dtype)


def test_it_is_the_standard_scaler():
    layer = tn.Normalize().fit(X)
    expected = StandardScaler().fit(X)
    np.testing.assert_allclose(built(layer, 3).forward(X), expected.transform(X), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(layer.buffers["mean"], expected.mean_, rtol=1e-12)
    np.testing.assert_allclose(layer.buffers["std"], expected.scale_, rtol=1e-12)


class Stored:
    """Images on a disk, of which 256 at a time may be read."""

    shape, dtype, ndim = IMAGES.shape, IMAGES.dtype, 4

    def __len__(self):
        return len(IMAGES)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("read as a whole")

    def __getitem__(self, index):
        assert np.size(index) <= 256
        return IMAGES[index]


@pytest.mark.parametrize("x", [IMAGES, Stored(), list(IMAGES), IMAGES.astype(np.float32)])
def test_images_of_every_kind_have_the_same_mean_by_channel(x):
    model = tn.Sequential([tn.Normalize(), tn.Flatten(), tn.Dense(2)], (4, 5, 3))
    assert model.layers[0].fit(x) is model.layers[0]
    np.testing.assert_allclose(model.buffers()["0.mean"], IMAGES.mean(axis=(0, 1, 2), dtype=float), rtol=1e-12)
    np.testing.assert_allclose(model.buffers()["0.std"], IMAGES.std(axis=(0, 1, 2), dtype=float), rtol=1e-12)
    y = model.layers[0].forward(IMAGES)
    assert y.dtype == np.float32
    assert np.abs(y.mean(axis=(0, 1, 2), dtype=float)).max() < 1e-6


def test_what_lies_behind_a_length_does_not_count():
    x, lengths = rng.standard_normal((50, 6, 3)), rng.integers(0, 7, 50)
    counts = np.arange(6) < lengths[:, None]
    layer = tn.Normalize().fit((np.where(counts[..., None], x, np.nan), lengths))
    built(layer, (6, 3))
    np.testing.assert_allclose(layer.buffers["mean"], x[counts].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.buffers["std"], x[counts].std(axis=0), rtol=1e-12)


def test_a_channel_that_never_changes_is_0():
    x = np.column_stack([X[:, 0], np.full(1000, 7.0), np.full(1000, 0.1)])  # of which the mean is not quite 0.1
    model = built(tn.Normalize().fit(x), 3)
    assert (model.layers[0].buffers["std"][1:] == 1).all()
    np.testing.assert_allclose(model.forward(x)[:, 1:], 0, atol=1e-7)
    assert np.isfinite(model.forward(x)).all()


def test_mean_and_deviation_are_saved_with_the_model(tmp_path):
    model = tn.Sequential([tn.Normalize().fit(X), tn.Dense(2)], 3, seed=1)
    tn.save(model, tmp_path / "model")
    other = tn.Sequential([tn.Normalize(), tn.Dense(2)], 3, seed=2)
    tn.load(other, tmp_path / "model")
    for same in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(same.predict(X), model.predict(X))


def test_training_changes_neither():
    model = tn.Sequential([tn.Normalize().fit(X), tn.Dense(2)], 3)
    before = {name: array.copy() for name, array in model.buffers().items()}
    y = (X[:, 0] > 0).astype(int)
    history = tn.fit(model, X, y, loss="cross_entropy", optimizer=tn.Adam(model, 0.05), epochs=3, progress=False)
    assert history["loss"][-1] < 0.3
    for name, array in model.buffers().items():
        np.testing.assert_array_equal(array, before[name])


def test_without_them_it_says_so():
    model = built(tn.Normalize(), 3)
    with pytest.raises(RuntimeError, match=r"Normalize \(layer 0\): its mean and std are not known; find them first"):
        model.forward(X)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.where(X[7, 1] == X, np.nan, X), ValueError, "Normalize: x must be finite, got nan"),
        (X[:, 0], ValueError, r"Normalize: x must be \(N, ..., C\)"),
        (X[:0], ValueError, "there are no samples"),
        ((np.zeros((2, 3, 1)), np.zeros(2, int)), ValueError, "Normalize: x has no numbers"),
        ([["a"]], TypeError, "Normalize: x must hold real numbers"),
    ],
)
def test_data_without_a_mean_are_refused(x, error, message):
    with pytest.raises(error, match=message):
        tn.Normalize().fit(x)


def test_it_does_not_show_a_mean_that_it_no_longer_has(tmp_path):
    model = built(tn.Normalize(0, 1), 3)
    assert repr(model.layers[0]) == "Normalize(mean=0, std=1)"
    assert repr(model.layers[0].fit(X)) == "Normalize()"
    tn.save(model, tmp_path / "model")
    np.testing.assert_array_equal(tn.load(tmp_path / "model").predict(X), model.predict(X))


def test_other_channels_are_refused():
    message = r"Normalize \(layer 0\): mean and std have 3 numbers, and its input 4 channels"
    with pytest.raises(ValueError, match=message):
        built(tn.Normalize().fit(X), 4)
    model = built(tn.Normalize(0, 2), 4)
    with pytest.raises(ValueError, match=message):
        model.layers[0].fit(X)
    np.testing.assert_array_equal(tn.Sequential(model.layers, 4).forward(np.ones((1, 4))), 0.5)  # as it was


def fitted(layers, x, input_shape=(4, 5, 3)):
    model = tn.Sequential([*layers, tn.Dense(2)], input_shape)
    tn.fit(
        model, x, np.arange(len(x)) % 2, loss="cross_entropy", optimizer=tn.SGD(model, 1e-6), epochs=1, progress=False
    )


def test_bytes_are_warned_about_where_nothing_scales_them(recwarn):
    with pytest.warns(UserWarning, match=r"x is bytes, from 0 to 255, .* x / 255 in float32, or begin .* Normalize"):
        fitted([tn.Flatten()], IMAGES)
    fitted([tn.Normalize().fit(IMAGES), tn.Flatten()], IMAGES)
    fitted([tn.Flatten(), tn.Normalize(127.5, 60.0)], IMAGES)
    fitted([tn.BatchNorm(), tn.Flatten()], IMAGES)
    fitted([tn.Flatten()], (IMAGES > 100).astype(np.uint8))
    fitted([tn.Embedding(256, 2), tn.GlobalAvgPool1D()], IMAGES[:, 0, :, 0], (5,))
    assert not recwarn.list
