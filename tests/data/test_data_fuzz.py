"""Damaged files of data sets: each is read as something valid or refused by name, in bounded memory and time.

TINYNET_FUZZ_CASES sets how many damaged files there are.
"""

import faulthandler
import gzip
import io
import os
import tracemalloc

import numpy as np
import pytest

import tinynet as tn

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("TINYNET_FUZZ_CASES", "500"))
MOST_MEMORY = 16e6  # bytes; the files have 15 thousand at most, of which gzip can make 16 million
LONGEST = 60  # seconds for one file that takes milliseconds, before it counts as a hang

start = np.random.default_rng(0)
IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 28, 0, 0, 0, 28]) + start.bytes(5 * 784)
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 5, 0, 3, 9, 1, 1])
RECORDS = b"".join(bytes([label]) + start.bytes(3072) for label in (0, 9, 4))
IDX = {"train-images-idx3-ubyte": IMAGES, "train-labels-idx1-ubyte": LABELS}
IDX |= {name.replace("train", "t10k"): data for name, data in IDX.items()}
BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
TEXT = {"rt-polarity.pos": b"good , caf\xe9\n" * 50, "rt-polarity.neg": b"bad\x85 worse\n" * 50}
TREES = dict.fromkeys(("train.txt", "dev.txt", "test.txt"), b"(4 (2 Not) (3 (1 bad) (2 ,)))\n(2 so-so)\n" * 20)
NAMES = [f"{part}-{kind}.txt.gz" for part in ("train", "test") for kind in ("neg", "pos")]
REVIEWS = dict.fromkeys(NAMES, gzip.compress(b"good , caf\xc3\xa9\n" * 50))
ARCHIVE = io.BytesIO()
np.savez_compressed(
    ARCHIVE,
    **{f"{part}_images": np.frombuffer(IMAGES[16:], np.uint8).reshape(5, 28, 28) for part in ("train", "val", "test")},
    **{f"{part}_labels": np.array([[0], [1], [1], [0], [1]], np.uint8) for part in ("train", "val", "test")},
)
SETS = {
    "mnist": (tn.data.mnist, IDX, (28, 28, 1)),
    "fashion-mnist": (
        tn.data.fashion_mnist,
        {f"{name}.gz": gzip.compress(data) for name, data in IDX.items()},
        (28, 28, 1),
    ),
    "cifar-10-batches-bin": (tn.data.cifar10, dict.fromkeys(BATCHES, RECORDS), (32, 32, 3)),
    "pneumoniamnist": (tn.data.pneumonia_mnist, {"pneumoniamnist.npz": ARCHIVE.getvalue()}, (28, 28, 1)),
    "sentiment": (tn.data.movie_reviews, TEXT, None),
    "imdb": (tn.data.imdb, REVIEWS, None),
    "sst": (tn.data.sst, TREES, None),
}
EXTREMES = [0, 1, 2, 8, 27, 28, 29, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1]


def damaged(data, rng):
    """The bytes with one to four changes, of which half are near the beginning, where headers are."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        reach = len(data) + 1 if rng.random() < 0.5 else min(len(data), 24) + 1
        at = int(rng.integers(reach))
        kind = rng.integers(9)
        if kind == 0 and at < len(data):  # flip a bit
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:  # random bytes in place
            few = rng.bytes(int(rng.integers(1, 9)))
            data[at : at + len(few)] = few
        elif kind == 2:  # a number of four bytes
            data[at // 4 * 4 : at // 4 * 4 + 4] = int(rng.choice(EXTREMES)).to_bytes(4, "big")
        elif kind == 3:  # cut the end off
            del data[at:]
        elif kind == 4:  # take a piece out
            del data[at : at + int(rng.integers(1, 4000))]
        elif kind == 5:  # put a piece in
            data[at:at] = rng.bytes(int(rng.integers(1, 2000)))
        elif kind == 6:  # repeat a piece
            data[at:at] = data[at : at + int(rng.integers(1, 4000))]
        elif kind == 7:  # zeros at the end
            data += bytes(int(rng.integers(1, 4000)))
        else:  # another format altogether
            data = bytearray([gzip.compress(bytes(data)), IMAGES, LABELS, b"<html>", b""][int(rng.integers(5))])
    return bytes(data[:15_000])


def outcome(name, path):
    """What became of the file at `path`: "read", after looking at what was read, or "refused"."""
    read, _, shape = SETS[name]
    try:
        result = read(path.parent.parent)
    except tn.data.DatasetError as error:
        assert str(path) in str(error)  # noqa: PT017 - reading the file would be as right
        return "refused"
    if shape is None:
        for sentences, labels in [result] if name == "sentiment" else result:
            assert len(sentences) == len(labels) > 0
            assert all(isinstance(sentence, str) and sentence for sentence in sentences)
            assert set(labels) <= {0, 1, 2, 3, 4} if name == "sst" else set(labels) == {0, 1}
        return "read"
    for x, y in result:
        assert x.shape == (len(y), *shape)
        assert len(y) > 0
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert 0 <= x.min() <= x.max() <= 1
        assert 0 <= y.min() <= y.max() <= 9
    return "read"


def test_any_damage_ends_in_a_valid_result_or_a_named_file(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("asked for a download")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    for name, (_, files, _) in SETS.items():
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / file).write_bytes(data)
        assert outcome(name, tmp_path / name / file) == "read"
    outcomes = {name: {"read": 0, "refused": 0} for name in SETS}
    tracemalloc.start()
    try:
        for case in range(CASES):
            rng = np.random.default_rng([7, case])
            name = str(rng.choice(list(SETS), p=[0.2, 0.2, 0.15, 0.1, 0.05, 0.15, 0.15]))
            file = str(rng.choice(list(SETS[name][1])))
            original = SETS[name][1][file]
            if name in ("fashion-mnist", "imdb") and rng.random() < 0.5:
                data = gzip.compress(damaged(gzip.decompress(original), rng))
            else:
                data = damaged(original, rng)
            path = tmp_path / name / file
            path.write_bytes(data)
            tracemalloc.reset_peak()
            faulthandler.dump_traceback_later(LONGEST, exit=True)
            try:
                outcomes[name][outcome(name, path)] += 1
            except BaseException as error:
                kept = tmp_path / "damaged"
                kept.write_bytes(data)
                raise AssertionError(f"case {case}: {name}/{file}, kept as {kept}") from error
            finally:
                faulthandler.cancel_dump_traceback_later()
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY, f"case {case}: {name}/{file}"
            path.write_bytes(original)
    finally:
        tracemalloc.stop()
    print(f"{CASES} cases: {outcomes}")
    if CASES >= 500:  # the damage is neither always fatal nor always harmless
        assert all(count["read"] and count["refused"] for count in outcomes.values())
