"""What the losses promise, line by line: edge cases, bits, memory, and which input they refuse."""

import numba
import numpy as np
import pytest

from tinynet.losses import softmax_cross_entropy as module
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.losses.sigmoid_cross_entropy import sigmoid_cross_entropy
from tinynet.losses.softmax_cross_entropy import softmax_cross_entropy

DTYPES = [np.float32, np.float64]
# Numbers of classes: for both kernels, and with every remainder of a block.
WIDTHS = [*range(1, 41), 63, 64, 65, 96, 100, 127, 128, 129, 1000, 1024, 1025, 2500]
INF, NAN = np.inf, np.nan


def random_rows(N, C, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((N, C)) * 4).astype(dtype), rng.integers(0, C, N)


# --- edge cases of softmax ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [3, 10, 40, 2500])
class TestSoftmaxEdgeCases:
    def test_every_sample_ignored_or_all_weights_zero_gives_zero(self, C, dtype):
        z, t = random_rows(5, C, dtype)
        for options in ({"ignore_index": 1, "targets": np.ones(5, int)}, {"weight": np.zeros(C), "targets": t}):
            value, gradient = softmax_cross_entropy(z, **options)
            assert value == 0.0
            assert not gradient.any()

    def test_an_ignored_row_may_hold_anything(self, C, dtype):
        z, t = random_rows(6, C, dtype)
        expected, expected_gradient = softmax_cross_entropy(z[3:], t[3:])
        z[0], z[1], z[2] = NAN, INF, -INF
        t[:3] = -100
        for out in (None, z.copy()):
            value, gradient = softmax_cross_entropy(z if out is None else out, t, out=out)
            assert value == expected
            assert (gradient[:3] == 0).all()
            np.testing.assert_array_equal(gradient[3:], expected_gradient)
        losses, _ = softmax_cross_entropy(z, t, reduction="none")
        assert (losses[:3] == 0).all()

    def test_a_masked_class_has_probability_0_and_the_rest_is_exact(self, C, dtype):
        z, _ = random_rows(4, C, dtype)
        z[:, 0] = -INF
        t = np.full(4, C - 1)
        losses, gradient = softmax_cross_entropy(z, t, reduction="none")
        expected, expected_gradient = softmax_cross_entropy(np.ascontiguousarray(z[:, 1:]), t - 1, reduction="none")
        assert (gradient[:, 0] == 0).all()
        tolerance = 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(losses, expected, rtol=tolerance)
        np.testing.assert_allclose(gradient[:, 1:], expected_gradient, rtol=tolerance, atol=tolerance)

    def test_a_target_at_minus_inf_has_an_infinite_loss(self, C, dtype):
        z, t = random_rows(4, C, dtype)
        z[2, t[2]] = -INF
        losses, gradient = softmax_cross_entropy(z, t, reduction="none")
        assert losses[2] == INF
        assert np.isfinite(np.delete(losses, 2)).all()
        assert gradient[2, t[2]] == pytest.approx(-1)  # p - 1, as everywhere
        assert softmax_cross_entropy(z, t, weight=np.where(np.arange(C) == t[2], 0, 1), reduction="none")[0][2] == 0

    def test_a_probability_of_0_on_a_masked_class_is_a_term_of_0(self, C, dtype):
        z, _ = random_rows(4, C, dtype)
        q = np.random.default_rng(1).dirichlet(np.ones(C - 1), 4)
        expected, _ = softmax_cross_entropy(z[:, 1:], q, reduction="none")
        z[:, 0] = -INF
        losses, gradient = softmax_cross_entropy(z, np.hstack([np.zeros((4, 1)), q]), reduction="none")
        np.testing.assert_allclose(losses, expected, rtol=10 * np.finfo(dtype).eps)
        assert (gradient[:, 0] == 0).all()

    def test_smoothing_is_shared_by_the_classes_that_are_not_masked(self, C, dtype):
        z, _ = random_rows(4, C, dtype)
        t = np.full(4, C - 1)
        q = np.eye(C)[t]
        expected, expected_gradient = softmax_cross_entropy(z[:, 1:], t - 1, label_smoothing=0.3, reduction="none")
        z[:, 0] = -INF
        for targets in (t, q):
            for out in (None, z.copy()):
                losses, gradient = softmax_cross_entropy(
                    z if out is None else out, targets, label_smoothing=0.3, reduction="none", out=out
                )
                tolerance = 20 * np.finfo(dtype).eps
                np.testing.assert_allclose(losses, expected, rtol=tolerance)
                assert (gradient[:, 0] == 0).all()
                np.testing.assert_allclose(gradient[:, 1:], expected_gradient, atol=tolerance)

    @pytest.mark.parametrize("bad", [NAN, -NAN, INF])
    def test_a_nan_stays_in_its_row(self, C, dtype, bad):
        z, t = random_rows(5, C, dtype)
        expected, expected_gradient = softmax_cross_entropy(z, t, reduction="none")
        for column in (0, C // 2, C - 1):
            spoilt = z.copy()
            spoilt[3, column] = np.copysign(bad, -1) if bad is -NAN else bad
            for options in ({}, {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "targets": np.eye(C)[t]}):
                losses, gradient = softmax_cross_entropy(spoilt, **{"targets": t, "reduction": "none", **options})
                assert np.isnan(losses[3])
                assert np.isnan(gradient[3]).all()
                assert np.isfinite(np.delete(losses, 3)).all()
                if not options:
                    np.testing.assert_array_equal(np.delete(gradient, 3, 0), np.delete(expected_gradient, 3, 0))
                    np.testing.assert_array_equal(np.delete(losses, 3), np.delete(expected, 3))

    def test_a_row_with_every_class_masked_is_nan(self, C, dtype):
        z, t = random_rows(3, C, dtype)
        z[1] = -INF
        losses, gradient = softmax_cross_entropy(z, t, reduction="none")
        assert np.isnan(losses).tolist() == [False, True, False]
        assert np.isnan(gradient).any(axis=1).tolist() == [False, True, False]

    @pytest.mark.parametrize("size", [1e4, 1e30])
    def test_huge_logits_are_exact(self, C, dtype, size):
        z = np.zeros((3, C), dtype)
        z[0, 0], z[1], z[2, 1] = size, dtype(size), -size
        losses, gradient = softmax_cross_entropy(z, [0, 1, 1], reduction="none")
        assert losses[0] == 0
        assert losses[1] == pytest.approx(np.log(C), rel=1e-6)
        assert losses[2] == dtype(np.float64(dtype(size)) + np.log(C - 1))
        assert np.isfinite(gradient).all()
        smooth = softmax_cross_entropy(z, [0, 1, 1], label_smoothing=0.5)[0]
        assert np.isfinite(smooth)

    def test_a_masked_class_far_below_the_rest_gets_no_smoothing(self, C, dtype):
        z = np.zeros((1, C), dtype)
        z[0, :-1] = -900  # exp(-900) is 0 even in float64
        z[0, 0] = -INF
        _, gradient = softmax_cross_entropy(z, [C - 1], label_smoothing=0.5)
        assert gradient[0, 0] == 0
        np.testing.assert_allclose(gradient[0, 1:-1], -0.5 / (C - 1), rtol=1e-5)

    def test_masked_blocks_may_come_first(self, C, dtype):
        z, t = random_rows(2, C, dtype)
        z[:, : C - 1] = -INF
        t[:] = C - 1
        for options in ({}, {"label_smoothing": 0.5}):
            value, gradient = softmax_cross_entropy(z, t, **options)
            assert value == 0
            assert not gradient.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class_has_no_loss(dtype):
    for targets in (np.zeros(3, int), np.ones((3, 1))):
        value, gradient = softmax_cross_entropy(np.array([[-7], [0], [1e30]], dtype), targets)
        assert value == 0
        assert not gradient.any()


def test_the_denominator_replaces_the_count():
    z, t = random_rows(10, 7, np.float64)
    whole, gradient = softmax_cross_entropy(z, t)
    parts = [softmax_cross_entropy(z[i], t[i], denominator=10) for i in (slice(0, 4), slice(4, 10))]
    assert sum(value for value, _ in parts) == pytest.approx(whole, rel=1e-14)
    np.testing.assert_allclose(np.vstack([g for _, g in parts]), gradient, rtol=1e-14)
    whole, _ = sigmoid_cross_entropy(z, z > 0)
    assert sum(sigmoid_cross_entropy(part, part > 0, denominator=70)[0] for part in (z[:4], z[4:])) == pytest.approx(
        whole
    )
    assert mean_squared_error(z, z + 2, denominator=35)[0] == pytest.approx(8)


# --- edge cases of sigmoid ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
class TestSigmoidEdgeCases:
    def test_infinite_logits_give_the_limits(self, dtype):
        z = np.array([INF, -INF, INF, -INF], dtype)
        losses, gradient = sigmoid_cross_entropy(z, [1, 0, 0, 1], reduction="none")
        np.testing.assert_array_equal(losses, [0, 0, INF, INF])
        np.testing.assert_array_equal(gradient, [0, 0, 1, -1])
        assert (sigmoid_cross_entropy(z, [1, 0, 0, 1], weight=0, reduction="none")[0] == 0).all()

    def test_a_nan_stays_where_it_is_and_counts_nowhere_if_ignored(self, dtype):
        z = np.array([NAN, 1, -2], dtype)
        for options in ({}, {"pos_weight": 0, "label_smoothing": 0}, {"weight": 0}):
            losses, gradient = sigmoid_cross_entropy(z, [1, 1, 0], reduction="none", **options)
            assert np.isnan(losses).tolist() == [True, False, False]
            assert np.isnan(gradient).tolist() == [True, False, False]
        value, gradient = sigmoid_cross_entropy(z, [-1, 1, 0], ignore_index=-1)
        assert value == sigmoid_cross_entropy(z[1:], [1, 0])[0]
        assert gradient[0] == 0

    def test_all_ignored_gives_zero(self, dtype):
        value, gradient = sigmoid_cross_entropy(np.full(4, NAN, dtype), [-1] * 4, ignore_index=-1)
        assert value == 0
        assert not gradient.any()

    @pytest.mark.parametrize("size", [1e4, 1e30])
    def test_huge_logits_are_exact(self, dtype, size):
        losses, gradient = sigmoid_cross_entropy(np.array([size, -size], dtype), [0, 1], reduction="none")
        assert (losses == dtype(size)).all()
        np.testing.assert_array_equal(gradient, [1, -1])

    def test_small_losses_keep_their_digits(self, dtype):
        losses, gradient = sigmoid_cross_entropy(np.array([30, -30], dtype), [1, 0], reduction="none")
        np.testing.assert_allclose(losses, np.exp(-30), rtol=2e-6)
        np.testing.assert_allclose(gradient, [-np.exp(-30), np.exp(-30)], rtol=2e-6)


# --- bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", WIDTHS)
def test_a_row_has_the_same_bits_in_any_batch(C, dtype):
    for options in ({}, {"label_smoothing": 0.1}, {"soft": True}):
        N = 150 if C <= 128 else 20  # more rows than are handled side by side
        z, t = random_rows(N, C, dtype)
        targets = np.random.default_rng(1).dirichlet(np.ones(C), N) if options.pop("soft", False) else t
        losses, gradient = softmax_cross_entropy(z, targets, reduction="none", **options)
        sizes = {1, 2, 3, 15, 16, 17, 63, 64, 65, 100, N - 1} if C <= 128 else {1, 3, N - 1}
        for size in sizes:
            for first in (0, N - size):
                some = slice(first, first + size)
                part, part_gradient = softmax_cross_entropy(z[some], targets[some], reduction="none", **options)
                np.testing.assert_array_equal(part, losses[some])
                np.testing.assert_array_equal(part_gradient, gradient[some])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4096, 2), (3000, 10), (1111, 33), (700, 100), (350, 200), (40, 3000)])
