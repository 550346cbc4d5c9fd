"""tinynet: neural networks to read and to use.

No autograd: every backward pass is derived by hand, in the file of its layer or loss, and compiled by Numba.
"""

from tinynet.layers.conv2d import Conv2D
from tinynet.layers.dense import Dense
from tinynet.model import Sequential

__version__ = "0.1.0"

__all__ = ["Conv2D", "Dense", "Sequential"]
