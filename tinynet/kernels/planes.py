"""Planes: a row of pixels (n, C) as C rows of n numbers, so that a vector has neighbouring pixels and not channels.

    deinterleave(pixels, s, C, count, planes, r, r_step, upto)

        planes.flat[r + c r_step + n] = pixels.flat[s + n C + c]      n < count; and zeros for count <= n < upto

    interleave(planes, s, s_step, pixels, r, C, count, end)           and back

Three channels fill 3 of 16 lanes, and 16 pixels all of them.  W pixels of C <= R channels, for R = W / 4 or W / 2, are
read as W lines of R numbers: those of the next pixel are there too, and not stored.  Vector v holds lines v, v + R,
v + 2 R, ... end to end, and then lg R of the rounds in transpose.py make C planes of R vectors.  On the way back each
line is written over by the next.  (32, 3) takes 11 nanoseconds so, and (28, 6) takes 14.

Rows are read and written in whole vectors: a plane has room for them.  What is in `pixels` from the last pixel to
`end` may be overwritten: what follows has to be written afterwards.
"""

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinynet.kernels import compile, memory
from tinynet.kernels.compile import helper
from tinynet.kernels.transpose import shuffled, square, swap_quarters
from tinynet.kernels.vectors import I64, alignment, lanes_of, load, load_some, splat, store, store_some, width

_i64 = types.int64


