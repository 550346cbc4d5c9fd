"""Which of PyTorch's modules is which layer here.

A state dict holds names and arrays, but not which module is called first.  What tells, in this order:

    the names      that `to_torch` gives are taken as they are
    the order      in which PyTorch lists modules is that of their definition, in which they nearly always are called.
                   It's trusted where the order is PyTorch's and all arrays fit, one after another
    the numbers    "fc2" comes before "fc10", and "layer1.1.conv2" before "layer2.0.conv1"
    the structure  modules inside another one are called one after another, and so are the layers inside a Residual:
                   of two arrays of one shape, bn2 and downsample.1, the latter is the shortcut's, as its name says
    the shapes     mostly only one way is left

Where two ways are left, or numbers say another thing than the order, an error says so: nothing here can tell which way
computes what PyTorch's model does.

Whose order it is.  Not everyone keeps the order of a state dict.  safetensors' load_file sorts the names as text, "10."
before "2.", "bias" before "weight"; its load(bytes) returns them in a random order.  PyTorch lists each module's arrays
together, weight before bias.  Of k arrays in m modules, one in k! / m! random orders looks so, and no sorted one.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise, zip_longest

STEPS_SEEN = "num_batches_tracked"  # PyTorch's BatchNorm counts its batches, for a kind of mean that this one lacks
KINDS = ["weight", "bias", "running_mean", "running_var"]  # as PyTorch lists them
NUMBER = re.compile(r"([0-9]+x[0-9]+|[0-9]+)")  # "conv3x3": a size, not which comes first
REPARAMETRIZED = {"weight_g", "weight_v", "weight_u", "weight_orig", "weight_mask"}
SHORTCUTS = {"downsample", "shortcut", "skip"}  # names that people give what is beside a Residual's layers
TRIES = 5_000  # then the search ends, as undecided: a ResNet of 500 modules takes 700


@dataclass
class Module:
    """One of PyTorch's modules that hold arrays.  `cls` is its class where the module is given, not its arrays."""

    name: str
    keys: dict  # {"weight": "fc.weight", ...}: the names in the state dict
    shapes: dict
    cls: type | None = None
    kind: str | type | None = None  # its Step's kind, where a layer here computes the same; else `cls`

    @property
    def signature(self):
        """What a layer and its module have in common."""
        return self.kind, frozenset(self.shapes.items())

    def __str__(self):
        arrays = ", ".join(f"{key} {self.shapes[kind]}" for kind, key in self.keys.items())
        return arrays + (f" of {self.cls.__name__}" if self.cls else "")


# --- what is given -------------------------------------------------------------------------------------------


def checked_state(given, name):
    """{name: array or tensor} of a state dict, or of a torch.nn.Module."""
    found = given.state_dict() if hasattr(given, "state_dict") else given
    if not hasattr(found, "items"):
        raise TypeError(f"{name}: expected a state dict or a torch.nn.Module, got {type(given).__name__}")
    for key, value in found.items():
        if type(value).__name__.startswith("Uninitialized"):
            raise ValueError(f"{name}: {key} of a lazy module has no shape yet: call PyTorch's model on a batch first")
        if not isinstance(key, str) or not hasattr(value, "shape"):
            hint = f"; is the state dict in it, [{key!r}]?" if hasattr(value, "items") else ""
            raise TypeError(f"{name}: the state dict has no array at {key!r}, but a {type(value).__name__}{hint}")
        if "parametrizations" in key.split(".") or key.rpartition(".")[2] in REPARAMETRIZED:
            raise ValueError(
                f"{name}: {key} is what a weight is computed from (weight or spectral norm, pruning), not the weight;"
                " first call torch.nn.utils.parametrize.remove_parametrizations(module, 'weight'), or"
                " remove_weight_norm, remove_spectral_norm or prune.remove, whichever it was made by"
            )
    return dict(found)


def modules_of(state, whole=(), types=None):
    """The Modules of a state dict, in its order; of a torch.nn.Module, the types {name: (class, kind)}.

    whole   names of arrays, as "in_proj_weight": a module that has one is taken with all that is inside it
    """
    holders = {key[: -len(name)] for key in state for name in whole if f".{key}".endswith(f".{name}")}
    found = {}
    for key, value in state.items():
        holder = min((one for one in holders if key.startswith(one)), key=len, default=None)
        name, _, kind = key.rpartition(".") if holder is None else (holder[:-1], "", key[len(holder) :])
        if kind != STEPS_SEEN:
            given = types.get(name, (object, object)) if types is not None else (None, None)
            module = found.setdefault(name, Module(name, {}, {}, *given))
            module.keys[kind], module.shapes[kind] = key, tuple(value.shape)
    return list(found.values())


def is_as_defined(given, state, modules):
    """Whether the order of the state dict that was given is PyTorch's."""
    if hasattr(given, "_metadata"):  # it is what PyTorch's state_dict() returned
        return True
    listed = [module.keys[kind] for module in modules for kind in sorted(module.keys, key=_rank)]
    keys = [key for key in state if key.rpartition(".")[2] != STEPS_SEEN]
    return keys == listed and math.factorial(len(keys)) >= 10 * math.factorial(len(modules))


