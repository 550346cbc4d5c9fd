"""The exercises: every gap is noticed, the answers are right, and likely mistakes are told apart."""

import importlib
import inspect
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "exercises"
EXERCISES = sorted(path for path in FOLDER.glob("*.py") if path.with_name(f"{path.stem}_answers.py").exists())


@pytest.fixture
def module(monkeypatch):
    """Imports one of the exercises' modules by its name, and forgets all of them afterwards: the names are short."""
    monkeypatch.syspath_prepend(FOLDER)
    names = [path.stem for path in FOLDER.glob("*.py")]
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(kept)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda path: path.stem)
def test_each_gap_is_noticed_and_each_answer_is_right(exercise, module, capsys):
    def verdicts(program):
        """{task: what is said of it}, and the exit status."""
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(program), run_name="__main__")
        lines = [line for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()]
        return dict(line.split(": ", 1) for line in lines), end.value.code

    asked, status = verdicts(exercise)
    assert status == 1
    assert 3 <= len(asked) <= 5
    assert all(said.startswith(("not written yet", "not right: ")) for said in asked.values())
    answered, status = verdicts(exercise.with_name(f"{exercise.stem}_answers.py"))
    assert answered == dict.fromkeys(asked, "right")
    assert status == 0


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda path: path.stem)
def test_a_gap_alone_fails_and_leaves_the_others_right(exercise, module):
    asked, answers, tasks = module(exercise.stem), module(f"{exercise.stem}_answers"), module("tasks")
    gaps = [name for name, thing in vars(answers).items() if inspect.getmodule(thing) is answers]
    found = []
    for name in gaps:
        checks = asked.tasks(vars(answers) | {name: getattr(asked, name)})
        found += [task for task, check in checks.items() if tasks.verdict(check) != "right"]
    assert found == list(asked.tasks(vars(answers)))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def scattered_without_adding(dy, w, shape, s):
    dx = np.zeros(shape)
    for p, q in np.ndindex(dy.shape):
        dx[p * s : p * s + w.shape[0], q * s : q * s + w.shape[1]] = dy[p, q] * w
    return dx


def through_time_by_u(h, u, g):
    da, later = np.zeros(h.shape), 0.0
    for t in reversed(range(len(h))):
        da[t] = (g[t] + later) * (1 - h[t] ** 2)
        later = da[t] @ u
    return da


def changed_in_place(a, dh):
    dh *= 1 - np.tanh(a) ** 2
    return dh


