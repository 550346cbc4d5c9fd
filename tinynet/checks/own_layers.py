"""What a layer is held to, so that a mistake in one is named where it is made and not by its neighbour.

    build                  every layer, also one of your own, after its build: shapes, dtypes, parameters, buffers
    forward, backward      of a layer of your own: what they return, each time; and the first time, whether they left
                           their argument as it was and wrote every gradient whole

Layers of this package are tested for the last line, and pay nothing for it when they run.  assignments.py says what may
be set on a layer.

What a layer notes of itself for this, beside what it is:

    _inherited      the parameters, and _shapes the shapes, that this package's class has made and its methods rely on
    _unbuilt        the parameters and buffers that its __init__ made
    _at_build       its attributes at the end of build: what came later is of a batch
    _in_model       it is part of a model
    _given          the arguments of its __init__, and _carried the numbers to begin with (layers/options.py)
    _forward_seen, _backward_seen    they have been looked at once
"""

import functools
import inspect

import numpy as np

from tinynet.checks import real_array
from tinynet.checks.assignments import OF_A_BUILD, Fixed, of_package, setting
from tinynet.layers.options import fill_carried
from tinynet.layers.parameter import Buffers, Parameter

# --- build --------------------------------------------------------------------------------------------------


def held_build(build):
    """A layer's build; the outermost one, of a class and those that it inherits from, ends with the checks."""
    build = setting(build)

    @functools.wraps(build)
    def run(self, *args, **options):
        state = vars(self)
        if state.get("_setting"):
            return build(self, *args, **options)
        if state.get("_in_model"):
            raise ValueError(f"{self.label}: it is part of a model, and can't be built again; make a new one")
        if "parameters" not in state:
            raise TypeError(f"{self.label}: its __init__ must begin with super().__init__()")
        kept = self.__getstate__()
        state.clear()
        state.update(kept)  # without what is left of a batch
        # What its __init__ gave it, for a layer may be built again, as a copy of another dtype is.
        if "_unbuilt" not in state:
            state["_unbuilt"] = [(parameter, parameter.name) for parameter in self.parameters], dict(self.buffers)
        named, buffers = state["_unbuilt"]
        for parameter, name in named:
            parameter._name, parameter._in_model = name, False
        state.update(parameters=[parameter for parameter, _ in named], buffers=dict(buffers))
        state.update(input_shape=None, output_shape=None, dtype=None, _at_build=None, _inherited=(), _shapes=None)
        try:
            return _checked(self, build(self, *args, **options))
        except BaseException:
            state["dtype"] = None  # not built
            raise

    return run


def _checked(layer, shape):
    """The output's shape, after a look at all that build has made."""
    label, state = layer.label, vars(layer)
    if layer.dtype is None or layer.input_shape is None:
        raise TypeError(f"{label}: its build must begin with super().build(input_shape, dtype, rng)")
    if not isinstance(shape, (tuple, list)) or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise TypeError(
            f"{label}: its build must return the output's shape without the batch axis, a tuple of whole numbers above"
            f" 0, got {shape!r}; end it with: return self.output_shape"
        )
    shape = tuple(int(n) for n in shape)
    if layer.output_shape is None or tuple(layer.output_shape) != shape:
        raise ValueError(
            f"{label}: its build returned {shape}, but left output_shape at {layer.output_shape}; set"
            " self.output_shape, too"
        )
    if layer.of_time == "lengths" and not of_package(type(layer).forward):
        kinds = inspect.signature(type(layer).forward).parameters.values()
        if len(kinds) < 5 and all(p.kind is not p.VAR_POSITIONAL for p in kinds):
            raise TypeError(
                f'{label}: with of_time = "lengths", its forward must take x, training, lengths and state, the last'
                " three with the defaults False, None, None"
            )
    _check_inner(layer)
    parameters = _checked_parameters(layer)
    _check_attributes(layer)
    state.update(
        output_shape=shape,
        parameters=parameters,
        layers=Fixed(layer.layers),
        buffers=Buffers(_checked_buffers(layer, parameters), label),
    )
    state["_shapes"] = state["_shapes"] or (layer.input_shape, shape)
    state.setdefault("_fixed", set()).update(("input_shape", "dtype", *OF_A_BUILD))
    for k, inner in enumerate(layer.layers):
        if not inner.place and layer.place:
            inner.place = f"{layer.place[:-1]}.{k})"
    state["_at_build"] = {name: value for name, value in state.items() if name != "_carried"}
    _freeze_as_set_before(layer)
    fill_carried(layer)
    return shape


