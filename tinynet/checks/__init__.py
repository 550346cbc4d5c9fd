"""The checks of arguments that everything shares: of arrays, numbers and shapes.

What people hand in for an array is taken if nothing is lost, else refused by a sentence that says what to do.
NumPy itself makes something of nearly everything: of a sparse matrix an array of one object, of a masked array one
without its mask, of a table with bools and floats an array of objects.  So every function that takes arrays asks here,
once it has found that it wasn't given a plain one.
"""

import datetime
import math
from collections.abc import Iterator, Mapping, Set

import numpy as np

NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
WHOLE = (bool, int, np.bool_, np.integer)
# Items of lists that numpy.asarray understands by itself; lists of these are long, and are not looked through.
PLAIN = {bool, int, float, str, bytes, list, tuple, np.ndarray, np.float64, np.float32, np.int64, np.bool_, np.str_}


def numbers(x, what, accepted="must hold real numbers"):
    """x as an array of bools, whole numbers or floats, copied only where it must be.

    `what` says whose and which argument it is, "Dense (layer 3): the input", and `accepted` what that must be, for
    the message.  TypeError for what holds anything else, ValueError for what is not as regular as an array.
    """
    if type(x) is np.ndarray and x.dtype.kind in "fiub":
        return x
    array = without_objects(as_array(x, what))
    if array.dtype.kind == "O":
        raise _object_error(array, x, what, accepted)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{what} {accepted}, got an array of dtype {array.dtype}{_advice_on_dtype(array)}")
    return array


def as_array(x, what):
    """x as an array of whatever dtype; an error where NumPy can't make one, or would lose something."""
    refuse(x, what)
    if isinstance(x, (list, tuple)) and not PLAIN.issuperset(map(type, x)):
        for k, item in enumerate(x):
            refuse(item, f"{what}, at {k},")
    if hasattr(x, "iloc"):
        _refuse_missing(x, what)
    try:
        return np.asarray(x)
    except ValueError as error:
        advice = UNEQUAL if "inhomogeneous" in str(error) else ""
        raise ValueError(f"{what} is not an array: {error}{advice}") from None
    except Exception as error:  # whatever an __array__ of someone else raises
        raise TypeError(f"{what} is not an array: {error}") from None


def refuse(x, what):
    """An error for what holds numbers, and of which NumPy would make something else, or nothing."""
    if type(x) is np.ndarray:
        return
    if isinstance(x, np.ma.MaskedArray):
        hidden = np.ma.count_masked(x)
        if hidden:
            raise ValueError(
                f"{what} is a masked array with {hidden} of its {x.size} numbers hidden; "
                "say what stands for them: x.filled(value)"
            )
    elif hasattr(x, "nnz") and hasattr(x, "toarray"):
        raise TypeError(f"{what} is a sparse matrix, {type(x).__name__} {x.shape}; fill in its zeros: x.toarray()")
    elif hasattr(x, "requires_grad") and hasattr(x, "layout"):
        _refuse_tensor(x, what)


def _refuse_tensor(x, what):
    """An error for a tensor of PyTorch that does not share its memory with an array as it is."""
    about, steps = [], ""
    if x.requires_grad:
        about, steps = ["needs a gradient"], ".detach()"
    if x.device.type == "meta":
        raise TypeError(f"{what} is a PyTorch tensor on the device meta, which holds no numbers")
    if x.device.type != "cpu":
        about, steps = [*about, f"is on the device {x.device}"], f"{steps}.cpu()"
    if "strided" not in str(x.layout):
        about, steps = [*about, f"is sparse ({x.layout})"], f"{steps}.to_dense()"
    name = str(x.dtype).removeprefix("torch.")
    if name.startswith(("bfloat", "float8", "float4")):
        about, steps = [*about, f"is of dtype {name}, which NumPy does not have"], f"{steps}.float()"
    if about:
        raise TypeError(f"{what} is a PyTorch tensor that {' and '.join(about)}; give x{steps}")


def _refuse_missing(x, what):
    """A ValueError for a table or a column of pandas whose own integers, bools or floats are missing somewhere (NA)."""
    dtypes = list(x.dtypes) if hasattr(x, "columns") else [x.dtype]
    for k, dtype in enumerate(dtypes):
        if repr(getattr(dtype, "na_value", None)) == "<NA>" and getattr(dtype, "kind", "O") in "iubf":
            missing = np.asarray((x.iloc[:, k] if hasattr(x, "columns") else x).isna())
            if missing.any():
                place = (int(missing.argmax()), k) if hasattr(x, "columns") else (int(missing.argmax()),)
                raise ValueError(
                    f"{what} must have no missing numbers, got <NA>{_place(place, x)}; "
                    "say what stands for it: x.fillna(value)"
                )


