"""Pictures: how a training went, what a model makes of images, how good and how honest it is,
what happens inside it, what looks at what in a sequence, how losses compare.

All take their arguments in one order: the model, or what it predicts; then x, then y, then what else the picture is
of; then `path`, where to save it.  Options follow by their names.

Every function returns a matplotlib Figure and, given `path`, also saves it (.png, .svg, .pdf).  `on=` takes a
Figure or a SubFigure to draw on, so that several make one picture.  pyplot is never touched: no window opens,
no backend is chosen or changed, and it works without a display.  matplotlib is imported when first needed.
"""

from tinynet.plots.canvas import BLUE, GREEN, GREY, ORANGE, PALE, PURPLE, RED, figure, signed_colours
from tinynet.plots.curves import training_curves
from tinynet.plots.grad_cam import class_activation, grad_cam
from tinynet.plots.inside import activations, filters, gradients, saliency
from tinynet.plots.losses import loss_and_gradient, losses_by_margin
from tinynet.plots.predictions import confusion_matrix, image_grid, reliability_diagram, worst
from tinynet.plots.ranking import precision_recall_curve, roc_curve
from tinynet.plots.sequences import attention

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PALE",
    "PURPLE",
    "RED",
    "activations",
    "attention",
    "class_activation",
    "confusion_matrix",
    "figure",
    "filters",
    "grad_cam",
    "gradients",
    "image_grid",
    "loss_and_gradient",
    "losses_by_margin",
    "precision_recall_curve",
    "reliability_diagram",
    "roc_curve",
    "saliency",
    "signed_colours",
    "training_curves",
    "worst",
]
