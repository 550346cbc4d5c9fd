"""Random models: each is built and agrees with formulas and finite differences, or is refused where it does not fit.

A model is drawn as a plan, nested tuples of names and options.  From the plan alone, without tinynet, follow the
shapes and the layer that does not fit (if any); and the output, by the layers' plain loops and tests/reference.py.
TINYNET_FUZZ_CASES sets how many models there are; they are then others at each run.
"""

import math
from dataclasses import dataclass

import fuzzing
import normalized
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tinynet.checks.padding import checked_padding
from tinynet.layers.conv2d import conv2d_forward_plain
from tinynet.layers.dense import dense_forward_plain
from tinynet.layers.embedding import embedding_forward_plain
from tinynet.layers.padding import output_size
from tinynet.layers.pooling import avg_pool_forward_plain, max_pool_forward_plain, windows_along

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
RANDOM = fuzzing.RANDOM
ACTIVATIONS = [None, "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "swish", "elu", "selu", "softplus", "relu6"]
SINGLE = {
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "GELU": "gelu",
    "Swish": "swish",
    "SELU": "selu",
    "Softplus": "softplus",
    "ReLU6": "relu6",
}
BLOCKS = ("Residual", "Concat", "Parallel")
IMAGE_LAYERS = ["Conv2D", "MaxPool2D", "AvgPool2D", "GlobalAvgPool2D", "GlobalMaxPool2D"]
ANYWHERE = [*SINGLE, "Softmax", "BatchNorm", "LayerNorm", "Dropout", "Flatten", "Reshape"]
LARGEST = 300  # numbers in a sample, from which a layer must not add any


class Misfit(Exception):
    """A layer of the plan that does not fit, and where it stands, "3.0" say."""

    def __init__(self, plan, where):
        super().__init__(f"{plan[0]} (layer {where})")


# --- what a plan means, without tinynet -----------------------------------------------------------------------


def branches_of(plan):
    """The rows of plans inside a block, [] for x itself."""
    name, options = plan
    if name == "Residual":
        return [options["layers"], options["shortcut"] or []]
    return [[], options["layers"]] if name == "Concat" else options["branches"]


def numbered(row, where, first=0):
    return [(plan, f"{where}.{i}" if where else str(i)) for i, plan in enumerate(row, first)]


def branches_numbered(plan, where):
    first = 0
    for row in branches_of(plan):
        yield numbered(row, where, first)
        first += len(row)


def takes_words(plan):
    if plan[0] in BLOCKS:
        return any(row and takes_words(row[0]) for row in branches_of(plan))
    return plan[0] == "Embedding"


def shape_after_row(row, shape):
    for k, (plan, where) in enumerate(row):
        if k > 0 and takes_words(plan):
            raise Misfit(plan, where)
        shape = shape_after(plan, shape, where)
    return shape


def windows(plan, image, where):
    """How many windows fit, down and across; for pooling and convolution."""
    _, options = plan
    size, stride = both(options.get("size", options.get("kernel_size"))), both(options["stride"])
    padding = options.get("padding", "valid")
    if padding == "same":
        return tuple(math.ceil(extent / step) for extent, step in zip(image, stride, strict=True))
    zeros = (0, 0) if padding == "valid" else both(padding)
    zeros = [side if isinstance(side, tuple) else (side, side) for side in zeros]
    reaches = [(window - 1) * step + 1 for window, step in zip(size, both(options.get("dilation", 1)), strict=True)]
    rests = [extent + sum(zero) - reach for extent, zero, reach in zip(image, zeros, reaches, strict=True)]
    if min(rests) < 0:
        raise Misfit(plan, where)
    counts = [rest // step + 1 for rest, step in zip(rests, stride, strict=True)]
    if options.get("ceil_mode"):  # a window more for a rest, unless it would begin behind the image
        more = [
            rest % step > 0 and count * step < extent + zero[0]
            for rest, step, count, extent, zero in zip(rests, stride, counts, image, zeros, strict=True)
        ]
        counts = [count + extra for count, extra in zip(counts, more, strict=True)]
    return tuple(counts)


def both(value):
    return (value, value) if isinstance(value, int) else value


def shape_after(plan, shape, where):
    name, options = plan
    fits = True
    if name == "Dense":
        fits, after = len(shape) > 0, (*shape[:-1], options["units"])
    elif name in IMAGE_LAYERS:
        if len(shape) != 3:
            raise Misfit(plan, where)
        if name.startswith("Global"):
            return shape[2:]
        after = (*windows(plan, shape[:2], where), options["filters"] if name == "Conv2D" else shape[2])
    elif name in ("Softmax", "BatchNorm", "LayerNorm"):
        fits, after = len(shape) > 0, shape
    elif name == "Flatten":
        after = (math.prod(shape),)
    elif name == "Reshape":
        known = math.prod(size for size in options["shape"] if size != -1)
        rest = math.prod(shape) // known
        after = tuple(rest if size == -1 else size for size in options["shape"])
        fits = math.prod(after) == math.prod(shape)
    elif name == "Embedding":
        after = (*shape, options["dim"])
    elif name in BLOCKS:
        shapes = [shape_after_row(row, shape) for row in branches_numbered(plan, where)]
        if name == "Residual":
            fits, after = shapes[0] == shapes[1], shapes[0]
        else:
            fits = all(len(s) > 0 and s[:-1] == shapes[0][:-1] for s in shapes)
            after = (*shapes[0][:-1], sum(s[-1] for s in shapes)) if fits else None
    else:
        after = shape
    if not fits:
        raise Misfit(plan, where)
    return after


class Formulas:
    """The output of a plan by plain loops and formulas, in float64.

    parameters, buffers, keys   iterators over the model's, in the order of its layers; keys are Dropout's
    moments                     what each BatchNorm saw in training: means and variances, or None for an empty batch
    gain                        by how much normalising may have enlarged a rounding error
    """

    def __init__(self, model, training):
        self.parameters = iter([p.value.astype(float) for p in model.parameters()])
        self.buffers = iter([array.astype(float) for array in model.buffers().values()])
        self.keys = iter([layer.state for layer in model.walk() if isinstance(layer, tn.Dropout)])
        self.training, self.moments, self.gain = training, [], 1.0

    def of_row(self, row, x):
        for plan, where in row:
            x = self.of(plan, x, where)
        return x

    def of(self, plan, x, where):
        name, options = plan
        if name in BLOCKS:
            parts = [self.of_row(row, x) for row in branches_numbered(plan, where)]
            return parts[0] + parts[1] if name == "Residual" else np.concatenate(parts, axis=-1).astype(float)
        if name in ("BatchNorm", "LayerNorm"):
            return self.normalized(plan, x, where)
        if name in ("Dense", "Conv2D"):
            w, b = next(self.parameters), next(self.parameters) if options["bias"] else 0.0
            if name == "Dense":
                z = dense_forward_plain(x, w, b, -np.inf)
            else:
                given = (
                    both(options["stride"]),
                    checked_padding(options["padding"], ""),
                    both(options.get("dilation", 1)),
                )
                size, around = output_size("", x.shape[1:], w.shape[:2], *given)
                before = tuple(zeros for zeros, _ in around)
                z = conv2d_forward_plain(x, w, b, given[0], before, given[2], options.get("groups", 1), size, -np.inf)
            return reference.activation(options["activation"], z)
        if name == "Embedding":
            return embedding_forward_plain(x, next(self.parameters), options["padding"])
        if name in SINGLE:
            return reference.activation(SINGLE[name], x, options.get("slope", 0.01))
        if name in ("MaxPool2D", "AvgPool2D"):
            size, stride, zeros = both(options["size"]), both(options["stride"]), both(options["padding"])
            count = windows(plan, x.shape[1:3], where)
            if name == "MaxPool2D":
                return max_pool_forward_plain(x, size, stride, zeros, both(options["dilation"]), count)[0]
            axes = zip(x.shape[1:3], count, size, stride, zeros, strict=True)
            return avg_pool_forward_plain(x, *(windows_along(*axis, options["count_include_pad"]) for axis in axes))
        if name in ("GlobalMaxPool2D", "GlobalAvgPool2D"):
            return (np.max if name == "GlobalMaxPool2D" else np.mean)(x.astype(float), axis=(1, 2))
        if name == "Softmax":
            return reference.softmax(x)
        if name == "Dropout":
            return reference.dropout(x, options["rate"], *next(self.keys)) if self.training else x
        return x.reshape(len(x), *shape_after(plan, x.shape[1:], where))  # Flatten, Reshape

    def normalized(self, plan, x, where):
        (name, options), w, b = plan, next(self.parameters), next(self.parameters)
        eps, count = options["eps"], math.prod(x.shape[:-1])
        if name == "LayerNorm":
            self.gain *= 1 / math.sqrt(x.var(-1).min(initial=1.0) + eps)
            return normalized.layernorm(x, w, b, eps)
        running = next(self.buffers), next(self.buffers)
        if self.training:
            if count == 1:
                raise Misfit(plan, where)
            rows = x.reshape(-1, x.shape[-1])
            self.moments.append((rows.mean(0), rows.var(0, ddof=1)) if count else None)
            self.gain *= 1 / math.sqrt(rows.var(0).min() + eps) if count else 1
            return normalized.batchnorm(x, w, b, eps) if count else x
        return (x - running[0]) / np.sqrt(running[1] + eps) * w + b


# --- drawing plans --------------------------------------------------------------------------------------------


@dataclass
class Drawn:
    shape: tuple  # of a sample
    row: list
    samples: int
    seed: int
    layout: str


def rarely(draw):
    return draw(st.integers(0, 11)) == 11


def one_or_pair(draw, most, least=1):
    """A whole number or a pair."""
    number = st.integers(least, most)
    return draw(st.one_of(number, st.tuples(number, number)))


def draw_reshape(draw, shape):
    """A shape that fits, mostly."""
    count = math.prod(shape)
    divisors = [size for size in range(1, count + 1) if count % size == 0]
    first = draw(st.sampled_from(divisors))
    second = draw(st.sampled_from([size for size in divisors if count // first % size == 0]))
    rest = count // first // second
    after = draw(st.sampled_from([(first, second, rest), (first, second, -1), (first, -1), (-1,), (count,)]))
    return (*after[:-1], after[-1] + 1) if rarely(draw) and after[-1] > 0 else after


def draw_options(draw, name, shape, depth):
    if name == "Dense":
        units = draw(st.sampled_from([1, 2, 3, 5, 8, 17]))
        return {"units": units, "activation": draw(st.sampled_from(ACTIVATIONS)), "bias": draw(st.booleans())}
    if name == "Conv2D":
        filters = draw(st.sampled_from([1, 2, 3, 5, 16]))
        return {
            "filters": filters,
            "dilation": draw(st.sampled_from([1, 1, 1, 2, (1, 3)])),
            "groups": draw(st.sampled_from([1, 1, math.gcd(filters, shape[-1]) if shape else 1])),
            "kernel_size": one_or_pair(draw, 3),
            "stride": one_or_pair(draw, 3),
            "padding": draw(st.sampled_from(["valid", "same", 0, 1, 2, (0, 1), (2, 1), ((0, 1), (2, 0))])),
            "activation": draw(st.sampled_from(ACTIVATIONS)),
            "bias": draw(st.booleans()),
        }
    if name in ("MaxPool2D", "AvgPool2D"):
        size = one_or_pair(draw, 3)
        options = {
            "size": size,
            "stride": draw(st.sampled_from([size, 1, 2, (1, 3)])),
            "padding": draw(st.sampled_from([0, 0, tuple(window // 2 for window in both(size))])),
            "ceil_mode": draw(st.booleans()),
        }
        if name == "MaxPool2D":
            # With padding, a window of single pixels far apart may see none of a small image: PyTorch's -inf, too.
            dilations = [1] if options["padding"] else [1, 1, 2, (1, 3)]
            return {**options, "dilation": draw(st.sampled_from(dilations))}
        return {**options, "count_include_pad": draw(st.booleans())}
    if name == "LeakyReLU":
        return {"slope": draw(st.sampled_from([0.0, 0.01, 0.5, 2.0]))}
    if name == "Dropout":
        return {"rate": draw(st.sampled_from([0.0, 0.3, 0.9]))}
    if name == "BatchNorm":
        return {"momentum": draw(st.sampled_from([0.9, 0.0, 1.0])), "eps": draw(st.sampled_from([0.1, 1.0, 1e-5]))}
    if name == "LayerNorm":
        return {"eps": draw(st.sampled_from([0.1, 1.0, 1e-5]))}
    if name == "Reshape":
        return {"shape": draw_reshape(draw, shape)}
    if name == "Embedding":
        vocabulary = draw(st.integers(1, 6))
        padding = draw(st.one_of(st.none(), st.integers(0, vocabulary - 1)))
        return {"vocabulary": vocabulary, "dim": draw(st.integers(1, 4)), "padding": padding}
    if name == "Residual":
        shortcut = draw_row(draw, shape, depth + 1, 1) if draw(st.booleans()) else None
        return {"layers": draw_row(draw, shape, depth + 1, 2, shape), "shortcut": shortcut}
    if name == "Concat":
        return {"layers": draw_row(draw, shape, depth + 1, 2, shape)}
    if name == "Parallel":
        branches = [draw_row(draw, shape, depth + 1, 2, shape) for _ in range(draw(st.integers(1, 3)))]
        return {"branches": [[]] * draw(st.integers(0, 2)) + branches}
    return {}


def draw_row(draw, shape, depth, most, target=None):
    """Layers one after another for samples of `shape`; a layer more may bring them to the shape `target`."""
    row = []
    for _ in range(draw(st.sampled_from([most, *range(1, most + 1)]))):
        names = list(ANYWHERE)
        if len(shape) in (1, 2):
            names += ["Dense"] * (6 if len(shape) == 1 else 3)
        if len(shape) == 3:
            names += 2 * IMAGE_LAYERS + ["Conv2D"] * 5
        if depth < 2:
            names += BLOCKS
        if rarely(draw):
            names = ["Dense", "Embedding", *IMAGE_LAYERS, *ANYWHERE]
        name = draw(st.sampled_from(names))
        plan = name, draw_options(draw, name, shape, depth)
        row.append(plan)
        try:
            shape = shape_after(plan, shape, "")
        except Misfit:
            return row
        if math.prod(shape) > LARGEST:
            break
    if target is not None and shape != target and not rarely(draw):
        linear = {"activation": draw(st.sampled_from(ACTIVATIONS)), "bias": True}
        if len(shape) == len(target) < 3 and shape[:-1] == target[:-1]:
            row.append(("Dense", {"units": target[-1], **linear}))
        elif len(shape) == len(target) == 3 and shape[:2] == target[:2]:
            row.append(("Conv2D", {"filters": target[2], "kernel_size": 1, "stride": 1, "padding": "same", **linear}))
        elif math.prod(shape) == math.prod(target):
            row.append(("Reshape", {"shape": target}))
    return row


@st.composite
def drawn_models(draw):
    kind = draw(st.sampled_from(["vectors", "images", "images", "sequences", "words", "wide", "scalars"]))
    few = st.integers(1, 5)
    first = []
    if kind == "vectors":
        shape = (draw(st.sampled_from([1, 2, 3, 5, 8, 17])),)
    elif kind == "images":
        shape = draw(st.integers(1, 7)), draw(few), draw(st.sampled_from([1, 2, 3, 8, 9, 16]))
    elif kind == "words":
        shape = draw(st.sampled_from([(), (1,), (3,), (5,), (2, 2)]))
        first = [("Embedding", draw_options(draw, "Embedding", shape, 0))]
        if rarely(draw):
            first = [("Parallel", {"branches": [first, [("Embedding", draw_options(draw, "Embedding", shape, 0))]]})]
        if draw(st.booleans()) and len(shape) == 1:
            first.append(("Reshape", {"shape": (*shape, 1, -1)}))
    elif kind == "wide":  # which takes Winograd's method, or planes, and pooling of whole vectors
        shape, filters = draw(st.sampled_from([((4, 4, 32), 32), ((8, 4, 33), 32), ((3, 19, 2), 3), ((2, 35, 1), 1)]))
        window = {"kernel_size": 3, "stride": 1, "padding": draw(st.sampled_from(["same", 1]))}
        if filters < 32 or rarely(draw):
            first = [("Conv2D", draw_options(draw, "Conv2D", shape, 0) | window | {"filters": filters, "groups": 1})]
    else:
        shape = draw(st.tuples(few, few)) if kind == "sequences" else ()
    row, after = first, shape
    try:
        after = shape_after_row(numbered(first, ""), shape)
    except Misfit:
        pass
    else:
        row = first + draw_row(draw, after, 0, 4)
    return Drawn(
        shape,
        row,
        samples=draw(st.sampled_from([3, 2, 1, 0, 4])),
        seed=draw(st.integers(0, 2**32 - 1)),
        layout=draw(st.sampled_from(["plain", "reversed", "strided", "other byte order", "read-only", "list"])),
    )


# --- a plan and the model ---------------------------------------------------------------------------------------


def made(plan):
    """The layer of a plan."""
    name, options = plan
    rows = {key: value for key, value in options.items() if key in ("layers", "shortcut") and value is not None}
    options = {**options, **{key: [made(inner) for inner in row] for key, row in rows.items()}}
    if name == "Parallel":
        options["branches"] = [[made(inner) for inner in row] for row in options["branches"]]
    return getattr(tn, name)(**options)


def laid_out(x, layout):
    """The same numbers elsewhere in memory."""
    if layout == "reversed":
        return x.T.copy().T
    if layout == "strided":
        return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
    if layout == "other byte order":
        return x.astype(x.dtype.newbyteorder())
    if layout == "list" and x.size:
        return x.tolist()
    x = x.copy()
    x.flags.writeable = layout != "read-only"
    return x


def close(found, expected, tolerance):
    """Equal within `tolerance`, relative to the largest number there is, or to 1."""
    assert found.shape == expected.shape
    largest = max(1.0, np.abs(expected).max(initial=0))
    assert np.isfinite(expected).all()
    assert np.abs(found - expected).max(initial=0) <= tolerance * largest


def random_parameters(model, rng):
    """Everything random, biases too: a bias of 0 is where a ReLU of nothing has its corner."""
    for p in model.parameters():
        scale = 1 / math.sqrt(max(1, p.value[..., 0].size)) if p.value.ndim > 1 else 0.5
        p.value[...] = (rng.normal(0, scale, p.value.shape) + p.name.endswith("weight") * (p.value.ndim == 1)).astype(
            np.float32
        )


def refused(call, misfit):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(misfit) in str(caught.value)


@RANDOM
@given(drawn_models())
def test_a_random_model_agrees_with_formulas_and_differences_or_is_refused_by_place(drawn):
    rng = np.random.default_rng(drawn.seed)
    row = numbered(drawn.row, "")
    try:
        shape = shape_after_row(row, drawn.shape)
    except Misfit as misfit:
        layers = [made(plan) for plan in drawn.row]
        refused(lambda: tn.Sequential(layers, drawn.shape), misfit)
        assert all(layer.dtype is None and not layer.place for outer in layers for layer in outer.walk())
        return
    double, single = (
        tn.Sequential([made(plan) for plan in drawn.row], drawn.shape, dtype=dtype) for dtype in ("float64", "float32")
    )
    assert double.output_shape == single.output_shape == shape
    random_parameters(double, rng)
    single.flat_values[...] = double.flat_values
    words = takes_words(drawn.row[0])
    size = drawn.samples, *drawn.shape
    if words:
        vocabulary = min(layer.vocabulary for layer in double.walk() if isinstance(layer, tn.Embedding))
        x = rng.integers(0, vocabulary, size)
    else:
        x = rng.standard_normal(size).astype(np.float32)
    dy = rng.standard_normal((drawn.samples, *shape)).astype(np.float32)

    formulas = Formulas(double, training=True)
    try:
        expected = formulas.of_row(row, x if words else x.astype(float))
    except Misfit as misfit:
        refused(lambda: double.forward(x, training=True), misfit)
        return
    buffers = [array.copy() for array in double.buffers().values()]
    results = []
    for model, tolerance in ((double, 1e-11), (single, 1e-4)):
        given_x, given_dy = laid_out(x, drawn.layout), laid_out(dy, drawn.layout)
        before = np.array(given_x)
        states = [(layer, layer.state) for layer in model.walk() if isinstance(layer, tn.Dropout)]
        y = model.forward(given_x, training=True)
        assert y.dtype == model.dtype
        assert not isinstance(given_x, np.ndarray) or not np.may_share_memory(y, given_x)
        if tolerance * formulas.gain < 0.01:
            close(y, expected, tolerance * formulas.gain)
        y[...] = np.nan  # it is the caller's
        model.flat_grads[...] = np.nan  # to be overwritten, not added to
        dx = model.backward(given_dy, input_grad=not words)
        gradients = model.flat_grads.copy()
        for layer, state in states:
            layer.state = state
        model.forward(given_x, training=True)
        model.backward(given_dy)
        np.testing.assert_array_equal(model.flat_grads, gradients)
        np.testing.assert_array_equal(np.array(given_x), before)
        results.append([gradients] if words else [gradients, dx])
    for dx_or_dw, rough in zip(*results, strict=True):
        if 1e-3 * formulas.gain**2 < 0.01:
            close(rough, dx_or_dw, 1e-3 * formulas.gain**2)

    found = iter(double.buffers().values())
    momenta = [layer.momentum for layer in double.walk() if isinstance(layer, tn.BatchNorm)]
    starts = zip(buffers[::2], buffers[1::2], strict=True)
    for momentum, moments, start in zip(momenta, formulas.moments, starts, strict=True):
        for running, batch in zip(start, moments or start, strict=True):
            for _ in range(2 if moments else 0):  # there were two steps
                running = momentum * running + (1 - momentum) * batch
            close(next(found), running, 1e-11 * formulas.gain)

    formulas = Formulas(double, training=False)
    expected = formulas.of_row(row, x if words else x.astype(float))
    y = double.forward(x)
    close(y, expected, 1e-11 * formulas.gain)
    np.testing.assert_array_equal(double.predict(x, batch_size=2), y)
    assert all(line.strip() for line in (double.summary() + repr(double)).splitlines())
    if formulas.gain < 30 and (double.flat_values.size or not words):
        result = tn.gradcheck.check(double, x, tolerance=1e-5, samples=4, seed=drawn.seed)
        assert result.passed, result
