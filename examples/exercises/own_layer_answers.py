"""The answers to own_layer.py.

1.  x touched its own y only.  By the quotient rule, with |x|' = sign(x) and x sign(x) = |x|:

        (1 + |x| - x sign(x)) / (1 + |x|)^2 = 1 / (1 + |x|)^2

2.  a[c] touched y[n,c] of every n in two places: times x[n,c] in the first, times 2 a[c] in the second.  Both add up:

        da[c] = sum_n (x[n,c] + 2 a[c]) dy[n,c]              dx[n,c] = a[c] dy[n,c]

3.  build sets output_shape, which super().build makes the input's, and returns it.  x[n,2c] touched y[n,c] times 1,
    x[n,2c+1] touched it times -1.

4.  x[n,c] touched y[n,c] times m[n]; and through the mean, of which it is 1/C, every y[n,k] of its sample times x[n,k]:

        dx[n,c] = m[n] dy[n,c] + 1/C sum_k x[n,k] dy[n,k]
"""

import numpy as np
import own_layer
from tasks import run

import tinynet as tn


class Softsign(own_layer.Softsign):
    def backward(self, dy, input_grad=True):
        return dy / (1 + np.abs(self._x)) ** 2


class Twice(own_layer.Twice):
    def backward(self, dy, input_grad=True):
        a = self.parameters[0]
        a.grad = ((self._x + 2 * a.value) * dy).sum(axis=0)
        return a.value * dy


class Differences(tn.Layer):
    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.output_shape = (self.input_shape[0] // 2,)
        return self.output_shape

    def forward(self, x, training=False):
        return x[:, ::2] - x[:, 1::2]

    def backward(self, dy, input_grad=True):
        dx = np.empty((len(dy), 2 * dy.shape[1]), dy.dtype)
        dx[:, ::2], dx[:, 1::2] = dy, -dy
        return dx


class TimesMean(own_layer.TimesMean):
    def backward(self, dy, input_grad=True):
        return dy * self._m + (self._x * dy).mean(axis=1, keepdims=True)


if __name__ == "__main__":
    run(own_layer.tasks(globals()))
