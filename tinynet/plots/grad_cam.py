"""Grad-CAM: where in an image a convolutional network has seen a class.

    A[p,q,k]   what a layer, the last convolution say, gives at position (p, q), channel k
    s          the score (logit) of the class

    a[k]   = mean over p, q of ds/dA[p,q,k]        how much channel k speaks for the class
    M[p,q] = max(0, sum_k a[k] A[p,q,k])           where channels are active that speak for it

M is coarse, P x Q, and is drawn over the image, each of its numbers on the pixels that the position stands for.

Source: Selvaraju et al. 2017, section 3.
"""

import numpy as np

from tinynet.checks import numbers
from tinynet.gradients import gradients
from tinynet.plots.canvas import checked_images, draw_image, drawing_on, finished, in_unit_interval
from tinynet.plots.inside import check_model


def class_activation(model, x, class_index=None, layer=None):
    """M, an array (N, P, Q), for images x (N, H, W, C).

    class_index   of which output the score is: a whole number, or one for each image, (N,); None: each image's highest
    layer         the index of a layer of the model whose output is (N, P, Q, K); None is the last one that is so

    The model is taken as it predicts (Dropout drops nothing, BatchNorm uses its running statistics), and stays as it
    was.  Its output must be (N, outputs).

    >>> model = tn.Sequential([tn.Conv2D(4, 3), tn.Flatten(), tn.Dense(2)], (8, 8, 1), seed=0)
    >>> x, y = np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 2
    >>> tn.plots.class_activation(model, x, 1).shape
    (6, 6, 6)
    """
    name = "grad_cam"
    check_model(model, name)
    x, layer = numbers(x, f"{name}: x"), _checked_layer(model, layer, name)
    if len(model.output_shape) != 1:
        raise ValueError(f"{name}: the model must end in scores (N, C), its output is (N, *{model.output_shape})")
    class_index = model.predict(x).argmax(axis=-1) if class_index is None else class_index
    classes = numbers(class_index, f"{name}: class_index", "must be a whole number, or one for each image")
    if classes.dtype.kind not in "iu" or classes.shape not in ((), (len(x),)):
        raise ValueError(f"{name}: class_index must be a whole number or ({len(x)},) of them, got {class_index!r}")
    if classes.size and not 0 <= classes.min() <= classes.max() < model.output_shape[0]:
        raise ValueError(f"{name}: class_index must be from 0 to {model.output_shape[0] - 1}, got {class_index!r}")
    found = gradients(model, x, classes)
    A, dA = found.activations[layer], found.gradients[layer]
    a = dA.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    return np.maximum((a * A).sum(axis=-1), 0).astype(A.dtype)


def grad_cam(model, x, class_index=None, layer=None, path=None, *, on=None, columns=4, names=None):
    """Beside each image, where the model has seen the class: class_activation over the image, red where it is highest.

    x        images (N, H, W, C) with C = 1 or 3, or a single one (H, W, C)
    names    gives each class a word instead of its number; the word, and the model's score, stand above

    The other arguments are those of class_activation.  Every image has a scale of colours of its own, up to its
    maximum.

    >>> model = tn.Sequential([tn.Conv2D(4, 3), tn.Flatten(), tn.Dense(2)], (8, 8, 1), seed=0)
    >>> x, y = np.random.default_rng(0).random((6, 8, 8, 1)), np.arange(6) % 2
    >>> picture = tn.plots.grad_cam(model, x, 1)
    """
    x = numbers(x, "grad_cam: x")
    if x.ndim == 3:
        x = x[None]
    M, shown = class_activation(model, x, class_index, layer), in_unit_interval(checked_images(x, "grad_cam"))
    scores = model.predict(x)
    classes = scores.argmax(axis=-1) if class_index is None else np.broadcast_to(class_index, len(x))
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    on = drawing_on(on, (columns * 2.5, rows * 1.5))
    panels = on.subplots(rows, 2 * columns, squeeze=False).ravel()
    for panel in panels[2 * len(x) :]:
        panel.set_axis_off()
    for k, (left, right) in enumerate(zip(panels[: 2 * len(x) : 2], panels[1 : 2 * len(x) : 2], strict=True)):
        draw_image(left, shown[k])
        word = str(names[classes[k]] if names is not None else classes[k])
        left.set_title(f"{word}: {scores[k, classes[k]]:.1f}", fontsize=9, pad=4)
        draw_image(right, shown[k])
        H, W = shown[k].shape[:2]
        share = M[k] / (M[k].max() or 1.0)
        box = (-0.5, W - 0.5, H - 0.5, -0.5)
        right.imshow(share, cmap="jet", vmin=0, vmax=1, alpha=0.45, extent=box, interpolation="bilinear")
    return finished(on, path)


def _checked_layer(model, layer, name):
    """The layer's index from the front; of None, that of the last one that gives images."""
    images = [k for k, each in enumerate(model.layers) if len(each.output_shape) == 3]
    if not images:
        raise ValueError(f"{name}: no layer of the model has an output (N, P, Q, K)")
    if layer is None:
        return images[-1]
    count = len(model.layers)
    if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)):
        raise TypeError(f"{name}: layer must be None or the index of a layer, got {layer!r}")
    if not -count <= layer < count:
        raise ValueError(f"{name}: layer must be an index of the model's {count} layers, got {layer}")
    if int(layer) % count not in images:
        where = model.layers[layer]
        raise ValueError(f"{name}: {where.label} gives (N, *{where.output_shape}), and not images (N, P, Q, K)")
    return int(layer) % count
