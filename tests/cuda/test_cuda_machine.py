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
