"""The page of the examples: its table of PyTorch's and Keras's words, and its recipes, run as they stand there."""

import json
import os
import re
import subprocess
import sys
from functools import reduce
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "examples" / "README.md").read_text()
RECIPES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
START = """
import tinynet as tn

(x, y), _ = tn.data.digits()
x, y = x[:128], y[:128]
model = tn.Sequential([tn.Flatten(), tn.Dense(10)], x.shape[1:], seed=0)
"""


def table():
    """The rows of the table from PyTorch's and Keras's words, as lists of three cells."""
    [part] = re.findall(r"## From PyTorch or Keras\n(.*?)\n## ", PAGE, flags=re.DOTALL)
    rows = [re.split(r" ?\| ?", line[2:-2]) for line in part.splitlines() if line.startswith("| ")]
    assert all(len(row) == 3 for row in rows)
    return rows[2:]


def test_every_name_of_the_table_is_there():
    torch = pytest.importorskip("torch")
    names, theirs = set(), set()
    for first, _, last in table():
        names |= set(re.findall(r"\btn\.([a-zA-Z_.0-9]+)", last))
        theirs |= set(re.findall(r"\b((?:nn|optim|torch|lr_scheduler)\.[a-zA-Z_.0-9]+)", first))
    assert len(names) > 30
    assert len(theirs) > 12
    for name in names:
        reduce(getattr, name.split("."), tn)
    rooms = {"nn": torch.nn, "optim": torch.optim, "lr_scheduler": torch.optim.lr_scheduler, "torch": torch}
    for name in theirs:
        room, *rest = name.split(".")
        reduce(getattr, rest, rooms[room])
    model = tn.Sequential([tn.Dense(2)], 3)
    for name in re.findall(r"\bmodel\.([a-z_]+)", " ".join(row[2] for row in table())):
        assert hasattr(model, name)


def run(package, then, folder):
    """The recipe that imports the package, in an empty folder; then the code that looks at what it left."""
    if find_spec(package) is None:
        pytest.skip(f"needs {package}")
    [recipe] = [code for code in RECIPES if re.search(rf"^(?:import|from) {package}\b", code, flags=re.MULTILINE)]
    environment = {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "TINYNET_QUIET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", START + recipe.replace("n_trials=20", "n_trials=3") + then],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def recipe_of(word):
    [code] = [code for code in RECIPES if word in code]
    return code


def test_several_inputs_learn_together():
    (x, y), _ = tn.data.digits()
    rng = np.random.default_rng(0)
    kinds, table = np.stack([y // 2, rng.integers(0, 5, len(y))], axis=1), rng.normal(size=(len(y), 5))
    names = {"tn": tn, "images": x, "kinds": kinds, "table": table, "y": y}
    exec(
        recipe_of("x = (images, kinds, table)").replace("validation=0.2", "validation=0.2, progress=False"),
        names,
    )
    assert tn.accuracy(names["logits"], y) > 0.7  # the kinds alone leave two digits, of which the images tell one
    other = names["model"].predict((x[::-1], kinds, table))
    assert tn.accuracy(other, y) < 0.6


def test_several_outputs_have_a_loss_and_a_metric_each():
    torch = pytest.importorskip("torch")
    (x, labels), _ = tn.data.digits()
    y = np.stack([labels, x.mean(axis=(1, 2, 3))], axis=1)[:500]
    names = {"tn": tn, "images": x[:500], "y": y}
    exec(recipe_of("def both(").replace("validation=0.2", "validation=0.2, progress=False"), names)
    history = names["history"]
    assert list(history)[:6] == ["loss", "accuracy", "error", "val_loss", "val_accuracy", "val_error"]
    assert history["accuracy"][-1] > history["accuracy"][0]
    assert history["error"][-1] < history["error"][0]
    outputs = np.random.default_rng(0).normal(size=(7, 11))
    value, gradient = names["both"](outputs, y[:7])
    z = torch.tensor(outputs, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(z[:, :10], torch.tensor(labels[:7]))
    loss = loss + 0.1 * torch.nn.functional.mse_loss(z[:, 10:], torch.tensor(y[:7, 1:]))
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, z.grad, rtol=1e-10, atol=1e-15)
    weights = names["model"].flat_values.copy()
    check = tn.gradcheck.check(names["model"], x[:5], y[:5], loss=names["both"], samples=30)
    assert check.passed, check
    np.testing.assert_array_equal(names["model"].flat_values, weights)


@pytest.mark.slow
def test_tensorboard_gets_the_loss_of_every_step_and_the_history_of_every_epoch(tmp_path):
    then = """
import json
from pathlib import Path
from tensorboardX.proto.event_pb2 import Event
import struct
content, found = next(Path("runs/first").iterdir()).read_bytes(), []
while content:  # length, a checksum, the event, another checksum
    [size] = struct.unpack("<Q", content[:8])
    event, content = Event.FromString(content[12 : 12 + size]), content[16 + size :]
    found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
print(json.dumps(found))
"""
    found = run("tensorboardX", then, tmp_path)
    steps = [step for tag, step, _ in found if tag.startswith("loss") and "batch" in tag]
    losses = [value for tag, _, value in found if tag == "loss"]
    assert steps == list(range(1, 11))
    assert len(losses) == 5
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_mlflow_gets_the_history_and_the_model(tmp_path):
    then = """
import json
client = mlflow.MlflowClient()
[done] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
history = client.get_metric_history(done.info.run_id, "loss")
files = [file.path for file in client.list_artifacts(done.info.run_id)]
print(json.dumps([[(point.step, point.value) for point in history], files]))
"""
    history, files = run("mlflow", then, tmp_path)
    assert [step for step, _ in history] == [1, 2, 3, 4, 5]
    assert history[-1][1] < history[0][1]
    assert files == ["model.safetensors"]


@pytest.mark.slow
def test_optuna_tries_settings_and_keeps_the_best(tmp_path):
    then = """
import json
done = [trial.value for trial in study.trials if trial.value is not None]
print(json.dumps([len(study.trials), study.best_value == min(done), study.best_params]))
"""
    trials, best, parameters = run("optuna", then, tmp_path)
    assert trials == 3
    assert best
    assert parameters.keys() == {"units", "lr"}
