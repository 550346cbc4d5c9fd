"""Gradient check: is dL/dx really what backward says?  Move x a little both ways and look.

    dL/dx  ~  (L(x + h) - L(x - h)) / 2h         wrong by about h^2, where one side alone is wrong by about h

The output of a layer is an array y, so it needs a number L to differentiate: L = sum(y g) with random g, whose
gradient dL/dy = g is what backward is given.  (The plain sum of y will not do: a softmax sums to 1 whatever its
input, and any nonsense that adds up to 0 would pass.)  Everything runs in float64, where rounding leaves about
1e-16 / h of noise; with h = 1e-5 both errors are near 1e-10.

The error of an array of gradients is its largest difference, divided by its largest entry.  Where that is too large,
the check says at which entry, what both sides say there, and what the likely cause is (causes.py).
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tinynet.causes import Worst, likely_cause
from tinynet.check_input import CheckInput
from tinynet.checks import real_array
from tinynet.checks.assignments import of_package
from tinynet.layers.along_time import in_place
from tinynet.layers.base import Layer
from tinynet.layers.inputs import takes_several
from tinynet.losses.by_name import as_column, loss_function
from tinynet.notebook import table
from tinynet.training.counting import positions

__all__ = ["GradientCheck", "check"]

STEP = 1e-5
KINK_STEP = 1e-7  # where h reached across the corner of a ReLU or a maximum, or so it seems


class GradientCheck:
    """What check found.  Print it, or look at these:

    errors      name of an input or parameter -> its error
    max_error   the largest of them
    worst       name -> the entry where the two sides are farthest apart: its index, backward, quotient and ratio
    causes      name -> a sentence on the likely cause, for each whose error is above `tolerance`
    problems    sentences about what else is wrong, of a layer that adds to its gradients, say
    passed      whether there are none, and the largest error is at most `tolerance`

    >>> found = tn.gradcheck.check(tn.Dense(3), (5, 4))
    >>> list(found.errors), found.max_error < 1e-8
    (['input', 'weight', 'bias'], True)
    """

    def __init__(
        self,
        title: str,
        errors: dict[str, float],
        counts: dict[str, str],
        tolerance: float,
        problems: Iterable[str] = (),
        worst: Mapping[str, Worst] | None = None,
        causes: Mapping[str, str] | None = None,
    ) -> None:
        self.title, self.errors, self.counts, self.tolerance = title, errors, counts, tolerance
        self.problems, self.worst, self.causes = list(problems), dict(worst or {}), dict(causes or {})

    @property
    def max_error(self) -> float:
        """The largest of the errors, NaN if one is."""
        return float(np.max(list(self.errors.values())))

    @property
    def passed(self) -> bool:
        """Whether there are no problems, and the largest error is at most `tolerance`."""
        return not self.problems and bool(self.max_error <= self.tolerance)  # a NaN is no pass

    def __repr__(self):
        width = max(map(len, self.errors))
        lines = [f"gradient check: {self.title}"]
        for name, error in self.errors.items():
            lines.append(f"  {name:<{width}}  error {error:.1e}  ({self.counts[name]})")
            if name in self.causes:
                lines += [f"  {'':<{width}}  {self.worst[name]}", f"  {'':<{width}}  {self.causes[name]}"]
        lines += [f"  {problem}" for problem in self.problems]
        return "\n".join([*lines, self._verdict()])

    def _verdict(self):
        verdict = "passed" if self.passed else "FAILED"
        return f"{verdict}: largest error {self.max_error:.1e}, tolerance {self.tolerance:.0e}"

    def _repr_html_(self):
        rows = []
        for name, error in self.errors.items():
            why = f"{self.worst[name]}\n{self.causes[name]}" if name in self.causes else ""
            rows.append((name, self.counts[name], why, f"{error:.1e}"))
        after = "\n".join([*self.problems, self._verdict()])
        return table(f"gradient check: {self.title}", ("", "checked", "", "error"), rows, 3, after)


def check(
    what: Any,
    *inputs: Any,
    loss: Callable[..., Any] | str | None = None,
    tolerance: float = 1e-7,
    samples: int | None = 200,
    seed: int = 0,
    **options: Any,
) -> GradientCheck:
    """Compare the gradients of a layer, a model or a loss with central differences; returns a GradientCheck.

        check(Dense(3), (5, 4))                              a layer, on random inputs of that shape, N first
        check(model)  or  check(model, x)                    a model, on random inputs or on yours
        check(model, x, y, loss=softmax_cross_entropy)       a model and its loss together; its name will do
        check(LSTM(3), ((4, 5, 2), [5, 0, 3, 1]))            with lengths: a pair (x or its shape, lengths)
        check(model, (images, table))                        a model of several inputs
        check(softmax_cross_entropy, logits, labels, label_smoothing=0.1)     a loss; options are passed on to it

    An array of more than `samples` entries is checked at that many, drawn with `seed`; None checks them all.  Where no
    error is above `tolerance`, the check has passed.

    Layers and models are checked as copies in float64, in training mode; what you pass is left as it is.  Backward runs
    twice, and once in the dtype that the layer or model has: what differs is a problem, and so is an x or dy that it
    changed.  Inputs of whole numbers, such as the words of an Embedding, have no gradient and are not moved.

    >>> tn.gradcheck.check(tn.Dense(3), (5, 4)).passed
    True
    """
    if samples is not None and (not isinstance(samples, (int, np.integer)) or isinstance(samples, bool) or samples < 1):
        raise ValueError(f"gradcheck.check: samples must be a whole number above 0, or None for all, got {samples!r}")
    rng = np.random.default_rng(seed)
    model = what if hasattr(what, "flat_values") else None
    loss = None if loss is None else loss_function(loss, "gradcheck.check", model=model)
    if isinstance(what, Layer) or hasattr(what, "flat_values"):
        if options:
            raise TypeError(f"gradcheck.check: unknown arguments {sorted(options)}; only a loss takes options")
        title, arrays, gradients, output, g, problems = _of_layers(what, inputs, loss, rng)
    elif callable(what) and not isinstance(what, type):
        if loss is not None:
            raise TypeError("gradcheck.check: loss= goes with a model or a layer, not with a loss")
        (title, arrays, gradients, output, g), problems = _of_loss(what, inputs, options), []
    else:
        raise TypeError(f"gradcheck.check takes a layer, a model or a loss, got {what!r}")

    chosen, differences, largest, quotients, worst = {}, {}, {}, {}, {}
    for name, array in arrays.items():
        everything = samples is None or array.size <= samples
        chosen[name] = np.arange(array.size) if everything else rng.choice(array.size, samples, replace=False)
        found = gradients[name].reshape(-1)[chosen[name]]
        slopes = np.array([_slope(output, array, entry, g, STEP) for entry in chosen[name]])
        largest[name] = max(np.abs(found).max(initial=0), np.abs(slopes).max(initial=0))
        difference = np.abs(found - slopes)
        for k in np.flatnonzero(~(difference <= tolerance * largest[name])):
            again = _slope(output, array, chosen[name][k], g, KINK_STEP)
            if abs(found[k] - again) < difference[k]:
                difference[k], slopes[k] = abs(found[k] - again), again
        differences[name], quotients[name] = difference.max(initial=0), slopes
        if len(difference):
            k = int(np.argmax(difference))  # of a NaN, where there is one
            index = tuple(int(axis) for axis in np.unravel_index(chosen[name][k], array.shape))
            worst[name] = Worst(index, float(found[k]), float(slopes[k]))
    # A gradient that is zero by nature, such as that of a bias before a softmax, is all rounding: its error is
    # seen against the other gradients, and where all are zero, against what rounding of y makes of a slope.
    rounding = 4 * np.finfo(np.float64).eps * float(np.linalg.norm(np.ravel(output() * g))) / STEP
    floor = max(1e-3 * max(largest.values()), rounding / tolerance if tolerance > 0 else 0.0)
    errors = {name: float(d / max(largest[name], floor)) if d else 0.0 for name, d in differences.items()}
    first = next(iter(arrays))
    N = len(arrays[first]) if first.split(" ")[0] in ("input", "prediction") and arrays[first].ndim else 0
    causes = {
        name: likely_cause(gradients[name], chosen[name], quotients[name], N)
        for name, error in errors.items()
        if not error <= tolerance
    }
    counts = {
        name: f"all {array.size}" if len(chosen[name]) == array.size else f"{len(chosen[name])} of {array.size}"
        for name, array in arrays.items()
    }
    return GradientCheck(title, errors, counts, tolerance, problems, worst, causes)


def _close(a, b, tolerance):
    size = np.abs(b[np.isfinite(b)]).max(initial=0)
    return np.allclose(a, b, rtol=0, atol=tolerance * size, equal_nan=True)


def _slope(output, array, entry, g, step):
    """(L(x + h) - L(x - h)) / 2h for one entry of x, which is put back."""
    flat = array.reshape(-1)
    kept = flat[entry]
    flat[entry] = kept + step
    above, y_above = flat[entry], output()
    flat[entry] = kept - step
    below, y_below = flat[entry], output()
    flat[entry] = kept
    # Subtracting first, then summing: outputs that did not change cancel exactly instead of adding noise.
    return float(np.sum((y_above - y_below) * g) / (above - below))


def _of_layers(what, inputs, loss, rng):
    """The arrays to move and their gradients, by name, and the function that gives the output, for a layer or model."""
    model = hasattr(what, "flat_values")
    if len(inputs) > (1 if loss is None else 2) or (loss is not None and len(inputs) < 2):
        given = f"{len(inputs)} arrays" + (" and no loss" if loss is None else "")
        raise TypeError(f"gradcheck.check: a layer or model takes x, or x and y with loss=; got {given}")
    if not inputs and (model or what.input_shape is not None):
        shapes = what.input_shape
        inputs = (tuple((3, *shape) for shape in shapes) if takes_several(shapes) else (3, *shapes),)
    if not inputs:
        raise TypeError("gradcheck.check: a layer that is not built needs the shape of its input, such as (5, 4)")
    x = CheckInput(inputs[0], what, rng)
    twin, own = _copy(what, x.shape, np.float64, rng), None
    x.check_lengths(twin.layers if model else [twin])
    # Kernels of this package are tested in both dtypes, and take seconds to compile.
    if what.dtype == np.float32 or (what.dtype is None and not all(of_package(type(layer)) for layer in what.walk())):
        own = _copy(what, x.shape, np.float32, rng)
        x.round_to(np.float32)
        for mine, theirs in zip(_parameters(twin), _parameters(own), strict=True):
            mine.value = theirs.value
        for mine, theirs in zip(twin.walk(), own.walk(), strict=True):
            if mine.state is not None:
                mine.state = theirs.state
    parameters = [parameter for parameter in _parameters(twin) if parameter.trainable]
    random = [(layer, layer.state) for layer in twin.walk() if layer.state is not None]
    buffers = [(array, array.copy()) for layer in twin.walk() for array in layer.buffers.values()]

    def forward():
        for layer, state in random:  # so that a Dropout drops the same numbers every time
            layer.state = state
        for array, start in buffers:  # and what a layer keeps from step to step is the same, too
            array[...] = start
        return x.output(twin)

    y = forward()
    if loss is None:
        dy = g = rng.standard_normal(y.shape)
        output = forward
    else:
        ends = x.ends(what)

        def judged():
            counted, targets = positions(forward(), inputs[1], ends)
            return loss(counted, as_column(targets, counted, loss))

        dy, g = np.array(judged()[1]), 1.0
        dy = dy if ends is None else in_place(dy, ends, y.shape)
        output = lambda: judged()[0]  # noqa: E731
    shown = [((x.several and name) or "x", array, array.copy()) for name, array in x.arrays.items()]
    shown.append(("dy", dy, dy.copy()))
    found = _backward(twin, parameters, dy, x)
    problems = [
        f"forward or backward changed {name}, which must stay as it was"
        for name, array, before in shown
        if not np.array_equal(array, before, equal_nan=array.dtype.kind == "f")
    ]
    for _, array, before in shown:
        array[...] = before
    forward()
    again = _backward(twin, parameters, dy, x)
    for name, gradient in found.items():
        if not _close(again[name], gradient, 1e-9):
            problems.append(f"a second backward gave another gradient of {name}: overwrite it whole, in each call")
    if own is not None:
        problems += _differences(own, x, dy.astype(own.dtype), y, found)
    arrays = x.moved | {parameter.name: parameter.value for parameter in parameters}
    if not arrays:
        raise ValueError("gradcheck.check: there is nothing to move: no parameters, and an input of whole numbers")
    title = f"{type(what).__name__} at x {x}"
    title += f", with {_name(loss)}" if loss is not None else ""
    return title, arrays, found, output, g, problems


def _backward(twin, parameters, dy, x):
    """The gradients of the input (unless it is whole numbers) and of the parameters, by name."""
    dx = twin.backward(dy, input_grad=not x.whole)
    gradients = {} if x.whole else x.gradients(dx)
    return gradients | {parameter.name: parameter.grad.copy() for parameter in parameters}


def _differences(own, x, dy, y, found):
    """What the layer or model gives in its own dtype that is far from y and the gradients found, as sentences."""
    mine = {"y": x.output(own)}
    mine |= _backward(own, _parameters(own), dy, x)
    sizes = {name: np.linalg.norm(array.astype(np.float64)) for name, array in {"y": y, **found}.items()}
    floor = 1e-3 * max(float(np.linalg.norm(dy)), *sizes.values())  # a gradient may be nothing but rounding
    problems = []
    for name, array in {"y": y, **found}.items():
        far = np.linalg.norm(mine[name] - array) > 1e-2 * max(sizes[name], floor)
        if far or (np.isfinite(array).all() and not np.isfinite(mine[name]).all()):
            what = "y" if name == "y" else f"the gradient of {name}"
            problems.append(f"in {own.dtype}, {what} is another one: does every array have the layer's dtype?")
    return problems


def _parameters(what):
    """The parameters whose gradients backward fills: a layer's own, and those of another layer that it uses."""
    if hasattr(what, "flat_values"):
        return what.parameters()
    inside = list(what.walk())
    tied = [layer.tied for layer in inside if layer.tied is not None]
    others = [layer for layer in tied if not any(layer is one for one in inside)]
    return [*what.parameters, *(parameter for layer in others for parameter in layer.parameters)]


