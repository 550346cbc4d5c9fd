"""ReLU6: a ReLU that ends at 6.

    y = min(max(x, 0), 6)      x, y (N, ...), any shape; in Dense and Conv2D, x is their z

Backward.  Each x touched one y, its own: times 1 between 0 and 6, and times 0 where y does not move with it,

    dx = dy where 0 < x < 6, else 0

and 0 < x < 6 exactly where 0 < y < 6, so y is all that backward needs.  The functions are as in activations.py.

No number grows beyond 6, so that few bits can hold it: MobileNet's, for telephones.  Source: Krizhevsky 2010.
"""

from numba import prange

from tinynet.kernels.compile import sized_kernel
from tinynet.kernels.special import LIGHT
from tinynet.layers.elementwise import Activation, ActivationLayer


@sized_kernel(LIGHT)
def relu6_forward(x, y):
    zero, six = x.dtype.type(0), x.dtype.type(6)
    for i in prange(x.size):
        y[i] = zero if x[i] <= zero else six if x[i] >= six else x[i]


@sized_kernel(LIGHT)
def relu6_in_place(y):
    zero, six = y.dtype.type(0), y.dtype.type(6)
    for i in prange(y.size):
        y[i] = zero if y[i] <= zero else six if y[i] >= six else y[i]


@sized_kernel(LIGHT)
def relu6_backward(dy, y, dx):
    zero, six = y.dtype.type(0), y.dtype.type(6)
    for i in prange(y.size):
        dx[i] = zero if y[i] <= zero or y[i] >= six else dy[i]


class ReLU6(ActivationLayer):
    """y = min(max(x, 0), 6).  Its slope at 0 and at 6 is taken as 0.

    >>> tn.Sequential([tn.ReLU6()], 4).forward([[-2, 0, 2, 8]])
    array([[0., 0., 2., 6.]], dtype=float32)
    """

    activation = Activation(
        "relu6", "ReLU6", "y = min(max(x, 0), 6)", "dx = dy where 0 < x < 6, else 0",
        relu6_forward, relu6_backward, relu6_in_place, init="he",
    )  # fmt: skip
