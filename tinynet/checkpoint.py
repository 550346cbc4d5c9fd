"""Checkpoints: a model's numbers in a file, and with them all that a training run needs to go on.

A file is in the safetensors format: the length of a header in 8 bytes, the header, which is JSON and tells each array's
name, dtype, shape and place, and the arrays' bytes.  Reading one executes nothing, as reading a pickle would.

    "0.weight", "0.bias", "1.running_mean"   parameters and buffers, under the names that the model has for them
    "training/optimizer/mean"                what a run adds to them: the optimizer's vectors, a callback's arrays
    "tinynet" in the header                  a JSON text: the file's version, the layers, the rest of a run's state
    "checksum" in the header                 the SHA-256 of the whole file, in which this number itself is 64 zeros

Floats in the JSON are written by repr, which gives the same float64 back; NaN and infinities are words that Python's
json knows.

writing.py puts the bytes in place, whole.  Reading compares the checksum, and then everything, names, shapes and
dtypes, before it changes anything.  Files of version 0.1 have no checksum.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
from itertools import chain
from typing import Any

import numpy as np

from tinynet.data.writing import as_text, write_whole

VERSION = 1
TRAINING = "training/"
NOT_OPTIONS = ("place", "flops", "input_shape", "output_shape", "first_row", "parameters", "layers", "branches")
NO_CHECKSUM = "sha256:" + 64 * "0"
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


def save(model: Any, path: str | bytes | os.PathLike) -> None:
    """Write the model's parameters and buffers to the file `path`, in place of what is there.

    The file is in the safetensors format, whatever it is called.  Killed at any moment, this leaves the old file or the
    new one, whole.  A file that is replaced keeps its mode and its owner; a link stays, and what it points to is
    replaced.  Raises TypeError for what is no model, OSError where nothing can be written or nothing should be: a
    folder, a device, a pipe, a file that is read-only.
    """
    _write(path, _arrays(model, "save"), _about(model), "save")


def load(model: Any, path: str | bytes | os.PathLike) -> None:
    """Read the parameters and buffers that save wrote, or a checkpoint of fit, into a model of the same layers.

    A file of float32 fits a float64 model, which can hold those numbers exactly; the other way is refused.  Raises
    FileNotFoundError, and ValueError for a file that is damaged, from elsewhere or of another model, saying what
    differs: the model is unchanged then.
    """
    mine, path = _arrays(model, "load"), as_text(path, "load")
    with _opened(path) as (file, about):
        values = _compared(mine, file, about, path)
    _fill(mine, values)


# --- a run of fit -------------------------------------------------------------------------------------------


def save_run(model, path, run, state):
    """Write the model with a run of fit.

    run      what makes it this run and no other: a dict of strings, numbers and None
    state    dicts and lists of arrays, numbers, strings and None; tuples are read back as lists
    """
    arrays = _arrays(model, "save")
    packed = _pack(state, arrays, TRAINING[:-1])
    _write(path, arrays, {**_about(model), "run": run, "state": packed}, "fit")


def load_run(model, path, run):
    """(run, state, fill) of a file that save_run wrote; fill() then puts the arrays into the model.

    Raises ValueError where the file is of another run, saying what differs.  What its `state` says of the optimizer now
    is right too: a learning rate is not another one because a callback changed it on the way.
    """
    mine, path = _arrays(model, "load"), as_text(path, "fit")
    with _opened(path) as (file, about):
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


def _about(model):
    from tinynet import __version__

    about = {"version": VERSION, "tinynet": __version__, "dtype": str(model.dtype), "input_shape": model.input_shape}
    return {**about, "layers": described(model)}


def _compared(mine, file, about, path):
    """What the file holds for each of the arrays `mine`, by name; ValueError unless it holds just those."""
    there = {name: _shape_and_dtype(file, name) for name in file.keys() if not name.startswith(TRAINING)}  # noqa: SIM118
    differences = []
    for name in [*mine, *(name for name in there if name not in mine)]:
        if name not in there:
            differences.append(f"it has no {name} {mine[name].shape}")
        elif name not in mine:
            differences.append(f"the model has no {name} {there[name][0]}")
        elif there[name][0] != mine[name].shape:
            differences.append(f"{name} is {there[name][0]}, and {mine[name].shape} in the model")
        elif there[name][1] not in DTYPES or not np.can_cast(DTYPES[there[name][1]], mine[name].dtype, "safe"):
            held = np.dtype(DTYPES[there[name][1]]).name if there[name][1] in DTYPES else there[name][1]
            differences.append(f"{name} is {held}, which does not fit the model's {mine[name].dtype} exactly")
    if differences:
        layers = ", ".join(text.split(" -> ")[0] for text in about["layers"].values())
        raise ValueError(f"{path} does not fit the model: {_listed(differences)}.  It is of the layers {layers}")
    return {name: _read(file, name) for name in mine}


def _fill(mine, values):
    for name, array in mine.items():
        array[...] = values[name]


def _shape_and_dtype(file, name):
    part = file.get_slice(name)
    return tuple(part.get_shape()), part.get_dtype()


def _read(file, name):
    if _shape_and_dtype(file, name)[1] not in DTYPES:
        raise ValueError(f"{name} is of an unknown dtype")
    return file.get_tensor(name)


def _listed(differences, most=6):
    more = len(differences) - most
    return "; ".join(differences[:most]) + (f"; and {more} more" if more > 0 else "")


# --- files --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path):
    """The open file and what its header says, after the checks that need no model.

    safetensors looks at the lengths that the file claims before it believes them: a header of 2^62 bytes, or an array
    beyond the end of the file, is an error and no allocation.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is a folder or a device, not a file")
    file, about = _checked(path)
    with file:
        yield file, about


