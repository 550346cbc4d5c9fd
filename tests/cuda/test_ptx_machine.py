"""The PTX machine itself: small programs with known results, and what it refuses."""

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

from ptx_machine import Machine
from ptx_parser import PtxError, parse


def program(body, registers="", parameters=("x", "y"), module=""):
    """A kernel `k` whose parameters are arrays' addresses; %r1 is the thread's number, and %rd1 4 times that."""
    listed = ", ".join(f".param .u64 {name}" for name in parameters)
    loads = "".join(f"ld.param.u64 %{name}, [{name}];\n" for name in parameters)
    return f"""
.version 8.0
.target sm_90
.address_size 64
{module}
.visible .entry k({listed})
{{
    .reg .b64 {", ".join(f"%{name}" for name in parameters)};
    .reg .b32 %r<20>;
    .reg .b64 %rd<20>;
    .reg .f32 %f<20>;
    .reg .f64 %fd<20>;
    .reg .b16 %h<20>;
    .reg .pred %p<20>;
    {registers}
    {loads}
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r1, %r2, %r3, %r4;
    mul.wide.u32 %rd1, %r1, 4;
    {body}
    ret;
}}
"""


def run(body, *arrays, threads=32, blocks=1, shared=0, machine=None, **options):
    """What a program makes of its arrays, which it may change."""
    machine = machine or Machine()
    given = [machine.to_device(x) if isinstance(x, np.ndarray) else x for x in arrays]
    names = ("x", "y", "z")[: len(given)]
    addresses = [np.uint64(x.address) for x in given]
    counts = machine.run(program(body, parameters=names, **options), "k", blocks, threads, addresses, shared)
    return [x.copy_to_host() for x in given], counts


LOAD = "add.s64 %rd2, %x, %rd1; ld.global.f32 %f1, [%rd2];"
STORE = "add.s64 %rd3, %y, %rd1; st.global.f32 [%rd3], %f2;"
X = np.arange(64, dtype="f4")


# --- programs -----------------------------------------------------------------------------------------------------


def test_a_program_without_branches():
    (_, y), counts = run(f"{LOAD} fma.rn.f32 %f2, %f1, 0f40000000, 0f3F800000; {STORE}", X, 0 * X, blocks=2)
    np.testing.assert_array_equal(y, 2 * X + 1)
    assert counts.threads["fma.rn.f32"] == 64
    assert counts.warps["fma.rn.f32"] == 2
    assert (counts.read_bytes, counts.written_bytes) == (256, 256)
    assert (counts.read_sectors, counts.written_sectors) == (8, 8)
    assert (counts.distinct_read_bytes, counts.distinct_written_bytes) == (256, 256)


