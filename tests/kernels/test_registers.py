"""The sums of a product stay in registers while its terms are added, on every kind of processor.

LLVM decides that, and its decisions hang on the order of a few instructions: a change which moved some of them once
kept six of 24 sums on the stack, and products of 257 ran at two thirds of their speed.  All results were right.
"""

import platform
import re
import subprocess
import sys

import pytest

AVX2 = "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+movbe,+f16c,+bmi,+bmi2,+lzcnt,+fma,+avx,+avx2"
AVX512 = AVX2 + ",+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd"
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
            function, label, block = function if name[1].startswith(".L") else name[1], name[1], []
        elif line and line[0] not in ".#":
            block.append(line)
            if re.match(rf"j\w+\s+{re.escape(label)}$", line):
                found.append((function, list(block)))
    return found


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the machine code of x86")
@pytest.mark.parametrize("processor", ["haswell", "skylake-avx512", "znver4"])
def test_no_sum_of_a_product_goes_to_the_stack_between_two_terms(processor, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CPU_NAME", processor)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", AVX2 if processor == "haswell" else AVX512)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", ASSEMBLY], capture_output=True, text=True, check=True)
    loops = [(name, block) for name, block in innermost_loops(done.stdout) if sum("fmadd" in i for i in block) >= 4]
    for whole in ("panel_float_2x", "panel_double_2x", "tile_float", "tile_double"):
        assert any(whole in name and "masked" not in name for name, _ in loops)
    to_stack = re.compile(r"vmov\S+\s+%[xyz]mm\d+, .*\(%rsp\)")
    spilled = {name for name, block in loops if "masked" not in name and any(map(to_stack.match, block))}
    assert not spilled
