"""Batches, class weights, and the digits that come with the package."""

import tracemalloc
from importlib.resources import files
from itertools import islice

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

import tinynet as tn
from tinynet.data import balanced_class_weights, batches, digits


class Squares:
    """A data set with no array behind it: item i is a small picture of i squared."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        assert isinstance(index, int)
        return np.full((2, 2), index**2)


class Stored:
    """An array as h5py has them: items for a number, a slice or rising numbers, and no wish to be read whole."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        assert (np.diff(rows) > 0).all(), "rows must rise"
        self.read += len(rows)
        return self.array[rows]

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("everything was read")


class Labelled:
    """A column as pandas has them: item k is the one whose label is k, wherever it stands."""

    iloc = None

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __len__(self):
        return len(self.array)

    def __getitem__(self, label):
        raise AssertionError("the labels are not 0, 1, 2, ...")

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_every_sample_comes_once_and_with_its_own_label():
    x, y = np.arange(50).reshape(25, 2), np.arange(25)
    found = list(batches(x, y, 4, seed=3))
    assert [len(xb) for xb, _ in found] == [4] * 6 + [1]
    labels = np.concatenate([yb for _, yb in found])
    np.testing.assert_array_equal(np.sort(labels), y)
    assert (labels != y).any()
    np.testing.assert_array_equal(np.concatenate([xb for xb, _ in found]), x[labels])


