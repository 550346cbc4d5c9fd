"""What the pictures share: colours, an empty figure, plain axes, notes, images as they are drawn."""

import io
import os

import numpy as np

from tinynet.checks import numbers
from tinynet.data.writing import absolute, write_whole

BLUE, ORANGE, GREEN, PURPLE, RED = "#3b6fb6", "#e08a2c", "#3f9b5f", "#8a5fb0", "#c8403a"
GREY, PALE = "#8b8f97", "#e2e5e9"


def figure(width=8.0, height=4.5):
    """An empty Figure of so many inches, whose parts make room for each other's labels.

    At the end of a notebook's cell it shows itself, with `%matplotlib inline` or without.

    >>> left, right = tn.plots.figure(12, 4).subfigures(1, 2)
    >>> picture = tn.plots.training_curves({"loss": [2.0, 1.0]}, on=left)
    >>> picture is tn.plots.confusion_matrix([0, 1, 1], [0, 0, 1], on=right)
    True
    """
    from tinynet.plots.picture import Picture

    result = Picture(figsize=(width, height), layout="constrained", facecolor="white", dpi=120)
    result.get_layout_engine().set(w_pad=0.1, h_pad=0.05)
    return result


def signed_colours():
    """A colour map for numbers of both signs: BLUE below 0, white at 0, ORANGE above, darker towards the ends.

    >>> tn.plots.signed_colours().name
    'signed'
    """
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", ["#16335c", BLUE, "#ffffff", ORANGE, "#7a3d04"])


def plain(panel):
    panel.grid(color=PALE, lw=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)
    panel.tick_params(color=GREY)


def note(panel, text, at, words, colour, start=(0, 0.5)):
    """Text at `words`, and a thin line to the point `at`, from the place on the text that is `start` of its size."""
    line = {"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 2, "shrinkB": 4, "relpos": start}
    panel.annotate(text, at, words, color=colour, fontsize=9, va="center", arrowprops=line)


def checked_images(images, name):
    """As an array (N, H, W) of grey or (N, H, W, 3) of coloured images."""
    images = numbers(images, f"{name}: images")
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3) or len(images) == 0:
        hint = ""
        if images.ndim == 4 and images.shape[1] in (1, 3):
            hint = "; are the channels first? np.moveaxis(images, 1, -1)"
        elif images.ndim == 2:
            hint = "; one image? images[None]"
        raise ValueError(f"{name}: images must be (N, H, W), (N, H, W, 1) or (N, H, W, 3), got {images.shape}{hint}")
    return images


def in_unit_interval(images):
    """Bytes divided by 255; floats as they are, or, where some lie outside [0, 1], from the lowest to the highest."""
    if images.dtype == np.uint8:
        return images / np.float32(255)
    low, high = float(np.nanmin(images)), float(np.nanmax(images))
    if low >= 0 and high <= 1:
        return images
    return (images - low) / max(high - low, np.finfo(np.float32).tiny)


def draw_image(panel, image, brightest=1, **options):
    """An image in a thin frame; grey ones as ink on paper, dark where the value is high."""
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_color(PALE)
    return panel.imshow(image, **{"cmap": "Greys", "vmin": 0, "vmax": brightest, "interpolation": "nearest", **options})


def drawing_on(on, size):
    return figure(*size) if on is None else on


def finished(on, path):
    """The whole figure that `on` belongs to, saved if there is a path."""
    whole = on.get_figure(root=True) or on
    if path is not None:
        _save(whole, path)
    return whole


def _save(picture, path):
    """As savefig does, in the format that the path's ending says; but a file is there whole or not at all."""
    if hasattr(path, "write"):  # an open file
        picture.savefig(path)
        return
    path = absolute(path, "plots")
    ending = os.path.splitext(path)[1][1:]
    if not ending:
        ending = picture.canvas.get_default_filetype()
        path = f"{path.rstrip('.')}.{ending}"
    content = io.BytesIO()
    picture.savefig(content, format=ending)
    write_whole(path, content.getvalue(), who="plots")
