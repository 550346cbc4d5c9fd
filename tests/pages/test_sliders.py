"""The page where one moves weights: what the browser computes is what tinynet does."""

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")
X, T = np.array([[0.5, -1.0], [2.0, 0.3], [-0.7, 1.1]]), np.array([1, 0, 2])


def network(*layers, **options):
    return tn.Sequential(layers, input_shape=2, dtype="float64", seed=1, **options)


def explained(model, loss=tn.softmax_cross_entropy, t=T):
    return tn.explain(model, X, t, loss, samples=0)


def agrees(browser, model):
    value, dy = tn.softmax_cross_entropy(model.forward(X, True), T)
    model.backward(dy)
    assert float(browser.find_element(By.ID, "loss").get_attribute("data-value")) == pytest.approx(value, rel=1e-12)
    texts = browser.find_elements(By.CSS_SELECTOR, ".weight span")
    found = np.array([[float(text.get_attribute(f"data-{name}")) for name in ("value", "grad")] for text in texts])
    np.testing.assert_allclose(found, np.stack([model.flat_values, model.flat_grads], axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_loss_the_gradient_and_a_step_of_descent_are_tinynets(browser, scheme, tmp_path):
    dense = network(tn.Dense(3, activation="sigmoid"), tn.Dense(2), tn.Sigmoid(), tn.Dense(3, bias=False))
    model = network(tn.Dense(3)) if scheme == "dark" else dense
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    explained(model).save_sliders_html(tmp_path / "sliders.html")
    browser.get((tmp_path / "sliders.html").as_uri())
    agrees(browser, model)

    slider = browser.find_elements(By.CSS_SELECTOR, ".weight input")[1]
    before = model.flat_values[1]
    slider.send_keys(Keys.PAGE_UP)
    model.flat_values[1] = float(slider.get_property("value"))
    assert model.flat_values[1] > before
    agrees(browser, model)
    assert browser.find_element(By.ID, "over").text.startswith("The loss over w0[0,1]")

    browser.find_element(By.ID, "descend").click()
    model.flat_values -= 0.5 * model.flat_grads
    agrees(browser, model)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(
    ("model", "loss", "t"),
    [
        (network(tn.Dense(3, activation="tanh")), tn.softmax_cross_entropy, T),
        (network(tn.Dense(3)), tn.mean_squared_error, np.eye(3)),
        (network(tn.Dense(300)), tn.softmax_cross_entropy, T),
    ],
    ids=["tanh", "another loss", "too many"],
)
def test_a_network_that_the_page_cannot_compute_is_refused(model, loss, t, tmp_path):
    with pytest.raises(ValueError, match="save_sliders_html: expected at most 500 numbers, layers that are Dense"):
        explained(model, loss, t).save_sliders_html(tmp_path / "sliders.html")
    assert not list(tmp_path.iterdir())
