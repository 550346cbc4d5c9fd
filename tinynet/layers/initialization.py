"""How weights start: at random, with the variance that keeps signals the same size from layer to layer.

Take z = sum_i x[i] w[i] over fan_in inputs, all independent and w of mean 0.  Then

    var z = fan_in  E[x^2]  var w

so var w = 1 / fan_in keeps var z = E[x^2].  A ReLU sets half of z to 0, which halves E[y^2]; He's variance
makes up for it.  Backwards the same sum runs over fan_out outputs; Glorot's variance is between the two.

    he       normal,  var w = 2 / fan_in               ReLU and its kin      He et al. 2015, section 2.2
    he_out   normal,  var w = 2 / fan_out              keeps gradients       the same, equation 14
    glorot   uniform, var w = 2 / (fan_in + fan_out)   everything else       Glorot and Bengio 2010, section 4.2.1
    zeros    all 0: for a last layer or logistic regression, where no symmetry needs breaking
"""

import numpy as np

from tinynet.checks import other_names, real_array


def he(shape, fan_in, fan_out, rng):
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)


def he_out(shape, fan_in, fan_out, rng):
    return rng.normal(0.0, np.sqrt(2.0 / fan_out), shape)


def glorot(shape, fan_in, fan_out, rng):
    limit = np.sqrt(6.0 / (fan_in + fan_out))  # a uniform number between -limit and limit has variance limit^2 / 3
    return rng.uniform(-limit, limit, shape)


def zeros(shape, fan_in, fan_out, rng):
    return np.zeros(shape)


INITIALIZERS = {"he": he, "he_out": he_out, "glorot": glorot, "zeros": zeros}


def initial_weights(init, shape, fan_in, fan_out, dtype, rng, where):
    """Weights of this shape and dtype, drawn in float64 from `rng`, so that both dtypes start alike.

    init   a name in INITIALIZERS, or a function (shape, fan_in, fan_out, rng) -> array of that shape
    where  the layer's name, for errors: TypeError, and ValueError for an unknown name or a wrong shape
    """
    if isinstance(init, str):
        if init not in INITIALIZERS:
            hint = other_names.advice(init, INITIALIZERS, other_names.INITIALIZERS)
            raise ValueError(f"{where}: init must be one of {', '.join(map(repr, INITIALIZERS))}, got {init!r}.{hint}")
        init = INITIALIZERS[init]
    if not callable(init):
        raise TypeError(f"{where}: init must be None, a name or a function, got {init!r}")
    weights = real_array(init(shape, fan_in, fan_out, rng), dtype, f"{where}: what init returned")
    if weights.shape != tuple(shape):
        raise ValueError(f"{where}: init returned an array of shape {weights.shape}, expected {tuple(shape)}")
    return weights
