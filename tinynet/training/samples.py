"""Where the batches of fit come from: a data set, in an order of its own every epoch, or whoever makes them."""

import inspect
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from tinynet.checks import as_array, without_objects
from tinynet.data.batches import ahead, batches, checked_weights
from tinynet.data.sequences import as_inputs, count, is_pair, parts, split
from tinynet.layers.inputs import Inputs, takes_several
from tinynet.training.resume import checksum


class Batch(NamedTuple):
    """A batch, as the loop was given it last, and its number in the epoch."""

    number: int
    x: Any
    y: Any
    weights: np.ndarray | None


class Data:
    """The training set, in the order that each epoch has.

    numbers    of its samples in the data that they were taken from, or None: all
    prefetch   whether a thread reads the next batches, of what is no array in memory
    """

    def __init__(
        self, x, y, sample_weight, numbers, batch_size, similar_length, drop_last, augment, seed, ranks, prefetch
    ):
        self.options = {"similar_length": similar_length, "drop_last": drop_last}
        self.x, self.y, self.batch_size, self.seed, self.ranks = x, y, batch_size, seed, ranks
        self.sample_weight = sample_weight
        self.numbers = np.arange(count(x)) if numbers is None else numbers
        self.samples = count(x) - (count(x) % batch_size if drop_last else 0)
        self.augment = None if augment is None else augmentation(augment)
        in_memory = all(type(part) is np.ndarray for part in (*(split(part)[0] for part in parts(x)), y))
        self.ahead = ahead if prefetch and not in_memory else iter

    def left(self, epoch):
        """Each batch that the epoch still has, and its number of rows: (x, y, n)."""
        shard = self.ranks.shard if self.augment is None else None
        order = islice(self._order(epoch, self.y, shard), epoch.batches, None)
        for index, (x, y, *weights) in enumerate(self.ahead(order), epoch.batches):
            n, weights = min(self.batch_size, count(self.x) - epoch.samples), weights[0] if weights else None
            if self.augment is not None:
                x, y = augmented(self.augment, x, y, weights, epoch.rng)
                n = count(x)
                x, y, weights = self.ranks.share(x, y, weights)
            self.ranks.place(n)
            self.given = Batch(index, x, y, weights)
            yield x, y, n

    def last(self, epoch):
        """The batch given last, with all ranks' shares: x, y, weights; the numbers of its samples; x before augment.

        The last is None without augment.
        """
        index, *batch = self.given
        read, numbers, *_ = next(islice(self._order(epoch, self.numbers, None), index, None))
        return *map(self.ranks.whole, batch), numbers, None if self.augment is None else read

    def settings(self):
        """What must be the same for a run to be resumed, in the names of resume.settings."""
        targets = np.asarray(self.y) if hasattr(self.y, "__array__") else np.empty(0, object)
        lengths = [np.asarray(ends, np.int64) for _, ends in map(split, parts(self.x)) if ends is not None]
        found = {
            "fit's seed": self.seed,
            "batch_size": int(self.batch_size),
            "the number of samples": count(self.x),
            "the checksum of y": checksum(targets) if targets.dtype.kind in "fiub" else None,
        }
        if lengths:
            found["the checksum of the lengths"] = checksum(np.concatenate(lengths))
            found["similar_length"] = bool(self.options["similar_length"])
        if self.sample_weight is not None:
            found["the checksum of sample_weight"] = checksum(self.sample_weight)
        return found | ({"drop_last": True} if self.options["drop_last"] else {})

    def _order(self, epoch, y, shard):
        return batches(
            self.x, y, self.batch_size, seed=(self.seed, epoch.number), shard=shard, sample_weight=self.sample_weight,
            **self.options,
        )  # fmt: skip