MISTAKES = {  # exercise, function -> pairs of what somebody may write there, and what must be said about it
    ("by_hand", "backward_of_tanh"): [
        (lambda a, dh: None, "nothing is returned"),
        (lambda a, dh: 1 - np.tanh(a) ** 2, "that is the slope alone"),
        (lambda a, dh: (1 - a**2) * dh, "what came out?"),
        (changed_in_place, None),
    ],
    ("by_hand", "gradient_of_squared_error"): [
        (lambda z, t: 2 * (z - t), "divides by their count"),
        (lambda z, t: (z - t) / z.size, "it is 0.5 times what it should be everywhere"),
    ],
    ("by_hand", "backward_of_weighted_sum"): [
        (lambda h, w, dz: (dz.T @ h, dz.sum(axis=0), dz @ w.T), "these are the right numbers, transposed"),
        (lambda h, w, dz: (h.T @ dz, dz.mean(axis=0), dz @ w.T), "is it divided by N twice?"),
        (lambda h, w, dz: (h.T @ dz, dz.sum(axis=0)), "expected 3 results, separated by commas, got 2"),
    ],
    ("logistic_regression", "loss_and_gradient_of_counts"): [
        (lambda z, t: ((t * z - np.exp(z)).mean(), (np.exp(z) - t) / len(z)), "it has the wrong sign"),
        (lambda z, t: ((np.exp(z) - t * z).mean() + 7, np.exp(z) - t), "is the 1/N of a mean missing?"),
        (lambda z, t: ((np.exp(z) - t * z).mean() + 7, (np.exp(z) - t) / len(z)), None),
    ],
    ("logistic_regression", "weights_for_and"): [
        (lambda: (1, 1, -1.5), "they can be surer"),
        (lambda: (1, 1, 0), "at (0, 1) z is 1, on the wrong side"),
    ],
    ("logistic_regression", "weights_for_one_of_two"): [(lambda: (1, 1, -1), "but 0.0578, 0.0578, 0")],
    ("loss_and_gradient", "loss_of_row"): [
        (lambda z, t: np.log(np.exp(z).sum()) - z[t], "exp(1000) is too large"),
        (lambda z, t: -np.log(softmax(z)[t]), "p[t] is rounded to 0"),
        (lambda z, t: (z.max() + np.log(np.exp(z - z.max()).sum())) - z[t], "first subtract what is large"),
    ],
    ("saturation", "times_as_large"): [(lambda z: np.exp(z) * (1 + np.exp(-z)) ** 2 / 2, None)],
    ("saturation", "convex_up_to"): [(lambda: 2 / 3, "that is p there"), (lambda: 0, "it should rise, and then fall")],
    ("bits", "lengths"): [
        (lambda P: np.rint(-np.log2(P)), "the words use up 1.0938 of what is there"),
        (lambda P: np.ceil(-np.log2(P)) + 1, "H(P) + 1 is 2.7500"),
    ],
    ("bits", "words"): [(lambda k: [f"{x:0{bits}b}" for x, bits in enumerate(k)], "0 begins 01")],
    ("bits", "price"): [
        (lambda P, Q: P @ np.log(P / Q), "it is in nats"),
        (lambda P, Q: P @ np.log2(P / Q), "0 times an infinite logarithm is NaN"),
        (lambda P, Q: P @ np.log2((P + 1e-12) / (Q + 1e-12)), "without a small number in place of 0"),
    ],
    ("losses", "gradient_of_exponential_loss"): [
        (lambda z, t: -np.exp(-(2 * t - 1) * z) / len(z), "which has the slope -s"),
    ],
    ("losses", "gradient_with_temperature"): [
        (lambda z, t, tau: (softmax(z / tau) - np.eye(4)[t]) / len(z), "times 1 / tau"),
    ],
    ("convolution", "scattered"): [(scattered_without_adding, "where windows overlap")],
    ("convnet", "pixels_seen"): [(lambda layers: 1 + sum(I - 1 for I, _ in layers), "a step is s of the steps before")],
    ("convnet", "to_report"): [
        (lambda validation, test: (validation.argmax(), validation.max()), "and flatter it"),
    ],
    ("recurrent", "gradients_of_a"): [
        (lambda h, u, g: g * (1 - h**2), "h[4] touched a[5], too"),
        (through_time_by_u, "da[5] is right; h[4] touched a[5], too, times u"),
    ],
    ("recurrent", "gradients_of_parameters"): [
        (lambda x, h, da: (x.T @ da, h.T @ da, da.sum(axis=0)), "the state of the step before"),
    ],
    ("attention", "scale"): [(lambda d, a, b: 1 / (a * b * d), "the variances add up")],
    ("attention", "causal_shares"): [
        (lambda S: softmax(np.where(np.tri(len(S)), S, -1e4)), "only -inf is below any score"),
        (lambda S: softmax(S * np.tri(len(S))), "row t is the softmax of score[t,0] to score[t,t] alone"),
    ],
    ("attention", "backward_of_picking"): [
        (lambda dy, index, T: dy[np.argsort(index)], "dx has the shape (5, 2), and should have (4, 2)"),
    ],
}


@pytest.mark.parametrize(("exercise", "name"), MISTAKES)
def test_a_likely_mistake_is_told_what_it_is(exercise, name, module):
    asked, answers, tasks = module(exercise), module(f"{exercise}_answers"), module("tasks")
    for written, said in MISTAKES[exercise, name]:
        found = [tasks.verdict(check) for check in asked.tasks(vars(answers) | {name: written}).values()]
        wrong = [verdict for verdict in found if verdict != "right"]
        assert len(wrong) == (said is not None)
        assert all(said in verdict for verdict in wrong)


def test_an_error_is_said_with_its_line(module):
    asked, answers, tasks, written = module("by_hand"), module("by_hand_answers"), module("tasks"), {}
    text = "def backward_of_tanh(a, dh):\n\n    return a.size * dhh"
    exec(compile(text, FOLDER / "by_hand.py", "exec"), written)
    first = next(iter(asked.tasks(vars(answers) | written).values()))
    assert tasks.verdict(first) == "not right: NameError in line 3: name 'dhh' is not defined"


def test_there_is_an_exercise_and_the_index_lists_it():
    text = (FOLDER.parent / "README.md").read_text()
    assert EXERCISES
    for exercise in EXERCISES:
        assert f"exercises/{exercise.name}" in text
