"""transpose: a matrix with its axes swapped, in squares that stay in registers.

    transpose(source, s0, s_step, result, r0, r_step, rows, columns)

    result[j,i] = source[i,j]          i < rows, j < columns
    source[i,j] is source.flat[s0 + i s_step + j]        result[j,i] is result.flat[r0 + j r_step + i]

The tile wants the axis that it doesn't sum over contiguous, so a layer's input gradient needs the weights with their
axes swapped; or, where they are large, its own (turned.py).  Number by number that takes 1.2 ns an element: as long as
the product itself with 64 samples.

A square of LANES x LANES numbers is LANES vectors.  Swapping its quarters, then the quarters of each quarter, and so on
down to single numbers transposes it: lg LANES rounds, each of LANES shuffles of two vectors (Eklundh 1972; vectors.py
has the last rounds in another form).  At the right and at the bottom, what lies outside is masked: it is neither read
nor written.

    square(source, s, s_step, result, r, r_step, rows, columns)       the first LANES of rows and columns
    square_to_vectors                                                 result has room for a whole square

A vector that was written under a mask can't be read again before it has reached the cache: hence that one.
"""

from tinynet.kernels import memory
from tinynet.kernels.compile import helper, kernel
from tinynet.kernels.vectors import load_rows_some, store_rows, store_rows_some, transposed, width


@helper
def square(source, s, s_step, result, r, r_step, rows, columns):
    lines = load_rows_some(source, s, s_step, rows, columns)
    store_rows_some(transposed(lines), result, r, r_step, columns, rows)


@helper
def square_to_vectors(source, s, s_step, result, r, r_step, rows, columns):
    lines = load_rows_some(source, s, s_step, rows, columns)
    store_rows(transposed(lines), result, r, r_step, width(result))


@kernel()
def transpose(source, s0, s_step, result, r0, r_step, rows, columns):
    given, to = memory.piece(source, 0, source.size), memory.piece(result, 0, result.size)
    LANES = width(source)
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            s, r = s0 + i * s_step + j, r0 + j * r_step + i
            square(given, s, s_step, to, r, r_step, rows - i, columns - j)
