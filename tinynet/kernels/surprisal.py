"""-log p of a probability, of which no digit is lost however small or close to 1 it is."""

import numpy as np

from tinynet.kernels import floats
from tinynet.kernels.compile import implementation
from tinynet.kernels.vectors import Vector, select

LOG_2 = 0.6931471805599453


def surprisal(p):
    """-log p for 0 <= p <= 1, a number or a vector, correct to a few ulp: inf for 0, and NaN for NaN.

    With log1p(u) = log(1 + u), which keeps the digits of a small u, -log p = log1p((1 - p) / p).  The reciprocal of a
    tiny p could overflow: below 1e-37 it is the logarithm of 2^53 p that is taken.
    """
    with np.errstate(divide="ignore"):
        return -np.log(p)


def _of_number(p):
    F = type(p)
    tiny = p < F(1e-37)
    x = p * F(2.0**53) if tiny else p
    h = floats.log1p((F(1) - x) / x) + (F(53 * LOG_2) if tiny else F(0))
    return F(np.inf) if p == F(0) else h


def _of_vector(p):
    tiny = p < 1e-37
    x = select(tiny, p * 2.0**53, p)
    h = floats.log1p((1.0 - x) / x) + select(tiny, 53 * LOG_2, p - p)
    return select(p == 0.0, np.inf, h)


@implementation(surprisal)
def _surprisal(p):
    return _of_vector if isinstance(p, Vector) else _of_number
