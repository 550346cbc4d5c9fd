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

from tinynet.data.sequences import count, each, parts
from tinynet.layers.activated import Activated
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
    layers = _in_parts(copy.deepcopy(model))
    sizes = [count(x) * math.prod(layer.output_shape) for layer, _ in layers]
    small = (
        sum(part.size for part in parts(x))
        + sum(sizes)
        + sum(p.value.size for layer, _ in layers for p in layer.parameters)
        <= MOST
    )
    # A TiedDense multiplies by another layer's weights, which the Jacobian of either layer alone does not see.
    small = small and all(layer.tied is None for layer in model.walk())
    shown = _numbers if small else _histogram

    def array(name, values, kind):
        arrays.append({"name": name, "kind": kind, "shape": list(values.shape), "values": shown(values)})

    y, arrays, steps = each(np.array, x), [], []
    for number, part in enumerate(parts(y)):
        array("x" if part is y else f"x{number}", part, "input")
    given = list(range(len(arrays)))  # which arrays the next layer is given
    for layer, name in layers:
        layer.trainable = True  # a frozen layer leaves out gradients, which the reader wants to see
        x, y = y, layer.forward(y, True)
        inputs = [*given, *range(len(arrays), len(arrays) + len(layer.parameters))]
        for p in layer.parameters:
            array(_short(p.name, name[1:]), p.value, "parameter")
        array(name, y, "output")
        kept = (each(np.array, x), np.array(y)) if small else ()  # a layer may write into what the one before it made
        given = [len(arrays) - 1]
        steps.append({"name": f"{name[1:]} {type(layer).__name__}", "inputs": inputs, "output": len(arrays) - 1})
        steps[-1] |= {"formula": layer.formula(), "backward": layer.backward_formula(), "kept": kept}
    value, dy = found
    written = _softmax_with_numbers(y, targets, loss) if small else None
    arrays[-1]["grads"] = shown(dy)
    for (layer, _), step in zip(reversed(layers), reversed(steps), strict=True):
        dy = layer.backward(dy, not layer.takes_integers)
        gradients = [*_of_inputs(layer, dy), *(p.grad for p in layer.parameters)]
        for index, gradient in zip(step["inputs"], gradients, strict=True):
            arrays[index]["grads"] = None if gradient is None else shown(gradient)
        kept = step.pop("kept")
        if small:
            dy = np.array(dy) if type(dy) is np.ndarray else dy
            step["form"], step["links"] = _links(layer, *kept, step["inputs"])
    its = {"value": _numbers(value)[0], "formula": formulas[0], "backward": formulas[1], "lines": written}
    its["labels"] = np.asarray(targets).tolist() if written else None
    its["targets"] = np.array2string(np.asarray(targets), separator=", ", threshold=60)
    return {"small": small, "arrays": arrays, "steps": steps, "loss": its}


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


def _in_parts(model):
    """[(layer, the name of its output)], a Dense or Conv2D with an activation as two: z = x w + b and y = f(z)."""
    activations, parts = {layer.activation.name: layer for layer in LAYERS}, []
    for number, layer in enumerate(model.layers):
        given = options(layer)
        if not isinstance(layer, Activated) or given.get("activation") is None:
            parts.append((layer, f"y{number}"))
            continue
        sums, f = type(layer)(**{**given, "activation": None}), activations[layer.activation.name]
        f = f() if isinstance(f, type) else copy.copy(f)  # GELU() and GELU("tanh") are two of them
        f.build(sums.build(layer.input_shape, model.dtype, np.random.default_rng(0)), model.dtype, None)
        for p, its in zip(sums.parameters, layer.parameters, strict=True):
            p.value = its.value
        parts += [(sums, f"z{number}"), (f, f"y{number}")]
    return parts


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


def _short(name, layer):
    """A parameter's name as formulas have it, with its layer's number: "0.weight" is w0; "3.1.bias" is b3.1."""
    *within, own = name.split(".")
    return {"weight": "w", "bias": "b"}.get(own, own) + ".".join([layer, *within[1:]])


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
