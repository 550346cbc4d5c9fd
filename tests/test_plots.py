"""What the pictures of losses and of predictions show: the numbers drawn, and the words beside them."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tinynet import metrics, plots

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])


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


def test_no_picture_opens_a_window_or_chooses_a_backend():
    code = """
import sys
from tinynet import plots
assert not any(name.startswith("matplotlib") for name in sys.modules)
plots.loss_and_gradient()
plots.confusion_matrix([0, 1], [1, 1])
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
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
