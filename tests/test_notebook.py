"""What a notebook shows: asked of IPython itself, and of a kernel that runs whole notebooks."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "digits.ipynb"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
X, Y = np.random.default_rng(0).standard_normal((12, 4)), np.arange(12) % 3


class Scaled(tn.Layer):
    """A layer whose formula has letters that HTML takes for its own."""

    def build(self, input_shape, dtype, rng):
        return super().build(input_shape, dtype, rng)

    def formula(self):
        return "y = x if x < 0 & x > -1"

    def forward(self, x, training=False):
        return x

    def backward(self, dy, input_grad=True):
        return dy


def network(*more):
    return tn.Sequential([tn.Dense(5, activation="relu"), *more, tn.Dense(3)], 4, seed=0)


def shown(value):
    """What IPython sends to a notebook for the value: a dict of contents by their kind."""
    from IPython.core.formatters import DisplayFormatter

    contents, _ = DisplayFormatter().format(value)
    return contents


def cells(text):
    """The rows of the only table in the HTML, as lists of text."""
    [body] = re.findall(r"<table>(.*)</table>", text, flags=re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)] for row in rows]


def test_a_figure_shows_itself_as_a_picture():
    content = shown(tn.plots.training_curves({"loss": [2.0, 1.0]}))
    assert content["image/png"][:8] == b"\x89PNG\r\n\x1a\n"


def test_a_model_is_the_table_of_its_summary_with_the_letters_of_html_escaped():
    model = network(Scaled())
    text = shown(model)["text/html"]
    header, *rows = cells(text)
    assert header == ["layer", "", "output", "parameters", "FLOPs forward"]
    assert [row[0] for row in rows] == ["0 Dense", "1 Scaled", "2 Dense", "total"]
    assert rows[1][1] == "y = x if x < 0 & x > -1"
    assert rows[-1][3] == str(model.flat_values.size)
    assert "x &lt; 0 &amp; x" in text
    assert re.findall(r"<(?!/?(?:table|thead|tbody|tr|th|td|div)\b)", text) == []


def test_an_explanation_has_a_row_for_each_layer_and_parameter():
    found = tn.explain(network(), X, Y, "softmax_cross_entropy", repeats=1)
    text = shown(found)["text/html"]
    assert found.title in text
    _, *rows = cells(text)
    names = ["input", "0 Dense", "    weight", "    bias", "1 Dense", "    weight", "    bias", "loss"]
    assert [row[0] for row in rows] == names
    assert rows[-1][4] == f"{found.loss:.4g}"
    assert rows[2][3] == "(4, 5)"


def test_a_history_has_a_row_for_each_epoch():
    model = network()
    history = tn.fit(model, X, Y, loss="softmax_cross_entropy", optimizer=tn.SGD(model), epochs=2, progress=False)
    header, *rows = cells(shown(history)["text/html"])
    assert header == ["epoch", *history]
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[1][header.index("loss")] == f"{history['loss'][1]:.4g}"
    history.interrupted = True
    assert "ended by Ctrl-C" in shown(history)["text/html"]
    assert cells(shown(tn.History())["text/html"]) == [["epoch"]]


def test_a_gradient_check_says_what_failed_and_why():
    class Doubled(Scaled):
        def backward(self, dy, input_grad=True):
            return 2 * dy

    good, bad = tn.gradcheck.check(tn.Dense(3), (5, 4)), tn.gradcheck.check(Doubled(), (5, 4))
    assert [row[0] for row in cells(shown(good)["text/html"])[1:]] == ["input", "weight", "bias"]
    assert "passed: largest error" in shown(good)["text/html"]
    [row] = cells(shown(bad)["text/html"])[1:]
    assert row[2] == f"{bad.worst['input']}\n{bad.causes['input']}"
    assert "FAILED: largest error" in shown(bad)["text/html"]


def test_the_configuration_and_reports_are_shown_as_they_are():
    config = tn.show_config()
    assert cells(shown(config)["text/html"])[1:] == [list(item) for item in config.items()]
    for text in (network().summary(), tn.metrics.report([0, 1], [0, 1], names=["<b>", "c"])):
        content = shown(text)["text/html"]
        assert html.unescape(re.sub(r"^<pre[^>]*>|</pre>$", "", content)) == text
        assert "<b>" not in content


def executed(notebook, folder):
    """The cells of code of the notebook after nbconvert ran it."""
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", folder, notebook],
        env={**ENVIRONMENT, "JUPYTER_CONFIG_DIR": str(folder), "IPYTHONDIR": str(folder / "ipython")},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / notebook.name).read_text())
    return [cell for cell in found["cells"] if cell["cell_type"] == "code"]


def kinds(cell):
    """What a cell shows, by the kinds of its outputs."""
    return [output.get("name") or sorted(output["data"]) for output in cell["outputs"]]


FIT = """
import sys
import numpy as np
import tinynet as tn
HIDE
model = tn.Sequential([tn.Dense(3)], 4)
x, y = np.ones((64, 4)), np.arange(64) % 3
tn.fit(model, x, y, loss="softmax_cross_entropy", optimizer=tn.SGD(model), epochs=1)
"""


def written(path, *codes):
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": code}
        for n, code in enumerate(codes)
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.mark.slow
def test_below_a_cell_a_bar_is_drawn_and_a_figure_is_shown_once(tmp_path):
    figure = "tn.plots.training_curves({'loss': [2.0, 1.0]})"
    notebook = written(tmp_path / "in.ipynb", FIT.replace("HIDE", ""), figure, f"%matplotlib inline\n{figure}")
    fit, plain, inline = executed(notebook, tmp_path / "out")
    bar, line, history = kinds(fit)
    assert "application/vnd.jupyter.widget-view+json" in bar
    assert line == "stdout"
    assert fit["outputs"][1]["text"][0].startswith("epoch 1/1  loss ")
    assert history == ["text/html", "text/plain"]
    assert kinds(plain) == kinds(inline) == [["image/png", "text/plain"]]


@pytest.mark.slow
def test_without_ipywidgets_the_bar_is_of_letters_and_nothing_warns(tmp_path):
    notebook = written(tmp_path / "in.ipynb", FIT.replace("HIDE", 'sys.modules["ipywidgets"] = None'))
    [fit] = executed(notebook, tmp_path / "out")
    *stream, history = kinds(fit)
    assert {*stream} == {"stdout"}
    assert history == ["text/html", "text/plain"]
    bar, _, line = "".join(text for output in fit["outputs"][:-1] for text in output["text"]).rpartition("\r")
    assert re.search(r"epoch 1/1 .* \d+/64", bar)
    assert line.startswith("epoch 1/1  loss ")


@pytest.mark.slow
def test_the_notebook_of_the_examples_runs_and_is_kept_with_what_it_shows(tmp_path):
    now = executed(NOTEBOOK, tmp_path / "out")
    kept = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [kinds(cell) for cell in now] == [kinds(cell) for cell in kept]
    assert [cell["execution_count"] for cell in kept] == list(range(1, len(kept) + 1))
    assert not any("stderr" in kinds(cell) for cell in now)
    assert sum("image/png" in output for cell in now for output in kinds(cell)) >= 3
    assert NOTEBOOK.stat().st_size < 400_000, "pictures are kept small"
    assert f"({NOTEBOOK.name})" in (ROOT / "examples" / "README.md").read_text()