def test_without_shuffling_the_order_is_kept():
    x, y = np.arange(10.0), np.arange(10)
    assert [yb.tolist() for _, yb in batches(x, y, 4, shuffle=False)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_seed_gives_an_order_and_a_generator_moves_on():
    def order(seed):
        return np.concatenate([yb for _, yb in batches(np.arange(99), np.arange(99), 10, seed=seed)]).tolist()

    assert order(1) == order(1) != order(2)
    assert order((1, 2)) == order([1, 2]) != order((1, 3))
    rng = np.random.default_rng(1)
    assert order(rng) == order(1) != order(rng)
    assert order(None) != order(None)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_is_a_fresh_array_of_the_same_dtype(shuffle):
    x, y = np.zeros((6, 3), np.float32), np.zeros(6, np.uint8)
    for xb, yb in batches(x, y, 6, shuffle):
        xb[...], yb[...] = 1, 1
        assert xb.dtype == np.float32
        assert yb.dtype == np.uint8
        assert xb.flags.c_contiguous
    assert not x.any()
    assert not y.any()


@pytest.mark.parametrize("layout", ["fortran", "strided", "read-only", "memory-mapped"])
def test_any_layout_of_memory_gives_the_same_batches(layout, tmp_path):
    x, y = np.random.default_rng(0).standard_normal((30, 4, 5)), np.arange(30)
    other = {"fortran": np.asfortranarray(x), "strided": np.repeat(x, 2, axis=1)[:, ::2], "read-only": x.copy()}
    other["read-only"].flags.writeable = False
    np.save(tmp_path / "x.npy", x)
    other["memory-mapped"] = np.load(tmp_path / "x.npy", mmap_mode="r")
    for (a, _), (b, _) in zip(batches(x, y, 7), batches(other[layout], y, 7), strict=True):
        np.testing.assert_array_equal(a, b)
        assert b.flags.writeable
        assert b.flags.c_contiguous


def peak_of(work):
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


LAYOUTS = {
    "plain": lambda x: x,
    "strided": lambda x: x[:, 1::2],
    "transposed": lambda x: x.reshape(-1, 256, 256).transpose(0, 2, 1),
    "unaligned": lambda x: x,  # the records of CIFAR-10 are: a byte of label, then the pixels
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_memory_map_larger_than_memory_only_the_batches_are_read(layout, tmp_path):
    # 256 GB, in a file of which nothing is on disk: to copy it all would not end well.
    N, y = 2**20, np.arange(2**20)
    whole = np.memmap(tmp_path / "x", np.float32, "w+", offset=layout == "unaligned", shape=(N, 2**16))
    whole[N - 1, -1] = 5
    x = LAYOUTS[layout](whole)
    found = []
    peak = peak_of(lambda: found.extend(islice(batches(x, y, 8, seed=1), 5)))
    assert [xb.shape for xb, _ in found] == [(8, *x.shape[1:])] * 5
    assert peak < y.nbytes + (5 + 1) * found[0][0].nbytes + 1e6  # the order, the batches, one more at most, a little
    [(last, _)] = batches(x[N - 8 :], y[-8:], 8, shuffle=False)
    assert last.max() == last[-1].ravel()[-1] == 5


def test_a_strided_array_is_not_copied_for_each_batch():
    x = np.zeros((20_000, 2, 100))[:, 0]
    assert peak_of(lambda: next(batches(x, np.arange(20_000), 4))) < x.nbytes / 10


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_array_kept_elsewhere_is_asked_for_the_rows_of_a_batch_and_no_more(shuffle):
    x, y = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30)
    stored = Stored(x)
    for count, ((a, la), (b, lb)) in enumerate(
        zip(batches(x, y, 8, shuffle, seed=2), batches(stored, Stored(y), 8, shuffle, seed=2), strict=True), 1
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(la, lb)
        assert stored.read == min(8 * count, 30)
        b[...] = 0
    assert x.any()


def test_arrays_of_other_libraries_are_taken_in_their_order():
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    for other in (torch.tensor(x), Labelled(x)):
        for (a, _), (b, _) in zip(batches(x, y, 4), batches(other, Labelled(y), 4), strict=True):
            assert type(b) is np.ndarray
            np.testing.assert_array_equal(a, b)
            b[...] = 0
        assert np.asarray(other)[-1, -1] == 11


def test_anything_with_a_length_and_items_is_data():
    found = list(batches(Squares(5), [10, 11, 12, 13, 14], 2, shuffle=False))
    assert [xb.shape for xb, _ in found] == [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert found[1][0][1, 0, 0] == 9
    assert isinstance(found[1][1], np.ndarray)
    assert found[1][1].tolist() == [12, 13]


def test_sentences_and_arrays_of_different_lengths_come_as_lists():
    sentences, ragged = ["good", "bad", "so so"], [np.arange(2), np.arange(3), np.arange(4)]
    [(xb, yb)] = batches(sentences, ragged, 3, shuffle=False)
    assert xb == sentences
    assert [len(y) for y in yb] == [2, 3, 4]


REFUSED = [
    (lambda: batches(np.zeros(3), np.zeros(4), 2), ValueError, "x has 3 samples, but y has 4"),
    (lambda: batches(np.zeros(0), np.zeros(0), 2), ValueError, "no samples"),
    (lambda: batches(np.zeros(()), np.zeros(1), 2), ValueError, "x must have an axis of samples"),
    (lambda: batches(np.zeros(3), None, 2), TypeError, "y must be an array or have a length and items, got NoneType"),
    (lambda: batches(np.zeros(3), "abc", 2), TypeError, "y must be an array .* got str"),
    (lambda: batches(iter([1, 2]), np.zeros(2), 2), TypeError, "x must be an array"),
    (lambda: batches(np.zeros(3), np.zeros(3), 0), ValueError, "batch_size must be at least 1, got 0"),
    (lambda: batches(np.zeros(3), np.zeros(3), 2.5), TypeError, "batch_size must be a whole number, got 2.5"),
    (lambda: batches(np.zeros(3), np.zeros(3), 2, seed=-1), ValueError, "seed must be .* at least 0, .* got -1"),
    (lambda: batches(np.zeros(3), np.zeros(3), 2, False, seed=(1, -1)), ValueError, r"seed must be .* got \(1, -1\)"),
    (lambda: batches(np.zeros(3), np.zeros(3), 2, seed="x"), TypeError, "seed must be .* got 'x'"),
    (lambda: batches(np.zeros(3), np.zeros(3), 2, seed=1.5), TypeError, "seed must be .* got 1.5"),
    (lambda: batches(np.zeros(3), np.zeros(3), 2, 7), TypeError, "shuffle must be True or False, got 7"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_bad_arguments_are_refused_at_the_call_not_at_the_first_batch(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("seed", range(5))
def test_class_weights_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(6, 500, p=rng.dirichlet(np.ones(6)))
    labels = np.concatenate([labels, np.arange(6)])
    expected = compute_class_weight("balanced", classes=np.arange(6), y=labels)
    found = balanced_class_weights(labels)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert found.dtype == np.float64
    assert found[labels].mean() == pytest.approx(1)


def test_class_weights_by_hand_of_classes_without_samples_and_labels_without_class():
    # Classes 0 and 2 occur, 3 times and once: 4 / (2 * 3) and 4 / (2 * 1).
    labels = np.array([[0, 0, -100], [2, -100, 0]], np.int8)
    np.testing.assert_allclose(balanced_class_weights(labels), [2 / 3, 0, 2])
    np.testing.assert_allclose(balanced_class_weights(labels, classes=5), [2 / 3, 0, 2, 0, 0])
    np.testing.assert_allclose(balanced_class_weights([0, 255, 1, 255], ignore_index=255), [1, 1])
    np.testing.assert_allclose(balanced_class_weights([True, False, True]), [1.5, 0.75])


def test_with_class_weights_every_class_adds_as_much_to_the_loss():
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    weight = balanced_class_weights(labels)
    losses, _ = tn.softmax_cross_entropy(np.zeros((100, 3)), labels, weight=weight, reduction="none")
    np.testing.assert_allclose(np.bincount(labels, losses), np.full(3, 100 / 3 * np.log(3)))


REFUSED_LABELS = [
    ([0.0, 1.0], {}, TypeError, "whole numbers, got an array of dtype float64$"),
    (np.eye(3), {}, TypeError, r"for one-hot rows, give labels.argmax\(-1\)"),
    ([], {}, ValueError, "no labels"),
    ([-100, -100], {}, ValueError, "every label is -100"),
    ([0, 1, -1], {}, ValueError, r"from 0 to 1 or -100 \(ignore_index\), got -1 at position \(2,\)"),
    ([[0, 1], [3, 1]], {"classes": 3}, ValueError, r"from 0 to 2 or .*, got 3 at position \(1, 0\)"),
    ([0, 1], {"classes": 0}, ValueError, "classes must be at least 1, got 0"),
    ([0, 1], {"ignore_index": None}, TypeError, "ignore_index must be a whole number, got None"),
]


@pytest.mark.parametrize(("labels", "options", "error", "message"), REFUSED_LABELS)
def test_labels_of_no_class_are_refused(labels, options, error, message):
    with pytest.raises(error, match=message):
        balanced_class_weights(labels, **options)


def test_the_digits_are_what_they_say():
    (x_train, y_train), (x_test, y_test) = digits()
    assert x_train.shape == (1437, 8, 8, 1)
    assert x_test.shape == (360, 8, 8, 1)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert y.shape == (len(x),)
        assert x.min() == 0
        assert x.max() == 1
        assert len(np.unique(x)) == 17
    # As frequent in one part as in the other, to a rounding of one.
    share = np.bincount(y_train) / 1437 - np.bincount(y_test) / 360
    assert np.abs(share).max() < 1 / 360
    every = np.concatenate([x_train, x_test]).reshape(1797, -1)
    assert every.astype(np.float64).sum() * 16 == 561_718  # the sum of all pixels, known from the source
    assert len(np.unique(every, axis=0)) == 1797


def test_the_digits_are_fresh_and_the_same_every_time():
    (first, _), _ = digits()
    first[...] = 0
    (second, _), _ = digits()
    assert second.any()


def test_source_and_licence_of_the_digits_lie_beside_them():
    text = files("tinynet.data").joinpath("DIGITS.txt").read_text()
    for needed in ("Alpaydin", "10.24432/C50P49", "CC BY 4.0", "Changed here"):
        assert needed in text
