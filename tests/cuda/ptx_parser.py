"""PTX text to basic blocks: what ptx_machine.py executes.

PTX is the assembly language that NVIDIA's compilers emit (the PTX ISA describes it).  A kernel is a list of statements

    $L__BB0_4:                                   a label
        @%p4 bra $L__BB0_6;                      `guard opcode operands`, the guard being a predicate, or its reverse
        ld.global.v2.f64 {%fd1, %fd2}, [%rd5+8];

A basic block is a run of instructions that is entered at its top alone and left at its end alone.  Where threads wait
for each other (at a barrier, a shuffle), a block starts.
"""

import re
from bisect import bisect
from dataclasses import dataclass, field

SIZES = {"pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "b32": 4, "u32": 4, "s32": 4}
SIZES |= {"f32": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8}
WAITING = re.compile(r"(bar|barrier|shfl|vote)\.")  # opcodes that wait for other threads
EXIT = -1
IGNORED = (".pragma", ".loc", ".file")  # statements that say nothing about what is computed
VARIABLE = re.compile(
    r"(?:\.(?:extern|common|visible|weak)\s+)*\.(?P<space>global|const|shared|local)\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<type>\w+)\s+(?P<name>[\w$]+)\s*(?:\[(?P<count>\d*)\])?\s*(?:=\s*\{?(?P<values>[^}]*)\}?)?$"
)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?$")
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.DOTALL)
ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")


class PtxError(Exception):
    """PTX that the machine does not know, or that does what a GPU would not forgive."""


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple
    guard: str | None  # "%p1", "!%p1", or None
    line: int

    def __str__(self):
        guard = f"@{self.guard} " if self.guard else ""
        return f"line {self.line}: {guard}{self.opcode} {', '.join(self.operands)}"


@dataclass
class Variable:
    space: str
    name: str
    type: str
    align: int
    count: int | None  # None: as many bytes of shared memory as the launch asks for
    values: list

    @property
    def size(self):
        return (self.count or 0) * SIZES[self.type]


@dataclass
class Block:
    """Instructions; then on to block `target` where `guard` holds (None: always), else to the next block.

    Block EXIT is the kernel's end.  Without a target all go on to the next block, if `through`.
    """

    body: list = field(default_factory=list)
    target: int | str | None = None  # a label until all blocks are known
    guard: str | None = None
    branch: Instruction | None = None
    through: bool = True  # whether there is a next block to fall through to


@dataclass
class Kernel:
    name: str
    parameters: list  # (name, offset, size)
    registers: dict  # name -> type
    variables: list
    blocks: list
    most_threads: int | None


