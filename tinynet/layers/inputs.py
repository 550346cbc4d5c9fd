"""A model's inputs: one, x, or several, a tuple of them.

    input_shape = (28, 28, 1)              x                     one input, N images
    input_shape = ((28, 28, 1), (8,))      (image, table)        two, image[n] and table[n] of the same sample

Which of the two it is, the model knows from its input_shape.  Several begin with a Parallel, whose branch number i
takes input number i, and only that: so each input may be what x may be alone, a pair (x, lengths) too.

Data sets are told apart by what they hold (data/sequences.py): batches does not know the model.
"""

from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from tinynet.checks import batch_hint
from tinynet.layers import along_time


class Inputs(tuple):
    """The inputs of a model that takes several, or a data set of them: no pair (x, lengths), whatever it holds."""

    __slots__ = ()


def takes_several(input_shape):
    """Whether it is a tuple of shapes, one for each input."""
    return bool(input_shape) and type(input_shape[0]) is tuple


class Entry(NamedTuple):
    """Where an input enters: what a model's first layer is for its one input, this is for one of several."""

    label: str
    input_shape: tuple
    layers: tuple  # that it goes through in a row; of none, it enters as it is

    @property
    def takes_integers(self):
        return bool(self.layers) and self.layers[0].takes_integers

    def fits(self, shape):
        """As Layer.fits."""
        return self.layers[0].fits(shape) if self.layers else len(shape) > 0 and shape[1:] == self.input_shape

    def input_error(self, shape):
        """As Layer.input_error."""
        expected, hint = ", ".join(["N", *map(str, self.input_shape)]), batch_hint(shape, self.input_shape)
        return ValueError(f"{self.label}: expected ({expected}), got {shape}{hint}")

    def array(self, x, dtype):
        """x, or of a pair (x, lengths) both, as arrays that fit."""
        x, lengths = along_time.split_pair(x, self.input_shape)
        x = along_time.in_numbers(x, dtype, self.takes_integers, self.label)
        if not self.fits(x.shape):
            raise self.input_error(x.shape)
        if lengths is None:
            return x
        lengths = along_time.checked_lengths(lengths, x, self.label)
        self.check_along_time(x.shape[1])
        return x, lengths

    def check_along_time(self, T):
        """A ValueError unless its layers mind lengths and end the axis of time, which other inputs may not have."""
        if along_time.check_along_time(self.layers, T) is not None:
            raise ValueError(
                f"{self.label} has lengths, so its branch must end the axis of time: put a layer such as"
                " LSTM(..., return_sequences=False) or GlobalAvgPool1D() at its end"
            )


def checked_inputs(x, entries, dtype, where):
    """Several inputs, each as an array or a pair of them, that fit; `where` is for messages."""
    check_number(x, [entry.input_shape for entry in entries], where)
    found = [entry.array(each, dtype) for entry, each in zip(entries, x, strict=True)]
    check_samples([len(each[0] if type(each) is tuple else each) for each in found], where)
    return Inputs(found)


@contextmanager
def about(label):
    """An error that is raised in it has a note that it is about this input."""
    try:
        yield
    except Exception as error:
        error.add_note(f"this is about {label}")
        raise


def check_number(x, shapes, where):
    """A TypeError unless x is a tuple of as many inputs."""
    if isinstance(x, (tuple, list)) and len(x) == len(shapes):
        return
    got = f"a {type(x).__name__} of {len(x)}" if isinstance(x, (tuple, list)) else f"one of shape {np.shape(x)}"
    raise TypeError(f"{where}: expected a tuple of {len(shapes)} inputs, of samples {_listed(shapes)}, got {got}")


def check_samples(counts, where):
    """A ValueError unless all inputs have as many samples."""
    for number, samples in enumerate(counts):
        if samples != counts[0]:
            raise ValueError(f"{where}: input 0 has {counts[0]} samples, and input {number} has {samples}")


def _listed(shapes):
    return " and ".join(map(str, shapes))
