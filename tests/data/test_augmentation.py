"""Augmentation: what each function may do to an image, how often it does it, and what it refuses."""

import inspect
from functools import partial

import numpy as np
import pytest
from scipy.stats import beta, kstest

import tinynet as tn
from tinynet.data import cutout, mixup, random_crop, random_flip, random_shift

FUNCTIONS = {
    "random_flip": random_flip,
    "random_flip vertical": partial(random_flip, vertical=True),
    "random_crop": partial(random_crop, padding=2),
    "random_shift": random_shift,
    "cutout": partial(cutout, size=3),
}


def images(N, H=5, W=7, C=2, dtype=np.float32, seed=0):
    """Images in which no number is 0 and no two are equal, so that every change shows."""
    return (1 + np.random.default_rng(seed).permutation(N * H * W * C)).reshape(N, H, W, C).astype(dtype)


def rng(seed=1):
    return np.random.default_rng(seed)


def assert_as_likely(choices, number):
    """Each of `number` outcomes as often as the others: Pearson's statistic within 5 deviations of its mean."""
    count = np.bincount(choices, minlength=number)
    assert len(count) == number
    expected = len(choices) / number
    statistic = ((count - expected) ** 2 / expected).sum()
    assert statistic <= number - 1 + 5 * np.sqrt(2 * (number - 1))


def which(result, candidates):
    """For each image of the result, the one candidate (K, N, H, W, C) that it is."""
    same = (np.asarray(candidates) == result).all(axis=(2, 3, 4))
    assert (same.sum(axis=0) == 1).all(), "an image is none of those that it may become, or several"
    return same.argmax(axis=0)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_the_batch_is_left_alone_and_a_fresh_one_is_like_it(name, dtype):
    x = (images(6) % 200 + 1).astype(dtype)
    before = x.copy()
    result = FUNCTIONS[name](x, rng())
    assert result.shape == x.shape
    assert result.dtype == dtype
    assert result.flags.c_contiguous
    assert not np.shares_memory(result, x)
    assert (result != x).any()
    result[...] = 0
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_generator_gives_the_same_images_of_any_layout_of_memory(name):
    x, change = images(20), FUNCTIONS[name]
    expected = change(x, rng())
    other = np.repeat(x, 2, axis=2)[:, :, ::2].copy(order="F")
    other.flags.writeable = False
    np.testing.assert_array_equal(change(other, rng()), expected)
    generator = rng()
    np.testing.assert_array_equal(change(x, generator), expected)
    assert (change(x, generator) != expected).any()


@pytest.mark.parametrize(("vertical", "axis"), [(False, 2), (True, 1)])
def test_a_flip_is_the_mirror_image_half_of_the_time(vertical, axis):
    x = images(2000, 2, 3, 1)
    flipped = which(random_flip(x, rng(), vertical=vertical), [x, np.flip(x, axis)])
    assert_as_likely(flipped, 2)


@pytest.mark.parametrize("probability", [0, 0.2, 1])
def test_a_flip_comes_with_its_probability(probability):
    x = images(2000, 1, 2, 1)
    share = which(random_flip(x, rng(), probability), [x, x[:, :, ::-1]]).mean()
    assert abs(share - probability) <= 5 * np.sqrt(probability * (1 - probability) / 2000)


@pytest.mark.parametrize(
    ("change", "mode"), [(random_crop, "constant"), (lambda x, rng, p: random_shift(x, rng, pixels=p), "edge")]
)
@pytest.mark.parametrize("border", [0, 2, (1, 0), (0, 3)])
def test_a_crop_and_a_shift_are_each_window_of_the_padded_image_as_often(change, mode, border):
    x = images(4000, 3, 4, 1, np.float64)
    high, wide = border if isinstance(border, tuple) else (border, border)
    padded = np.pad(x, ((0, 0), (high, high), (wide, wide), (0, 0)), mode)
    windows = [padded[:, i : i + 3, j : j + 4] for i in range(2 * high + 1) for j in range(2 * wide + 1)]
    found = which(change(x, rng(), border), windows)
    assert_as_likely(found, (2 * high + 1) * (2 * wide + 1))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 20])
