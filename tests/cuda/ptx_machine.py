"""A machine that runs PTX without a GPU, to see what the compiler made of the CUDA kernels.

    machine = Machine()
    x = machine.to_device(np.arange(100, dtype="f4"))
    counts = machine.run(ptx, "name_of_kernel", grid=4, block=128, args=[x, np.float32(2)])
    x.copy_to_host()

All threads of many blocks run at once: a register is a NumPy array with a number for each thread, and an instruction is
a function of such arrays, from ptx_instructions.py.  Where threads went different ways, the first place in the program
where some stand runs next, with all that stand there; the PTX ISA allows any such order.

What a GPU would not forgive is an error: memory that is outside, misaligned or was never written, two accesses to it
that nothing puts in order, a register that was never written, a shuffle from a lane that isn't there, a barrier that
not all threads reach, more threads or shared memory than there may be.  So is an instruction that isn't known.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from ptx_decoder import decode
from ptx_memory import READ_NOW, WRITTEN, WRITTEN_NOW, DeviceArray, GlobalMemory, Log, Memory, race
from ptx_parser import EXIT, PtxError

WARP = 32
MOST_THREADS = 1024  # of a block
MOST_SHARED = 48 * 1024  # bytes for a block, where the launch has not asked for more
AT_ONCE = 1 << 15  # threads that run side by side


@dataclass
class Counts:
    """What a launch did: instructions as the PTX has them, by thread and by warp, and the bytes that it moved."""

    threads: Counter = field(default_factory=Counter)  # opcode -> how many threads executed it, in all
    warps: Counter = field(default_factory=Counter)  # opcode -> how many warps did: what a GPU issues
    read_bytes: int = 0  # of global memory, as the threads asked for them
    written_bytes: int = 0
    read_sectors: int = 0  # groups of 32 bytes that a warp's access touches, added up: what the caches move
    written_sectors: int = 0
    distinct_read_bytes: int = 0  # each byte once: the least that must come from memory
    distinct_written_bytes: int = 0
    shared_accesses: int = 0  # by warps
    shared_turns: int = 0  # that those take: more than one each, where lanes need different words of one bank

    def __add__(self, other):
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


class Registers(dict):
    """Registers of `threads` (their numbers, in order), read from those of all and written back at a block's end."""

    def __init__(self, launch, threads):
        super().__init__()
        self.launch, self.threads = launch, threads
        self.count = len(threads)

    def __missing__(self, name):
        known = self.launch.written.get(name)
        if known is None:
            raise PtxError(f"register {name} is read, but was never written")
        if known is not True and not known[self.threads].all():
            raise PtxError(f"register {name} is read by threads that never wrote it")
        value = self.launch.registers[name]
        if self.count != self.launch.count:
            value = value[self.threads]
        self[name] = value
        return value

    def keep(self, names):
        """Write those registers of these threads back."""
        everything, written = self.launch.registers, self.launch.written
        for name in names:
            value = self[name]
            if self.count == self.launch.count:
                everything[name], written[name] = value, True
                continue
            before = everything.get(name)
            before = np.zeros(self.launch.count, value.dtype) if before is None else before.copy()
            before[self.threads] = value
            everything[name] = before
            if written.get(name) is not True:
                known = written.get(name, np.zeros(self.launch.count, bool)).copy()
                known[self.threads] = True
                written[name] = known


