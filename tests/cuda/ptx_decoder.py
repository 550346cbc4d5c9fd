"""From parsed PTX to Python functions: each instruction becomes one closure that reads and writes registers."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
import ptx_threads as threads_of
from ptx_instructions import DTYPES, table
from ptx_memory import ALLOCATED, ATOMIC, LOCAL, READ, SHARED, WRITE, WRITTEN
from ptx_parser import PtxError, parse

SPECIAL = {f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"}
SPECIAL |= {"%laneid", "%dynamic_smem_size"}
REGISTER = re.compile(r"%[A-Za-z_][\w.]*")
# What may stand between `ld` or `st` and the type asks for an order, which `race` judges, or for caching.
ACCESS = re.compile(
    r"(?P<what>ld|st)(\.volatile|\.weak|\.relaxed\.(cta|gpu|sys))?(\.(?P<space>global|shared|local|const|param))?"
    r"(\.(ca|cg|cs|lu|cv|wb|wt))?(\.L1::(evict_\w+|no_allocate))?(\.L2::(64B|128B|256B))?"
    r"(\.v(?P<count>[24]))?\.(?P<type>[busf]\d+)$"
)
ATOM = re.compile(
    r"(?P<what>atom|red)(\.relaxed|\.acq_rel)?(\.(cta|gpu|sys))?(\.(?P<space>global|shared))?"
    r"\.(?P<operation>add|min|max|exch|cas|and|or|xor)\.(?P<type>[busf](32|64))$"
)
ATOMIC_OPERATIONS = {"add": np.add, "min": np.minimum, "max": np.maximum, "exch": lambda old, new: new}
ATOMIC_OPERATIONS |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@dataclass
class Code:
    """A basic block, ready to run."""

    steps: list  # functions of Registers
    lines: list  # and the instructions that they were made of, for messages
    waits: object  # which of some threads may go on: a function of (launch, threads), or None
    leave: object  # where they go: a function of (registers, threads)
    kept: list  # the registers that it writes and another block, or the next turn, reads
    opcodes: Counter


@dataclass
class Program:
    blocks: list
    globals: list  # the module's variables in global and constant memory
    addresses: dict  # of those in shared and local memory
    shared_size: int
    local_size: int
    most_threads: int | None
    places: list  # of the parameters: (name, offset, size)

    def parameters(self, args):
        """The bytes of the kernel's parameters: device arrays as Numba passes them, and numbers."""
        values = [value for x in args for value in (x.arguments() if hasattr(x, "arguments") else [x])]
        if len(values) != len(self.places):
            raise PtxError(f"the kernel has {len(self.places)} parameters, got {len(values)} values")
        result = np.zeros(sum(self.places[-1][1:]) if self.places else 0, "u1")
        for value, (name, offset, size) in zip(values, self.places, strict=True):
            if isinstance(value, int):
                data = (value % (1 << 8 * size)).to_bytes(size, "little")
            else:
                data = np.asarray(value).tobytes()
            if len(data) != size:
                raise PtxError(f"parameter {name} has {size} bytes, got {type(value).__name__}")
            result[offset : offset + size] = np.frombuffer(data, "u1")
        return result


def number(text, dtype):
    """A constant: 12, -1, 0x1F, or the bits of a float as 0f3F800000 and 0d3FF0000000000000."""
    if text[:2] in ("0f", "0F", "0d", "0D"):
        bits = np.array(int(text[2:], 16), "u4" if text[1] in "fF" else "u8")
        value = bits.view("f4" if text[1] in "fF" else "f8")
        if dtype.kind != "f" or value.dtype != dtype:
            raise PtxError(f"the constant {text} where {dtype} is needed")
        return value[()]
    if dtype.kind == "f":
        raise PtxError(f"the constant {text} where {dtype} is needed")
    if dtype.kind == "b":
        return np.bool_(int(text, 0))
    value = int(text.rstrip("U"), 0) % (1 << 8 * dtype.itemsize)
    return np.array(value, f"u{dtype.itemsize}").view(dtype)[()]


