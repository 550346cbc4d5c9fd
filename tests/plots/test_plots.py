"""What the pictures of losses and of predictions show: the numbers drawn, and the words beside them."""

import copy
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

import tinynet as tn
from tinynet import metrics, plots

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])
IMAGES = np.random.default_rng(0).random((6, 8, 8, 3)).astype(np.float32)
LOSS = tn.softmax_cross_entropy


def network(*ending, channels=3):
    """Trained by nobody: Conv2D, MaxPool2D, Flatten, Dropout, Dense of 12, Dense of 3."""
    layers = [tn.Conv2D(5, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dropout(0.5)]
    layers += [tn.Dense(12, activation="relu"), tn.Dense(3), *ending]
    return tn.Sequential(layers, (8, 8, channels), seed=3)


def lines(panel):
    """Of a panel, the data of each curve that has a name."""
    return {line.get_label(): np.array(line.get_data()) for line in panel.lines if line.get_label()[0] != "_"}


def words(panel):
    return [text.get_text() for text in panel.texts]


DRAWN = {
    "loss_and_gradient": plots.loss_and_gradient,
    "losses_by_margin": plots.losses_by_margin,
    "confusion_matrix": lambda path=None, **on: plots.confusion_matrix(PREDICTED, LABELS, path, **on),
    "reliability_diagram": lambda path=None, **on: plots.reliability_diagram(np.eye(3)[PREDICTED], LABELS, path, **on),
    "filters": lambda path=None, **on: plots.filters(network(), path, **on),
    "activations": lambda path=None, **on: plots.activations(network(), IMAGES, path, **on),
    "gradients": lambda path=None, **on: plots.gradients(network(), IMAGES, LABELS, LOSS, path, **on),
    "saliency": lambda path=None, **on: plots.saliency(network(), IMAGES[:2], [0, 1], LOSS, path, **on),
    "attention": lambda path=None, **on: plots.attention(np.full((3, 4, 4), 0.25), "abcd", path, **on),
    "worst": lambda path=None, **on: plots.worst(network(), IMAGES[:2], [0, 1], path, **on),
    "image_grid": lambda path=None, **on: plots.image_grid(network(), IMAGES, LABELS, path, **on),
    "grad_cam": lambda path=None, **on: plots.grad_cam(network(), IMAGES[:2], 1, path=path, **on),
    "roc_curve": lambda path=None, **on: plots.roc_curve(PREDICTED, LABELS > 0, path, **on),
    "precision_recall_curve": lambda path=None, **on: plots.precision_recall_curve(PREDICTED, LABELS > 0, path, **on),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_picture_is_a_figure_that_can_be_saved_or_be_part_of_another(name, tmp_path):
    for suffix in ("png", "svg", "pdf"):
        picture = DRAWN[name](tmp_path / f"picture.{suffix}")
        assert isinstance(picture, Figure)
        assert (tmp_path / f"picture.{suffix}").stat().st_size > 2000
    whole = plots.figure(12, 4)
    left, right = whole.subfigures(1, 2)
    assert DRAWN[name](on=left) is DRAWN[name](on=right) is whole


def test_the_classic_picture_of_cross_entropy_is_steep_where_wrong_and_flat_where_right():
    left, right = plots.loss_and_gradient().axes
    for panel in (left, right):
        assert panel.get_xlabel() == "probability $p$ given to what is true"
    p, loss = lines(left)["cross-entropy"]
    np.testing.assert_allclose(loss, -np.log(p), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(lines(left)["squared error"][1], (1 - p) ** 2, atol=1e-15)
    np.testing.assert_allclose(lines(right)["cross-entropy"][1], p - 1, atol=1e-15)
    np.testing.assert_allclose(lines(right)["squared error"][1], -2 * p * (1 - p) ** 2, atol=1e-15)
    assert p.min() < 0.001
    assert p.max() > 0.999
    assert any("0.8=0.2231" in text for text in words(left))
    assert any("0.2=1.6094" in text for text in words(left))
    assert "confidently wrong:\nsteep" in words(left)
    assert left.get_legend() is not None


def test_the_losses_by_margin_are_the_formulas():
    left, right = plots.losses_by_margin().axes
    m, entropy = lines(left)["cross-entropy"]
    p = 1 / (1 + np.exp(-m))
    drawn = {name: (lines(left)[name][1], lines(right)[name][1]) for name in lines(right)}
    expected = {
        "squared error": ((1 - m) ** 2, 2 * (m - 1)),
        "hinge": (np.maximum(1 - m, 0), None),
        "cross-entropy": (np.log1p(np.exp(-m)), p - 1),
        r"focal, $\gamma=2$": ((1 - p) ** 2 * -np.log(p), (1 - p) ** 2 * (2 * p * np.log(p) + p - 1)),
    }
    assert drawn.keys() == expected.keys()
    for name, (loss, gradient) in expected.items():
        np.testing.assert_allclose(drawn[name][0], loss, rtol=1e-9, atol=1e-12, err_msg=name)
        if gradient is not None:
            np.testing.assert_allclose(drawn[name][1], gradient, rtol=1e-9, atol=1e-12, err_msg=name)
    off_the_kink = np.abs(m - 1) > 1e-9
    np.testing.assert_array_equal(drawn["hinge"][1][off_the_kink], np.where(m < 1, -1, 0)[off_the_kink])
    assert lines(left)["wrong or right"].tolist() == [[-3, 0, 0, 3], [1, 1, 0, 0]]
    legend = [text.get_text() for text in right.get_legend().get_texts()]
    assert legend == list(lines(left))


def test_a_confusion_matrix_has_its_counts_in_its_cells():
    (panel,) = plots.confusion_matrix(PREDICTED, LABELS, names=["cat", "dog", "horse"]).axes
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in panel.texts}
    assert cells == {(0, 0): "2", (1, 0): "1", (1, 1): "1", (2, 1): "1", (2, 2): "1"}  # (column, row); 0 is blank
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["cat", "dog", "horse"]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["cat", "dog", "horse"]
    assert (panel.get_xlabel(), panel.get_ylabel(), panel.get_title()) == ("predicted", "true", "4 of 6 right")


def test_a_confusion_matrix_leaves_out_what_is_ignored_and_names_all_classes_that_have_a_name():
    (panel,) = plots.confusion_matrix(PREDICTED, np.where(LABELS == 1, -100, LABELS), names=list("abcd")).axes
    assert {tuple(map(int, text.get_position())): text.get_text() for text in panel.texts} == {
        (0, 0): "2", (1, 0): "1", (2, 2): "1",
    }  # fmt: skip
    assert [tick.get_text() for tick in panel.get_yticklabels()] == list("abcd")
    assert panel.get_title() == "3 of 4 right"


@pytest.mark.parametrize(
    ("draw", "display", "area"),
    [
        (plots.roc_curve, RocCurveDisplay, metrics.auroc),
        (plots.precision_recall_curve, PrecisionRecallDisplay, metrics.average_precision),
    ],
)
def test_the_curves_of_a_ranking_are_those_that_scikit_learn_draws(draw, display, area):
    rng = np.random.default_rng(0)
    z = rng.standard_normal(200).round(1)
    t = z + rng.standard_normal(200) > 0.5
    panel, theirs = draw(z, t).axes[0], Figure().subplots()
    display.from_predictions(t, z, ax=theirs, drop_intermediate=False)
    (curve,) = lines(panel).values()
    expected = np.array(theirs.lines[0].get_data())
    if draw is plots.precision_recall_curve:
        # Both draw steps; theirs from the right, and up to a precision of 1 where nothing is found.
        curve, expected = curve[:, 1:], expected[:, -2::-1]
        assert (panel.lines[0].get_drawstyle(), theirs.lines[0].get_drawstyle()) == ("steps-pre", "steps-post")
        assert panel.lines[1].get_ydata()[0] == t.mean()
    np.testing.assert_allclose(curve, expected)
    assert list(lines(panel)) == [f"{'AUROC' if area is metrics.auroc else 'AP'} {area(z, t):.3f}"]
    assert (panel.get_xlim(), panel.get_ylim()) == ((-0.01, 1.01), (0, 1.01))


@pytest.mark.parametrize("draw", [plots.roc_curve, plots.precision_recall_curve])
def test_each_label_or_class_has_a_curve_with_its_name_and_area(draw):
    rng = np.random.default_rng(1)
    z, t = rng.standard_normal((90, 3)), rng.integers(0, 3, 90)
    area, word = (metrics.auroc, "AUROC") if draw is plots.roc_curve else (metrics.average_precision, "AP")
    several = t[:, None] == np.arange(3)
    for labels in (t, several):
        panel = draw(z, labels, names=["cat", "dog", "horse"]).axes[0]
        legend = [text.get_text() for text in panel.get_legend().get_texts()]
        areas = area(z, labels, average=None)
        assert legend == [f"{n}: {word} {a:.3f}" for n, a in zip(["cat", "dog", "horse"], areas, strict=True)]
        for k, curve in enumerate(lines(panel).values()):
            np.testing.assert_array_equal(curve, np.array(draw(z[:, k], several[:, k]).axes[0].lines[0].get_data()))
    assert list(lines(draw(z[:, 0], t == 0, names=["cat"]).axes[0])) == [legend[0]]
    many = draw(np.tile(z, 5), np.tile(several, 5)).axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in many.lines}) >= 15  # none is like another


