"""The losses by their names, for those who call fit or explain with one, and what each takes its predictions for."""

from functools import partial

import numpy as np

from tinynet.checks import other_names
from tinynet.layers.in_a_row import ending_in_a_row
from tinynet.losses.binary_cross_entropy import binary_cross_entropy
from tinynet.losses.categorical_cross_entropy import categorical_cross_entropy
from tinynet.losses.hinge import hinge
from tinynet.losses.huber import huber
from tinynet.losses.kl_divergence import kl_divergence
from tinynet.losses.linear_cross_entropy import linear_cross_entropy
from tinynet.losses.mean_absolute_error import mean_absolute_error
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.losses.multiclass_hinge import multiclass_hinge
from tinynet.losses.nll import nll
from tinynet.losses.poisson_nll import poisson_nll
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.sigmoid_focal import sigmoid_focal
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy
from tinynet.losses.softmax_focal import softmax_focal

LOSSES = {
    loss.__name__: loss
    for loss in (
        softmax_cross_entropy,
        sigmoid_cross_entropy,
        softmax_focal,
        sigmoid_focal,
        kl_divergence,
        categorical_cross_entropy,
        binary_cross_entropy,
        nll,
        hinge,
        multiclass_hinge,
        mean_squared_error,
        mean_absolute_error,
        huber,
        poisson_nll,
    )
}
# Those whose targets have the prediction's shape, number by number.
ELEMENTWISE = (
    sigmoid_cross_entropy, sigmoid_focal, binary_cross_entropy, hinge, mean_squared_error, mean_absolute_error, huber,
    poisson_nll,
)  # fmt: skip
OTHER_NAMES = {**other_names.LOSSES, **{n: name for name, loss in LOSSES.items() for n in loss.declaration.names}}


def named_loss(loss, name, model=None):
    """The loss of that name, this package's or another library's, or None.

    Of names that mean one loss for logits and another for probabilities, the model's last layer tells which.
    """
    known, short = {**LOSSES, "linear_cross_entropy": linear_cross_entropy}, other_names.run_together(loss)
    pair = other_names.FOR_LOGITS_OR_PROBABILITIES.get(short)
    if loss in known or pair is None:
        names = {other_names.run_together(each): each for each in known}
        return known.get(loss) or known.get(names.get(short)) or known.get(OTHER_NAMES.get(short))
    ending = model is not None and ending_in_a_row(model.layers)
    if not ending:
        why = "" if model is None else "; what the model's last layer gives, it does not say"
        raise ValueError(
            f"{name}: {loss!r} is {pair[0]!r}, for logits, or {pair[1]!r}, for probabilities{why}: give one of these"
        )
    if pair[0] == "softmax_cross_entropy" and model.output_shape[-1:] == (1,):
        raise ValueError(
            f"{name}: {loss!r} is between classes, and the model has one output; for a yes or no, give 'bce'"
        )
    return LOSSES[pair[ending[0] == "probabilities"]]


def loss_function(loss, name, with_layer=False, model=None):
    """The loss of that name, or the function that `loss` is; `name` is of whoever was given it, for messages.

    linear_cross_entropy is a last layer and softmax_cross_entropy in one: the latter alone, unless `with_layer`.
    """
    if isinstance(loss, str):
        given, loss = loss, named_loss(loss, name, model)
        if loss is None:
            hint = other_names.advice(given, LOSSES, OTHER_NAMES)
            names = ", ".join([*LOSSES, "linear_cross_entropy"])
            raise ValueError(f"{name}: there is no loss {given!r}; there are {names}.{hint}")
    if not with_layer:
        loss = apart(loss)
    if str(getattr(loss, "__module__", None)).startswith("torch."):
        hint = other_names.advice(getattr(loss, "__name__", type(loss).__name__), LOSSES, OTHER_NAMES)
        raise TypeError(f"{name}: loss must give its gradient as well, and PyTorch's do not; take one from here.{hint}")
    if not callable(loss):
        raise TypeError(
            f"{name}: loss must be a function (prediction, target) -> (value, gradient) or a name, got {loss!r}"
        )
    return loss


def checked_result(result, prediction, name):
    """What a loss returned, if it is what training needs: a number and a gradient."""
    if not isinstance(result, (tuple, list)):
        raise ValueError(f"{name}: the loss must return a pair (value, gradient), got a {type(result).__name__}")
    if len(result) != 2:
        raise ValueError(f"{name}: the loss must return a pair (value, gradient), got {len(result)} of them")
    value, gradient = result
    if gradient is None:
        raise ValueError(f"{name}: the loss must return a pair (value, gradient), got None for the gradient")
    if not isinstance(value, float) and np.ndim(value) != 0:  # of a float, ndim would make an array in every step
        raise ValueError(
            f"{name}: the loss must return one number, got an array of shape {np.shape(value)};"
            ' with reduction="mean" or "sum" it does'
        )
    if np.shape(gradient) != prediction.shape:
        raise ValueError(
            f"{name}: the loss must return a gradient of the prediction's shape {prediction.shape}, "
            f"got {np.shape(gradient)}"
        )
    return float(value), gradient


def as_column(targets, prediction, loss):
    """Targets (N,) as the column (N, 1) that an elementwise loss compares with a model's one output a row; else them.

    The losses themselves refuse (N,) beside (N, 1), of which NumPy would make (N, N); here it is known what is meant.
    """
    if prediction.shape[-1:] != (1,) or without_options(loss)[0] not in ELEMENTWISE:
        return targets
    try:
        column = np.asarray(targets)
    except ValueError:  # rows of unequal length: the loss says so
        return targets
    return column[..., None] if column.shape == prediction.shape[:-1] else targets


def apart(loss):
    """The loss of the logits, where it is linear_cross_entropy, perhaps with options; else itself."""
    function, options = without_options(loss)
    if function is not linear_cross_entropy:
        return loss
    return partial(softmax_cross_entropy, **options) if options else softmax_cross_entropy


def without_options(loss):
    """The function that a functools.partial calls in the end, and the options that it then gets; or loss and none."""
    options = {}
    while isinstance(loss, partial):
        options, loss = {**loss.keywords, **options}, loss.func
    return loss, options


def called(loss):
    """A loss as one would call it, without its arrays: "softmax_cross_entropy(label_smoothing=0.1)"."""
    loss, options = without_options(loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    words = [f"{key}={value!r}" if np.ndim(value) == 0 else f"{key}=..." for key, value in options.items()]
    return f"{name}({', '.join(words)})" if words else name


def formulas(loss):
    """Those that it declares, of its value and its gradient, which hold without options; else how it is called."""
    declaration = getattr(loss, "declaration", None)
    return declaration.formulas if declaration else (f"L = {called(loss)}", "")
