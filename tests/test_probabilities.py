"""softmax and sigmoid of logits, against SciPy's and by hand."""

import numpy as np
import pytest
from scipy import special

import tinynet as tn


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_they_are_scipy_s(dtype):
    z = (10 * np.random.default_rng(0).normal(size=(5, 3, 7))).astype(dtype)
    near = {"rtol": 2e-6 if dtype == np.float32 else 1e-14, "atol": 0}
    for mine, theirs in ((tn.softmax(z), special.softmax(z, axis=-1)), (tn.sigmoid(z), special.expit(z))):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, theirs, **near)


def test_large_and_infinite_logits():
    np.testing.assert_array_equal(tn.softmax([[1e30, -1e30, 0], [5, -np.inf, -np.inf]]), [[1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(tn.sigmoid([1e30, -1e30, np.inf, -np.inf, 0]), [1, 0, 1, 0, 0.5])
    assert np.isnan(tn.softmax([np.nan, 1.0])).all()
    assert np.isnan(tn.sigmoid(np.nan))


def test_whole_numbers_are_taken_and_other_things_refused():
    np.testing.assert_allclose(tn.softmax([0, 0]), [0.5, 0.5])
    with pytest.raises(ValueError, match=r"softmax: logits must be \(\.\.\., C\) with at least one class"):
        tn.softmax(3.0)
    with pytest.raises(TypeError, match="sigmoid: logits must hold real numbers"):
        tn.sigmoid(["a"])
