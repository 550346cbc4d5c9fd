"""Kernels broken on purpose, one instruction or one line at a time: the machine or the wrong result gives each away.

A broken kernel counts as caught if the machine refuses it, or if one of the cases gives other numbers than on the CPU.
"""

import inspect
import re

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

import cuda_simulated
import ptx_driver
from ptx_parser import PtxError

import tinynet as tn
from tinynet.cuda import arrays as cuda_arrays
from tinynet.cuda import sigmoid_cross_entropy as sigmoid_module
from tinynet.cuda import softmax_cross_entropy as softmax_module
from tinynet.cuda import softmax_rows

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

# What runs: (N, C) of softmax, or the size of sigmoid.
THREAD, WARP, WARP_PACKS, BLOCK, BLOCK_PACKS = (71, 7), (39, 41), (5, 960), (2, 1030), (2, 40960)
THREAD_PACKS, SIGMOID, SIGMOID_PACKS = (96, 8), 1025, 4096


def run(size, edit=lambda ptx: ptx):
    """Compare a case with the CPU's results, after `edit` has changed the kernels' PTX.

    It runs in place, with a label that is ignored, and once more with a wrong target.  That is seen by the last lane of
    a warp, so that its position reaches the first lane only if all steps of a reduction are right.
    """
    driver = ptx_driver.Driver()
    driver.edit, driver.machine.patience = edit, 3000
    if isinstance(size, tuple):
        loss, (z, t, _) = tn.softmax_cross_entropy, cuda_simulated.softmax_case(size[1], N=size[0])
        t[0], wrong, reductions = -100, (min(31, size[0] - 1), size[1]), ["mean"]
    else:
        loss, (z, t, _, _) = tn.sigmoid_cross_entropy, cuda_simulated.sigmoid_case((size,))
        wrong, reductions = (127, 2), ["mean", "none"]
    with driver.in_place():
        for reduction in reductions:
            logits, targets = driver.to_device(z), driver.to_device(t)
            value, _ = loss(logits, targets, out=logits, reduction=reduction)
            expected, slope = loss(z, t, reduction=reduction)
            cuda_simulated.assert_close(value.copy_to_host()[()], expected, 2e-6)
            cuda_simulated.assert_close(logits.copy_to_host(), slope, 2e-6)
        t[wrong[0]] = wrong[1]
        try:
            loss(driver.to_device(z), driver.to_device(t))
            message = "no error"
        except ValueError as error:
            message = str(error)
        assert f"({wrong[0]},)" in message


def survivors(size, kernel, pattern, replacement, skip_last=False):
    """Replace each match of a pattern in a kernel, one at a time: how many there are, and those nothing notices."""
    texts = []
    run(size, lambda ptx: texts.append(ptx) or ptx)
    total, unnoticed = 0, []
    for text in dict.fromkeys(text for text in texts if kernel in text):
        spots = list(re.finditer(pattern, text))
        for spot in spots[: len(spots) - skip_last]:
            total += 1
            broken = text[: spot.start()] + spot.expand(replacement) + text[spot.end() :]
            try:
                run(size, lambda ptx, text=text, broken=broken: broken if ptx == text else ptx)
            except (PtxError, AssertionError):
                continue
            unnoticed.append(f"line {text[: spot.start()].count(chr(10)) + 1}: {spot[0].strip()}")
    return total, unnoticed


@pytest.mark.parametrize("size", [THREAD, THREAD_PACKS, WARP, WARP_PACKS, BLOCK, BLOCK_PACKS, SIGMOID, SIGMOID_PACKS])
def test_the_kernels_as_they_are_pass(size):
    run(size)


@pytest.mark.parametrize(
    ("size", "kernel"),
    [(THREAD, "few_classes"), (BLOCK, "rows_by_groups"), (SIGMOID, "loss_and_gradient"), (THREAD, "sum_chunks")],
)
def test_a_deleted_barrier_is_caught(size, kernel):
    """Each but a kernel's last where that is a reduction's: nothing behind it uses shared memory any more."""
    total, unnoticed = survivors(size, kernel, r"\tbar\.sync \t0;", "", skip_last=kernel != "few_classes")
    assert total >= 2
    assert not unnoticed


