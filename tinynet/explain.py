"""explain: one training step, layer by layer.  Values flow down the table, gradients flow up.

    forward    x -> layer 0 -> y, the next layer's x -> ... -> prediction -> L
    backward   dL/dx <- layer 0 <- dy <- ... <- dL/dprediction <- dL/dL = 1

A layer's lines say what it computes, what its parameters and its output are, and on their right what flows back.  Read
down on the left, and up on the right: the dy of a layer is the dx that the one below it made.

The step is made by a copy of the model whose layers note what passes through their forward and backward.
"""

from __future__ import annotations

import copy
import math
import os
import re
import textwrap
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tinynet import gradcheck
from tinynet.checks import positive_int
from tinynet.data.sequences import count, parts, split
from tinynet.data.writing import write_whole
from tinynet.gradients import checked_batch
from tinynet.layers.along_time import in_place, within
from tinynet.layers.inputs import Inputs
from tinynet.losses.by_name import as_column, called, checked_result, formulas, loss_function
from tinynet.model import Sequential
from tinynet.notebook import table
from tinynet.pages import sliders, walk
from tinynet.training.counting import positions

WIDTH = 120  # columns of text, at most


class ParameterRow(NamedTuple):
    """A parameter: its name ("weight"), its shape, the norms of its value and gradient, and the gradient's error."""

    name: str
    shape: tuple
    norm: float
    gradient_norm: float
    error: float | None


class Row(NamedTuple):
    """The input, a layer or the loss.  None stands for what there isn't.

    kind, name           "input", "layer" or "loss"; and "0 Conv2D", "3.1 Dense" for a layer inside layer 3
    depth                in how many other layers it lies
    formula, backward_formula
    shape                of its output y, with the batch axis
    norm, gradient_norm  of y and of dL/dy; of the loss, its value and 1
    forward_us, backward_us   microseconds; a loss computes its gradient with its value
    error                gradient check of the dx that it makes of dy
    parameters           a ParameterRow for each of its own, not those of the layers inside it
    """

    kind: str
    name: str
    depth: int
    formula: str
    backward_formula: str
    shape: tuple
    norm: float | None
    gradient_norm: float | None = None
    forward_us: float | None = None
    backward_us: float | None = None
    error: float | None = None
    parameters: tuple = ()


class Explanation:
    """What explain found: str() and repr() of it are the table, and a notebook shows it as one.

    rows   a Row for each input, then one for each layer, a block before the layers in it, and one for the loss
    """

    _walk: dict | None = None  # what save_html shows

    def __init__(self, title: str, rows: list[Row], repeats: int) -> None:
        self.title, self.rows, self.repeats = title, rows, repeats

    @property
    def loss(self) -> float:
        """The value of the loss."""
        return self.rows[-1].norm

    @property
    def max_error(self) -> float | None:
        """The largest error of the gradient checks; NaN if one was, None where nothing was checked."""
        errors = [e for row in self.rows for e in (row.error, *(p.error for p in row.parameters)) if e is not None]
        return float(np.max(errors)) if errors else None

    def save_html(self, path: str | os.PathLike) -> None:
        """Write the step as one page for a browser, which needs nothing else.

        Of a network of at most 500 numbers (the input, the parameters, and what each layer computes) it shows each:
        forward and backward in steps, the formulas with the numbers in them, and of each number what it was made of
        and what it touches, times what.  Blocks are opened into their layers.  Of larger networks, and those with a
        TiedDense, it shows this table and histograms.
        """
        if self._walk is None:
            raise ValueError("save_html: a pair (sequences, lengths) has no page; explain a batch x without lengths")
        write_whole(path, walk.page(self.title, self._walk, repr(self)).encode(), who="save_html")

    def save_sliders_html(self, path: str | os.PathLike) -> None:
        """Write a page where every weight can be moved: the loss, the gradient, and steps of descent follow.

        It is for networks of at most 500 numbers made of Dense, without an activation or with "sigmoid", and Sigmoid,
        with softmax_cross_entropy of labels; ValueError for others.
        """
        write_whole(path, sliders.page(self.title, self._walk).encode(), who="save_sliders_html")

    def __repr__(self):
        return _table(self)

    def _repr_html_(self):
        return _html(self)


