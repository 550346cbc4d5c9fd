"""Readers of data sets: what they give, and how a broken file is named before it can do harm."""

import gzip
import io
import os
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet.data.files import data_root
from tinynet.data.vocabulary import Vocabulary, tokenize

RECORD = 3073
PAGE = b"<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n"
REAL = os.environ.get("TINYNET_DATA")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a test of readers asked for a download")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def idx(values, magic=None, sizes=None):
    magic = bytes([0, 0, 8, values.ndim]) if magic is None else magic
    return magic + b"".join(n.to_bytes(4, "big") for n in sizes or values.shape) + values.tobytes()


def npz(arrays, **members):
    """A file of NumPy's with these arrays, and raw bytes as members beside them or in their place."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            if name not in members:
                with archive.open(f"{name}.npy", "w") as stream:
                    np.save(stream, array)
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


rng = np.random.default_rng(0)
IMAGES, LABELS = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.array([0, 9, 3, 3, 5, 1, 2], np.uint8)
RECORDS = rng.integers(0, 256, (4, RECORD), dtype=np.uint8)
RECORDS[:, 0] = [9, 0, 4, 4]
XRAYS = {}
for part, N in (("train", 5), ("val", 2), ("test", 3)):
    XRAYS[f"{part}_images"] = rng.integers(0, 256, (N, 28, 28), dtype=np.uint8)
    XRAYS[f"{part}_labels"] = np.asfortranarray(rng.integers(0, 2, (N, 14), dtype=np.uint8))
HEALTHY_OR_NOT = {name: array[:, :1] if "labels" in name else array for name, array in XRAYS.items()}
TREES = b"(4 (2 Not) (3 (1 bad) (2 ,)))\n\n(2 (0 -LRB-) (4 good\\/bad))\n(2 so-so)\n"
TEXTS = {
    "imdb": {
        "train-neg.txt.gz": gzip.compress(b"Bad .<br /><br />Very bad .\nWorse\n"),
        "train-pos.txt": "Good, a caf\u00e9\n  Better \r\n".encode(),
        "test-neg.txt": b"worst",
        "test-pos.txt.gz": gzip.compress(b"best\nThe best\n"),
    },
    "sst": {"train.txt": TREES, "dev.txt": TREES, "test.txt": TREES},
    "shakespeare": {"input.txt": "Speak, speak \u2014\n".encode() * 2},
    "names": {"names.txt": b"emma\nava\n\nliam"},
}


@pytest.fixture
def root(tmp_path):
    """A folder with all data sets, small."""
    for name in ("mnist", "fashion-mnist"):
        (tmp_path / name).mkdir()
        for part in ("train", "t10k"):
            (tmp_path / name / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
            (tmp_path / name / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS))
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]:
        (folder / name).write_bytes(RECORDS.tobytes())
    (tmp_path / "sentiment").mkdir()
    (tmp_path / "sentiment" / "rt-polarity.pos").write_bytes(b"good \n a caf\xe9 , good\x85 better\n\n")
    (tmp_path / "sentiment" / "rt-polarity.neg").write_bytes(b"bad\r\nworse\nbad , bad\nworst")
    for name, arrays in (("pneumoniamnist", HEALTHY_OR_NOT), ("chestmnist", XRAYS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.npz").write_bytes(npz(arrays))
    for name, files in TEXTS.items():
        (tmp_path / name).mkdir()
        for file, data in files.items():
            (tmp_path / name / file).write_bytes(data)
    return tmp_path


# --- what they give -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_become_images_and_labels(root, name):
    for x, y in getattr(tn.data, name)(root):
        assert (x.shape, x.dtype, x.flags.c_contiguous, x.flags.writeable) == ((7, 28, 28, 1), np.float32, True, True)
        np.testing.assert_array_equal(x[..., 0], IMAGES.astype(np.float32) / np.float32(255))
        assert (y.tolist(), y.dtype) == (LABELS.tolist(), np.int64)


def test_black_and_white_are_exactly_0_and_1(root):
    (root / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:2]))
    extremes = np.stack([np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8)])
    (root / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(extremes)))
    (x, _), _ = tn.data.mnist(root)
    assert (x[0] == 0).all()
    assert (x[1] == 1).all()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda b: gzip.compress(b[:99]) + gzip.compress(b[99:])])
def test_whether_a_file_is_gzipped_is_seen_in_it_and_not_in_its_name(root, name, pack):
    (root / "mnist" / "train-images-idx3-ubyte.gz").unlink()
    (root / "mnist" / name).write_bytes(pack(idx(IMAGES)))
    np.testing.assert_array_equal(tn.data.mnist(root)[0][0], tn.data.fashion_mnist(root)[0][0])


def test_cifar_planes_become_pixels(root):
    (x_train, y_train), (x_test, y_test) = tn.data.cifar10(root)
    assert (x_train.shape, x_test.shape, x_train.dtype) == ((20, 32, 32, 3), (4, 32, 32, 3), np.float32)
    assert (y_train.tolist(), y_test.tolist()) == ([9, 0, 4, 4] * 5, [9, 0, 4, 4])
    assert y_train.dtype == np.int64
    assert x_train.flags.c_contiguous
    red_of_row_1_column_2, blue = RECORDS[3, 1 + 32 + 2], RECORDS[3, 1 + 2 * 1024 + 5]
    assert x_test[3, 1, 2, 0] == np.float32(red_of_row_1_column_2) / np.float32(255)
    assert x_test[3, 0, 5, 2] == np.float32(blue) / np.float32(255)
    np.testing.assert_array_equal(x_train[4:8], x_test)


def test_cifar_files_may_have_different_numbers_of_records(root):
    for number in range(1, 6):
        (root / "cifar-10-batches-bin" / f"data_batch_{number}.bin").write_bytes(bytes([number]) * (RECORD * number))
    (x, y), _ = tn.data.cifar10(root)
    assert y.tolist() == np.repeat([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]).tolist()
    np.testing.assert_array_equal(x[:, 0, 0, 0], y.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("compressed", [True, False])
def test_x_rays_come_in_three_parts_with_one_label_or_fourteen(root, layout, compressed):
    save = np.savez_compressed if compressed else np.savez
    for name, arrays in (("pneumoniamnist", HEALTHY_OR_NOT), ("chestmnist", XRAYS)):
        save(root / name / f"{name}.npz", **{key: layout(array) for key, array in arrays.items()})
    for read, arrays in ((tn.data.pneumonia_mnist, HEALTHY_OR_NOT), (tn.data.chest_mnist, XRAYS)):
        for part, (x, y) in zip(("train", "val", "test"), read(root), strict=True):
            np.testing.assert_array_equal(x[..., 0], arrays[f"{part}_images"] / np.float32(255))
            np.testing.assert_array_equal(y.reshape(len(x), -1), arrays[f"{part}_labels"])
            assert (x.dtype, y.dtype, y.ndim) == (np.float32, np.int64, 1 if arrays is HEALTHY_OR_NOT else 2)
            for array in (x, y):
                assert array.flags.c_contiguous
                assert array.flags.writeable


def test_reviews_are_lines_of_latin_1_and_take_turns(root):
    sentences, labels = tn.data.movie_reviews(root)
    assert sentences == ["bad", "good", "worse", "bad , bad", "a café , good\x85 better", "worst"]
    assert labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert labels.dtype == np.int64


def test_reviews_of_imdb_are_lines_gzipped_or_not_and_take_turns(root):
    (texts, labels), (texts_test, labels_test) = tn.data.imdb(root)
    assert texts == ["Bad .\n\nVery bad .", "Good, a café", "Worse", "Better"]
    assert (labels.tolist(), labels.dtype) == ([0, 1, 0, 1], np.int64)
    assert (texts_test, labels_test.tolist()) == (["best", "worst", "The best"], [1, 0, 1])


def test_trees_become_sentences_or_phrases_of_five_classes_or_two(root):
    sentences = ["Not bad ,", "( good/bad", "so-so"]
    for texts, labels in tn.data.sst(root):
        assert (texts, labels.tolist(), labels.dtype) == (sentences, [4, 2, 2], np.int64)
    (texts, labels), *others = tn.data.sst(root, phrases=True)
    assert texts == ["Not bad ,", "Not", "bad ,", "bad", ",", "( good/bad", "(", "good/bad", "so-so"]
    assert labels.tolist() == [4, 2, 3, 1, 2, 2, 0, 4, 2]
    assert [part[0] for part in others] == [sentences, sentences]
    (texts, labels), (texts_dev, labels_dev), _ = tn.data.sst(root, phrases=True, classes=2)
    assert (texts, labels.tolist()) == (["Not bad ,", "bad ,", "bad", "(", "good/bad"], [1, 1, 0, 0, 1])
    assert (texts_dev, labels_dev.tolist()) == (["Not bad ,"], [1])


def test_a_phrase_stands_once_for_each_label_that_it_has(root):
    (root / "sst" / "train.txt").write_bytes(b"(4 (2 good) (2 good))\n(3 (3 good) (2 good))\n")
    texts, labels = tn.data.sst(root, phrases=True)[0]
    assert texts == ["good good", "good", "good good", "good"]
    assert labels.tolist() == [4, 2, 3, 3]


def test_options_that_no_treebank_has_are_refused(root):
    for classes in (3, "2", None, True):
        with pytest.raises(ValueError, match="sst: classes must be 5 or 2, got"):
            tn.data.sst(root, classes=classes)
    with pytest.raises(TypeError, match="sst: phrases must be True or False, got 1"):
        tn.data.sst(root, phrases=1)


def test_the_plays_are_cut_at_nine_tenths_and_names_are_lines(root):
    whole = "Speak, speak \u2014\n" * 2
    assert tn.data.shakespeare(root) == (whole[:27], whole[27:])
    assert tn.data.names(root) == ["emma", "ava", "liam"]


# --- where they look ----------------------------------------------------------------------------------------


def test_the_folder_is_the_argument_else_the_environment_s_else_the_user_s_cache(root, monkeypatch):
    monkeypatch.setenv("TINYNET_DATA", str(root))
    assert len(tn.data.cifar10()[1][1]) == len(tn.data.cifar10(str(root))[1][1]) == 4
    assert data_root() == root
    assert data_root("elsewhere") == Path("elsewhere")
    monkeypatch.setenv("HOME", str(root))
    assert data_root("~/data") == root / "data"


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [
        ("linux", None, "~/.cache/tinynet"),
        ("linux", ("XDG_CACHE_HOME", "/some/where"), "/some/where/tinynet"),
        ("linux", ("XDG_CACHE_HOME", "not/absolute"), "~/.cache/tinynet"),
        ("linux", ("XDG_CACHE_HOME", ""), "~/.cache/tinynet"),
        ("darwin", None, "~/Library/Caches/tinynet"),
        ("darwin", ("XDG_CACHE_HOME", "not/absolute"), "~/Library/Caches/tinynet"),
        ("win32", ("LOCALAPPDATA", "/some/where"), "/some/where/tinynet"),
    ],
)
def test_the_cache_is_where_the_system_has_caches(monkeypatch, tmp_path, platform, variable, folder):
    on_platform(monkeypatch, platform, tmp_path)
    if variable:
        monkeypatch.setenv(*variable)
    assert data_root() == Path(folder).expanduser()


def test_what_version_0_1_put_into_the_cache_of_macos_is_found(monkeypatch, tmp_path):
    on_platform(monkeypatch, "darwin", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    (tmp_path / "Library" / "Caches" / "tinynet").mkdir(parents=True)
    assert data_root() == tmp_path / "Library" / "Caches" / "tinynet"


def on_platform(monkeypatch, platform, home):
    """A fresh user's machine with this system."""
    import platformdirs.macos
    import platformdirs.unix
    import platformdirs.windows

    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TINYNET_DATA", "")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(sys, "platform", platform)
    systems = {
        "linux": platformdirs.unix.Unix,
        "darwin": platformdirs.macos.MacOS,
        "win32": platformdirs.windows.Windows,
    }
    monkeypatch.setattr(platformdirs.windows, "get_win_folder", lambda name: os.environ[name[6:].replace("_", "")])
    monkeypatch.setattr(platformdirs, "PlatformDirs", systems[platform])


