"""Where NaN or infinity began: what fit finds out once its loss or a parameter is no number any more.

The batch is at hand, so the model goes through it once more.  The first of these that is not finite is where it began:

    the input                    a row of the data is broken, or augment broke it
    a parameter                  an earlier step broke it, of the layers that have one the last one first
    a layer's output             the numbers grew too large there
    none of them                 it is the loss that made it, of finite predictions
"""

import math

import numpy as np

from tinynet.data.sequences import count, parts, split
from tinynet.layers.along_time import padded
from tinynet.layers.inputs import Inputs
from tinynet.losses.by_name import as_column
from tinynet.training.counting import positions

HUGE = 1e15  # no sound training makes a prediction like this, and float32 still holds its square


class NonFiniteError(ArithmeticError):
    """The loss or a parameter became NaN or infinite.

    `epoch` and `step` count from 1 and over the whole training; `layer` is the label of the one where it began,
    such as "Dense (layer 3)", or None.  `rows` are those of the batch whose input, output or loss is not finite, where
    that can be said, and `samples` the same ones as they are numbered in x; none where x is finite and what augment
    made of it is not.

    >>> x, y, model = np.eye(4), np.arange(4) % 2, tn.Sequential([tn.Dense(2)], 4)
    >>> x[2, 1] = np.nan
    >>> try:
    ...     tn.fit(model, x, y, loss="cross_entropy", optimizer=tn.SGD(model), epochs=1, progress=False)
    ... except tn.NonFiniteError as error:
    ...     print(error.step, error.samples)
    1 (2,)
    """

    def __init__(self, message, *, epoch=None, step=None, layer=None, rows=(), samples=()):
        super().__init__(message)
        self.epoch, self.step, self.layer = epoch, step, layer
        self.rows, self.samples = rows, samples


def not_finite(what, model, loss, x, y, weights, numbers, read, epoch, step):
    """The NonFiniteError, after a look for where it began.

    numbers   those of the batch's samples in the data
    read      the batch as it stands there, if augment changed it and it can be had; else None
    """
    where, layer, rows = first_not_finite(model, x, y, loss, weights)
    # augment may have returned more or fewer rows than it was given
    samples = tuple(int(numbers[row]) for row in rows) if len(numbers) == count(x) else ()
    if read is not None and input_not_finite(x):
        broken = input_not_finite(read)
        where += "" if broken else " after augment, though x itself is"
        samples = tuple(int(numbers[row]) for row in broken[1]) if broken else ()
    if 1 < len(rows) == count(x):
        where += ", in every row of the batch"
    elif rows:
        where += f", in row{'s' * (len(rows) > 1)} {_listed(rows)} of the batch"
        where += f" (sample{'s' * (len(rows) > 1)} {_listed(samples)} of x)" if samples else ""
    message = f"epoch {epoch}, step {step}: {what}; {where}"
    return NonFiniteError(message, epoch=epoch, step=step, layer=layer, rows=rows, samples=samples)


def _listed(numbers, most=8):
    more = len(numbers) - most
    return ", ".join(map(str, numbers[:most])) + (f" and {more} more" if more > 0 else "")


def first_not_finite(model, x, y, loss, weights=None):
    """In words, the layer's label, and which rows of the batch, as far as that can be said."""
    broken = input_not_finite(x)
    if broken:
        return broken[0], None, broken[1]
    # Gradients travel from the last layer to the first, so the last layer with a broken parameter was the
    # first that received a broken gradient, in an earlier step.  Of nested layers, the inner ones come first here.
    for layer in reversed(list(model.walk())):
        broken = [p.name for p in layer.parameters if not np.isfinite(p.value).all()]
        if broken:
            because = "the gradient there was not finite, or the learning rate too high"
            where = f"it began at {layer.label}, whose parameter {broken[0]} an earlier step broke: {because}"
            return where, layer.label, ()
    prediction, layer = forward_again(model, x)
    rows = rows_not_finite(prediction)
    if layer is not None:
        return f"it began at {layer.label}: its parameters are finite and its output is not", layer.label, rows
    rows = rows_of_loss(loss, prediction, y, model.output_lengths(split(x)[1]))
    rows = tuple(row for row in rows if weights is None or weights[row] > 0)
    largest = np.abs(prediction).max()
    look = "look at the targets"
    if largest > HUGE:
        look = f"its predictions reach {largest:.0e}, and the learning rate may be too high"
    return f"every layer's output is finite, so it began in the loss: {look}", None, rows


def input_not_finite(x):
    """In words, and which rows; None where the input is finite."""
    for number, part in enumerate(parts(x)):
        inputs, lengths = split(part)
        rows = rows_not_finite(inputs if lengths is None else padded(np.asarray(inputs), lengths, inputs.shape[1]))
        if rows:
            return f"{f'input {number}' if type(x) is Inputs else 'the input'} is not finite", rows
    return None


def forward_again(model, x):
    """The prediction, and the first layer whose output is not finite, or None.

    Dropout drops what it dropped before, and running statistics and layers' states stay as they are.
    """
    layers = list(model.walk())
    first = []

    def watched(layer, forward):
        def watching(*given, **options):
            y = forward(*given, **options)
            if not first and not np.isfinite(y).all():  # an inner layer is done before the one around it
                first.append(layer)
            return y

        return watching

    buffers = {name: array.copy() for name, array in model.buffers().items()}
    states = [(layer, layer.state) for layer in layers if layer.state is not None]
    hooks = [(layer, vars(layer)["forward"]) for layer in layers if "forward" in vars(layer)]
    try:
        for layer, _ in states:
            layer.step_back()
        for layer in layers:
            layer.forward = watched(layer, layer.forward)
        prediction = model.forward(x, training=True)
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
        for layer, hook in hooks:
            layer.forward = hook
        for layer, state in states:
            layer.state = state
        for name, array in model.buffers().items():
            array[...] = buffers[name]
    return prediction, first[0] if first else None


def rows_not_finite(x):
    x = np.asarray(x)
    return tuple(np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1)).tolist())


def rows_of_loss(loss, prediction, y, ends):
    """The rows whose own loss is not finite; none where the loss is not one of rows by themselves."""

    def alone(row):
        some = slice(row, row + 1)
        of_row, targets = positions(prediction[some], y[some], None if ends is None else ends[some])
        return loss(of_row, as_column(targets, of_row, loss))[0] if len(of_row) else 0.0

    try:
        return tuple(row for row in range(len(y)) if not math.isfinite(alone(row)))
    except Exception:  # whatever it is: the error to report is that the loss is no number
        return ()
