"""Schedules of the learning rate: functions step -> rate, with steps counted from 0 over the whole training.

    step_decay   lr factor^(step // every)                                stairs
    cosine       lr (step + 1) / warmup, then down from lr to `final`     a ramp, and half a cosine wave
    one_cycle    up from start lr to lr, then down to end start lr        two half waves
    exponential  lr factor^step                                           a little less at each step
    polynomial   lr (1 - step / steps)^power, down to `final`             a straight line for power 1
    sequence     one schedule after another

Half a wave goes from a to b, while d goes from 0 to 1:    b + (a - b) (1 + cos(pi d)) / 2

A step is a whole number of at least 0.  fit asks its schedule before every step; in a loop of your own:

    optimizer.lr = schedule(step)
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from tinynet.checks import number_within, positive_int

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """A schedule, step -> lr: always lr, a number of at least 0.

    >>> tn.constant(0.1)(1000)
    0.1
    """
    lr = number_within(lr, "constant: lr")

    def schedule(step):
        positive_int(step, "constant: step", 0)
        return lr

    return schedule


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """A schedule, step -> learning rate: lr, multiplied by `factor` after every `every` steps.

    >>> schedule = tn.step_decay(0.8, every=10, factor=0.5)
    >>> [schedule(step) for step in (0, 9, 10, 20)]
    [0.8, 0.8, 0.4, 0.2]
    """
    lr = number_within(lr, "step_decay: lr")
    every = positive_int(every, "step_decay: every", 1)
    factor = number_within(factor, "step_decay: factor")

    def schedule(step):
        return lr * factor ** (positive_int(step, "step_decay: step", 0) // every)

    return schedule


def cosine(lr: float, steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """A schedule, step -> learning rate: up in a straight line to lr, then down along half a cosine wave to `final`.

    steps   how many there are in all; those beyond stay at `final`
    warmup  how many of them go up, fewer than all

    After Loshchilov and Hutter (2017), without restarts.  Raises ValueError or TypeError for numbers out of range.

    >>> schedule = tn.cosine(1.0, steps=10, warmup=2)
    >>> [round(schedule(step), 3) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    lr = number_within(lr, "cosine: lr")
    final = number_within(final, "cosine: final")
    steps = positive_int(steps, "cosine: steps", 1)
    warmup = positive_int(warmup, "cosine: warmup", 0)
    if warmup >= steps:
        raise ValueError(f"cosine: warmup must be below steps, got warmup={warmup}, steps={steps}")

    def schedule(step):
        step = positive_int(step, "cosine: step", 0)
        if step < warmup:
            return lr * (step + 1) / warmup
        return _glide(lr, final, (step - warmup) / (steps - warmup))

    return schedule


def one_cycle(lr: float, steps: int, rise: float = 0.3, start: float = 1 / 25, end: float = 1e-4) -> Schedule:
    """A schedule, step -> learning rate: from start * lr up to lr, then down to end * start * lr.

    steps  how many there are in all
    rise   the fraction of them that goes up, in [0, 1); where rise * steps is at most 1, there is no way up: the first
           step has lr

    Both ways along half a cosine wave (Smith and Topin 2018; the defaults are PyTorch's).  Raises ValueError or
    TypeError for numbers out of range.

    >>> schedule = tn.one_cycle(1.0, steps=11, rise=0.3)
    >>> [round(schedule(step), 3) for step in (0, 1, 3, 10)]
    [0.04, 0.422, 0.98, 0.0]
    """
    lr = number_within(lr, "one_cycle: lr")
    steps = positive_int(steps, "one_cycle: steps", 2)
    rise = number_within(rise, "one_cycle: rise", 0, 1)
    start = number_within(start, "one_cycle: start", 0, 1, most_allowed=True)
    end = number_within(end, "one_cycle: end", 0, 1, most_allowed=True)
    top, last = rise * steps - 1, steps - 1  # the steps at the peak and at the end

    def schedule(step):
        step = positive_int(step, "one_cycle: step", 0)
        if step <= top:
            return _glide(start * lr, lr, step / top if top > 0 else 1.0)
        return _glide(lr, end * start * lr, (step - max(top, 0)) / (last - max(top, 0)))

    return schedule


def exponential(lr: float, factor: float) -> Schedule:
    """A schedule, step -> learning rate: lr, multiplied by `factor`, at most 1, after every step.

    >>> schedule = tn.exponential(0.8, factor=0.5)
    >>> [schedule(step) for step in (0, 1, 2)]
    [0.8, 0.4, 0.2]
    """
    lr, factor = number_within(lr, "exponential: lr"), number_within(factor, "exponential: factor", 0, 1, True)

    def schedule(step):
        return lr * factor ** positive_int(step, "exponential: step", 0)

    return schedule


def polynomial(lr: float, steps: int, power: float = 1.0, final: float = 0.0) -> Schedule:
    """A schedule, step -> learning rate: from lr down to `final` in `steps` steps, along (1 - step / steps)^power.

    Those beyond stay at `final`.  Power 1 is a straight line; above it, the rate falls fast and then slowly.

    >>> schedule = tn.polynomial(1.0, steps=4, final=0.2)
    >>> [round(schedule(step), 3) for step in (0, 1, 2, 4, 9)]
    [1.0, 0.8, 0.6, 0.2, 0.2]
    """
    lr, final = number_within(lr, "polynomial: lr"), number_within(final, "polynomial: final")
    steps, power = positive_int(steps, "polynomial: steps", 1), number_within(power, "polynomial: power")

    def schedule(step):
        left = 1 - min(positive_int(step, "polynomial: step", 0) / steps, 1.0)
        return final + (lr - final) * (left**power if left else 0.0)

    return schedule


def sequence(*parts: tuple[Schedule, int] | Schedule) -> Schedule:
    """A schedule, step -> learning rate: pairs (schedule, steps) one after another, and at the end a schedule alone.

    Each begins at its own step 0.

    >>> schedule = tn.sequence((tn.constant(0.1), 2), tn.exponential(1.0, factor=0.5))
    >>> [schedule(step) for step in range(5)]
    [0.1, 0.1, 1.0, 0.5, 0.25]
    """
    if not parts or not callable(parts[-1]):
        raise ValueError(f"sequence: the last part must be a schedule alone, which goes on for ever, got {parts[-1:]}")
    starts = [0]
    for k, part in enumerate(parts[:-1]):
        if not isinstance(part, (tuple, list)) or len(part) != 2 or not callable(part[0]):
            raise TypeError(f"sequence: part {k} must be a pair (schedule, steps), got {part!r}")
        starts.append(starts[-1] + positive_int(part[1], f"sequence: the steps of part {k}", 1))
    schedules: list[Any] = [*(part[0] for part in parts[:-1]), parts[-1]]  # type: ignore[index]

    def schedule(step):
        step = positive_int(step, "sequence: step", 0)
        k = bisect_right(starts, step) - 1
        return schedules[k](step - starts[k])

    return schedule


def _glide(start, end, done):
    """From start to end along half a cosine wave; `done` goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2
