"""The page of a training step: its numbers are the package's, and each gradient the sum that the page writes."""

import json
import re

import numpy as np
import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import tinynet as tn

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("one_thread")


def words(layers, **options):
    return tn.Sequential(layers, dtype="float64", seed=1, **options)


CASES = {
    "Dense and sigmoid": (
        words([tn.Dense(3, activation="sigmoid"), tn.Dense(2)], input_shape=2),
        RNG.normal(size=(2, 2)),
    ),
    "a convolution": (
        words([tn.Conv2D(2, 2, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dense(2)], input_shape=(5, 5, 1)),
        RNG.normal(size=(1, 5, 5, 1)),
    ),
    "normalisation and dropout": (
        words([tn.Dense(4), tn.BatchNorm(), tn.Dropout(0.5), tn.Dense(2, activation="gelu")], input_shape=3),
        RNG.normal(size=(3, 3)),
    ),
    "a block": (words([tn.Residual([tn.Dense(2), tn.Tanh()]), tn.Dense(2)], input_shape=2), RNG.normal(size=(2, 2))),
    "branches": (
        words([tn.Parallel([[tn.Dense(2, "relu"), tn.Dense(1)], [tn.Dense(1)], []]), tn.Dense(2)], input_shape=2),
        RNG.normal(size=(2, 2)),
    ),
    "a transformer": (
        words([tn.Embedding(5, 2), tn.TransformerBlock(1, mlp_ratio=1), tn.GlobalAvgPool1D()], input_shape=3),
        np.array([[1, 4, 4]]),
    ),
    "words": (words([tn.Embedding(5, 2), tn.LSTM(2, return_sequences=False)], input_shape=3), np.array([[1, 4, 4]])),
    "several inputs": (
        words(
            [tn.Parallel([[tn.Embedding(3, 2), tn.Flatten()], [tn.Dense(2, activation="tanh")], []]), tn.Dense(2)],
            input_shape=((1,), (2,), (1,)),
        ),
        (np.array([[0], [2]]), RNG.normal(size=(2, 2)), RNG.normal(size=(2, 1))),
    ),
}


def explained(name, loss=tn.softmax_cross_entropy, **options):
    model, x = CASES[name]
    t = np.arange(len(model.predict(x))) % 2
    return model, x, t, tn.explain(model, x, t, loss, samples=0, **options)


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def saved(explanation, folder):
    explanation.save_html(folder / "step.html")
    return data_of((folder / "step.html").read_text("utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_its_numbers_are_those_of_the_step(name, tmp_path):
    model, x, t, explanation = explained(name)
    data = saved(explanation, tmp_path)
    loss, dy = tn.softmax_cross_entropy(model.forward(x, True), t)
    model.backward(dy)
    if name != "normalisation and dropout":  # which drops others in the next step
        assert data["loss"]["value"] == pytest.approx(loss, rel=1e-12)
        own = [array for array in data["arrays"] if array["kind"] == "parameter"]
        np.testing.assert_allclose(np.concatenate([a["grads"] for a in own]), model.flat_grads, rtol=1e-12, atol=1e-15)
    assert data["loss"]["value"] == pytest.approx(explanation.loss, rel=1e-12)
    assert explanation.rows[0].shape == tuple(data["arrays"][0]["shape"])


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_is_the_sum_over_what_the_number_touched_times_its_derivative(name, tmp_path):
    data = saved(explained(name)[3], tmp_path)
    arrays = data["arrays"]
    sums = {a: np.zeros(len(arrays[a]["values"])) for step in data["steps"] for a in step["inputs"]}
    for step in data["steps"]:
        for dy, links in zip(arrays[step["output"]]["grads"], step["links"], strict=True):
            for a, e, derivative, other, entry in links:
                sums[a][e] += derivative * dy
                if other >= 0:
                    assert arrays[other]["values"][entry] == pytest.approx(derivative, abs=1e-12)
    for a, found in sums.items():
        if arrays[a]["grads"] is not None:
            np.testing.assert_allclose(found, arrays[a]["grads"], rtol=1e-9, atol=1e-12)


def test_a_block_is_opened_into_the_steps_of_its_layers_and_one_that_joins_them(tmp_path):
    data = saved(explained("a block")[3], tmp_path)
    names = [array["name"] for array in data["arrays"]]
    assert names == ["x", "w0.0", "b0.0", "y0.0", "y0.1", "y0", "w1", "b1", "y1"]
    assert [step["name"] for step in data["steps"]] == ["0.0 Dense", "0.1 Tanh", "0 Residual", "1 Dense"]
    join = data["steps"][2]
    assert (join["formula"], join["backward"]) == ("y0 = x + y0.1", "x and y0.1 get dy0, whole")
    assert join["links"][3] == [[0, 3, 1.0, -1, -1], [4, 3, 1.0, -1, -1]]

    data = saved(explained("branches")[3], tmp_path)
    join = data["steps"][-2]
    assert (join["formula"], join["backward"]) == (
        "y0 = [y0.1, y0.2, x]", "y0.1 and y0.2 and x get their own columns of dy0",
    )  # fmt: skip
    assert [links[0][1] for links in join["links"]] == [0, 0, 0, 1, 1, 1, 2, 3]
    assert all(len(links) == 1 for links in join["links"])

    data = saved(explained("a transformer")[3], tmp_path)
    kinds = [step["name"].split()[1] for step in data["steps"]]
    layers = ["LayerNorm", "MultiHeadAttention", "Residual", "LayerNorm", "Dense", "GELU", "Dense", "Residual"]
    assert kinds == ["Embedding", *layers, "GlobalAvgPool1D"]


def test_several_inputs_are_arrays_of_their_own_with_gradients_of_their_own(tmp_path):
    model, x, t, explanation = explained("several inputs")
    data = saved(explanation, tmp_path)
    assert [(a["name"], a["kind"]) for a in data["arrays"][:3]] == [(f"x{k}", "input") for k in range(3)]
    _, dz = tn.softmax_cross_entropy(model.forward(x, True), t)
    _, *dx = model.backward(dz, input_grad=True)
    assert data["arrays"][0]["grads"] is None
    for array, gradient in zip(data["arrays"][1:3], dx, strict=True):
        np.testing.assert_allclose(array["grads"], gradient.ravel(), rtol=1e-12)
    (join,) = (step for step in data["steps"] if step["name"] == "0 Parallel")
    assert join["formula"] == "y0 = [y0.1, y0.2, x2]"
    assert join["inputs"][2] == 2
    large = tn.Sequential([tn.Parallel([[tn.Dense(300)], []])], ((2,), (3,)))
    page = saved(
        tn.explain(large, (np.ones((2, 2)), np.ones((2, 3))), [0, 1], "softmax_cross_entropy", samples=0), tmp_path
    )
    assert not page["small"]
    assert [array["shape"] for array in page["arrays"][:2]] == [[2, 2], [2, 3]]


def test_what_a_dense_layer_multiplies_is_named(tmp_path):
    data = saved(explained("Dense and sigmoid")[3], tmp_path)
    assert [array["name"] for array in data["arrays"]] == ["x", "w0", "b0", "z0", "y0", "w1", "b1", "y1"]
    z = data["steps"][0]["links"][4]  # z0[1,1] = x[1,0] w0[0,1] + x[1,1] w0[1,1] + b0[1]
    assert [(a, e, other, entry) for a, e, _, other, entry in z] == [
        (0, 2, 1, 1), (0, 3, 1, 4), (1, 1, 0, 2), (1, 4, 0, 3), (2, 1, -1, -1),
    ]  # fmt: skip
    assert [step["form"] for step in data["steps"]] == ["sums", "each", "sums"]


def test_a_number_may_touch_another_times_0(tmp_path):
    data = saved(explained("a convolution")[3], tmp_path)
    relu, pool, flatten = data["steps"][1:4]
    z = data["arrays"][relu["inputs"][0]]["values"]
    assert min(z) < 0 < max(z)
    assert [links[0][1:3] for links in relu["links"]] == [[e, float(v > 0)] for e, v in enumerate(z)]
    assert {len(links) for links in pool["links"]} == {4}
    assert [[e for _, e, *_ in links] for links in flatten["links"]] == [[e] for e in range(len(flatten["links"]))]


def test_explaining_leaves_the_model_and_numpys_random_numbers_alone():
    model, x = CASES["normalisation and dropout"]
    before = model.flat_values.copy(), model.buffers()["1.running_mean"].copy()
    tn.explain(model, x, [0, 1, 0], tn.softmax_cross_entropy, samples=0)
    np.testing.assert_array_equal(model.flat_values, before[0])
    np.testing.assert_array_equal(model.buffers()["1.running_mean"], before[1])


def test_tied_weights_are_shown_by_histograms(tmp_path):
    embedding = tn.Embedding(4, 2)
    model = tn.Sequential([embedding, tn.TiedDense(embedding)], input_shape=3)
    found = tn.explain(model, np.array([[1, 2, 0]]), [[2, 0, 3]], tn.softmax_cross_entropy, samples=0)
    assert not saved(found, tmp_path)["small"]


def test_sequences_with_lengths_have_no_page(tmp_path):
    model = tn.Sequential([tn.LSTM(2, return_sequences=False)], input_shape=(3, 2))
    found = tn.explain(model, (np.ones((2, 3, 2)), [3, 1]), [0, 1], tn.softmax_cross_entropy, samples=0)
    with pytest.raises(ValueError, match=r"save_html: a pair \(sequences, lengths\) has no page"):
        found.save_html(tmp_path / "step.html")
    assert not list(tmp_path.iterdir())


# --- In a browser --------------------------------------------------------------------------------------------


def opened(browser, explanation, folder):
    explanation.save_html(folder / "step.html")
    browser.get((folder / "step.html").as_uri())
    return data_of((folder / "step.html").read_text("utf-8"))


def texts(browser, selector):
    return [element.text.replace("\N{MINUS SIGN}", "-") for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def press(browser, *keys):
    browser.switch_to.active_element.send_keys(*keys)


def test_the_arrow_keys_and_buttons_step_through_forward_and_backward(browser, tmp_path):
    data = opened(browser, explained("a convolution")[3], tmp_path)
    count = 2 * len(data["steps"]) + 3
    (status,) = texts(browser, "#step")
    assert status == f"Step 1 of {count}: The input"
    assert not browser.find_element(By.ID, "back").is_enabled()
    assert len(texts(browser, ".cell")) == sum(len(array["values"]) for array in data["arrays"]) + 1
    browser.find_element(By.ID, "next").click()
    assert texts(browser, "#step") == [f"Step 2 of {count}: 0 Conv2D, forward"]
    press(browser, *[Keys.ARROW_RIGHT] * count)
    assert texts(browser, "#step") == [f"Step {count} of {count}: 0 Conv2D, backward"]
    cells = browser.find_elements(By.CSS_SELECTOR, ".cell")
    shown = {(int(c.get_attribute("data-array")), int(c.get_attribute("data-entry"))): c.text for c in cells}
    arrays = [*data["arrays"], {"values": [data["loss"]["value"]], "grads": [1]}]
    for (a, e), text in shown.items():
        pair = [float(part) for part in text.replace("\N{MINUS SIGN}", "-").split("\n")]
        assert pair == pytest.approx([arrays[a]["values"][e], arrays[a]["grads"][e]], rel=1e-3)  # four digits
    press(browser, Keys.ARROW_LEFT)
    assert texts(browser, "#step") == [f"Step {count - 1} of {count}: 0 ReLU, backward"]
    assert browser.get_log("browser") == []


def test_what_touched_two_steps_has_its_gradient_after_both(browser, tmp_path):
    opened(browser, explained("a block")[3], tmp_path)
    press(browser, *[Keys.ARROW_RIGHT] * 8)
    assert texts(browser, "#step") == ["Step 9 of 11: 0 Residual, backward"]
    said = texts(browser, "#formula p")
    assert said[:2] == [
        "x and y0.1 get dy0, whole",
        "dx is not complete yet: x touched more than this, of which a later step tells.",
    ]
    assert said[2].startswith("dy0.1[0,0] = dy0[0,0] = ")
    press(browser, *[Keys.ARROW_RIGHT] * 2)
    lines = [line for line in texts(browser, "#formula p") if line.startswith("dx[0,0] = ")]
    assert [re.sub(" = .*", "", line.removeprefix("dx[0,0] = ")) for line in lines] == [
        "w0.0[0,0] dy0.0[0,0] + w0.0[0,1] dy0.0[0,1] + dy0[0,0]"
    ]
    assert browser.get_log("browser") == []


def test_pointing_at_a_number_tells_what_made_it_and_what_it_touches_times_what(browser, tmp_path):
    model = words([tn.Dense(2, activation="sigmoid"), tn.Dense(2)], input_shape=2)
    model.flat_values[...] = [0.5, -1, 2, 1, 0, 1, 1, 2, -3, 4, 0, 0]
    opened(browser, tn.explain(model, [[1.0, 3.0]], [1], tn.softmax_cross_entropy, samples=0), tmp_path)
    press(browser, *[Keys.ARROW_RIGHT] * 9)
    z = browser.find_element(By.CSS_SELECTOR, '[aria-label^="z0[0,1]"]')
    ActionChains(browser).move_to_element(z).perform()
    # z = 1 * -1 + 3 * 1 + 1 = 3, y = sigmoid(3), the slope y (1 - y) = 0.04518
    assert texts(browser, ".made") == [
        "z0[0,1] = x[0,0] w0[0,1] + x[0,1] w0[1,1] + b0[1] = 1 \u00b7 (-1) + 3 \u00b7 1 + 1 = 3"
    ]
    assert texts(browser, ".touches") == ["y0[0,1], times 0.04518"]
    classes = {
        name: {e.get_attribute("aria-label").split()[0] for e in browser.find_elements(By.CLASS_NAME, name)}
        for name in ("here", "source", "touched")
    }
    assert classes["here"] == {"z0[0,1]"}
    assert classes["source"] == {"x[0,0]", "x[0,1]", "w0[0,1]", "w0[1,1]", "b0[1]"}
    assert classes["touched"] == {"y0[0,1]"}


def test_a_number_of_several_inputs_lights_up_what_it_touches(browser, tmp_path):
    data = opened(browser, explained("several inputs")[3], tmp_path)
    names = [element.text for element in browser.find_elements(By.CSS_SELECTOR, ".column:first-child .array > span")]
    assert names == ["x0 (2, 1)", "x1 (2, 2)", "x2 (2, 1)"]
    press(browser, *[Keys.ARROW_RIGHT] * (2 * len(data["steps"]) + 2))
    number = browser.find_element(By.CSS_SELECTOR, '[aria-label^="x2[1,0]"]')
    ActionChains(browser).move_to_element(number).perform()
    assert texts(browser, ".touches") == ["y0[1,4], times 1"]
    (touched,) = browser.find_elements(By.CLASS_NAME, "touched")
    assert touched.get_attribute("aria-label").startswith("y0[1,4]")
    assert browser.get_log("browser") == []


def test_the_keyboard_reaches_every_number(browser, tmp_path):
    opened(browser, explained("Dense and sigmoid")[3], tmp_path)
    reached = []
    while len(reached) < 12:
        press(browser, Keys.TAB)
        reached.append(browser.switch_to.active_element.get_attribute("aria-label") or "")
    names = [label.split()[0] for label in reached if "[" in label]
    assert names[:3] == ["x[0,0]", "w0[0,0]", "b0[0]"]
    browser.find_element(By.CSS_SELECTOR, '[aria-label^="w0[0,0]"]').send_keys(Keys.ARROW_DOWN)
    assert browser.switch_to.active_element.get_attribute("aria-label").startswith("w0[0,1]")
    assert texts(browser, "#number h2")[0].startswith("w0[0,1] = ")


def test_the_step_that_is_shown_is_in_view_on_a_narrow_screen(browser, tmp_path):
    opened(browser, explained("a transformer")[3], tmp_path)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 700, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    seen = "const c = document.querySelector('.now h2').getBoundingClientRect(); return [c.left, c.right];"
    places = []
    for _ in range(14):
        press(browser, Keys.ARROW_RIGHT)
        places.append(browser.execute_script(seen))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert all(0 <= left < right <= 700 for left, right in places)


def test_at_200_percent_on_a_small_screen_only_the_graph_scrolls_sideways(browser, tmp_path):
    opened(browser, explained("a convolution")[3], tmp_path)
    size = {"width": 640, "height": 400, "deviceScaleFactor": 2, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide[0] <= wide[1] == 640


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(browser, scheme, tmp_path):
    """WCAG's contrast, at least 4.5, of every number on its colour."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened(browser, explained("Dense and sigmoid")[3], tmp_path)
    press(browser, *[Keys.ARROW_RIGHT] * 9)
    script = """
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const rgb = (color) => {
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
      };
      return [...document.querySelectorAll(".cell")].map((cell) => {
        const style = getComputedStyle(cell);
        return [rgb(style.color), rgb(style.backgroundColor)];
      });"""
    pairs = np.array(browser.execute_script(script)) / 255
    linear = np.where(pairs <= 0.04045, pairs / 12.92, ((pairs + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    assert (light.max(axis=1) / light.min(axis=1)).min() > 4.5
    assert (light[:, 0] > light[:, 1]).all() == (scheme == "dark")


def test_a_larger_network_is_shown_by_norms_and_histograms(browser, tmp_path):
    model = tn.Sequential([tn.Dense(30, activation="relu"), tn.Dense(30)], input_shape=20, seed=1)
    explanation = tn.explain(model, RNG.normal(size=(4, 20)), [0, 1, 2, 3], tn.softmax_cross_entropy, samples=0)
    data = opened(browser, explanation, tmp_path)
    assert not data["small"]
    w = data["arrays"][1]["values"]
    assert (sum(w["counts"]), w["norm"]) == (600, pytest.approx(np.linalg.norm(model.flat_values[:600])))
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure")) == 2 * len(data["arrays"])
    assert texts(browser, "pre")[0].split("\n")[0] == explanation.title
    assert not browser.find_element(By.ID, "graph").is_displayed()
    assert browser.get_log("browser") == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened(browser, explained("Dense and sigmoid")[3], tmp_path)
    assert browser.find_element(By.ID, "all").is_displayed()  # on paper, all steps
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
