"""The checks of arguments that the losses share: all are made before anything is computed or written.

A loss takes its arguments in as a user has them (any memory layout, byte order or integer type, lists too) and hands
its kernels C-contiguous, aligned, writeable arrays of one dtype, so that each kernel is compiled once per dtype.
An array that is already so passes through the first line of each check: at a batch of 256 rows of 10 classes the
kernel takes 5 microseconds, and all checks together may not take more than 2.

`name` is the loss's own name, which every message starts with.
"""

import numpy as np

from tinynet.checks import (  # noqa: F401
    ONE_A_SAMPLE,
    channels_last,
    fraction,
    labels_hint,
    number,
    numbers,
    real_number,
    whole_number,
)

FLOAT32, FLOAT64, INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
REDUCTIONS = ("mean", "sum", "none")
FINE, BAD_TARGET, BAD_PREDICTION = range(3)  # what a kernel returns of what it was given
TARGETS = "must be integer labels or float probabilities"
# What stands for an array that wasn't asked for, by its dtype and number of axes.
NOTHING = {(dtype, axes): np.empty((0,) * axes, dtype) for dtype in (FLOAT32, FLOAT64, INT64) for axes in (1, 2)}
NO_ROWS, NO_ROWS_64 = NOTHING[FLOAT32, 2], NOTHING[FLOAT64, 2]  # a dtype takes 75 ns to look up


def on_device(*arrays):
    """Is one of these a device array: PyTorch's or CuPy's on a GPU, or Numba's, in its simulator too?"""
    for x in arrays:
        if type(x) is np.ndarray or x is None:
            continue
        if hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__"):
            return True
    return False


def as_array(x, name, what, accepted="must hold real numbers"):
    """x as a NumPy array of numbers; a TypeError or ValueError that says what to do where it is none."""
    return numbers(x, f"{name}: {what}", accepted)


def carray(x, dtype):
    """x as a C-contiguous, aligned, writeable array of `dtype`: x itself where it is one."""
    if type(x) is np.ndarray and x.dtype is dtype and x.flags.carray:
        return x
    return np.require(x, dtype, ("C_CONTIGUOUS", "ALIGNED", "WRITEABLE", "ENSUREARRAY"))


def prediction(x, name, what="prediction"):
    """The array of float32 or float64 that is differentiated, with at least one element."""
    if type(x) is not np.ndarray or not (x.dtype is FLOAT32 or x.dtype is FLOAT64) or not x.flags.carray:
        x = as_array(x, name, what, "must be float32 or float64")
        native = x.dtype.newbyteorder("=")
        if native not in (FLOAT32, FLOAT64):
            raise TypeError(
                f"{name}: {what} must be float32 or float64, got an array of dtype {x.dtype}; "
                "give it as one, .astype(np.float32)"
            )
        x = carray(x, FLOAT32 if native == FLOAT32 else FLOAT64)
    if x.size == 0:
        raise ValueError(f"{name}: {what} must not be empty, got shape {x.shape}")
    return x


def like_prediction(x, shape, dtype, name, what="targets"):
    """Targets of the prediction's shape, as its dtype.  Nothing is broadcast: (N,) against (N, 1) is a mistake."""
    if type(x) is not np.ndarray or x.dtype is not dtype or x.shape != shape or not x.flags.carray:
        x = as_array(x, name, what)
        if x.shape != shape:
            hint = ""
            if shape == x.shape[:-1] and x.shape[-1] == 1:
                hint = "; drop the last axis: targets[..., 0]"
            elif len(shape) > 2 and x.shape in (channels_first(shape), channels_last(shape)):
                hint = "; are the channels first in one of them? np.moveaxis(x, 1, -1)"
            elif x.shape == shape[:-1] and shape[-1:] == (1,):
                hint = "; add the last axis: targets[..., None]"
            elif x.shape == shape[:-1] and x.dtype.kind in "iu":
                hint = f"; for one label a row, give one-hot rows, np.eye({shape[-1]})[targets], or use a softmax loss"
            elif len(shape) > 2 and x.shape in (shape[:1], (shape[0], shape[-1])):
                hint = ONE_A_SAMPLE
            raise ValueError(f"{name}: {what} must have the prediction's shape {shape}, got {x.shape}{hint}")
        x = carray(x, dtype)
    return x


def channels_first(shape):
    """The shape that what has this one, (N, ..., C), has with its channels first: (N, C, ...)."""
    return (*shape[:1], *shape[-1:], *shape[1:-1])


