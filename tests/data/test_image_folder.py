"""Images in folders: which class, which pixels, and what cannot be read."""

import numpy as np
import pytest
from PIL import Image

import tinynet as tn

rng = np.random.default_rng(0)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Ten images, 6 by 8, of two classes; and the pixels in the order in which they must come."""
    pixels = rng.integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        save(tmp_path / ("cat" if k < 4 else "dog") / ("deeper" if k == 3 else ".") / f"{k}.png", image)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "cat" / ".hidden.png").write_text("no image")
    (tmp_path / ".cache").mkdir()
    return tmp_path, pixels / np.float32(255)


def test_folders_are_classes_and_pixels_are_from_0_to_1(folder):
    path, pixels = folder
    x, y = tn.data.image_folder(path)
    assert x.names == ["cat", "dog"]
    np.testing.assert_array_equal(y, [0] * 4 + [1] * 6)
    assert y.dtype == np.int64
    assert x.shape == (10, 6, 8, 3)
    assert x[:].dtype == np.float32
    np.testing.assert_array_equal(x[:], pixels)
    np.testing.assert_array_equal(np.asarray(x), pixels)
    np.testing.assert_array_equal(x[3], pixels[3])
    np.testing.assert_array_equal(x[-1], pixels[-1])
    np.testing.assert_array_equal(x[2:7:2], pixels[2:7:2])
    np.testing.assert_array_equal(x[[5, 1]], pixels[[5, 1]])
    assert x.files[3].name == "3.png"


def test_fit_predict_batches_and_normalize_take_it(folder):
    path, pixels = folder
    x, y = tn.data.image_folder(str(path))
    for read, (b, t) in zip(tn.batches(x, y, 3, seed=1), tn.batches(pixels, y, 3, seed=1), strict=True):
        np.testing.assert_array_equal(read[0], b)
        np.testing.assert_array_equal(read[1], t)

    def trained(x):
        model = tn.Sequential([tn.Normalize().fit(x), tn.Flatten(), tn.Dense(2)], (6, 8, 3))
        optimizer = tn.SGD(model, 0.1)
        history = tn.fit(
            model,
            x,
            y,
            loss="cross_entropy",
            optimizer=optimizer,
            epochs=2,
            batch_size=4,
            validation=0.3,
            progress=False,
        )
        return model.predict(x), history["val_loss"]

    for found, expected in zip(trained(x), trained(pixels), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_images_without_classes_are_those_of_a_folder_a_file_or_a_list(folder):
    path, pixels = folder
    x = tn.data.images(path)
    assert (x.names, repr(x)) == ([], "Images((10, 6, 8, 3))")
    np.testing.assert_array_equal(x[:], pixels)
    classes, _ = tn.data.image_folder(path, size=(4, 5), grey=True)
    np.testing.assert_array_equal(tn.data.images(str(classes.files[7]), (4, 5), grey=True)[:], classes[[7]])
    np.testing.assert_array_equal(tn.data.images([classes.files[7], str(classes.files[2])])[:], pixels[[7, 2]])
    error = tn.data.DatasetError
    with pytest.raises(error, match="there are no files"):
        tn.data.images([])
    with pytest.raises(error, match=r"nowhere\.png cannot be read as an image"):
        tn.data.images(path / "nowhere.png")
    for wrong in (3, [3], None):
        with pytest.raises(TypeError, match="images: files must be a path or a list of paths, got"):
            tn.data.images(wrong)
    (path / "empty").mkdir()
    with pytest.raises(error, match=r"empty has no images \(\.bmp, "):
        tn.data.images(path / "empty")


def test_all_broken_files_are_found_at_once(folder):
    path, pixels = folder
    (path / "cat" / "1.png").write_bytes((path / "cat" / "1.png").read_bytes()[:60])
    (path / "dog" / "8.png").write_text("no image")
    save(path / "dog" / "9.png", pixels[9, :4].astype(np.uint8))
    x, y = tn.data.image_folder(path)
    assert [file.name for file in x.broken()] == ["1.png", "8.png", "9.png"]
    x, _ = tn.data.image_folder(path, size=6)
    assert [file.name for file in x.broken()] == ["1.png", "8.png"]
    with pytest.raises(tn.data.DatasetError, match=r"1\.png cannot be read .*; x\.broken\(\) lists all such files"):
        x[:]


def test_every_image_is_brought_to_the_size_and_its_middle_is_kept(tmp_path):
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 200
    save(tmp_path / "a" / "wide.png", wide)
    save(tmp_path / "b" / "high.png", wide.transpose(1, 0, 2).copy())
    x, _ = tn.data.image_folder(tmp_path, size=5)
    assert x.shape == (2, 5, 5, 3)
    np.testing.assert_allclose(x[:], 200 / 255, atol=0.06)  # what is cut off shines in a little
    x, _ = tn.data.image_folder(tmp_path, size=(10, 20), grey=True)
    assert x[:].shape == (2, 10, 20, 1)
    np.testing.assert_allclose(x[0][0, :, 0], [0] * 5 + [200 / 255] * 10 + [0] * 5, atol=1e-6)


def test_grey_deep_and_transparent_images_are_read(tmp_path):
    deep = rng.integers(0, 65536, (4, 4)).astype(np.uint16)
    save(tmp_path / "a" / "0.png", deep)
    grey = rng.integers(0, 256, (4, 4)).astype(np.uint8)
    save(tmp_path / "a" / "1.png", grey)
    alpha = rng.integers(0, 256, (4, 4)).astype(np.uint8)
    save(tmp_path / "a" / "2.png", np.dstack([grey, grey, grey, alpha]))
    save(tmp_path / "a" / "3.png", grey > 100)
    x, _ = tn.data.image_folder(tmp_path)
    np.testing.assert_allclose(x[0], np.repeat(deep[..., None] / 65535, 3, axis=2), atol=1e-6)
    np.testing.assert_allclose(x[1], np.repeat(grey[..., None] / 255, 3, axis=2), atol=1e-6)
    shown = (grey * (alpha / 255.0) + 255 - alpha) / 255  # on white
    np.testing.assert_allclose(x[2], np.repeat(shown[..., None], 3, axis=2), atol=0.6 / 255)
    np.testing.assert_array_equal(x[3][..., 0], grey > 100)
    x, _ = tn.data.image_folder(tmp_path, grey=True)
    np.testing.assert_allclose(x[:2][..., 0], [deep / 65535, grey / 255], atol=1e-6)
    np.testing.assert_allclose(x[2][..., 0], shown, atol=1.1 / 255)


@pytest.mark.parametrize("mode", ["LA", "P", "RGB"])
def test_what_is_transparent_is_white_however_the_file_says_so(tmp_path, mode):
    (tmp_path / "a").mkdir()
    options = {"transparency": (0, 0, 0) if mode == "RGB" else 0} if mode != "LA" else {}
    Image.new(mode, (3, 2)).save(tmp_path / "a" / "1.png", **options)
    x, _ = tn.data.image_folder(tmp_path)
    np.testing.assert_array_equal(x[:], np.ones((1, 2, 3, 3)))


def test_a_deep_image_of_another_size_stays_between_0_and_1(tmp_path):
    save(tmp_path / "a" / "0.png", np.repeat([[0, 0, 65535, 65535, 0, 0]], 6, axis=0).astype(np.uint16))
    x, _ = tn.data.image_folder(tmp_path, size=24)
    assert (x[:].min(), x[:].max()) == (0, 1)


def test_an_image_of_real_numbers_is_refused(tmp_path):
    save(tmp_path / "a" / "0.tif", rng.random((4, 4), np.float32))
    with pytest.raises(tn.data.DatasetError, match=r"0\.tif cannot be read as an image: its pixels are real numbers"):
        tn.data.image_folder(tmp_path)


def test_a_photograph_is_turned_as_its_camera_notes(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    save(tmp_path / "a" / "0.png", pixels, exif=exif)
    x, _ = tn.data.image_folder(tmp_path)
    assert x.shape == (1, 16, 8, 3)
    assert x[0][0].min() == 1
    assert x[0][-1].max() == 0


def test_what_is_no_folder_of_images_is_refused(folder, tmp_path):
    path, _ = folder
    error = tn.data.DatasetError
    with pytest.raises(error, match="nowhere is no folder"):
        tn.data.image_folder(path / "nowhere")
    with pytest.raises(error, match="dog has no folders; image_folder takes each for a class"):
        tn.data.image_folder(path / "dog")
    (path / "empty").mkdir()
    with pytest.raises(error, match=r"empty has no images \(\.bmp, "):
        tn.data.image_folder(path)
    (path / "empty").rmdir()
    for part in ("train", "val"):
        save(path / "parts" / part / "cat" / "0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(error, match=r"has the folders train, val, which are parts and no classes: read each by itself"):
        tn.data.image_folder(path / "parts")
    with pytest.raises((ValueError, TypeError), match="image_folder: size must be"):
        tn.data.image_folder(path / "parts" / "train", size=0)


def test_a_file_that_is_broken_or_of_another_size_is_named_when_it_is_read(folder):
    path, pixels = folder
    x, _ = tn.data.image_folder(path)
    save(path / "dog" / "7.png", np.zeros((6, 9, 3), np.uint8))
    (path / "dog" / "8.png").write_bytes((path / "dog" / "8.png").read_bytes()[:60])
    with pytest.raises(
        tn.data.DatasetError, match=r"7\.png is 6 by 9, and the first image 6 by 8: give image_folder a s"
    ):
        x[7]
    with pytest.raises(tn.data.DatasetError, match=r"8\.png cannot be read as an image"):
        x[8:]
    np.testing.assert_array_equal(x[:7], pixels[:7])
