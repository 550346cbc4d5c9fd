"""What a notebook shows: tables in place of lines of text, and a bar that moves.

A notebook asks the value at the end of a cell for `_repr_html_`; elsewhere its repr is shown, as ever.
"""

import html
import warnings


class Text(str):
    """A text that a notebook or an interactive Python shows as print does, and not in quotes with \\n between lines."""

    __slots__ = ()
    __repr__ = str.__str__

    def _repr_html_(self):
        # Unlike a notebook's own text, this is not wrapped: the columns of a wide table stay in line.
        return f'<pre style="white-space: pre; overflow-x: auto">{html.escape(self)}</pre>'


def table(title, header, rows, words=1, after=""):
    """HTML of a table between its title and what comes after it; the first `words` columns are not numbers."""

    def line(kind, cells):
        sides = ["left" if column < words else "right" for column in range(len(cells))]
        return "".join(
            f'<{kind} style="text-align: {side}; white-space: pre">{html.escape(str(cell))}</{kind}>'
            for side, cell in zip(sides, cells, strict=True)
        )

    lines = [f"<thead><tr>{line('th', header)}</tr></thead>", "<tbody>"]
    lines += [f"<tr>{line('td', row)}</tr>" for row in rows]
    parts = [f"<div>{html.escape(title)}</div>" if title else "", "<table>", *lines, "</tbody>", "</table>"]
    return "\n".join([*parts, f"<div>{html.escape(after)}</div>" if after else ""]).strip()


def shows_bars(stream):
    """Whether a bar can move there: on a terminal, and below a notebook's cell."""
    return _below_a_cell(stream) or bool(getattr(stream, "isatty", bool)())


def seconds_to_show(stream):
    """What must take longer than this to be worth a bar there: a notebook takes a tenth of a second to draw one."""
    return 0.5 if _below_a_cell(stream) else 0.0


def progress_bar(stream, **options):
    """A bar of tqdm; below a notebook's cell, where the package ipywidgets is installed, a drawn one."""
    from tqdm import tqdm

    if _below_a_cell(stream):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")  # without ipywidgets, letters do as well
            from tqdm.auto import tqdm
        if "bar_format" in options:
            options["bar_format"] = options["bar_format"].replace("{bar:20}", "{bar}")  # a drawn bar has its own width
    return tqdm(file=stream, **options)


def _below_a_cell(stream):
    return type(stream).__module__ == "ipykernel.iostream"