@pytest.mark.parametrize("size", [WARP, WARP_PACKS])
def test_a_deleted_warp_barrier_is_caught(size):
    """In place, every lane reads the label's logit before one lane writes there.  One barrier of several suffices."""
    with pytest.raises(PtxError, match="a race"):
        run(size, lambda ptx: re.sub(r"\tbar\.warp\.sync \t[^;]*;", "", ptx))


@pytest.mark.parametrize(
    ("size", "kernel"),
    [
        (WARP, "rows_by_groups"),
        (WARP_PACKS, "rows_by_groups"),
    ],
)
def test_a_wrong_lane_in_a_shuffle_is_caught(size, kernel):
    """Each shuffle reads its own lane in place of a neighbour's."""
    total, unnoticed = survivors(size, kernel, r"(shfl\.sync\.bfly\.b32 \t%r\d+\|%p\d+, %r\d+), %r\d+", r"\1, 0")
    assert total >= 9
    assert not unnoticed


@pytest.mark.parametrize(
    ("size", "kernel"),
    [
        (THREAD_PACKS, "few_classes"),
        (WARP_PACKS, "rows_by_groups"),
        (BLOCK_PACKS, "rows_by_groups"),
        (SIGMOID_PACKS, "loss_and_gradient"),
    ],
)
def test_a_misaligned_wide_access_is_caught(size, kernel):
    total, unnoticed = survivors(size, kernel, r"((?:ld|st)\.global\.v[24]\.\S+ [^;]*\[%rd\d+)(?:\+\d+)?\]", r"\1+4]")
    assert total >= 2
    assert not unnoticed


def test_wide_kernels_on_arrays_that_do_not_start_where_a_pack_may_are_caught(monkeypatch):
    monkeypatch.setattr(cuda_arrays, "aligned", lambda *arrays: True)
    driver = ptx_driver.Driver()
    z, t, _ = cuda_simulated.softmax_case(64)
    shifted = driver.to_device(np.concatenate([np.zeros(1, "f4"), z.ravel()]))[1:].reshape(z.shape)
    with driver.in_place(), pytest.raises(PtxError, match="no multiple of 16"):
        tn.softmax_cross_entropy(shifted, driver.to_device(t))


BROKEN = {  # what is wrong: where it is launched, its factory, a line of that, what stands in its place, and a case
    "rows behind the last are computed": (
        softmax_module, softmax_rows.rows_by_groups, "n >= losses.size or ", "", WARP,
    ),
    "the last numbers of a tile are not fetched": (
        softmax_module, softmax_rows.few_classes, "put(tile, place(i), get(a, base + i))", "pass", THREAD,
    ),
    "the last numbers of a tile are not written": (
        softmax_module, softmax_rows.few_classes, "put(a, base + i, get(tile, place(i)))", "pass", THREAD,
    ),
    "a tile's last pack is read as a whole one": (
        softmax_module, softmax_rows.few_classes, "while i + PACK <= size:\n            read(",
        "while i < size:\n            read(", THREAD,
    ),
    "the tail of a sigmoid's gradient is not written": (
        sigmoid_module, sigmoid_module.loss_and_gradient, "write_some(dz, i, 1, z.size - i, x)", "pass", SIGMOID,
    ),
    "the tail of a sigmoid's logits is read as a whole pack": (
        sigmoid_module, sigmoid_module.loss_and_gradient, "whole = i + PACK <= z.size", "whole = i < z.size", SIGMOID,
    ),
    "labels behind the last are counted": (
        softmax_module, softmax_module.count_labels, "min(start + CHUNK, t.size)", "start + CHUNK", THREAD,
    ),
    "a block too few": (cuda_arrays, None, None, None, (200, 7)),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_missing_tail_is_caught(what, monkeypatch):
    module, factory, line, wrong, size = BROKEN[what]
    if factory is None:
        launch = cuda_arrays.launch

        def short(kernel, blocks, *rest, **options):
            launch(kernel, max(1, blocks - 1), *rest, **options)

        monkeypatch.setattr(softmax_module, "launch", short)
    else:
        source = inspect.getsource(factory)
        assert source.count(line) == 1
        names = dict(vars(inspect.getmodule(factory)))
        exec(source.replace(line, wrong), names)
        monkeypatch.setattr(module, factory.__name__, names[factory.__name__])
    with pytest.raises((PtxError, AssertionError)):
        run(size)