def test_right_is_blue_wrong_is_red_and_never_is_white():
    (panel,) = plots.confusion_matrix([0, 0, 1], [0, 1, 1]).axes
    shades = panel.images[0].get_array()
    assert to_hex(shades[0, 0]) == plots.BLUE
    assert to_hex(shades[0, 1]) == "#ffffff"
    red, green, blue = shades[1, 0]
    assert red > max(green, blue)
    (panel,) = plots.confusion_matrix([1], [0]).axes
    assert to_hex(panel.images[0].get_array()[0, 1]) == plots.RED


def test_many_classes_are_drawn_without_numbers():
    (panel,) = plots.confusion_matrix(np.arange(60), np.arange(60), classes=100).axes
    assert words(panel) == []
    assert panel.images[0].get_array().shape == (100, 100, 3)


def bars(panel):
    """(left, bottom, height) of each bar, by the name in the legend."""
    return {
        container.get_label(): [(bar.get_x(), bar.get_y(), bar.get_height()) for bar in container]
        for container in panel.containers
    }


def test_a_reliability_diagram_shows_both_ways_of_being_dishonest():
    confidence, right = np.repeat([0.6, 0.8, 0.95], 10), np.r_[np.ones(9), 0, np.ones(5), np.zeros(5), np.ones(10)]
    p, labels = np.stack([confidence, 1 - confidence], axis=1), 1 - right.astype(int)
    top, bottom = plots.reliability_diagram(p, labels, bins=4).axes
    drawn = bars(top)
    # From 0.5 to 0.75, 0.6 sure and 0.9 right; above, 0.875 sure and 0.75 right.
    np.testing.assert_allclose(drawn["right"], [(0.5, 0, 0.6), (0.75, 0, 0.75)])
    np.testing.assert_allclose(drawn["not confident enough"], [(0.5, 0.6, 0.3)])
    np.testing.assert_allclose(drawn["too confident"], [(0.75, 0.75, 0.125)])
    (share,) = bottom.containers
    np.testing.assert_allclose([bar.get_height() for bar in share], [1 / 3, 2 / 3])
    error = metrics.expected_calibration_error(p, labels, bins=4)
    assert error == pytest.approx(0.3 / 3 + 0.125 * 2 / 3)
    assert top.get_title() == f"expected calibration error {error:.3f}"
    assert (top.get_ylabel(), bottom.get_xlabel()) == ("accuracy", "confidence")


