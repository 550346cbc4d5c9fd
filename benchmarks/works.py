"""Scripts whose rows are alike: each row compares the steps of several sides, and may tell what memory they take.

Such a script is a generator of works, and compare_works is its main.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple

import side_by_side as side
from side_by_side import agree, measure, report


class Work(NamedTuple):
    """What a row compares."""

    what: str
    makers: Callable  # (size) -> {side: make}; make() -> a step, which returns arrays; or None where it can't run
    size: tuple
    flops: float | None = None  # of a step
    headline: bool = True
    tiny: tuple | None = None  # where a row is to tell what memory steps take: a size that takes next to none


def compare_works(doc, works, tolerance=1e-4):
    """The whole of a script: measure what the command line asks for, print it, save it.

    works(quick) gives the works.  Before a work is timed, its sides' arrays are compared.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these")
    found = side.options(parser)
    if found.memory:
        what, name = found.memory
        return print_peak_of_steps(next(work for work in works(found.quick) if work.what == what), name)
    print(side.machine(), side.setting(), sep=", ")
    most, rows = side.ceilings(), []
    for work in works(found.quick):
        if found.headlines and not work.headline:
            continue
        if not any(part.lower() in work.what.lower() for part in found.only):
            continue
        steps = {name: make() for name, make in work.makers(work.size).items()}
        steps = {name: step for name, step in steps.items() if step}
        same_arrays(work.what, steps, tolerance)
        times, about = measure(steps, found.rounds, found.at_least), {}
        if work.flops:
            share = work.flops / statistics.median(times["tinynet"]) / 1e9 / most["GFLOP/s"]
            about = {"work": work.flops, "share": share}
        row = report(work.what, times, headline=work.headline, **about)
        for name in times:
            if name.startswith("tinynet, "):
                print(f"    {side.ratio(times, 'tinynet', name):.2f} times {name.removeprefix('tinynet, ')}")
        if work.tiny and not found.headlines:
            row["memory"] = side.peaks(work.what, [name for name in steps if name in ("tinynet", "PyTorch eager")])
        rows.append(row)
    side.save(found.json, rows, ceilings=most)


def same_arrays(what, steps, tolerance):
    """Stop unless the peers' steps return tinynet's arrays; what is None on either side is not compared."""
    for name, step in steps.items():
        if not name.startswith("tinynet"):
            for number, (ours, theirs) in enumerate(zip(steps["tinynet"](), step(), strict=True)):
                if ours is not None and theirs is not None:
                    agree(ours, theirs, tolerance, f"{what}, array {number} against {name}")


def print_peak_of_steps(work, name):
    """Print the peak of the memory that a side takes, with weights and gradients, for three steps."""

    def three_steps(size):
        step = work.makers(size)[name]()
        for _ in range(3):
            step()

    three_steps(work.tiny)  # loads code and starts threads: no cost of the steps
    side.print_peak(lambda: three_steps(work.size))