class Launch:
    """Some blocks of a grid, running at once."""

    def __init__(self, machine, program, grid, block, first, blocks, parameters, shared, logs):
        size = int(np.prod(block))
        self.machine, self.program, self.parameters, self.logs = machine, program, parameters, logs
        self.count, self.block_size, self.blocks = blocks * size, size, blocks
        self.thread = np.arange(self.count)
        self.block = self.thread // size
        inside = self.thread % size
        self.lane = inside % WARP
        self.warps_of_block = -(-size // WARP)
        self.warp = self.block * self.warps_of_block + inside // WARP
        self.first_block = first
        self.intervals = np.zeros(blocks, int)  # barriers that a block has passed
        self.warps = blocks * self.warps_of_block
        self.lane_intervals = np.zeros(self.count, int)  # barriers of some lanes of a warp that a thread has passed
        self.masks = np.zeros(self.count, "u4")  # of which lanes
        self.gone = np.zeros(self.count, bool)
        self.counts = Counts()
        static = program.shared_size
        self.memories = {
            "global": machine.memory,
            "shared": Memory("shared", static + shared, blocks),
            "local": Memory("local", program.local_size, self.count),
        }
        self.registers = special = {}
        number = first + self.block
        for k, axis in enumerate("xyz"):
            special[f"%tid.{axis}"] = (inside // int(np.prod(block[:k])) % block[k]).astype("u4")
            special[f"%ctaid.{axis}"] = (number // int(np.prod(grid[:k])) % grid[k]).astype("u4")
            special[f"%ntid.{axis}"] = np.full(self.count, block[k], "u4")
            special[f"%nctaid.{axis}"] = np.full(self.count, grid[k], "u4")
        special["%laneid"] = self.lane.astype("u4")
        special["%dynamic_smem_size"] = np.full(self.count, shared, "u4")
        for name, address in {**program.addresses, **machine.addresses(program)}.items():
            special[name] = np.full(self.count, address, "u8")
        self.written = dict.fromkeys(special, True)

    def registers_of(self, threads):
        return Registers(self, threads)

    def run(self):
        executed, executed_by_warps = Counter(), Counter()
        standing = {0: self.thread}  # block of the program -> the threads that stand at its start
        waiting = {}
        turns = 0
        while standing or waiting:
            if not standing:
                raise PtxError(self.stuck(waiting))
            turns += 1
            if turns > self.machine.patience:
                raise PtxError(f"the kernel still runs after {turns} basic blocks")
            at = min(standing)
            threads = standing.pop(at)
            block = self.program.blocks[at]
            if block.waits:
                if at in waiting:
                    threads = np.sort(np.concatenate([waiting.pop(at), threads]))
                ready = block.waits(self, threads)
                if not ready.all():
                    waiting[at] = threads[~ready]
                threads = threads[ready]
                if not len(threads):
                    continue
            registers = Registers(self, threads)
            try:
                for step in block.steps:
                    step(registers)
            except (PtxError, ZeroDivisionError) as error:
                line = block.lines[block.steps.index(step)]
                raise PtxError(f"{line}: {error}") from None
            registers.keep(block.kept)
            executed[at] += len(threads)
            warps = self.warp[threads]
            executed_by_warps[at] += np.count_nonzero(np.diff(warps)) + 1
            for to, some in block.leave(registers, threads):
                if to == EXIT:
                    self.gone[some] = True
                elif len(some):
                    there = standing.get(to)
                    standing[to] = some if there is None else np.sort(np.concatenate([there, some]))
        for at, block in enumerate(self.program.blocks):
            for opcode, times in block.opcodes.items():
                self.counts.threads[opcode] += times * executed[at]
                self.counts.warps[opcode] += times * executed_by_warps[at]
        return self.counts

    def stuck(self, waiting):
        places = "; ".join(f"{len(some)} threads at {self.program.blocks[at].lines[0]}" for at, some in waiting.items())
        return f"{places}: they wait for threads that do not come ({int(self.gone.sum())} have left)"


class Machine:
    """Global memory, and kernels that run on it.

    `seed` decides how approximate instructions err, and `patience` how many basic blocks are too many.
    """

    def __init__(self, seed=0, patience=1_000_000):
        self.seed, self.patience = seed, patience
        self.memory = GlobalMemory()
        self.placed = {}

    def empty(self, shape, dtype):
        return DeviceArray(self.memory, shape, dtype)

    def to_device(self, values):
        values = np.asarray(values)
        array = self.empty(values.shape, values.dtype)
        array.copy_to_device(values)
        return array

    def addresses(self, program):
        """Where the module's global and constant variables are."""
        for variable in program.globals:
            if variable.name not in self.placed:
                values = np.zeros(variable.count, f"u{variable.size // variable.count}")
                values[: len(variable.values)] = variable.values
                self.placed[variable.name] = self.to_device(values).address
        return {variable.name: self.placed[variable.name] for variable in program.globals}

    def run(self, ptx, name, grid, block, args, shared=0, check_races=True):
        """Run a kernel of a module, and say what it did.

        `grid` and `block` are a number or up to three.  The arguments are device arrays, passed as Numba passes them,
        and NumPy's numbers.  `shared` is the bytes of dynamic shared memory of each block.
        """
        program = decode(ptx, name, self.seed)
        grid, block = (tuple(np.atleast_1d(size).tolist()) + (1,) * (3 - np.size(size)) for size in (grid, block))
        size = int(np.prod(block))
        if not 0 < size <= min(MOST_THREADS, program.most_threads or MOST_THREADS):
            raise PtxError(f"{name}: {size} threads in a block, but it may have {program.most_threads or MOST_THREADS}")
        if program.shared_size + shared > MOST_SHARED:
            raise PtxError(f"{name}: {program.shared_size + shared} bytes of shared memory, but {MOST_SHARED} at most")
        if not (0 < grid[0] < 2**31 and 0 < grid[1] < 2**16 and 0 < grid[2] < 2**16):
            raise PtxError(f"{name}: a grid of {grid}")
        parameters = program.parameters(args)
        self.memory.state &= WRITTEN
        logs = {"global": Log(), "shared": Log()} if check_races else None
        counts, blocks, step = Counts(), int(np.prod(grid)), max(1, AT_ONCE // size)
        with np.errstate(all="ignore"):
            for first in range(0, blocks, step):
                some = min(step, blocks - first)
                launch = Launch(self, program, grid, block, first, some, parameters, shared, logs)
                counts += launch.run()
        counts.distinct_read_bytes = int((self.memory.state & READ_NOW != 0).sum())
        counts.distinct_written_bytes = int((self.memory.state & WRITTEN_NOW != 0).sum())
        for space, log in (logs or {}).items():
            if found := race(log):
                raise PtxError(f"{name}: in {space} memory, {found}")
        return counts
