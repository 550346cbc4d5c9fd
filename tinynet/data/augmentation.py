"""Augmentation: small changes to the training images that leave what they show as it is, anew in every epoch.

A network that never sees the same image twice can't learn the images by heart.  Only you know which changes keep a
label right: a mirrored cat is a cat, and a mirrored 2 is none.

Each function takes a batch of images (N, H, W, C) and a random generator, changes each image in its own way, and
returns a fresh array of the same shape and dtype; it never writes into the batch.  fit calls such a function on each
batch, with a generator of its own that makes the run repeatable.  Options are set by a function of yours, or partial:

    fit(..., augment=partial(random_crop, padding=2))

    def augment(x, rng):
        return cutout(random_flip(x, rng), rng, size=8)

mixup changes the labels as well, so it takes both and returns both: augment=partial(mixup, classes=10).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinynet.checks import fraction, numbers, pair, positive_int, real_number


def random_flip(
    batch: ArrayLike, rng: np.random.Generator, probability: float = 0.5, vertical: bool = False
) -> np.ndarray:
    """Mirror each image of the batch (N, H, W, C) with this probability, left to right, or upside down if `vertical`.

    Returns a fresh array.  What is drawn comes from rng, a numpy.random.Generator.

    >>> image = np.array([1, 2, 3.0]).reshape(1, 1, 3, 1)
    >>> tn.data.random_flip(image, np.random.default_rng(0), probability=1).ravel()
    array([3., 2., 1.])
    """
    x = _images(batch, rng, "random_flip")
    flipped = rng.random(len(x)) < fraction(probability, "random_flip", "probability")
    mirrored = x[:, ::-1] if vertical else x[:, :, ::-1]
    return np.where(flipped[:, None, None, None], mirrored, x)


def random_crop(batch: ArrayLike, rng: np.random.Generator, padding: int | tuple[int, int] = 4) -> np.ndarray:
    """Put `padding` zeros around each image of the batch (N, H, W, C), and cut a window of the old size out at random.

    padding is a whole number, or a pair for height and width, below the image's size; 4 is usual for CIFAR-10 (He et
    al. 2016, section 4.2).  Returns a fresh array.  What is drawn comes from rng, a numpy.random.Generator.

    >>> image = np.ones((1, 2, 2, 1))
    >>> tn.data.random_crop(image, np.random.default_rng(0), padding=1)[0, :, :, 0]
    array([[1., 1.],
           [0., 0.]])
    """
    x = _images(batch, rng, "random_crop")
    return _windows(x, rng, _border(padding, x, "random_crop: padding"), mode="constant")


def random_shift(batch: ArrayLike, rng: np.random.Generator, pixels: int | tuple[int, int] = 2) -> np.ndarray:
    """Move each image (H, W, C) of the batch by up to `pixels`, up or down and left or right; the edge fills the gap.

    pixels is a whole number, or a pair for height and width, below the image's size; every move is equally likely.
    Returns a fresh array.  What is drawn comes from rng, a numpy.random.Generator.

    >>> image = np.array([1, 2, 3, 4.0]).reshape(1, 1, 4, 1)
    >>> tn.data.random_shift(image, np.random.default_rng(0), pixels=(0, 2)).ravel()
    array([3., 4., 4., 4.])
    """
    x = _images(batch, rng, "random_shift")
    return _windows(x, rng, _border(pixels, x, "random_shift: pixels"), mode="edge")


def cutout(batch: ArrayLike, rng: np.random.Generator, size: int) -> np.ndarray:
    """Set a square of size x size pixels to 0 in each image of the batch (N, H, W, C), around a pixel that may be any.

    So it reaches over the edge at times, and then hides less (DeVries and Taylor 2017, section 3.2).  Returns a fresh
    array.  What is drawn comes from rng, a numpy.random.Generator.

    >>> image = np.ones((1, 3, 4, 1))
    >>> tn.data.cutout(image, np.random.default_rng(0), size=2)[0, :, :, 0]
    array([[1., 1., 1., 1.],
           [1., 0., 0., 1.],
           [1., 0., 0., 1.]])
    """
    x = _images(batch, rng, "cutout")
    size = positive_int(size, "cutout: size")
    hidden = []
    for length in x.shape[1:3]:
        first = rng.integers(length, size=(len(x), 1)) - size // 2
        position = np.arange(length)
        hidden.append((first <= position) & (position < first + size))
    rows, columns = hidden
    return np.where((rows[:, :, None] & columns[:, None, :])[..., None], x.dtype.type(0), x)


def mixup(
    x: ArrayLike, y: ArrayLike, rng: np.random.Generator, alpha: float = 0.2, classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Blend each sample with another of the batch, and their labels alike; returns new x and soft targets (N, classes).

        x <- l x[i] + (1 - l) x[j]      y <- l y[i] + (1 - l) y[j]        l drawn from Beta(alpha, alpha) for each i

    x        (N, ...) floats
    y        (N,) integers from 0 to classes-1; or probabilities (N, classes), which need no `classes`
    rng      a numpy.random.Generator
    alpha    above 0: a small one leaves most samples almost as they are, 1 makes every share equally likely

    The targets are probabilities, as softmax_cross_entropy takes them, of x's dtype (float32 if that is narrower).
    Zhang et al. (2018), section 2.

    >>> x, y = tn.data.mixup(np.ones((2, 8, 8, 1)), [2, 0], np.random.default_rng(3), alpha=1, classes=3)
    >>> y.round(3)  # each row says how much of which class the image is
    array([[0.139, 0.   , 0.861],
           [0.475, 0.   , 0.525]])
    """
    _check_rng(rng, "mixup")
    x = numbers(x, "mixup: x")
    if x.dtype.kind != "f":
        raise TypeError(f"mixup: x must be floats, got an array of dtype {x.dtype}")
    soft = _probabilities(y, x, classes)
    alpha = real_number(alpha, "mixup", "alpha")
    other = rng.permutation(len(x))
    share = rng.beta(alpha, alpha, len(x)).astype(x.dtype)

    def blended(a):
        own = share.astype(a.dtype).reshape(-1, *[1] * (a.ndim - 1))
        return own * a + (1 - own) * a[other]

    return blended(x), blended(soft)


