"""Batches: the samples of a data set, a few at a time, in a new order every epoch."""

import numpy as np

from tinynet.layers.base import positive_int


def batches(x, y, batch_size, shuffle=True, seed=0):
    """Yield (x_batch, y_batch) until every sample was seen once; the last batch holds what is left.

    x and y are arrays whose first axis is the sample, or anything else with a length and an item for each number
    from 0: lists, or a data set of your own that reads an image when asked for it.  Items that are numbers, or
    arrays of one shape, come as one array; others, such as sentences, as a list.  Every batch is a fresh array.

    The same `seed` gives the same order: give each epoch its own, or a numpy.random.Generator, which moves on by
    itself, or None for an order that nobody can repeat.  A ValueError or TypeError says, before the first batch,
    what is wrong with the arguments.
    """
    x, samples = _indexed(x, "x")
    y, labels = _indexed(y, "y")
    if samples != labels:
        raise ValueError(f"batches: x has {samples} samples, but y has {labels}")
    if samples == 0:
        raise ValueError("batches: there are no samples")
    batch_size = positive_int(batch_size, "batches: batch_size")
    order = np.random.default_rng(seed).permutation(samples) if shuffle else np.arange(samples)
    return _generate(x, y, order, batch_size)


def _generate(x, y, order, batch_size):
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield _gather(x, rows), _gather(y, rows)


def _gather(data, rows):
    if isinstance(data, np.ndarray):
        # The rows are in range, so "clip" changes none of them; the default, "raise", gathers into a buffer first.
        return data.take(rows, axis=0, mode="clip")
    items = [data[int(row)] for row in rows]
    if all(isinstance(item, (int, float)) or hasattr(item, "__array__") for item in items):
        arrays = [np.asarray(item) for item in items]
        if all(array.shape == arrays[0].shape for array in arrays):
            return np.stack(arrays)
    return items


def _indexed(data, name):
    """The data, as an array if it is one, and its number of samples."""
    if hasattr(data, "__array__"):
        data = np.asarray(data)
    if isinstance(data, (str, bytes, dict, set)) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(f"batches: {name} must be an array or have a length and items, got {type(data).__name__}")
    if isinstance(data, np.ndarray) and data.ndim == 0:
        raise ValueError(f"batches: {name} must have an axis of samples, got a single {data.dtype} value")
    return data, len(data)
