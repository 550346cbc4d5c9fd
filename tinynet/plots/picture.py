"""A figure that shows itself in a notebook; in a file of its own, for it imports matplotlib, which takes a while."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """matplotlib's Figure; at the end of a notebook's cell it is drawn, which pyplot would have to be asked for."""

    def _repr_png_(self):
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()
