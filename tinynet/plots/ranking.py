"""How well scores order samples, the positives before the negatives, at every threshold."""

from tinynet import ranking
from tinynet.plots.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, drawing_on, finished, plain

COLOURS = BLUE, ORANGE, GREEN, PURPLE, RED, GREY


def roc_curve(scores, labels, path=None, *, on=None, names=None):
    """The ROC curve: the true positive rate against the false positive rate, from the highest threshold to the lowest.

    scores and labels are as in metrics.auroc: one question, several, or several classes, each against all others; each
    has a curve, named by its number or its word in `names`, with the area below it.  Dashed is what chance gives.

    >>> len(tn.plots.roc_curve([0.1, 0.7, 0.9], [0, 0, 1]).axes)
    1
    """
    panel, on = _panel(on)
    for k, (word, z, t) in enumerate(_each(scores, labels, names, "roc_curve")):
        fpr, tpr, _ = ranking.roc_curve(z, t)
        _line(panel, k, fpr, tpr, f"{word}AUROC {ranking.auroc(z, t):.3f}")
    panel.plot([0, 1], [0, 1], color=GREY, lw=1.2, ls="--")
    panel.set(xlabel="false positive rate", ylabel="true positive rate")
    return _with_legend(panel, on, path, "lower right")


def precision_recall_curve(scores, labels, path=None, *, on=None, names=None):
    """The precision against the recall, from the highest threshold to the lowest.

    The arguments are those of roc_curve.  The curve has steps, since no threshold gives a point between two others, and
    the area below it is the average precision.  Dashed, where there is one curve, is what chance gives: the share of
    positives.

    >>> len(tn.plots.precision_recall_curve([0.1, 0.7, 0.9], [0, 0, 1]).axes)
    1
    """
    panel, on = _panel(on)
    each = _each(scores, labels, names, "precision_recall_curve")
    for k, (word, z, t) in enumerate(each):
        precision, recall, _ = ranking.precision_recall_curve(z, t)
        name = f"{word}AP {ranking.average_precision(z, t):.3f}"
        _line(panel, k, [0, *recall], [precision[0], *precision], name, drawstyle="steps-pre")
    if len(each) == 1:
        panel.axhline(t.mean(), color=GREY, lw=1.2, ls="--")
    panel.set(xlabel="recall", ylabel="precision")
    return _with_legend(panel, on, path, "lower left")


def _each(scores, labels, names, name):
    """Of each question its word, its scores (N,) and its labels (N,), booleans."""
    z, t, _, _ = ranking.checked(scores, labels, None, name, 2)
    if z.ndim == 1:
        return [("" if names is None else f"{names[0]}: ", z, t)]
    if names is not None and len(names) != z.shape[1]:
        raise ValueError(f"{name}: names must be {z.shape[1]}, one for each curve, got {len(names)}")
    words = range(z.shape[1]) if names is None else names
    return [(f"{word}: ", z[:, k], t[:, k]) for k, word in enumerate(words)]


def _panel(on):
    on = drawing_on(on, (5.2, 4.6))
    panel = on.subplots()
    plain(panel)
    panel.set(xlim=(-0.01, 1.01), ylim=(0, 1.01))
    return panel, on


def _line(panel, k, x, y, label, **options):
    style = ("-", "--", ":")[k // len(COLOURS) % 3]
    panel.plot(x, y, color=COLOURS[k % len(COLOURS)], ls=style, lw=1.8, label=label, **options)


def _with_legend(panel, on, path, where):
    many = len(panel.get_legend_handles_labels()[0]) > 5
    outside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "fontsize": 8} if many else {"loc": where}
    panel.legend(frameon=False, **outside)
    return finished(on, path)
