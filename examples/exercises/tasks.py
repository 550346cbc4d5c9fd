"""What the exercises share: gaps to fill, and how they are looked at.  Nothing here gives an answer away."""

import copy
import sys
import traceback
from pathlib import Path

import numpy as np

from tinynet.causes import likely_cause

FOLDER = Path(__file__).resolve().parent


def gap():
    """Stands where something is to be written."""
    raise NotImplementedError


def call(function, *given, results=1):
    """What a function returns, as an array; or that many arrays.  It gets copies: it may change what it is given."""
    found = function(*copy.deepcopy(given))
    assert found is not None, "nothing is returned"
    if results == 1:
        return np.asarray(found, float)
    count = len(found) if isinstance(found, tuple | list) else 1
    assert count == results, f"expected {results} results, separated by commas, got {count}"
    assert all(one is not None for one in found), "one of the results is None"
    return [np.asarray(one, float) for one in found]


def by_small_changes(array, loss, e=1e-5):
    """The derivatives of loss() by each number of an array, from moving that number up and down."""
    slopes = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + e
        above = loss()
        array[index] = kept - e
        slopes[index] = (above - loss()) / (2 * e)
        array[index] = kept
    return slopes


def same(name, found, expected, mistakes=(), why=""):
    """An assertion that two arrays agree, which says where they don't, and why, if one of the mistakes explains it.

    mistakes: pairs of an array, as somebody may well get it, and a sentence about what it is.
    """
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    if found.shape != expected.shape:
        turned = found.ndim == 2 and found.T.shape == expected.shape and agree(found.T, expected)
        end = ": these are the right numbers, transposed" if turned else ""
        raise AssertionError(f"{name} has the shape {found.shape}, and should have {expected.shape}{end}")
    if agree(found, expected):
        return
    worst = np.unravel_index(apart(found, expected).argmax(), expected.shape)
    where = f"[{', '.join(str(axis) for axis in worst)}]" if worst else ""
    for array, sentence in mistakes:
        if np.shape(array) == found.shape and agree(found, array):
            why = sentence
            break
    end = f": {why}" if why else ""
    raise AssertionError(f"{name}{where} is {found[worst]:.6g}, and should be {expected[worst]:.6g}{end}")


def apart(found, expected):
    """How far each number is from what it should be; NaN where it is no number."""
    with np.errstate(invalid="ignore"):
        return np.where(found == expected, 0, np.abs(found - expected))  # infinity is right where it is expected


def agree(found, expected):
    expected = np.asarray(expected)
    most = np.abs(expected[np.isfinite(expected)]).max(initial=1)
    return bool((apart(found, expected) <= 1e-6 * most).all())  # a NaN is not


def derivatives(name, found, array, loss, N=1, mistakes=(), why=""):
    """An assertion that these are the derivatives of loss(), a mean over N samples, by an array; says what is wrong."""
    slopes = by_small_changes(array, loss)
    if not why and found.shape == slopes.shape and not agree(found, slopes):
        why = likely_cause(found, np.arange(slopes.size), slopes.ravel(), N)
    same(name, found, slopes, mistakes, why)


def run(tasks):
    """Look at each of {task: a function that asserts}, say what was found, and end with 1 unless all are right."""
    wrong = 0
    for task, check in tasks.items():
        said = verdict(check)
        wrong += said != "right"
        print(f"{task}: {said}")
    sys.exit(1 if wrong else 0)


def verdict(check):
    try:
        check()
    except NotImplementedError:
        return "not written yet"
    except AssertionError as error:
        return f"not right: {error}"
    except Exception as error:
        return f"not right: {type(error).__name__}{line_of(error)}: {error}"
    return "right"


def line_of(error):
    """In which line of what was written it happened, or nothing."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    lines = [line for code, line in frames if is_written(code)]
    return f" in line {lines[-1]}" if lines else ""


def is_written(code):
    path = Path(code.co_filename).resolve()
    return path.parent == FOLDER and path.name != "tasks.py" and not code.co_qualname.startswith("tasks.")