def test_threads_that_go_different_ways_meet_again():
    loop = f"""{LOAD}
        mov.f32 %f2, 0f00000000;
        mov.u32 %r5, 0;
    again:
        and.b32 %r6, %r5, 1;
        setp.eq.s32 %p1, %r6, 1;
        @%p1 bra odd;
        add.f32 %f2, %f2, 0f3F800000;
        bra.uni on;
    odd:
        add.f32 %f2, %f2, 0f41200000;
    on:
        add.s32 %r5, %r5, 1;
        setp.le.u32 %p2, %r5, %r1;
        @%p2 bra again;
        {STORE}"""
    (_, y), counts = run(loop, X, 0 * X, threads=64)
    turns = np.arange(64) + 1
    np.testing.assert_array_equal(y, (turns + 1) // 2 + 10 * (turns // 2))
    assert counts.threads["bra"] == 2 * turns.sum()
    assert counts.warps["st.global.f32"] == 2


def test_guards_on_any_instruction():
    (_, y), _ = run(
        f"""{LOAD} mov.f32 %f2, %f1; setp.gt.f32 %p1, %f1, 0f41200000; @%p1 mov.f32 %f2, 0f00000000;
        setp.lt.f32 %p2, %f1, 0f40000000; @!%p2 add.f32 %f2, %f2, 0f3F800000; {STORE}""",
        X,
        0 * X,
        threads=64,
    )
    np.testing.assert_array_equal(y, np.where(X > 10, 0, X) + (X >= 2))


def test_threads_may_leave_one_by_one():
    (_, y), _ = run(f"setp.gt.u32 %p1, %r1, 9; @%p1 ret; {LOAD} mov.f32 %f2, %f1; {STORE}", X, 0 * X, threads=64)
    np.testing.assert_array_equal(y, np.where(X > 9, 0, X))


def test_blocks_and_grids_of_three_dimensions():
    machine = Machine()
    y = machine.to_device(np.zeros(120, "u4"))
    body = """mov.u32 %r5, %tid.x; mov.u32 %r6, %tid.y; mov.u32 %r7, %tid.z; mov.u32 %r8, %ctaid.y;
        mov.u32 %r9, %ntid.y;
        mad.lo.u32 %r10, %r7, 3, %r6; mad.lo.u32 %r10, %r10, 5, %r5; mad.lo.u32 %r10, %r8, 30, %r10;
        mul.lo.u32 %r11, %r2, 60; add.u32 %r10, %r10, %r11;
        mul.wide.u32 %rd2, %r10, 4; add.s64 %rd2, %rd2, %y; st.global.u32 [%rd2], %r9;"""
    machine.run(program(body, parameters=("y",)), "k", (2, 2), (5, 3, 2), [np.uint64(y.address)])
    np.testing.assert_array_equal(y.copy_to_host(), np.full(120, 3))


def test_many_blocks_run_in_turns():
    n = 1 << 16
    (_, y), _ = run(
        f"{LOAD} neg.f32 %f2, %f1; {STORE}", np.arange(n, dtype="f4"), np.zeros(n, "f4"), blocks=512, threads=128
    )
    np.testing.assert_array_equal(y, -np.arange(n))


def test_wide_loads_and_stores_and_halves_of_registers():
    (_, y), counts = run(
        """shl.b64 %rd2, %rd1, 2; add.s64 %rd3, %x, %rd2; add.s64 %rd4, %y, %rd2;
        ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd3]; mov.b64 %rd5, {%r1, %r3}; mov.b64 {_, %r5}, %rd5;
        { .reg .b32 %temp; mov.b64 {%temp, %r6}, %rd5; } sub.s32 %r5, %r5, %r6; cvt.rn.f32.s32 %f5, %r5;
        add.f32 %f1, %f1, %f5; st.global.v4.f32 [%rd4], {%f4, %f3, %f2, %f1};""",
        X, 0 * X, threads=16,
    )  # fmt: skip
    np.testing.assert_array_equal(y, X.reshape(-1, 4)[:, ::-1].ravel())
    assert counts.read_sectors == 8


def test_shared_memory_and_barriers():
    body = f"""{LOAD} mov.u64 %rd4, tile; add.s64 %rd4, %rd4, %rd1; st.shared.f32 [%rd4], %f1; bar.sync 0;
        xor.b32 %r5, %r1, 63; mul.wide.u32 %rd5, %r5, 4; mov.u64 %rd4, tile; add.s64 %rd4, %rd4, %rd5;
        ld.shared.f32 %f2, [%rd4]; {STORE}"""
    for tile, dynamic in ((".shared .align 4 .b8 tile[256];", 0), (".extern .shared .align 8 .b8 tile[];", 256)):
        (_, y), counts = run(body, X, 0 * X, threads=64, shared=dynamic, module=tile)
        np.testing.assert_array_equal(y, X[::-1])
        assert (counts.shared_accesses, counts.shared_turns) == (4, 4)
        with pytest.raises(PtxError, match=r"a race: byte .* is written by thread .* and read by thread"):
            run(body.replace("bar.sync 0;", ""), X, 0 * X, threads=64, shared=dynamic, module=tile)


def test_lanes_that_need_one_bank_take_turns():
    body = """mov.u64 %rd4, tile; shl.b64 %rd5, %rd1, STRIDE; add.s64 %rd4, %rd4, %rd5; st.shared.u32 [%rd4], %r1;"""
    for stride in range(6):
        _, counts = run(body.replace("STRIDE", str(stride)), X, X, module=".shared .align 4 .b8 tile[4096];")
        assert counts.shared_turns == 2**stride


def test_local_and_constant_memory():
    body = f"""{LOAD} mov.u64 %rd4, own; cvta.local.u64 %rd5, %rd4; st.f32 [%rd5+4], %f1; ld.local.f32 %f2, [%rd4+4];
        mov.u64 %rd6, table; and.b64 %rd7, %rd1, 4; add.s64 %rd6, %rd6, %rd7; ld.const.u32 %r5, [%rd6];
        cvt.rn.f32.u32 %f3, %r5; mul.f32 %f2, %f2, %f3; {STORE}"""
    module = ".local .align 4 .b8 own[8]; .const .align 4 .u32 table[2] = {3, 5};"
    (_, y), _ = run(body, X, 0 * X, threads=64, module=module)
    np.testing.assert_array_equal(y, X * np.tile([3, 5], 32))


def test_atomics_of_all_threads_add_up():
    total = np.zeros(3, "u4")
    body = """atom.global.add.u32 %r5, [%y], %r1; red.global.max.u32 [%y+4], %r1;
        atom.global.cas.b32 %r6, [%y+8], 0, 7; add.s64 %rd2, %x, %rd1; st.global.u32 [%rd2], %r6;"""
    (x, y), _ = run(body, np.zeros(64, "u4"), total, threads=64)
    assert y.tolist() == [64 * 63 // 2, 63, 7]
    assert x.tolist() == [0] + [7] * 63


# --- warps --------------------------------------------------------------------------------------------------------


def lanes_after(mode, b, c, lane):
    """The lane that `lane` reads, and whether it is inside, as the PTX ISA's text has it."""
    segment, clamp = c >> 8 & 31, c & 31
    last, first = (lane & segment) | (clamp & ~segment & 31), lane & segment
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | (b & ~segment & 31)}[mode]
    inside = j >= last if mode == "up" else j <= last
    return (j, True) if inside else (lane, False)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("segment", [0, 16, 24, 28, 30])
def test_shuffles(mode, segment):
    for b in (0, 1, 3, 16, 31):
        c = segment << 8 | (0 if mode == "up" else 31)
        body = f"""shfl.sync.{mode}.b32 %r5|%p1, %r1, {b}, {c}, -1; selp.u32 %r6, 100, 0, %p1; add.u32 %r5, %r5, %r6;
            add.s64 %rd2, %x, %rd1; st.global.u32 [%rd2], %r5;"""
        (x,), _ = run(body, np.zeros(64, "u4"), threads=64)
        for n in range(64):
            lane, inside = lanes_after(mode, b, c, n % 32)
            assert x[n] == n - n % 32 + lane + 100 * inside


def test_votes():
    body = """and.b32 %r5, %r1, 33; setp.ne.u32 %p1, %r5, 0; vote.sync.ballot.b32 %r6, %p1, -1;
        vote.sync.all.pred %p2, %p1, -1; vote.sync.any.pred %p3, !%p1, -1; vote.sync.uni.pred %p4, %p1, -1;
        selp.u32 %r7, 1, 0, %p2; selp.u32 %r8, 2, 0, %p3;
        selp.u32 %r9, 4, 0, %p4; add.u32 %r7, %r7, %r8; add.u32 %r7, %r7, %r9; add.s64 %rd2, %x, %rd1;
        add.s64 %rd3, %y, %rd1; st.global.u32 [%rd2], %r6; st.global.u32 [%rd3], %r7;"""
    (x, y), _ = run(body, np.zeros(64, "u4"), np.zeros(64, "u4"), threads=64)
    assert x.tolist() == [0xAAAAAAAA] * 32 + [0xFFFFFFFF] * 32
    assert y.tolist() == [2] * 32 + [5] * 32


def test_the_halves_of_a_warp_exchange_each_for_themselves():
    body = """setp.lt.u32 %p1, %r1, 16; selp.u32 %r5, 65535, -65536, %p1; @%p1 bra low;
        shfl.sync.bfly.b32 %r6, %r1, 1, 31, %r5; bra.uni on; low: shfl.sync.bfly.b32 %r6, %r1, 2, 31, 65535;
        on: add.s64 %rd2, %x, %rd1; st.global.u32 [%rd2], %r6;"""
    (x,), _ = run(body, np.zeros(32, "u4"))
    np.testing.assert_array_equal(x, np.arange(32) ^ np.where(np.arange(32) < 16, 2, 1))


def test_what_a_warp_reads_before_it_writes_needs_a_warp_barrier():
    body = """ld.global.f32 %f1, [%x]; shfl.sync.bfly.b32 %r5, %r1, 1, 31, -1; bar.warp.sync -1;
        mov.f32 %f2, %f1; add.s64 %rd3, %x, %rd1; st.global.f32 [%rd3], %f2;"""
    (x,), _ = run(body, X[:32] + 5)
    assert (x == 5).all()
    with pytest.raises(PtxError, match="a race"):
        run(body.replace("bar.warp.sync -1;", ""), X[:32])
    with pytest.raises(PtxError, match="a race"):
        run(body, X, threads=64)  # two warps
    with pytest.raises(PtxError, match="a race"):
        run(body.replace("bar.warp.sync -1;", "bar.sync 0;"), X, blocks=2)


# --- what it refuses ----------------------------------------------------------------------------------------------

REFUSED = [
    ("unknown instruction sin.approx.f32", "sin.approx.f32 %f1, %f1;"),
    ("unknown instruction add.cc.u32", "add.cc.u32 %r5, %r1, %r1;"),
    ("unknown instruction fma.f32", "fma.f32 %f1, %f1, %f1, %f1;"),
    ("unknown instruction ld.global.nc.f32", "ld.global.nc.f32 %f1, [%x];"),
    ("unknown instruction shfl.sync.bfly.b64", "shfl.sync.bfly.b64 %rd5, %rd1, 1, 31, -1;"),
    ("3 operands are needed", "add.u32 %r5, %r1;"),
    ("%r5 holds uint32, and float64 is written", "mov.f64 %r5, %fd1;"),
    ("%rd1 holds uint64, and float32 is needed", "add.f32 %f1, %f1, %rd1;"),
    ("%q1 is no register", "mov.u32 %r5, %q1;"),
    ("%tid.x cannot be written", "mov.u32 %tid.x, 1;"),
    ("the constant 0f3F800000 where", "add.f64 %fd1, %fd1, 0f3F800000;"),
    ("4 registers are needed", "ld.global.v4.f32 {%f1, %f2}, [%x];"),
    ("register %f5 is read, but was never written", "add.f32 %f1, %f5, %f5;"),
    ("%f5 is read by threads that never wrote", "setp.lt.u32 %p1, %r1, 9; @%p1 mov.f32 %f5, 0f00000000;"
                                                "neg.f32 %f1, %f5;"),
    ("4 bytes of global memory at .* outside of what is allocated", "ld.global.f32 %f1, [%x+256];"),
    ("4 bytes of global memory at 0x0, outside", "mov.u64 %rd5, 0; ld.global.f32 %f1, [%rd5];"),
    ("outside of what is allocated", "mul.wide.u32 %rd5, %r1, 9; add.s64 %rd5, %rd5, %x; and.b64 %rd5, %rd5, -4;"
                                     "st.global.u32 [%rd5], %r1;"),
    ("16 bytes of global memory at .*, which is no multiple of 16", "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%x+8];"),
    ("8 bytes of global memory at .*, which is no multiple of 8", "st.global.f64 [%x+4], 0d0000000000000000;"),
    ("of shared memory at .*, outside of its 64 bytes", "mov.u64 %rd5, tile; st.shared.u32 [%rd5+64], %r1;"),
    ("of shared memory at .*, which was never written", "mov.u64 %rd5, tile; ld.shared.u32 %r5, [%rd5];"),
    ("32 threads at .*bar.sync 0: they wait for threads that do not come",
        "setp.lt.u32 %p1, %r1, 32; @%p1 bra a; bra.uni b; a: bar.sync 0; b:"),
    ("wait for threads that do not come .32 have left", "setp.lt.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0;"),
    ("48 threads at .*bar.sync 1; 16 threads at .*shfl", "setp.lt.u32 %p1, %r1, 16; @%p1 bra a;"
                             "bar.sync 1; bra.uni b; a: shfl.sync.bfly.b32 %r5, %r1, 1, 31, -1; b:"),
    ("a mask without its own lane", "shfl.sync.bfly.b32 %r5, %r1, 1, 31, 1;"),
    ("a shuffle from a lane that does not take part", "setp.lt.u32 %p1, %r1, 16; @%p1 bra a; ret; a:"
                                                      "shfl.sync.bfly.b32 %r5, %r1, 16, 31, -1;"),
    ("a race: byte .* is written by thread 0 .* and written by thread", "st.global.u32 [%x], %r1;"),
    ("a race", "ld.global.u32 %r5, [%x]; setp.eq.u32 %p1, %r1, 7; @%p1 st.global.u32 [%x], %r1;"),
    ("a race", "red.global.add.u32 [%x], %r1; ld.global.u32 %r5, [%x];"),
    ("an integer divided by 0", "div.u32 %r5, %r3, %r1;"),
    ("there is no such label", "bra nowhere;"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "body"), REFUSED, ids=[message for message, _ in REFUSED])
def test_what_a_gpu_would_not_forgive_is_an_error(message, body):
    with pytest.raises(PtxError, match=message):
        run(body, X, threads=64, module=".shared .align 4 .b8 tile[64];")


def test_launches_that_a_gpu_refuses():
    machine, ptx = Machine(), program("", parameters=())
    machine.run(ptx, "k", 1, 1024, [])
    for grid, block, shared, message in (
        (1, 1025, 0, "1025 threads in a block, but it may have 1024"),
        (1, 0, 0, "0 threads"),
        ((1, 1 << 16), 1, 0, "a grid of"),
        (1, 1, 48 * 1024 + 1, "bytes of shared memory, but 49152 at most"),
    ):
        with pytest.raises(PtxError, match=message):
            machine.run(ptx, "k", grid, block, [], shared)
    with pytest.raises(PtxError, match="64 threads in a block, but it may have 32"):
        machine.run(ptx.replace("()", "() .maxntid 32, 1, 1", 1), "k", 1, 64, [])
    with pytest.raises(PtxError, match="there is no kernel other"):
        machine.run(ptx, "other", 1, 1, [])
    with pytest.raises(PtxError, match="has 0 parameters, got 1 values"):
        machine.run(ptx, "k", 1, 1, [np.float32(1)])
    with pytest.raises(PtxError, match="parameter x has 8 bytes, got float32"):
        machine.run(program("", parameters=("x",)), "k", 1, 1, [np.float32(1)])


def test_a_kernel_that_never_ends():
    with pytest.raises(PtxError, match="still runs after 101 basic blocks"):
        run("again: bra again;", X, machine=Machine(patience=100))


def test_memory_that_no_kernel_wrote_is_not_copied_to_the_host():
    array = Machine().empty((3, 4), "f4")
    array[:2].copy_to_device(np.ones((2, 4)))
    assert array[:2].copy_to_host().sum() == 8
    with pytest.raises(PtxError, match="not all of it was written"):
        array.copy_to_host()


def test_text_that_is_no_ptx():
    for text, message in (
        (program("mov.u32 %r5, 1; a: a:"), "stands twice"),
        (program("", registers=".reg .f32 %r1;"), "has two types"),
        (program(".align 4;"), "unknown statement"),
        (program("", module=".texref image;"), "unknown statement"),
        (program("").replace("ret;", ""), "neither ret nor a branch"),
    ):
        with pytest.raises(PtxError, match=message):
            parse(text)