def _freeze_as_set_before(layer):
    """Give what build has made, parameters and layers inside, the layer's trainable and lr_factor if they were set."""
    inside = {id(parameter) for part in layer.layers for parameter in part.parameters}
    for name in ("trainable", "lr_factor"):
        if f"_{name}" in vars(layer):
            value = getattr(layer, name)
            for owner in [p for p in layer.parameters if id(p) not in inside]:
                setattr(owner, name, value)
            for part in list(layer.walk())[1:]:
                if f"_{name}" not in vars(part):
                    setattr(part, name, value)


def _check_inner(layer):
    if not isinstance(layer.buffers, (dict, Buffers)):
        raise TypeError(f"{layer.label}: its buffers must be a dict of arrays, got a {type(layer.buffers).__name__}")
    listed = {id(parameter) for parameter in layer.parameters}
    for inner in list(layer.walk())[1:]:
        if inner.dtype is None:
            raise TypeError(f"{layer.label}: its build left {inner.label} in it unbuilt: call its build, too")
        if any(id(parameter) not in listed for parameter in inner.parameters):
            raise ValueError(
                f"{layer.label}: its parameters must include those of its layers, and lack some of {inner.label}"
            )
        outer = {array.ctypes.data for array in layer.buffers.values() if isinstance(array, np.ndarray)}
        if any(array.ctypes.data not in outer for array in inner.buffers.values()):
            raise ValueError(
                f"{layer.label}: its buffers must include those of its layers, and lack some of {inner.label}"
            )


def _checked_parameters(layer):
    label = layer.label
    if not isinstance(layer.parameters, (list, tuple)):
        raise TypeError(
            f"{label}: its parameters must be a list of Parameters, got a {type(layer.parameters).__name__}"
        )
    inherited = vars(layer)["_inherited"]
    if tuple(layer.parameters[: len(inherited)]) != inherited:
        raise ValueError(f"{label}: its parameters must begin with those of the class that it inherits from")
    names, early = set(), {id(parameter) for parameter, _ in vars(layer)["_unbuilt"][0]}
    for place, parameter in enumerate(layer.parameters):
        if not isinstance(parameter, Parameter):
            raise TypeError(
                f"{label}: its parameters must be Parameters, got a {type(parameter).__name__} at place {place}; make"
                ' it one: tn.Parameter("weight", array)'
            )
        if id(parameter) in early and parameter._value.dtype != layer.dtype:  # its __init__ could not know the dtype
            parameter._value, parameter._grad = (a.astype(layer.dtype) for a in (parameter._value, parameter._grad))
        name, value = parameter.name, parameter._value
        if name in names:
            raise ValueError(
                f"{label}: two of its parameters are called {name!r}; those of layers inside it need other names:"
                ' parameter.name = f"{k}.{parameter.name}"'
            )
        names.add(name)
        if value.dtype != layer.dtype:
            raise TypeError(
                f"{label}: its parameter {name!r} is of {value.dtype}, in a model of {layer.dtype}; make its array with"
                f" dtype=self.dtype"
            )
    return Fixed(layer.parameters)


def _check_attributes(layer):
    """Whether an attribute holds a layer or a parameter that is not listed, or the array of one that is."""
    inside, listed = {id(part) for part in layer.walk()}, {id(parameter) for parameter in layer.parameters}
    for attribute, thing in vars(layer).items():
        if attribute in ("_unbuilt", "_inherited", "_given", "_carried", "parameters", "buffers", "layers"):
            continue
        for part in _parts(thing):
            what = f"{layer.label}: self.{attribute}"
            is_layer = hasattr(part, "walk") and hasattr(part, "build") and not isinstance(part, type)
            if is_layer and id(part) not in inside and part is not layer.tied:
                raise ValueError(f"{what} is a layer that self.layers doesn't have")
            if isinstance(part, Parameter) and id(part) not in listed:
                raise ValueError(f"{what} is the parameter {part.name!r}, which self.parameters doesn't have")
            for place, parameter in enumerate(layer.parameters if isinstance(part, np.ndarray) else ()):
                if np.may_share_memory(part, parameter._value) and part.size:
                    raise ValueError(
                        f"{what} is the array that its parameter {parameter.name!r} was made of, and won't follow it in"
                        f" training; read self.parameters[{place}].value instead"
                    )


def _parts(thing):
    """The thing, and what it holds if it is a list, a tuple or a dict."""
    yield thing
    if isinstance(thing, dict):
        thing = tuple(thing.values())
    if isinstance(thing, (list, tuple)):
        for part in thing:
            yield from _parts(part)


def _checked_buffers(layer, parameters):
    label, names = layer.label, {parameter.name for parameter in parameters}
    for name, array in layer.buffers.items():
        if not isinstance(name, str) or name in names:
            raise ValueError(f"{label}: a buffer needs a name that no parameter has, got {name!r}")
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
            given = array.dtype if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise TypeError(f"{label}: its buffer {name!r} must be an array of numbers of at most 64 bits, got {given}")
        if not array.flags.carray:
            raise ValueError(f"{label}: its buffer {name!r} must be a writeable array in C order; give it a copy")
    # Those of layers inside it: the same arrays, so that in a copy, too, they are one.
    inside = {array.ctypes.data: array for inner in layer.layers for array in inner.buffers._arrays.values()}
    return {name: inside.get(array.ctypes.data, array) for name, array in layer.buffers.items()}