@pytest.mark.parametrize("value", [3, b"bytes", ["list"]])
def test_a_root_that_is_no_path_is_a_type_error(value):
    with pytest.raises(TypeError, match="root must be a folder's path"):
        tn.data.mnist(value)


# --- broken files -------------------------------------------------------------------------------------------


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


PACKED = gzip.compress(idx(IMAGES))
MAGIC3, MAGIC1 = bytes([0, 0, 8, 3]), bytes([0, 0, 8, 1])
BOMB = gzip.compress(idx(IMAGES) + bytes(50_000_000))
HONEST_BOMB = gzip.compress(idx(np.zeros(0, np.uint8), MAGIC3, (2**21, 28, 28)) + bytes(3_000_000))

XRAY_FILE = npz(HEALTHY_OR_NOT)
ROW = np.zeros((5, 1), np.uint8)
HUGE = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
HUGE += b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000000000, 28, 28), }".ljust(117) + b"\n"

# name: file, its bytes, what the message says
IMAGES_GZ, LABELS_RAW = "mnist/train-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte"
CIFAR, REVIEWS = "cifar-10-batches-bin/data_batch_3.bin", "sentiment/rt-polarity.neg"
XRAY, CHEST = "pneumoniamnist/pneumoniamnist.npz", "chestmnist/chestmnist.npz"
IMDB, SST = "imdb/train-neg.txt.gz", "sst/dev.txt"
BROKEN = {
    "empty images": (IMAGES_GZ, b"", "an empty file"),
    "empty gzip data": (IMAGES_GZ, gzip.compress(b""), "00 00 08 03, found nothing"),
    "a web page for images": (IMAGES_GZ, PAGE, "found a web page"),
    "a gzipped web page": (IMAGES_GZ, gzip.compress(PAGE), "found a web page"),
    "images gzipped twice": (IMAGES_GZ, gzip.compress(PACKED), "found gzip data"),
    "labels for images": (IMAGES_GZ, gzip.compress(idx(LABELS)), "found the bytes 00 00 08 01"),
    "floats for images": (IMAGES_GZ, idx(IMAGES, bytes([0, 0, 13, 3])), "found the bytes 00 00 0d 03"),
    "little-endian magic number": (IMAGES_GZ, idx(IMAGES, MAGIC3[::-1]), "found the bytes 03 08 00 00"),
    "cut magic number": (IMAGES_GZ, idx(IMAGES)[:3], "found the bytes 00 00 08"),
    "cut header": (IMAGES_GZ, idx(IMAGES)[:15], "a header of 16 bytes, found 15"),
    "cut images": (IMAGES_GZ, idx(IMAGES)[:-1], "the 5,488 bytes that the header announces, found 5,487"),
    "bytes after the images": (IMAGES_GZ, idx(IMAGES) + b"x", "the 5,488 bytes that the header announces, found 5,489"),
    "cut images, gzipped": (IMAGES_GZ, gzip.compress(idx(IMAGES)[:-1]), "5,488 bytes.*only 5,487"),
    "bytes after the images, gzipped": (IMAGES_GZ, gzip.compress(idx(IMAGES) + b"x"), "5,488 bytes.*found more"),
    "another size of images": (IMAGES_GZ, idx(IMAGES[:, 1:]), r"\(N > 0, 28, 28\), found \(7, 27, 28\)"),
    "no images": (IMAGES_GZ, idx(IMAGES[:0]), r"\(N > 0, 28, 28\), found \(0, 28, 28\)"),
    "an absurd number of images": (IMAGES_GZ, idx(IMAGES, sizes=(2**32 - 1, 28, 28)), "3,367,254,359,280 bytes"),
    "an absurd number, gzipped": (IMAGES_GZ, gzip.compress(idx(IMAGES, sizes=(2**31, 28, 28))), "1,683,627,180,032"),
    "a large number, gzipped": (IMAGES_GZ, gzip.compress(idx(IMAGES, sizes=(2**14, 28, 28))), "at most [0-9,]+ are"),
    "a bomb of gzip data": (IMAGES_GZ, BOMB, "5,488 bytes.*found more"),
    "a bomb that the header announces": (IMAGES_GZ, HONEST_BOMB, "1,644,167,168 bytes.*at most"),
    "cut gzip data": (IMAGES_GZ, PACKED[:-100], "error in it: Compressed file ended"),
    "cut gzip checksum": (IMAGES_GZ, PACKED[:-4], "error in it: Compressed file ended"),
    "cut gzip header": (IMAGES_GZ, PACKED[:5], "error in it"),
    "a flipped bit in gzip data": (IMAGES_GZ, flipped(PACKED, 3000), "error in it: CRC|error in it: Error -3"),
    "a flipped bit in gzip's checksum": (IMAGES_GZ, flipped(PACKED, len(PACKED) - 6), "error in it: CRC check failed"),
    "a flipped bit in gzip's length": (IMAGES_GZ, flipped(PACKED, len(PACKED) - 2), "error in it: Incorrect length"),
    "rubbish after gzip data": (IMAGES_GZ, PACKED + b"rubbish", "error in it: Not a gzipped file"),
    "fewer images than labels": (IMAGES_GZ, idx(IMAGES[:6]), r"7 images.*train-labels-idx1-ubyte, found 6"),
    "empty labels": (LABELS_RAW, b"", "an empty file"),
    "a web page for labels": (LABELS_RAW, PAGE, "found a web page"),
    "images for labels": (LABELS_RAW, idx(IMAGES), "found the bytes 00 00 08 03"),
    "a label of 10": (LABELS_RAW, idx(np.array([0, 1, 10, 3, 4, 5, 255], np.uint8)), "0 to 9, found 10 at position 2"),
    "no labels": (LABELS_RAW, idx(LABELS[:0]), r"\(N > 0,\), found \(0,\)"),
    "an absurd number of labels": (LABELS_RAW, idx(LABELS, sizes=(2**32 - 1,)), "4,294,967,295 bytes"),
    "cut labels": (LABELS_RAW, idx(LABELS)[:-2], "the 7 bytes that the header announces, found 5"),
    "an empty batch": (CIFAR, b"", "an empty file"),
    "a web page for a batch": (CIFAR, PAGE, "records of 3,073 bytes, found 58 bytes, beginning with a web page"),
    "a cut record": (CIFAR, RECORDS.tobytes()[:-1], "found 12,291 bytes, beginning with the bytes 09"),
    "a gzipped batch": (CIFAR, gzip.compress(RECORDS.tobytes()), "beginning with gzip data"),
    "a batch's label of 10": (CIFAR, RECORDS.tobytes() + bytes([10]) * RECORD, "found 10 at position 4"),
    "no X-rays": (XRAY, b"", "an empty file"),
    "a web page for X-rays": (XRAY, PAGE, "a file of NumPy's, with several arrays, found a web page"),
    "a single array": (XRAY, npy(ROW), "found the bytes 93 4e 55 4d"),
    "a cut archive": (XRAY, XRAY_FILE[:-30], "found an error in it: File is not a zip file"),
    "a flipped bit in an archive": (XRAY, flipped(XRAY_FILE, 2000), "found an error in it"),
    "an archive without validation": (
        XRAY,
        npz({name: array for name, array in HEALTHY_OR_NOT.items() if "val" not in name}),
        "an array val_images in it, found train_images.npy, train_labels.npy, test_images.npy",
    ),
    "an archive of nothing": (XRAY, npz({}), "train_images in it, found nothing"),
    "fewer labels than X-rays": (
        XRAY,
        npz(HEALTHY_OR_NOT | {"train_labels": ROW[:4]}),
        "5 train_labels, as many as train_images, found 4",
    ),
    "a label of 2": (XRAY, npz(HEALTHY_OR_NOT | {"train_labels": ROW + 2}), "0 to 1, found 2 at position 0"),
    "fourteen labels for one": (XRAY, npz(XRAYS), r"train_labels of shape \(N > 0, 1\).*found \(5, 14\) of uint8"),
    "one label for fourteen": (CHEST, XRAY_FILE, r"train_labels of shape \(N > 0, 14\).*found \(5, 1\) of uint8"),
    "X-rays of 64 x 64": (
        XRAY,
        npz(HEALTHY_OR_NOT | {"train_images": np.zeros((5, 64, 64), np.uint8)}),
        r"train_images of shape \(N > 0, 28, 28\) and unsigned bytes, found \(5, 64, 64\) of uint8",
    ),
    "X-rays of floats": (
        XRAY,
        npz(HEALTHY_OR_NOT | {"train_images": np.zeros((5, 28, 28))}),
        "found .* of float64",
    ),
    "no X-ray to train on": (
        XRAY,
        npz(HEALTHY_OR_NOT | {"train_images": np.zeros((0, 28, 28), np.uint8)}),
        r"found \(0, 28, 28\)",
    ),
    "an object that would be unpickled": (
        XRAY,
        npz(HEALTHY_OR_NOT, train_images=npy(np.zeros((5, 28, 28), np.uint8)).replace(b"'|u1'", b"'|O' ")),
        "of object",
    ),
    "cut X-rays": (
        XRAY,
        npz(HEALTHY_OR_NOT, train_images=npy(HEALTHY_OR_NOT["train_images"])[:-9]),
        "3,920 bytes that the header of train_images announces, found 3,911",
    ),
    "bytes after the X-rays": (
        XRAY,
        npz(HEALTHY_OR_NOT, train_images=npy(HEALTHY_OR_NOT["train_images"]) + bytes(50_000_000)),
        "3,920 bytes that the header of train_images announces, found more",
    ),
    "an absurd number of X-rays": (XRAY, npz(HEALTHY_OR_NOT, train_images=HUGE), "7,056,000,000,000 bytes.*at most"),
    "X-rays that are text": (XRAY, npz(HEALTHY_OR_NOT, train_images=b"text"), "found an error in it"),
    "no reviews": (REVIEWS, b"", "an empty file"),
    "nothing but empty lines": (REVIEWS, b"\n \n\r\n", "lines of text, found none"),
    "a web page for reviews": (REVIEWS, PAGE, "found a web page"),
    "gzipped reviews": (REVIEWS, gzip.compress(b"bad\n" * 9), "found gzip data"),
    "reviews of imdb gzipped twice": (IMDB, gzip.compress(gzip.compress(b"bad\n" * 9)), "found gzip data"),
    "a gzipped web page for reviews": (IMDB, gzip.compress(PAGE), "found a web page"),
    "cut reviews of imdb": (IMDB, gzip.compress(b"bad\n" * 9)[:-9], "error in it: Compressed file ended"),
    "a bomb for reviews": (IMDB, gzip.compress(bytes(50_000_000)), "lines of text, found the bytes 00"),
    "a late bomb for reviews": (IMDB, gzip.compress(b"x" * 2**18 + bytes(50_000_000)), "text, found a byte of 0"),
    "reviews in Latin-1": (IMDB, b"a caf\xe9\n", "text in UTF-8, found the byte e9 at position 5"),
    "no trees": (SST, b"\n", "lines of text, found none"),
    "reviews for trees": (SST, b"good\n", r"a tree on each line.*found good\."),
    "a label of 5": (SST, TREES + b"(5 good)", r"labels 0 to 4, found \(5 good\)"),
    "a tree without a label": (SST, b"((2 a) (2 b))", "a tree on each line"),
    "a phrase without words": (SST, b"(2 (2 a) (3))", "a tree on each line"),
    "a tree that does not end": (SST, b"(2 (2 a) (3 b)", "a tree on each line"),
    "a bracket too many": (SST, b"(2 a))", "a tree on each line"),
    "two trees on a line": (SST, b"(2 a) (2 b)", "a tree on each line"),
    "a word behind a tree": (SST, b"(2 a) b", "a tree on each line"),
    "no plays": ("shakespeare/input.txt", b"", "an empty file"),
    "a web page for plays": ("shakespeare/input.txt", PAGE, "found a web page"),
    "no names": ("names/names.txt", b"\n\n", "lines of text, found none"),
    "binary reviews": (REVIEWS, b"bad\nworse\0\1\2", "lines of text, found the bytes 62 61 64"),
}
READERS = {
    "mnist": tn.data.mnist,
    "cifar-10-batches-bin": tn.data.cifar10,
    "pneumoniamnist": tn.data.pneumonia_mnist,
    "chestmnist": tn.data.chest_mnist,
    "sentiment": tn.data.movie_reviews,
    "imdb": tn.data.imdb,
    "sst": tn.data.sst,
    "shakespeare": tn.data.shakespeare,
    "names": tn.data.names,
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_what_was_expected_and_found(root, case):
    name, data, message = BROKEN[case]
    path = root / name
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(tn.data.DatasetError, match=message) as caught:
            READERS[name.split("/")[0]](root)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: expected ")
    assert most < 4e6  # whatever the header announces, whatever gzip data unpack to
    assert path.read_bytes() == data


@pytest.mark.parametrize("name", [IMAGES_GZ, LABELS_RAW, CIFAR, XRAY, REVIEWS, IMDB, SST])
def test_a_folder_in_a_file_s_place_is_named(root, name):
    (root / name).unlink()
    (root / name).mkdir()
    with pytest.raises(tn.data.DatasetError, match="expected a file, found a folder") as caught:
        READERS[name.split("/")[0]](root)
    assert str(root / name) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_a_file_s_place_is_named_and_not_waited_for(root):
    (root / CIFAR).unlink()
    os.mkfifo(root / CIFAR)
    with pytest.raises(tn.data.DatasetError, match=r"data_batch_3\.bin: expected a file, found something else"):
        tn.data.cifar10(root)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_file_that_cannot_be_reached_is_named_with_the_cause(root):
    (root / LABELS_RAW).unlink()
    (root / f"{LABELS_RAW}.gz").symlink_to(root / f"{LABELS_RAW}.gz")
    with pytest.raises(tn.data.DatasetError, match=r"t10k-labels-idx1-ubyte\.gz cannot be read: ") as caught:
        tn.data.mnist(root)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("name", [IMAGES_GZ, CIFAR, XRAY, REVIEWS])
def test_a_file_that_may_not_be_read_is_named_with_the_cause(root, name, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tinynet.data.files.open", refuse, raising=False)
    with pytest.raises(tn.data.DatasetError, match=r"cannot be read: Permission denied") as caught:
        READERS[name.split("/")[0]](root)
    assert isinstance(caught.value.__cause__, PermissionError)


@pytest.mark.skipif(os.name == "nt", reason="needs sparse files")
@pytest.mark.parametrize("name", [IMAGES_GZ, CIFAR, XRAY, REVIEWS])
def test_a_file_too_large_for_the_memory_is_refused_unread(root, name):
    with open(root / name, "r+b") as file:
        file.truncate(RECORD * 2**26)
    with pytest.raises(tn.data.DatasetError, match="expected at most 1,073,741,824 bytes, found 206,"):
        READERS[name.split("/")[0]](root)


# --- the real ones ------------------------------------------------------------------------------------------


def real(folder):
    if not REAL or not (Path(REAL) / folder).is_dir():
        pytest.skip(f"needs the environment variable TINYNET_DATA to name a folder with {folder} in it")
    return REAL


def test_the_whole_of_mnist_is_read():
    (x_train, y_train), (x_test, y_test) = tn.data.mnist(real("mnist"))
    assert (x_train.shape, x_test.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert np.bincount(y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (x_train.min(), x_train.max()) == (0, 1)
    assert x_train.mean(dtype=np.float64) == pytest.approx(0.1307, abs=1e-4)  # as everybody normalizes it
    assert x_train.std(dtype=np.float64) == pytest.approx(0.3081, abs=1e-4)


def test_photographs_of_cifar_10_are_read_in_the_order_red_green_blue():
    (x_train, y_train), (x_test, y_test) = tn.data.cifar10(real("cifar-10-batches-bin"))
    assert set(y_train) == set(y_test) == set(range(10))
    assert len(x_train) == len(y_train)
    assert len(x_test) == len(y_test)
    mean = x_train.mean(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.01)  # as everybody normalizes it
    # Neighbouring pixels are alike across and down, as they would not be in another layout.
    assert np.abs(np.diff(x_test, axis=1)).mean() < 0.1
    assert np.abs(np.diff(x_test, axis=2)).mean() < 0.1


def test_the_movie_reviews_are_read():
    sentences, labels = tn.data.movie_reviews(real("sentiment"))
    assert len(sentences) == len(labels) == 10_662
    assert labels.sum() == 5_331
    assert labels[:1000].sum() == 500
    assert sentences[1].startswith("the rock is destined to be the 21st century's new")
    assert all(sentences)
    given = [word for sentence in sentences for word in sentence.split()]
    same = sum(tokenize(word) == [word] for word in given)
    assert same > 0.997 * len(given)  # tokenizing finds the tokens that the file's authors made
    assert 18_000 < len(Vocabulary(sentences)) < 22_000


def test_x_rays_are_read():
    parts = tn.data.pneumonia_mnist(real("pneumoniamnist"))
    assert [x.shape for x, _ in parts] == [(N, 28, 28, 1) for N in (4708, 524, 624)]
    assert [int(y.sum()) for _, y in parts] == [3494, 389, 390]
    for x, _ in parts:  # the lungs are darker than what is between them, and neighbouring pixels are alike
        assert x[:, 10:18, 12:16].mean() > x[:, 10:18, 6:10].mean()
        assert np.abs(np.diff(x, axis=1)).mean() < 0.06


def test_the_reviews_of_imdb_are_read():
    for texts, labels in tn.data.imdb(real("imdb")):
        assert len(texts) == len(labels) == 25_000
        assert labels.sum() == 12_500
        assert labels[:1000].sum() == 500
        assert min(map(len, texts)) >= 32
        assert not any("<br" in text for text in texts)
        assert 220 < np.mean([len(text.split()) for text in texts]) < 240


def test_the_treebank_is_read():
    parts = tn.data.sst(real("sst"))
    assert [len(texts) for texts, _ in parts] == [8544, 1101, 2210]
    assert np.bincount(parts[0][1]).tolist() == [1092, 2218, 1624, 2322, 1288]
    assert np.bincount(parts[2][1]).tolist() == [279, 633, 389, 510, 399]
    assert [len(texts) for texts, _ in tn.data.sst(real("sst"), classes=2)] == [6920, 872, 1821]
    texts, labels = tn.data.sst(real("sst"), phrases=True)[0]
    assert len(texts) > 150_000
    assert set(parts[0][0]) <= set(texts)
    assert labels[texts.index("bad")] < 2


def test_the_plays_and_the_names_are_read():
    train, validation = tn.data.shakespeare(real("shakespeare"))
    assert (len(train), len(validation)) == (1_003_854, 111_540)
    assert train.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert len(set(train + validation)) == 65
    names = tn.data.names(real("names"))
    assert (len(names), len(set(names)), names[:3]) == (32_033, 29_494, ["emma", "olivia", "ava"])
    assert sorted(set("".join(names))) == list("abcdefghijklmnopqrstuvwxyz")