def test_any_number_of_threads_gives_the_same_bits(shape, dtype, monkeypatch):
    z, t = random_rows(*shape, dtype)
    q = np.random.default_rng(2).dirichlet(np.ones(shape[1]), shape[0])
    w = np.random.default_rng(3).uniform(0.5, 2, shape[1])

    def run():
        return [
            softmax_cross_entropy(z, t, weight=w),
            softmax_cross_entropy(z, t, weight=w, label_smoothing=0.1),
            softmax_cross_entropy(z, q, label_smoothing=0.1, reduction="sum"),
            sigmoid_cross_entropy(z, q, weight=w),
            mean_squared_error(z, q),
        ]

    threads = numba.get_num_threads()
    results = []
    try:
        for n in {1, threads}:
            numba.set_num_threads(n)
            results.append(run())
    finally:
        numba.set_num_threads(threads)
    for kernels in (module.loss.kernels, module.loss.few_kernels, module.loss.few_soft_kernels):
        monkeypatch.setitem(kernels, True, kernels[False])
    results.append(run())
    for other in results[1:]:
        for (value, gradient), (other_value, other_gradient) in zip(results[0], other, strict=True):
            assert value == other_value
            np.testing.assert_array_equal(gradient, other_gradient)


# --- memory ---------------------------------------------------------------------------------------------------