class Stream:
    """Batches that somebody else makes: an epoch is one iteration over them.

    source     a PyTorch DataLoader, a list of batches, or anything else that can be iterated over again and again; or a
               function that returns an iterator.  Batches are (x, y) or (x, y, weights), x perhaps a pair (x, lengths)
               or a tuple of the inputs that the model takes
    """

    samples = x = y = given = None

    def __init__(self, model, source, augment=None, seed=0, who="fit: x"):
        self.model, self.source, self.seed, self.who = model, source, seed, who
        self.augment = None if augment is None else augmentation(augment)

    def __iter__(self):
        """The batches (x, y, weights) of an epoch, as arrays; a TypeError for one that is none."""
        weighted = None
        for index, batch in enumerate(self.source() if callable(self.source) else self.source):
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                got = f"a {type(batch).__name__}"
                got += f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
                raise TypeError(f"{self.who}: batch {index} must be (x, y), or (x, y, sample_weight), got {got}")
            y = _as_arrays(batch[1])
            if not hasattr(y, "__len__") or getattr(y, "ndim", 1) == 0:
                raise TypeError(
                    f"{self.who}: the targets of batch {index} must be (N, ...), got {y!r}; of a single sample, "
                    "a batch is x[None] and [y]"
                )
            several = takes_several(self.model.input_shape) and isinstance(batch[0], (tuple, list))
            x = tuple(map(_as_arrays, batch[0])) if several else _as_arrays(batch[0])
            x = as_inputs(x, self.model, f"{self.who}: batch {index}")
            weights = batch[2] if len(batch) == 3 else None
            if count(x) != len(y) or len(y) == 0:
                raise ValueError(f"{self.who}: batch {index} has {count(x)} samples and {len(y)} targets")
            if weighted not in (None, weights is not None):
                raise ValueError(f"{self.who}: some batches have a sample_weight, and others have none")
            weighted = weights is not None
            yield x, y, None if weights is None else checked_weights(weights, len(y), f"{self.who}: batch {index}")

    def left(self, epoch):
        """As Data.left."""
        self.given = None
        for index, (x, y, weights) in enumerate(islice(self, epoch.batches, None), epoch.batches):
            if self.augment is not None:
                x, y = augmented(self.augment, x, y, weights, epoch.rng)
            self.given = Batch(index, x, y, weights)
            yield x, y, count(x)
        if self.given is None and epoch.batches == 0:
            raise ValueError(
                f"{self.who}: epoch {epoch.number} has no batches; what is used up after an epoch needs a function "
                "that makes it anew"
            )

    def last(self, epoch):
        """As Data.last; nobody knows the numbers of the samples, nor what they were before augment."""
        return (*self.given[1:], (), None)

    def settings(self):
        """As Data.settings."""
        return {"fit's seed": self.seed, "batches": "made elsewhere"}


def is_stream(data):
    """Whether data are batches that somebody else makes, and no array, pair or data set.  A list may be either."""
    if callable(data):
        return True
    if isinstance(data, list):
        return bool(data) and all(isinstance(batch, tuple) for batch in data)
    return hasattr(data, "__iter__") and not isinstance(data, (tuple, str, bytes, dict)) and not hasattr(data, "shape")


def augmentation(augment):
    """augment, or several of them, as one function (x, y, rng) -> (x, y), whichever of the two forms they have."""
    if isinstance(augment, (list, tuple)):
        functions = [augmentation(each) for each in augment]

        def in_a_row(x, y, rng):
            for function in functions:
                x, y = function(x, y, rng)
            return x, y

        return in_a_row
    with_targets = False
    try:
        signature = inspect.signature(augment)
    except (TypeError, ValueError):  # a function in C that says nothing about itself
        signature = None
    if signature is not None:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        places = [p for p in signature.parameters.values() if p.kind in kinds]
        names = [p.name for p in places]
        needed = sum(p.default is p.empty for p in places)
        with_targets = names.index("rng") == 2 if "rng" in names else needed == 3
        try:
            signature.bind(*"xyr" if with_targets else "xr")
        except TypeError as error:
            raise TypeError(f"fit: augment must be a function of (x, rng) or of (x, y, rng): {error}") from None
    if not with_targets:

        def augmented(x, y, rng):
            given, x = x, augment(x, rng)
            if x is None:
                raise TypeError("fit: augment returned None; it must return the batch")
            if isinstance(x, tuple) and not isinstance(given, tuple):
                raise TypeError(
                    "fit: augment(x, rng) returned a tuple, and must return x; one that returns (x, y) takes both: "
                    "augment(x, y, rng)"
                )
            if is_pair(given) and not is_pair(x):
                raise TypeError("fit: augment must return the pair (x, lengths) for the pair that it is given")
            return _as_given(x, given), y

        return augmented

    def augmented(x, y, rng):
        pair = augment(x, y, rng)
        if isinstance(pair, tuple) and len(pair) == 2:
            pair = _as_given(pair[0], x), pair[1]
            if count(pair[0]) == len(pair[1]):
                return pair
        raise TypeError("fit: augment(x, y, rng) must return the pair (x, y), both of one length")

    return augmented


def augmented(augment, x, y, weights, rng):
    """The batch that augment makes of this one; a ValueError where it makes more or fewer samples than have weights."""
    x, y = augment(x, y, rng)
    if weights is not None and len(weights) != count(x):
        raise ValueError(
            f"fit: augment made {count(x)} samples of {len(weights)}; with sample_weight it must leave their number, "
            "and sample n keeps the weight that it has"
        )
    return x, y


def _as_given(x, given):
    """What augment returned in place of what it was given: several inputs in place of several."""
    if type(given) is not Inputs:
        return x
    if not isinstance(x, (tuple, list)) or len(x) != len(given):
        raise TypeError(f"fit: augment must return the tuple of {len(given)} inputs that it is given, changed")
    return Inputs(x)


def _as_arrays(part):
    """Tensors and tables as arrays, in pairs too; what else a model may take as it is."""
    if is_pair(tuple(part) if isinstance(part, list) else part):
        return tuple(map(_as_arrays, part))
    return without_objects(as_array(part, "fit: a batch")) if hasattr(part, "__array__") else part
