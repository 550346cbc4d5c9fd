"""What the examples share: their options, the look of their pictures, and how they end; and warped images.

    python examples/NN_name.py [--out NN_name.png] [--show] [--quick]

An example that is copied elsewhere needs this file beside it, and nothing else of this folder.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import tinynet as tn


def options(doc, **more):
    """The command line's out, show and quick, and what `more` gives a default: a number, a file, words to choose from.

    options(__doc__, seed=0, data=("digits", "clothes")): --seed 3 and --data clothes; without these, 0 and "digits".
    options(__doc__, page=""): --page step.html; without it, "".
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    picture = Path(sys.argv[0]).with_suffix(".png").name
    parser.add_argument("--out", default=picture, help="where the picture goes (default: %(default)s)")
    parser.add_argument("--show", action="store_true", help="open a window with the picture")
    parser.add_argument("--quick", action="store_true", help="less of everything: some seconds, for tests")
    for name, default in more.items():
        kind = {"type": type(default), "default": default}
        if isinstance(default, tuple):
            kind = {"choices": default, "default": default[0]}
        told = "where to write it (default: nowhere)" if default == "" else "(default: %(default)s)"
        parser.add_argument(f"--{name}", **kind, help=told)
    return parser.parse_args()


def plain(panel, title="", **labels):
    """Draw the axes without a box, on a pale grid; labels go to panel.set: xlabel, ylabel, xlim, ..."""
    panel.grid(color=tn.plots.PALE, lw=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(tn.plots.GREY)
    panel.tick_params(color=tn.plots.GREY)
    panel.set_title(title, fontsize=11)
    panel.set(**labels)


def finish(figure, options):
    """Save the picture, a PNG with 256 colours to keep it small, and show it if that is wished."""
    figure.savefig(options.out)
    if options.out.endswith(".png"):
        from PIL import Image  # which matplotlib has brought along

        Image.open(options.out).convert("RGB").quantize(256).save(options.out, optimize=True)
    print(f"saved {options.out}")
    if options.show:
        from matplotlib import pyplot

        pyplot.figure(FigureClass=lambda *_, **__: figure)  # a window for a figure that was made without one
        pyplot.show()


def warped(x, rng, turn=0.35, stretch=0.3, pixels=1.0):
    """Each grey image of x (N, H, W, 1) turned, stretched, slanted and moved at random: a fresh array like x.

    turn     up to so many radians, either way
    stretch  height and width are each multiplied by up to exp(stretch), or divided; rows slide by up to this slope
    pixels   moved by up to so many, up or down and left or right

    A pixel (r, c) of the new image lies at A (r, c) + b in the old one, both counted from the middle, and is the mean
    of the four pixels around that place, weighted by how near they are.  Outside the old image is paper, 0.
    """
    N, H, W, _ = x.shape
    angle, slope = rng.uniform(-turn, turn, N), rng.uniform(-stretch, stretch, N)
    high, wide = np.exp(rng.uniform(-stretch, stretch, (2, N)))
    A = np.array([[np.cos(angle) * high, slope - np.sin(angle) * wide], [np.sin(angle) * high, np.cos(angle) * wide]])
    b = rng.uniform(-pixels, pixels, (N, 2, 1))
    middle = np.array([[H - 1], [W - 1]]) / 2
    places = A.transpose(2, 0, 1) @ (np.indices((H, W)).reshape(2, -1) - middle) + b + middle  # (N, 2, H W)
    r, c = np.clip(places.astype(np.float32), -1, np.float32([[H], [W]])).transpose(1, 0, 2) + 1
    i, j = r.astype(np.intp), c.astype(np.intp)
    down, right = r - i, c - j
    paper = np.pad(x[..., 0], ((0, 0), (1, 2), (1, 2))).ravel()
    first = np.arange(N)[:, None] * (H + 3) * (W + 3) + i * (W + 3) + j
    above = paper[first] * (1 - right) + paper[first + 1] * right
    below = paper[first + W + 3] * (1 - right) + paper[first + W + 4] * right
    return (above * (1 - down) + below * down).astype(x.dtype).reshape(x.shape)
