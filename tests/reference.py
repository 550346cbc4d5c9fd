"""What has no plain loops of its own in tinynet, in NumPy loops and formulas: the oracle for its kernels.

Slow, short and obviously right, straight from the definitions and in float64 throughout.  Nothing here
imports tinynet.
"""

import math

import numpy as np

# --- losses: value and gradient ---------------------------------------------------------------------------


def softmax_cross_entropy(
    z, targets, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean", denominator=None
):
    """Of logits z (N, C) with labels (N,) or probabilities (N, C)."""
    z = np.asarray(z, float)
    N, C = z.shape
    w = np.ones(C) if weight is None else np.asarray(weight, float)
    losses, dz, count = np.zeros(N), np.zeros((N, C)), 0.0
    for n in range(N):
        if targets.ndim == 1:
            if targets[n] == ignore_index:
                continue
            q = np.eye(C)[targets[n]]
            count += w[targets[n]]
        else:
            q = targets[n].astype(float)
            count += 1
        open_classes = z[n] != -np.inf
        q = (1 - label_smoothing) * q + label_smoothing * open_classes / open_classes.sum()
        e = np.exp(z[n] - z[n].max())
        log_p = (z[n] - z[n].max()) - math.log(e.sum())
        losses[n] = sum(-w[c] * q[c] * log_p[c] for c in range(C) if w[c] * q[c] > 0)
        dz[n] = (w * q).sum() * e / e.sum() - w * q
    return _reduced(losses, dz, count, reduction, denominator)


def sigmoid_cross_entropy(
    z, t, weight=1.0, pos_weight=1.0, ignore_index=None, label_smoothing=0.0, reduction="mean", denominator=None
):
    z, t = np.asarray(z, float), np.asarray(t, float)
    counts = np.ones(z.shape, bool) if ignore_index is None else t != ignore_index
    q = (1 - label_smoothing) * t + label_smoothing / 2
    losses = weight * (pos_weight * q * np.logaddexp(0, -z) + (1 - q) * np.logaddexp(0, z))
    p, rest = np.exp(-np.logaddexp(0, -z)), np.exp(-np.logaddexp(0, z))
    dz = weight * ((1 - q) * p - pos_weight * q * rest)
    return _reduced(np.where(counts, losses, 0), np.where(counts, dz, 0), counts.sum(), reduction, denominator)


def mean_squared_error(y, t, reduction="mean", denominator=None):
    y, t = np.asarray(y, float), np.asarray(t, float)
    return _reduced((y - t) ** 2, 2 * (y - t), y.size, reduction, denominator)


def binary_cross_entropy(
    p, t, weight=1.0, pos_weight=1.0, ignore_index=None, label_smoothing=0.0, reduction="mean", denominator=None
):
    p, t = np.asarray(p, float), np.asarray(t, float)
    counts = np.ones(p.shape, bool) if ignore_index is None else t != ignore_index
    q = (1 - label_smoothing) * t + label_smoothing / 2
    a, b = weight * pos_weight * q, weight * (1 - q)
    with np.errstate(divide="ignore", invalid="ignore"):  # a factor of 0 makes 0 of inf, too
        losses = -np.where(a > 0, a * np.log(p), 0) - np.where(b > 0, b * np.log1p(-p), 0)
        dp = np.where(b > 0, b / (1 - p), 0) - np.where(a > 0, a / p, 0)
    return _reduced(np.where(counts, losses, 0), np.where(counts, dp, 0), counts.sum(), reduction, denominator)


def nll(l, targets, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean", denominator=None):
    """Of logarithms of probabilities (N, C) with labels (N,) or probabilities (N, C)."""
    l = np.asarray(l, float)
    N, C = l.shape
    w = np.ones(C) if weight is None else np.asarray(weight, float)
    losses, dl, count = np.zeros(N), np.zeros((N, C)), 0.0
    for n in range(N):
        if targets.ndim == 1 and targets[n] == ignore_index:
            continue
        q = np.eye(C)[targets[n]] if targets.ndim == 1 else targets[n].astype(float)
        count += w[targets[n]] if targets.ndim == 1 else 1
        possible = l[n] != -np.inf
        a = w * ((1 - label_smoothing) * q + label_smoothing * possible / possible.sum())
        losses[n] = -sum(a[c] * l[n, c] for c in range(C) if a[c] > 0)
        dl[n] = -a
    return _reduced(losses, dl, count, reduction, denominator)


def categorical_cross_entropy(p, targets, **options):
    """Of probabilities (N, C): the chain rule through their logarithms."""
    p = p.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, dl = nll(np.log(p), targets, **options)
        return value, np.where(dl == 0, 0, dl / p)


def sigmoid_focal(z, t, gamma=2.0, alpha=0.25, ignore_index=None, reduction="mean", denominator=None):
    z, t = np.asarray(z, float), np.asarray(t, float)
    counts = np.ones(z.shape, bool) if ignore_index is None else t != ignore_index
    t = np.where(counts, t, 0)
    entropy = t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)
    p, rest = np.exp(-np.logaddexp(0, -z)), np.exp(-np.logaddexp(0, z))
    f = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    q = t * rest + (1 - t) * p
    slope = (1 - 2 * t) * p * rest
    dz = f * (q**gamma * ((1 - t) * p - t * rest) + (gamma * q ** (gamma - 1) * slope * entropy if gamma else 0))
    losses = f * q**gamma * entropy
    return _reduced(np.where(counts, losses, 0), np.where(counts, dz, 0), counts.sum(), reduction, denominator)


