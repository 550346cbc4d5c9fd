"""Weights of samples: a weighted mean of the rows' losses.

    L       = sum_n s[n] loss(x[n]) / A             s (N,) sample_weight   A = sum_n s[n] share[n]
    dx[n,c] = s[n] / A times the slope of row n's loss

share[n] is what row n counts for where all s[n] are 1: 0 where its target is ignored, else 1 or its class's weight.
Twice the weight is the same as twice the row.
"""

from tinynet.checks.losses import delivered


def weighted_rows(losses_and_gradient, s, share, reduction, divisor, out):
    """(value, gradient) from losses_and_gradient(), the losses with their gradients, each as if it were alone.

    s, share and the losses are of one shape or broadcast, and s has as many axes as the gradient's rows; divisor is
    what "mean" divides by, or 0 for A.
    """
    losses, gradient = losses_and_gradient()
    scale = 1.0
    if reduction == "mean":
        divisor = divisor or float((s * share).sum())
        scale = 1.0 / divisor if divisor > 0 else 0.0
    value = (s * losses).astype(losses.dtype) if reduction == "none" else float((s * losses).sum() * scale)
    if gradient is None:
        return value, None
    factor = (s * scale).astype(gradient.dtype)
    gradient *= factor if factor.ndim == gradient.ndim else factor[..., None]
    return value, delivered(gradient, True, out)