def test_cutout_hides_a_square_around_each_pixel_as_often(size):
    H, W = 4, 5
    x = images(4000, H, W, 2)
    masks = []
    for i in range(H):
        for j in range(W):
            top, left = i - size // 2, j - size // 2
            mask = np.ones((H, W, 1), np.float32)
            mask[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
            masks.append(mask)
    result = cutout(x, rng(), size)
    different = np.unique(np.stack(masks), axis=0)
    found = which(result, different[:, None] * x)
    if len(different) == H * W:  # a large square hides the same around several pixels
        assert_as_likely(found, H * W)
    elif size == 20:
        assert not result.any()


def test_cutout_hides_what_is_not_a_number():
    x = np.full((3, 2, 2, 1), np.nan)
    assert not cutout(x, rng(), 9).any()


# --- mixup --------------------------------------------------------------------------------------------------


def blend(N=400, alpha=0.7, classes=10, dtype=np.float64, seed=3):
    """Samples that say which they are: sample i is 1 at i and 0 elsewhere, so that a blend shows its shares."""
    x, y = np.eye(N, dtype=dtype).reshape(N, N, 1, 1), rng(seed).integers(classes, size=N)
    soft, targets = mixup(x, y, rng(), alpha=alpha, classes=classes)
    return soft.reshape(N, N), y, targets


def test_labels_are_blended_by_the_same_shares_as_the_pixels():
    shares, y, targets = blend()
    assert ((shares > 0).sum(axis=1) <= 2).all(), "more than two samples in a blend"
    assert (np.diag(shares) > 0).mean() > 0.95
    np.testing.assert_allclose(targets, shares @ np.eye(10)[y], rtol=0, atol=1e-15)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1.0)  # each sample is the partner of one
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-15)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5])
def test_shares_are_drawn_from_the_beta_distribution(alpha):
    shares, *_ = blend(1000, alpha)
    assert kstest(np.diag(shares)[(shares > 0).sum(axis=1) == 2], beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_mixup_keeps_the_dtype_and_leaves_its_arguments_alone(dtype):
    x, y = images(12, dtype=dtype), np.arange(12) % 3
    before = x.copy(), y.copy()
    first, second = mixup(x, y, rng(), classes=3), mixup(x, y, rng(), classes=3)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, x)
        a[...] = 0
    assert second[0].dtype == dtype
    assert second[0].shape == x.shape
    assert second[1].dtype == np.result_type(dtype, np.float32)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_probabilities_are_blended_as_one_hot_labels_are():
    x, y = images(12), np.arange(12) % 3
    expected = mixup(x, y, rng(), classes=3)
    one_hot = np.eye(3, dtype=np.float32)[y]
    for found in (mixup(x, one_hot, rng()), mixup(x, one_hot, rng(), classes=3)):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.shares_memory(mixup(x[:1], one_hot[:1], rng())[1], one_hot)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_softmax_cross_entropy_takes_blended_targets(dtype):
    _, y, targets = blend(64, dtype=dtype)
    logits = rng().standard_normal((64, 10))
    value, _ = tn.softmax_cross_entropy(logits, targets)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert value == pytest.approx(-(targets * log_p).sum(axis=1).mean(), rel=1e-3 if dtype == np.float16 else 1e-6)


# --- how they are used, and misused -------------------------------------------------------------------------


def test_fit_takes_them_with_their_options():
    (x, y), _ = tn.data.digits()

    def augment(x, rng):
        return cutout(random_flip(x, rng, probability=0.1), rng, size=2)

    def losses(change):
        model = tn.Sequential([tn.Flatten(), tn.Dense(10)], (8, 8, 1))
        settings = {"loss": "softmax_cross_entropy", "optimizer": tn.Adam(model, 0.01), "epochs": 3, "progress": False}
        return tn.fit(model, x, y, **settings, augment=change)["loss"]

    plain = losses(None)
    for change in (augment, partial(random_crop, padding=1), partial(random_shift, pixels=1), random_flip):
        changed = losses(change)
        assert changed == losses(change)
        assert changed[0] > changed[-1] > plain[-1]  # it learns, and what it sees is harder


