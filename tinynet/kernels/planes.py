"""Planes: a row of pixels (n, C) as C rows of n numbers, so that a vector has neighbouring pixels and not channels.

    deinterleave(pixels, s, C, count, planes, r, r_step, upto)

        planes.flat[r + c r_step + n] = pixels.flat[s + n C + c]      n < count; and zeros for count <= n < upto

    interleave(planes, s, s_step, pixels, r, C, count, end)           and back

An image of one or three channels, convolved by few filters, is worked on in planes (few_filters.py, which says what
that buys): three channels fill 3 of 16 lanes, and 16 pixels all of them.

LANES pixels of C <= R channels, for R = LANES / 4 or LANES / 2, are read as LANES lines of R numbers: those of the next
pixel are there too, and not stored.  As R rows of whole vectors (vectors.py), transposed, they are C planes and what
is not stored.  On the way back each line is overwritten by the next.

Rows are read and written in whole vectors: a plane has room for them.  What is in `pixels` from the last pixel to
`end` may be overwritten: what follows has to be written afterwards.
"""

from tinynet.kernels import memory
from tinynet.kernels.compile import helper
from tinynet.kernels.transpose import square
from tinynet.kernels.vectors import (
    lines,
    load,
    load_some,
    splat,
    store,
    store_rows,
    store_some,
    transposed,
    width,
)

_, load_quarters, store_quarters, load_quarter_rows = lines(4)
_, load_halves, store_halves, load_half_rows = lines(2)


@helper
def deinterleave(pixels, s, C, count, planes, r, r_step, upto):
    given, to, LANES = memory.piece(pixels, 0, pixels.size), memory.piece(planes, 0, planes.size), width(pixels)
    for n in range(0, count, LANES):
        first = s + n * C
        if C == 1:
            store(load_some(given, first, count - n, 0), to, r + n)
        elif C <= LANES // 4 and first + (LANES - 1) * C + LANES // 4 <= given.size:
            store_rows(transposed(load_quarters(given, first, C)), to, r + n, r_step, C)
        elif C <= LANES // 2 and first + (LANES - 1) * C + LANES // 2 <= given.size:
            store_rows(transposed(load_halves(given, first, C)), to, r + n, r_step, C)
        else:
            for c in range(0, C, LANES):
                square(given, first + c, C, to, r + c * r_step + n, r_step, count - n, C - c)
    for c in range(C):
        for n in range(count, upto, LANES):
            store_some(splat(to, 0), to, r + c * r_step + n, upto - n)


@helper
def interleave(planes, s, s_step, pixels, r, C, count, end):
    given, to, LANES = memory.piece(planes, 0, planes.size), memory.piece(pixels, 0, pixels.size), width(pixels)
    for n in range(0, count, LANES):
        first = r + n * C
        if C == 1:
            store_some(load(given, s + n), to, first, count - n)
        elif C <= LANES // 4 and first + (LANES - 1) * C + LANES // 4 <= end:
            store_quarters(transposed(load_quarter_rows(given, s + n, s_step, C)), to, first, C)
        elif C <= LANES // 2 and first + (LANES - 1) * C + LANES // 2 <= end:
            store_halves(transposed(load_half_rows(given, s + n, s_step, C)), to, first, C)
        else:
            for c in range(0, C, LANES):
                square(given, s + c * s_step + n, s_step, to, first + c, C, C - c, count - n)
