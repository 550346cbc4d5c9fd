"""What the norms end in: y = w h + b, a scale w and a shift b for each channel, which are trained; or y = h."""

import numpy as np

from tinynet.layers.base import Layer
from tinynet.layers.parameter import Parameter


class Affine(Layer):
    """A norm with parameters "weight" (w, starts at 1) and "bias" (b, starts at 0), both without weight decay.

    Each of them may be left out: then w is 1, and b is 0.
    """

    def _start_affine(self, C, scale, shift):
        kinds = [("weight", np.ones)] * scale + [("bias", np.zeros)] * shift
        self.parameters = [Parameter(name, start(C, self.dtype), decay=False) for name, start in kinds]
        self._has = scale, shift
        self._constants = np.ones(C, self.dtype), np.zeros(C, self.dtype)

    def _affine(self):
        """w and b."""
        own = iter(self.parameters)
        return [next(own)._value if has else one for has, one in zip(self._has, self._constants, strict=True)]

    def _set_gradients(self, dw, db):
        own = iter(self.parameters)
        with np.errstate(over="ignore", invalid="ignore"):
            for has, gradient in zip(self._has, (dw, db), strict=True):
                parameter = next(own) if has else None
                if parameter is not None and parameter._trainable:
                    parameter._grad[...] = gradient

    def _formula_of(self, what):
        scale, shift = self._has if self.dtype is not None else (True, True)
        return f"y = {'w ' if scale else ''}h{' + b' if shift else ''}, h = {what}"

    def _gradients_of(self):
        """The part of its backward formula that is about w and b."""
        scale, shift = self._has if self.dtype is not None else (True, True)
        return ("dw = sum dy h, " if scale else "") + ("db = sum dy, " if shift else "")

    def ending(self, before):
        return "logits", self.label  # any numbers, whatever came in
