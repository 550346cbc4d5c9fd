"""With NUMBA_DISABLE_JIT=1 the plain loops run, for a debugger to step through, and give the kernels' numbers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

# A step of every layer, in float64: outputs, losses, gradients, and parameters after the step.
EVERY_LAYER = """
import sys
import numpy as np
import tinynet as tn

rng = np.random.default_rng(0)
x, labels = rng.standard_normal((3, 6, 6, 2)), np.array([1, 0, 2])
results = []


def train(layers, x, lengths=None):
    model = tn.Sequential([*layers, tn.Flatten(), tn.Dense(4)], input_shape=x.shape[1:], dtype="float64", seed=1)
    x = x if lengths is None else (x, lengths)
    words = model.layers[0].takes_integers
    optimizer = tn.Adam(model, lr=1e-2)
    logits = model.forward(x, training=True)
    loss, dlogits = tn.softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    dx = model.backward(dlogits, input_grad=not words)
    optimizer.step()
    results.extend([loss, *logits.ravel(), *([] if words else dx.ravel()), *model.flat_grads, *model.flat_values])
    results.extend(model.predict(x).ravel())


def conv(*options, activation="relu", **named):
    return tn.Conv2D(*options, activation=activation, **named)


for layers in (
    [conv(3, 3, 1, "same"), tn.MaxPool2D(2), tn.GELU()],
    [conv(3, 3, 2, 1, activation="tanh"), tn.AvgPool2D(2, 1), tn.Tanh(), tn.Dropout(0.3)],
    [conv(3, (2, 1), 1, "valid", activation="gelu"), tn.BatchNorm(), tn.ReLU(), tn.GlobalAvgPool2D()],
    [tn.MaxPool2D(3, 2), tn.LayerNorm(), tn.LeakyReLU(0.1), tn.GlobalMaxPool2D()],
    [conv(4, 3, 1, 1, groups=2), tn.MaxPool2D(3, 2, 1), tn.SpatialDropout(0.3), tn.Upsample2D(2), tn.RMSNorm()],
    [conv(2, 3, 1, 2, dilation=2, groups=2), tn.ConvTranspose2D(3, 3, 2, 1, 1, "elu"), tn.AvgPool2D(3, 2, 1)],
    [tn.AdaptiveAvgPool2D(4), tn.SELU(), tn.BatchNorm(affine=False)],
    [tn.Reshape((12, 6)), tn.Conv1D(3, 3, activation="softplus"), tn.MaxPool1D(2), tn.AvgPool1D(3, 2, 1)],
    [tn.Flatten(), tn.Dense(6, "relu"), tn.Sigmoid(), tn.Dense(5, "sigmoid"), tn.Softmax()],
    [tn.Residual([conv(2, 3, 1, "same")]), tn.Concat([conv(2, 1)]), tn.Dropout(0.5)],
):
    train(layers, x)
pools = tn.Parallel([[tn.GlobalMaxPool1D()], [tn.GlobalAvgPool1D()]])
layers = [tn.Dense(6, "relu"), tn.BatchNorm(), tn.GroupNorm(3), tn.Dropout(0.5), tn.LayerNorm(), pools]
train(layers, rng.standard_normal((3, 6, 2)), [4, 6, 0])
train([conv(32, 3, 1, "same", activation=None)], rng.standard_normal((3, 4, 4, 32)))  # Winograd's method
train([conv(2, (2, 3), 1, "same")], rng.standard_normal((3, 3, 17, 1)))  # few filters
for layer in (tn.LSTM(4, bidirectional=True), tn.GRU(5, bidirectional=True, return_sequences=False)):
    train([layer], rng.standard_normal((3, 5, 2)))