def class_targets(targets, shape, dtype, ignore_index, name):
    """Targets for logits of `shape` (..., C), as labels (N,), probabilities (N, C) and ignore_index.

    One of the two arrays is empty.  Whether labels are classes and probabilities sum to 1 is the kernel's to check,
    in its own pass over them: see `target_error`.
    """
    t = targets if type(targets) is np.ndarray else as_array(targets, name, "targets", TARGETS)
    if t.dtype is not INT64 or t.shape != shape[:-1]:
        kind = t.dtype.kind
        if kind == "f" and t.shape != shape[:-1]:
            if ignore_index != -100:
                raise ValueError(f"{name}: ignore_index belongs to integer targets, these are probabilities")
            q = like_prediction(t, shape, dtype, name, "target probabilities")
            return NOTHING[INT64, 1], q.reshape(-1, shape[-1]), -100
        if kind == "f":
            hint = "leave out those that are NaN" if np.isnan(t).any() else "try .astype(int)"
            raise TypeError(f"{name}: class indices must be integers, got targets of dtype {t.dtype}; {hint}")
        if kind not in "iu":
            if kind != "b":
                t = as_array(t, name, "targets", TARGETS)
                return class_targets(t, shape, dtype, ignore_index, name)
            if t.shape == shape[:-1]:
                hint = "for two classes, targets.astype(int); for a yes or no of one logit, use sigmoid_cross_entropy"
            else:
                hint = "of one-hot rows, targets.argmax(-1); for several labels at once, use sigmoid_cross_entropy"
            raise TypeError(f"{name}: targets {TARGETS}, got an array of dtype bool; {hint}")
        if t.shape != shape[:-1]:
            raise ValueError(
                f"{name}: class indices for logits {shape} must have shape {shape[:-1]}, got {t.shape}"
                f"{labels_hint(t.shape, shape)}"
            )
        if t.dtype == np.uint64 and t.size and t.max() >= 2**63:  # int64 can't hold it; -2^62 is no class either
            t = np.where(t >= 2**63, np.int64(-(2**62)), t.astype(np.int64))
    t = carray(t, INT64)
    no_rows = NO_ROWS if dtype is FLOAT32 else NO_ROWS_64
    return t if t.ndim == 1 else t.reshape(-1), no_rows, whole_number(ignore_index, name)


def target_error(targets, position, shape, ignore_index, name):
    """The ValueError for the first of the targets that is none: number `position` of the rows of logits of `shape`."""
    targets, C = as_array(targets, name, "targets"), shape[-1]
    where = tuple(int(axis) for axis in np.unravel_index(position, shape[:-1]))
    if targets.dtype.kind == "f":
        row = targets[where]
        worst = int(np.argmin((row >= 0) & (row <= 1)))
        if not 0 <= row[worst] <= 1:
            return ValueError(
                f"{name}: target probabilities must be in [0, 1], got {row[worst]} at position {(*where, worst)}"
            )
        hint = "Several labels at once are sigmoid_cross_entropy's."
        if targets.ndim > 2 and np.allclose(targets.sum(axis=1), 1, atol=1e-3):
            hint = "They do along axis 1: are the channels first? np.moveaxis(targets, 1, -1), and the logits likewise."
        return ValueError(
            f"{name}: target probabilities must sum to 1, but those at position {where} sum to {row.sum():.6g}. {hint}"
        )
    label, hint = int(targets[where]), ""
    if label == -1:
        hint = " Where -1 marks samples to leave out, pass ignore_index=-1."
    elif C == 1:
        hint = " Two classes need two logits, or one and sigmoid_cross_entropy."
    elif label == C and targets.min() >= 1:
        hint = " Do the labels count from 1? Subtract 1."
    classes = f"the {C} classes are from 0 to {C - 1}" if C > 1 else "the one class is 0"
    return ValueError(
        f"{name}: the target at position {where} is {label}, but {classes} (and ignore_index is {ignore_index}).{hint}"
    )


def unit_interval_error(prediction, targets, ignore_index, reason, name):
    """The ValueError for targets of which one is neither in [0, 1] nor `ignore_index`."""
    good = (targets >= 0) & (targets <= 1)
    if ignore_index is not None:
        good |= targets == ignore_index
    where = tuple(int(axis) for axis in np.unravel_index(int(np.argmin(good)), targets.shape))
    value = targets[where]
    if value == -1:
        hint = " Where -1 marks unknown labels, pass ignore_index=-1; labels -1 and +1 become (t + 1) / 2."
    elif value >= 2 and value == np.floor(value):
        hint = " Are they class indices? Then it is softmax_cross_entropy that takes them."
    else:
        hint = ""
    return ValueError(f"{name}: targets must be in [0, 1], got {value} at position {where}.{hint}")


def ones(dtype, size):
    """Ones (size,), kept from call to call."""
    found = _ones.get((dtype, size))
    if found is None:
        found = _ones[dtype, size] = np.ones(size, dtype)
    return found


_ones = {}


def per_class(weight, C, dtype, name, what="weight"):
    """Weights (C,), finite and not negative."""
    weight = as_array(weight, name, what)
    if weight.dtype.kind == "b":
        raise TypeError(f"{name}: {what} must hold real numbers, got an array of dtype bool")
    if weight.shape != (C,):
        raise ValueError(f"{name}: {what} must have shape ({C},), one number a class, got {weight.shape}")
    weight = carray(weight, dtype)
    good = (weight >= 0) & (weight < np.inf)
    if not good.all():
        worst = int(good.argmin())
        raise ValueError(f"{name}: {what} must be finite and at least 0, got {weight[worst]} for class {worst}")
    return weight


