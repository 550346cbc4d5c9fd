"""What happens inside a model: its filters, what its layers make of an image, what flows back, what mattered to it."""

import copy

import numpy as np

from tinynet.checks import positive_int
from tinynet.data.sequences import count
from tinynet.gradients import checked_batch, through
from tinynet.gradients import gradients as gradients_of
from tinynet.layers.along_time import check_along_time, in_place, padded, within
from tinynet.layers.base import Layer
from tinynet.losses.by_name import as_column
from tinynet.plots.canvas import (
    BLUE,
    PALE,
    checked_images,
    draw_image,
    drawing_on,
    finished,
    in_unit_interval,
    plain,
    signed_colours,
)
from tinynet.training.counting import positions

MOST_FILTERS, MOST_CHANNELS = 64, 16  # that one picture shows


def filters(what, path=None, *, on=None, columns=8):
    """The weights of a layer as images: what each of its filters looks for.

    what  a Conv2D, whose filters (kh, kw, C) are drawn, or a model, of which the first Conv2D is taken; or, where a
          Dense comes first, over flattened images, the weights of each of its outputs, in the image's shape

    Filters of 3 channels are drawn in colour, with 0 as the middle grey; those of one channel blue below 0 and orange
    above; of others, each channel so, a row for each of the first filters.  All share one scale.

    Raises TypeError for anything else, and ValueError for a layer that is not built or has no such weights.

    >>> model = tn.Sequential([tn.Conv2D(4, 3), tn.Flatten(), tn.Dense(2)], (8, 8, 1), seed=0)
    >>> x, y = np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 2
    >>> len(tn.plots.filters(model).axes)
    2
    """
    name, w = _filters_of(what)
    columns = positive_int(columns, "filters: columns")
    K, I, J, C = w.shape
    limit = largest(w)
    if C in (1, 3):
        shown = w[:MOST_FILTERS]
        tiles = np.clip(0.5 + 0.5 * shown / limit, 0, 1) if C == 3 else shown[..., 0]
        columns, title = min(columns, len(shown)), f"{name}: {_first(len(shown), K)} filters {I} by {J}"
    else:
        shown = w[:8, :, :, :MOST_CHANNELS]
        tiles, columns = shown.transpose(0, 3, 1, 2).reshape(-1, I, J), shown.shape[-1]
        title = f"{name}: {_first(len(shown), K)} filters {I} by {J}, {_first(columns, C)} channels"
    height, width = -(-len(tiles) // columns) * (I + 1), columns * (J + 1)
    scale = min(7 / width, 7 / height)
    on = drawing_on(on, (max(width * scale, 4) + 1.3, height * scale + 0.9))
    panel = on.subplots()
    image = _draw_mosaic(panel, tiles, columns, (-limit, limit), signed_colours())
    panel.set_title(title, fontsize=11, loc="left")
    if C not in (1, 3):
        panel.set(xlabel="channel", ylabel="filter")
        panel.set_xticks((np.arange(columns) + 0.5) * (J + 1) - 1, range(columns), fontsize=8)
        panel.set_yticks((np.arange(len(shown)) + 0.5) * (I + 1) - 1, range(len(shown)), fontsize=8)
        panel.tick_params(length=0)
    if C == 3:
        panel.set_xlabel(f"grey is 0, black -{limit:.2g}, full colour +{limit:.2g}", fontsize=9)
    else:
        _colour_bar(on, panel, image, "weight")
    return finished(on, path)


def activations(model, x, path=None, *, on=None, layer=None, sample=0, columns=8):
    """What each layer makes of its input, as in predicting: its first channels as images, or its values' histogram.

    Of a sequence it is one image, a row for each channel, from the first position to the last.

    x        a batch (N, ...), or sequences of unequal length, the pair (x, lengths)
    layer    None: the input and all layers but Flatten, Reshape and Dropout, which change no number here; or the
             index of one, of which all channels are shown
    sample   whose images are drawn; a histogram counts the values of all samples
    columns  how many channels there are in a row

    Images are white at 0 and dark or, where a layer has values of both signs, orange above and blue below.

    >>> model = tn.Sequential([tn.Conv2D(4, 3), tn.Flatten(), tn.Dense(2)], (8, 8, 1), seed=0)
    >>> x, y = np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 2
    >>> len(tn.plots.activations(model, x).axes)
    5
    """
    check_model(model, "activations")
    x, lengths, layer = _checked(model, x, layer, sample, columns, "activations")
    found, ends = through(model.layers, x, lengths, False)
    return _draw_layers(model, found, ends, layer, sample, columns, "y", on, path)


def gradients(model, x, y, loss, path=None, *, on=None, layer=None, sample=0, columns=8):
    """dL/dy of each layer's output in one training step, drawn as activations draws y: what the loss wants changed.

    loss is a function (prediction, target) -> (value, gradient); the other arguments are those of activations, and
    the first row is dL/dx.  The step is made on a copy of the model, which stays as it was.

    >>> model = tn.Sequential([tn.Conv2D(4, 3), tn.Flatten(), tn.Dense(2)], (8, 8, 1), seed=0)
    >>> x, y = np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 2
    >>> len(tn.plots.gradients(model, x, y, tn.softmax_cross_entropy).axes)
    5
    """
    check_model(model, "gradients")
    _check_loss(loss, "gradients")
    x, lengths, layer = _checked(model, x, layer, sample, columns, "gradients")
    layers = copy.deepcopy(model).layers
    values, ends = through(layers, x, lengths, True)
    counted, targets = positions(values[-1].copy(), y, ends[-1])
    _, dy = loss(counted, as_column(targets, counted, loss))
    dy = dy if ends[-1] is None else in_place(dy, ends[-1], values[-1].shape)
    found = [dy]
    for k in range(len(layers) - 1, -1, -1):
        dy = layers[k].backward(dy, k > 0 or not layers[0].takes_integers)
        found.insert(0, dy)
    return _draw_layers(model, found, ends, layer, sample, columns, "dL/dy", on, path)


def saliency(model, x, target, loss, path=None, *, on=None, columns=4, names=None):
    """Beside each image, how much each of its pixels matters to the loss: |dL/dx|, the largest of its channels.

    x        images (N, H, W, C) with C = 1 or 3; values outside [0, 1] are drawn from lowest to highest
    target   what the loss takes for them; whole numbers (N,) are written above the images, or their word in `names`
    loss     a function (prediction, target) -> (value, gradient)
    columns  how many images there are in a row, each with its gradient on its right

    Every gradient is drawn up to its own maximum, which is written above it: that of a sample that is surely right is
    small everywhere.  The gradient is that of the model as it predicts: Dropout drops nothing, and BatchNorm uses its
    running statistics.  That is done on a copy; the model stays as it was.

    Source: Simonyan et al. 2014, "Deep inside convolutional networks", section 3; they take a class's score for L.

    >>> model = tn.Sequential([tn.Conv2D(4, 3), tn.Flatten(), tn.Dense(2)], (8, 8, 1), seed=0)
    >>> x, y = np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 2
    >>> picture = tn.plots.saliency(model, x, y, tn.softmax_cross_entropy)
    """
    check_model(model, "saliency")
    _check_loss(loss, "saliency")
    columns = positive_int(columns, "saliency: columns")
    images = checked_images(x, "saliency")
    if np.ndim(x) != 4:
        raise ValueError(f"saliency: x must be (N, H, W, C), got {np.shape(x)}")
    dx = np.abs(gradients_of(model, x, target, loss).dx).max(axis=-1)
    shown, labels = in_unit_interval(images), np.asarray(target)
    labelled = labels.dtype.kind in "iu" and labels.shape == (len(images),)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    on = drawing_on(on, (columns * 2.3 + 0.7, rows * 1.35))
    panels = on.subplots(rows, 2 * columns, squeeze=False)
    for panel in panels.ravel()[2 * len(images) :]:
        panel.set_axis_off()
    for left, right, image, d, k in zip(
        panels.ravel()[::2], panels.ravel()[1::2], shown, dx, range(len(images)), strict=False
    ):
        draw_image(left, image)
        if labelled:
            left.set_title(str(names[labels[k]] if names is not None else labels[k]), fontsize=10, pad=4)
        share = d / (d.max() or 1.0)
        drawn = draw_image(right, share, cmap="magma")
        right.set_title(f"max {d.max():.2g}", fontsize=9, pad=4)
    bar = on.colorbar(drawn, ax=panels, fraction=0.025, pad=0.02)
    bar.set_label("|dL/dx| / its maximum", fontsize=9)
    bar.outline.set_visible(False)
    return finished(on, path)


def largest(array):
    """The largest finite absolute value, or 1 where there is nothing but 0: where a scale of colours may end."""
    return float(np.abs(array).max(where=np.isfinite(array), initial=0)) or 1.0


def mosaic(tiles, columns):
    """Images (n, H, W) or (n, H, W, 3) beside and below each other as one, with gaps of one pixel of NaN between."""
    n, H, W = tiles.shape[:3]
    rows = -(-n // columns)
    size = rows * (H + 1) - 1, columns * (W + 1) - 1
    whole = np.full((*size, *tiles.shape[3:]), np.nan, np.result_type(tiles, np.float32))
    for k, tile in enumerate(tiles):
        top, left = k // columns * (H + 1), k % columns * (W + 1)
        whole[top : top + H, left : left + W] = tile
    return whole


def _draw_mosaic(panel, tiles, columns, limits, colours):
    """The mosaic of images, with pale gaps, and nothing where the last row has no more of them."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    picture, (H, W) = mosaic(tiles, columns), tiles.shape[1:3]
    if picture.ndim == 3:  # colours have no NaN
        picture = np.where(np.isnan(picture), to_rgb(PALE), picture)
    colours = colormaps.get_cmap(colours).with_extremes(bad=PALE)
    image = draw_image(panel, picture, cmap=colours, vmin=limits[0], vmax=limits[1])
    panel.spines[:].set_visible(False)
    if len(tiles) % columns:
        left, top = len(tiles) % columns * (W + 1) - 1.5, len(tiles) // columns * (H + 1) - 1.5
        panel.fill_between([left, picture.shape[1]], top, picture.shape[0], color="white", lw=0)
    return image


def _colour_bar(on, panel, image, label):
    bar = on.colorbar(image, ax=panel, fraction=0.03, pad=0.01, format="%.3g")
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _first(shown, count):
    return f"the first {shown} of {count}" if shown < count else f"{count}"


def _filters_of(what):
    """A layer's name and its weights as images (K, I, J, C)."""
    if hasattr(what, "flat_values"):
        shape = None
        for layer in what.walk():
            images = layer.weight_images(shape)
            if images is not None:
                return layer.label, images
            if layer.vector_order == "mixed":
                raise ValueError(f"filters: the first weights are those of {layer.label}, which sees no images")
            if layer.same_numbers and len(layer.input_shape) == 3 and layer.input_shape[2] in (1, 3):
                shape = layer.input_shape
        raise ValueError("filters: the model has neither a Conv2D nor a Dense")
    kind = type(what)
    if not isinstance(what, Layer) or kind.weight_images is Layer.weight_images or what.vector_order == "mixed":
        raise TypeError(f"filters: expected a model or a Conv2D, got {kind.__name__}")
    if not what.parameters:
        raise ValueError(f"filters: {what.label} is not built: it has no weights yet")
    return what.label, what.weight_images(None)


def check_model(model, name):
    if not hasattr(model, "flat_values"):
        raise TypeError(f"{name}: model must be a tinynet.Sequential, got {type(model).__name__}")


def _check_loss(loss, name):
    if not callable(loss):
        raise TypeError(f"{name}: loss must be a function (prediction, target) -> (value, gradient), got {loss!r}")


def _checked(model, x, layer, sample, columns, name):
    """x as an array, its lengths or None, and the layer's index from the front or None, if all arguments fit."""
    x, lengths = checked_batch(x, model, name)
    N = count(x)
    if positive_int(sample, f"{name}: sample", 0) >= N:
        raise ValueError(f"{name}: sample must be below {N}, the number of samples, got {sample}")
    positive_int(columns, f"{name}: columns")
    if layer is not None:
        layers = len(model.layers)
        if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
            raise TypeError(f"{name}: layer must be None or the index of a layer, got {layer!r}")
        if not -layers <= layer < layers:
            raise ValueError(f"{name}: layer must be an index of the model's {layers} layers, got {layer}")
        layer = int(layer) % layers
    if lengths is not None:
        check_along_time(model.layers, x.shape[1])
        if lengths[sample] == 0:
            raise ValueError(f"{name}: sample {sample} has the length 0: there is nothing to draw")
        x = padded(x, lengths, x.shape[1])
    return x, lengths, layer


def _draw_layers(model, found, ends, layer, sample, columns, symbol, on, path):
    """A row for each array of `found`, the input's and then every layer's; or `layer`'s alone, all its channels.

    There is none for several inputs.
    """
    drawn = []  # (title, symbol, array, its tiles or None)
    for k, array in enumerate(found):
        each = model.layers[k - 1] if k else None
        if (
            array is None
            or isinstance(array, tuple)
            or ((k and each.same_numbers) if layer is None else k != layer + 1)
        ):
            continue
        title = f"{k - 1} {type(each).__name__}   {each.formula()}" if k else "input"
        tiles = None
        if array.ndim == 4 and array.shape[1] * array.shape[2] > 1:
            one, C = array[sample], array.shape[3]
            if k == 0 and C == 3 and symbol == "y":
                tiles = in_unit_interval(one[None])  # in colour
            else:
                tiles = one.transpose(2, 0, 1)[: None if layer is not None else columns]
                title += f"   {_first(len(tiles), C)} channel{'s' if C > 1 else ''}"
        elif array.ndim == 3 and array.shape[1] > 1:
            one, C = array[sample, : None if ends[k] is None else ends[k][sample]], array.shape[2]
            tiles = one.T[: None if layer is not None else 4 * columns]  # (channels, T), one picture of all of them
            title += f"   {_first(len(tiles), C)} channel{'s' if C > 1 else ''}"
        elif ends[k] is not None:
            array = within(array, ends[k])
        drawn.append((title, symbol if k else symbol.replace("y", "x"), array, tiles))
    heights = [_height(tiles, columns) for *_, tiles in drawn]
    on = drawing_on(on, (9.6, sum(heights) + 0.5 * len(drawn)))
    panels = on.subplots(len(drawn), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (title, name, array, tiles) in zip(panels, drawn, strict=True):
        panel.set_title(title, fontsize=10, loc="left")
        if tiles is None:
            _histogram(panel, array, name)
            continue
        signed, limit = bool((tiles < 0).any()), largest(tiles)
        limits, colours = ((-limit, limit), signed_colours()) if signed else ((0, limit), "Greys")
        if tiles.ndim == 2:
            image = panel.imshow(
                tiles, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
            )
            panel.set(xlabel="position", ylabel="channel")
            panel.tick_params(labelsize=8)
            _colour_bar(on, panel, image, name)
            continue
        image = _draw_mosaic(panel, tiles, min(columns, len(tiles)), limits, colours)
        panel.set_anchor("W")
        panel.set_xlim(-0.5, columns * (tiles.shape[2] + 1) - 1.5)
        if tiles.ndim == 3:
            _colour_bar(on, panel, image, name)
    return finished(on, path)


def _height(tiles, columns):
    """Of a panel, in inches: of a histogram, of a sequence (channels, T), or of images."""
    if tiles is None:
        return 1.3
    if tiles.ndim == 2:
        return min(max(0.12 * len(tiles), 0.8), 4.0)
    return 8.0 * -(-len(tiles) // columns) / columns * (tiles.shape[1] + 1) / (tiles.shape[2] + 1)


def _histogram(panel, array, symbol):
    """How often the values of all samples occur.  The zeros are only named: after a ReLU they would dwarf the rest."""
    values = np.asarray(array, np.float64).ravel()
    zero, finite = values == 0, np.isfinite(values)
    panel.hist(values[finite & ~zero], bins=40, color=BLUE)
    words = [f"{100 * zero.mean():.0f} % are 0"] if zero.any() else []
    if not finite.all():
        words.append(f"{(~finite).sum():,} are not finite")
    if words:
        panel.text(0.99, 0.95, ", ".join(words), ha="right", va="top", fontsize=9, transform=panel.transAxes)
    panel.set_xlabel(f"{symbol}, of {len(array):,} samples with {values.size // len(array):,} numbers each", fontsize=9)
    panel.set_ylabel("count", fontsize=9)
    if symbol != "y":  # most gradients are next to nothing, and the few others matter
        panel.set_yscale("log")
    panel.tick_params(labelsize=8)
    plain(panel)
