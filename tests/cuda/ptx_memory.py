"""The memory that ptx_machine.py runs kernels on: every access is checked, and remembered until the kernel ends.

A byte is outside of what was allocated, or never written, or written; and a number of w bytes lies at a multiple of w.
What two threads do to one address, at least one of them writing, must be in an order: see `race`.
"""

import numpy as np
from ptx_parser import PtxError

OUTSIDE, ALLOCATED, WRITTEN = 0, 1, 3  # a byte's state; WRITTEN has ALLOCATED's bit
READ_NOW, WRITTEN_NOW = 4, 8  # further bits: a kernel that runs has read it, or written it
ALIGNMENT = 256  # that of cudaMalloc, and the least distance of two allocations here
READ, WRITE, ATOMIC = 0, 1, 2
GLOBAL = 1 << 32  # the address of the first byte of global memory
SHARED, LOCAL = 1 << 48, 1 << 49  # where the two stand among generic addresses


class Memory:
    """Bytes of `rows` equal parts of `size` bytes: a block's shared memory, a thread's local, or one global memory."""

    def __init__(self, name, size, rows=1):
        self.name, self.size = name, size
        self.stride = -(-size // 16) * 16
        self.data = np.zeros(rows * self.stride + 16, "u1")
        self.state = np.zeros_like(self.data)
        self.state[: rows * self.stride].reshape(rows, self.stride)[:, :size] = ALLOCATED

    def offsets(self, addresses, rows, width, state):
        """Where the accesses of `width` bytes are in `data`; all of those bytes must have `state`."""
        wrong = addresses % np.uint64(width) != 0
        if wrong.any():
            raise self.fault(addresses[wrong][0], width, f"which is no multiple of {width}")
        wrong = addresses > np.uint64(max(self.size - width, 0))
        if wrong.any():
            raise self.fault(addresses[wrong][0], width, f"outside of its {self.size} bytes")
        offsets = addresses.astype("i8") + rows * self.stride
        step = min(width, 8)
        for part in range(0, width, step):
            seen = self.state.view(f"u{step}")[(offsets + part) // step]
            expected = seen.dtype.type(int.from_bytes(bytes([state]) * step, "little"))
            wrong = seen & expected != expected
            if wrong.any():
                inside = (self.state[offsets[wrong][0] :][:width] != OUTSIDE).all()
                why = "which was never written" if inside else "outside of what is allocated"
                raise self.fault(addresses[wrong][0], width, why)
        return offsets

    def fault(self, address, width, why):
        return PtxError(f"{width} bytes of {self.name} memory at {int(address):#x}, {why}")

    def mark(self, offsets, size, bits):
        seen = self.state.view(f"u{size}")
        seen[offsets // size] |= seen.dtype.type(int.from_bytes(bytes([bits]) * size, "little"))

    def load(self, offsets, dtype):
        self.mark(offsets, dtype.itemsize, READ_NOW)
        return self.data.view(dtype)[offsets // dtype.itemsize]

    def store(self, offsets, values):
        self.mark(offsets, values.dtype.itemsize, WRITTEN | WRITTEN_NOW)
        self.data.view(values.dtype)[offsets // values.dtype.itemsize] = values


class GlobalMemory(Memory):
    """Memory that allocations share; addresses in it are counted from GLOBAL."""

    def __init__(self, size=1 << 16):
        super().__init__("global", size)
        self.state[:] = OUTSIDE
        self.used = ALIGNMENT

    def allocate(self, size):
        """The address of `size` fresh bytes; that of no bytes is 0."""
        if size == 0:
            return 0
        start = self.used
        self.used = (-(-(start + size) // ALIGNMENT) + 1) * ALIGNMENT
        if self.used > self.size:
            more = np.zeros(max(self.used, self.size), "u1")
            self.data, self.state = np.concatenate([self.data, more]), np.concatenate([self.state, more])
            self.size += len(more)
        self.state[start : start + size] = ALLOCATED
        return GLOBAL + start

    def offsets(self, addresses, rows, width, state):
        return super().offsets(addresses - np.uint64(GLOBAL), rows, width, state)

    def fault(self, address, width, why):
        return super().fault(int(address) + GLOBAL & 0xFFFFFFFFFFFFFFFF, width, why)


class DeviceArray:
    """An array in global memory, with the methods of Numba's device arrays that the tests call."""

    def __init__(self, memory, shape, dtype, address=None, strides=None):
        self.memory, self.shape, self.dtype = memory, tuple(shape), np.dtype(dtype)
        self.strides = strides or np.empty(self.shape, np.dtype(("V", self.dtype.itemsize))).strides
        self.address = memory.allocate(self.size * self.dtype.itemsize) if address is None else address

    size = property(lambda self: int(np.prod(self.shape, dtype=int)))
    ndim = property(lambda self: len(self.shape))

    @property
    def __cuda_array_interface__(self):
        typestr = self.dtype.str if self.dtype.kind != "V" else f"<V{self.dtype.itemsize}"
        return {
            "shape": self.shape,
            "typestr": typestr,
            "strides": self.strides,
            "data": (self.address, False),
            "version": 3,
        }

    def view_of(self, bytes_of_memory, dtype=None):
        """The array's part of the memory's bytes (or their states), as a NumPy array that shares them."""
        if self.size == 0:
            return np.empty(self.shape, dtype or self.dtype)
        start = self.address - GLOBAL
        return np.ndarray(self.shape, dtype or self.dtype, bytes_of_memory, start, self.strides)

    def copy_to_host(self, stream=0):
        size = self.dtype.itemsize
        state = self.view_of(self.memory.state, f"V{size}").reshape(-1).view("u1")
        if (state & WRITTEN != WRITTEN).any():
            raise PtxError(
                f"an array {self.shape} of {self.dtype} is copied to the host, but not all of it was written"
            )
        return self.view_of(self.memory.data).copy()

    def copy_to_device(self, values):
        values = np.asarray(values, self.dtype)
        self.view_of(self.memory.data)[...] = values
        size = self.dtype.itemsize
        self.view_of(self.memory.state, f"V{size}")[...] = np.frombuffer(bytes([WRITTEN]) * size, f"V{size}")[0]

    def __setitem__(self, index, values):
        self[index].copy_to_device(values)

    def __getitem__(self, index):
        part = self.view_of(self.memory.data)[index]
        start = self.address + part.__array_interface__["data"][0] - self.view_of(self.memory.data).ctypes.data
        return DeviceArray(self.memory, part.shape, self.dtype, start, part.strides)

    def reshape(self, *shape):
        part = self.view_of(self.memory.data)
        whole = part.reshape(*shape)
        assert np.may_share_memory(part, whole) or part.size == 0
        return DeviceArray(self.memory, whole.shape, self.dtype, self.address, whole.strides)

    def arguments(self):
        """What Numba passes to a kernel for an array."""
        return [0, 0, self.size, self.dtype.itemsize, self.address, *self.shape, *self.strides]


# --- races ------------------------------------------------------------------------------------------------------


class Log:
    """Every access of a launch to one memory."""

    def __init__(self):
        self.entries = []

    def add(self, kind, offsets, width, threads, blocks, teams, intervals, lane_intervals, line):
        """`teams` is called at the end, when it is known which lanes wait for one another."""
        self.entries.append((kind, width, line, offsets, threads, blocks, teams, intervals, lane_intervals))

    def columns(self):
        """One row for each access to each cell, a cell being as wide as the narrowest access."""
        cell = min(width for _, width, *_ in self.entries)
        parts = []
        for kind, width, line, offsets, *others in self.entries:
            cells = (offsets[:, None] + np.arange(0, width, cell)).ravel() // cell
            parts.append([np.repeat(x() if callable(x) else x, width // cell) for x in others])
            parts[-1] = [cells, *parts[-1], np.full(len(cells), kind), np.full(len(cells), line)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)], cell


def disordered(keys, among, kinds):
    """The first group of equal keys, as a slice, in which accesses of different `among` need an order; or None.

    The rows are sorted by `keys`.
    """
    starts = np.flatnonzero(np.any([np.diff(key, prepend=key[0] - 1) != 0 for key in keys], axis=0))
    several = np.minimum.reduceat(among, starts) != np.maximum.reduceat(among, starts)
    least, most = np.minimum.reduceat(kinds, starts), np.maximum.reduceat(kinds, starts)
    bad = np.flatnonzero(several & (most != READ) & ~((least == ATOMIC) & (most == ATOMIC)))
    return slice(starts[bad[0]], [*starts, len(kinds)][bad[0] + 1]) if len(bad) else None


def race(log):
    """A sentence about two accesses that nothing puts in order, or None.

    Threads of two blocks are never in an order, those of one block are by the bar.sync between them, and those of one
    warp also by a bar.warp.sync of their lanes, a team.  (That a warp runs in step, or meets in a shuffle, promises
    nothing about memory.)  Each access carries the number of barriers that its block, and its team, had passed before.
    """
    if not any(kind != READ for kind, *_ in log.entries):
        return None
    columns, cell = log.columns()
    written = np.zeros(int(columns[0].max()) + 1, bool)
    written[columns[0][columns[6] != READ]] = True
    keep = written[columns[0]]
    columns = [x[keep] for x in columns]
    order = np.lexsort([columns[k] for k in (5, 3, 4, 2, 0)])
    cells, threads, blocks, teams, intervals, lane_intervals, kinds, lines = (x[order] for x in columns)
    group = (
        disordered([cells], blocks, kinds)
        or disordered([cells, blocks, intervals], teams, kinds)
        or disordered([cells, blocks, intervals, teams, lane_intervals], threads, kinds)
    )
    if group is None:
        return None
    first = group.start + int(np.argmax(kinds[group] != READ))
    second = group.start + int(np.argmax(threads[group] != threads[first]))
    done = ("read", "written", "changed by an atomic")
    return (
        f"a race: byte {int(cells[first]) * cell:#x} is {done[kinds[first]]} by thread {threads[first]} (line"
        f" {lines[first]}) and {done[kinds[second]]} by thread {threads[second]} (line {lines[second]}), and nothing"
        " puts the two in order"
    )