def without_objects(array):
    """An array of objects as one of bools, whole numbers or floats, if it holds nothing else and all of them fit."""
    if array.dtype.kind != "O":
        return array
    kinds = set(map(type, array.flat))
    if not all(issubclass(kind, NUMBERS) for kind in kinds):
        return array
    if kinds and all(issubclass(kind, (bool, np.bool_)) for kind in kinds):
        return array.astype(np.bool_)
    whole = bool(kinds) and all(issubclass(kind, WHOLE) for kind in kinds)
    for dtype in (np.int64, np.float64) if whole else (np.float64,):
        try:
            result = array.astype(dtype)
        except OverflowError:
            continue
        if ((result == array) | (array != array)).all():  # a NaN differs from itself
            return result
    return array


def real_array(x, dtype, what):
    """x as a C-contiguous array of `dtype`, or its own if that is None; TypeError unless it holds real numbers.

    Bools count as 0 and 1.
    """
    x = numbers(x, what)
    return np.ascontiguousarray(x, dtype).reshape(x.shape)


# --- arrays that are assigned to ----------------------------------------------------------------------------


def view_of(array):
    """The same memory as an array of its own, whose shape and dtype may be set without any effect on `array`."""
    return np.asarray(array.data)  # by way of its buffer: the .base of array.view() would be `array` itself


