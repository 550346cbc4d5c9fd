"""The x that gradcheck checks a layer or a model at: given or drawn, with lengths or without, one or several."""

import numpy as np

from tinynet.checks import numbers, real_array
from tinynet.data.sequences import is_pair
from tinynet.layers.along_time import check_along_time, checked_lengths
from tinynet.layers.in_a_row import forward_in_a_row
from tinynet.layers.inputs import Inputs, check_number, check_samples, takes_several


class CheckInput:
    """x as arrays by name, "input", or "input 0", "input 1" of several: in float64, or of whole numbers.

    given   an array or the shape of a random one, or a pair of that and lengths; a tuple of these where `what`, the
            layer or model, takes several inputs
    """

    def __init__(self, given, what, rng):
        shapes = what.input_shape or ()
        self.several = takes_several(shapes)
        if self.several:
            check_number(given, shapes, "gradcheck.check: x")
        self.arrays, self.lengths = {}, {}
        for number, part in enumerate(given if self.several else (given,)):
            name, where = ("input", "x") if not self.several else (f"input {number}", f"input {number}")
            x, ends = part if _has_lengths(part) else (part, None)
            x = numbers(rng.standard_normal(x) if _is_shape(x) else x, f"gradcheck.check: {where}")
            if ends is not None:
                self.lengths[name] = checked_lengths(ends, x, "gradcheck.check")
            self.arrays[name] = x.copy() if _is_whole(x) else real_array(x, np.float64, "gradcheck.check: x").copy()
        check_samples([len(x) if x.ndim else 0 for x in self.arrays.values()], "gradcheck.check")

    @property
    def shape(self):
        """What a layer is built for."""
        shapes = tuple(x.shape[1:] for x in self.arrays.values())
        return shapes if self.several else shapes[0]

    @property
    def whole(self):
        """Whether it is whole numbers alone, which have no gradient."""
        return all(map(_is_whole, self.arrays.values()))

    @property
    def moved(self):
        """The arrays that have a gradient, by name."""
        return {name: x for name, x in self.arrays.items() if not _is_whole(x)}

    def round_to(self, dtype):
        """Only numbers that `dtype` holds."""
        for x in self.moved.values():
            x[...] = x.astype(dtype)

    def check_lengths(self, layers):
        """A ValueError for layers that mind no lengths, if it has some; those of several inputs Parallel checks."""
        if self.lengths and not self.several:
            check_along_time(layers, self.arrays["input"].shape[1])

    def ends(self, what):
        """The lengths of the output, or None."""
        return what.output_lengths(self.lengths["input"]) if self.lengths and not self.several else None

    def output(self, what):
        """A fresh array of what a layer or a model of whatever dtype gives in training."""
        parts = [(x if _is_whole(x) else x.astype(what.dtype, copy=False)) for x in self.arrays.values()]
        ends = [self.lengths.get(name) for name in self.arrays]
        pairs = [x if its is None else (x, its) for x, its in zip(parts, ends, strict=True)]
        if self.several or not self.lengths or hasattr(what, "flat_values"):
            return np.array(what.forward(Inputs(pairs) if self.several else pairs[0], training=True))
        return np.array(forward_in_a_row([what], parts[0], True, ends[0]))

    def gradients(self, dx):
        """dx by name; a ValueError where its shape is not x's."""
        found = {}
        for (name, x), its in zip(self.arrays.items(), dx if self.several else (dx,), strict=True):
            if np.shape(its) != x.shape and not _is_whole(x):
                raise ValueError(
                    f"gradcheck.check: backward returned dx of shape {np.shape(its)}, expected x's, {x.shape}"
                )
            found[name] = np.array(its)
        return {name: found[name] for name in self.moved}

    def __str__(self):
        each = (f"{x.shape}{self._of_lengths(name)}" for name, x in self.arrays.items())
        return " and ".join(each)

    def _of_lengths(self, name):
        return f" of lengths {self.lengths[name].tolist()}" if name in self.lengths else ""


def _is_whole(x):
    return x.dtype.kind in "iu"


def _is_shape(x):
    return isinstance(x, tuple) and all(isinstance(size, (int, np.integer)) for size in x)


def _has_lengths(x):
    """Whether it is a pair (x, lengths), or (shape of x, lengths)."""
    return is_pair(x) or (isinstance(x, tuple) and len(x) == 2 and _is_shape(x[0]) and np.ndim(x[1]) == 1)
