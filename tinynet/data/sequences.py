"""Sequences of unequal length, padded to one array: a pair (x, lengths), x (N, T, ...) and lengths (N,).

What lies behind a sequence's length is padding.  Such a pair stands wherever a batch or a data set x may stand; and so
do the inputs of a model that takes several, a tuple in which each may be such a pair (layers/inputs.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import numbers, positive_int, refuse
from tinynet.layers.along_time import padding_of
from tinynet.layers.inputs import Inputs, check_number, check_samples, takes_several


def pad(sequences: Sequence[ArrayLike], length: int | None = None, value: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of any lengths as one array, padded at the end: the pair (x, lengths) that models and fit take.

    sequences   a list of arrays or lists (T,), or of arrays (T, C) with one C; T may be 0
    length      how many positions x has: None for those of the longest; what is longer loses its end
    value       what the padding holds; a model never looks at it

    Returns x (N, T, ...), of the dtype that holds all of them, and lengths (N,) of int64.

    >>> x, lengths = tn.data.pad([[5, 3, 8], [4], []])
    >>> x
    array([[5, 3, 8],
           [4, 0, 0],
           [0, 0, 0]])
    >>> lengths
    array([3, 1, 0])
    """
    if isinstance(sequences, (str, bytes, dict, set)) or not hasattr(sequences, "__len__"):
        raise TypeError(f"pad: sequences must be a list of arrays, got {type(sequences).__name__}")
    arrays = [numbers(sequence, f"pad: sequence {n}", "must hold numbers") for n, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("pad: there are no sequences")
    full = [array for array in arrays if array.size] or arrays[:1]  # an empty list has neither dtype nor axes to say
    rest = full[0].shape[1:]
    for n, array in enumerate(arrays):
        if array.ndim == 0 or (array.shape[1:] != rest and array.shape != (0,)):
            expected = ", ".join(("T", *map(str, rest)))
            raise ValueError(f"pad: sequence {n} has shape {array.shape}, expected ({expected}) as the first one has")
    lengths = np.array([len(array) for array in arrays], np.int64)
    if length is None:
        length = max(1, int(lengths.max()))
    else:
        length = positive_int(length, "pad: length")
        arrays, lengths = [array[:length] for array in arrays], np.minimum(lengths, length)
    dtype = np.result_type(*{array.dtype for array in full})
    if dtype.kind in "iu" and not isinstance(value, (int, np.integer)):
        raise TypeError(f"pad: value must be a whole number, as those of the sequences are, got {value!r}")
    x = np.full((len(arrays), length, *rest), value, dtype)
    x[~padding_of(x.shape[:2], lengths)] = np.concatenate([array.reshape(-1, *rest) for array in arrays])
    return x, lengths


# --- what takes a pair, or several inputs, wherever it takes x ----------------------------------------------------


def is_pair(x):
    """Whether x is a pair (x, lengths): a tuple of two vectors, say, is not, but a batch of two samples."""
    if type(x) is not tuple or len(x) != 2 or isinstance(x[0], (str, bytes)) or not hasattr(x[0], "__len__"):
        return False
    lengths = x[1] if isinstance(x[1], np.ndarray) else _array(x[1])
    if lengths is None or lengths.ndim != 1 or (lengths.size and lengths.dtype.kind not in "iu"):
        return False
    if hasattr(x[0], "shape"):
        return len(x[0].shape) >= 2
    found = _array(x[0][:1]) if isinstance(x[0], (list, tuple)) else None
    return not isinstance(x[0], (list, tuple)) or (found is not None and found.ndim >= 2)


def _array(values):
    try:
        return np.asarray(values)
    except ValueError:  # rows of unequal length
        return None


def split(x):
    """(x, lengths) of a pair, (x, None) of all else."""
    return x if is_pair(x) else (x, None)


def parts(x):
    """Each of several inputs; x alone of all else."""
    return x if type(x) is Inputs else (x,)


def each(function, x):
    """Of several inputs, what the function makes of each; else of x."""
    return Inputs(map(function, x)) if type(x) is Inputs else function(x)


def as_inputs(x, model, where):
    """x as Inputs if the model takes several, and as it is if it takes one; an error where x is the other."""
    shapes = model.input_shape
    if takes_several(shapes):
        check_number(x, shapes, where)
        for number, part in enumerate(x):
            refuse(part, f"{where}: input {number}")
            if not hasattr(part, "__len__"):
                kind = type(part).__name__
                raise TypeError(f"{where}: input {number} must be an array or have a length and items, got {kind}")
        check_samples([count(part) for part in x], where)
        return Inputs(x)
    if type(x) is tuple and not is_pair(x) and x and all(hasattr(p, "ndim") and p.ndim > len(shapes) for p in x):
        raise TypeError(f"{where}: expected one input, of samples {shapes}, got a tuple of {len(x)} arrays")
    return as_one(x)


def as_one(x):
    """x, which is one input, or a tuple of samples as a list of them: batches takes no list for several inputs."""
    return list(x) if type(x) is tuple and not is_pair(x) else x


def several(x, samples):
    """x as Inputs if it is a tuple of parts that all have this many samples, and no pair (x, lengths); else as it is.

    So a data set of several inputs is told from a tuple of samples, where there is no model to say which it is.
    """
    if type(x) is not tuple or len(x) < 2 or is_pair(x):
        return x
    sized = all(hasattr(split(part)[0], "__len__") and not isinstance(part, (str, bytes, dict, set)) for part in x)
    return Inputs(x) if sized and all(count(part) == samples for part in x) else x


def count(x):
    """How many samples there are."""
    x = split(parts(x)[0])[0]
    return len(x)


def rows(x, index):
    """Some of the samples; `index` is a slice."""
    if type(x) is Inputs:
        return Inputs(rows(part, index) for part in x)
    x, lengths = split(x)
    some = [x[n] for n in range(len(x))[index]] if is_data_set(x) else x[index]
    return some if lengths is None else (some, lengths[index])


def is_data_set(x):
    """Whether it is one of the caller's own: it has a length, and items one by one, and NumPy would read on beyond."""
    own = not hasattr(x, "__array__") and not isinstance(x, (list, tuple, str, bytes, bytearray, memoryview, dict))
    return own and hasattr(x, "__getitem__") and hasattr(x, "__len__") and len(x) > 0


def similar_lengths(lengths, batch_size, shuffle, rng):
    """An order of the samples in which those of a batch have similar lengths.

    Of the samples in random order, as many as make POOL batches are sorted by length and cut into batches, whose order,
    and the order in each, are random again.  The batch that is not full comes last, with whatever samples it got.
    """
    if not shuffle:
        return np.argsort(lengths, kind="stable")
    order = rng.permutation(len(lengths))
    full = len(order) // batch_size
    cut = []
    for first in range(0, full, POOL):
        pool = order[first * batch_size : min(first + POOL, full) * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        cut.append(rng.permuted(pool.reshape(-1, batch_size), axis=1))
    if cut:
        order[: full * batch_size] = rng.permutation(np.concatenate(cut)).reshape(-1)
    return order


POOL = 64  # batches: large enough that a batch is much alike, small enough that its samples are others in each epoch
