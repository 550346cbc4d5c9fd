"""The CUDA kernels in Numba's simulator, against the CPU's.  test_cuda_simulator.py runs this in processes of its own,

    NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/cuda/cuda_simulated.py

since the simulator is chosen once for a process.  Every CUDA thread is a thread of Python there, so arrays are small.
"""

import itertools
import sys

import numpy as np
import pytest
from numba import cuda

import tinynet as tn
from tinynet.cuda import arrays as cuda_arrays
from tinynet.cuda import device as cuda_device

sys.setswitchinterval(5e-4)  # The simulator waits for its threads in a busy loop: at 5 ms this takes 3 times as long.

# The simulator computes inf - inf and the like with NumPy's scalars, which warn.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

GROUPS = {"thread": 7, "lanes": 40, "lanes, whole packs": 64, "warp": 514, "block": 1030, "block, whole packs": 1040}
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-13}
NAN, INF = np.nan, np.inf


def test_the_simulator_is_on():
    assert cuda_device.SIMULATOR


def on_device(x):
    return cuda.to_device(x) if isinstance(x, np.ndarray) else x


def on_gpu(loss, logits, targets, **options):
    """loss of the arrays copied to the device: its value and gradient, copied back."""
    options = {name: on_device(option) for name, option in options.items()}
    value, gradient = loss(on_device(logits), on_device(targets), **options)
    return value.copy_to_host()[()], None if gradient is None else gradient.copy_to_host()


def assert_close(got, expected, tolerance):
    """Equal NaN and infinities; the others differ by at most `tolerance` of the largest."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(np.where(np.isinf(got), got, 0), np.where(np.isinf(expected), expected, 0))
    finite = np.isfinite(expected)
    largest = np.abs(expected[finite]).max(initial=0)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=tolerance * largest)


def assert_same_as_cpu(loss, logits, targets, tolerance=None, **options):
    tolerance = tolerance or TOLERANCE[logits.dtype.type]
    before = [np.copy(x) for x in (logits, targets)]
    value, gradient = on_gpu(loss, logits, targets, **options)
    expected, slope = loss(logits, targets, **options)
    assert_close(value, expected, tolerance)
    assert value.dtype == logits.dtype
    if slope is None:
        assert gradient is None
    else:
        assert gradient.dtype == slope.dtype
        assert_close(gradient, slope, tolerance)
    for x, y in zip((logits, targets), before, strict=True):
        np.testing.assert_array_equal(x, y)


def softmax_case(C, dtype=np.float32, N=3, soft=False, seed=0):
    random = np.random.default_rng(seed)
    logits = (4 * random.normal(size=(N, C))).astype(dtype)
    targets = random.dirichlet(np.ones(C), N).astype(dtype) if soft else random.integers(0, C, N)
    return logits, targets, random.uniform(0.5, 2, C).astype(dtype)


def to_bfloat16(x):
    """Rounded to nearest, ties to even, as the upper 16 bits of float32."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


# --- softmax ----------------------------------------------------------------------------------------------------