def explain(
    model: Sequential,
    x: ArrayLike,
    y: ArrayLike,
    loss: Callable[..., Any] | str,
    *,
    samples: int = 10,
    repeats: int = 5,
    show: bool = False,
) -> Explanation:
    """What every layer does in one training step on the batch x, y, as a table: print(tn.explain(model, x, y, loss)).

    model    a Sequential
    x, y     a batch of samples (N, ...) and what the loss takes as their targets.  Several inputs are a tuple;
             sequences of unequal length a pair x = (sequences, lengths), as for fit; padding counts in the norms of y
    loss     a function (prediction, target) -> (value, gradient), such as softmax_cross_entropy, or the name of one
    samples  how many entries of each array the gradient check moves; 0 leaves the check out
    repeats  how many steps are timed; the best time counts
    show     True: print the table as well

    Returns an Explanation, which shows itself as the table, and has its rows.

    For each layer: its formulas forward and backward, the shape of its output, and what norms (Euclidean, of the whole
    batch) and times its values and gradients have.  The step is the one that training would make next: Dropout drops,
    normalisation uses the batch.  It leaves out the gradient of x, so the first layer is timed without it, though its
    norm is shown; words, the whole numbers that an Embedding takes, have neither norm nor gradient.

    The gradient check compares each layer, alone and with its present parameters, with central differences in float64,
    at random inputs (at x, for layers that take words), and the loss at the model's prediction.

    All is done on copies: parameters, gradients, running means, Dropout's state and what a forward pass kept for
    backward are as before.  Raises ValueError and TypeError for what does not fit: shapes of x, targets that the
    loss refuses, a loss that does not return one number and a gradient.

    >>> model = tn.Sequential([tn.Dense(2, bias=False)], input_shape=2, dtype="float64")
    >>> model.flat_values[...] = [1, 0, 0, 1]
    >>> found = tn.explain(model, [[3.0, 4.0]], [[0.0, 0.0]], tn.mean_squared_error)
    >>> [(row.name, row.norm, row.gradient_norm) for row in found.rows]
    [('input', 5.0, 5.0), ('0 Dense', 5.0, 5.0), ('loss', 12.5, 1.0)]
    >>> found.max_error < 1e-7
    True
    """
    if not hasattr(model, "flat_values"):
        raise TypeError(f"explain: model must be a tinynet.Sequential, got {type(model).__name__}")
    loss = loss_function(loss, "explain", model=model)
    samples, repeats = positive_int(samples, "explain: samples", 0), positive_int(repeats, "explain: repeats")
    x, lengths = checked_batch(x, model, "explain")
    batch, ends = x, None
    if lengths is not None:
        batch, ends = (x, lengths), model.output_lengths(lengths)

    twin = copy.deepcopy(model)
    watches = [_Watch(layer) for layer in twin.walk()]
    # The first step is looked at, and compiles what has yet to be; the others are timed.
    prediction = twin.forward(batch, True)
    counted, targets = positions(prediction, y, ends)
    targets = as_column(targets, counted, loss)
    value, gradient = checked_result(loss(counted, targets), counted, "explain")
    gradient = gradient if ends is None else in_place(gradient, ends, prediction.shape)
    dx = twin.backward(gradient, not model.layers[0].takes_integers)
    gradients = {parameter.name: _norm(parameter.grad) for parameter in twin.parameters()}
    loss_seconds = math.inf
    for watch in watches:
        watch.looking = False
    for _ in range(repeats):
        prediction = twin.forward(batch, True)
        counted, _ = positions(prediction, y, ends)
        began = time.perf_counter()
        loss(counted, targets)
        loss_seconds = min(loss_seconds, time.perf_counter() - began)
        twin.backward(gradient)

    rows = list(_input_rows(model, batch, dx))
    rows += [_row(layer, watch, gradients, samples) for layer, watch in zip(model.walk(), watches, strict=True)]
    formula, backward_formula = formulas(loss)
    error = gradcheck.check(loss, counted, targets, samples=samples).max_error if samples else None
    rows.append(Row("loss", "loss", 0, formula, backward_formula, (), value, 1.0, 1e6 * loss_seconds, None, error, ()))
    many = f"{count(batch)} sample{'s' * (count(batch) > 1)}"
    title = f"{type(model).__name__}, {called(loss)}, one training step of {many} in {model.dtype}"
    result = Explanation(title, rows, repeats)
    if all(split(part)[1] is None for part in parts(batch)):
        result._walk = walk.look(model, x, y, loss, (value, gradient), (formula, backward_formula))
    if show:
        print(result)
    return result