def _windows(x, rng, border, mode):
    """One window (H, W) a sample of the batch x (N, H, W, C), after a border (height, width) was put around it."""
    N, H, W, _ = x.shape
    high, wide = border
    padded = np.pad(x, ((0, 0), (high, high), (wide, wide), (0, 0)), mode=mode)
    top, left = (rng.integers(2 * size + 1, size=N) for size in border)
    # (N, 2 high + 1, 2 wide + 1, H, W, C): a view of all windows there are, of which one a sample is copied.
    every = np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, (H, W), axis=(1, 2)), 3, -1)
    return np.ascontiguousarray(every[np.arange(N), top, left])


# --- checks -------------------------------------------------------------------------------------------------


def _images(batch, rng, name):
    _check_rng(rng, name)
    x = numbers(batch, f"{name}: batch")
    if x.ndim != 4:
        hint = "; one image? x[None]" if x.ndim == 3 and x.shape[-1] in (1, 3) else ""
        hint = "; without their axis of channels? x[..., None]" if x.ndim == 3 and not hint else hint
        raise ValueError(f"{name}: batch must be images (N, H, W, C), got shape {x.shape}{hint}")
    return x


def _check_rng(rng, name):
    if not isinstance(rng, np.random.Generator):  # a seed would change each batch in the same way
        raise TypeError(
            f"{name}: rng must be a numpy.random.Generator, such as numpy.random.default_rng(0), "
            f"got {type(rng).__name__}"
        )


def _border(size, x, what):
    border = pair(size, what, least=0)
    for given, length, axis in zip(border, x.shape[1:3], ("high", "wide"), strict=True):
        if given >= length:
            hint = "; are the channels first? np.moveaxis(batch, 1, -1)" if x.shape[1] in (1, 3) else ""
            raise ValueError(
                f"{what} must be below the size of the images, got {given} for images {length} {axis}{hint}"
            )
    return border


def _probabilities(y, x, classes):
    """Labels as probabilities (N, classes)."""
    y, N = numbers(y, "mixup: y"), len(x)
    dtype = np.result_type(x.dtype, np.float32)
    if classes is not None:
        classes = positive_int(classes, "mixup: classes")
    if y.dtype.kind == "f" and y.ndim == 2:
        if y.shape != (N, classes or y.shape[1]):
            raise ValueError(f"mixup: expected probabilities ({N}, {classes or 'classes'}), got shape {y.shape}")
        return y.astype(dtype)
    if y.dtype.kind not in "iu":
        raise TypeError(
            f"mixup: y must be labels (N,) of whole numbers or probabilities (N, classes), got {y.dtype} {y.shape}"
        )
    if y.shape != (N,):
        raise ValueError(f"mixup: x has {N} samples, so labels must have shape ({N},), got {y.shape}")
    if classes is None:
        raise ValueError("mixup: say how many classes there are, classes=10 for digits: a batch may lack the last ones")
    outside = (y < 0) | (y >= classes)
    if outside.any():
        where = int(outside.argmax())
        raise ValueError(f"mixup: labels must be from 0 to {classes - 1}, got {y[where]} at position {where}")
    return (y[:, None] == np.arange(classes)).astype(dtype)