def per_element(weight, shape, dtype, name, what="weight"):
    """Weights (C,), one for each index of the last axis, or of the prediction's shape; finite and not negative.

    None stands for ones, and one number for C times that.
    """
    C = shape[-1] if shape else 1
    if weight is None:
        return ones(dtype, C)
    if np.ndim(weight) == 0:
        weight = np.repeat(weight, C)
    weight = as_array(weight, name, what)
    if weight.shape == (C,) or weight.dtype.kind == "b":
        return per_class(weight, C, dtype, name, what)
    if weight.shape != shape:
        raise ValueError(
            f"{name}: {what} must have shape ({C},), one number a class, or the prediction's {shape}, one an element,"
            f" got {weight.shape}{'; for one number a row, use sample_weight' if weight.shape == shape[:-1] else ''}"
        )
    weight = carray(weight, dtype)
    good = (weight >= 0) & (weight < np.inf)
    if not good.all():
        where = tuple(int(axis) for axis in np.unravel_index(int(good.argmin()), shape))
        raise ValueError(f"{name}: {what} must be finite and at least 0, got {weight[where]} at position {where}")
    return weight


def sample_weight(weight, shape, name):
    """Weights of this shape, one number a row, finite and not negative, in float64."""
    weight = as_array(weight, name, "sample_weight")
    if weight.dtype.kind == "b":
        raise TypeError(f"{name}: sample_weight must hold real numbers, got an array of dtype bool")
    if weight.shape != shape:
        hint = ""
        if weight.shape == (*shape, 1):
            hint = "; drop the last axis: sample_weight[..., 0]"
        elif shape[1:] and weight.shape == shape[:1]:
            hint = "; for one number a sample, repeat it for all of the sample's rows: see np.broadcast_to"
        raise ValueError(f"{name}: sample_weight must have shape {shape}, one number a row, got {weight.shape}{hint}")
    weight = weight.astype(np.float64)
    good = (weight >= 0) & (weight < np.inf)
    if not good.all():
        where = tuple(int(axis) for axis in np.unravel_index(int(good.argmin()), shape))
        raise ValueError(
            f"{name}: sample_weight must be finite and at least 0, got {weight[where]} at position {where}"
        )
    return weight


def no_sample_weight(weight, name):
    """A TypeError where weights of samples come with device arrays."""
    if weight is not None:
        raise TypeError(f"{name}: sample_weight belongs to arrays on the host, and some of these are on a device")


def divisor(reduction, denominator, name):
    """What "mean" divides by instead of its own count: `denominator`, or 0.0 where none was given."""
    if reduction not in REDUCTIONS:
        hint = ""
        if reduction is None:
            hint = '; for a loss of every row, reduction="none"'
        elif reduction == "batchmean":
            hint = '; the "mean" of kl_divergence is that one: it divides by the rows'
        elif reduction in ("avg", "average", "sum_over_batch_size"):
            hint = '; that is "mean" here'
        raise ValueError(f'{name}: reduction must be "mean", "sum" or "none", got {reduction!r}{hint}')
    if denominator is None:
        return 0.0
    if reduction != "mean":
        raise ValueError(f'{name}: denominator belongs to reduction="mean", got it with reduction="{reduction}"')
    if isinstance(denominator, bool) or not isinstance(denominator, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: denominator must be a number, got {denominator!r}")
    if not 0 < denominator < np.inf:
        raise ValueError(f"{name}: denominator must be positive and finite, got {denominator}")
    return float(denominator)


def gradient(grad, out, given, x, others, name):
    """Where the kernel writes the gradient of `given`, which reached it as x: `out` if it may, else a fresh array.

    `out` may be `given` itself, whose elements kernels read before they write them.  If it overlaps what the kernel
    reads in any other way, or is no plain array, a fresh array takes the gradient first: see `delivered`.
    """
    if out is None:
        return np.empty(x.shape, x.dtype) if grad else NOTHING[x.dtype, 2]
    if not grad:
        raise ValueError(f"{name}: out receives the gradient, but grad=False asks for none")
    if type(out) is not np.ndarray or out.dtype is not x.dtype or out.shape != x.shape or not out.flags.carray:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"{name}: out must be a NumPy array, got {type(out).__name__}")
        if out.shape != x.shape:
            raise ValueError(f"{name}: out must have the prediction's shape {x.shape}, got {out.shape}")
        if out.dtype.newbyteorder("=") != x.dtype:
            raise TypeError(f"{name}: out must have the prediction's dtype {x.dtype}, got {out.dtype}")
        if not out.flags.writeable:
            raise ValueError(f"{name}: out is read-only")
        return np.empty(x.shape, x.dtype)
    if (out is not given and np.may_share_memory(out, x)) or any(
        other.size and np.may_share_memory(out, other) for other in others
    ):
        return np.empty(x.shape, x.dtype)
    return out


def delivered(gradient, grad, out):
    """What the loss returns as its gradient: `out` where it was given, holding the values of `gradient`; else that."""
    if out is None:
        return gradient if grad else None
    if gradient is not out:
        out[...] = gradient
    return out
