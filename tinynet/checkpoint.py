"""Checkpoints: a model's numbers in a file, and with them all that a training run needs to go on.

A file is in the safetensors format: the length of a header in 8 bytes, the header, which is JSON and tells each array's
name, dtype, shape and place, and the arrays' bytes.  Reading one executes nothing, as reading a pickle would.

    "0.weight", "0.bias", "1.running_mean"   parameters and buffers, under the names that the model has for them
    "options/0"                              arrays among the options of layers (architecture.py)
    "training/optimizer/mean"                what a run adds to them: the optimizer's vectors, a callback's arrays
    "tinynet" in the header                  a JSON text: the file's version and tinynet's, what the model takes and
                                             returns, its layers and their options, the rest of a run's state
    "checksum" in the header                 the SHA-256 of the whole file, in which this number itself is 64 zeros

Floats in the JSON are written by repr, which gives the same float64 back; NaN and infinities are words that Python's
json knows.

writing.py puts the bytes in place, whole.  Reading compares the checksum, and then everything, names, shapes and
dtypes, before it changes anything.  Files of version 0.1 have no checksum and no options of layers.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from tinynet import architecture
from tinynet.data.writing import as_text
from tinynet.model import Sequential
from tinynet.model_file import VERSION, opened, write

Path = str | bytes | os.PathLike
TRAINING = "training/"
NOT_OPTIONS = ("place", "flops", "input_shape", "output_shape", "first_row", "parameters", "layers", "branches")
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def save(model: Any, path: Path) -> None:
    """Write the model to the file `path`, in place of what is there: its layers, their options and their numbers.

    Also which layers and parameters are frozen, and their lr_factor.

    The file is in the safetensors format, whatever it is called.  Killed at any moment, this leaves the old file or the
    new one, whole.  A file that is replaced keeps its mode and its owner; a link stays, and what it points to is
    replaced.  Raises TypeError for what is no model, OSError where nothing can be written or nothing should be: a
    folder, a device, a pipe, a file that is read-only.  Warns of an option of a layer of your own that no file can
    hold: then tn.load(path) can't build the model.

    >>> import tempfile
    >>> model = tn.Sequential([tn.Dense(2)], 3, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tn.save(model, f"{folder}/model.safetensors")
    ...     again = tn.load(f"{folder}/model.safetensors")
    >>> bool((again.flat_values == model.flat_values).all())
    True
    """
    arrays = _arrays(model, "save")
    about = _about(model, arrays)
    write(path, arrays, about, "save")
    for option in architecture.unknown(about["model"]):
        warnings.warn(
            f"save: {os.fsdecode(path)} holds the numbers, not how a layer is made, of which an option is {option}; "
            "so it is read into a model that you build, tn.load(model, path)",
            stacklevel=2,
        )


@dataclass(frozen=True)
class Loaded:
    """What tn.load read into a model, by the names that parameters and buffers have there, and what it left."""

    read: list[str]
    left: dict[str, str]  # name -> why

    def __str__(self):
        left = "".join(f"\n    {name}: {why}" for name, why in self.left.items())
        return f"read {len(self.read)} arrays: {', '.join(self.read)}\nleft {len(self.left)}{':' if left else ''}{left}"

    __repr__ = __str__


@overload
def load(path: Path, /, *, layers: Mapping[str, Callable] | None = None) -> Sequential: ...
@overload
def load(model: Any, path: Path, *, strict: bool = True, only: str | list[str] | None = None) -> Loaded: ...
def load(model, path=None, *, layers=None, strict=True, only=None):
    """Read what save wrote, or a checkpoint of fit: as a new model, or into one that is there.

        model = tn.load(path)                               the model that was saved, built and filled
        model = tn.load(path, layers={"Swirl": Swirl})      with classes and functions that are not this package's
        tn.load(model, path)                                the numbers alone, into a model of the same layers
        tn.load(model, path, only=["0", "1.weight"])        of these layers and parameters alone
        tn.load(model, path, strict=False)                  of all that fits: of another head, the body

    The last three return what was read and what was left; who is frozen and how fast it learns stays as the model has
    it.  Nothing in a file is executed: it names classes, which are looked up among tinynet's and in `layers`.

    A file of float32 fits a float64 model, which can hold those numbers exactly; the other way is refused.  Raises
    FileNotFoundError, and ValueError for a file that is damaged, from elsewhere or of another model, saying what
    differs: the model is unchanged then.

    >>> import tempfile
    >>> model, other = tn.Sequential([tn.Dense(2)], 3), tn.Sequential([tn.Dense(2), tn.Dense(5)], 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tn.save(model, f"{folder}/model.safetensors")
    ...     found = tn.load(other, f"{folder}/model.safetensors", strict=False)
    >>> found.read
    ['0.weight', '0.bias']
    """
    if path is None and isinstance(model, Path):
        if not strict or only is not None:
            raise TypeError("load: strict and only are for a model that is there: tn.load(model, path, ...)")
        return _load_whole(as_text(model, "load"), layers)
    if layers is not None:
        raise TypeError("load: layers is for a model that is made of the file alone: tn.load(path, layers=...)")
    mine, path = _arrays(model, "load"), as_text(path, "load")
    wanted = mine if only is None else {name: mine[name] for name in _named(mine, only)}
    with opened(path) as (file, about):
        left = {} if only is None else {name: "not named by only" for name in mine if name not in wanted}
        values = _compared(wanted, file, about, path, None if strict and only is None else left, strict)
    _fill(wanted, values)
    return Loaded(list(values), left)


def _named(arrays, only):
    """The names among the arrays' that `only` means: its own, and those of arrays inside a layer that it numbers."""
    only = [only] if isinstance(only, str) else only
    if not isinstance(only, (list, tuple)) or not all(isinstance(one, str) for one in only):
        raise TypeError(
            f'load: only must be a list of names, as "0.weight", or of layers, as "0" or "3.1"; got {only!r}'
        )
    for one in only:
        if not any(f"{name}.".startswith(f"{one.rstrip('.')}.") for name in arrays):
            raise ValueError(f"load: only names {one!r}, but the model's arrays are {_listed(list(arrays), 12, ', ')}")
    return [name for name in arrays if any(f"{name}.".startswith(f"{one.rstrip('.')}.") for one in only)]


def _load_whole(path, own):
    own = {} if own is None else own
    if not isinstance(own, Mapping) or not all(isinstance(n, str) and callable(own[n]) for n in own):
        raise TypeError(f'load: layers must be a dict of classes by name, {{"Swirl": Swirl}}, got {own!r}')
    with opened(path) as (file, about):
        if "model" not in about:
            raise ValueError(
                f"{path} was written by a tinynet that didn't write down how layers are made: build the model of"
                f" {_layers_of(about)}, and call tn.load(model, path)"
            )
        try:
            model = architecture.made(about["model"], lambda name: _read(file, name), own, path)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path} can't be made a model again: {type(error).__name__}: {error}") from error
        arrays = _arrays(model, "load")
        values = _compared(arrays, file, about, path)
    _fill(arrays, values)
    return model


# --- a run of fit -------------------------------------------------------------------------------------------


def save_run(model, path, run, state):
    """Write the model with a run of fit.

    run      what makes it this run and no other: a dict of strings, numbers and None
    state    dicts and lists of arrays, numbers, strings and None; tuples are read back as lists
    """
    arrays = _arrays(model, "save")
    about, packed = _about(model, arrays), _pack(state, arrays, TRAINING[:-1])
    write(path, arrays, {**about, "run": run, "state": packed}, "fit")


def load_run(model, path, run):
    """(run, state, fill) of a file that save_run wrote; fill() then puts the arrays into the model.

    Raises ValueError where the file is of another run, saying what differs.  What its `state` says of the optimizer now
    is right too: a learning rate is not another one because a callback changed it on the way.
    """
    mine, path = _arrays(model, "load"), as_text(path, "fit")
    with opened(path) as (file, about):
        if "run" not in about or "state" not in about:
            raise ValueError(f"{path} holds a model but no run to resume: tn.load reads it")
        try:
            there, state = about["run"], _unpack(about["state"], file)
            now = {f"optimizer's {name}": value for name, value in state["optimizer"].items()}
            names = [name for name in {**run, **there} if run.get(name) not in (there.get(name), now.get(name))]
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None
        if names:
            differences = [f"{n} was {there.get(n, 'absent')} and is {run.get(n, 'absent')} here" for n in names]
            raise ValueError(f"{path} is of another run: {_listed(differences)}")
        values = _compared(mine, file, about, path)
    return there, state, lambda: _fill(mine, values)


def described(model):
    """The model's layers, those inside others too, as a dict from place to text: {"layer 0": "Dense(units=8, ...)"}."""
    result = {}
    for layer in model.walk():
        options = ", ".join(
            f"{name}={value!r}"
            for name, value in vars(layer).items()
            if not name.startswith("_") and name not in NOT_OPTIONS
            if isinstance(value, (int, float, str, tuple))
        )
        result[layer.place.strip(" ()")] = f"{type(layer).__name__}({options}) -> {layer.output_shape}"
    return result


def _pack(value, arrays, name):
    """value as JSON can hold it; its arrays go to `arrays`, under names that begin with `name`."""
    if isinstance(value, dict):
        return {"dict": {str(key): _pack(item, arrays, f"{name}/{key}") for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_pack(item, arrays, f"{name}/{index}") for index, item in enumerate(value)]
    if isinstance(value, np.ndarray) and value.dtype.type in DTYPES.values():
        while name in arrays:  # {"a/b": x, "a": {"b": y}}
            name += "'"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint can't hold {name.removeprefix(TRAINING)}, which is {value!r}")


def _unpack(value, file):
    if isinstance(value, list):
        return [_unpack(item, file) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return _read(file, value["array"])
    return {key: _unpack(item, file) for key, item in value["dict"].items()}


# --- a model's arrays and a file's --------------------------------------------------------------------------


def _arrays(model, what):
    """The model's arrays by name."""
    if not hasattr(model, "flat_values"):
        raise TypeError(f"{what}: model must be a tinynet.Sequential, got {type(model).__name__}")
    return {**{p.name: p.value for p in model.parameters()}, **model.buffers()}


def _about(model, arrays):
    """What the header says; arrays among the layers' options go to `arrays`."""
    from tinynet import __version__

    about = {"version": VERSION, "tinynet": __version__, "dtype": str(model.dtype), "input_shape": model.input_shape}
    takes = [
        f"{'whole' if entry.takes_integers else 'real'} numbers (N, {', '.join(map(str, entry.input_shape))})"
        for entry in model.layers[0].entries
    ]
    about |= {"takes": " and ".join(takes), "output_shape": model.output_shape, "layers": described(model)}
    return {**about, "model": architecture.packed(model, arrays)}


def _compared(mine, file, about, path, left=None, strict=True):
    """What the file holds for each of the arrays `mine`, by name; ValueError unless it holds just those.

    Given a dict `left`, others that the file holds are noted there; so are those of `mine` that don't fit, unless
    `strict`, and the ValueError is for a file of which nothing fits.
    """
    others = TRAINING, architecture.ARRAYS
    there = {name: _shape_and_dtype(file, name) for name in file.keys() if not name.startswith(others)}  # noqa: SIM118
    differences, more = {}, {}
    for name in there:
        if name not in mine and name not in (left or ()):
            more[name] = f"the model has no {name} {there[name][0]}"
    for name, array in mine.items():
        shape, dtype = there.get(name, (None, None))
        if shape is None:
            differences[name] = f"it has no {name} {array.shape}"
        elif shape != array.shape:
            differences[name] = f"{name} is {shape}, and {array.shape} in the model"
        elif dtype not in DTYPES or not np.can_cast(DTYPES[dtype], array.dtype, "safe"):
            held = np.dtype(DTYPES[dtype]).name if dtype in DTYPES else dtype
            differences[name] = f"{name} is {held}, which does not fit the model's {array.dtype} exactly"
    allowed = {} if left is None else more if strict else {**differences, **more}
    wrong = [why for name, why in {**differences, **more}.items() if name not in allowed]
    if wrong or (mine and not mine.keys() - allowed.keys()):
        wrong = wrong or list(allowed.values())
        raise ValueError(f"{path} does not fit the model: {_listed(wrong)}.  It is of the layers {_layers_of(about)}")
    if left is not None:
        left.update(allowed)
    return {name: _read(file, name) for name in mine if name not in allowed}


def _layers_of(about):
    return ", ".join(text.split(" -> ")[0] for text in about["layers"].values())


def _fill(mine, values):
    for name, value in values.items():
        mine[name][...] = value


def _shape_and_dtype(file, name):
    part = file.get_slice(name)
    return tuple(part.get_shape()), part.get_dtype()


def _read(file, name):
    if _shape_and_dtype(file, name)[1] not in DTYPES:
        raise ValueError(f"{name} is of an unknown dtype")
    return file.get_tensor(name)


def _listed(things, most=6, comma="; "):
    more = len(things) - most
    return comma.join(things[:most]) + (f"{comma}and {more} more" if more > 0 else "")