def softmax_focal(z, targets, gamma=2.0, weight=None, ignore_index=-100, reduction="mean", denominator=None):
    """Of logits z (N, C) with labels (N,): the chain rule through the row's cross-entropy l."""
    w = np.ones(z.shape[1]) if weight is None else np.asarray(weight, float)
    losses, dz = softmax_cross_entropy(z, targets, None, ignore_index, reduction="none")
    a = np.array([0.0 if label == ignore_index else w[label] for label in targets])
    for n, l in enumerate(losses):
        q = -math.expm1(-l)
        factor = q**gamma + (gamma * q ** (gamma - 1) * math.exp(-l) * l if gamma and q else 0)
        losses[n] = a[n] * q**gamma * l
        dz[n] *= a[n] * factor
    return _reduced(losses, dz, a.sum(), reduction, denominator)


def hinge(z, t, reduction="mean", denominator=None):
    z, y = np.asarray(z, float), np.where(np.asarray(t) > 0, 1.0, -1.0)
    return _reduced(np.maximum(0, 1 - y * z), np.where(y * z < 1, -y, 0), z.size, reduction, denominator)


def multiclass_hinge(z, targets, ignore_index=-100, reduction="mean", denominator=None):
    z = np.asarray(z, float)
    losses, dz = np.zeros(len(z)), np.zeros(z.shape)
    for n, t in enumerate(targets):
        for c in range(z.shape[1]):
            if t not in (ignore_index, c) and 1 - z[n, t] + z[n, c] > 0:
                losses[n] += (1 - z[n, t] + z[n, c]) / z.shape[1]
                dz[n, c] += 1 / z.shape[1]
                dz[n, t] -= 1 / z.shape[1]
    return _reduced(losses, dz, (targets != ignore_index).sum(), reduction, denominator)


def mean_absolute_error(y, t, reduction="mean", denominator=None):
    d = np.asarray(y, float) - np.asarray(t, float)
    return _reduced(abs(d), np.sign(d), d.size, reduction, denominator)


def huber(y, t, delta=1.0, reduction="mean", denominator=None):
    d = np.asarray(y, float) - np.asarray(t, float)
    losses = np.where(abs(d) <= delta, d**2 / 2, delta * (abs(d) - delta / 2))
    return _reduced(losses, np.clip(d, -delta, delta), d.size, reduction, denominator)


def kl_divergence(z, q, reduction="mean", denominator=None):
    z, q = np.asarray(z, float), np.asarray(q, float)
    z = z - z.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    with np.errstate(invalid="ignore"):  # 0 times the infinity of a masked class
        terms = np.where(q > 0, q * (np.log(np.where(q > 0, q, 1)) - log_p), 0)
    dz = q.sum(1, keepdims=True) * np.exp(log_p) - q
    divergences = np.maximum(terms.sum(1), 0)  # numbers that sum to a little less than 1 could have less
    return _reduced(divergences, dz, len(z), reduction, denominator)


def nt_xent(x, temperature=0.5, reduction="mean", denominator=None):
    x = np.asarray(x, float)
    M = len(x)
    norms = np.sqrt((x**2).sum(1, keepdims=True))
    u = x / norms
    S = u @ u.T / temperature
    S[np.arange(M), np.arange(M)] = -np.inf
    value, dS = softmax_cross_entropy(S, (np.arange(M) + M // 2) % M, reduction=reduction, denominator=denominator)
    du = (dS + dS.T) @ u / temperature
    return value, (du - (du * u).sum(1, keepdims=True) * u) / norms


def self_distillation(
    s, teacher, student_temperature=0.1, teacher_temperature=0.04, center=0.0, reduction="mean", denominator=None
):
    P = softmax((np.asarray(teacher, float) - center) / teacher_temperature)
    s = np.asarray(s, float) / student_temperature
    value, ds = softmax_cross_entropy(s, P, reduction=reduction, denominator=denominator)
    return value, ds / student_temperature


def _reduced(losses, gradient, count, reduction, denominator):
    if reduction == "none":
        return losses, gradient
    scale = 1.0
    if reduction == "mean":
        count = count if denominator is None else denominator
        scale = 1 / count if count > 0 else 0.0
    return losses.sum() * scale, gradient * scale


# --- layers of which the kernel is the only version: forward ------------------------------------------------


def activation(name, z, slope=0.01):
    z = z.astype(float)
    if name == "relu":
        return np.maximum(z, 0)
    if name == "leaky_relu":
        return np.where(z > 0, z, slope * z)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-z))
    if name == "tanh":
        return np.tanh(z)
    if name == "gelu":
        return z * np.vectorize(math.erfc, otypes=[float])(-z / math.sqrt(2)) / 2
    if name == "swish":
        return z / (1 + np.exp(-z))
    return z


def softmax(z):
    e = np.exp(z.astype(float) - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dropout(x, rate, key, step):
    """What the layer does to x at its step-th step: one number after another, in Python's own integers."""

    def scramble(h, key):
        h = (h ^ h >> 16) * 0x7FEB352D % 2**32
        h = (h ^ h >> 15 ^ key) * 0x846CA68B % 2**32
        return h ^ h >> 16

    z = (key + (step + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    high, low = divmod(z ^ z >> 31, 2**32)
    y = np.zeros(x.size)
    for i, value in enumerate(x.flat):
        chunk, place = divmod(i, 4096)
        if scramble(place ^ scramble(chunk ^ low, high), scramble(chunk ^ high, low)) >= rate * 2**32:
            y[i] = value / (1 - rate)
    return y.reshape(x.shape)
