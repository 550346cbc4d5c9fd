"""linear_cross_entropy: a dense layer and its loss together are the two apart, whatever the options and the block."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tinynet.kernels import linear_cross_entropy as module
from tinynet.losses.linear_cross_entropy import linear_cross_entropy
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy


def apart(x, w, b, targets, **options):
    """The same by NumPy's matrix products and softmax_cross_entropy."""
    value, dz = softmax_cross_entropy(x @ w + (0 if b is None else b), targets, **options)
    rows, dz = x.reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
    return value, (dz @ w.T).reshape(x.shape), rows.T @ dz, None if b is None else dz.sum(0)


def draw(rng, dtype):
    """A random problem: arrays, targets of either kind, options."""
    lead = [(), (3,), (7,), (2, 5), (60,)][rng.integers(5)]
    D, C = rng.integers(1, 20), int(rng.choice([1, 2, 10, 33, 130, 300]))
    x, w = rng.standard_normal((*lead, D)).astype(dtype), rng.standard_normal((D, C)).astype(dtype)
    b = rng.standard_normal(C).astype(dtype) if rng.random() < 0.7 else None
    options = {"reduction": rng.choice(["mean", "sum", "none"])}
    if rng.random() < 0.3:
        q = rng.random((*lead, C)) + 1e-3
        targets = (q / q.sum(-1, keepdims=True)).astype(dtype)
    else:
        targets = rng.integers(0, C, lead)
        if rng.random() < 0.4:
            targets = np.where(rng.random(lead) < 0.3, -100, targets)
    if rng.random() < 0.4:
        options["weight"] = rng.random(C).astype(dtype)
    if rng.random() < 0.4:
        options["label_smoothing"] = rng.random()
    return (x, w, b, targets), options


def agree(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None
        else:
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 2e-5)])
def test_it_is_the_layer_and_the_loss_apart_for_random_problems_and_options(dtype, tolerance):
    rng = np.random.default_rng(0)
    for _ in range(200):
        problem, options = draw(rng, dtype)
        agree(linear_cross_entropy(*problem, **options), apart(*problem, **options), tolerance)


def test_it_agrees_with_pytorch():
    rng = np.random.default_rng(1)
    x, w, b, t = rng.standard_normal((40, 9)), rng.standard_normal((9, 50)), rng.standard_normal(50), None
    t = rng.integers(0, 50, 40)
    t[3] = -100
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, w, b)]
    loss = F.cross_entropy(tensors[0] @ tensors[1] + tensors[2], torch.tensor(t), label_smoothing=0.1)
    loss.backward()
    expected = [loss.item(), *(v.grad.numpy() for v in tensors)]
    agree(linear_cross_entropy(x, w, b, t, label_smoothing=0.1), expected, 1e-9)


FEW, MANY = (24, 30), (40, 2500)  # (D, C) of either kernel: few classes, and many in two groups


def problem_of(N, D, C):
    rng = np.random.default_rng(2)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in [(N, D), (D, C), (C,)])
    return x, w, b, rng.integers(0, C, N)


def memory_for(rows, D, C):
    """What MEMORY must be for about so many rows in a block, in float32."""
    return module.SCRATCH + 8 * (C + D * C) + 4 * max(C, D) + rows * ((C + 3 * D) * 4 + module.SCRATCH_OF_ROW)


@pytest.mark.parametrize("rows", [1, 5, 12, 50])
@pytest.mark.parametrize(("D", "C"), [FEW, MANY])
def test_the_size_of_a_block_changes_no_bit_of_a_rows_loss_and_gradient(D, C, rows, monkeypatch):
    problem = problem_of(130, D, C)
    if (D, C) == MANY:
        monkeypatch.setattr(module, "PARTS_BYTES", 0)
    whole = linear_cross_entropy(*problem, reduction="none")
    monkeypatch.setattr(module, "MEMORY", memory_for(rows, D, C))
    monkeypatch.setattr(module, "WHOLE", np.inf)
    monkeypatch.setattr(module, "cache_size", lambda level: rows * (C + D) * 16)
    in_blocks = linear_cross_entropy(*problem, reduction="none")
    np.testing.assert_array_equal(in_blocks[0], whole[0])
    np.testing.assert_array_equal(in_blocks[1], whole[1])
    agree(in_blocks, whole, 2e-5)


@pytest.mark.parametrize(("N", "D", "C"), [(300, *FEW), (1000, 5, 2), (130, *MANY), (70, 300, 1000)])
def test_it_is_the_layer_and_the_loss_apart_in_either_kernel(N, D, C, monkeypatch):
    x, w, b, t = (a.astype(float) if a.dtype == np.float32 else a for a in problem_of(N, D, C))
    expected = apart(x, w, b, t)
    for limit in (module.PARTS_BYTES, 0):
        monkeypatch.setattr(module, "PARTS_BYTES", limit)
        agree(linear_cross_entropy(x, w, b, t), expected, 1e-9)