class Decoder:
    def __init__(self, kernel, variables, instructions):
        self.kernel, self.instructions = kernel, instructions
        self.globals = [v for v in variables if v.space in ("global", "const")]
        self.symbols = {v.name for v in variables + kernel.variables}
        self.places = {name: offset for name, offset, _ in kernel.parameters}

    # --- operands -------------------------------------------------------------------------------------------------

    def kind(self, name):
        """A register's dtype."""
        if name in SPECIAL:
            return np.dtype("u4")
        if name not in self.kernel.registers:
            raise PtxError(f"{name} is no register")
        return DTYPES[self.kernel.registers[name]]

    def reader(self, operand, dtype, narrowing=False):
        """A function of Registers: the operand's numbers.  `narrowing`: of a wider register, the lower bits."""
        if operand in self.symbols:
            return lambda registers: registers[operand].astype(dtype)
        if operand[0] != "%":
            value = number(operand, dtype)
            return lambda registers: value
        stored = self.kind(operand)
        if stored == dtype:
            return lambda registers: registers[operand]
        if narrowing and stored.itemsize > dtype.itemsize and stored.kind != "b":
            lower = np.dtype(f"u{dtype.itemsize}")
            return lambda registers: registers[operand].view(f"u{stored.itemsize}").astype(lower).view(dtype)
        if stored.itemsize != dtype.itemsize or "b" in (stored.kind, dtype.kind):
            raise PtxError(f"{operand} holds {stored}, and {dtype} is needed")
        return lambda registers: registers[operand].view(dtype)

    def writer(self, operand, dtype, widening=False):
        """A function of (Registers, numbers).  `widening`: a wider register takes them by zero or sign."""
        if operand == "_":
            return lambda registers, values: None
        stored = self.kind(operand)
        if operand in SPECIAL:
            raise PtxError(f"{operand} cannot be written")
        wider = widening and stored.itemsize > dtype.itemsize and dtype.kind in "iu" and stored.kind in "iu"
        if not wider and (stored.itemsize != dtype.itemsize or (stored.kind == "b") != (dtype.kind == "b")):
            raise PtxError(f"{operand} holds {stored}, and {dtype} is written")

        def write(registers, values):
            values = np.asarray(values)
            if values.dtype != dtype:
                raise AssertionError(f"an instruction gave {values.dtype} in place of {dtype}")
            if values.ndim == 0:
                values = np.full(registers.count, values)
            if wider:
                values = values.astype(f"{dtype.kind}{stored.itemsize}")
            registers[operand] = values.view(stored)

        return write

    def several(self, operand, make, *options):
        """The readers or writers of `{%a, %b}`, or of one register."""
        return [make(part.strip(), *options) for part in operand.strip("{}").split(",")]

    def address(self, operand):
        """A function of Registers: the addresses of `[%rd1+8]`."""
        found = re.match(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\w+))?\s*\]$", operand)
        if not found:
            raise PtxError(f"unknown address {operand}")
        base, offset = self.reader(found[1], np.dtype("u8")), number(found[2] or "0", np.dtype("u8"))
        return lambda registers: np.broadcast_to(base(registers) + offset, registers.count)

    # --- instructions -----------------------------------------------------------------------------------------------

    def step(self, instruction):
        opcode, operands = instruction.opcode, instruction.operands
        if opcode in ("mov.b32", "mov.b64") and "{" in "".join(operands):
            return self.packing(opcode, *operands)
        if opcode in self.instructions:
            result, kinds, function = self.instructions[opcode]
            cvt = opcode.startswith("cvt.")
            write = self.writer(operands[0], DTYPES[result], cvt)
            if len(operands) != len(kinds) + 1:
                raise PtxError(f"{len(kinds) + 1} operands are needed")
            read = [self.reader(x, DTYPES[kind], cvt) for x, kind in zip(operands[1:], kinds, strict=True)]
            if len(read) == 1:
                (a,) = read
                return lambda registers: write(registers, function(a(registers)))
            if len(read) == 2:
                a, b = read
                return lambda registers: write(registers, function(a(registers), b(registers)))
            return lambda registers: write(registers, function(*[x(registers) for x in read]))
        if found := re.match(r"cvta(\.to)?\.(global|shared|local)\.u64$", opcode):
            return self.cvta(*found.groups(), *operands)
        if found := ACCESS.match(opcode):
            return self.access(instruction, **found.groupdict())
        if found := ATOM.match(opcode):
            return self.atom(instruction, **found.groupdict())
        if opcode in ("bar.sync", "barrier.sync", "barrier.cta.sync"):
            return threads_of.pass_barrier
        if opcode == "bar.warp.sync":
            mask = self.reader(operands[0], np.dtype("u4"))
            return lambda registers: threads_of.pass_warp_barrier(registers, mask(registers))
        if found := re.match(r"shfl\.sync\.(up|down|bfly|idx)\.b32$", opcode):
            target, _, valid = operands[0].partition("|")
            write = self.writer(target, np.dtype("u4"))
            write_valid = self.writer(valid or "_", np.dtype(bool))
            read = [self.reader(x, np.dtype("u4")) for x in operands[1:]]

            def shuffle(registers):
                values, inside = threads_of.shuffle(registers, found[1], *[x(registers) for x in read])
                write(registers, values)
                write_valid(registers, inside)

            return shuffle
        if found := re.match(r"vote\.sync\.(all|any|uni|ballot)\.(pred|b32)$", opcode):
            write = self.writer(operands[0], DTYPES[found[2]])
            reverse, mask = operands[1][0] == "!", self.reader(operands[2], np.dtype("u4"))
            read = self.reader(operands[1].lstrip("!"), np.dtype(bool))
            return lambda registers: write(
                registers, threads_of.vote(registers, found[1], read(registers) ^ reverse, mask(registers))
            )
        raise PtxError(f"unknown instruction {opcode}")

    def waits(self, instruction):
        """Which threads may go on with an instruction that waits for others."""
        opcode, operands = instruction.opcode, instruction.operands
        if opcode in ("bar.sync", "barrier.sync", "barrier.cta.sync"):
            count = int(operands[1]) if len(operands) > 1 else None
            return lambda launch, threads: threads_of.all_of_block(launch, threads, count)
        if opcode.startswith(("bar.warp.sync", "shfl.sync.", "vote.sync.")):
            mask = self.reader(operands[-1], np.dtype("u4"))
            return lambda launch, threads: threads_of.all_of_mask(launch, threads, mask)
        return None  # unknown, as step() says

    def packing(self, opcode, target, source):
        """mov between a register and `{its lower half, its upper half}`."""
        whole = np.dtype(f"u{int(opcode[-2:]) // 8}")
        half = np.dtype(f"u{whole.itemsize // 2}")
        if "{" in target:
            write, read = self.several(target, self.writer, half), self.reader(source, whole)

            def unpack(registers):
                halves = np.broadcast_to(read(registers), registers.count).copy().view(half).reshape(-1, 2)
                for k in range(2):
                    write[k](registers, halves[:, k].copy())

            return unpack
        write, read = self.writer(target, whole), self.several(source, self.reader, half)

        def pack(registers):
            halves = [np.broadcast_to(x(registers), registers.count) for x in read]
            write(registers, np.stack(halves, axis=1).view(whole)[:, 0].copy())

        return pack

    def cvta(self, to, space, target, source):
        """Addresses of one kind of memory to generic ones, or `.to` back.  Those of global memory are the same."""
        start = np.uint64({"global": 0, "shared": SHARED, "local": LOCAL}[space])
        write, read = self.writer(target, np.dtype("u8")), self.reader(source, np.dtype("u8"))
        if to:
            return lambda registers: write(registers, read(registers) - start)
        return lambda registers: write(registers, read(registers) + start)

    def access(self, instruction, *, what, space, type, count):
        dtype, count = DTYPES[type], int(count or 1)
        size = dtype.itemsize
        values, address = instruction.operands if what == "ld" else reversed(instruction.operands)
        if what == "ld":
            write = self.several(values, self.writer, dtype, True)
        else:
            read = self.several(values, self.reader, dtype, True)
        if len(write if what == "ld" else read) != count:
            raise PtxError(f"{count} registers are needed")
        if space == "param":
            name, _, offset = address.strip("[]").partition("+")
            start = self.places[name.strip()] + int(offset or 0)

            def parameter(registers):
                parts = registers.launch.parameters[start : start + count * size].copy().view(dtype)
                for k in range(count):
                    write[k](registers, parts[k])

            return parameter
        addresses_of, line = self.address(address), instruction.line
        space = {"const": "global"}.get(space, space)

        def load(registers):
            memory, offsets = threads_of.located(
                registers, space, addresses_of(registers), count * size, WRITTEN, READ, line
            )
            for k in range(count):
                write[k](registers, memory.load(offsets + k * size, dtype))

        def store(registers):
            memory, offsets = threads_of.located(
                registers, space, addresses_of(registers), count * size, ALLOCATED, WRITE, line
            )
            for k in range(count):
                memory.store(offsets + k * size, np.broadcast_to(read[k](registers), registers.count))

        return load if what == "ld" else store

    def atom(self, instruction, *, what, space, operation, type):
        dtype, operands = DTYPES[type], list(instruction.operands)
        write = self.writer(operands.pop(0) if what == "atom" else "_", dtype)
        addresses_of = self.address(operands[0])
        read = [self.reader(x, dtype) for x in operands[1:]]

        def change(registers):
            memory, offsets = threads_of.located(
                registers, space, addresses_of(registers), dtype.itemsize, WRITTEN, ATOMIC, instruction.line
            )
            given = [np.broadcast_to(x(registers), registers.count) for x in read]
            before = np.empty(registers.count, dtype)
            for k in range(registers.count):  # one after the other; which order, a GPU does not promise
                one = offsets[k : k + 1]
                before[k] = memory.load(one, dtype)[0]
                if operation == "cas":
                    new = given[1][k] if before[k] == given[0][k] else before[k]
                else:
                    new = ATOMIC_OPERATIONS[operation](before[k], given[0][k])
                memory.store(one, np.array([new], dtype))
            write(registers, before)

        return change

    # --- blocks -----------------------------------------------------------------------------------------------------

    def block(self, number, block, exposed):
        steps = []
        for instruction in block.body:
            try:
                steps.append(self.step(instruction))
            except (PtxError, KeyError, ValueError, IndexError) as error:
                raise PtxError(f"{instruction}: {error}") from None
        following, target = number + 1, block.target
        if target is None:
            leave = lambda registers, threads: [(following, threads)]  # noqa: E731
        elif block.guard is None:
            leave = lambda registers, threads: [(target, threads)]  # noqa: E731
        else:
            reverse, guard = block.guard[0] == "!", self.reader(block.guard.lstrip("!"), np.dtype(bool))

            def leave(registers, threads):
                taken = guard(registers) ^ reverse
                return [(target, threads[taken]), (following, threads[~taken])]

        opcodes = Counter(instruction.opcode for instruction in block.body)
        if block.branch is not None:
            opcodes[block.branch.opcode] += 1
        waits = self.waits(block.body[0]) if block.body else None
        kept = sorted(written_by(block) & exposed)
        return Code(steps, [str(instruction) for instruction in block.body], waits, leave, kept, opcodes)