def _input_rows(model, batch, dx):
    """A Row for the input, or for each of several."""
    for number, (part, entry) in enumerate(zip(parts(batch), model.layers[0].entries, strict=True)):
        name, gradient = (f"input {number}", dx and dx[number]) if type(batch) is Inputs else ("input", dx)
        x, lengths = split(part)
        norm = None if entry.takes_integers else _norm(x if lengths is None else within(x, lengths))
        yield Row("input", name, 0, "", "", x.shape, norm, _norm(gradient))


class _Watch:
    """Stands in for forward and backward of one layer of the copy: looks at what passes, then takes the time."""

    def __init__(self, layer):
        self._forward, self._backward = layer.forward, layer.backward
        layer.forward, layer.backward = self.forward, self.backward
        self.takes_words = any(entry.takes_integers for entry in layer.entries)
        self.looking, self.words = True, None
        self.norm = self.gradient_norm = self.shape = None
        self.forward_seconds = self.backward_seconds = math.inf

    def forward(self, x, *rest, **named):
        began = time.perf_counter()
        y = self._forward(x, *rest, **named)
        if not self.looking:
            self.forward_seconds = min(self.forward_seconds, time.perf_counter() - began)
        else:  # the norm is taken now: a block may add to what its layers return
            self.shape, self.norm = y.shape, _norm(y)
            self.words = copy.deepcopy(x) if self.takes_words else None
        return y

    def backward(self, dy, *rest, **named):
        if self.looking:
            self.gradient_norm = _norm(dy)
        began = time.perf_counter()
        dx = self._backward(dy, *rest, **named)
        if not self.looking:
            self.backward_seconds = min(self.backward_seconds, time.perf_counter() - began)
        return dx


def _row(layer, watch, gradients, samples):
    """The Row of a layer of the model; `watch` is its twin's, `gradients` the twin's norms by the parameter's name."""
    inside = {id(p) for inner in layer.layers for p in inner.parameters}
    place = walk.number(layer)
    errors = {}
    if samples and (watch.words is None or layer.parameters):
        # A batch uses few of many words, and the other rows' gradient is 0 whatever is wrong: so more are moved.
        given, moved = ((), samples) if watch.words is None else ((watch.words,), 20 * samples)
        errors = gradcheck.check(layer, *given, samples=moved).errors
    of_x, parameters = [error for name, error in errors.items() if name.split(" ")[0] == "input"], []
    for p in layer.parameters:
        if id(p) not in inside:
            name = p.name.removeprefix(f"{place}.")  # as the check, which has the layer alone, calls it
            parameters.append(ParameterRow(name, p.value.shape, _norm(p.value), gradients[p.name], errors.get(name)))
    return Row(
        "layer",
        f"{place} {type(layer).__name__}",
        place.count("."),
        layer.formula(),
        layer.backward_formula(),
        watch.shape,
        watch.norm,
        watch.gradient_norm,
        _microseconds(watch.forward_seconds),
        _microseconds(watch.backward_seconds),
        float(np.max(of_x)) if of_x else None,
        tuple(parameters),
    )


def _norm(array):
    """The Euclidean norm, summed in float64; None of None."""
    return None if array is None else float(np.linalg.norm(np.asarray(array, np.float64)))


def _microseconds(seconds):
    return None if seconds == math.inf else 1e6 * seconds


# --- as text ------------------------------------------------------------------------------------------------


