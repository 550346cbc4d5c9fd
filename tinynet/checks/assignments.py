"""What may be set on an object of this package, and when.

Kernels rely on what __init__ and build have set up: on an array's shape, on an option that was checked.  So an
attribute is set by the object's own __init__ (and a layer's build), and afterwards only where `settable` names it.

What an object notes of itself for this:

    _setting   while its __init__ or build runs: whose, "package" or "own"
    _made      its __init__ is done
    _fixed     the names that this package's code has set, which stay
"""

import functools
from types import MappingProxyType

from tinynet.checks import other_names

REPLACEABLE = ("forward", "backward", "predict", "step")  # methods that may be watched, by putting a function before
OF_A_BUILD = ("parameters", "buffers", "layers", "output_shape", "flops")  # what every build sets, one's own too
ELSEWHERE = ("requires_grad",)  # what other libraries have, and would do nothing here: ours is `trainable`
OF_LAYERS = ("trainable", "lr_factor")  # what a model has not, but each of its layers


class AssignmentError(TypeError, AttributeError):
    """An attribute can't be set, or there is none of that name."""


class Guarded:
    """An object whose attributes are set by its own __init__ (and build), and afterwards only as far as they may be.

    settable   name -> a function (owner, value) -> value that checks what may be set at any time, or raises
    """

    settable = MappingProxyType({})

    def __setattr__(self, name, value):
        if name[0] != "_":
            value = _assignable(self, name, value)
        object.__setattr__(self, name, value)

    def __delattr__(self, name):
        fixed = of_package(type(self)) or name in vars(self).get("_fixed", ())
        if fixed and name in vars(self) and name[0] != "_" and name not in REPLACEABLE:
            raise AssignmentError(f"{getattr(self, 'label', type(self).__name__)}: {name} can't be deleted")
        object.__delattr__(self, name)

    def __copy__(self):
        raise TypeError(f"a copy.copy of a {type(self).__name__} would share arrays with it; use copy.deepcopy")

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        hold(cls, "__init__", setting)


def hold(cls, name, wrapper):
    """Put the wrapper around a class's method, wherever it has it from, unless it is in one already."""
    method = getattr(cls, name)
    if not hasattr(method, "_held") and method is not object.__init__:
        held = wrapper(method)
        held._held = True
        setattr(cls, name, held)


def setting(method):
    """The method (__init__, or a layer's build), while which runs attributes may be set."""
    ours, first_only = of_package(method), method.__name__ == "__init__"

    @functools.wraps(method)
    def run(self, *args, **options):
        state = vars(self)
        outer = state.get("_setting")
        if first_only and outer is None and state.get("_made"):
            raise AssignmentError(f"{type(self).__name__}: it is made already; make a new one")
        if first_only and outer is None:
            other_names.bound(type(self).__name__, method, self, *args, **options)
        state["_setting"] = "package" if ours else "own"
        try:
            result = method(self, *args, **options)
            state["_made"] = True
            return result
        finally:
            state["_setting"] = outer
            if ours and not method.__qualname__.startswith("Layer."):
                state["_inherited"] = tuple(state.get("parameters", ()))
                state["_shapes"] = state.get("input_shape"), state.get("output_shape")

    return run


def of_package(thing):
    """Whether a class or function is this package's own."""
    return thing.__module__.startswith("tinynet.")


def _assignable(owner, name, value):
    kind, state = type(owner), vars(owner)
    if name in kind.settable:
        return kind.settable[name](owner, value)
    label, known, fixed = getattr(owner, "label", kind.__name__), getattr(kind, name, None), state.get("_fixed", ())
    if isinstance(known, property):  # says itself what may be assigned
        if known.fset is None:
            raise AssignmentError(f"{label}: {name} can't be set; a class of your own may define it")
        return value
    if state.get("_setting") == "package":
        state.setdefault("_fixed", set()).add(name)
        return value
    if state.get("_setting") and (name not in fixed or name in OF_A_BUILD):
        return value
    if name in OF_A_BUILD[:3] and not of_package(kind) and owner.dtype is None:  # a layer's, before it is built
        return value
    if name in REPLACEABLE and callable(known) and callable(value):
        return value
    if name in fixed:
        raise AssignmentError(f"{label}: {name} can't be set any more; make a new {kind.__name__} with another {name}")
    if callable(known):
        raise AssignmentError(f"{label}: the method {name} can't be replaced; define it in a class of your own")
    if name not in state and known is None and (name in ELSEWHERE or of_package(kind)):
        hint = "; did you mean trainable?" if name in ELSEWHERE else ""
        if name in (*OF_LAYERS, *ELSEWHERE) and hasattr(owner, "flat_values"):
            hint = "; its layers have: for layer in model.layers[:-1]: layer.trainable = False"
        raise AssignmentError(f"{label}: it has no {name} to set{hint}")
    if of_package(kind) and name not in state:
        raise AssignmentError(f"{label}: {name} can't be set; it belongs to the class")
    return value


class Fixed(tuple):
    """A tuple that adds to lists, as the list did that it was made of."""

    __slots__ = ()

    def __setitem__(self, place, value):
        raise AssignmentError(
            "what a model or layer is made of is fixed; make a new one of the others: "
            "tn.Sequential([*model.layers[:-1], tn.Dense(3)], model.input_shape)"
        )

    def __getitem__(self, place):
        found = super().__getitem__(place)
        return Fixed(found) if isinstance(place, slice) else found

    def __add__(self, other):
        return [*self, *other]

    def __radd__(self, other):
        return [*other, *self]