def reads_and_writes(instruction):
    """The registers that an instruction reads, and those that it writes."""
    stores = instruction.opcode.startswith(("st.", "red.", "bar.", "barrier."))
    targets = () if stores else instruction.operands[:1]
    sources = instruction.operands[len(targets) :]
    return set(REGISTER.findall(" ".join(sources))), set(REGISTER.findall(" ".join(targets)))


def written_by(block):
    return set().union(*[reads_and_writes(instruction)[1] for instruction in block.body])


def exposed_by(block):
    """The registers that a block reads before it has written them."""
    result, written = set(), set()
    for instruction in block.body:
        reads, writes = reads_and_writes(instruction)
        result |= reads - written
        written |= writes
    return result | ({block.guard.lstrip("!")} - written if block.guard else set())


@cache
def modules(ptx):
    return parse(ptx)


@cache
def decode(ptx, name, seed):
    kernels, variables = modules(ptx)
    if name not in kernels:
        raise PtxError(f"there is no kernel {name}, only {', '.join(kernels)}")
    kernel = kernels[name]
    decoder = Decoder(kernel, variables, table(seed))
    exposed = set().union(*[exposed_by(block) for block in kernel.blocks])
    addresses, sizes, dynamic = {}, {"shared": 0, "local": 0}, []
    for variable in variables + kernel.variables:
        if variable.space in sizes and variable.count is not None:
            start = -(-sizes[variable.space] // variable.align) * variable.align
            addresses[variable.name], sizes[variable.space] = start, start + variable.size
        elif variable.count is None:
            dynamic.append(variable.name)
    sizes["shared"] = -(-sizes["shared"] // 16) * 16
    addresses |= dict.fromkeys(dynamic, sizes["shared"])  # all at one place, behind what has a size
    return Program(
        [decoder.block(number, block, exposed) for number, block in enumerate(kernel.blocks)],
        decoder.globals,
        addresses,
        sizes["shared"],
        sizes["local"],
        kernel.most_threads,
        kernel.parameters,
    )
