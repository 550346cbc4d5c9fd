"""Entropy, cross-entropy and divergence: values that fit on paper, identities, SciPy, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tinynet.information import cross_entropy, entropy, kl_divergence

P = np.array([0.7, 0.2, 0.1])


def test_a_sure_answer_costs_little_and_a_surprise_much():
    assert cross_entropy([1, 0], [0.8, 0.2]) == pytest.approx(-math.log(0.8))
    assert round(cross_entropy([1, 0], [0.8, 0.2]), 4) == 0.2231
    assert round(cross_entropy([0, 1], [0.8, 0.2]), 4) == 1.6094


def test_of_three_beliefs_the_true_one_costs_exactly_the_entropy():
    q = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7]])
    costs = cross_entropy(P, q)
    assert costs[0] == entropy(P)
    assert round(entropy(P), 4) == 0.8018
    assert round(entropy(P, base=2), 4) == 1.1568
    np.testing.assert_allclose(costs, [0.8018, math.log(3), 1.9694], atol=5e-5)
    np.testing.assert_allclose(kl_divergence(P, q), [0, 0.2968, 1.1675], atol=5e-5)
    assert kl_divergence(P, q)[0] == 0


def test_a_fair_coin_has_one_bit_and_a_fair_die_log_6():
    assert entropy([0.5, 0.5], base=2) == 1
    assert entropy([1 / 6] * 6) == pytest.approx(math.log(6))
    assert entropy([1 / 6] * 6, base=6) == pytest.approx(1)


def test_certainty_has_no_entropy():
    for p in ([1], [0, 1, 0], [True, False]):
        assert entropy(p) == 0
        assert math.copysign(1, entropy(p)) == 1
        assert kl_divergence(p, p) == 0


def test_the_impossible_costs_infinitely_much_and_what_never_happens_nothing():
    assert cross_entropy([0.5, 0.5], [1, 0]) == kl_divergence([0.5, 0.5], [1, 0]) == math.inf
    assert cross_entropy([1, 0], [1, 0]) == kl_divergence([1, 0], [1, 0]) == 0
    assert kl_divergence([1, 0], [0.5, 0.5], base=2) == 1
    assert kl_divergence([1.0, 0.0], [5e-324, 1.0]) == pytest.approx(744.44, abs=0.01)


weights = st.lists(st.floats(0, 1), min_size=6, max_size=6)


@given(weights, weights, st.sampled_from([math.e, 2, 10]))
def test_cross_entropy_is_entropy_and_divergence(a, b, base):
    p, q = np.array([1.0, *a]), np.array([1.0, *b])
    p, q = p / p.sum(), q / q.sum()
    H, KL, both = entropy(p, base=base), kl_divergence(p, q, base=base), cross_entropy(p, q, base=base)
    assert both == H + KL or both == pytest.approx(H + KL, abs=1e-12)  # the first for infinity
    assert KL >= 0
    assert 0 <= H <= math.log(7, base) + 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scipy_agrees_over_200_random_distributions(dtype):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(200):
        N, C = rng.integers(1, 5), rng.integers(1, 30)
        p, q = rng.dirichlet(np.full(C, rng.choice([0.1, 1, 10])), (2, N)).astype(dtype)
        base = rng.choice([2.0, math.e, 10.0])
        p64, q64 = p.astype(float), q.astype(float)
        np.testing.assert_allclose(entropy(p, base=base), stats.entropy(p64, base=base, axis=-1), atol=1e-9)
        expected = stats.entropy(p64, q64, base=base, axis=-1)
        np.testing.assert_allclose(kl_divergence(p, q, base=base), expected, rtol=1e-9, atol=1e-9)


def test_a_row_does_not_depend_on_the_others_and_axes_before_the_last_are_broadcast():
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(5), (4, 1)), rng.dirichlet(np.ones(5), 3)
    every = kl_divergence(p, q)
    assert every.shape == (4, 3)
    assert every.dtype == np.float64
    assert all(every[i, j] == kl_divergence(p[i, 0], q[j]) for i in range(4) for j in range(3))


def test_cross_entropy_is_the_loss_that_is_trained_on():
    rng = np.random.default_rng(2)
    logits, p = rng.standard_normal((6, 4)), rng.dirichlet(np.ones(4), 6)
    q = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses, _ = tn.softmax_cross_entropy(logits, p, reduction="none")
    np.testing.assert_allclose(losses, cross_entropy(p, q), rtol=1e-12)


def test_numbers_written_with_three_digits_count_as_their_shares():
    assert entropy([0.333, 0.333, 0.333]) == pytest.approx(math.log(3), abs=1e-15)
    assert kl_divergence(np.float16([0.1, 0.9]), [0.1, 0.9]) >= 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: entropy([0.5, 0.6]), ValueError, r"entropy: p must sum to 1, but they sum to 1\.1"),
        (lambda: entropy([[1, 0], [0.4, 0.4]]), ValueError, r"p must sum to 1, but those of row 1 sum to 0\.8"),
        (lambda: entropy([[1, 0], [1.5, -0.5]]), ValueError, r"p must be in \[0, 1\], got 1\.5 at position \(1, 0\)"),
        (lambda: cross_entropy(P, [np.nan, 1, 0]), ValueError, r"q must be in \[0, 1\], got nan at position \(0,\)"),
        (lambda: kl_divergence(P, [0.5, 0.5]), ValueError, r"kl_divergence: p and q .* got \(3,\) and \(2,\)"),
        (lambda: kl_divergence([[1], [1]], [[1]] * 3), ValueError, r"got \(2, 1\) and \(3, 1\)"),
        (lambda: entropy(1.0), ValueError, r"p must be \(\.\.\., C\)"),
        (lambda: entropy([]), ValueError, r"one probability for each outcome, got shape \(0,\)"),
        (lambda: entropy([[1], [0.5, 0.5]]), ValueError, "entropy: p is not an array"),
        (lambda: entropy(["a", "b"]), TypeError, "p must hold real numbers"),
        (lambda: entropy([1 + 0j]), TypeError, "p must hold real numbers"),
        (lambda: entropy(P, base="bits"), TypeError, "base must be a number, got 'bits'"),
        (lambda: entropy(P, base=1), ValueError, r"base must be above 1 and finite \(e for nats, 2 for bits\), got 1"),
        (lambda: cross_entropy(P, P, base=math.nan), ValueError, "base must be above 1"),
    ],
)
def test_what_is_no_distribution_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
