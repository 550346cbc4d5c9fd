"""Sequences of unequal length: a batch is a pair (x, lengths), x padded at the end.

    x (N, T, ...)   lengths (N,), whole numbers from 0 to T   x[n,t] is padding where t >= lengths[n]

Padding must change nothing: no other output, no gradient, not even where it holds NaN.  So a model

    forward    puts zeros behind the lengths of x, and of y
    backward   puts zeros behind the lengths of dy: what comes out there had no say in the loss

In between, a layer that takes each position for itself (Dense, LayerNorm, ...) makes something finite of the zeros, and
from a dy of 0 gradients of 0: it need not know of lengths.  One that looks along time takes them (Declared.of_time).

The longest sequence of a batch may be shorter than T: the model cuts x there, and pads y again.
"""

import numpy as np

from tinynet.checks import as_array, real_array


def split_pair(x, input_shape):
    """(x, lengths) of a pair, (x, None) of all else: a tuple of two samples, say, has an axis less.

    Of several inputs (inputs.py), which have several input shapes, each may be a pair, and their tuple is none.
    """
    several = bool(input_shape) and type(input_shape[0]) is tuple
    if type(x) is tuple and len(x) == 2 and not several and np.ndim(x[0]) == len(input_shape) + 1:
        return x
    return x, None


def checked_lengths(lengths, x, where):
    """The lengths of the sequences x (N, T, ...) as an array (N,) of int64; `where` is for the message."""
    array, shape = as_array(lengths, f"{where}: lengths"), np.shape(x) if isinstance(x, (list, tuple)) else x.shape
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{where}: lengths must be whole numbers, got an array of dtype {array.dtype}")
    if len(shape) < 2:
        raise ValueError(f"{where}: lengths are of sequences (N, T, ...), got an input of shape {shape}")
    N, T = shape[:2]
    if array.shape != (N,):
        raise ValueError(f"{where}: expected {N} lengths, one for each sequence of x {shape}, got {array.shape}")
    wrong = np.flatnonzero((array < 0) | (array > T))
    if wrong.size:
        n = wrong[0]
        raise ValueError(
            f"{where}: the length of sequence {n} is {array[n]}, but x {shape} has {T} positions a sequence"
        )
    return np.ascontiguousarray(array, np.int64)


def check_along_time(layers, T):
    """The positions that are left of T after the layers, or None; ValueError for a layer that minds no lengths."""
    ends = np.array([T])
    for layer in layers:
        if ends is not None and len(layer.input_shape) < (1 if layer.takes_integers else 2):
            raise ValueError(
                f"{layer.label}: lengths and a state are of sequences (N, T, ...), and its samples {layer.input_shape}"
                " have no axis of time"
            )
        if ends is not None and layer.of_time is None:
            raise ValueError(
                f"{layer.label}: it may look along time, and minds neither lengths nor a state; give x alone, or put a "
                "layer before it that ends the axis of time, such as LSTM(..., return_sequences=False).  A layer of "
                "your own says what it does in `of_time`"
            )
        ends = None if ends is None else layer.output_lengths(ends)
    return None if ends is None else int(ends[0])


def padding_of(shape, lengths):
    """True where (n, t) is padding, an array (N, T, 1, ...) for arrays of this shape."""
    padding = np.arange(shape[1]) >= lengths[:, None]
    return padding.reshape(*shape[:2], *[1] * (len(shape) - 2))


def within(array, lengths):
    """What of an array (N, T, ...) lies within the lengths, position by position: (M, ...)."""
    return array[~padding_of(array.shape[:2], lengths)]


def in_place(positions, lengths, shape):
    """What `within` took of an array of this shape, where it was, and 0 behind the lengths."""
    array = np.zeros(shape, positions.dtype)
    array[~padding_of(shape[:2], lengths)] = positions
    return array


def padded(array, lengths, T):
    """A copy of the array (N, t, ...) with T positions, cut or added at the end, and zeros behind the lengths."""
    t = min(T, array.shape[1])
    out = np.zeros((len(array), T, *array.shape[2:]), array.dtype)
    np.copyto(out[:, :t], array[:, :t], where=~padding_of(out[:, :t].shape, lengths))
    return out


def in_numbers(x, dtype, takes_integers, what):
    """x as an array, whatever a layer's `checked` will make of it."""
    return as_array(x, what) if takes_integers else real_array(x, dtype, what)