def test_an_honest_model_has_bars_up_to_its_confidence_and_no_others():
    top, _ = plots.reliability_diagram([[0.5, 0.5], [0.5, 0.5]], [0, 1]).axes
    assert list(bars(top)) == ["right"]
    assert bars(top)["right"][0][2] == 0.5


# --- inside a model ----------------------------------------------------------------------------------------


def tile(picture, row, column, height, width):
    """One image of a mosaic, whose images are a pixel apart."""
    top, left = row * (height + 1), column * (width + 1)
    return np.ma.filled(picture, np.nan)[top : top + height, left : left + width]


def drawn(panel):
    """The array of a panel's image; NaN where there is a gap."""
    return np.ma.filled(panel.images[0].get_array().astype(float), np.nan)


def test_filters_of_three_channels_are_colours_around_grey():
    model = network()
    (panel,) = plots.filters(model, columns=2).axes
    w = model.layers[0].parameters[0].value
    picture = drawn(panel)
    assert picture.shape == (3 * 4 - 1, 2 * 4 - 1, 3)
    for k in range(5):
        colours = 0.5 + 0.5 * w[:, :, :, k] / np.abs(w).max()
        np.testing.assert_allclose(tile(picture, k // 2, k % 2, 3, 3), colours, atol=1e-6)
    assert panel.get_title(loc="left") == "Conv2D (layer 0): 5 filters 3 by 3"
    assert f"black -{np.abs(w).max():.2g}" in panel.get_xlabel()


def test_filters_of_one_channel_are_blue_below_zero_and_red_above():
    model = network(channels=1)
    panel, bar = plots.filters(model.layers[0]).axes
    w = model.layers[0].parameters[0].value
    for k in range(5):
        np.testing.assert_array_equal(tile(drawn(panel), 0, k, 3, 3), w[:, :, 0, k])
    limit = np.abs(w).max()
    assert panel.images[0].get_clim() == pytest.approx((-limit, limit))
    blue, red = panel.images[0].cmap([0.0, 1.0])
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert bar.get_ylabel() == "weight"
    assert np.isnan(drawn(panel)[:, 3]).all()  # the gap


def test_filters_of_many_channels_have_a_row_each():
    model = tn.Sequential([tn.Conv2D(20, 1), tn.Conv2D(9, (3, 2))], (8, 8, 1))
    panel, _ = plots.filters(model.layers[1]).axes
    w = model.layers[1].parameters[0].value
    for k in range(8):
        for c in range(16):
            np.testing.assert_array_equal(tile(drawn(panel), k, c, 3, 2), w[:, :, c, k])
    assert panel.get_title(loc="left") == (
        "Conv2D (layer 1): the first 8 of 9 filters 3 by 2, the first 16 of 20 channels"
    )
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("channel", "filter")


def test_the_weights_of_a_dense_layer_over_images_are_images():
    model = tn.Sequential([tn.Flatten(), tn.Dense(3)], (4, 6, 1))
    panel, _ = plots.filters(model, columns=2).axes
    w = model.parameters()[0].value
    for k in range(3):
        np.testing.assert_array_equal(tile(drawn(panel), k // 2, k % 2, 4, 6), w[:, k].reshape(4, 6))


def bars_of(panel):
    return [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in panel.patches]


def test_activations_are_the_outputs_of_each_layer():
    model, sample = network(), 2
    panels = plots.activations(model, IMAGES, sample=sample, columns=4).axes[:5]
    titles = [panel.get_title(loc="left") for panel in panels]
    assert titles == [
        "input",
        "0 Conv2D   y = relu(conv(x, w) + b)   the first 4 of 5 channels",
        "1 MaxPool2D   y = max of x over a window   the first 4 of 5 channels",
        "4 Dense   y = relu(x w + b)",
        "5 Dense   y = x w + b",
    ]
    np.testing.assert_allclose(tile(drawn(panels[0]), 0, 0, 8, 8), IMAGES[sample])
    y, outputs = IMAGES, []
    for layer in model.layers:
        y = layer.forward(y)
        outputs.append(y)
    for panel, output in zip(panels[1:3], outputs[:2], strict=True):
        H, W, _ = output.shape[1:]
        for c in range(4):
            np.testing.assert_array_equal(tile(drawn(panel), 0, c, H, W), output[sample, :, :, c])
        assert panel.images[0].get_clim() == (0, output[sample, :, :, :4].max())
    values = outputs[4].astype(float).ravel()
    counts, edges = np.histogram(values[values != 0], 40)
    np.testing.assert_allclose(bars_of(panels[3]), np.stack([edges[:-1], np.diff(edges), counts], axis=1))
    assert words(panels[3]) == [f"{100 * (values == 0).mean():.0f} % are 0"]
    assert panels[3].get_xlabel() == "y, of 6 samples with 12 numbers each"
    assert words(panels[4]) == []
    assert sum(height for *_, height in bars_of(panels[4])) == 18


def test_activations_of_one_layer_are_all_its_channels():
    model = network()
    panel, bar = plots.activations(model, IMAGES, layer=0, columns=3).axes
    y = model.layers[0].forward(IMAGES)
    for c in range(5):
        np.testing.assert_array_equal(tile(drawn(panel), c // 3, c % 3, 6, 6), y[0, :, :, c])
    assert bar.get_ylabel() == "y"
    (panel,) = plots.activations(model, IMAGES, layer=-1).axes
    assert panel.get_title(loc="left") == "5 Dense   y = x w + b"
    (panel,) = plots.activations(model, IMAGES, layer=3).axes  # left out otherwise
    assert panel.get_title(loc="left").startswith("3 Dropout")


def test_what_is_not_finite_is_counted_and_not_drawn():
    model = network()
    model.layers[-1].parameters[1].value[0] = np.nan
    (panel,) = plots.activations(model, IMAGES, layer=5).axes
    assert words(panel) == ["6 are not finite"]
    assert sum(height for *_, height in bars_of(panel)) == 12


def test_an_image_with_what_is_not_finite_keeps_the_scale_of_the_rest():
    model = network()
    model.layers[0].parameters[1].value[1:3] = np.nan, np.inf
    panel, _ = plots.activations(model, IMAGES, layer=0).axes
    y = model.layers[0].forward(IMAGES)[0]
    np.testing.assert_array_equal(tile(drawn(panel), 0, 0, 6, 6), y[:, :, 0])
    assert panel.images[0].get_clim() == (0, y[:, :, [0, 3, 4]].max())
    plots.activations(model, IMAGES).canvas.draw()
    plots.filters(model)
    model.layers[0].parameters[0].value[0, 0, 0, 0] = np.nan
    plots.filters(model).canvas.draw()


def test_gradients_of_one_output_take_targets_without_its_axis():
    model, x, y = tn.Sequential([tn.Dense(1)], 3), np.eye(3), np.arange(3.0)
    first, second = (plots.gradients(model, x, t, tn.mean_squared_error).axes[-1] for t in (y, y[:, None]))
    heights = [[bar.get_height() for bar in panel.patches] for panel in (first, second)]
    assert len(heights[0]) > 1
    assert heights[0] == heights[1]


def test_gradients_are_those_of_a_training_step_and_leave_the_model_alone():
    model, twin = network(), network()
    before = model.flat_grads.copy(), model.layers[3].state
    picture = plots.gradients(model, IMAGES, LABELS, LOSS, sample=1)
    np.testing.assert_array_equal(model.flat_grads, before[0])
    assert model.layers[3].state == before[1]
    prediction = twin.forward(IMAGES, training=True)
    dy = LOSS(prediction, LABELS)[1]
    found = [dy]
    for layer in reversed(twin.layers):
        dy = layer.backward(dy, True)
        found.insert(0, dy)
    inputs, conv, pool, dense, last = picture.axes[:5]
    for panel, gradient in ((inputs, found[0]), (conv, found[1]), (pool, found[2])):
        H, W, C = gradient.shape[1:]
        for c in range(C):
            np.testing.assert_array_equal(tile(drawn(panel), 0, c, H, W), gradient[1, :, :, c])
        limit = np.abs(gradient[1]).max()
        assert panel.images[0].get_clim() == pytest.approx((-limit, limit))
    assert inputs.get_title(loc="left") == "input   3 channels"
    assert [bar.get_ylabel() for bar in picture.axes[5:]] == ["dL/dx", "dL/dy", "dL/dy"]
    for panel, gradient in ((dense, found[5]), (last, found[6])):
        counts, _ = np.histogram(gradient[gradient != 0], 40)
        assert [height for *_, height in bars_of(panel)] == counts.tolist()
        assert panel.get_yscale() == "log"


def test_words_have_activations_but_no_gradient():
    model = tn.Sequential([tn.Embedding(7, 2), tn.Flatten(), tn.Dense(3)], 4)
    x = np.arange(24).reshape(6, 4) % 7
    assert len(plots.activations(model, x).axes) == 4  # one is the bar of the Embedding's colours
    titles = [panel.get_title(loc="left")[:11] for panel in plots.gradients(model, x, LABELS, LOSS).axes]
    assert titles == ["0 Embedding", "2 Dense   y", ""]


def test_a_sequence_is_a_picture_of_its_channels_up_to_its_length():
    layers = [tn.Dense(50), tn.LSTM(6), tn.GlobalMaxPool1D(), tn.Dense(3)]
    model, rng = tn.Sequential(layers, (9, 4)), np.random.default_rng(0)
    x, lengths = rng.standard_normal((5, 9, 4)), [9, 0, 4, 1, 7]
    x[2, 4:] = np.nan
    picture = plots.activations(model, (x, lengths), sample=2)
    panels = [panel for panel in picture.axes if panel.get_title(loc="left")]
    titles = [panel.get_title(loc="left").split("   ")[-1] for panel in panels[:3]]
    assert titles == ["4 channels", "the first 32 of 50 channels", "6 channels"]
    y = model.layers[0].forward(np.nan_to_num(x))
    np.testing.assert_allclose(drawn(panels[0]), x[2, :4].T)
    np.testing.assert_allclose(drawn(panels[1]), y[2, :4, :32].T, rtol=1e-6)
    assert len(panels) == 5
    labels = rng.integers(0, 3, 5)
    assert len(plots.gradients(model, (x, lengths), labels, LOSS, sample=2).axes) == 8
    tagger = tn.Sequential([tn.LSTM(6), tn.Dense(3)], (9, 4))
    labels = np.where(np.arange(9) < np.array(lengths)[:, None], 1, 99)
    panels = plots.gradients(tagger, (x, lengths), labels, LOSS, sample=2, layer=1).axes
    _, dz = tn.softmax_cross_entropy(tagger.predict((x, lengths))[labels == 1], labels[labels == 1])
    np.testing.assert_allclose(drawn(panels[0]), dz[9:13].T, rtol=1e-5)
    with pytest.raises(ValueError, match="sample 1 has the length 0"):
        plots.activations(tagger, (x, lengths), sample=1)


def difference(model, x, y, at, h=1e-5):
    """The slope of the loss of what the model predicts, by x[at]."""
    values = []
    for step in (h, -h):
        moved = x.copy()
        moved[at] += step
        values.append(LOSS(model.predict(moved), y)[0])
    return (values[0] - values[1]) / (2 * h)


def test_saliency_is_the_gradient_of_what_the_model_predicts():
    layers = [tn.Conv2D(5, 3, activation="tanh"), tn.BatchNorm(), tn.Flatten(), tn.Dropout(0.5), tn.Dense(3)]
    model = tn.Sequential(layers, (8, 8, 3), dtype="float64", seed=3)
    rng = np.random.default_rng(1)
    for array in model.buffers().values():
        array[...] = rng.uniform(0.5, 1.5, array.shape)
    before = copy.deepcopy(model.buffers()), model.layers[3].state, model.flat_grads.copy()
    x, names = IMAGES.astype(np.float64), ["cat", "dog", "horse"]
    picture = plots.saliency(model, x, LABELS, LOSS, columns=2, names=names)
    panels, bar = picture.axes[:-1], picture.axes[-1]
    for n in (0, 3, 5):
        left, right = panels[2 * n : 2 * n + 2]
        np.testing.assert_array_equal(drawn(left), x[n])
        assert left.get_title() == names[LABELS[n]]
        gradient = drawn(right) * float(right.get_title().removeprefix("max "))
        for h, w in ((0, 0), (3, 4), (7, 2)):
            slopes = [difference(model, x, LABELS, (n, h, w, c)) for c in range(3)]
            assert gradient[h, w] == pytest.approx(np.abs(slopes).max(), rel=0.05, abs=1e-9)  # max has two digits
        assert drawn(right).max() == 1
    assert bar.get_ylabel() == "|dL/dx| / its maximum"
    for name, array in model.buffers().items():
        np.testing.assert_array_equal(array, before[0][name])
    assert model.layers[3].state == before[1]
    np.testing.assert_array_equal(model.flat_grads, before[2])


def test_images_outside_0_to_1_are_stretched_and_bytes_divided():
    model = network()
    left, *_ = plots.saliency(model, 4 * IMAGES - 2, LABELS, LOSS).axes
    low, high = IMAGES.min(), IMAGES.max()
    np.testing.assert_allclose(drawn(left), (IMAGES[0] - low) / (high - low), atol=1e-6)
    left, *_ = plots.saliency(model, (255 * IMAGES).astype(np.uint8), LABELS, LOSS).axes
    np.testing.assert_allclose(drawn(left), IMAGES[0], atol=1 / 255)


def test_the_worst_come_first_with_what_they_are_and_what_was_said():
    p = np.array([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.4, 0.6, 0], [0.3, 0.3, 0.4], [0.0004, 0.0001, 0.9995]])
    labels, images = np.array([0, 2, 0, 2, 1]), IMAGES[:5, :, :, 0]
    with np.errstate(divide="ignore"):
        logits = np.log(p)
    panels = plots.worst(logits, images, labels, names=["cat", "dog", "horse"], count=4, columns=3).axes
    shown = [(panel.get_title(), panel.get_xlabel()) for panel in panels]
    assert shown == [
        ("is dog: < 0.1 %", "said horse: > 99.9 %"),
        ("is horse: 5 %", "said dog: 90 %"),
        ("is cat: 40 %", "said dog: 60 %"),
        ("is horse: 40 %", ""),
        ("", ""),
        ("", ""),
    ]
    for panel, n in zip(panels, (4, 1, 2, 3), strict=False):
        np.testing.assert_array_equal(drawn(panel), images[n])
    assert not panels[4].axison


def test_the_worst_may_be_asked_of_a_model_with_or_without_a_softmax():
    model = network()
    logits = model.predict(IMAGES)
    with_softmax = network(tn.Softmax())  # the seed gives it the same weights
    drawn_of = [
        [(panel.get_title(), panel.get_xlabel()) for panel in plots.worst(given, IMAGES, LABELS).axes]
        for given in (logits, model, with_softmax)
    ]
    assert drawn_of[0] == drawn_of[1] == drawn_of[2]
    losses, _ = LOSS(logits, LABELS, reduction="none")
    assert drawn_of[0][0][0].startswith(f"is {LABELS[losses.argmax()]}: ")


def test_a_grid_takes_the_model_or_what_it_predicts_first_and_the_order_of_old_too():
    model = network()
    logits = model.predict(IMAGES)
    titles = [
        [panel.get_title() for panel in figure.axes]
        for figure in (
            plots.image_grid(model, IMAGES, LABELS),
            plots.image_grid(logits, IMAGES, LABELS),
            plots.image_grid(logits.argmax(axis=1).tolist(), IMAGES, LABELS),
            plots.image_grid(IMAGES, LABELS, logits),
        )
    ]
    assert titles[0] == titles[1] == titles[2] == titles[3]
    assert any(", is " in title for title in titles[0])
    for alone in (plots.image_grid(None, IMAGES, LABELS), plots.image_grid(IMAGES, LABELS)):
        assert [panel.get_title() for panel in alone.axes] == ["0", "0", "0", "1", "1", "2"]


def test_attention_is_a_table_for_each_head_with_the_tokens_beside_it():
    weights = np.random.default_rng(0).dirichlet(np.ones(4), (3, 4))
    *panels, empty, _ = plots.attention(weights, ["a", " b", "\n", "$c"], columns=2).axes
    assert [panel.get_title() for panel in panels] == ["head 0", "head 1", "head 2"]
    assert not empty.axison
    for panel, head in zip(panels, weights, strict=True):
        (image,) = panel.images
        np.testing.assert_array_equal(image.get_array(), head)
        assert image.get_clim() == (0, 1)
        for labels in (panel.get_xticklabels(), panel.get_yticklabels()):
            assert [label.get_text() for label in labels] == ["a", "\u2423b", "\u21b5", r"\$c"]
    panel, _ = plots.attention(weights[0], titles=["causal"]).axes
    assert panel.get_title() == "causal"
    assert plots.attention(weights[0]).axes[0].get_title() == ""


@pytest.mark.slow
def test_no_picture_opens_a_window_or_chooses_a_backend():
    code = """
import sys
from tinynet import plots
assert not any(name.startswith("matplotlib") for name in sys.modules)
plots.loss_and_gradient()
plots.confusion_matrix([0, 1], [1, 1])
import numpy as np
import tinynet as tn
model = tn.Sequential([tn.Conv2D(2, 3), tn.Flatten(), tn.Dense(2)], (5, 5, 1))
x, y, loss = np.ones((2, 5, 5, 1)), [0, 1], tn.softmax_cross_entropy
for picture in (plots.filters(model), plots.activations(model, x), plots.gradients(model, x, y, loss)):
    picture.canvas.draw()
plots.saliency(model, x, y, loss)
plots.worst(model, x, y)
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: plots.confusion_matrix(PREDICTED, LABELS, names="ab"), ValueError, "each of the 3 classes, got 2"),
        (
            lambda: plots.confusion_matrix(PREDICTED, LABELS[:4]),
            ValueError,
            r"confusion_matrix: labels of shape \(6,\)",
        ),
        (lambda: plots.confusion_matrix(PREDICTED, LABELS, classes=2), ValueError, "predictions must be from 0 to 1"),
        (
            lambda: plots.reliability_diagram(np.ones((6, 3)), LABELS),
            ValueError,
            "must sum to 1, but those of row 0 sum to 3",
        ),
        (lambda: plots.reliability_diagram(np.eye(3)[LABELS], LABELS, bins=0), ValueError, "bins must be at least 1"),
        (lambda: plots.reliability_diagram(np.eye(3)[LABELS], LABELS, bins="ten"), TypeError, "bins must be a whole"),
        (lambda: plots.filters(tn.Dense(3)), TypeError, "expected a model or a Conv2D, got Dense"),
        (lambda: plots.filters(tn.Conv2D(3, 3)), ValueError, "Conv2D is not built"),
        (
            lambda: plots.filters(tn.Sequential([tn.Dense(3)], 4)),
            ValueError,
            r"Dense \(layer 0\), which sees no images",
        ),
        (lambda: plots.filters(tn.Sequential([tn.ReLU()], 4)), ValueError, "neither a Conv2D nor a Dense"),
        (lambda: plots.activations(tn.Dense(3), IMAGES), TypeError, "activations: model must be a tinynet.Sequential"),
        (
            lambda: plots.activations(network(), IMAGES[0]),
            ValueError,
            r"expected input \(N, 8, 8, 3\), got \(8, 8, 3\)",
        ),
        (lambda: plots.activations(network(), IMAGES[:0]), ValueError, "at least one sample"),
        (lambda: plots.activations(network(), IMAGES, layer=6), ValueError, "index of the model's 6 layers, got 6"),
        (lambda: plots.activations(network(), IMAGES, layer="Dense"), TypeError, "None or the index of a layer"),
        (lambda: plots.activations(network(), IMAGES, sample=6), ValueError, "sample must be below 6"),
        (
            lambda: plots.gradients(network(), IMAGES, LABELS[:5], LOSS),
            ValueError,
            r"must have shape \(6,\), got \(5,\)",
        ),
        (lambda: plots.gradients(network(), IMAGES, LABELS, "mse"), TypeError, "gradients: loss must be a function"),
        (
            lambda: plots.saliency(tn.Dense(3), IMAGES, LABELS, LOSS),
            TypeError,
            "must be a tinynet.Sequential, got Dense",
        ),
        (lambda: plots.saliency(network(), IMAGES, LABELS, None), TypeError, "saliency: loss must be a function"),
        (lambda: plots.saliency(network(), IMAGES[..., 0], LABELS, LOSS), ValueError, r"x must be \(N, H, W, C\)"),
        (lambda: plots.saliency(network(), IMAGES[..., :2], LABELS, LOSS), ValueError, "saliency: images must be"),
        (lambda: plots.worst(np.eye(3)[LABELS][:5], IMAGES, LABELS), ValueError, r"expected logits \(6, C\)"),
        (lambda: plots.worst(network(), IMAGES, LABELS + 1), ValueError, "the 3 classes are from 0 to 2"),
        (lambda: plots.worst(network(), IMAGES, LABELS, count=0), ValueError, "count must be at least 1"),
        (lambda: plots.image_grid([0, 1], IMAGES, LABELS), ValueError, r"predictions must be \(6,\) or \(N, C\), got"),
        (lambda: plots.image_grid(None, IMAGES), TypeError, "image_grid: labels"),
        (lambda: plots.roc_curve([0.1, 0.2], [1, 1]), ValueError, "roc_curve: there are no negatives"),
        (lambda: plots.roc_curve([0.1, 0.2], [1, 2]), ValueError, "roc_curve: labels must be 0 or 1, got 2"),
        (lambda: plots.precision_recall_curve(np.eye(3), np.eye(3), names="ab"), ValueError, "names must be 3, one"),
        (lambda: plots.precision_recall_curve([], []), ValueError, "precision_recall_curve: scores must be"),
        (lambda: plots.attention(np.ones((1, 2, 3, 3))), ValueError, r"got \(1, 2, 3, 3\); those of one sample"),
        (lambda: plots.attention(np.ones((2, 3))), ValueError, r"\(T, T\) or \(heads, T, T\), got \(2, 3\)"),
        (lambda: plots.attention(np.eye(3) * 2), ValueError, "weights must be from 0 to 1, got 0.0 to 2.0"),
        (lambda: plots.attention(np.full((2, 2), np.nan)), ValueError, "weights must be from 0 to 1, got nan to nan"),
        (lambda: plots.attention(np.eye(3), "ab"), ValueError, "tokens must be 3, one for each position, got 2"),
        (lambda: plots.attention(np.eye(3), titles=[]), ValueError, "titles must be 1, one for each head, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, error, message):
    with pytest.raises(error, match=message):
        draw()


def test_signs_have_the_packages_colours_and_0_is_white():
    colours = plots.signed_colours()
    np.testing.assert_array_equal(colours([0.5])[0, :3], 1)
    low, high = colours([0.25, 0.75])[:, :3]
    assert low[2] > low[0]  # blue
    assert high[0] > high[2]  # orange
