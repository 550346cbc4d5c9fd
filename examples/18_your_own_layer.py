"""A layer of your own: derive it, check it, train it.

    python examples/18_your_own_layer.py [--page step.html]

An activation is the bend between two weighted sums (example 02).  Swish is one with a number to learn for each of its C
inputs, the slope b, which is no bias here (Ramachandran, Zoph and Le 2017):

    y = x s        s = 1 / (1 + exp(-b x))         x (N, C)   b (C,)   s (N, C)   y (N, C)

With b = 0 it is x / 2, a straight line; with b = 1 it bends gently; with a large b it is nearly max(x, 0), the ReLU.

Backward.  Given dy = dL/dy, ask of each number: which y did it touch, and times what?  s is the sigmoid of b x, and the
sigmoid's derivative is s (1 - s) (example 03); the chain rule adds a factor b for x, and a factor x for b:

    x[n,c]  touched y[n,c], by the product rule times s + x s (1 - s) b:    dx = (s + b x s (1 - s)) dy
    b[c]    touched y[n,c] of every sample n, times x s (1 - s) x:          db = sum_n x^2 s (1 - s) dy

A layer is a class with build, which allocates the parameters; forward, which keeps what backward needs, in training
only; and backward, which fills the parameters' gradients and returns dx, or None where nobody needs dx (input_grad is
False for a model's first layer, before which there is nothing to train).  NumPy does for a layer of your own; when it
becomes the slow part, its loops can be compiled as those in tinynet/layers are.

Is the derivation right?  tn.gradcheck moves every input and every b a little, and compares how the output changes with
what backward says.  Where the two differ, it shows the entry that is worst, with both numbers, and what their ratio
tells about the mistake.  So here it also gets layers with mistakes that people make, and must find each of them:

    a forgotten term        s taken for a constant: dx = s dy
    a sign                  dx = -(s + b x s (1 - s)) dy
    dy left out             dx = s + b x s (1 - s): right only where dy is 1, as it is for the plain sum of y
    a mean, not a sum       db divided by N.  The loss is a mean already and has divided dy by N; layers sum
    never written           db left as it was

If a parameter is used several times, in several places of forward, each use has touched the output, and the gradient is
the sum over all uses.  If a layer gives another shape than it gets, build must set output_shape, and return it: that is
what the next layer is built for.  And parameters of a weighted sum start random (example 02: all alike, they would stay
alike); one slope for each input may start at 1, since the inputs differ.

With --page step.html, tn.explain writes a page for a browser, where this layer stands between two others, and each of
its numbers tells what it was made of and what it touches, times what: the derivatives are those that its own backward
computes.
"""

import gallery
import numpy as np

import tinynet as tn


class Swish(tn.Layer):
    """y = x / (1 + exp(-b x)), with one b for each input: x (N, C) -> y (N, C)."""

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)  # sets input_shape, output_shape (the same) and dtype
        if len(self.input_shape) != 1:
            raise ValueError(f"{self.label}: expected vectors, input shape (C,), got {self.input_shape}")
        # decay=False: where weights are kept small (example 03), this is left alone, like a bias.
        self.parameters = [tn.Parameter("slope", np.ones(self.input_shape, self.dtype), decay=False)]
        self.flops = 4 * self.input_shape[0]  # operations for one sample: multiply, exponentiate, add, divide
        return self.output_shape

    def forward(self, x, training=False):
        x = self.checked(x)  # its shape and type, with an error that names the layer
        s = 0.5 + 0.5 * np.tanh(0.5 * self.parameters[0].value * x)  # the sigmoid, in a form where no exp can overflow
        if training:
            self._x, self._s = x, s
        return x * s

    def backward(self, dy, input_grad=True):
        x, s, b = self.kept("_x"), self._s, self.parameters[0].value  # kept: an error if forward kept nothing
        dy = self.checked_gradient(dy, len(x))  # its shape and type, as above
        bend = x * s * (1 - s)
        np.sum(x * bend * dy, axis=0, out=self.parameters[0].grad)  # into the array: it is part of the model's vector
        return (s + b * bend) * dy if input_grad else None

    keeps_output = False  # backward needs x and s, so whoever has y may overwrite it

    def formula(self):  # these two are for model.summary() and tn.explain
        return "y = x / (1 + exp(-b x))"

    def backward_formula(self):
        return "dx = (s + b x s (1 - s)) dy, db = sum x^2 s (1 - s) dy"