# --- forward and backward of a layer of your own --------------------------------------------------------------


def held_forward(forward):
    """forward of a class that is not this package's."""
    how = _how(forward, "training")

    @functools.wraps(forward)
    def run(self, x, training=False, *more, **options):
        if how == "by name":
            call = functools.partial(forward, self, x, *more, training=training, **options)
        else:
            call = functools.partial(forward, self, x, *([training, *more] if how else []), **options)
        state = vars(self)
        if type(self).forward is not run or self.dtype is None or state.get("_setting"):
            return call()  # by the forward of a class that inherits from this one; or not built
        first = training not in state.get("_forward_seen", ())
        before = x.copy() if first and isinstance(x, np.ndarray) else None
        y = call()
        if before is not None:
            _check_unchanged(x, before, f"{self.label}: its forward changed its input x in place; work on a copy")
            state["_forward_seen"] = {*state.get("_forward_seen", ()), training}
        if np.shape(y) != _whole_shape(self, x) and not self.fits(np.shape(x)):
            raise self.input_error(np.shape(x))
        shape = _whole_shape(self, x)
        if training:
            state["_x_shape"] = np.shape(x)
        return _returned(y, shape, self, "forward", "y")

    return run


def held_backward(backward):
    """backward of a class that is not this package's."""
    how = _how(backward, "input_grad")

    @functools.wraps(backward)
    def run(self, dy, input_grad=True):
        if how == "by name":
            call = functools.partial(backward, self, dy, input_grad=input_grad)
        else:
            call = functools.partial(backward, self, dy, *([input_grad] if how else []))
        state = vars(self)
        if type(self).backward is not run or self.dtype is None:
            return call()
        if "_backward_seen" not in state and isinstance(dy, np.ndarray):
            before = dy.copy()
            dx = _with_whole_gradients(self, call, dy)
            _check_unchanged(dy, before, f"{self.label}: its backward changed dy in place; work on a copy")
            state["_backward_seen"] = True
        else:
            dx = call()
        shape = state.get("_x_shape", (len(dy), *self.input_shape))
        return _returned(dx, shape, self, "backward", "dx") if input_grad else None

    return run


def _whole_shape(layer, x):
    """The shape of y, which is shorter, too, where x is of fewer positions than the layer was built for."""
    shape, T = (len(x), *layer.output_shape), np.shape(x)[1:2]
    if layer.of_time is None or layer.input_shape[:1] == T:
        return shape
    ends = layer.output_lengths(np.array(T))
    return shape if ends is None else (len(x), int(ends[0]), *shape[2:])


def _how(method, name):
    """How the method takes this argument: "by name", "by place", or None: the shortest forms leave it out."""
    parameters = list(inspect.signature(method).parameters.values())
    by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if name not in by_place[2:3] and any(p.name == name for p in parameters):
        return "by name"
    return "by place" if by_place[2:] or any(p.kind is p.VAR_POSITIONAL for p in parameters) else None


def _with_whole_gradients(layer, call, dy):
    """call(), which must write each gradient whole: NaN that were there before would stay where it adds, or is lazy."""
    for parameter in layer.parameters:
        parameter._grad[...] = np.nan
    dx = call()
    strange = [p for p in layer.parameters if np.isnan(p._grad).any()]
    if strange and np.isfinite(dy).all():
        for parameter in strange:
            parameter._grad[...] = 0
        try:
            dx = call()
        except Exception:  # it can't run twice, and need not
            return dx
        for parameter in strange:
            if not np.isnan(parameter._grad).any():  # so the NaN were not its own
                raise ValueError(
                    f"{layer.label}: its backward adds to the gradient of {parameter.name!r}, or leaves out a part of"
                    " it; it must overwrite the whole: parameter.grad = ..."
                )
    return dx


def _check_unchanged(array, before, message):
    if not np.array_equal(array, before, equal_nan=array.dtype.kind == "f"):
        array[...] = before
        raise ValueError(message)


def _returned(array, shape, layer, method, name):
    """What forward or backward returned, as an array of the layer's dtype."""
    if type(array) is np.ndarray and array.dtype == layer.dtype and array.shape == shape:
        return array
    what = f"{layer.label}: what its {method} returned"
    if array is None:
        raise TypeError(f"{what} is None; it must return {name}, an array {shape}")
    array = real_array(array, layer.dtype, what)
    if array.shape != shape:
        raise ValueError(f"{what} has shape {array.shape}, expected {shape}, the batch axis first")
    return array