class TestSoftmax:
    loss = staticmethod(tn.softmax_cross_entropy)

    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("group", GROUPS)
    @pytest.mark.parametrize("soft", [False, True])
    def test_every_option_gives_what_it_gives_on_the_cpu(self, soft, group, dtype):
        logits, targets, weight = softmax_case(GROUPS[group], dtype, N=2 if "block" in group else 3, soft=soft)
        if not soft:
            targets[0] = -100
        reductions = itertools.cycle(("mean", "sum", "none"))
        for w, epsilon in itertools.product((None, weight), (0.0, 0.1)):
            assert_same_as_cpu(
                self.loss, logits, targets, weight=w, label_smoothing=epsilon, reduction=next(reductions)
            )

    @pytest.mark.parametrize("soft", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("group", ["thread", "lanes"])
    def test_reductions_with_all_options_and_without_gradient(self, group, reduction, soft):
        logits, targets, weight = softmax_case(GROUPS[group], soft=soft)
        options = {"weight": weight, "label_smoothing": 0.2, "reduction": reduction}
        assert_same_as_cpu(self.loss, logits, targets, grad=False, **options)
        assert_same_as_cpu(self.loss, logits, targets, **options)

    @pytest.mark.parametrize("C", [1, 2, 31, 32, 33, 127, 128, 129, 256, 257, 512, 1000, 1024, 1025, 2050])
    def test_sizes_around_a_warp_and_a_block(self, C):
        logits, targets, _ = softmax_case(C, N=2)
        assert_same_as_cpu(self.loss, logits, targets)

    @pytest.mark.parametrize("N", [1, 7, 8, 9, 31, 33, 127, 128, 129])
    def test_rows_around_a_warp_and_a_block(self, N):
        assert_same_as_cpu(self.loss, *softmax_case(3, N=N)[:2])
        if N < 10:
            assert_same_as_cpu(self.loss, *softmax_case(33, N=N)[:2])

    def test_more_rows_than_one_chunk_of_a_sum(self):
        logits, targets, weight = softmax_case(2, N=cuda_device.CHUNK + 3)
        assert_same_as_cpu(self.loss, logits, targets, weight=weight)

    def test_leading_shapes(self):
        logits, targets, _ = softmax_case(5, N=6)
        for shape in ((2, 3), (6,), (1, 2, 3)):
            z, t = logits.reshape(*shape, 5), targets.reshape(shape)
            assert_same_as_cpu(self.loss, z, t, reduction="none")
            assert_same_as_cpu(self.loss, z, t)
        assert_same_as_cpu(self.loss, logits[0], targets[0, ...])
        assert_same_as_cpu(self.loss, logits[0], targets[0, ...], reduction="none")

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.uint64])
    def test_labels_of_any_integer_type(self, dtype):
        logits, targets, _ = softmax_case(5)
        assert_same_as_cpu(self.loss, logits, targets.astype(dtype))

    @pytest.mark.parametrize("C", [7, 64, 1040])
    def test_arrays_that_do_not_start_where_a_pack_may(self, C):
        logits, targets, _ = softmax_case(C)
        expected = on_gpu(self.loss, logits, targets, reduction="none")
        shifted = cuda.to_device(np.concatenate([np.zeros(1, logits.dtype), logits.ravel()]))[1:].reshape(logits.shape)
        assert not cuda_arrays.aligned(shifted)
        value, gradient = self.loss(shifted, cuda.to_device(targets), reduction="none")
        np.testing.assert_array_equal(value.copy_to_host(), expected[0])
        np.testing.assert_array_equal(gradient.copy_to_host(), expected[1])

    @pytest.mark.parametrize("soft", [False, True])
    def test_arrays_of_any_layout(self, soft):
        logits, targets, _ = softmax_case(6, N=4, soft=soft)
        expected = on_gpu(self.loss, logits, targets)
        fortran = cuda.to_device(np.asfortranarray(logits))
        strided = cuda.to_device(np.repeat(targets, 2, axis=0))[::2]
        for out in (None, cuda.to_device(np.full_like(logits, 9, order="F")), cuda.to_device(np.full_like(logits, 9))):
            value, gradient = self.loss(fortran, strided, out=out)
            assert out is None or gradient is out
            assert value.copy_to_host() == expected[0]
            np.testing.assert_array_equal(gradient.copy_to_host(), expected[1])
        np.testing.assert_array_equal(fortran.copy_to_host(), logits)

    @pytest.mark.parametrize("C", [5, 40, 1040])
    @pytest.mark.parametrize("soft", [False, True])
    def test_the_gradient_in_place_of_the_logits(self, soft, C):
        logits, targets, _ = softmax_case(C, soft=soft)
        value, gradient = on_gpu(self.loss, logits, targets)
        device = cuda.to_device(logits)
        in_place, result = self.loss(device, cuda.to_device(targets), out=device)
        assert result is device
        assert in_place.copy_to_host() == value
        np.testing.assert_array_equal(device.copy_to_host(), gradient)

    def test_out_that_overlaps_what_is_read(self):
        logits, q, _ = softmax_case(4, N=3, soft=True)
        expected = on_gpu(self.loss, logits, q)
        memory = cuda.to_device(np.concatenate([logits, logits]).ravel())
        memory[:12] = logits.ravel()
        z, out = memory[:12].reshape(3, 4), memory[4:16].reshape(3, 4)
        np.testing.assert_array_equal(self.loss(z, cuda.to_device(q), out=out)[1].copy_to_host(), expected[1])
        targets = cuda.to_device(q)
        np.testing.assert_array_equal(
            self.loss(cuda.to_device(logits), targets, out=targets)[1].copy_to_host(), expected[1]
        )

    @pytest.mark.parametrize("group", ["thread", "lanes", "lanes, whole packs", "warp", "block"])
    def test_a_row_has_the_same_bits_in_any_batch_and_in_any_run(self, group):
        C = GROUPS[group]
        logits, targets, _ = softmax_case(C, N=4)
        losses, gradient = on_gpu(self.loss, logits, targets, reduction="none")
        again = on_gpu(self.loss, logits, targets, reduction="none")
        np.testing.assert_array_equal(losses, again[0])
        np.testing.assert_array_equal(gradient, again[1])
        for n in (0, 3):
            alone = on_gpu(self.loss, logits[n : n + 1], targets[n : n + 1], reduction="none")
            np.testing.assert_array_equal(losses[n], alone[0][0])
            np.testing.assert_array_equal(gradient[n], alone[1][0])

    @pytest.mark.parametrize("C", [5, 40, 1028])
    def test_the_promises(self, C):
        logits = np.tile(np.linspace(-2, 2, C, dtype=np.float32), (11, 1))
        targets = np.arange(11) % min(C, 5)
        logits[1, 3] = -INF  # a masked class
        logits[2, targets[2]] = -INF  # the target itself
        logits[3, 0] = NAN
        logits[4] = NAN  # in a row that is ignored
        targets[4] = -100
        logits[5] = INF
        targets[5] = -100
        logits[6, 1] = INF
        logits[7] *= 1e4
        logits[8] *= 1e30
        logits[9] += 1e30
        logits[10, targets[10]] += 40  # a loss far below the last digit of 1
        if C > 1000:
            some = np.array([1, 3, 4, 6, 8, 10])
            assert_same_as_cpu(self.loss, logits[some], targets[some], reduction="none", label_smoothing=0.1)
            return
        for epsilon in (0.0, 0.1):
            assert_same_as_cpu(self.loss, logits, targets, reduction="none", label_smoothing=epsilon)
        losses, gradient = on_gpu(self.loss, np.full((2, C), -INF, np.float32), targets[:2], reduction="none")
        assert np.isnan(losses).all()
        assert np.isnan(gradient).all()
        quiet = np.array([1, 2, 7, 8, 9, 10])
        probabilities = np.zeros((6, C), np.float32)
        probabilities[:, 0], probabilities[:, 2] = 0.25, 0.75  # 0 for the masked class 3
        for epsilon in (0.0, 0.1):
            assert_same_as_cpu(self.loss, logits[quiet], probabilities, reduction="none", label_smoothing=epsilon)
        losses, gradient = on_gpu(self.loss, logits, targets, reduction="none")
        others = np.delete(logits[10].astype(float), targets[10]) - logits[10, targets[10]]
        np.testing.assert_allclose(losses[10], np.log1p(np.exp(others).sum()), rtol=2e-6)
        assert not gradient[4].any()
        assert not gradient[5].any()

    @pytest.mark.parametrize("C", [5, 40])
    def test_a_mean_over_nothing_is_zero(self, C):
        logits, _, weight = softmax_case(C)
        value, gradient = on_gpu(self.loss, logits, np.full(3, -100))
        assert value == 0
        assert not gradient.any()
        value, gradient = on_gpu(self.loss, logits, np.zeros(3, int), weight=0 * weight)
        assert value == 0
        assert not gradient.any()
        logits[:, 0] = -INF  # a loss of inf, of weight 0
        value, gradient = on_gpu(self.loss, logits, np.zeros(3, int), weight=0 * weight)
        assert value == 0
        assert not gradient.any()

    def test_denominator_and_ignore_index(self):
        logits, targets, weight = softmax_case(5)
        targets[0] = -1
        assert_same_as_cpu(self.loss, logits, targets, ignore_index=-1, denominator=17)
        assert_same_as_cpu(self.loss, logits, targets, ignore_index=-1, weight=weight)
        assert_same_as_cpu(self.loss, *softmax_case(5, soft=True)[:2], denominator=17)

    @pytest.mark.parametrize("C", [8, 9, 48, 1032])
    def test_half_precision(self, C):
        logits, targets, _ = softmax_case(C)
        half = logits.astype(np.float16)
        expected, slope = self.loss(half.astype(np.float32), targets)
        value, gradient = on_gpu(self.loss, half, targets)
        assert value.dtype == np.float32
        assert gradient.dtype == np.float16
        np.testing.assert_allclose(value, expected, rtol=2e-6)
        np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-7)

    @pytest.mark.parametrize("C", [8, 9, 48, 1032])
    @pytest.mark.parametrize("soft", [False, True])
    def test_bfloat16(self, soft, C):
        logits, targets, _ = softmax_case(C, soft=soft)
        z = cuda.to_device(to_bfloat16(logits).view("V2"))
        t = cuda.to_device(to_bfloat16(targets).view("V2") if soft else targets)
        exact = from_bfloat16(to_bfloat16(targets)) if soft else targets
        out = cuda.to_device(np.zeros(logits.shape, "V2"))
        value, gradient = self.loss(z, t, out=out)
        assert gradient is out
        if soft:  # The CPU's check is stricter about their sum than rounded probabilities can be.
            exact = exact / exact.sum(axis=1, keepdims=True)
        expected, slope = self.loss(from_bfloat16(to_bfloat16(logits)), exact)
        np.testing.assert_allclose(value.copy_to_host(), expected, rtol=1e-2 if soft else 2e-6)
        got = from_bfloat16(gradient.copy_to_host().view(np.uint16))
        np.testing.assert_allclose(got, slope, rtol=1e-2, atol=1e-2 if soft else 1e-7)
        with pytest.raises(ValueError, match=r"bfloat16 logits needs out="):
            self.loss(z, t)
        with pytest.raises(TypeError, match="weight must not be bfloat16"):
            self.loss(z, t, weight=z[0], out=out)

    @pytest.mark.parametrize("N", [3, 4100])
    def test_a_label_that_is_no_class_leaves_out_alone(self, N):
        logits, targets, _ = softmax_case(2, N=N)
        for wrong in (2, -1):
            targets[N - 2] = wrong
            out = cuda.to_device(np.full_like(logits, 9))
            with pytest.raises(ValueError) as here:
                self.loss(cuda.to_device(logits), cuda.to_device(targets), out=out)
            with pytest.raises(ValueError) as there:
                self.loss(logits, targets)
            assert str(here.value) == str(there.value)
            assert (out.copy_to_host() == 9).all()

    @pytest.mark.parametrize("C", [5, 40, 1030])
    def test_without_the_check_a_label_that_is_no_class_makes_its_row_nan(self, C):
        logits, targets, weight = softmax_case(C)
        expected = on_gpu(self.loss, logits, targets, reduction="none", weight=weight)
        targets[1] = C
        losses, gradient = on_gpu(self.loss, logits, targets, reduction="none", weight=weight, check=False)
        assert np.isnan(losses[1])
        assert np.isnan(gradient[1]).all()
        np.testing.assert_array_equal(losses[::2], expected[0][::2])
        np.testing.assert_array_equal(gradient[::2], expected[1][::2])

    def test_without_the_check_the_rest_is_the_same(self):
        for soft in (False, True):
            logits, targets, weight = softmax_case(5, soft=soft)
            for options in ({}, {"reduction": "sum"}, {"weight": weight}, {"denominator": 5}):
                expected = on_gpu(self.loss, logits, targets, **options)
                got = on_gpu(self.loss, logits, targets, check=False, **options)
                assert got[0] == expected[0]
                np.testing.assert_array_equal(got[1], expected[1])

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"targets": np.zeros((3, 5), int)}, ValueError),
            ({"targets": np.zeros((3, 1), int)}, ValueError),
            ({"targets": np.zeros(4, int)}, ValueError),
            ({"targets": np.zeros(3)}, TypeError),
            ({"targets": np.zeros(3, bool)}, TypeError),
            ({"targets": np.full((3, 5), 0.3, np.float32)}, ValueError),
            ({"targets": np.tile(np.float32([-0.5, 1.5, 0, 0, 0]), (3, 1))}, ValueError),
            ({"targets": np.tile(np.float32([NAN, 1, 0, 0, 0]), (3, 1))}, ValueError),
            ({"targets": np.full((3, 5), 0.2, np.float32), "ignore_index": 1}, ValueError),
            ({"targets": np.full((3, 4), 0.25, np.float32)}, ValueError),
            ({"weight": np.ones(4, np.float32)}, ValueError),
            ({"weight": np.full(5, -1, np.float32)}, ValueError),
            ({"weight": np.full(5, NAN, np.float32)}, ValueError),
            ({"weight": np.ones(5, complex)}, TypeError),
            ({"ignore_index": 0.5}, TypeError),
            ({"label_smoothing": 1.5}, ValueError),
            ({"label_smoothing": "much"}, TypeError),
            ({"reduction": "average"}, ValueError),
            ({"denominator": 0}, ValueError),
            ({"denominator": 2, "reduction": "sum"}, ValueError),
            ({"logits": np.zeros((0, 5), np.float32), "targets": np.zeros(0, int)}, ValueError),
            ({"logits": np.zeros((3, 5), int)}, TypeError),
            ({"logits": np.zeros((), np.float32), "targets": np.zeros((), int)}, ValueError),
            ({"out": np.zeros((3, 4), np.float32)}, ValueError),
            ({"out": np.zeros((3, 5))}, TypeError),
            ({"out": np.zeros((3, 5), np.float32), "grad": False}, ValueError),
        ],
    )
    def test_bad_input_is_refused_as_on_the_cpu(self, change, error):
        logits, targets, _ = softmax_case(5)
        arguments = {"logits": logits, "targets": targets, **change}
        with pytest.raises(error) as there:
            self.loss(**arguments)
        with pytest.raises(error) as here:
            self.loss(**{name: on_device(x) for name, x in arguments.items()})
        assert str(here.value).startswith("softmax_cross_entropy: ")
        if "logits" not in change or change["logits"].ndim != 2:
            assert str(here.value) == str(there.value)

    @pytest.mark.parametrize("host", ["logits", "targets", "weight", "out"])
    def test_host_and_device_do_not_mix(self, host):
        logits, targets, weight = softmax_case(5)
        arguments = {"logits": logits, "targets": targets, "weight": weight, "out": np.empty_like(logits)}
        arguments = {name: x if name == host else cuda.to_device(x) for name, x in arguments.items()}
        with pytest.raises(TypeError, match=f"{host} must be on the device like the other arrays, got ndarray"):
            self.loss(**arguments)