def losses_with_targets(z):
    rng = np.random.default_rng(5)
    C = z.shape[-1]
    t, q = rng.integers(0, C, z.shape[:-1]), rng.dirichlet(np.ones(C), z.shape[:-1])
    return [
        (softmax_cross_entropy, t, {}),
        (softmax_cross_entropy, t, {"label_smoothing": 0.2, "weight": rng.uniform(0, 1, C)}),
        (softmax_cross_entropy, q, {"label_smoothing": 0.2}),
        (sigmoid_cross_entropy, q, {"pos_weight": rng.uniform(0, 1, C)}),
        (mean_squared_error, q, {}),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (130, 10), (9, 50), (4, 2500), (7,), (2, 3, 4)])
def test_out_receives_the_gradient_and_may_be_the_logits(shape, dtype):
    z = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    untouched = z.copy()
    for loss, t, options in losses_with_targets(z):
        value, gradient = loss(z, t, **options)
        np.testing.assert_array_equal(z, untouched)
        assert not np.may_share_memory(gradient, z)
        only_value, nothing = loss(z, t, grad=False, **options)
        assert only_value == value
        assert nothing is None
        double = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)
        for out in (np.full(shape, NAN, dtype), double[..., ::2], np.full(shape, NAN, z.dtype.newbyteorder())):
            other, returned = loss(z, t, out=out, **options)
            assert returned is out
            assert other == value
            np.testing.assert_array_equal(out, gradient)
        assert not double[..., 1::2].any()
        in_place = z.copy()
        other, returned = loss(in_place, t, out=in_place, **options)
        assert returned is in_place
        assert other == value
        np.testing.assert_array_equal(in_place, gradient)


