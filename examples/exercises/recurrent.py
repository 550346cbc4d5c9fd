"""Exercises after example 21, backpropagation through time: four gaps.  Fill them, and run this file.

    python examples/exercises/recurrent.py

One sequence x (T, C), and a network that keeps a state h (H,), 0 at the start:

    a[t] = x[t] w + h[t-1] u + b        w (C, H)   u (H, H)   b (H,)
    h[t] = tanh(a[t])                   t = 0..T-1

g (T, H) is how the loss depends on each h[t] directly, not by way of later states.  The answers, with their
derivations, are in recurrent_answers.py.
"""

import numpy as np
from tasks import by_small_changes, call, derivatives, gap, run, same


def forward(x, w, u, b):
    """All states h (T, H)."""
    h, states = np.zeros(len(b)), []
    for row in x:
        h = np.tanh(row @ w + h @ u + b)
        states.append(h)
    return np.array(states)


def gradients_of_a(h, u, g):
    """1.  From the last t to the first: da (T, H).  h[t] touched the loss directly, and a[t+1].  What comes by each?"""
    gap()


def gradients_of_parameters(x, h, da):
    """2.  Every step used the same w, u and b.  Return dw (C, H), du (H, H), db (H,)."""
    gap()


def gradient_of_input(w, da):
    """3.  Return dx (T, C)."""
    gap()


def clipped(gradients, most):
    """4.  Long sequences make gradients explode.  Return them times one factor, so that the norm of all is at most
    `most`; as they are where it is less.  This treats each array by itself, which turns the direction.  Mend it.
    """
    return [gradient * min(1, most / np.linalg.norm(gradient)) for gradient in gradients]


def tasks(written):
    """What is asserted of the functions of these names."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((6, 3)), rng.standard_normal((6, 4))
    w, u, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 4)) / 2, rng.standard_normal(4)
    h = forward(x, w, u, b)

    def loss():
        return (forward(x, w, u, b) * g).sum()

    def slopes_of_a():
        pushed = np.zeros((6, 4))  # added to a[t], to see what a small change of it does

        def moved():
            state, total = np.zeros(4), 0.0
            for t in range(6):
                state = np.tanh(x[t] @ w + state @ u + b + pushed[t])
                total += state @ g[t]
            return total

        return by_small_changes(pushed, moved)

    def through_time():
        da, found = slopes_of_a(), call(written["gradients_of_a"], h, u, g)
        assert found.shape == (6, 4), f"da has the shape {found.shape}, and should have (6, 4)"
        why = "h[5], the last, touched the loss alone, and a[5] touched h[5] times its slope"
        for t in range(5, -1, -1):
            same(f"da[{t}]", found[t], da[t], [(g[t] * (1 - h[t] ** 2), f"h[{t}] touched a[{t + 1}], too")], why)
            why = f"da[{t}] is right; h[{t - 1}] touched a[{t}], too, times u: and what comes back by that, times what?"

    def parameters():
        da = slopes_of_a()
        found = call(written["gradients_of_parameters"], x, h, da, results=3)
        mistakes = [(h.T @ da, "u met the state of the step before, h[t-1], and not h[t]")]
        for name, array, gradient in zip(("dw", "du", "db"), (w, u, b), found, strict=True):
            derivatives(name, gradient, array, loss, len(x), mistakes)

    def inputs():
        derivatives("dx", call(written["gradient_of_input"], w, slopes_of_a()), x, loss)

    def clipping():
        for scale in (0.01, 1.0):
            given = [scale * w, scale * u]
            norm = np.sqrt((given[0] ** 2).sum() + (given[1] ** 2).sum())
            sum_of_norms = np.linalg.norm(given[0]) + np.linalg.norm(given[1])
            for found, gradient in zip(call(written["clipped"], given, 0.5, results=2), given, strict=True):
                right = gradient * min(1, 0.5 / norm)
                say = "it has the norm 0.5 by itself; the two together should have it"
                mistakes = [
                    (gradient * min(1, 0.5 / np.linalg.norm(gradient)), say),
                    (gradient * 0.5 / norm, "where the norm is less, nothing should change"),
                    (gradient, f"the norm of all is {norm:.3g}, above 0.5"),
                    (np.clip(gradient, -0.5, 0.5), "that cuts each number by itself, which turns the direction"),
                    (gradient * min(1, 0.5 / sum_of_norms), "the norm of all is the root of the sum of all squares"),
                ]
                same("a gradient", found, right, mistakes)

    return {"1, through time": through_time, "2, parameters": parameters, "3, input": inputs, "4, clipping": clipping}


if __name__ == "__main__":
    run(tasks(globals()))
