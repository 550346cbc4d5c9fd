"""Exercises after example 18, a layer of your own: four gaps.  Fill them, and run this file; it says which are right.

    python examples/exercises/own_layer.py

tn.gradcheck looks at each layer, and says what may be wrong with it.  The answers are in own_layer_answers.py.
"""

import numpy as np
from tasks import gap, run

import tinynet as tn


class Softsign(tn.Layer):
    """1.  An activation: y = x / (1 + |x|).  The derivative of |x| is the sign of x."""

    def forward(self, x, training=False):
        self._x = x
        return x / (1 + np.abs(x))

    def backward(self, dy, input_grad=True):
        gap()


class Twice(tn.Layer):
    """2.  A parameter that is used twice: y = a x + a^2, with one a for each of C inputs.  Write da and dx.
    da belongs in self.parameters[0].grad, and dx is returned.
    """

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.parameters = [tn.Parameter("a", rng.standard_normal(self.input_shape).astype(dtype))]
        return self.output_shape

    def forward(self, x, training=False):
        self._x, a = x, self.parameters[0].value
        return a * x + a**2

    def backward(self, dy, input_grad=True):
        gap()


class Differences(tn.Layer):
    """3.  Another shape: y[n,c] = x[n,2c] - x[n,2c+1], of 2 C inputs C outputs.  What must build set?  And write dx."""

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        gap()

    def forward(self, x, training=False):
        return x[:, ::2] - x[:, 1::2]

    def backward(self, dy, input_grad=True):
        gap()


class TimesMean(tn.Layer):
    """4.  y[n,c] = x[n,c] m[n], m[n] the mean of x[n,:].  Its backward pass forgets something.  Mend it."""

    def forward(self, x, training=False):
        self._x, self._m = x, x.mean(axis=1, keepdims=True)
        return x * self._m

    def backward(self, dy, input_grad=True):
        return dy * self._m


def tasks(written):
    """What is asserted of the layers of these names."""

    def checked(name, outputs=6):
        def check():
            layer = written[name]()
            found = tn.gradcheck.check(layer, (5, 6))
            assert found.passed, f"\n{found}"
            model = tn.Sequential([written[name](), tn.Softmax()], input_shape=6)
            assert model.output_shape == (outputs,), f"output_shape is {model.output_shape}, and should be ({outputs},)"

        return check

    return {
        "1, Softsign": checked("Softsign"),
        "2, Twice": checked("Twice"),
        "3, Differences": checked("Differences", 3),
        "4, TimesMean": checked("TimesMean"),
    }


if __name__ == "__main__":
    run(tasks(globals()))