def without_comments(text):
    """The text with comments as blanks, so that lines keep their numbers."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.DOTALL)


def split(operands):
    """At the commas that are in no braces or brackets."""
    parts = re.split(r",(?![^{\[]*[}\]])", operands)
    return tuple(" ".join(part.split()) for part in parts if part.strip())


def variable(statement, line):
    found = VARIABLE.match(" ".join(statement.split()))
    if not found or found["type"] not in SIZES:
        raise PtxError(f"line {line}: unknown statement: {statement}")
    count = found["count"]
    count = 1 if count is None else int(count) if count else None
    values = [int(value, 0) for value in (found["values"] or "").split(",") if value.strip()]
    return Variable(
        found["space"], found["name"], found["type"], int(found["align"] or SIZES[found["type"]]), count, values
    )


def parameters(text):
    result, offset = [], 0
    for statement in split(text):
        found = PARAMETER.match(statement)
        if not found:
            raise PtxError(f"unknown parameter: {statement}")
        align, kind, name, count = found.groups()
        size = SIZES[kind] * int(count or 1)
        offset = -(-offset // int(align or SIZES[kind])) * int(align or SIZES[kind])
        result.append((name, offset, size))
        offset += size
    return result


def registers(statement):
    """{name: type} of a statement such as `.reg .b32 %r<4>` (registers %r0 to %r3) or `.reg .b32 %low, %high`."""
    kind, names = REGISTERS.match(statement).groups()
    result = {}
    for name in split(names):
        many = re.match(r"(%\w+)<(\d+)>$", name)
        result |= {f"{many[1]}{n}": kind for n in range(int(many[2]))} if many else {name: kind}
    return result


def basic_blocks(statements):
    """Blocks of (label or Instruction) statements, with branches to the blocks' numbers."""
    blocks, labels = [Block()], {}

    def begin():
        if blocks[-1].body or not blocks[-1].through or blocks[-1].branch:
            blocks.append(Block())

    for statement in statements:
        if isinstance(statement, str):
            begin()
            if statement in labels:
                raise PtxError(f"label {statement} stands twice")
            labels[statement] = len(blocks) - 1
            continue
        if statement.opcode in ("bra", "bra.uni", "ret", "exit"):
            target = statement.operands[0] if statement.operands else EXIT
            blocks[-1].target, blocks[-1].guard, blocks[-1].branch = target, statement.guard, statement
            blocks[-1].through = statement.guard is not None
            blocks.append(Block())
        elif statement.guard:  # A block of its own, which threads without the guard jump over.
            begin()
            over = f"over line {statement.line}"
            reverse = statement.guard[1:] if statement.guard[0] == "!" else "!" + statement.guard
            blocks[-1].target, blocks[-1].guard = over, reverse
            blocks.append(Block([statement]))
            blocks.append(Block())
            labels[over] = len(blocks) - 1
        else:
            if WAITING.match(statement.opcode):
                begin()
            blocks[-1].body.append(statement)
    if not blocks[-1].body and blocks[-1].branch is None:
        blocks[-1].through = False  # nothing stands behind the last `ret`, or the kernel's end
    for block in blocks:
        if isinstance(block.target, str):
            if block.target not in labels:
                raise PtxError(f"{block.branch}: there is no such label")
            block.target = labels[block.target]
    if blocks[-1].through:
        raise PtxError("the kernel's last instruction is neither ret nor a branch")
    return blocks


def parse_kernel(text, start, line_of):
    """The kernel whose `.entry` matches at `start`: (Kernel, where it ends)."""
    name, arguments, directives = start.groups()
    found = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", directives)
    most = int(found[1]) * int(found[2] or 1) * int(found[3] or 1) if found else None
    position, depth = start.end(), 1
    statements, known, variables = [], {}, []
    token = re.compile(r"\s*(?:([{}])|([\w$]+)\s*:|([^;]*);)", re.DOTALL)
    while depth:
        found = token.match(text, position)
        if not found:
            raise PtxError(f"line {line_of(position)}: cannot be read")
        position = found.end()
        brace, label, statement = found.groups()
        if brace:
            depth += 1 if brace == "{" else -1
        elif label:
            statements.append(label)
        elif statement.startswith(".reg"):
            for register, kind in registers(statement).items():
                if known.setdefault(register, kind) != kind:
                    raise PtxError(f"line {line_of(found.start(3))}: {register} has two types")
        elif statement.startswith(IGNORED):
            pass
        elif statement.startswith("."):
            variables.append(variable(statement, line_of(found.start(3))))
        else:
            guard, opcode, operands = re.match(r"(?:@(!?%\w+)\s+)?(\S+)\s*(.*)$", statement, re.DOTALL).groups()
            statements.append(Instruction(opcode, split(operands), guard, line_of(found.start(3))))
    return Kernel(name, parameters(arguments), known, variables, basic_blocks(statements), most), position


def parse(ptx):
    """{name: Kernel} and the variables of a module."""
    text = without_comments(ptx)
    lines = [match.end() for match in re.finditer("\n", text)]

    def line_of(position):
        return bisect(lines, position) + 1

    kernels, rest, position = {}, [], 0
    while start := ENTRY.search(text, position):
        rest.append(text[position : start.start()])
        kernel, position = parse_kernel(text, start, line_of)
        kernels[kernel.name] = kernel
    rest.append(text[position:])
    outside = re.sub(r"\.(?:version|target|address_size)[^\n]*|\.visible\s*$", "", "\n".join(rest), flags=re.MULTILINE)
    variables = [variable(statement.strip(), "?") for statement in outside.split(";") if statement.strip()]
    return kernels, variables
