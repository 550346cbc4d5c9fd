"""With NUMBA_DISABLE_JIT=1 kernels run as plain Python, for a debugger to step through, and give the same numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

STEPS = """
import sys
import numpy as np
import tinynet as tn

rng = np.random.default_rng(0)
x, labels = rng.standard_normal((3, 6, 6, 2)), np.array([1, 0, 2])
results = []
for tail in ([tn.MaxPool2D(2), tn.GELU()], [tn.AvgPool2D(2), tn.Tanh(), tn.Dropout(0.3)], [tn.GlobalAvgPool2D()]):
    layers = [tn.Conv2D(3, 3, padding="same", activation="relu"), *tail, tn.Flatten(), tn.Dense(4)]
    model = tn.Sequential(layers, input_shape=(6, 6, 2), dtype="float64", seed=1)
    optimizer = tn.Adam(model, lr=1e-2)
    logits = model.forward(x, training=True)
    loss, dlogits = tn.softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    results += [loss, tn.sigmoid_cross_entropy(logits, logits > 0)[0], tn.mean_squared_error(logits, logits * 0)[0]]
    results += list(model.backward(dlogits, input_grad=True).ravel())
    optimizer.step()
    results += list(model.flat_values)
wide = tn.Sequential([tn.Conv2D(32, 3, padding="same")], input_shape=(4, 4, 32), dtype="float64")  # Winograd's method
y = wide.forward(rng.standard_normal((1, 4, 4, 32)), training=True)
results += list(wide.backward(y, input_grad=True).ravel())
results += list(wide.flat_grads)
few = tn.Sequential([tn.Conv2D(2, (2, 3), padding="same", activation="relu")], input_shape=(3, 17, 1), dtype="float64")
y = few.forward(rng.standard_normal((2, 3, 17, 1)), training=True)
results += [*y.ravel(), *few.backward(y, input_grad=True).ravel(), *few.flat_grads]
words = tn.Sequential(
    [
        tn.Embedding(9, 4, padding=0),
        tn.Reshape((7, 1, 4)),
        tn.Parallel([[tn.Conv2D(3, (k, 1), activation="relu"), tn.GlobalMaxPool2D()] for k in (2, 3)]),
        tn.Residual([tn.Dense(6)]),
    ],
    input_shape=7,
    dtype="float64",
)
y = words.forward(rng.integers(0, 9, (3, 7)), training=True)
words.backward(y)
results += [*y.ravel(), *words.flat_grads]
np.save(sys.argv[1], np.array(results))
"""


def test_plain_python_and_compiled_kernels_give_the_same_numbers(tmp_path):
    results = []
    for disabled in ("0", "1"):
        path = tmp_path / f"{disabled}.npy"
        environment = {**os.environ, "NUMBA_DISABLE_JIT": disabled}
        subprocess.run([sys.executable, "-c", STEPS, path], env=environment, check=True)
        results.append(np.load(path))
    assert results[0].size > 1000
    np.testing.assert_allclose(results[1], results[0], rtol=1e-9, atol=1e-12)