def _of_loss(loss, inputs, options):
    """The same for a loss: it returns its value, and the gradients of as many of its first inputs as it has."""
    if not inputs:
        raise TypeError("gradcheck.check: a loss takes its prediction and its target, got no arrays")
    first = real_array(inputs[0], np.float64, "gradcheck.check: the prediction").copy()
    found = loss(first, *inputs[1:], **options)[1:]
    moved = [first]
    for given in inputs[1 : len(found)]:  # a bias may be None
        moved.append(None if given is None else real_array(given, np.float64, "gradcheck.check: an input").copy())
    rest = inputs[len(found) :]
    gradients = loss(*moved, *rest, **options)[1:]
    names = ["prediction"] if len(moved) == 1 else [f"input {k}" for k in range(len(moved))]
    arrays = {name: array for name, array in zip(names, moved, strict=True) if array is not None}
    gradients = {name: np.array(gradient) for name, gradient in zip(names, gradients, strict=True)}
    return f"{_name(loss)} at {first.shape}", arrays, gradients, lambda: loss(*moved, *rest, **options)[0], 1.0


def _name(loss):
    """A loss's name, also where it is a functools.partial."""
    return getattr(getattr(loss, "func", loss), "__name__", repr(loss))


def _copy(what, shape, dtype, rng):
    """A twin of a layer, built for inputs of `shape`, or of a model, in this dtype; same parameters and buffers."""
    twin = copy.deepcopy(what)
    if hasattr(what, "flat_values"):
        for layer in twin.walk():
            vars(layer).update(dtype=None, _in_model=False)  # not built, so that the twin may build it anew
        twin = type(what)(list(twin.layers), what.input_shape, what.seed, dtype=dtype)
        for mine, theirs in zip(twin.parameters(), what.parameters(), strict=True):
            mine.value, mine.trainable = theirs.value, theirs.trainable
        _copy_buffers(what, twin)
        return twin
    for mine, theirs in zip(twin.walk(), what.walk(), strict=True):
        if mine.tied is not None:  # the copy has one of its own
            vars(mine.tied).update(dtype=None, _in_model=False)
            mine.tied.build((1,), dtype, rng)
            if theirs.tied.dtype is not None:
                mine.tied.parameters[0].value = theirs.tied.parameters[0].value
    twin.build(shape, dtype, rng)
    if what.input_shape == twin.input_shape:
        for mine, theirs in zip(twin.parameters, what.parameters, strict=True):
            mine.value, mine.trainable = theirs.value, theirs.trainable
        _copy_buffers(what, twin)
    return twin


def _copy_buffers(what, twin):
    for mine, theirs in zip(twin.walk(), what.walk(), strict=True):
        for name, array in theirs.buffers.items():
            mine.buffers[name] = array