def short(array, part):
    """R, how many numbers of each line are read or written: W / part."""
    return max(1, lanes_of(array.dtype) // part)


def shapes(context, array, part):
    """W and R, and the LLVM types of a line of R numbers and of a vector."""
    scalar = context.get_data_type(array.dtype)
    side, R = lanes_of(array.dtype), short(array, part)
    return side, R, ir.VectorType(scalar, R), ir.VectorType(scalar, side)


def joined(builder, pieces):
    """Vectors of one length, end to end."""
    while len(pieces) > 1:
        both = range(2 * pieces[0].type.count)
        pieces = [shuffled(builder, *pair, both) for pair in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0]


def _to_planes_in_registers(part):
    @intrinsic
    def to_planes(typing_context, pixels, s, C, planes, r, r_step):
        """planes[r + c r_step + n] = pixels[s + n C + c] for n < W, c < C <= R; it reads W lines of R."""

        def codegen(context, builder, signature, args):
            side, R, line, vector = shapes(context, pixels, part)
            first, align = context.make_array(signature.args[0])(context, builder, args[0]).data, alignment(vector)
            lines = []
            for n in range(side):
                place = builder.add(args[1], builder.mul(I64(n), args[2]))
                lines.append(builder.load(_pointer(builder, first, place, line), align=align.constant))
            vectors = [joined(builder, lines[v::R]) for v in range(R)]
            swap_quarters(builder, vectors)
            to = context.make_array(signature.args[3])(context, builder, args[3]).data
            for c, plane in enumerate(vectors):
                with builder.if_then(builder.icmp_signed("<", I64(c), args[2])):
                    place = builder.add(args[4], builder.mul(I64(c), args[5]))
                    builder.store(plane, _pointer(builder, to, place, vector), align=align.constant)
            return context.get_dummy_value()

        return types.void(pixels, _i64, _i64, planes, _i64, _i64), codegen

    return to_planes


def _from_planes_in_registers(part):
    @intrinsic
    def from_planes(typing_context, planes, s, s_step, pixels, r, C):
        """pixels[r + n C + c] = planes[s + c s_step + n] for n < W, c < C <= R; it writes W lines of R."""

        def codegen(context, builder, signature, args):
            side, R, line, vector = shapes(context, planes, part)
            first, align = context.make_array(signature.args[0])(context, builder, args[0]).data, alignment(vector)
            last, vectors = builder.sub(args[5], I64(1)), []
            for c in range(R):
                plane = builder.select(builder.icmp_signed("<", I64(c), last), I64(c), last)
                place = builder.add(args[1], builder.mul(plane, args[2]))
                vectors.append(builder.load(_pointer(builder, first, place, vector), align=align.constant))
            swap_quarters(builder, vectors)
            to = context.make_array(signature.args[3])(context, builder, args[3]).data
            for n in range(side):
                piece = shuffled(builder, vectors[n % R], vectors[n % R], range(n // R * R, n // R * R + R))
                place = builder.add(args[4], builder.mul(I64(n), args[5]))
                builder.store(piece, _pointer(builder, to, place, line), align=align.constant)
            return context.get_dummy_value()

        return types.void(planes, _i64, _i64, pixels, _i64, _i64), codegen

    return from_planes


def _pointer(builder, first, place, vector):
    return builder.bitcast(builder.gep(first, [place]), vector.as_pointer())


def _to_planes_in_python(part):
    def to_planes(pixels, s, C, planes, r, r_step):
        for c in range(C):
            for n in range(width(pixels)):
                planes[r + c * r_step + n] = pixels[s + n * C + c]

    return to_planes


def _from_planes_in_python(part):
    def from_planes(planes, s, s_step, pixels, r, C):
        for n in range(width(pixels)):
            for c in range(C):
                pixels[r + n * C + c] = planes[s + c * s_step + n]

    return from_planes


def _to_planes_within(part):
    in_registers = _to_planes_in_registers(part)

    def to_planes(pixels, s, C, planes, r, r_step):
        W = width(pixels)
        memory.within(pixels, s, (W - 1) * C, max(1, W // part) - 1, 0)
        memory.within(planes, r, (C - 1) * r_step, W - 1, 0)
        in_registers(pixels, s, C, planes, r, r_step)

    return helper(to_planes)


def _from_planes_within(part):
    in_registers = _from_planes_in_registers(part)

    def from_planes(planes, s, s_step, pixels, r, C):
        W = width(pixels)
        memory.within(planes, s, (C - 1) * s_step, W - 1, 0)
        memory.within(pixels, r, (W - 1) * C, max(1, W // part) - 1, 0)
        in_registers(planes, s, s_step, pixels, r, C)

    return helper(from_planes)


if numba.config.DISABLE_JIT:
    made = _to_planes_in_python, _from_planes_in_python
elif compile.CHECKED:
    made = _to_planes_within, _from_planes_within
else:
    made = _to_planes_in_registers, _from_planes_in_registers
to_planes_by_quarters, from_planes_by_quarters = (make(4) for make in made)
to_planes_by_halves, from_planes_by_halves = (make(2) for make in made)


@helper
def deinterleave(pixels, s, C, count, planes, r, r_step, upto):
    given, to, W = memory.piece(pixels, 0, pixels.size), memory.piece(planes, 0, planes.size), width(pixels)
    for n in range(0, count, W):
        first = s + n * C
        if C == 1:
            store(load_some(given, first, count - n, 0), to, r + n)
        elif C <= W // 4 and first + (W - 1) * C + W // 4 <= given.size:
            to_planes_by_quarters(given, first, C, to, r + n, r_step)
        elif C <= W // 2 and first + (W - 1) * C + W // 2 <= given.size:
            to_planes_by_halves(given, first, C, to, r + n, r_step)
        else:
            for c in range(0, C, W):
                square(given, first + c, C, to, r + c * r_step + n, r_step, count - n, C - c)
    for c in range(C):
        for n in range(count, upto, W):
            store_some(splat(to, 0), to, r + c * r_step + n, upto - n)


@helper
def interleave(planes, s, s_step, pixels, r, C, count, end):
    given, to, W = memory.piece(planes, 0, planes.size), memory.piece(pixels, 0, pixels.size), width(pixels)
    for n in range(0, count, W):
        first = r + n * C
        if C == 1:
            store_some(load(given, s + n), to, first, count - n)
        elif C <= W // 4 and first + (W - 1) * C + W // 4 <= end:
            from_planes_by_quarters(given, s + n, s_step, to, first, C)
        elif C <= W // 2 and first + (W - 1) * C + W // 2 <= end:
            from_planes_by_halves(given, s + n, s_step, to, first, C)
        else:
            for c in range(0, C, W):
                square(given, s + c * s_step + n, s_step, to, first + c, C, C - c, count - n)
