"""Sequential: layers one after another, and the chain rule that walks back through them.

    forward    x -> layer 0 -> layer 1 -> ... -> y
    backward   dL/dx <- layer 0 <- layer 1 <- ... <- dL/dy

Each layer turns the gradient of its output into that of its input, and that is the gradient of the output of the layer
before: the whole of backpropagation is one loop over the layers in reverse.

All parameters are views of one flat vector, and so are their gradients: an optimizer's step is one kernel over two
vectors, summing gradients over machines is one call, a checkpoint is one array.
"""

import numpy as np

from tinynet.layers.base import Layer, float_dtype, positive_int


class Sequential:
    """A model of layers in a row, built for inputs (N, *input_shape).

    layers        a list of layers, each used once
    input_shape   the shape of one sample, (28, 28, 1) say, or a whole number for vectors
    seed          for the starting weights and for dropout: same seed, same model to the bit
    dtype         "float32" or "float64", of parameters, activations and gradients

    Raises ValueError where a layer does not fit what comes before it, naming the layer, its index and the shapes.

    layers, input_shape, output_shape, dtype as built; flat_values and flat_grads (all parameters, all gradients).
    """

    def __init__(self, layers, input_shape, seed=0, dtype="float32"):
        self.layers = _checked_layers(layers)
        self.dtype, self.seed = float_dtype(dtype), positive_int(seed, "Sequential: seed", least=0)
        rng = np.random.default_rng(self.seed)
        shape = input_shape
        try:
            for index, layer in enumerate(self.layers):
                layer.place = f" (layer {index})"
                shape = layer.build(shape, self.dtype, rng)
                for parameter in layer.parameters:
                    parameter.name = f"{index}.{parameter.name}"
        except Exception:
            for layer in self.walk():  # none of them is part of a model now
                layer.place, layer.dtype = "", None
            raise
        self.input_shape, self.output_shape = self.layers[0].input_shape, shape
        self._flatten()

    def _flatten(self):
        """Move every parameter into one vector and every gradient into another, of which they become views."""
        parameters = self.parameters()
        self.flat_values = np.concatenate([p.value.ravel() for p in parameters] or [np.empty(0, self.dtype)])
        self.flat_grads = np.concatenate([p.grad.ravel() for p in parameters] or [np.empty(0, self.dtype)])
        end = 0
        for p in parameters:
            start, end = end, end + p.value.size
            p.value = self.flat_values[start:end].reshape(p.value.shape)
            p.grad = self.flat_grads[start:end].reshape(p.grad.shape)

    def __setstate__(self, state):  # a copy's or a pickle's parameters are arrays of their own until they are joined
        self.__dict__.update(state)
        self._flatten()

    def parameters(self):
        """The list of Parameters (.name, .value, .grad), layer by layer."""
        return [parameter for layer in self.layers for parameter in layer.parameters]

    def buffers(self):
        """The arrays that layers keep beside their parameters, by name: {"1.running_mean": ...}.  Write into them."""
        return {f"{i}.{name}": array for i, layer in enumerate(self.layers) for name, array in layer.buffers.items()}

    def walk(self):
        """Every layer in the order of the model, those inside other layers too."""
        for layer in self.layers:
            yield from layer.walk()

    def forward(self, x, training=False):
        """The output for a batch x (N, *input_shape), a fresh array.

        `training` keeps what backward will need, x itself among it: leave x as it is until then.
        """
        y = x
        for layer in self.layers:
            y = layer.forward(y, training)
        views_x = isinstance(x, np.ndarray) and np.may_share_memory(y, x)  # a model of nothing but Flatten, say
        if views_x or (training and self.layers[-1].keeps_output):
            return y.copy()  # so that nothing the caller does to it can change the gradients, or x
        return y

    __call__ = forward

    def backward(self, dy, input_grad=False):
        """Fill every parameter's gradient from dy = dL/dy of the last forward(x, training=True).

        Returns dL/dx if `input_grad`, else None, and then leaves out the work that only dL/dx would need.
        """
        first = 0
        if not input_grad:
            with_parameters = [index for index, layer in enumerate(self.layers) if layer.parameters]
            if not with_parameters:
                return None
            first = with_parameters[0]
        for index in range(len(self.layers) - 1, first - 1, -1):
            dy = self.layers[index].backward(dy, input_grad or index > first)
        return dy

    def predict(self, x, batch_size=256):
        """forward(x) for x of any length, `batch_size` samples at a time.  Safe from several threads at once."""
        batch_size = positive_int(batch_size, "predict: batch_size")
        if not hasattr(x, "shape"):
            x = np.asarray(x)
        if len(x.shape) == 0:
            raise ValueError(
                f"predict: expected a batch (N, {', '.join(map(str, self.input_shape))}), got a single number"
            )
        if len(x) <= batch_size:
            return self.forward(x)
        y = np.empty((len(x), *self.output_shape), self.dtype)
        for start in range(0, len(x), batch_size):
            y[start : start + batch_size] = self.forward(x[start : start + batch_size])
        return y

    def summary(self):
        """The layers as a table of text: output shapes, parameters, and floating-point operations a sample takes."""
        rows = [("layer", "", "output", "parameters", "FLOPs forward")]
        for index, layer in enumerate(self.layers):
            count = sum(p.value.size for p in layer.parameters)
            shape = "(N, " + ", ".join(map(str, layer.output_shape)) + ")"
            rows.append((f"{index} {type(layer).__name__}", layer.formula(), shape, f"{count:,}", f"{layer.flops:,}"))
        flops = sum(layer.flops for layer in self.layers)
        rows.append(("total", "", "", f"{self.flat_values.size:,}", f"{flops:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = []
        for row in rows:
            left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
            lines.append("  ".join(left + right).rstrip())
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def __repr__(self):
        names = ", ".join(type(layer).__name__ for layer in self.layers)
        return f"Sequential([{names}], input_shape={self.input_shape}, {self.flat_values.size:,} parameters)"


def _checked_layers(layers):
    if isinstance(layers, Layer) or not isinstance(layers, (list, tuple)):
        raise TypeError(f"Sequential: layers must be a list of layers, got {layers!r}")
    if not layers:
        raise ValueError("Sequential: the list of layers is empty")
    for index, layer in enumerate(layers):
        if isinstance(layer, type) and issubclass(layer, Layer):
            raise TypeError(f"Sequential: layer {index} is the class {layer.__name__}; write {layer.__name__}(...)")
        if not isinstance(layer, Layer):
            raise TypeError(f"Sequential: layer {index} must be a layer, got {layer!r}")
        if layer.dtype is not None:
            raise ValueError(f"Sequential: layer {index} is {layer.label}, which is built already; make a new one")
        if any(layer is earlier for earlier in layers[:index]):
            raise ValueError(f"Sequential: layer {index} stands in the list twice; make a new one")
    return list(layers)