def _table(explanation):
    rows = explanation.rows
    names = [2 * row.depth + len(row.name) for row in rows]
    names += [2 * row.depth + 2 + len(p.name) for row in rows for p in row.parameters]
    width = max(names)
    shapes = [str(shape) for row in rows for shape in (row.shape, *(p.shape for p in row.parameters))]
    left = max(19, *map(len, shapes)) + 24
    right = max(30, WIDTH - width - left - 5)

    lines = []

    def line(name, forward, backward):
        lines.append(f"{name:{width}}  {forward:{left}} | {backward}".rstrip())

    def wrapped(name, forward, backward):
        forward, backward = _wrapped(forward, left), _wrapped(backward, right)
        for k in range(max(len(forward), len(backward), 1)):
            line(name if k == 0 else "", *(text[k] if k < len(text) else "" for text in (forward, backward)))

    def numbers(name, shape, norm, gradient_norm, forward_us=None, backward_us=None, error=None):
        forward = f"{shape!s:{left - 24}}{_number(norm):>12}{_time(forward_us):>12}"
        line(name, forward, f"{_number(gradient_norm):>12}{_time(backward_us):>12}{_error(error):>12}")

    def output(row):
        name = "  " * row.depth + ("  L" if row.kind == "loss" else "  y")
        numbers(name, row.shape, row.norm, row.gradient_norm, row.forward_us, row.backward_us, row.error)

    line("", "values flow down", "gradients flow up")
    line("", f"{'shape':{left - 24}}{'norm':>12}{'time, us':>12}", f"{'norm':>12}{'time, us':>12}{'check':>12}")
    rule = "-" * (width + left + right + 5)
    lines.append(rule)
    begun = []  # layers whose output is yet to come, each inside the one before
    for row in rows:
        if row.kind == "input":
            numbers(row.name, row.shape, row.norm, row.gradient_norm)
            continue
        while begun and begun[-1].depth >= row.depth:
            output(begun.pop())
        if row.kind == "loss":
            lines.append(rule)
        indent = "  " * row.depth
        wrapped(indent + row.name, row.formula, row.backward_formula)
        for p in row.parameters:
            numbers(f"{indent}  {p.name}", p.shape, p.norm, p.gradient_norm, error=p.error)
        begun.append(row)
    output(begun.pop())
    forward = sum(row.forward_us or 0 for row in rows if row.depth == 0)
    backward = sum(row.backward_us or 0 for row in rows if row.depth == 0)
    lines.append(rule)
    line("all", f"{_time(forward):>{left}}", f"{_time(backward):>24}")
    return "\n".join([explanation.title, "", *lines, "", *textwrap.wrap(_notes(explanation), WIDTH)])


def _notes(explanation):
    return (
        "norm: Euclidean, of the whole batch.  time: the best of "
        f"{explanation.repeats} training steps, in microseconds; a step leaves out the gradient of the input.  "
        "check: the largest difference of gradients from central differences, as a part of the largest gradient, with "
        "each layer alone, in float64, at random inputs; beside y, that of the dx which the layer makes of dy."
    )


def _html(explanation):
    """The same as an HTML table, with a layer's formulas beside the numbers of its y."""
    header = ("", "values flow down", "gradients flow up", "shape", "norm", "time, us", "norm", "time, us", "check")
    rows = []
    for row in explanation.rows:
        indent = "    " * row.depth
        numbers = _number(row.norm), _time(row.forward_us), _number(row.gradient_norm), _time(row.backward_us)
        rows.append((indent + row.name, row.formula, row.backward_formula, row.shape, *numbers, _error(row.error)))
        for p in row.parameters:
            numbers = _number(p.norm), "", _number(p.gradient_norm), ""
            rows.append((f"{indent}    {p.name}", "", "", p.shape, *numbers, _error(p.error)))
    notes = "The norm and the time after the shape are those of the values, the next ones those of the gradients.  "
    return table(explanation.title, header, rows, 4, notes + _notes(explanation))


def _wrapped(formula, width):
    """A formula in lines, broken before "dx = ..." and the like; a part that does not fit on one, wherever it must."""
    parts = re.split(r"(?<=,) (?=\w+ = )", formula)
    glued = " ".join(part.replace(" ", "\0") if len(part) <= width else part for part in parts)
    return [line.replace("\0", " ") for line in textwrap.wrap(glued, width)]


def _number(value):
    return "" if value is None else f"{value:.4g}"


def _time(us):
    return "" if us is None else f"{us:.1f}" if us < 99.95 else f"{us:,.0f}"


def _error(error):
    return "" if error is None else f"{error:.0e}" if error else "0"
