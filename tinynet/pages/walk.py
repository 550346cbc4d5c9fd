"""One training step as a page: every number of a small network, what it was made of, and what it touches, times what.

Which outputs did this number touch, and times what?  The answer is the Jacobian of its layer, dy[k]/dx[i] and
dy[k]/dw[j], and backward computes it: given dy = 1 at entry k and 0 elsewhere, it returns row k.  So no layer needs to
say anything of itself here.

A derivative of 0 may say that a number touches nothing, as x[0] in y[1] of a Flatten, or that it does so times 0, as
in a ReLU below 0.  Which one it is, the same layer tells at random numbers: what changes y when it is moved far,
touches it.  There, too, one sees what a derivative is: in a Dense dy/dw[i,o] is one of the x, and of random numbers no
two are the same.
"""

import copy
import json
import math
from importlib.resources import files

import numpy as np

from tinynet.data.sequences import Inputs, each, parts
from tinynet.layers.activated import Weighted
from tinynet.layers.activations import LAYERS
from tinynet.layers.elementwise import ActivationLayer
from tinynet.layers.options import options
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy

MOST = 500  # numbers that a page shows one by one: the input, all parameters, and what each layer computes
TRIALS = 2  # at random numbers
FAR = 100  # how far a random number is moved to see what it touches: the largest of its window, and above 0
CLOSE = 1e-4  # of float32: as near as a derivative and a number must be to count as the same


def look(model, x, targets, loss, found, formulas):
    """What the page shows, for JSON: a training step of a copy of the model on the batch x.

    `found` are the loss's value and gradient in this step, `formulas` its formulas, forward and backward.
    """
    step = _Step(each(np.array, x))
    step.forward(copy.deepcopy(model).layers, step.given)
    # A TiedDense multiplies by another layer's weights, which the Jacobian of either layer alone does not see.
    tied = any(layer.tied is not None for layer in model.walk())
    small = sum(array["values"].size for array in step.arrays) <= MOST and not tied
    value, dy = found
    z = step.arrays[-1]["values"]
    written = _softmax_with_numbers(z, targets, loss) if small else None
    step.backward(dy, small)
    shown = _numbers if small else _histogram
    for array in step.arrays:
        array["shape"] = list(array["values"].shape)
        for kind in ("values", "grads"):
            array[kind] = None if array[kind] is None else shown(array[kind])
    its = {"value": _numbers(value)[0], "formula": formulas[0], "backward": formulas[1], "lines": written}
    its["labels"] = np.asarray(targets).tolist() if written else None
    its["targets"] = np.array2string(np.asarray(targets), separator=", ", threshold=60)
    return {"small": small, "arrays": step.arrays, "steps": step.steps, "loss": its}


class _Step:
    """The arrays of a training step, each a dict with its name, kind, values and gradients, and the steps between them.

    A block is opened: its layers have steps of their own, and if it joins branches, that is one more.
    """

    def __init__(self, x):
        self.arrays, self.steps, self._ways_back = [], [], []
        if type(x) is Inputs:
            self.given = Inputs(self._add(f"x{number}", part, "input") for number, part in enumerate(x))
        else:
            self.given = self._add("x", x, "input")

    def _add(self, name, values, kind):
        self.arrays.append({"name": name, "kind": kind, "values": values, "grads": None})
        return len(self.arrays) - 1

    def forward(self, layers, at):
        """Through the layers, from the array of index `at`, or from several; returns the index of what they make."""
        for layer in layers:
            if layer.joined:
                given = zip(layer.branches, layer.of_branches(at), strict=True)
                at = self._join(layer, [self.forward(branch, its) for branch, its in given])
            elif layer.in_a_row:
                at = self.forward(layer.layers, at)
            else:
                for part, letter in _in_parts(layer):
                    at = self._through(part, letter, number(layer), at)
        return at

    def _through(self, layer, letter, place, at):
        layer.trainable = True  # a frozen layer leaves out gradients, which the reader wants to see
        x = each(lambda index: self.arrays[index]["values"], at)
        y = np.array(layer.forward(each(np.copy, x), True))  # a layer may write into its x, and a later one into this y
        own = [self._add(_short(p.name, place), p.value.copy(), "parameter") for p in layer.parameters]
        inputs, output = [*parts(at), *own], self._add(letter + place, y, "output")
        step = {"name": f"{place} {type(layer).__name__}", "inputs": inputs, "output": output}
        self.steps.append({**step, "formula": layer.formula(), "backward": layer.backward_formula()})

        def back(dy, small):
            dx = layer.backward(dy, not layer.takes_integers)
            found = [*_of_inputs(layer, dx), *(p.grad for p in layer.parameters)]
            gradients = [None if gradient is None else np.array(gradient) for gradient in found]
            return gradients, _links(layer, x, y, inputs) if small else ("other", None)

        self._ways_back.append(back)
        return output

    def _join(self, layer, inputs):
        """The step of a block that adds what its branches made, or puts it side by side."""
        is_sum, place = layer.joined == "sum", number(layer)
        inputs = sorted(inputs) if is_sum else inputs  # a Residual is x + f(x)
        parts, names = ([self.arrays[index][key] for index in inputs] for key in ("values", "name"))
        y, name = sum(parts) if is_sum else np.concatenate(parts, axis=-1), f"y{place}"
        formula = f"{name} = {' + '.join(names)}" if is_sum else f"{name} = [{', '.join(names)}]"
        backward = f"{' and '.join(names)} get {f'd{name}, whole' if is_sum else f'their own columns of d{name}'}"
        step = {"name": f"{place} {type(layer).__name__}", "inputs": inputs, "output": self._add(name, y, "output")}
        self.steps.append({**step, "formula": formula, "backward": backward})

        def back(dy, small):
            if is_sum:
                links = [[[a, k, 1.0, -1, -1] for a in inputs] for k in range(y.size)] if small else None
                return [dy] * len(inputs), ("joined", links)
            whose = [np.full(part.shape, a) for part, a in zip(parts, inputs, strict=True)]
            entries = [np.arange(part.size).reshape(part.shape) for part in parts]
            made_of = (np.concatenate(of, axis=-1).ravel().tolist() for of in (whose, entries))
            links = [[[a, e, 1.0, -1, -1]] for a, e in zip(*made_of, strict=True)] if small else None
            return np.split(dy, np.cumsum([part.shape[-1] for part in parts])[:-1], axis=-1), ("joined", links)

        self._ways_back.append(back)
        return step["output"]

    def backward(self, dy, small):
        """Gradients for all arrays; and, of a small network, how each output was made, and of what."""
        self.arrays[-1]["grads"] = np.array(dy)
        for step, back in zip(reversed(self.steps), reversed(self._ways_back), strict=True):
            gradients, (form, links) = back(self.arrays[step["output"]]["grads"], small)
            if small:
                step["form"], step["links"] = form, links
            for index, gradient in zip(step["inputs"], gradients, strict=True):
                array = self.arrays[index]
                if gradient is not None:  # what touched several steps adds up what comes from each
                    array["grads"] = gradient if array["grads"] is None else array["grads"] + gradient


