"""What the examples share: their options, the look of their pictures, and how they end.

    python examples/NN_name.py [--out NN_name.png] [--show] [--quick]

An example that is copied elsewhere needs this file beside it, and nothing else of this folder.
"""

import argparse
import sys
from pathlib import Path

import tinynet as tn


def options(doc, **numbers):
    """The command line's out, show and quick, and one whole number for each of `numbers`: options(__doc__, seed=0)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    picture = Path(sys.argv[0]).with_suffix(".png").name
    parser.add_argument("--out", default=picture, help="where the picture goes (default: %(default)s)")
    parser.add_argument("--show", action="store_true", help="open a window with the picture")
    parser.add_argument("--quick", action="store_true", help="less of everything: some seconds, for tests")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")
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
    """Save the picture, and show it if that is wished."""
    figure.savefig(options.out)
    print(f"saved {options.out}")
    if options.show:
        from matplotlib import pyplot

        pyplot.figure(FigureClass=lambda *_, **__: figure)  # a window for a figure that was made without one
        pyplot.show()