@pytest.mark.parametrize(("N", "D", "C"), [(300, *FEW), (130, *MANY), (130, 50, 50), (90, 5, 70_000)])
def test_transposed_weights_give_the_same_and_a_transposed_gradient(N, D, C, monkeypatch):
    x, w, b, t = problem_of(N, D, C)
    turned, expected = np.ascontiguousarray(w.T).T, linear_cross_entropy(x, w, b, t)
    for limit in (module.PARTS_BYTES, 0):
        monkeypatch.setattr(module, "PARTS_BYTES", limit)
        found = linear_cross_entropy(x, turned, b, t)
        agree(found, expected, 2e-6)
        assert found[2].flags.f_contiguous
        assert linear_cross_entropy(x, turned, b, t, grad=False)[0] == found[0]
    monkeypatch.setattr(module, "MEMORY", memory_for(16, D, C))
    monkeypatch.setattr(module, "WHOLE", np.inf)
    agree(linear_cross_entropy(x, turned, b, t), expected, 2e-5)  # in several blocks


@pytest.mark.parametrize(("N", "D", "C"), [(1000, *FEW), (130, *MANY), (40, 3, 9000)])
def test_the_number_of_threads_changes_no_bit(N, D, C, monkeypatch):
    problem, results, threads = problem_of(N, D, C), [], numba.get_num_threads()
    try:
        for n in range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1):
            numba.set_num_threads(n)
            results.append(linear_cross_entropy(*problem))
    finally:
        numba.set_num_threads(threads)
    for n in (3, 8, 40):  # the work is cut as for so many, also where there are fewer
        monkeypatch.setattr(module.numba, "get_num_threads", lambda n=n: n)
        results.append(linear_cross_entropy(*problem))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


GROWTH = """
import ctypes
import sys
from pathlib import Path
import numpy as np
import tinynet as tn

def resident(which):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))

N, D, C = (int(argument) for argument in sys.argv[1:])
x, w, b, t = np.ones((N, D), "f"), np.ones((D, C), "f"), np.ones(C, "f"), np.zeros(N, int)
tn.linear_cross_entropy(x[:1], w, b, t[:1])  # loads code and starts threads: no cost of the call
ctypes.CDLL(None).malloc_trim(0)  # what that freed, and the process kept, would be used again
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now
before = resident("VmRSS")
results = tn.linear_cross_entropy(x, w, b, t)
print(resident("VmHWM") - before - sum(array.nbytes for array in results[1:]))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux says how much memory was in use")
@pytest.mark.parametrize(
    ("N", "D", "C"),
    [
        (60_000, 256, 10),
        (20_000, 8, 100),
        (20_000, 100, 2000),
        (6000, 512, 8000),
        (300, 16, 50_000),
        (300, 64, 58_400),
    ],
)
def test_it_needs_16_MB_beyond_its_arguments_and_results(N, D, C):
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"} if (os.cpu_count() or 1) > 1 else os.environ
    command = [sys.executable, "-c", GROWTH, *map(str, (N, D, C))]
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) <= 16e6


def test_a_row_has_the_same_bits_in_any_batch():
    rng = np.random.default_rng(3)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in [(70, 24), (24, 300), (300,)])
    t = rng.integers(0, 300, 70)
    losses, dx, _, _ = linear_cross_entropy(x, w, b, t, reduction="none")
    for rows in (slice(0, 1), slice(5, 18), slice(69, 70), slice(10, 70)):
        some, some_dx, _, _ = linear_cross_entropy(x[rows], w, b, t[rows], reduction="none")
        np.testing.assert_array_equal(some, losses[rows])
        np.testing.assert_array_equal(some_dx, dx[rows])


def test_without_gradients_the_value_is_the_same():
    rng = np.random.default_rng(4)
    problem, options = draw(rng, np.float64)
    value = linear_cross_entropy(*problem, **options)[0]
    assert linear_cross_entropy(*problem, grad=False, **options)[1:] == (None, None, None)
    np.testing.assert_array_equal(linear_cross_entropy(*problem, grad=False, **options)[0], value)


X, W, B, T = np.zeros((4, 3)), np.zeros((3, 5)), np.zeros(5), np.zeros(4, int)


@pytest.mark.parametrize(
    ("arguments", "error", "parts"),
    [
        ((X, W.T, B, T), ValueError, ["w", "(3, C)", "(5, 3)"]),
        ((X, W.astype(np.float32), B, T), TypeError, ["w", "float64", "float32"]),
        ((X, W, B[:4], T), ValueError, ["b", "(5,)", "(4,)"]),
        ((X, W, B, T[:3]), ValueError, ["(4,)", "(3,)"]),
        ((X, W, B, T + 5), ValueError, ["position (0,)", "5", "0 to 4"]),
        ((X, W, B, T.astype(float)), TypeError, ["integers", "float64"]),
        ((np.float64(1.0), W, B, T), ValueError, ["(..., D)"]),
        ((X[:0], W, B, T[:0]), ValueError, ["empty"]),
    ],
)
def test_what_it_cannot_use_is_refused(arguments, error, parts):
    with pytest.raises(error) as caught:
        linear_cross_entropy(*arguments)
    for part in ["linear_cross_entropy", *parts]:
        assert part in str(caught.value)


def test_an_ignored_row_gives_no_gradient_even_if_it_is_nan():
    x = np.vstack([np.ones((2, 3)), np.full((1, 3), np.nan)])
    value, *gradients = linear_cross_entropy(x, W, B, np.array([0, 1, -100]))
    expected = linear_cross_entropy(x[:2], W, B, np.array([0, 1]))
    assert value == expected[0]
    np.testing.assert_array_equal(gradients[0][2], 0)
    np.testing.assert_allclose(gradients[1], expected[2])
    np.testing.assert_allclose(gradients[2], expected[3])
    assert np.isnan(x[2]).all()
