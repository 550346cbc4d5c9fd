"""-log p of a probability, of which no digit is lost however small or close to 1 it is."""

import numpy as np

from tinynet.kernels import floats
from tinynet.kernels.compile import implementation
from tinynet.kernels.vectors import Vector, select

LOG_2 = 0.6931471805599453


def surprisal(p):
    """-log p for 0 <= p <= 1, a number or a vector, correct to a few ulp: inf for 0, and NaN for NaN.

    Below 1e-37, where p may not be a normal number, it is the logarithm of 2^53 p that is taken.
    """
    with np.errstate(divide="ignore"):
        return -np.log(p)


def _of_number(p):
    F = type(p)
    tiny = p < F(1e-37)
    h = (F(53 * LOG_2) if tiny else F(0)) - floats.log(p * F(2.0**53) if tiny else p)
    return F(np.inf) if p == F(0) else h


def _of_vector(p):
    tiny = p < 1e-37
    h = select(tiny, 53 * LOG_2, p - p) - floats.log(select(tiny, p * 2.0**53, p))
    return select(p == 0.0, np.inf, h)


@implementation(surprisal)
def _surprisal(p):
    return _of_vector if isinstance(p, Vector) else _of_number