def test_the_signatures_tell_what_changes_labels_from_what_does_not():
    def required(function):
        parameters = inspect.signature(function).parameters.values()
        return [p.name for p in parameters if p.default is p.empty]

    for function in FUNCTIONS.values():
        assert required(function) == ["batch", "rng"]
    assert required(partial(mixup, classes=10)) == ["x", "y", "rng"]


IMAGES, LABELS = np.zeros((4, 3, 5, 1), np.float32), np.arange(4)
REFUSED = [
    (lambda: random_flip(IMAGES, 0), TypeError, "random_flip: rng must be a numpy.random.Generator, .* got int"),
    (lambda: mixup(IMAGES, LABELS, None, classes=4), TypeError, "mixup: rng must be .* got NoneType"),
    (lambda: cutout(IMAGES, LABELS, rng()), TypeError, "cutout: rng must be .* got ndarray"),
    (lambda: random_crop(IMAGES[0], rng()), ValueError, r"images \(N, H, W, C\), got shape \(3, 5, 1\)"),
    (lambda: random_flip(IMAGES.astype(complex), rng()), TypeError, "real numbers, got an array of dtype complex128"),
    (lambda: random_flip([[1], [1, 2]], rng()), ValueError, "random_flip: batch is not an array"),
    (lambda: random_flip(IMAGES, rng(), 1.5), ValueError, r"probability must be in \[0, 1\], got 1.5"),
    (lambda: random_flip(IMAGES, rng(), "often"), TypeError, "probability must be a number"),
    (lambda: random_crop(IMAGES, rng(), -1), ValueError, "padding must be at least 0, got -1"),
    (lambda: random_crop(IMAGES, rng(), 1.5), TypeError, "padding must be a whole number, got 1.5"),
    (lambda: random_crop(IMAGES, rng(), 3), ValueError, "padding must be below .* got 3 for images 3 high"),
    (lambda: random_shift(IMAGES, rng(), (0, 5)), ValueError, "pixels must be below .* got 5 for images 5 wide"),
    (lambda: random_shift(IMAGES, rng(), (1, 1, 1)), ValueError, r"pixels must be .* a pair \(height, width\)"),
    (lambda: cutout(IMAGES, rng(), 0), ValueError, "cutout: size must be at least 1, got 0"),
    (lambda: mixup(IMAGES, LABELS, rng()), ValueError, "say how many classes there are"),
    (lambda: mixup(IMAGES.astype(np.uint8), LABELS, rng(), classes=4), TypeError, "x must be floats, got .* uint8"),
    (lambda: mixup(IMAGES, LABELS, rng(), classes=3), ValueError, "from 0 to 2, got 3 at position 3"),
    (lambda: mixup(IMAGES, LABELS - 1, rng(), classes=4), ValueError, "from 0 to 3, got -1 at position 0"),
    (lambda: mixup(IMAGES, LABELS[:3], rng(), classes=4), ValueError, r"x has 4 samples, .* got \(3,\)"),
    (lambda: mixup(IMAGES, LABELS * 1.0, rng(), classes=4), TypeError, r"whole numbers or .* got float64 \(4,\)"),
    (lambda: mixup(IMAGES, np.eye(4), rng(), classes=5), ValueError, r"probabilities \(4, 5\), got shape \(4, 4\)"),
    (lambda: mixup(IMAGES, np.eye(5), rng()), ValueError, r"probabilities \(4, classes\), got shape \(5, 5\)"),
    (lambda: mixup(IMAGES, LABELS, rng(), alpha=0, classes=4), ValueError, "alpha must be finite and above 0, got 0"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
