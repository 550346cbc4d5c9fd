"""fit(validation=0.2): a share of the samples is held out, and judged after every epoch instead of trained on.

Of N samples, m = share N are held out.  Labels are stratified: of a class with n[c] samples, m n[c] / N are held out,
rounded so that they add up to m (the largest fractions are rounded up), and the last sample of a class never is.  Which
ones, the seed says alone, so a resumed run holds out the same, and so does every one of several processes.
"""

import numpy as np

from tinynet.checks import WHOLE, number
from tinynet.data.batches import subset
from tinynet.data.sequences import count


def is_share(validation):
    return isinstance(validation, (int, float, np.integer, np.floating)) and not isinstance(validation, bool)


def hold_out(x, y, sample_weight, share, seed):
    """(x, y, sample_weight, numbers) to train on, and the validation (x, y) or (x, y, sample_weight)."""
    share = number(share, "fit: validation")
    if not 0 < share < 1:
        raise ValueError(f"fit: validation must be a share between 0 and 1, or a pair (x, y), got {share}")
    N = count(x)
    if N < 2:
        raise ValueError("fit: of one sample, none can be held out for the validation")
    m = min(max(1, round(share * N)), N - 1)
    rng = np.random.default_rng((seed, 2))
    is_list = isinstance(y, (list, tuple)) and all(isinstance(label, WHOLE) for label in y)
    labels = np.asarray(y) if hasattr(y, "__array__") or is_list else np.empty(N)
    labels = labels[:, 0] if labels.shape == (N, 1) else labels
    held = np.sort(_of_classes(labels, m, rng) if labels.ndim == 1 and labels.dtype.kind in "iub" else _any(N, m, rng))
    kept = np.setdiff1d(np.arange(N), held, assume_unique=True)
    of_kept, of_held = ((subset(x, some, "x"), subset(y, some, "y")[:]) for some in (kept, held))
    if sample_weight is None:
        return (*of_kept, None, kept), of_held
    return (*of_kept, sample_weight[kept], kept), (*of_held, sample_weight[held])


def _any(N, m, rng):
    return rng.permutation(N)[:m]


def _of_classes(labels, m, rng):
    """Numbers of the samples held out; of any, where there are too many classes for one of each."""
    N = len(labels)
    classes, label, n = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) > m:
        return _any(N, m, rng)
    share = m * n / N
    held = np.floor(share).astype(int)
    held[np.argsort(held - share, kind="stable")[: m - held.sum()]] += 1
    held = np.minimum(held, n - 1)
    order = rng.permutation(N)
    order = order[np.argsort(label[order], kind="stable")]  # class by class, in random order within each
    place = np.arange(N) - np.repeat(np.cumsum(n) - n, n)
    return order[place < np.repeat(held, n)]
