"""What a model makes of a sequence: which position looks at which."""

from tinynet.checks import numbers, positive_int
from tinynet.plots.canvas import GREY, PALE, drawing_on, finished

MOST_TOKENS = 60  # that are written beside a picture


def attention(weights, tokens=None, path=None, *, on=None, columns=4, titles=None):
    """Of each head a table: a row for each position that looks, a column for each that it looks at.

    weights  (T, T) or, of several heads, (heads, T, T): numbers in [0, 1], such as MultiHeadAttention's weights(x)[0]
    tokens   what is at the T positions: words or letters to write beside the rows and columns, or None
    columns  how many heads there are in a row
    titles   a word for each head, instead of its number

    The darker, the more weight; all share one scale, from 0 to 1.  Raises ValueError for other shapes.

    >>> len(tn.plots.attention(np.full((2, 3, 3), 1 / 3), "abc").axes)
    3
    """
    weights = numbers(weights, "attention: weights")
    heads = weights[None] if weights.ndim == 2 else weights
    if heads.ndim != 3 or heads.shape[1] != heads.shape[2] or heads.size == 0:
        hint = "; those of one sample, weights[0]?" if weights.ndim == 4 else ""
        raise ValueError(f"attention: weights must be (T, T) or (heads, T, T), got {weights.shape}{hint}")
    if not ((heads >= 0) & (heads <= 1 + 1e-5)).all():
        raise ValueError(f"attention: weights must be from 0 to 1, got {heads.min()} to {heads.max()}")
    count, T, _ = heads.shape
    if tokens is not None and len(tokens) != T:
        raise ValueError(f"attention: tokens must be {T}, one for each position, got {len(tokens)}")
    if titles is not None and len(titles) != count:
        raise ValueError(f"attention: titles must be {count}, one for each head, got {len(titles)}")
    columns = min(positive_int(columns, "attention: columns"), count)
    rows = -(-count // columns)
    written = tokens is not None and T <= MOST_TOKENS
    side = min(max(0.2 * T, 2.2), 8)
    on = drawing_on(on, (columns * (side + 0.9) + 0.6, rows * (side + 0.9)))
    panels = on.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[count:]:
        panel.set_axis_off()
    for k, panel in enumerate(panels[:count]):
        image = panel.imshow(heads[k], cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        panel.spines[:].set_color(PALE)
        panel.tick_params(length=0, labelsize=8, color=GREY)
        if written:
            words = [_visible(token) for token in tokens]
            panel.set_xticks(range(T), words, rotation=90 if max(map(len, words)) > 1 else 0)
            panel.set_yticks(range(T), words)
        if titles is not None or count > 1:
            panel.set_title(str(titles[k]) if titles is not None else f"head {k}", fontsize=10)
    panels[0].set(ylabel="position that looks")
    panels[count - 1].set(xlabel="position that is looked at")
    bar = on.colorbar(image, ax=panels, fraction=0.02, pad=0.01)
    bar.set_label("weight", fontsize=9)
    bar.outline.set_visible(False)
    return finished(on, path)


def _visible(token):
    """The token with its spaces and newlines as marks, and no sign that starts a formula."""
    return str(token).replace(" ", "\u2423").replace("\n", "\u21b5").replace("$", r"\$")
