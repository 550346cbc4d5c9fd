"""Batches: the samples of a data set, a few at a time, in a new order every epoch."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tinynet.checks import as_array, positive_int, refuse, without_objects
from tinynet.checks.losses import sample_weight as checked_sample_weight
from tinynet.data.sequences import count, is_pair, several, similar_lengths, split
from tinynet.layers.along_time import checked_lengths
from tinynet.layers.inputs import Inputs


def batches(
    x: Any,
    y: Any,
    batch_size: int,
    shuffle: bool = True,
    seed: int | Sequence[int] | np.random.Generator | None = 0,
    shard: tuple[int, int] | None = None,
    similar_length: bool = False,
    sample_weight: Any = None,
    drop_last: bool = False,
) -> Iterator[Any]:
    """Yield (x_batch, y_batch) until every sample was seen once; the last batch holds what is left.

    With drop_last=True, what is left is left out, another part of the data each time if they are shuffled.

    x and y are arrays whose first axis is the sample, or anything else with a length and an item for each number
    from 0: lists, or a data set of your own that reads an image when asked for it.  Items that are numbers, or
    arrays of one shape, come as one array; others, such as sentences, as a list.  Every batch is a fresh array.

    A tuple of those, each with as many samples as y, is of several inputs: x = (images, table), and each batch is
    ((images, table), y).

    Of data on disk, never more than a batch is read: of a numpy.memmap, and of what has `shape`, `dtype` and
    `__array__` as arrays do but keeps its numbers elsewhere, such as a data set of h5py or Zarr, which is asked for
    several items at once, by an array of their numbers in rising order.

    The same `seed` gives the same order: give each epoch its own, or a numpy.random.Generator, which moves on by
    itself, or None for an order that nobody can repeat.  With shard=(rank, ranks), each batch is cut into that many
    parts, equal but for a sample, and only part number `rank`, counted from 0, is read and yielded; it may be empty.
    A ValueError or TypeError says, before the first batch, what is wrong with the arguments.

    Sequences of unequal length are a pair x = (sequences, lengths), padded as tn.data.pad does it; each batch is then
    ((sequences, lengths), y).  With similar_length=True those of a batch have similar lengths, so that little of it is
    padding; each sample still comes once, and where it comes is as random as that allows.  Without shuffling they then
    come from the shortest to the longest.  Any pair of sequences (N, T, ...) and a vector (N,) of whole numbers counts
    as such; of a model's second input these are a column (N, 1).

    With sample_weight (N,), one finite number of at least 0 for each sample, batches are (x, y, weight), as losses take
    them.

    >>> for x, y in tn.batches(["good", "bad", "so so"], [1, 0, 2], batch_size=2, shuffle=False):
    ...     print(x, y)
    ['good', 'bad'] [1 0]
    ['so so'] [2]
    >>> [[x.tolist() for x, y in tn.batches(range(7), range(7), 4, False, shard=(rank, 2))] for rank in (0, 1)]
    [[[0, 1], [4]], [[2, 3], [5, 6]]]
    """
    y, labels = _indexed(y, "y")
    x, lengths = split(several(x, labels))
    x, samples = _indexed(x, "x")
    if samples != labels:
        raise ValueError(f"batches: x has {samples} samples, but y has {labels}{_hint(x)}")
    if samples == 0:
        raise ValueError("batches: there are no samples")
    batch_size = positive_int(batch_size, "batches: batch_size")
    if not isinstance(shuffle, (bool, np.bool_)):
        raise TypeError(f"batches: shuffle must be True or False, got {shuffle!r}")
    if not isinstance(similar_length, (bool, np.bool_)):
        raise TypeError(f"batches: similar_length must be True or False, got {similar_length!r}")
    if not isinstance(drop_last, (bool, np.bool_)):
        raise TypeError(f"batches: drop_last must be True or False, got {drop_last!r}")
    if drop_last and samples < batch_size:
        raise ValueError(f"batches: drop_last=True drops all {samples} samples, fewer than a batch of {batch_size}")
    if lengths is not None:
        lengths = checked_lengths(lengths, x, "batches")
    elif similar_length and type(x) is Inputs:
        raise ValueError(f"batches: similar_length=True is for one input with lengths, and x has {len(x)} inputs")
    elif similar_length:
        raise ValueError("batches: similar_length=True needs lengths: give a pair x = (sequences, lengths)")
    weights = None if sample_weight is None else checked_weights(sample_weight, samples, "batches")
    rank, ranks = _shard(shard)
    rng = _generator(seed)
    if similar_length:
        order = similar_lengths(lengths, batch_size, shuffle, rng)
    else:
        order = rng.permutation(samples) if shuffle else np.arange(samples)
    order = order[: samples - samples % batch_size] if drop_last else order
    return _generate(x, lengths, y, weights, order, batch_size, rank, ranks)


def checked_weights(sample_weight, samples, name):
    """Weights of samples (N,) in float64, of which at least one counts."""
    weights = checked_sample_weight(sample_weight, (samples,), name)
    if not weights.any():
        raise ValueError(f"{name}: sample_weight is 0 for every sample, so none of them counts")
    return weights


def part(n, rank, ranks):
    """Of n rows that `ranks` share, those of number `rank`, as a slice: all have equally many, but for one."""
    return slice(rank * n // ranks, (rank + 1) * n // ranks)


def ahead(items, count=2):
    """The items of an iterator, of which a thread makes the next `count` in the meantime.

    One thread: it asks for one after the other, as the caller would.
    """
    items, end = iter(items), object()
    with ThreadPoolExecutor(1, "tinynet-batches") as thread:
        coming = deque(thread.submit(next, items, end) for _ in range(count))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, items, end))
            yield item


class Subset:
    """Some samples of a data set, by their numbers, which are read when they are asked for."""

    def __init__(self, data, numbers):
        self.data, self.numbers = data, numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return self.data[int(self.numbers[index])]
        return _gather(self.data, self.numbers[index])

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)

    @property
    def shape(self):
        return (len(self), *self.data.shape[1:])

    @property
    def dtype(self):
        return self.data.dtype


def subset(data, numbers, name):
    """The samples of these numbers, of x or of a pair (x, lengths): an array of what is little, else a Subset."""
    if type(data) is Inputs:
        return Inputs(subset(part, numbers, name) for part in data)
    data, lengths = split(data)
    data, _ = _indexed(data, name)
    some = Subset(data, numbers)
    some = some[:] if getattr(data, "ndim", 9) == 1 else some
    return some if lengths is None else (some, np.asarray(lengths)[numbers])


def _shard(shard):
    if shard is None:
        return 0, 1
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise ValueError(f"batches: shard must be a pair (rank, ranks), got {shard!r}")
    rank, ranks = positive_int(shard[0], "batches: the rank", 0), positive_int(shard[1], "batches: the ranks")
    if rank >= ranks:
        raise ValueError(f"batches: of {ranks} ranks, the last is {ranks - 1}, got {rank}")
    return rank, ranks


def _generate(x, lengths, y, weights, order, batch_size, rank, ranks):
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        rows = rows[part(len(rows), rank, ranks)]
        batch = _gather(x, rows)
        batch = batch if lengths is None else (batch, lengths[rows])
        yield (batch, _gather(y, rows)) if weights is None else (batch, _gather(y, rows), weights[rows])


def _gather(data, rows):
    if type(data) is Inputs:
        pairs = ((part[0], part[1][rows]) if is_pair(part) else (part, None) for part in data)
        return Inputs(_gather(x, rows) if ends is None else (_gather(x, rows), ends) for x, ends in pairs)
    if isinstance(data, Subset):
        return _gather(data.data, data.numbers[rows])
    if isinstance(data, np.ndarray):
        if data.flags.c_contiguous and data.flags.aligned:
            # The rows are in range, so "clip" changes none of them; the default, "raise", gathers into a buffer first.
            return data.take(rows, axis=0, mode="clip")
        return np.ascontiguousarray(data[rows])  # of these, take would copy the whole array first
    if _is_stored(data) and len(rows):
        rising = np.argsort(rows)  # h5py takes no other order
        found = as_array(data[rows[rising]], "batches: a sample")
        batch = np.empty(found.shape, found.dtype)
        batch[rising] = found
        return batch
    if len(rows) == 0:
        return _gather(data, np.array([0]))[:0]
    items = [data[int(row)] for row in rows]
    if all(isinstance(item, (int, float)) or hasattr(item, "__array__") for item in items):
        arrays = [as_array(item, "batches: a sample") for item in items]
        if all(array.shape == arrays[0].shape for array in arrays):
            return np.stack(arrays)
    return items


def _indexed(data, name):
    """The data, as an array if it is one in memory or a memory map, and its number of samples."""
    if type(data) is Inputs:
        return Inputs(_part(part, f"{name}, input {number}") for number, part in enumerate(data)), count(data)
    if isinstance(data, Subset):
        return data, len(data)
    refuse(data, f"batches: {name}")
    if hasattr(data, "__array__") and not _is_stored(data):
        data = without_objects(as_array(data, f"batches: {name}"))
    if isinstance(data, (str, bytes, dict, set)) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise TypeError(f"batches: {name} must be an array or have a length and items, got {type(data).__name__}")
    if hasattr(data, "shape") and len(data.shape) == 0:
        raise ValueError(f"batches: {name} must have an axis of samples, got a single {data.dtype} value")
    return data, len(data)


def _part(data, name):
    """One of several inputs, as _indexed does it; of a pair (x, lengths) both."""
    data, lengths = split(data)
    found, _ = _indexed(data, name)
    return found if lengths is None else (found, checked_lengths(lengths, found, f"batches: {name}"))


def _hint(x):
    """For a tuple that may be meant as several inputs."""
    if type(x) is not tuple or not all(hasattr(part, "__len__") for part in x):
        return ""
    counts = ", ".join(str(count(part)) for part in x)
    return f"; each of several inputs must have as many samples as y, and in this tuple they have {counts}"


def _is_stored(data):
    """Is it like an array, but one that np.asarray would have to read first?

    PyTorch's and JAX's arrays have __dlpack__, as NumPy's do.  Those of pandas have iloc, and item k need not be the
    k-th of them.
    """
    like_an_array = all(hasattr(data, name) for name in ("__array__", "shape", "dtype", "__getitem__"))
    return like_an_array and not (hasattr(data, "__dlpack__") or hasattr(data, "iloc"))


def _generator(seed):
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise type(error)(
            "batches: seed must be a whole number of at least 0, a tuple of them, a numpy.random.Generator or None, "
            f"got {seed!r}"
        ) from None