def _rank(kind):
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def memory(value):
    """Where a tensor's numbers lie, which are those of another one, too, where modules share them."""
    return (hasattr(value, "data_ptr") and value.data_ptr()) or id(value)


# --- which is which ------------------------------------------------------------------------------------------


def matched(steps, state, modules, as_defined, order, name):
    """[(Step, Module)] for the Steps that hold arrays; `as_defined` says whether the modules come in PyTorch's order.

    order   None, or the modules' names in the order of the Steps
    name    of the function, for errors
    """
    slots = [step for step in flat(steps) if step.arrays]
    if order is None:
        found = _found(slots, spans(steps), state, modules, as_defined, name)
    else:
        found = _named(modules, order, name)
        _check_in_place(slots, found, name)
    return list(zip(slots, found, strict=True))


def _found(slots, inside, state, modules, as_defined, name):
    """The module for each slot, a Step that holds arrays; `inside` is what spans() returns."""
    typed = any(module.cls for module in modules)
    signatures = [_signature(step, typed) for step in slots]
    if len(modules) > len(slots):
        modules = _without_repeats(modules, state)
    own = None if typed else _by_own_names(slots, modules)
    if own:
        _check_in_place(slots, own, name)
        return own
    by_name = sorted(modules, key=lambda module: _natural(module.name))
    if Counter(signatures) != Counter(module.signature for module in modules):
        _check_in_place(slots, modules if as_defined else by_name, name)
    classes = {}
    for module in by_name:
        classes.setdefault(module.signature, []).append(module)
    if as_defined and signatures == [module.signature for module in modules]:
        _check_numbers(slots, modules, classes, name)
        return modules
    if all(_comes_first(a.name, b.name) for alike in classes.values() for a, b in pairwise(alike)):
        alike = {signature: iter(some) for signature, some in classes.items()}
        return [next(alike[signature]) for signature in signatures]
    return _only_way(slots, signatures, classes, inside, as_defined, name)


def flat(steps):
    """The Steps and those inside them, each before what it holds."""
    for step in steps:
        yield step
        for branch in step.branches:
            yield from flat(branch)


def spans(steps):
    """[(first, end)]: which of the Steps with arrays, counted through, are inside of one layer, or of one branch.

    And the same of the shortcuts alone.
    """
    found, shortcuts = [], []

    def walk(steps, end):
        for step in steps:
            first = end
            end += bool(step.arrays)
            for number, branch in enumerate(step.branches):
                begin, end = end, walk(branch, end)
                found.append((begin, end))
                if step.layer.joined == "sum" and number == 1:
                    shortcuts.append((begin, end))
            found.append((first, end))
        return end

    walk(steps, 0)
    return [(first, end) for first, end in found if end > first + 1], shortcuts


def _signature(step, typed):
    shapes = frozenset((array.kind, array.shape) for array in step.arrays)
    return step.kind if typed else None, shapes


def _named(modules, order, name):
    """The modules that `order` names."""
    by_name = {module.name: module for module in modules}
    if not isinstance(order, (list, tuple)) or not all(isinstance(one, str) for one in order):
        raise TypeError(f"{name}: order must be a list of names of PyTorch's modules, got {order!r}")
    for one in order:
        if one not in by_name:
            raise ValueError(f"{name}: order names {one!r}, but the modules with arrays are {', '.join(by_name)}")
    return [by_name[one] for one in order]


def _without_repeats(modules, state):
    """Without the further names of modules that have several."""
    first = {}
    for module in modules:
        first.setdefault(frozenset((kind, memory(state[key])) for kind, key in module.keys.items()), module)
    return list(first.values())


def _by_own_names(slots, modules):
    """The modules, if their names are those of the Steps, perhaps all within one module ("module.0.weight")."""
    parts = [module.name.split(".") for module in modules]
    common = next((i for i, some in enumerate(zip_longest(*parts)) if len(set(some)) > 1), 0)
    for inside in range(common + 1):
        by_name = {".".join(part[inside:]): module for part, module in zip(parts, modules, strict=True)}
        if by_name.keys() == {step.number for step in slots}:
            return [by_name[step.number] for step in slots]
    return None


def _check_in_place(slots, modules, name):
    """A ValueError for the first layer to which the module in its place doesn't fit."""
    for step, module in zip_longest(slots, modules):
        if step is None:
            raise ValueError(
                f"{name}: the model has no more arrays, but PyTorch's side goes on with {module}; where modules are not"
                " used, name those that are, in the order of the layers: order=[...]"
            )
        signature = _signature(step, module and module.cls)
        if module is None or module.signature != signature:
            has = ", ".join(f"{a.name} {a.shape}" for a in step.arrays)
            side = f"has {module} in that place" if module else "ends before it"
            if module and module.cls and module.cls is module.kind and module.signature[1] == signature[1]:
                side += (
                    f"; {module.cls.__name__} is no counterpart of {type(step.layer).__name__} that tinynet knows of:"
                    " if it computes the same, pass the state_dict(), which has only arrays"
                )
            raise ValueError(f"{name}: {step.layer.label} has {has} in PyTorch's layout, but PyTorch's side {side}")