def test_out_may_overlap_the_logits_or_the_targets():
    memory = np.random.default_rng(0).standard_normal(46)
    z, t = memory[:40].reshape(4, 10), np.array([1, 2, 3, 4])
    value, gradient = softmax_cross_entropy(z.copy(), t)
    other, shifted = softmax_cross_entropy(z, t, out=memory[6:].reshape(4, 10))
    assert other == value
    np.testing.assert_array_equal(shifted, gradient)
    z, y = np.random.default_rng(1).standard_normal((2, 4, 10))
    value, gradient = mean_squared_error(z, y)
    mean_squared_error(z, y, out=y)
    np.testing.assert_array_equal(y, gradient)


@pytest.mark.parametrize("shape", [(5, 3), (70, 10), (9, 50)])
def test_any_layout_and_byte_order_gives_the_right_answer(shape):
    z = np.random.default_rng(0).standard_normal(shape)
    read_only = z.copy()
    read_only.flags.writeable = False
    misaligned = np.zeros(z.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(shape)
    misaligned[:] = z
    for loss, t, options in losses_with_targets(z):
        value, gradient = loss(z, t, **options)
        for same in (
            np.asfortranarray(z),
            np.repeat(z, 2, axis=1)[:, ::2],
            z[::-1, ::-1].copy()[::-1, ::-1],
            z.astype(z.dtype.newbyteorder()),
            read_only,
            misaligned,
            z.tolist(),
        ):
            other, other_gradient = loss(same, np.asfortranarray(t), **options)
            assert other == value
            assert other_gradient.dtype == np.float64
            np.testing.assert_array_equal(other_gradient, gradient)
        frozen = t.astype(t.dtype.newbyteorder())
        frozen.flags.writeable = False
        assert loss(z, frozen, **options)[0] == value


def compiled_for():
    return [
        len(kernels[False].signatures)
        for kernels in (module.loss.kernels, module.loss.few_kernels, module.loss.few_soft_kernels)
    ]


def test_inputs_compile_no_further_kernels():
    z, t = random_rows(4, 3, np.float32)
    softmax_cross_entropy(z, t)
    softmax_cross_entropy(z, np.eye(3)[t])
    before = compiled_for()
    z.flags.writeable = t.flags.writeable = False
    softmax_cross_entropy(np.asfortranarray(z), t.astype(np.uint8), weight=[1, 2, 3], reduction="none")
    softmax_cross_entropy(z, np.eye(3, dtype=">f8")[t], ignore_index=-100, label_smoothing=1, grad=False)
    assert compiled_for() == before


# --- what is refused ------------------------------------------------------------------------------------------

Z = np.zeros((4, 3), np.float32)
T = np.array([0, 1, 2, 0])
Q = np.full((4, 3), 1 / 3)

ce, bce, mse = softmax_cross_entropy, sigmoid_cross_entropy, mean_squared_error

REFUSED = [
    (ValueError, r"position \(2,\) is 3, but the 3 classes are from 0 to 2", lambda: ce(Z, [0, 1, 3, 0])),
    (ValueError, "count from 1", lambda: ce(Z, [1, 2, 3, 1])),
    (ValueError, "ignore_index=-1", lambda: ce(Z, [0, -1, 2, 0])),
    (ValueError, "is 18446744073709551615", lambda: ce(Z, np.array([0, 1, 2, 2**64 - 1], np.uint64))),
    (ValueError, r"position \(1, 0\)", lambda: ce(Z.reshape(2, 2, 3), [[0, 0], [7, 0]])),
    (ValueError, "one-hot", lambda: ce(Z, np.eye(3, dtype=int)[T])),
    (ValueError, "last axis", lambda: ce(Z, T[:, None])),
    (ValueError, r"shape \(4,\), got \(3,\)", lambda: ce(Z, T[:3])),
    (TypeError, "astype", lambda: ce(Z, T.astype(float))),
    (TypeError, "dtype bool", lambda: ce(Z, T > 0)),
    (TypeError, "dtype complex128", lambda: ce(Z, T + 0j)),
    (ValueError, "must have the prediction's shape", lambda: ce(Z, Q[:, :2])),
    (ValueError, r"sum to 1, but those at position \(3,\) sum to 0.5", lambda: ce(Z, Q * np.c_[[1, 1, 1, 0.5]])),
    (ValueError, r"in \[0, 1\], got -0.5 at position \(0, 1\)", lambda: ce(Z, [[1, -0.5, 0.5]] * 4)),
    (ValueError, "got nan at position", lambda: ce(Z, Q * [1, NAN, 1])),
    (ValueError, "ignore_index belongs", lambda: ce(Z, Q, ignore_index=0)),
    (TypeError, "logits must be float32 or float64, got an array of dtype int64", lambda: ce(Z.astype(int), T)),
    (TypeError, "float16", lambda: ce(Z.astype(np.float16), T)),
    (ValueError, "must not be empty", lambda: ce(Z[:0], T[:0])),
    (ValueError, "must not be empty", lambda: ce(Z[:, :0], T)),
    (ValueError, "got one number", lambda: ce(np.float32(1), 0)),
    (ValueError, "not an array", lambda: ce([[1.0], [2.0, 3.0]], [0, 0])),
    (ValueError, r"weight must have shape \(3,\)", lambda: ce(Z, T, weight=[1, 2])),
    (ValueError, "got -1.0 for class 1", lambda: ce(Z, T, weight=[1, -1, 1])),
    (ValueError, "got nan for class 2", lambda: ce(Z, T, weight=[1, 1, NAN])),
    (ValueError, "got inf for class 0", lambda: ce(Z, T, weight=[INF, 1, 1])),
    (TypeError, "real numbers", lambda: ce(Z, T, weight=["a", "b", "c"])),
    (ValueError, r"label_smoothing must be in \[0, 1\], got 1.5", lambda: ce(Z, T, label_smoothing=1.5)),
    (ValueError, "got nan", lambda: ce(Z, T, label_smoothing=NAN)),
    (TypeError, "got None", lambda: ce(Z, T, label_smoothing=None)),
    (ValueError, "got 'average'", lambda: ce(Z, T, reduction="average")),
    (ValueError, 'denominator belongs to reduction="mean"', lambda: ce(Z, T, reduction="sum", denominator=3)),
    (ValueError, "positive and finite", lambda: ce(Z, T, denominator=0)),
    (TypeError, "denominator must be a number", lambda: ce(Z, T, denominator="4")),
    (TypeError, "ignore_index must be a whole number", lambda: ce(Z, T, ignore_index=1.5)),
    (ValueError, "64 bits", lambda: ce(Z, T, ignore_index=2**70)),
    (TypeError, "out must be a NumPy array", lambda: ce(Z, T, out=[])),
    (ValueError, "out must have the prediction's shape", lambda: ce(Z, T, out=np.empty((3, 4), np.float32))),
    (TypeError, "out must have the prediction's dtype float32", lambda: ce(Z, T, out=np.empty((4, 3)))),
    (ValueError, "read-only", lambda: ce(Z, T, out=np.broadcast_to(np.float32(0), (4, 3)))),
    (ValueError, "grad=False", lambda: ce(Z, T, grad=False, out=Z)),
    (ValueError, r"must be in \[0, 1\], got 1.5 at position \(1, 1\)", lambda: bce(Z, np.diag([0, 1.5, 0, 0])[:, :3])),
    (ValueError, "ignore_index=-1", lambda: bce(Z, Q * 0 - 1)),
    (ValueError, "softmax_cross_entropy", lambda: bce(Z[:, 0], [0, 1, 2, 3])),
    (ValueError, "got nan", lambda: bce(Z, Q * NAN, ignore_index=-1)),
    (ValueError, r"prediction's shape \(4, 1\), got \(4,\)", lambda: bce(Z[:, :1], T > 0)),
    (TypeError, "real numbers", lambda: bce(Z, Q.astype(str))),
    (ValueError, "pos_weight must have shape", lambda: bce(Z, Q, pos_weight=[1, 2, 3, 4])),
    (ValueError, "weight must be finite", lambda: bce(Z, Q, weight=-1)),
    (ValueError, r"prediction's shape \(4, 3\), got \(4,\)", lambda: mse(Z, T)),
    (TypeError, "prediction must be float32 or float64", lambda: mse([1, 2], [1, 2])),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "call"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_bad_input_is_refused_with_a_message_that_helps(error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    assert str(caught.value).startswith(("softmax_cross_entropy: ", "sigmoid_cross_entropy: ", "mean_squared_error: "))


@pytest.mark.parametrize("C", [3, 40, 3000])
def test_a_bad_target_leaves_out_untouched(C):
    for N in (4, 3000 if C < 3000 else 20):
        z, t = random_rows(N, C, np.float32)
        t[N // 2] = C
        q = np.full((N, C), 1 / C)
        q[N // 2, 1] = -1
        for out in (z, np.full_like(z, 7)):
            before = out.copy()
            for targets in (t, q):
                with pytest.raises(ValueError, match=rf"position \({N // 2},"):
                    softmax_cross_entropy(z, targets, out=out)
            with pytest.raises(ValueError, match=rf"position \({N // 2}, 1\)"):
                sigmoid_cross_entropy(z, q, out=out)
            np.testing.assert_array_equal(out, before)


def test_the_first_bad_row_is_the_one_that_is_named():
    q = np.full((4000, 10), 0.1)
    q[[700, 2500, 3999]] = 1
    with pytest.raises(ValueError, match=r"position \(700,\)"):
        softmax_cross_entropy(np.zeros((4000, 10)), q)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("C", [3, 200])
def test_a_row_with_all_of_its_classes_masked_is_nan_and_its_neighbours_are_untouched(C, label_smoothing):
    z = np.zeros((3, C))
    expected, expected_dz = softmax_cross_entropy(z[1], 1, label_smoothing=label_smoothing, reduction="none")
    z[[0, 2]] = -INF
    soft = np.full((3, C), 1 / C)
    for targets in (np.array([0, 1, 2]), soft):
        losses, dz = softmax_cross_entropy(z, targets, label_smoothing=label_smoothing, reduction="none")
        assert not np.isfinite(losses[[0, 2]]).any()  # soft targets at -inf make it inf
        assert np.isnan(dz[[0, 2]]).all()
        assert np.isfinite(losses[1])
        assert np.isfinite(dz[1]).all()
        if targets is not soft:
            assert losses[1] == expected
            np.testing.assert_array_equal(dz[1], expected_dz)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_one_class_has_no_gradient_however_its_target_is_rounded(dtype, smoothing):
    rng = np.random.default_rng(0)
    z, q = rng.standard_normal((50, 1)).astype(dtype), (1 - 5e-4 * rng.random((50, 1))).astype(dtype)
    w = np.array([0.3], dtype)
    for targets in (q, np.zeros(50, int)):
        value, gradient = softmax_cross_entropy(z, targets, weight=w, label_smoothing=smoothing)
        assert value == 0
        assert (gradient == 0).all()
    z[3] = np.nan
    gradient = softmax_cross_entropy(z, q, label_smoothing=smoothing)[1]
    assert np.isnan(gradient[3, 0])
    assert (np.delete(gradient, 3) == 0).all()


@pytest.mark.parametrize("C", [3, 200])
def test_weights_and_denominators_too_small_for_float32_alone_cancel(C):
    z, t = np.zeros((2, C), np.float32), np.array([0, 1])
    weight = np.full(C, 1e-39, np.float32)
    expected = softmax_cross_entropy(z, t)[1]
    for options in ({}, {"denominator": 2 * float(weight[0])}):
        np.testing.assert_allclose(softmax_cross_entropy(z, t, weight=weight, **options)[1], expected, rtol=1e-6)
    weight[0] = 0
    gradient = softmax_cross_entropy(z, t, weight=weight)[1]
    assert (gradient[0] == 0).all()
    np.testing.assert_allclose(gradient[1], 2 * expected[1], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("C", [4, 200])
def test_a_row_with_a_nan_and_a_masked_class_is_all_nan(C, smoothing):
    z = np.zeros((2, C))
    z[0, :2] = np.nan, -np.inf
    losses, gradient = softmax_cross_entropy(z, [2, 2], label_smoothing=smoothing, reduction="none")
    assert np.isnan(losses[0])
    assert np.isnan(gradient[0]).all()
    assert np.isfinite(gradient[1]).all()
