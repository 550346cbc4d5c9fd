"""What help() and the README say: every example runs and shows what it says, and no public name is without words."""

import doctest
import importlib
import inspect
import io
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tinynet as tn

ROOT = Path(__file__).parent.parent


def modules():
    yield tn
    for found in pkgutil.walk_packages(tn.__path__, "tinynet."):
        if "cuda" not in found.name:  # those need a package that is optional
            yield importlib.import_module(found.name)


def examples():
    """The docstrings with lines that start with >>>; these know of `tn` and `np` and nothing else, as a reader does."""
    finder = doctest.DocTestFinder()
    found = [test for module in modules() for test in finder.find(module, globs={"tn": tn, "np": np})]
    return {test.name: test for test in found if test.examples}


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_shows_what_happens(name):
    report = io.StringIO()
    runner = doctest.DocTestRunner()
    runner.run(EXAMPLES[name], out=report.write, clear_globs=False)
    assert runner.failures == 0, report.getvalue()


def offered(room=tn):
    """What a user meets, by name: what __all__ lists, or else what the module defines; and so on in modules therein."""
    found = {}
    defined = [
        name
        for name, thing in vars(room).items()
        if (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == room.__name__
        and not hasattr(thing, "__wrapped__")  # a kernel
    ]
    for name in getattr(room, "__all__", defined):
        thing = getattr(room, name)
        if not name.startswith("_"):
            found[f"{room.__name__}.{name}"] = thing
            found |= offered(thing) if isinstance(thing, ModuleType) else {}
    return found


def members(name, thing):
    """The methods and properties that a class of ours adds, by name."""
    for member in dir(thing):
        value = getattr(thing, member)
        ours = (getattr(value, "__module__", thing.__module__) or "").startswith("tinynet")
        if not member.startswith("_") and ours and (callable(value) or isinstance(value, property)):
            yield f"{name}.{member}", value


OFFERED = offered()


def test_every_public_name_is_explained():
    everything = dict(OFFERED)
    for name, thing in OFFERED.items():
        everything |= members(name, thing) if inspect.isclass(thing) else {}
    assert len(everything) > 200
    assert [name for name, thing in everything.items() if not (inspect.getdoc(thing) or "").strip()] == []


def test_every_public_name_has_an_example():
    without = [n for n, thing in OFFERED.items() if callable(thing) and ">>>" not in inspect.getdoc(thing)]
    assert without == []


def test_help_names_the_types_of_arguments_in_a_word():
    everything = dict(OFFERED)
    for name, thing in OFFERED.items():
        everything |= members(name, thing) if inspect.isclass(thing) else {}
    shown = {name: str(inspect.signature(thing)) for name, thing in everything.items() if inspect.isfunction(thing)}
    assert len(shown) > 200
    assert [name for name, text in shown.items() if "numpy._typing" in text] == []


def test_only_what_needs_downloads_or_several_processes_is_not_run():
    skipped = {test.name for test in EXAMPLES.values() for e in test.examples if e.options.get(doctest.SKIP)}
    rooms = {name.rpartition(".")[0] for name in skipped}
    sets = {"mnist", "cifar10", "imdb", "sst", "shakespeare", "movie_reviews", "medmnist"}
    assert rooms == {f"tinynet.data.{room}" for room in sets} | {"tinynet.training.distributed"}


@pytest.mark.slow
def test_the_reference_has_a_page_for_every_module_and_every_public_name_without_a_warning(tmp_path):
    guide = (ROOT / ".github" / "CONTRIBUTING.md").read_text().replace("\\\n", "")
    [command] = re.findall(r"^python (-m pdoc .*)$", guide, flags=re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-W", "error", *command.split(), "-o", tmp_path],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    pages = {page.relative_to(tmp_path).with_suffix(""): page.read_text() for page in tmp_path.rglob("*.html")}
    anchors = {name for page in pages.values() for name in re.findall(r'id="(\w+)"', page)}
    assert {name.rpartition(".")[2] for name, thing in OFFERED.items() if callable(thing)} <= anchors
    assert "\n&gt;&gt;&gt; tn.gradcheck.check(tn.Dense(3), (5, 4)).passed\nTrue" in pages[Path("tinynet/gradcheck")]


def test_the_code_in_the_readme_runs_and_its_loop_learns(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    reviews = '((["good film", "a bad film"] * 8, [1, 0] * 8),) * 2'  # in place of 50,000 that are downloaded
    assert sum(block.count("tn.data.imdb()") for block in blocks) == 1
    loop, *others = [block.replace("range(10)", "range(2)").replace("tn.data.imdb()", reviews) for block in blocks]
    code = "\n".join([loop, "print(tn.metrics.accuracy(model.predict(x_test), y_test))", *others])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) > 0.8
