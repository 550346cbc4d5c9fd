"""A page where one moves a weight, and sees the loss, its slope and a step of descent, all computed by the browser.

z = x w + b     y = sigmoid(z)     L = mean of -log p[t], p = softmax(z)     and backward, as in layers/ and losses/
"""

from tinynet.pages.walk import filled


def page(title, data):
    """The page as text, from what walk.look found."""
    kinds = [step["name"].split()[1] for step in data["steps"]] if data else []
    if not data or not data["small"] or data["loss"]["labels"] is None or not set(kinds) <= {"Dense", "Sigmoid"}:
        what = f", with {', '.join(kinds)}" if kinds else ""
        raise ValueError(
            "save_sliders_html: expected at most 500 numbers, layers that are Dense, without an activation or with "
            f'"sigmoid", or Sigmoid, x (N, I), and softmax_cross_entropy of labels (N,); got {title}{what}'
        )
    arrays, x = data["arrays"], data["arrays"][0]
    layers = [{"kind": kind, "own": step["inputs"][1:]} for kind, step in zip(kinds, data["steps"], strict=True)]
    return filled("sliders", {"title": title, "x": x, "t": data["loss"]["labels"], "layers": layers, "arrays": arrays})
