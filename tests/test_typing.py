"""Type hints: every public function says what it takes and returns.  Whether that is right, mypy says (.ci/run)."""

import inspect

import pytest

import tinynet as tn

MODULES = [tn, tn.data, tn.information, tn.metrics, tn.gradcheck, tn.optim]
OTHERS = ("tinynet.layers", "tinynet.model", "tinynet.explain", "tinynet.training.not_finite")
LATER = ("__init__", "__call__", "step", "state_dict", "load_state_dict", "start", "finish", "encode", "plot")


def functions():
    """name -> function, of all that the modules offer and their classes' methods."""
    found = {}
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if not getattr(value, "__module__", "").startswith("tinynet.") or value.__module__.startswith(OTHERS):
                continue
            if inspect.isclass(value):
                found |= {f"{name}.{m}": f for m in LATER if inspect.isfunction(f := vars(value).get(m))}
            elif inspect.isfunction(value):
                found[name] = value
    return found


FUNCTIONS = functions()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_has_hints(name):
    from typing import get_overloads

    function = FUNCTIONS[name]
    for variant in get_overloads(function) or [function]:
        signature = inspect.signature(variant)
        untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
        assert not untyped
        assert signature.return_annotation is not signature.empty


def test_the_package_says_that_it_has_hints():
    from importlib.resources import files

    assert files("tinynet").joinpath("py.typed").is_file()
