"""The CUDA kernels, compiled and run instruction by instruction on ptx_machine.py, against the CPU's.

The tables of cases are the simulator's (cuda_simulated.py), and that of what the losses promise, whose tests get the
kernels in place of the CPU's functions.
"""

import cuda_simulated
import numpy as np
import pytest
import test_losses_promises
from cuda_simulated import TestSigmoid, TestSoftmax  # noqa: F401  collected here, like those below

from tinynet import sigmoid_cross_entropy, softmax_cross_entropy

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
pytest.importorskip("numba_cuda")

from ptx_driver import Driver  # noqa: E402
from test_losses_promises import (  # noqa: E402
    TestSigmoidEdgeCases,  # noqa: F401
    TestSoftmaxEdgeCases,  # noqa: F401
    test_a_bad_target_leaves_out_untouched,  # noqa: F401
    test_a_row_with_a_nan_and_a_masked_class_is_all_nan,  # noqa: F401
    test_a_row_with_all_of_its_classes_masked_is_nan_and_its_neighbours_are_untouched,  # noqa: F401
    test_one_class_has_no_gradient_however_its_target_is_rounded,  # noqa: F401
    test_one_class_has_no_loss,  # noqa: F401
    test_the_denominator_replaces_the_count,  # noqa: F401
    test_the_first_bad_row_is_the_one_that_is_named,  # noqa: F401
    test_weights_and_denominators_too_small_for_float32_alone_cancel,  # noqa: F401
)


def on_machine(loss, driver):
    """The loss as a function of arrays on the host, which runs on the machine."""

    def run(logits, targets, *, out=None, **options):
        z = driver.to_device(np.asarray(logits))
        target = z if out is logits else None if out is None else driver.to_device(out)
        for name, option in options.items():
            if name in ("weight", "pos_weight") and np.ndim(option):
                options[name] = driver.to_device(np.asarray(option))
        try:
            value, gradient = loss(z, driver.to_device(np.asarray(targets)), out=target, **options)
        finally:
            if out is not None:
                out[...] = target.copy_to_host()
        value, gradient = value.copy_to_host()[()], gradient and gradient.copy_to_host()
        return value, gradient if out is None else out

    return run


@pytest.fixture(autouse=True)
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(cuda_simulated, "cuda", driver)
    for loss in (softmax_cross_entropy, sigmoid_cross_entropy):
        monkeypatch.setattr(test_losses_promises, loss.__name__, on_machine(loss, driver))
    with driver.in_place():
        yield driver


def rounded_to(dtype, x):
    """x as it is on the device in this dtype, and the numbers that these are."""
    if dtype != "bfloat16":
        return x.astype(dtype), x.astype(dtype).astype("f8" if dtype == "float64" else "f4")
    bits = cuda_simulated.to_bfloat16(x)
    return bits.view("V2"), cuda_simulated.from_bfloat16(bits)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("C", [8, 64, 304, 640, 1040])  # a thread, 8, 16, 32 lanes, and a block have a row
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("wide", [False, True])
def test_every_specialisation_of_softmax(driver, dtype, C, soft, smoothing, wide):
    logits, targets, weight = cuda_simulated.softmax_case(C, N=3, soft=soft, seed=1)
    z, exact_z = rounded_to(dtype, logits)
    few_digits = dtype in ("float16", "bfloat16")
    t, exact_t = rounded_to(dtype, targets) if soft else (targets, targets)
    if soft and few_digits:  # The CPU's check of their sum is stricter than rounded probabilities can be.
        exact_t = exact_t / exact_t.sum(axis=1, keepdims=True)
    weight = weight.astype(exact_z.dtype)
    first = 0 if wide else 1  # an array that starts behind its first number starts no pack
    memory = driver.to_device(np.concatenate([z.ravel()[:1], z.ravel()]) if first else z.ravel())
    z = memory[first:].reshape(3, C)
    options = {"label_smoothing": smoothing, "reduction": "none"}
    losses, gradient = softmax_cross_entropy(z, driver.to_device(t), weight=driver.to_device(weight), out=z, **options)
    expected, slope = softmax_cross_entropy(exact_z, exact_t, weight=weight, **options)
    tolerance = {"float64": 1e-13, "float32": 2e-6}.get(dtype, 1e-2 if soft else 2e-6)
    np.testing.assert_allclose(losses.copy_to_host(), expected, rtol=tolerance)
    got = gradient.copy_to_host()
    got = cuda_simulated.from_bfloat16(got.view(np.uint16)) if dtype == "bfloat16" else got.astype(exact_z.dtype)
    np.testing.assert_allclose(got, slope, rtol=1e-2 if few_digits else 1e-5, atol=(1e-2 if few_digits else tolerance))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_every_specialisation_of_sigmoid(driver, dtype, weighted, wide):
    logits, targets, weight, _ = cuda_simulated.sigmoid_case((30, 37), seed=1)
    (z, exact_z), (t, exact_t) = rounded_to(dtype, logits), rounded_to(dtype, targets)
    first = 0 if wide else 1
    z = driver.to_device(np.concatenate([z.ravel()[:1], z.ravel()]) if first else z.ravel())[first:].reshape(30, 37)
    weight = weight.astype(exact_z.dtype) if weighted else None
    given = None if weight is None else driver.to_device(weight)
    losses, gradient = sigmoid_cross_entropy(z, driver.to_device(t), weight=given, out=z, reduction="none")
    expected, slope = sigmoid_cross_entropy(exact_z, exact_t, weight=weight, reduction="none")
    np.testing.assert_allclose(losses.copy_to_host(), expected, rtol=1e-12 if dtype == "float64" else 4e-6)
    got = gradient.copy_to_host()
    got = cuda_simulated.from_bfloat16(got.view(np.uint16)) if dtype == "bfloat16" else got.astype(exact_z.dtype)
    few_digits = dtype in ("float16", "bfloat16")
    np.testing.assert_allclose(got, slope, rtol=1e-2 if few_digits else 1e-5, atol=1e-6)
