"""What a torch.nn.Module tells beside its arrays: its modules' types and options, which must be ours.

Modules that hold arrays are compared with the layers that are given their arrays, which declare what must be the same
(`torch_options` in layers/declared.py).  What is called between them,
activations, pooling, dropout, is known where modules are certainly called one after another: in a torch.nn.Sequential.
What a forward of one's own calls can't be seen.

A network is therefore read as a list of what is called in a row, with UNKNOWN wherever anything else may happen.  The
layers here are read alike, and between two neighbours with arrays that are neighbours on both sides, the rest must be
the same.  Flatten counts for nothing: torch.py knows what it does to the arrays behind it.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from tinynet.interop.matching import flat
from tinynet.interop.torch_modules import Branches, Output, Permute, Rearrange

NOTHING = nn.Identity, nn.Flatten, nn.Unflatten, Permute, Rearrange, Output
WRAPPERS = "DataParallel", "DistributedDataParallel", "OptimizedModule"  # the last is torch.compile's
# Either may come first: what is the largest number stays the largest, and what is dropped may be dropped later.
SWAPPED = {("MaxPool2d", kind) for kind in ("ReLU", "LeakyReLU", "Sigmoid", "Tanh")} | {
    ("Dropout", kind) for kind in ("ReLU", "LeakyReLU")
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


def types(network, steps):
    """{name: (class, kind)} of every module: the kind of the Step that computes the same, or the class again."""
    kinds = {getattr(nn, name): step.kind for step in flat(steps) if step.arrays for name in step.layer.torch_names}
    found = {}
    for name, module in network.named_modules(remove_duplicate=False):
        given = type(module)
        found[name] = given, next((kind for cls, kind in kinds.items() if isinstance(module, cls)), given)
    return found


def check(network, steps, pairs, name):
    """A ValueError for the first of the (Step, matching.Module) `pairs`, or what is between them, that differs."""
    modules = dict(network.named_modules(remove_duplicate=False))
    ours = [START, *_ours(steps), END]
    kinds = {name: call.kind for call in ours if call.called is not None for name in call.called.torch_names}
    theirs, zeros = _zeros_apart([START, *_theirs("", network, kinds), END])
    for step, module in pairs:
        layer, given = step.layer, modules[module.name]
        options = layer.torch_options(given)
        if layer.zeros_around is not None:
            options += _options_of_zeros(layer, given, zeros.get(module.name, (0, 0) * len(layer.zeros_around)))
        _refuse(name, layer.label, _label(given, module.name), options)
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


# --- zeros around an image, and windows over it --------------------------------------------------------------------


def _options_of_zeros(layer, module, outside):
    """[(option, the layer's, the module's)]; outside: the zeros put left, right, above and below the image before.

    A sequence has zeros on its left and right alone.
    """
    here, there, same = (), (), True
    own = _zeros_of(module)
    around = [outside[at : at + 2] for at in range(len(outside) - 2, -1, -2)]
    for axis, (ours, zeros) in enumerate(zip(layer.zeros_around, around, strict=True)):
        theirs = tuple(a + b for a, b in zip(own[axis], zeros, strict=True))
        size = layer.input_shape[axis] + sum(theirs)
        count = (size - module.dilation[axis] * (module.kernel_size[axis] - 1) - 1) // module.stride[axis] + 1
        here, there = here + ours, there + theirs
        if theirs[0] != ours[0] or (theirs[1] != ours[1] and count != layer.output_shape[axis]):
            same = False  # the last zeros may be too far out for a window: then their number says nothing
    return [
        ("padding_mode", "zeros", module.padding_mode if any(map(any, own)) else "zeros"),
        ("zeros above, below, left, right", here, here if same else there),
    ]


def _zeros_of(module):
    """The zeros before and behind an image, along both axes, of a Conv2d; or of a Conv1d along its one."""
    if module.padding == "same":
        around = (d * (window - 1) for d, window in zip(module.dilation, module.kernel_size, strict=True))
        return [(total // 2, total - total // 2) for total in around]
    counts = (0,) * len(module.kernel_size) if module.padding == "valid" else module.padding
    return [(count, count) for count in counts]


def _options_of_window(layer, module):
    """[(option, the layer's, the module's)] of pooling."""
    image, (here, steps) = layer.input_shape[:2], layer.window
    if hasattr(module, "output_size"):  # adaptive
        counts = (n or extent for n, extent in zip(_both(module.output_size), image, strict=True))
        window = stride = tuple(
            extent // n if extent % n == 0 else f"adaptive, {n} places" for extent, n in zip(image, counts, strict=True)
        )
        further = []
    else:
        window, stride, zeros = _both(module.kernel_size), _both(module.stride), _both(module.padding)
        counts = getattr(module, "count_include_pad", True) if zeros != (0, 0) else True
        further = [
            ("padding", layer.padding, zeros),
            ("dilation", layer.dilation, _both(getattr(module, "dilation", 1))),
            ("divisor_override", None, getattr(module, "divisor_override", None)),
            ("ceil_mode", layer.ceil_mode, module.ceil_mode if layer.cuts_rest else layer.ceil_mode),
            ("count_include_pad", getattr(layer, "count_include_pad", True) if zeros != (0, 0) else True, counts),
        ]
    if window == image:  # there is one window
        stride = steps
    return [("window", here, window), ("stride", steps, stride), *further]


def _both(option):
    """An option for two axes, which may be one number for both."""
    return tuple(option) if isinstance(option, (tuple, list)) else (option, option)


# --- and what is called between them ---------------------------------------------------------------------------


def _ours(steps):
    """The Calls of layers in a row."""
    for step in steps:
        layer = step.layer
        if step.arrays:
            yield Call("arrays", layer, step.number, layer.label)
            if layer.activation is not None:
                yield _call(layer.activation, f"{layer.label}: its activation")
        elif step.branches:
            for branch in step.branches:
                yield Call(UNKNOWN)
                yield from _ours(branch)
            yield Call(UNKNOWN)
        elif layer.torch_names:
            yield _call(layer, layer.label)
        elif not layer.same_numbers:
            yield Call(UNKNOWN)


def _call(called, label):
    return Call(called.torch_names[0], called, None, label)


def _theirs(name, module, kinds):
    """The Calls of a module; kinds: {name of its class: kind}."""
    children = {child: given for child, given in module._modules.items() if given is not None}
    is_row = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    if isinstance(module, NOTHING) or (isinstance(module, nn.Dropout) and module.p == 0):
        return
    if type(module).__module__.startswith("torch.nn.modules.") and not children and not is_row:
        cls = type(module).__name__
        yield Call(kinds.get(cls, cls), module, name, _label(module, name))
        return
    rows, between = [[child] for child in children], [Call(UNKNOWN)]
    if isinstance(module, Branches):
        rows = module.names
    elif is_row or type(module).__name__ in WRAPPERS:
        rows, between = [children], []
    yield from between
    for row in rows:
        for child in row:
            yield from _theirs(f"{name}.{child}".removeprefix("."), children[child], kinds)
        yield from between


def _label(module, name):
    return f"{type(module).__name__} {name}".strip()


def _zeros_apart(calls):
    """The Calls without the zeros put around a convolution's image, and these: {the convolution's name: padding}."""
    found, zeros = [], {}
    for call, after in pairwise([*calls, END]):
        module = call.called
        is_padding = isinstance(module, (nn.ConstantPad1d, nn.ConstantPad2d)) and module.value == 0
        if is_padding and isinstance(after.called, (nn.Conv1d, nn.Conv2d)):
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
            f"{name}: between {ends} the model has {', '.join(call.label for call in ours) or 'nothing'}, but PyTorch's"
            f" side has {', '.join(call.label for call in theirs) or 'nothing'}; give both the same, or pass the"
            " state_dict(), which has only arrays"
        )
    for call, given in zip(ours, theirs, strict=True):
        options = call.called.torch_options(given.called)
        if getattr(call.called, "window", None) is not None:
            options += _options_of_window(call.called, given.called)
        _refuse(name, call.label, given.label, options)


def _in_order(calls):
    """One and the same order for Calls that give the same in several."""
    calls = list(calls)
    for _ in calls:
        for i, pair in enumerate(pairwise(calls)):
            if (pair[0].kind, pair[1].kind) in SWAPPED:
                calls[i : i + 2] = reversed(pair)
    return calls