branches = [[conv(3, (k, 1)), tn.GlobalMaxPool2D()] for k in (2, 3)]
train([tn.Embedding(9, 4, padding=0), tn.Reshape((7, 1, 4)), tn.Parallel(branches)], rng.integers(0, 9, (3, 7)))
words = tn.Embedding(9, 4)
train([words, tn.LayerNorm(), tn.TiedDense(words, bias=True)], rng.integers(0, 9, (3, 7)))
# Without biases: the gradient of a key's is 0 but for rounding, of which Adam makes steps of full size.
block = tn.TransformerBlock(2, causal=True, dropout=0.2, activation="gelu_tanh", bias=False)
attention = tn.MultiHeadAttention(4, dropout=0.3, bias=False)
layers = [tn.Embedding(9, 8), tn.PositionEmbedding(7), tn.ClassToken(), block, attention]
train(layers, rng.integers(0, 9, (3, 7)))
block = tn.TransformerBlock(1, norm_first=False, dropout=0.5, bias=False)
train([tn.ClassToken(), block, tn.Select(0)], x[:, 0])
np.save(sys.argv[1], np.array(results))
"""

# A step of the network of example 01, and which plain loops it runs, with the shapes of their arrays.
DIGITS = """
import json, sys, time
import numpy as np
import tinynet as tn

conv = [tn.Conv2D(filters, 3, padding="same", activation="relu") for filters in (16, 32)]
layers = [*conv, tn.MaxPool2D(2), tn.Flatten(), tn.Dropout(0.3), tn.Dense(10)]
model = tn.Sequential(layers, input_shape=(8, 8, 1), seed=0)
optimizer = tn.Adam(model)
(x, y), _ = tn.data.digits()


def step():
    loss, dlogits = tn.softmax_cross_entropy(model.forward(x[:32], training=True), y[:32])
    model.backward(dlogits)
    optimizer.step()


def watch(frame, event, argument):
    name = frame.f_code.co_name
    if event == "return" and name.endswith("_plain"):
        seen[name] = {key: v.shape for key, v in frame.f_locals.items() if isinstance(v, np.ndarray)}  # the last call's


seconds, seen = [], {}
for _ in range(3):
    start = time.process_time()
    step()
    seconds.append(time.process_time() - start)
sys.setprofile(watch)
step()
sys.setprofile(None)
print(json.dumps([min(seconds), seen]))
"""


def run(program, *arguments, disabled):
    environment = {**os.environ, "NUMBA_DISABLE_JIT": disabled, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return run.stdout


def test_plain_loops_and_kernels_give_the_same_numbers(tmp_path):
    results = []
    for disabled in ("0", "1"):
        path = tmp_path / f"{disabled}.npy"
        run(EVERY_LAYER, path, disabled=disabled)
        results.append(np.load(path))
    assert results[0].size > 10_000
    np.testing.assert_allclose(results[1], results[0], rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def digits():
    return json.loads(run(DIGITS, disabled="1"))


def test_a_step_of_the_first_example_takes_less_than_two_seconds(digits):
    assert digits[0] < 2


def test_a_debugger_sees_arrays_of_the_formulas_shapes(digits):
    seen = {name: {key: tuple(shape) for key, shape in shapes.items()} for name, shapes in digits[1].items()}
    N, I, J, C, K = 32, 3, 3, 16, 32

    def shows(name, **shapes):
        assert shapes.items() <= seen[name].items(), seen[name]

    shows("conv2d_forward_plain", x=(N, 8, 8, C), w=(I, J, C, K), b=(K,), z=(N, 8, 8, K))  # of the second Conv2D
    shows("conv2d_backward_plain", x=(N, 8, 8, 1), dz=(N, 8, 8, 16), dw=(I, J, 1, 16), db=(16,), dx=(N, 8, 8, 1))
    shows("max_pool_forward_plain", x=(N, 8, 8, K), y=(N, 4, 4, K), argmax=(N, 4, 4, K))
    shows("max_pool_backward_plain", dy=(N, 4, 4, K), argmax=(N, 4, 4, K), dx=(N, 8, 8, K))
    shows("dense_forward_plain", x=(N, 4 * 4 * K), w=(4 * 4 * K, 10), b=(10,))
    shows("dense_backward_plain", x=(N, 4 * 4 * K), w=(4 * 4 * K, 10), dz=(N, 10))