def _check_numbers(slots, modules, classes, name):
    """A ValueError where numbers tell another order than that in which the modules come."""
    place = {module.name: i for i, module in enumerate(modules)}
    for alike in classes.values():
        for a, b in combinations(alike, 2):
            if place[a.name] > place[b.name] and _comes_first(a.name, b.name):
                raise ValueError(
                    f"{name}: {slots[place[b.name]].layer.label} may be {b.name}, which was defined first, or {a.name},"
                    f" the first by its number: their arrays have the same shapes; {HOW}"
                )


HOW = "say which is which by order=[...], the names of PyTorch's modules in the order of the model's layers"


@lru_cache(4096)
def _tokens(name):
    """Text and numbers in turn: "fc10.x" is ["fc", 10, ".x"]."""
    return [int(part) if part.isascii() and part.isdigit() else part for part in NUMBER.split(name)]


def _natural(name):
    """A key that sorts numbers as numbers."""
    return [(isinstance(part, str), part) for part in _tokens(name)]


def _comes_first(a, b):
    """Whether the first difference of two names is a number, and a's is lower."""
    different = next(((x, y) for x, y in zip(_tokens(a), _tokens(b), strict=False) if x != y), ("", ""))
    return all(isinstance(part, int) for part in different) and different[0] < different[1]


# --- the search ----------------------------------------------------------------------------------------------


def _only_way(slots, signatures, classes, inside, as_defined, name):
    """The one way to give each slot a module that keeps to numbers and structure; a ValueError if there are more."""
    ways = _ways(signatures, classes, inside)
    if len(ways) == 1:
        return ways[0]
    if ways:
        pair = next(pair for pair in zip(*ways, strict=True) if pair[0] is not pair[1])
    else:
        pairs = (pair for some in classes.values() for pair in pairwise(some))
        pair = next(pair for pair in pairs if not _comes_first(pair[0].name, pair[1].name))
    alike = [
        module.name
        for module in classes[pair[0].signature]
        if any(not _comes_first(*sorted((module.name, one.name), key=_natural)) for one in pair)
    ]
    places = [
        slot.layer.label
        for i, slot in enumerate(slots)
        if (ways[0][i].name in alike if ways else signatures[i] == pair[0].signature)
    ]
    order = "the order of definition, in which the shapes don't fit"
    if not as_defined:
        order = "the order in which they come, which is not PyTorch's"
    raise ValueError(
        f"{name}: which of {_listed(alike)} is which of {_listed(places)} can't be told: their arrays have the same"
        f" shapes, and neither the names tell nor {order}; {HOW}"
        + ("" if as_defined else "; or pass the torch.nn.Module itself, whose modules come as they were defined")
    )


def _listed(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _ways(signatures, classes, inside):
    """Up to two ways, each a list of Modules; none if there are none, or too many to try.

    They are looked for slot by slot, and going back where nothing fits.  A module fits if those with lower numbers have
    their slots already, and if it is inside of what has been begun and not finished.
    """
    (inside, shortcuts), modules = inside, [module for alike in classes.values() for module in alike]
    before = {b.name: {a.name for a in modules if _comes_first(a.name, b.name)} for b in modules}
    within = {module.name: _prefixes(module.name) for module in modules}
    size = Counter(group for groups in within.values() for group in groups)
    ways, chosen, used, begun = [], [], set(), {}  # begun: {group: the slots of its modules so far}

    def fits(module):
        i, name = len(chosen), module.name
        open_groups = within[chosen[-1].name] if chosen else []
        if name in used or not before[name] <= used:
            return False
        if shortcuts and SHORTCUTS & set(name.split(".")) and not any(first <= i < end for first, end in shortcuts):
            return False
        if any(len(begun[group]) < size[group] and group not in within[name] for group in open_groups):
            return False
        for group in within[name]:  # finished by this module, does it lie across the border of a layer?
            if len(begun.get(group, ())) + 1 == size[group] > 1:
                first = begun[group][0]
                if any(first < begin <= i < end - 1 or begin < first < end <= i for begin, end in inside):
                    return False
        return True

    tries, levels = 0, [iter(classes[signatures[0]])]
    while levels and tries < TRIES and len(ways) < 2:
        module = next(filter(fits, levels[-1]), None)
        tries += 1
        if module is not None:
            for group in within[module.name]:
                begun.setdefault(group, []).append(len(chosen))
            chosen.append(module)
            used.add(module.name)
            if len(chosen) < len(signatures):
                levels.append(iter(classes[signatures[len(chosen)]]))
                continue
            ways.append(list(chosen))
        else:
            levels.pop()
        if chosen:
            last = chosen.pop()
            used.remove(last.name)
            for group in within[last.name]:
                begun[group].pop()
    return ways if tries < TRIES else []


def _prefixes(name):
    """The name, and those of all that it is inside of: "a", "a.b", "a.b.c" of "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