class Mistaken(Swish):
    """The same, with a backward pass that `spoil` changes: it gets the layer, dy and the right dx, and returns dx."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def backward(self, dy, input_grad=True):
        return self.spoil(self, dy, super().backward(dy))


def divided_by_N(layer, dy, dx):
    layer.parameters[0].grad /= len(dy)
    return dx


def never_written(layer, dy, dx):
    layer.parameters[0].grad[...] = 0
    return dx


MISTAKES = {  # what is wrong, and what the check says about it
    "a forgotten term": (lambda layer, dy, dx: layer._s * dy, "the ratio varies from entry to entry"),
    "a sign": (lambda layer, dy, dx: -dx, "the sign is wrong everywhere"),
    "dy left out": (lambda layer, dy, dx: dx / dy, "the ratio varies from entry to entry"),
    "a mean, not a sum": (divided_by_N, "is it divided by N twice?"),
    "never written": (never_written, "is this gradient ever written?"),
}


def main():
    options = gallery.options(__doc__, page="")
    if options.page:
        small = tn.Sequential([tn.Dense(2), Swish(), tn.Dense(2)], input_shape=2, seed=0, dtype="float64")
        step = tn.explain(small, [[1.0, -2.0], [0.5, 1.5], [-1.0, 0.5]], [0, 1, 1], tn.softmax_cross_entropy)
        print(step)
        step.save_html(options.page)
        print(f"saved {options.page}")
    right = tn.gradcheck.check(Swish(), (5, 4))
    print(right)
    assert right.passed
    for mistake, (spoil, said) in MISTAKES.items():
        wrong = tn.gradcheck.check(Mistaken(spoil), (5, 4))
        print(f"\n{mistake}: {wrong}")
        assert not wrong.passed, f"{mistake} must be noticed"
        assert any(said in cause for cause in wrong.causes.values())

    (x_train, y_train), (x_test, y_test) = tn.data.digits()
    epochs = 5 if options.quick else 30
    swish, slopes, histories = Swish(), [], {}
    for name, activation in (("Swish", swish), ("ReLU", tn.ReLU())):
        model = tn.Sequential([tn.Flatten(), tn.Dense(32), activation, tn.Dense(10)], input_shape=(8, 8, 1), seed=0)
        if name == "Swish":
            print(model.summary())
        histories[name] = tn.fit(
            model,
            x_train,
            y_train,
            loss=tn.softmax_cross_entropy,
            optimizer=tn.Adam(model, lr=3e-3),
            epochs=epochs,
            validation=(x_test, y_test),
            metrics="accuracy",
            callbacks=lambda training: slopes.append(swish.parameters[0].value.copy()),
            progress=False,
        )
        accuracy = histories[name]["val_accuracy"][-1]
        print(f"{name}: test accuracy {accuracy:.4f}, training loss {histories[name]['loss'][-1]:.4f}")
        assert accuracy > (0.85 if options.quick else 0.94)
    slopes = np.array(slopes[:epochs])  # those of the first training
    print(f"the {slopes.shape[1]} slopes b, all 1 at first, are now {slopes[-1].min():.2f} to {slopes[-1].max():.2f}")
    assert slopes[-1].std() > 0.01, "each hidden number has found a slope of its own"

    figure = tn.plots.figure(13, 4.2)
    left, middle, right = figure.subplots(1, 3)
    x = np.linspace(-5, 5, 201)
    left.plot(x, np.maximum(x, 0), color="black", lw=1.2, ls=(0, (3, 4)), zorder=3, label="ReLU")
    for b, colour in ((0.2, tn.plots.ORANGE), (1, tn.plots.BLUE), (5, tn.plots.GREEN)):
        left.plot(x, x / (1 + np.exp(-b * x)), color=colour, label=f"b = {b:g}")
    left.legend(frameon=False)
    gallery.plain(left, "Swish:  y = x / (1 + exp(-b x))", xlabel="x", ylabel="y", ylim=(-2.2, 5))
    middle.plot(range(epochs + 1), np.vstack([np.ones(32), slopes]), color=tn.plots.BLUE, lw=0.8)
    gallery.plain(middle, "The 32 slopes learn", xlabel="epoch", ylabel="b")
    for (name, history), colour in zip(histories.items(), (tn.plots.BLUE, tn.plots.GREY), strict=True):
        right.semilogy(range(1, epochs + 1), history["loss"], color=colour, lw=1.2, label=f"{name}, training")
        right.semilogy(range(1, epochs + 1), history["val_loss"], color=colour, lw=2.6, label=f"{name}, test")
    right.legend(frameon=False)
    gallery.plain(right, "The loss, beside the same network with ReLU", xlabel="epoch", ylabel="cross-entropy")
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
