"""What has no plain loops of its own in tinynet, in NumPy loops and formulas: the oracle for its kernels.

Slow, short and obviously right, straight from the definitions and in float64 throughout.
"""

import inspect
import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tinynet import losses

LOSSES = [path.stem for path in Path(losses.__file__).parent.glob("*.py")]
modules = SimpleNamespace(**{name: import_module(f"tinynet.losses.{name}") for name in LOSSES})

# --- losses: value and gradient, by the plain formulas that stand in the losses' own files --------------------
# They are the definitions, in NumPy and float64.  What is independent of them: PyTorch, and central differences.


def of_rows(plain, soft=True):
    """A loss of rows (N, C) from its plain formula, with labels (N,), or also rows (N, C) where `soft`."""
    takes = list(inspect.signature(plain).parameters)[2:]

    def loss(x, targets, *options, weight=None, ignore_index=-100, reduction="mean", denominator=None, **named):
        x, targets = np.asarray(x, float), np.asarray(targets)
        targets = targets.astype(float) if targets.dtype.kind == "f" else targets
        N, C = x.shape
        w = np.ones(C) if weight is None else np.asarray(weight, float)
        labels = targets.ndim == 1
        counts = targets != ignore_index if labels else np.ones(N, bool)
        q = np.eye(C)[targets[counts]] if labels and soft else targets[counts]
        named = {"eps": named.get("label_smoothing", 0.0), **named}
        defaults = {name: DEFAULTS[name] for name in takes if name != "weight"}
        options = {
            **defaults,
            **dict(zip(defaults, options, strict=False)),
            **{k: named[k] for k in defaults if k in named},
        }
        losses, dx = np.zeros(N), np.zeros((N, C))
        with np.errstate(all="ignore"):
            losses[counts], dx[counts] = plain(x[counts], q, *([w] if "weight" in takes else []), **options)
        count = w[targets[counts]].sum() if labels else N
        return _reduced(losses, dx, count, reduction, denominator)

    return loss


DEFAULTS = {"eps": 0.0, "gamma": 2.0, "p": 1, "margin": 1.0}


def of_elements(plain, **defaults):
    """A loss of elements from its plain formula; `defaults` are its options, by their names and in their order."""

    def loss(y, t, *options, ignore_index=None, reduction="mean", denominator=None, **named):
        y, t = np.asarray(y, float), np.asarray(t, float)
        given = {**defaults, **dict(zip(defaults, options, strict=False)), **named}
        counts = np.ones(y.shape, bool) if ignore_index is None else t != ignore_index
        with np.errstate(all="ignore"):
            losses, dy = plain(y, np.where(counts, t, 0), **given)
        return _reduced(np.where(counts, losses, 0), np.where(counts, dy, 0), counts.sum(), reduction, denominator)

    return loss


def weighted(plain):
    """The plain formula of a cross-entropy of yes or no, with the options of its public function."""

    def formula(y, t, weight, pos_weight, label_smoothing):
        return plain(y, t, np.asarray(weight) * pos_weight, np.asarray(weight), label_smoothing)

    return formula


def sigmoid_focal_plain(z, t, gamma, alpha, weight):
    yes, no = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return modules.sigmoid_focal.sigmoid_focal_plain(z, t, np.asarray(weight), None, gamma, yes, no)


def poisson_nll_plain(y, t, log_input, full):
    plain = modules.poisson_nll.poisson_nll_plain if log_input else modules.poisson_nll.poisson_nll_of_rates_plain
    return plain(y, t, full)


FACTORS = {"weight": 1.0, "pos_weight": 1.0, "label_smoothing": 0.0}
softmax_cross_entropy = of_rows(modules.softmax_cross_entropy.softmax_cross_entropy_plain)
nll = of_rows(modules.nll.nll_plain)
categorical_cross_entropy = of_rows(modules.categorical_cross_entropy.categorical_cross_entropy_plain)
multiclass_hinge = of_rows(modules.multiclass_hinge.multiclass_hinge_plain, soft=False)
sigmoid_cross_entropy = of_elements(weighted(modules.sigmoid_cross_entropy.sigmoid_cross_entropy_plain), **FACTORS)
binary_cross_entropy = of_elements(weighted(modules.binary_cross_entropy.binary_cross_entropy_plain), **FACTORS)
sigmoid_focal = of_elements(sigmoid_focal_plain, gamma=2.0, alpha=0.25, weight=1.0)
poisson_nll = of_elements(poisson_nll_plain, log_input=True, full=False)
hinge = of_elements(modules.hinge.hinge_plain)
mean_squared_error = of_elements(modules.mean_squared_error.mean_squared_error_plain)
mean_absolute_error = of_elements(modules.mean_absolute_error.mean_absolute_error_plain)
huber = of_elements(modules.huber.huber_plain, delta=1.0)


def kl_divergence(z, q, per_class=False, **options):
    value, dz = of_rows(modules.kl_divergence.kl_divergence_plain)(z, q, **options)
    if per_class:
        value = modules.kl_divergence.divergence_terms_plain(np.asarray(z, float), np.asarray(q, float))
    return value, dz


def softmax_focal(z, targets, gamma=2.0, weight=None, **options):
    return of_rows(modules.softmax_focal.softmax_focal_plain)(z, targets, gamma, weight=weight, **options)


def nt_xent(x, temperature=0.5, reduction="mean", denominator=None):
    with np.errstate(all="ignore"):
        losses, dx = modules.nt_xent.nt_xent_plain(np.asarray(x, float), temperature, np.ones(len(x)))
    if reduction == "none":
        return losses, dx
    scale = 1 / (denominator or len(x)) if reduction == "mean" else 1
    return losses.sum() * scale, dx * scale


def self_distillation(
    s, teacher, student_temperature=0.1, teacher_temperature=0.04, center=0.0, reduction="mean", denominator=None
):
    s, teacher = np.asarray(s, float), np.asarray(teacher, float)
    with np.errstate(all="ignore"):
        losses, ds = modules.self_distillation.self_distillation_plain(
            s, teacher, student_temperature, teacher_temperature, center
        )
    return _reduced(losses, ds, len(s), reduction, denominator)


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
    if name == "relu6":
        return np.minimum(np.maximum(z, 0), 6)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-z))
    if name == "tanh":
        return np.tanh(z)
    if name == "gelu":
        return z * np.vectorize(math.erfc, otypes=[float])(-z / math.sqrt(2)) / 2
    if name == "gelu_tanh":
        return z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
    if name == "swish":
        return z / (1 + np.exp(-z))
    if name in ("elu", "selu"):
        scale, alpha = (1, 1) if name == "elu" else (1.0507009873554805, 1.6732632423543772)
        return scale * np.where(z > 0, z, alpha * np.expm1(z))
    if name == "softplus":
        return np.logaddexp(0, z)
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
