"""The checks of arguments that everything shares: what they return is what the rest may rely on."""

import numpy as np


def float_dtype(dtype):
    """The NumPy dtype, if it is one that the kernels know."""
    try:
        result = np.dtype(dtype) if dtype is not None else None
    except TypeError:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from None
    if result not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {result}")
    return result


def real_array(x, dtype, what):
    """x as a C-contiguous array of `dtype`, or its own if that is None; TypeError unless it holds real numbers.

    Bools count as 0 and 1.
    """
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{what} is not an array: {error}") from None
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{what} must hold real numbers, got an array of dtype {x.dtype}")
    return np.ascontiguousarray(x, dtype).reshape(x.shape)


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
