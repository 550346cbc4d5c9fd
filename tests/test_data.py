"""Batches, and the digits that come with the package."""

from importlib.resources import files

import numpy as np
import pytest

from tinynet.data import batches, digits


class Squares:
    """A data set with no array behind it: item i is a small picture of i squared."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        assert isinstance(index, int)
        return np.full((2, 2), index**2)


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
    (lambda: batches(np.zeros(3), np.zeros(3), 2, seed=-1), ValueError, "non-negative"),
    (lambda: batches(np.zeros(3), np.zeros(3), 2, seed="x"), TypeError, "SeedSequence"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_bad_arguments_are_refused_at_the_call_not_at_the_first_batch(make, error, message):
    with pytest.raises(error, match=message):
        make()


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
