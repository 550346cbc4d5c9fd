"""The plain loops of the normalisations as functions of x of any shape, for the tests' tables."""

from tinynet.layers.batchnorm import batchnorm_forward_plain, batchnorm_moments_plain
from tinynet.layers.layernorm import layernorm_forward_plain


def batchnorm(x, w, b, eps=1e-5):
    rows = x.reshape(-1, x.shape[-1])
    mu, S = batchnorm_moments_plain(rows)
    return batchnorm_forward_plain(rows, mu, S / len(rows), w, b, eps, False).reshape(x.shape)


def layernorm(x, w, b, eps=1e-5):
    return layernorm_forward_plain(x.reshape(-1, x.shape[-1]), w, b, eps)[2].reshape(x.shape)