# --- sigmoid ----------------------------------------------------------------------------------------------------


def sigmoid_case(shape, dtype=np.float32, seed=0):
    random = np.random.default_rng(seed)
    logits = np.asarray(4 * random.normal(size=shape), dtype)
    targets = np.asarray(random.uniform(size=shape), dtype)
    C = shape[-1] if shape else 1
    return logits, targets, random.uniform(0.5, 2, C).astype(dtype), random.uniform(0.5, 2, C).astype(dtype)


class TestSigmoid:
    loss = staticmethod(tn.sigmoid_cross_entropy)

    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("shape", [(), (3, 5), (2, 3, 4), (129,)], ids=str)
    def test_every_option_gives_what_it_gives_on_the_cpu(self, shape, dtype):
        logits, targets, weight, pos_weight = sigmoid_case(shape, dtype)
        targets.flat[0] = -1
        reductions = itertools.cycle(("mean", "sum", "none"))
        for w, v, epsilon in itertools.product((None, weight), (None, pos_weight, 2.5), (0.0, 0.1)):
            options = {"weight": w, "pos_weight": v, "label_smoothing": epsilon, "reduction": next(reductions)}
            assert_same_as_cpu(self.loss, logits, targets, ignore_index=-1, **options)
        targets.flat[0] = 0
        for reduction in ("mean", "sum", "none"):
            assert_same_as_cpu(self.loss, logits, targets, reduction=reduction)
            assert_same_as_cpu(self.loss, logits, targets, reduction=reduction, weight=0.5, grad=False)

    @pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 127, 129, 1000, 1025, 4097])
    def test_sizes_around_a_pack_a_warp_and_a_tile(self, size):
        logits, targets, _, _ = sigmoid_case((size,))
        assert_same_as_cpu(self.loss, logits, targets)

    @pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.uint8, np.float64, np.float16])
    def test_targets_of_any_type(self, dtype):
        logits, targets, _, _ = sigmoid_case((3, 5))
        assert_same_as_cpu(self.loss, logits, targets.round().astype(dtype))

    def test_arrays_of_any_layout_and_start(self):
        logits, targets, _, _ = sigmoid_case((6, 8))
        expected = on_gpu(self.loss, logits, targets, reduction="none")
        shifted = cuda.to_device(np.concatenate([np.zeros(1, logits.dtype), logits.ravel()]))[1:].reshape(6, 8)
        assert not cuda_arrays.aligned(shifted)
        strided = cuda.to_device(np.repeat(targets, 2, axis=1))[:, ::2]
        for z in (shifted, cuda.to_device(np.asfortranarray(logits))):
            for out in (None, cuda.to_device(np.full_like(logits, 9, order="F")), z):
                keep = z.copy_to_host()
                value, gradient = self.loss(z, strided, reduction="none", out=out)
                assert out is None or gradient is out
                np.testing.assert_array_equal(value.copy_to_host(), expected[0])
                np.testing.assert_array_equal(gradient.copy_to_host(), expected[1])
                z.copy_to_device(keep)

    def test_the_promises(self):
        logits = np.float32([INF, INF, -INF, -INF, NAN, 1e4, -1e4, 1e30, -1e30, NAN, 0, 20, -20, 88, -88, 3])
        targets = np.float32([1, 0, 0, 1, 1, 1, 1, 0, 0, -1, 0.5, 1, 0, 0, 1, 0.25])
        assert_same_as_cpu(self.loss, logits, targets, ignore_index=-1, reduction="none")
        assert_same_as_cpu(self.loss, logits, targets, ignore_index=-1, reduction="none", pos_weight=0)
        losses, gradient = on_gpu(self.loss, logits, targets, ignore_index=-1, reduction="none")
        np.testing.assert_allclose(losses[[11, 12]], np.log1p(np.exp(-20)), rtol=2e-6)
        assert losses[9] == 0
        assert gradient[9] == 0

    def test_a_mean_over_nothing_is_zero(self):
        logits, targets, _, _ = sigmoid_case((3, 5))
        value, gradient = on_gpu(self.loss, logits, np.full_like(targets, -1), ignore_index=-1)
        assert value == 0
        assert not gradient.any()

    def test_denominator(self):
        logits, targets, _, _ = sigmoid_case((3, 5))
        assert_same_as_cpu(self.loss, logits, targets, denominator=4)

    def test_runs_and_batches_agree_to_the_bit(self):
        logits, targets, _, _ = sigmoid_case((9, 15))
        losses, gradient = on_gpu(self.loss, logits, targets, reduction="none")
        alone = on_gpu(self.loss, logits[4], targets[4], reduction="none")
        np.testing.assert_array_equal(losses[4], alone[0])
        np.testing.assert_array_equal(gradient[4], alone[1])
        assert on_gpu(self.loss, logits, targets)[0] == on_gpu(self.loss, logits, targets)[0]

    def test_half_precision_and_bfloat16(self):
        logits, targets, weight, _ = sigmoid_case((5, 9))
        half, labels = logits.astype(np.float16), targets.round()
        expected, slope = self.loss(half.astype(np.float32), labels, weight=weight, reduction="none")
        value, gradient = on_gpu(self.loss, half, labels, weight=weight, reduction="none")
        assert value.dtype == np.float32
        assert gradient.dtype == np.float16
        np.testing.assert_allclose(value, expected, rtol=2e-6)
        np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-7)
        bits = to_bfloat16(logits)
        expected, slope = self.loss(from_bfloat16(bits), labels)
        out = cuda.to_device(np.zeros(logits.shape, "V2"))
        value, _ = self.loss(cuda.to_device(bits.view("V2")), cuda.to_device(labels.astype(np.int64)), out=out)
        np.testing.assert_allclose(value.copy_to_host(), expected, rtol=2e-6)
        np.testing.assert_allclose(from_bfloat16(out.copy_to_host().view(np.uint16)), slope, rtol=1e-2, atol=1e-7)

    @pytest.mark.parametrize("options", [{}, {"ignore_index": -1}, {"reduction": "sum"}])
    def test_a_target_outside_leaves_out_alone(self, options):
        logits, targets, _, _ = sigmoid_case((70, 30))
        targets[40, 3] = 1.5
        out = cuda.to_device(np.full_like(logits, 9))
        for with_out in ({}, {"out": out}):
            with pytest.raises(ValueError) as here:
                self.loss(cuda.to_device(logits), cuda.to_device(targets), **options, **with_out)
            with pytest.raises(ValueError) as there:
                self.loss(logits, targets, **options)
            assert str(here.value) == str(there.value)
        assert (out.copy_to_host() == 9).all()
        _, gradient = on_gpu(self.loss, logits, targets, check=False, **options)
        assert np.isfinite(gradient).all()

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"targets": np.zeros((3, 4), np.float32)}, ValueError),
            ({"targets": np.zeros((3, 5), complex)}, TypeError),
            ({"targets": np.full((3, 5), NAN, np.float32)}, ValueError),
            ({"weight": np.ones(4, np.float32)}, ValueError),
            ({"weight": -1.0}, ValueError),
            ({"pos_weight": np.full(5, -1, np.float32)}, ValueError),
            ({"ignore_index": 0.5}, TypeError),
            ({"label_smoothing": -0.5}, ValueError),
            ({"reduction": "average"}, ValueError),
            ({"denominator": NAN}, ValueError),
            ({"out": np.zeros((5, 3), np.float32)}, ValueError),
        ],
    )
    def test_bad_input_is_refused_as_on_the_cpu(self, change, error):
        logits, targets, _, _ = sigmoid_case((3, 5))
        arguments = {"logits": logits, "targets": targets, **change}
        with pytest.raises(error) as there:
            self.loss(**arguments)
        with pytest.raises(error) as here:
            self.loss(**{name: on_device(x) for name, x in arguments.items()})
        if np.ndim(change.get("weight")) == 1:  # the CPU takes a weight for each element, too
            assert str(here.value) == "sigmoid_cross_entropy: weight must have shape (5,), one number a class, got (4,)"
        else:
            assert str(here.value) == str(there.value)

    def test_a_weight_for_each_element_is_refused(self):
        logits, targets, _, _ = sigmoid_case((3, 5))
        arguments = {"logits": logits, "targets": targets, "pos_weight": np.ones((3, 5), np.float32)}
        with pytest.raises(ValueError, match=r"pos_weight must have shape \(5,\), one number a class, got \(3, 5\)"):
            self.loss(**{name: on_device(x) for name, x in arguments.items()})

    @pytest.mark.parametrize("host", ["logits", "targets", "weight", "pos_weight", "out"])
    def test_host_and_device_do_not_mix(self, host):
        logits, targets, weight, pos_weight = sigmoid_case((3, 5))
        arguments = {"logits": logits, "targets": targets, "weight": weight, "pos_weight": pos_weight}
        arguments["out"] = np.empty_like(logits)
        arguments = {name: x if name == host else cuda.to_device(x) for name, x in arguments.items()}
        with pytest.raises(TypeError, match=f"{host} must be on the device like the other arrays, got ndarray"):
            self.loss(**arguments)
