"""The examples: each runs, finds its own claim to be true, and draws its picture."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
# What the readers of larger data sets are called, and the folders below TINYNET_DATA that they read.
FOLDERS = {
    "mnist": "mnist",
    "fashion_mnist": "fashion-mnist",
    "cifar10": "cifar-10-batches-bin",
    "pneumonia_mnist": "pneumoniamnist",
    "movie_reviews": "sentiment",
    "imdb": "imdb",
    "sst": "sst",
    "shakespeare": "shakespeare",
    "names": "names",
}


def data_sets(example):
    """The data sets outside the package that it reads."""
    return [name for name in FOLDERS if re.search(rf"\bdata\.{name}\(", example.read_text())]


def run(example, folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", example, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env={**os.environ, "MPLBACKEND": "Agg", **environment},
    )


def size(picture):
    """(width, height) of a PNG file, from its header."""
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_saves_its_picture(example, tmp_path):
    root = os.environ.get("TINYNET_DATA")
    for name in data_sets(example):
        if root is None or not (Path(root) / FOLDERS[name]).is_dir():
            pytest.skip(f"needs {FOLDERS[name]}/ in the folder that TINYNET_DATA names")
    pages = [name for name in ("page", "sliders") if f'{name}=""' in example.read_text()]
    result = run(example, tmp_path, "--quick", *(f"--{name}={name}.html" for name in pages))
    if result.returncode != 0 and "This example needs " in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    picture = f"{example.stem}.png"
    assert f"saved {picture}" in result.stdout
    width, height = size(tmp_path / picture)
    assert width > 500
    assert height > 300
    written = {picture, *(f"{name}.html" for name in pages)}
    assert {path.name for path in tmp_path.iterdir()} == written  # nothing else is left behind
    assert all(
        "One training step, every" in (tmp_path / f"{name}.html").read_text() for name in pages if name == "page"
    )


@pytest.mark.parametrize("example", [path for path in EXAMPLES if data_sets(path)], ids=lambda path: path.stem)
def test_without_its_data_the_example_says_what_is_missing(example, tmp_path):
    nowhere = "http://127.0.0.1:9"  # no request gets further
    result = run(example, tmp_path, "--quick", TINYNET_DATA=str(tmp_path), http_proxy=nowhere, https_proxy=nowhere)
    assert result.returncode == 1
    [line] = [line for line in result.stderr.splitlines() if "DatasetError: " in line]
    assert any(str(tmp_path / FOLDERS[name]) in result.stderr for name in data_sets(example)), line


def test_the_reader_of_x_rays_takes_fourteen_labels_too(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "chestmnist"
    folder.mkdir()
    arrays = {f"{part}_images": rng.integers(0, 256, (130, 28, 28), np.uint8) for part in ("train", "val", "test")}
    labels = {f"{part}_labels": rng.integers(0, 2, (130, 14), np.uint8) for part in ("train", "val", "test")}
    labels["test_labels"][:, 13] = 0  # of a label that no test image has, there is nothing to tell
    np.savez(folder / "chestmnist.npz", **arrays, **labels)
    result = run(FOLDER / "27_chexnet.py", tmp_path, "--quick", "--data", "chest", TINYNET_DATA=str(tmp_path))
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith(("atelectasis", "pleural", "hernia"))]
    assert [row.split("  ")[0] for row in rows] == 2 * ["atelectasis", "pleural thickening"]
    refused = run(FOLDER / "27_chexnet.py", tmp_path, "--data", "feet")
    assert "invalid choice: 'feet' (choose from " in refused.stderr


def test_out_and_show_decide_where_the_picture_goes(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
import gallery
from matplotlib import pyplot
import tinynet as tn

options = gallery.options("text", seed=3, data=("digits", "clothes"))
figure = tn.plots.figure()
pyplot.show = lambda: print(len(pyplot.get_fignums()), pyplot.gcf() is figure)
gallery.plain(figure.subplots(), "a title", xlabel="x")
gallery.finish(figure, options)
print(options.quick, options.seed, options.data)
"""
    program = tmp_path / "04_program.py"
    program.write_text(code)
    assert run(program, tmp_path).stdout.splitlines() == ["saved 04_program.png", "False 3 digits"]
    assert size(tmp_path / "04_program.png") == (960, 540)
    shown = run(program, tmp_path, "--out", "other.svg", "--show", "--quick", "--seed", "5", "--data", "clothes")
    assert shown.stdout.splitlines() == ["saved other.svg", "1 True", "True 5 clothes"]
    assert "a title" in (tmp_path / "other.svg").read_text()


def test_warped_images_are_turned_and_moved_as_far_as_it_is_said(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from gallery import warped

    rng = np.random.default_rng(0)
    x = rng.random((50, 7, 9, 1), dtype=np.float32)
    same = warped(x, rng, turn=0, stretch=0, pixels=0)
    np.testing.assert_array_equal(same, x)
    assert same.dtype == x.dtype
    assert not np.shares_memory(same, x)
    turned = warped(x, rng, stretch=0, pixels=0)
    np.testing.assert_allclose(turned[:, 3, 4], x[:, 3, 4], atol=1e-5)  # the middle stays where it is
    assert not np.allclose(turned, x, atol=0.1)

    dot = np.zeros((50, 7, 9, 1))
    dot[:, 2, 5] = 1
    moved = warped(dot, rng, turn=0, stretch=0, pixels=1)
    np.testing.assert_allclose(moved.sum(axis=(1, 2, 3)), 1, atol=1e-5)  # shared by four pixels
    way = np.einsum("nhw,dhw->nd", moved[..., 0], np.indices((7, 9))) - (2, 5)
    assert np.abs(way).max() <= 1 + 1e-5
    assert np.ptp(way, axis=0).min() > 1.5  # each image goes its own way, up or down, left or right


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_index_lists_the_example_with_its_picture(example):
    index = (FOLDER / "README.md").read_text()
    [row] = [line for line in index.splitlines() if f"({example.name})" in line]
    assert row.startswith(f"| [{example.stem[:2]}]")
    assert f'<img src="{example.stem}.png"' in row
    assert (FOLDER / f"{example.stem}.png").stat().st_size < 100_000, "pictures are kept small"