def copy_into(own, given, what):
    """own[...] = given, if it has the same shape and holds real numbers that own's dtype can."""
    array = real_array(given, None, what)
    if array.shape != own.shape:
        raise ValueError(f"{what} has shape {own.shape}, got {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        fitting = array.astype(own.dtype)
    if own.dtype.kind == "f":
        lost = np.isfinite(array) & ~np.isfinite(fitting)
    else:
        lost = fitting != array
    if lost.any():
        where = tuple(int(axis) for axis in np.argwhere(lost)[0])
        raise ValueError(f"{what} is {own.dtype}, which can't hold {array[where]} at position {where}")
    own[...] = fitting


# --- numbers, dtypes and shapes -----------------------------------------------------------------------------


def float_dtype(dtype):
    """The NumPy dtype, if it is one that the kernels know."""
    try:
        result = np.dtype(dtype) if dtype is not None else None
    except TypeError:
        raise TypeError(f'dtype must be float32 or float64, got {dtype!r}; write dtype="float32"') from None
    if result not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {result}")
    return result


def number(value, name):
    """value as a float; TypeError unless it is a real number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def positive_int(value, name, least=1):
    """value as an int of at least `least`; `name` says whose it is: "Dense: units"."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def pair(value, name, least=1):
    """An int, or a pair of them for height and width, as a pair."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be a whole number or a pair (height, width), got {value!r}")
        return positive_int(value[0], name, least), positive_int(value[1], name, least)
    both = positive_int(value, name, least)
    return both, both


def number_within(value, what, least=0, most=math.inf, most_allowed=False):
    """value as a float, if it is at least `least` and below `most`, or that itself where it is allowed."""
    given, value = value, number(value, what)
    if not (least <= value < most or (most_allowed and value == most)):
        top = "" if most == math.inf else f" and {'at most' if most_allowed else 'below'} {most}"
        raise ValueError(f"{what} must be a finite number of at least {least}{top}, got {given}")
    return value


# These three are given the function's name and the argument's apart: a loss calls them in every step, and most often
# needs neither.


def fraction(value, name, what="label_smoothing"):
    """A number in [0, 1], as a float."""
    if type(value) is float and 0.0 <= value <= 1.0:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: {what} must be a number in [0, 1], got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: {what} must be in [0, 1], got {value}")
    return float(value)


def real_number(value, name, what, zero=False):
    """A finite number above 0, or at least 0 where `zero` may be given, as a float."""
    result = number(value, f"{name}: {what}")
    if not (0 <= result < math.inf if zero else 0 < result < math.inf):
        raise ValueError(f"{name}: {what} must be finite and {'at least' if zero else 'above'} 0, got {value}")
    return result


def whole_number(value, name, what="ignore_index"):
    """A whole number that int64 holds, as an int."""
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: {what} must be a whole number, got {value!r}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: {what} must fit into 64 bits, got {value}")
    return int(value)


def batch_hint(given, sample, x="x"):
    """What may be wrong with a batch of shape `given`, where samples of shape `sample` are expected."""
    given = tuple(given)
    if given == sample:
        return f"; one sample? {x}[None]"
    if (*given, 1) == sample:
        return f"; one sample without its last axis? {x}[None, ..., None]"
    if len(given) == len(sample) + 1 > 2 and (*given[2:], given[1]) == sample:
        return f"; are the channels first? np.moveaxis({x}, 1, -1)"
    if len(given) == len(sample) > 1 and (*given[1:], given[0]) == sample:
        return f"; one sample, with its channels first? np.moveaxis({x}, 0, -1)[None]"
    if sample[-1:] == (1,) and given[1:] == sample[:-1]:
        return f"; without the last axis? {x}[..., None]"
    if given[1:] == (*sample, 1):
        return f"; drop the last axis: {x}[..., 0]"
    if len(given) > 1 and math.prod(given[1:]) == math.prod(sample):
        return f"; the same numbers in another shape? {x}.reshape({', '.join(map(str, (-1, *sample)))})"
    return ""


def channels_last(shape):
    """The shape of what has this one with its channels first, (N, C, ...): (N, ..., C)."""
    return (*shape[:1], *shape[2:], *shape[1:2])


UNEQUAL = "; rows of unequal length must be padded, as tn.data.pad does it"
ONE_A_SAMPLE = "; for one target a sample, the model must end in (N, C): put a Flatten() before its Dense, or a pooling"


def labels_hint(given, shape, labels="targets", scores="logits"):
    """What may be wrong with labels of shape `given`, for scores of `shape` (..., C)."""
    if given == (*shape[:-1], 1):
        return f"; drop the last axis: {labels}[..., 0]"
    if given == shape:
        return f"; for one-hot rows, give {labels}.argmax(-1), or floats"
    if len(shape) > 2 and given == channels_last(shape)[:-1]:
        return f"; are the channels first? np.moveaxis({scores}, 1, -1)"
    if len(shape) > 2 and given == shape[:1]:
        return ONE_A_SAMPLE
    return ""


# --- messages -----------------------------------------------------------------------------------------------


def _object_error(array, given, what, accepted):
    """The error for an array of objects: it names the first that is no number."""
    if array.ndim == 0:
        item = array.item()
        advice = ""
        if isinstance(item, Iterator):
            advice = "; it can be read only once: x = np.array(list(x))"
        elif isinstance(item, Mapping):
            advice = "; give one of its arrays, or several as columns: np.stack(list(x.values()), axis=-1)"
        elif isinstance(item, Set):
            advice = ", which has no order"
        elif hasattr(item, "__iter__"):
            advice = "; try np.array(list(x))"
        got = "None" if item is None else f"a {type(item).__name__}"
        return TypeError(f"{what} {accepted}, got {got}{advice}")
    strange = (found for found in np.ndenumerate(array) if not isinstance(found[1], NUMBERS))
    too_long = (found for found in np.ndenumerate(array) if not _fits(found[1]))
    place, item = next(strange, None) or next(too_long)
    shown = repr(item)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return TypeError(f"{what} {accepted}, got {shown}{_place(place, given)}{_advice_on(item, array, given)}")


def _fits(number):
    """Does float64 hold it exactly?"""
    try:
        return float(number) == number or number != number
    except OverflowError:
        return False


def _place(place, given):
    if hasattr(given, "columns") and len(place) == 2:
        column = list(given.columns)[place[1]]
        return f" in column {repr(column) if isinstance(column, str) else column}, row {place[0]}"
    return f" at position {tuple(map(int, place))}"


def _advice_on(item, array, given):
    """What to do about an item that is no number."""
    if item is None or repr(item) in ("<NA>", "NaT"):
        return f"; say what stands for what is missing{': x.fillna(value)' if hasattr(given, 'fillna') else ''}"
    if isinstance(item, (str, bytes)):
        return _advice_on_text([text for text in array.flat if isinstance(text, (str, bytes))], given)
    if isinstance(item, (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)):
        return "; say how long after which day that is, as a number: (x - start) / np.timedelta64(1, 'D')"
    if isinstance(item, (complex, np.complexfloating)):
        return "; give x.real, or np.abs(x)"
    if hasattr(item, "nnz") and hasattr(item, "toarray"):
        return "; a sparse matrix must be filled with its zeros: .toarray()"
    if hasattr(item, "__len__"):
        shapes = {np.shape(part) if hasattr(part, "shape") else (len(part),) for part in array.flat if _sized(part)}
        if len(shapes) == 1 and all(map(_sized, array.flat)):
            return "; make one array of them: np.stack(x)" if array.ndim == 1 else "; make one array of them"
        return UNEQUAL
    if isinstance(item, NUMBERS):
        return ", which does not fit exactly; to round it, x.astype(float)"
    return "; try x.astype(float)" if hasattr(item, "__float__") else ""


def _sized(item):
    return hasattr(item, "__len__")


def _advice_on_text(texts, given=None):
    try:
        np.array(texts, np.str_).astype(float)
        return "; these are numbers written as text: x.astype(float)"
    except ValueError:
        pass
    advice = "; number the categories: np.unique(x, return_inverse=True)[1]"
    return f"{advice}, or give each a column: tn.data.Table(x).encode(x)" if hasattr(given, "columns") else advice


def _advice_on_dtype(array):
    """What to do about an array of a dtype that holds no real numbers."""
    kind = array.dtype.kind
    if kind in "SUT":
        return _advice_on_text(array.ravel()[:100].tolist())
    if kind == "c":
        return "; give x.real, or np.abs(x)"
    if kind == "M":
        return "; say how long after which day that is, as a number: (x - x.min()) / np.timedelta64(1, 'D')"
    if kind == "m":
        return "; say in which unit, as a number: x / np.timedelta64(1, 'D')"
    if array.dtype.names:
        return "; make columns of its fields: numpy.lib.recfunctions.structured_to_unstructured(x)"
    return "; try x.astype(np.float32)" if "float" in array.dtype.name else ""
