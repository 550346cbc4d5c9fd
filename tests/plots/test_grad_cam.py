"""Grad-CAM: the formula, by hand and by finite differences, and the picture."""

import numpy as np
import pytest

import tinynet as tn


@pytest.fixture
def model():
    layers = [
        tn.Conv2D(3, 3, padding="same", activation="relu"), tn.BatchNorm(), tn.MaxPool2D(2), tn.Dropout(0.5),
        tn.Flatten(), tn.Dense(4),
    ]  # fmt: skip
    model = tn.Sequential(layers, (6, 6, 1), dtype="float64")
    model.forward(np.random.default_rng(0).normal(size=(8, 6, 6, 1)), training=True)  # moves the running statistics
    return model


def test_where_a_class_was_seen_is_by_the_formula(model):
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 1))
    found = tn.plots.class_activation(model, x, [1, 3], layer=2)
    A = x
    for layer in model.layers[:3]:
        A = layer.forward(A)
    w = model.layers[5].parameters[0].value
    for n, c in enumerate((1, 3)):
        dA = w[:, c].reshape(3, 3, 3)  # the scores are linear in A
        expected = np.maximum((A[n] * dA.mean(axis=(0, 1))).sum(axis=-1), 0)
        np.testing.assert_allclose(found[n], expected, rtol=1e-12)


def test_the_last_layer_that_gives_images_is_the_default(model):
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 1))
    np.testing.assert_array_equal(
        tn.plots.class_activation(model, x, 0), tn.plots.class_activation(model, x, 0, layer=3)
    )


def test_each_image_s_highest_class_is_the_default(model):
    x = np.random.default_rng(1).random((5, *model.input_shape))
    highest = model.predict(x).argmax(axis=1)
    np.testing.assert_array_equal(tn.plots.class_activation(model, x), tn.plots.class_activation(model, x, highest))
    titles = [panel.get_title() for panel in tn.plots.grad_cam(model, x).axes[:10:2]]
    assert [int(title.split(":")[0]) for title in titles] == highest.tolist()


def test_the_model_stays_as_it_was(model):
    before, buffers = model.flat_values.copy(), model.buffers().copy()
    tn.plots.grad_cam(model, np.zeros((6, 6, 1)), 1)
    np.testing.assert_array_equal(model.flat_values, before)
    for name, array in model.buffers().items():
        np.testing.assert_array_equal(array, buffers[name])


def test_the_picture_has_an_image_and_a_map_for_each(model, tmp_path):
    x = np.random.default_rng(1).random((3, 6, 6, 1))
    figure = tn.plots.grad_cam(model, x, [0, 1, 2], path=tmp_path / "cam.png", names=["a", "b", "c", "d"], columns=2)
    titles = [panel.get_title() for panel in figure.axes if panel.get_title()]
    assert [title[:2] for title in titles] == ["a:", "b:", "c:"]
    assert (tmp_path / "cam.png").stat().st_size > 1000
    assert [len(panel.images) for panel in figure.axes[:6]] == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_index": 4}, "class_index must be from 0 to 3, got 4"),
        ({"class_index": [0, 1, 2]}, r"class_index must be a whole number or \(2,\) of them"),
        ({"class_index": 0, "layer": 5}, r"Dense \(layer 5\) gives \(N, \*\(4,\)\), and not images"),
        ({"class_index": 0, "layer": 9}, "layer must be an index of the model's 6 layers, got 9"),
    ],
)
def test_what_fits_no_model_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        tn.plots.class_activation(model, np.zeros((2, 6, 6, 1)), **options)


def test_what_is_no_model_is_refused_without_a_class_too():
    with pytest.raises(TypeError, match=r"grad_cam: model must be a tinynet.Sequential, got int"):
        tn.plots.grad_cam(3, np.zeros((2, 6, 6, 1)))
