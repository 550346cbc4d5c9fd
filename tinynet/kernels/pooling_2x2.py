"""2 x 2 maximum pooling, the window that nearly everybody uses: vectors that read on into the next pixel.

    y[i,j,c] = max of x[s i + a, r j + b, c] over a, b in {0, 1}        winner[i,j,c] = 2 a + b        stride (s, r)

pooling.py runs over the channels of one pixel, and six of them fill no vector: a window takes as long as its numbers
one by one.  Here a line of R numbers starts at the first channel and simply reads on into the next pixel; R is a
quarter of a vector, a half, or all of it.  What is written beyond C, the next window then writes over with the right
numbers.  A vector has the lines of 4, 2 or 1 windows.  At the end of what a thread owns, where a line would leave it,
it goes number by number.

The backward pass, for windows side by side (stride 2), writes the pixels above and below in two goes, in the order of
their rows, for the same reason:

    dx[2 i + a, 2 j + b, c] = dy[i,j,c] where winner[i,j,c] = 2 a + b, else 0

(64, 28, 28, 6) takes 18 microseconds instead of 30, and 26 back instead of 36; (64, 10, 10, 16) 8 and 12 instead of 14
and 16.
"""

import numba
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from tinynet.kernels import compile, memory
from tinynet.kernels.compile import band_count, helper, kernel, sized_kernel
from tinynet.kernels.planes import joined, shapes, short
from tinynet.kernels.transpose import shuffled
from tinynet.kernels.vectors import I64, alignment, emit_splat, width

THREADS_FROM = 32768  # numbers in the images from which two threads beat one
_i64 = types.int64


@helper
def beats(value, best):
    return (value > best) | (value != value)


# --- the windows of one vector ------------------------------------------------------------------------------


