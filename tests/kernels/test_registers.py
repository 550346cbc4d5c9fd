"""The sums of a product stay in registers while its terms are added, with AVX2 and with AVX-512.

LLVM decides that, and its decisions depend on the order of a few instructions: a change which moved some of them once
kept six of 24 sums on the stack, and products of 257 ran at two thirds of their speed.  All results were right.
"""

import os
import platform
import re
import subprocess
import sys

import pytest
from test_bounds import AVX2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the machine code of x86"),
]

AVX512 = {"NUMBA_CPU_FEATURES": AVX2["NUMBA_CPU_FEATURES"] + ",+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd"}
PROCESSORS = [AVX2, *({"NUMBA_CPU_NAME": name} | AVX512 for name in ("skylake-avx512", "znver4"))]
ASSEMBLY = """
import numpy as np
from tinynet.kernels import matmul
for dtype in map(np.dtype, ("float32", "float64")):
    matmul.compile_for(dtype)
    for function in matmul._compiled[dtype]:
        print(function._library.get_asm_str())
"""


def innermost_loops(assembly):
    """[(function, instructions)] of each block that ends with a jump to its beginning."""
    found, function, label, block = [], "", "", []
    for line in map(str.strip, assembly.splitlines()):
        if name := re.match(r"([\w.$]+):", line):
            function, label, block = function if re.match(r"\.?L[A-Z]", name[1]) else name[1], name[1], []
        elif line and line[0] not in ".#":
            block.append(line)
            if re.match(rf"j\w+\s+{re.escape(label)}$", line):
                found.append((function, list(block)))
    return found


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: processor["NUMBA_CPU_NAME"])
def test_no_sum_of_a_product_goes_to_the_stack_between_two_terms(processor, tmp_path):
    environment = os.environ | processor | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ASSEMBLY], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    loops = [(name, block) for name, block in innermost_loops(done.stdout) if sum("fmadd" in i for i in block) >= 4]
    loops = [(name, block) for name, block in loops if "masked" not in name]
    for whole in ("panel_float_2x", "panel_double_2x", "tile_float", "tile_double"):
        assert any(whole in name for name, _ in loops)
    to_stack = re.compile(r"vmov\S+\s+%[xyz]mm\d+, .*\(%rsp\)")
    spilled = {name for name, block in loops if any(map(to_stack.match, block))}
    assert not spilled