def _checked(path):
    from safetensors import SafetensorError, safe_open  # here, so that importing tinynet doesn't load it

    while True:
        with open(path, "rb") as content:
            try:
                file = safe_open(path, framework="np")
            except SafetensorError as error:
                raise ValueError(f"{path} is no safetensors file, or not a whole one: {error}") from None
            if os.path.samestat(os.fstat(content.fileno()), os.stat(path)):  # no save replaced it in between
                return file, _checked_about(file.metadata() or {}, content, path)


def _checked_about(metadata, content, path):
    if "tinynet" not in metadata:
        raise ValueError(
            f"{path} was not written by tinynet (its header says {str(metadata)[:80]}): "
            "tn.interop.from_torch takes the weights of PyTorch, in their layout"
        )
    _check_checksum(metadata, content, path)
    try:
        about = json.loads(metadata["tinynet"])
        version = about["version"]
        if version == VERSION:
            return {**about, "layers": dict(about["layers"])}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its header can't be read: {type(error).__name__}: {error}") from None
    raise ValueError(
        f"{path} is of version {version!r} of the format, written by tinynet {about.get('tinynet')}; "
        f"this tinynet reads version {VERSION}"
    )


def _check_checksum(metadata, content, path):
    """Refuse a file whose bytes are not those that its checksum was of.  One without a checksum passes."""
    if "checksum" not in metadata and not any(value.startswith("sha256:") for value in metadata.values()):
        return
    checksum = metadata.get("checksum", "absent")
    length = content.read(8)
    header = content.read(int.from_bytes(length, "little"))
    if not re.fullmatch("sha256:[0-9a-f]{64}", checksum) or header.count(_entry(checksum)) != 1:
        raise ValueError(f"{path} is damaged: its checksum can't be read, it is {checksum[:80]!r}")
    start = length, header.replace(_entry(checksum), _entry(NO_CHECKSUM))
    found = _checksum(chain(start, iter(lambda: content.read(2**18), b"")))
    if found != checksum:
        raise ValueError(f"{path} is damaged: its bytes have the checksum {found}, and its header says {checksum}")


def _entry(checksum):
    """The checksum as it stands in the header.  No text in there looks so: its quotation marks have a backslash."""
    return f'"checksum":"{checksum}"'.encode()


def _checksum(pieces):
    result = hashlib.sha256()
    for piece in pieces:
        result.update(piece)
    return f"sha256:{result.hexdigest()}"


def _write(path, arrays, about, who):
    from safetensors.numpy import save as to_bytes

    arrays = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    data = memoryview(to_bytes(arrays, {"tinynet": json.dumps(about)}))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:end]))
    header["__metadata__"]["checksum"] = NO_CHECKSUM
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the arrays begin where their numbers are aligned
    length = len(header).to_bytes(8, "little")
    checksum = _checksum((length, header, data[end:]))
    header = header.replace(_entry(NO_CHECKSUM), _entry(checksum))
    write_whole(path, length, header, data[end:], who=who)