def _max_in_python(part):
    def max_of_windows(x, at, right, down, step, y, winner, to, C):
        for window in range(width(x) // short(x, part)):
            for c in range(short(x, part)):
                first = at + window * step + c
                best, k = x[first], 0
                for number, place in enumerate((first + right, first + down, first + down + right), 1):
                    if beats(x[place], best):
                        best, k = x[place], number
                y[to + window * C + c], winner[to + window * C + c] = best, k

    return max_of_windows


def _give_in_python(part):
    def give_row(dy, winner, at, C, number, dx, to, step):
        for window in range(width(dy) // short(dy, part)):
            for b in range(1 if part == 1 else 2):
                for c in range(short(dy, part)):
                    place = at + window * C + c
                    dx[to + window * step + b * C + c] = dy[place] if winner[place] == number + b else 0

    return give_row


def _place(context, builder, kind, array, place, lanes):
    """A pointer to so many numbers from `place` on."""
    first = builder.gep(context.make_array(kind)(context, builder, array).data, [place])
    return builder.bitcast(first, ir.VectorType(first.type.pointee, lanes).as_pointer())


def _max_in_registers(part):
    @intrinsic
    def max_of_windows(typing_context, x, at, right, down, step, y, winner, to, C):
        """y and winner of the windows side by side: the maximum of x at four places, and which of them has it."""

        def codegen(context, builder, signature, args):
            x, at, right, down, step, y, winner, to, C = args
            side, R, _, vector = shapes(context, signature.args[0], part)
            size, low = alignment(vector).constant, builder.add(at, down)
            bytes_of = ir.VectorType(ir.IntType(8), side)
            values = []
            for place in (at, builder.add(at, right), low, builder.add(low, right)):
                lines = []
                for window in range(side // R):
                    first = builder.add(place, builder.mul(I64(window), step))
                    lines.append(builder.load(_place(context, builder, signature.args[0], x, first, R), align=size))
                values.append(joined(builder, lines))
            best, k = values[0], ir.Constant(bytes_of, [0] * side)
            for number, value in enumerate(values[1:], 1):
                won = builder.or_(builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value))
                best = builder.select(won, value, best)
                k = builder.select(won, ir.Constant(bytes_of, [number] * side), k)
            for window in range(side // R):
                lanes, first = range(window * R, window * R + R), builder.add(to, builder.mul(I64(window), C))
                line, numbers = shuffled(builder, best, best, lanes), shuffled(builder, k, k, lanes)
                builder.store(line, _place(context, builder, signature.args[5], y, first, R), align=size)
                builder.store(numbers, _place(context, builder, signature.args[6], winner, first, R), align=1)
            return context.get_dummy_value()

        return types.void(x, _i64, _i64, _i64, _i64, y, winner, _i64, _i64), codegen

    return max_of_windows


def _give_in_registers(part):
    @intrinsic
    def give_row(typing_context, dy, winner, at, C, number, dx, to, step):
        """dx of a pixel of each window: dy, where the winner is `number`; and of the next pixel, if part > 1."""

        def codegen(context, builder, signature, args):
            dy, winner, at, C, number, dx, to, step = args
            side, R, _, vector = shapes(context, signature.args[0], part)
            size, zero = alignment(vector).constant, ir.Constant(vector, [0.0] * side)
            lines, numbers = [], []
            for window in range(side // R):
                first = builder.add(at, builder.mul(I64(window), C))
                lines.append(builder.load(_place(context, builder, signature.args[0], dy, first, R), align=size))
                numbers.append(builder.load(_place(context, builder, signature.args[1], winner, first, R), align=1))
            given, won = joined(builder, lines), joined(builder, numbers)
            pixels = []
            for b in range(1 if part == 1 else 2):
                this = emit_splat(builder, builder.trunc(builder.add(number, I64(b)), ir.IntType(8)), side)
                pixels.append(builder.select(builder.icmp_unsigned("==", won, this), given, zero))
            for window in range(side // R):
                first = builder.add(to, builder.mul(I64(window), step))
                for pixel in pixels:
                    line = shuffled(builder, pixel, pixel, range(window * R, window * R + R))
                    builder.store(line, _place(context, builder, signature.args[5], dx, first, R), align=size)
                    first = builder.add(first, C)
            return context.get_dummy_value()

        return types.void(dy, winner, _i64, _i64, _i64, dx, _i64, _i64), codegen

    return give_row


def _max_within(part):
    in_registers = _max_in_registers(part)

    def max_of_windows(x, at, right, down, step, y, winner, to, C):
        R = max(1, width(x) // part)
        last = width(x) // R - 1
        memory.within(x, at, right, down, last * step + R - 1)
        memory.within(y, to, last * C, R - 1, 0)
        memory.within(winner, to, last * C, R - 1, 0)
        in_registers(x, at, right, down, step, y, winner, to, C)

    return helper(max_of_windows)


def _give_within(part):
    in_registers = _give_in_registers(part)

    def give_row(dy, winner, at, C, number, dx, to, step):
        R = max(1, width(dy) // part)
        last = width(dy) // R - 1
        memory.within(dy, at, last * C, R - 1, 0)
        memory.within(winner, at, last * C, R - 1, 0)
        memory.within(dx, to, last * step, C if part > 1 else 0, R - 1)
        in_registers(dy, winner, at, C, number, dx, to, step)

    return helper(give_row)


if numba.config.DISABLE_JIT:
    made = _max_in_python, _give_in_python
elif compile.CHECKED:
    made = _max_within, _give_within
else:
    made = _max_in_registers, _give_in_registers
max_of_four, max_of_two, max_of_one = (made[0](part) for part in (4, 2, 1))
give_row_of_four, give_row_of_two, give_row_of_one = (made[1](part) for part in (4, 2, 1))


# --- all windows --------------------------------------------------------------------------------------------


@helper
def windows_of_a_vector(x, C):
    """How many windows share a vector, and how long their lines are: for more channels than lanes, several vectors."""
    L = width(x)
    if C <= L // 4:
        return 4, L // 4
    return (2, L // 2) if C <= L // 2 else (1, (C + L - 1) // L * L)


@helper
def groups_within(groups, first, step, room):
    """How many of so many groups that begin at first, first + step, ... begin no later than at `room`."""
    return max(0, min(groups, (room - first) // step + 1))


@kernel()
def max_of_rows(x, n, i0, i1, stride, y, winner):
    """Rows i0 to i1 of y and winner of image n."""
    _, H, W, C = x.shape
    _, P, Q, _ = y.shape
    (s, r), end, size = stride, (n * P + i1) * Q * C, x.size
    x, y, winner = memory.piece(x, 0, size), memory.piece(y, 0, y.size), memory.piece(winner, 0, y.size)
    windows, line = windows_of_a_vector(x, C)
    for i in range(i0, i1):
        at, to = (n * H + i * s) * W * C, (n * P + i) * Q * C
        # What a group writes must stay in these rows, and what it reads in x.  The last may go on beyond Q: the next
        # row is written afterwards.
        groups = groups_within((Q + windows - 1) // windows, to, windows * C, end - (windows - 1) * C - line)
        groups = groups_within(groups, at, windows * r * C, size - ((windows - 1) * r + W + 1) * C - line)
        for _ in range(groups):
            if windows == 4:
                max_of_four(x, at, C, W * C, r * C, y, winner, to, C)
            elif windows == 2:
                max_of_two(x, at, C, W * C, r * C, y, winner, to, C)
            else:
                for c in range(0, C, width(x)):
                    max_of_one(x, at + c, C, W * C, r * C, y, winner, to + c, C)
            at, to = at + windows * r * C, to + windows * C
        for _ in range(groups * windows, Q):
            for c in range(C):
                y[to + c], winner[to + c] = x[at + c], 0
                for k in range(1, 4):
                    value = x[at + (k // 2 * W + k % 2) * C + c]
                    if beats(value, y[to + c]):
                        y[to + c], winner[to + c] = value, k
            at, to = at + r * C, to + C


@sized_kernel(THREADS_FROM, of=0)
def max_pool_2x2_forward(x, stride, y, winner):
    N, P = y.shape[0], y.shape[1]
    bands = band_count(N, P, 0)
    for task in prange(N * bands):
        n, band = task // bands, task % bands
        max_of_rows(x, n, band * P // bands, (band + 1) * P // bands, stride, y, winner)


@kernel()
def give_rows(dy, winner, n, i0, i1, dx):
    """The rows of dx of image n that rows i0 to i1 of dy came from, and with the last of them all that follow."""
    _, P, Q, C = dy.shape
    _, H, W, _ = dx.shape
    zero, h1, size = dy.dtype.type(0), H if i1 == P else 2 * i1, dy.size
    end = (n * H + h1) * W * C
    dy, winner, dx = memory.piece(dy, 0, size), memory.piece(winner, 0, size), memory.piece(dx, 0, dx.size)
    windows, line = windows_of_a_vector(dy, C)
    for i in range(i0, i1):
        for a in range(2):
            row = (n * H + 2 * i + a) * W * C
            at, to = (n * P + i) * Q * C, row
            groups = groups_within((Q + windows - 1) // windows, at, windows * C, size - (windows - 1) * C - line)
            groups = groups_within(groups, to, 2 * windows * C, end - (2 * windows - 1) * C - line)
            for _ in range(groups):
                if windows == 4:
                    give_row_of_four(dy, winner, at, C, 2 * a, dx, to, 2 * C)
                elif windows == 2:
                    give_row_of_two(dy, winner, at, C, 2 * a, dx, to, 2 * C)
                else:
                    for b in range(2):
                        for c in range(0, C, width(dy)):
                            give_row_of_one(dy, winner, at + c, C, 2 * a + b, dx, to + b * C + c, 2 * C)
                at, to = at + windows * C, to + 2 * windows * C
            for _ in range(groups * windows, Q):
                for b in range(2):
                    for c in range(C):
                        dx[to + b * C + c] = dy[at + c] if winner[at + c] == 2 * a + b else zero
                at, to = at + C, to + 2 * C
            for m in range(row + 2 * Q * C, row + W * C):
                dx[m] = zero
    for m in range((n * H + 2 * i1) * W * C, end):
        dx[m] = zero


@sized_kernel(THREADS_FROM)
def max_pool_2x2_backward(dy, winner, dx):
    N, P = dy.shape[0], dy.shape[1]
    bands = band_count(N, P, 0)
    for task in prange(N * bands):
        n, band = task // bands, task % bands
        give_rows(dy, winner, n, band * P // bands, (band + 1) * P // bands, dx)
