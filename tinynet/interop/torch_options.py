"""What a torch.nn.Module tells beside its arrays: its modules' types and options, which must be ours.

Modules that hold arrays are compared with the layers that are given their arrays.  What is called between them,
activations, pooling, dropout, is known where modules are certainly called one after another: in a torch.nn.Sequential.
What a forward of one's own calls can't be seen.

A network is therefore read as a list of what is called in a row, with UNKNOWN wherever anything else may happen.  The
layers here are read alike, and between two neighbours with arrays that are neighbours on both sides, the rest must be
the same.  Flatten counts for nothing: interop.py knows what it does to the arrays behind it.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from tinynet.interop.matching import flat
from tinynet.interop.torch_modules import Branches, Permute, Rearrange
from tinynet.layers.batchnorm import BatchNorm
from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.layers.dropout import Dropout
from tinynet.layers.embedding import Embedding
from tinynet.layers.layernorm import LayerNorm
from tinynet.layers.padding import output_size
from tinynet.layers.pooling import AvgPool2D, GlobalAvgPool2D, GlobalMaxPool2D, MaxPool2D
from tinynet.layers.shape import Reshape
from tinynet.layers.softmax import Softmax

COUNTERPARTS = {
    nn.Linear: Dense,
    nn.Conv2d: Conv2D,
    nn.Embedding: Embedding,
    nn.LayerNorm: LayerNorm,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), BatchNorm),
}
KINDS = {  # of what has no arrays
    **{nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.GELU: "gelu"},
    **dict.fromkeys((nn.MaxPool2d, nn.AdaptiveMaxPool2d, MaxPool2D, GlobalMaxPool2D), "max pooling"),
    **dict.fromkeys((nn.AvgPool2d, nn.AdaptiveAvgPool2d, AvgPool2D, GlobalAvgPool2D), "average pooling"),
    **dict.fromkeys((nn.Dropout, Dropout), "dropout"),
    **dict.fromkeys((nn.Softmax, nn.Softmax2d, Softmax), "softmax"),
}
NOTHING = nn.Identity, nn.Flatten, nn.Unflatten, Permute, Rearrange
WRAPPERS = "DataParallel", "DistributedDataParallel", "OptimizedModule"  # the last is torch.compile's
# Either may come first: what is the largest number stays the largest, and what is dropped may be dropped later.
SWAPPED = {("max pooling", kind) for kind in ("relu", "leaky_relu", "sigmoid", "tanh")} | {
    ("dropout", kind) for kind in ("relu", "leaky_relu")
}
UNKNOWN = "unknown"


@dataclass
class Call:
    """What is called, a layer or a module: its kind (UNKNOWN stands for anything), its name if it may hold arrays."""

    kind: str
    called: object = None
    name: str | None = None
    label: str = ""


START, END = (Call(label, None, label, label) for label in ("the input", "the output"))


def types(network):
    """{name: (class, that of the layer here)} of every module; the latter is the former where there is none."""
    found = {}
    for name, module in network.named_modules(remove_duplicate=False):
        given = type(module)
        found[name] = given, next((ours for cls, ours in COUNTERPARTS.items() if isinstance(module, cls)), given)
    return found


def check(network, steps, pairs, name):
    """A ValueError for the first of the (Step, matching.Module) `pairs`, or what is between them, that differs."""
    modules = dict(network.named_modules(remove_duplicate=False))
    ours, (theirs, zeros) = [START, *_ours(steps), END], _zeros_apart([START, *_theirs("", network), END])
    for step, module in pairs:
        given = modules[module.name]
        options = _array_options(step, given, zeros.get(module.name, (0, 0, 0, 0)))
        _refuse(name, step.layer.label, _label(given, module.name), options)
    matches = {step.number: module.name for step, module in pairs} | {START.name: START.name, END.name: END.name}
    between = _between(theirs, set(matches.values()))
    for (a, b), layers in _between(ours, matches).items():
        found = between.get((matches[a], matches[b]))
        if found is not None:
            _check_between(a, b, layers, found, steps, name)


def _refuse(name, ours, theirs, options):
    differing = [(option, mine, given) for option, mine, given in options if mine != given]
    if differing:
        here = " and ".join(f"{option} {mine}" for option, mine, _ in differing)
        there = " and ".join(f"{option} {given}" for option, _, given in differing)
        raise ValueError(
            f"{name}: {ours} has {here}, but {theirs} on PyTorch's side has {there}; give both the same, or pass the"
            " state_dict(), which has only arrays"
        )


# --- modules with arrays -------------------------------------------------------------------------------------


def _array_options(step, module, zeros):
    """[(option, the layer's, the module's)].  zeros: how many were put left, right, above and below an image before."""
    layer = step.layer
    if step.kind is Conv2D:
        return _convolution_options(layer, module, zeros)
    if step.kind is Embedding:
        return [
            ("padding", layer.padding, module.padding_idx),
            ("max_norm", None, module.max_norm),
            ("scale_grad_by_freq", False, module.scale_grad_by_freq),
        ]
    if step.kind is BatchNorm:
        stays = None if module.momentum is None else 1 - module.momentum
        if stays is not None and math.isclose(stays, layer.momentum, abs_tol=1e-9):
            stays = layer.momentum
        return [("eps", layer.eps, module.eps), ("momentum (1 - PyTorch's)", layer.momentum, stays)]
    return [("eps", layer.eps, module.eps)] if step.kind is LayerNorm else []


def _convolution_options(layer, module, outside):
    here, there, same = (), (), True
    own = _zeros_of(module)
    for axis, zeros in enumerate((outside[2:], outside[:2])):
        ours, theirs = _zeros_here(layer, axis), tuple(a + b for a, b in zip(own[axis], zeros, strict=True))
        size = layer.input_shape[axis] + sum(theirs)
        count = (size - module.dilation[axis] * (module.kernel_size[axis] - 1) - 1) // module.stride[axis] + 1
        here, there = here + ours, there + theirs
        if theirs[0] != ours[0] or (theirs[1] != ours[1] and count != layer.output_shape[axis]):
            same = False  # the last zeros may be too far out for a window: then their number says nothing
    return [
        ("stride", layer.stride, module.stride),
        ("dilation", (1, 1), module.dilation),
        ("groups", 1, module.groups),
        ("padding_mode", "zeros", module.padding_mode if own != [(0, 0), (0, 0)] else "zeros"),
        ("zeros above, below, left, right", here, here if same else there),
    ]


def _zeros_here(layer, axis):
    """How many zeros a Conv2D puts before and behind its image along an axis."""
    (P, Q), first = output_size(layer.label, layer.input_shape, layer.kernel_size, layer.stride, layer.padding)
    if layer.padding != "same":
        return first[axis], first[axis]
    covered = ((P, Q)[axis] - 1) * layer.stride[axis] + layer.kernel_size[axis]
    return first[axis], max(covered - layer.input_shape[axis], 0) - first[axis]


def _zeros_of(module):
    """The same of a Conv2d, along both axes."""
    if module.padding == "same":
        around = (d * (window - 1) for d, window in zip(module.dilation, module.kernel_size, strict=True))
        return [(total // 2, total - total // 2) for total in around]
    return [(0, 0), (0, 0)] if module.padding == "valid" else [(count, count) for count in module.padding]


# --- and what is called between them ---------------------------------------------------------------------------


def _ours(steps):
    """The Calls of layers in a row."""
    for step in steps:
        layer = step.layer
        kind = next((kind for cls, kind in KINDS.items() if isinstance(layer, cls)), None)
        if step.arrays:
            yield Call("arrays", layer, step.number, layer.label)
            if getattr(layer, "activation", None) is not None:
                yield Call(layer.activation.name, layer, None, f"{layer.label}: its activation")
        elif step.branches:
            for branch in step.branches:
                yield Call(UNKNOWN)
                yield from _ours(branch)
            yield Call(UNKNOWN)
        elif kind or hasattr(layer, "activation"):
            if getattr(layer, "rate", None) != 0:
                yield Call(kind or layer.activation.name, layer, None, layer.label)
        elif not isinstance(layer, Reshape):
            yield Call(UNKNOWN)


def _theirs(name, module):
    """The Calls of a module."""
    children = {child: given for child, given in module._modules.items() if given is not None}
    is_row = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    if isinstance(module, NOTHING) or (isinstance(module, nn.Dropout) and module.p == 0):
        return
    if type(module).__module__.startswith("torch.nn.modules.") and not children and not is_row:
        yield Call(KINDS.get(type(module), type(module).__name__), module, name, _label(module, name))
        return
    rows, between = [[child] for child in children], [Call(UNKNOWN)]
    if isinstance(module, Branches):
        rows = module.names
    elif is_row or type(module).__name__ in WRAPPERS:
        rows, between = [children], []
    yield from between
    for row in rows:
        for child in row:
            yield from _theirs(f"{name}.{child}".removeprefix("."), children[child])
        yield from between


def _label(module, name):
    return f"{type(module).__name__} {name}".strip()


def _zeros_apart(calls):
    """The Calls without the zeros put around a convolution's image, and these: {the convolution's name: padding}."""
    found, zeros = [], {}
    for call, after in pairwise([*calls, END]):
        module = call.called
        is_padding = isinstance(module, nn.ConstantPad2d) and module.value == 0
        if is_padding and isinstance(after.called, nn.Conv2d):
            zeros[after.name] = module.padding
        else:
            found.append(call)
    return found, zeros


def _between(calls, names):
    """{(a, b): the Calls between} of those with `names` that follow each other with nothing UNKNOWN between them."""
    found, last, between = {}, None, []
    for call in calls:
        if call.name in names:
            if last is not None:
                found[last, call.name] = between
            last, between = call.name, []
        elif call.kind == UNKNOWN:
            last = None
        else:
            between.append(call)
    return found


def _check_between(a, b, ours, theirs, steps, name):
    ours, theirs = _in_order(ours), _in_order(theirs)
    if [call.kind for call in ours] != [call.kind for call in theirs]:
        labels = {step.number: step.layer.label for step in flat(steps)}
        ends = " and ".join(labels.get(end, end) for end in (a, b))
        raise ValueError(
            f"{name}: between {ends} the model has {', '.join(call.kind for call in ours) or 'nothing'}, but PyTorch's"
            f" side has {', '.join(call.label for call in theirs) or 'nothing'}; give both the same, or pass the"
            " state_dict(), which has only arrays"
        )
    for call, given in zip(ours, theirs, strict=True):
        _refuse(name, call.label, given.label, _call_options(call.kind, call.called, given.called))


def _in_order(calls):
    """One and the same order for Calls that give the same in several."""
    calls = list(calls)
    for _ in calls:
        for i, pair in enumerate(pairwise(calls)):
            if (pair[0].kind, pair[1].kind) in SWAPPED:
                calls[i : i + 2] = reversed(pair)
    return calls


def _call_options(kind, layer, module):
    """[(option, the layer's, the module's)] for what holds no arrays."""
    match kind:
        case "leaky_relu":
            return [("slope", layer.activation.constants[0], module.negative_slope)]
        case "gelu":
            return [("approximate", "none", module.approximate)]
        case "dropout":
            return [("rate", layer.rate, module.p)]
        case "softmax":
            axes = len(layer.output_shape) + 1
            theirs = -3 if isinstance(module, nn.Softmax2d) else module.dim
            theirs = int(axes != 3) if theirs is None else theirs % axes
            channels = {1} if axes in (2, 4) else {1, axes - 1}  # a sequence may have them first or last there
            ours = 1 if axes in (2, 4) else axes - 1
            return [("axis, in PyTorch's layout,", ours, ours if theirs in channels else theirs)]
        case "max pooling" | "average pooling":
            return _pooling_options(layer, module)
    return []


def _pooling_options(layer, module):
    size = layer.input_shape[:2]
    here = layer.size or size
    steps = layer.stride or here
    if isinstance(module, (nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)):
        counts = (n or extent for n, extent in zip(_both(module.output_size), size, strict=True))
        whole = [
            extent // n if extent % n == 0 else f"adaptive, {n} places" for extent, n in zip(size, counts, strict=True)
        ]
        window = stride = tuple(whole)
        further = []
    else:
        window, stride = _both(module.kernel_size), _both(module.stride)
        cut = [(extent - w) % s > 0 for extent, w, s in zip(size, window, stride, strict=True)]
        further = [
            ("padding", (0, 0), _both(module.padding)),
            ("dilation", (1, 1), _both(getattr(module, "dilation", 1))),
            ("divisor_override", None, getattr(module, "divisor_override", None)),
            ("ceil_mode", False, module.ceil_mode and any(cut)),
        ]
    if window == size:  # there is one place
        stride = steps
    return [("window", here, window), ("stride", steps, stride), *further]


def _both(option):
    """An option for two axes, which may be one number for both."""
    return tuple(option) if isinstance(option, (tuple, list)) else (option, option)