def page(title, data, table):
    """The page as text; the table stands there for larger networks."""
    return filled("walk", {"title": title, **data, "table": table})


def filled(name, data):
    """A page's template with its script, the style of all pages, and the data in it."""
    here = files("tinynet.pages")
    text = here.joinpath(f"{name}.html").read_text("utf-8")
    data = json.dumps(data, allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # so that no name can end the script
    style, script = (here.joinpath(file).read_text("utf-8") for file in ("pages.css", f"{name}.js"))
    for mark, content in (("/* the style */", style), ("/* the script */", script), ('"the step"', data)):
        before, after = text.split(mark)
        text = before + content + after
    return text


def _in_parts(layer):
    """[(layer, the letter of its output)]: a Dense or Conv2D with an activation as two, z = x w + b and y = f(z)."""
    given = options(layer)
    if not isinstance(layer, Weighted) or given.get("activation") is None:
        return [(layer, "y")]
    sums = type(layer)(**{**given, "activation": None})
    f = {kind.activation.name: kind for kind in LAYERS}[layer.activation.name]
    f = f() if isinstance(f, type) else copy.copy(f)  # GELU() and GELU("tanh") are two of them
    f.build(sums.build(layer.input_shape, layer.dtype, np.random.default_rng(0)), layer.dtype, None)
    for p, its in zip(sums.parameters, layer.parameters, strict=True):
        p.value = its.value
    return [(sums, "z"), (f, "y")]


def number(layer):
    """Where a layer is in the model: "3", or "3.1" for one inside layer 3."""
    return layer.place.removeprefix(" (layer ").removesuffix(")")


def _links(layer, x, y, inputs):
    """How the layer makes its outputs, and [[array, entry, derivative, array, entry], ...] for each of them.

    The last two say which number the derivative is, or are -1, -1.  How: "each" number by itself; "sums" of parameters,
    of inputs ("weighted"), or of "both", each times its derivative; or "other".
    """
    sizes = [array.size for array in (*parts(x), *(p.value for p in layer.parameters))]
    here = _jacobian(layer, sizes, y.shape)
    touches, factor_of, forms = here != 0, np.full(here.shape, -1), {"sums", "weighted", "both"}
    rng, first = np.random.default_rng(0), sum(part.size for part in parts(x))
    for trial in range(TRIALS):
        there = each(lambda part: part if _whole(part) else rng.normal(size=part.shape).astype(part.dtype), x)
        for p in layer.parameters:
            p.value[...] = rng.normal(size=p.value.shape)
        values = [*parts(there), *(p.value for p in layer.parameters)]
        numbers = np.concatenate([np.ravel(value) for value in values]).astype(np.float64)
        made = np.array(layer.forward(there, True), np.float64).ravel()
        J = _jacobian(layer, sizes, y.shape)
        if trial == 0:
            touches |= (J != 0) | _moved(layer, there, made)
        terms = J * numbers
        sums = {"sums": terms[:, first:], "weighted": terms[:, :first], "both": terms}
        forms = {form for form in forms if np.allclose(sums[form].sum(axis=1), made, 1e-3, 1e-4)}
        if trial == 0:
            factor_of = _which(J, numbers)
        else:  # only where it is the same number again
            same = np.abs(J - numbers[factor_of]) <= CLOSE * np.abs(J)
            factor_of[~same] = -1
    form = next((form for form in ("sums", "weighted", "both") if form in forms), "other")
    form = "each" if isinstance(layer, ActivationLayer) else form
    owner = np.repeat(inputs, sizes)
    entry = np.concatenate([np.arange(size) for size in sizes])
    links = []
    for k in range(len(here)):
        row = []
        for i in np.flatnonzero(touches[k]):
            f = factor_of[k, i]
            named = (int(owner[f]), int(entry[f])) if f >= 0 else (-1, -1)
            row.append([int(owner[i]), int(entry[i]), _numbers(here[k, i])[0], *named])
        links.append(row)
    return form, links


def _moved(layer, x, y):
    """Whether each output (row) changes when an input or a parameter (column) is moved far."""
    columns, values = [], [*parts(x), *(p.value for p in layer.parameters)]
    for number, value in enumerate(values):
        for entry in range(value.size):
            twin, there = copy.deepcopy(layer), each(np.copy, x)  # a fresh one each, so that a Dropout drops the same
            if _whole(value):
                columns.append(np.zeros(y.shape, bool))
                continue
            moved = [*parts(there), *(p.value for p in twin.parameters)][number]
            moved.reshape(-1)[entry] += FAR
            change = np.ravel(twin.forward(there, True)) - y
            columns.append(np.abs(change) > CLOSE * FAR / 10)
    return np.stack(columns, axis=1)


def _which(J, numbers):
    """Of each derivative, the index of the number that it equals, or -1; 1 is no number's."""
    order = np.argsort(numbers)
    near = order[np.clip(np.searchsorted(numbers[order], J), 1, len(order) - 1)]
    below = order[np.clip(np.searchsorted(numbers[order], J) - 1, 0, len(order) - 1)]
    near = np.where(np.abs(numbers[below] - J) < np.abs(numbers[near] - J), below, near)
    return np.where((np.abs(numbers[near] - J) <= CLOSE * np.abs(J)) & (J != 0), near, -1)


def _jacobian(layer, sizes, shape):
    """(outputs, inputs and parameters) of the last forward pass: a row is what backward makes of one output's 1."""
    rows = np.zeros((math.prod(shape), sum(sizes)))
    for k, row in enumerate(rows):
        dy = np.zeros(shape, layer.dtype)
        dy.reshape(-1)[k] = 1
        dx = _of_inputs(layer, layer.backward(dy, not layer.takes_integers))
        found = [*dx, *(p.grad for p in layer.parameters)]
        row[:] = np.concatenate([np.zeros(n) if d is None else d.ravel() for n, d in zip(sizes, found, strict=True)])
    return rows


def _of_inputs(layer, dx):
    """[dx] of one input, or of several [dx0, dx1, ...]; None of one that is whole numbers."""
    return list(dx) if isinstance(dx, tuple) else [dx] * len(layer.entries)


def _whole(array):
    return array.dtype.kind in "iu"


def _softmax_with_numbers(z, targets, loss):
    """Softmax cross-entropy with its numbers: a line for each sample, and one for each entry of the gradient."""
    targets = np.asarray(targets)
    if loss is not softmax_cross_entropy or z.ndim != 2 or targets.ndim != 1 or (targets < 0).any():
        return None
    N, forward, backward = len(z), [], []
    p = np.exp(z - z.max(axis=1, keepdims=True), dtype=np.float64)
    p /= p.sum(axis=1, keepdims=True)
    for n, t in enumerate(targets):
        total = " + ".join(f"exp({number:.4g})" for number in z[n])
        forward.append(f"sample {n}: log({total}) - {z[n, t]:.4g} = {-np.log(p[n, t]):.4g}, its label is {t}")
        backward += [f"({p[n, c]:.4g} - {int(c == t)}) / {N}" for c in range(z.shape[1])]
    return {"forward": forward, "backward": backward}


def _short(name, number):
    """A parameter's name as formulas have it, with its layer's number: "0.weight" is w0; "3.1.bias" is b3.1."""
    *within, own = name.removeprefix(f"{number}.").split(".")
    return {"weight": "w", "bias": "b"}.get(own, own) + ".".join([number, *within])


def _numbers(array):
    """A flat list for JSON, which has neither NaN nor infinity: these are texts."""
    return [v if np.isfinite(v) else str(v) for v in np.ravel(array).tolist()]


def _histogram(array):
    """Its norm, its lowest and highest number, and how many lie in each of 30 equal parts between them."""
    finite = np.asarray(array, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return None
    counts, edges = np.histogram(finite, 30)
    norm = float(np.linalg.norm(finite))
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist(), "norm": norm}
