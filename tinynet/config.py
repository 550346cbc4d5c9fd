"""What tinynet runs on, and on how many threads."""

import ctypes
import platform
import sys
from pathlib import Path
from typing import Literal, overload

import llvmlite
import llvmlite.binding
import numba
import numpy as np

from tinynet.kernels.caches import cache_size
from tinynet.kernels.compile import own_threads
from tinynet.kernels.tile import TILE
from tinynet.notebook import table


def set_num_threads(n: int) -> None:
    """Let kernels that are called from this thread of Python use n threads, from 1 to the number of CPUs.

    Results do not depend on it, to the bit.  The environment variable NUMBA_NUM_THREADS sets the most there can be.

    >>> before = tn.get_num_threads()
    >>> tn.set_num_threads(1)
    >>> tn.get_num_threads()
    1
    >>> tn.set_num_threads(before)
    """
    most = numba.config.NUMBA_NUM_THREADS
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"set_num_threads: the number of threads must be a whole number, got {n!r}")
    if not 1 <= n <= most:
        raise ValueError(f"set_num_threads: the number of threads must be from 1 to {most}, got {n}")
    numba.set_num_threads(int(n))


def get_num_threads() -> int:
    """How many threads kernels use.

    >>> tn.get_num_threads() >= 1
    True
    """
    return numba.get_num_threads()


class Config(dict[str, str]):
    """What show_config found, a dict of texts; str() and repr() of it are a line for each."""

    def __repr__(self):
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.items())

    def _repr_html_(self):
        return table("", ("", ""), self.items(), words=2)


@overload
def show_config(mode: None = None) -> Config: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, str]: ...
@overload
def show_config(mode: Literal["print"]) -> None: ...
def show_config(mode=None):
    """What a report of a bug or of a speed should say, as a dict that shows itself as text: print(tn.show_config()).

    Versions, processor, vector width and tile of the SIMD kernels, caches, threads, and what there is of CUDA.
    mode="print" prints it and returns None; mode="dict" returns a dict that is nothing else.

    >>> tn.show_config()["numpy"] == np.__version__
    True
    """
    if mode not in (None, "print", "dict"):
        raise ValueError(f'show_config: mode must be "print" or "dict", or left out, got {mode!r}')
    lanes = {dtype: shape[2] for dtype, shape in TILE.items()}
    config = Config(
        {
            "tinynet": sys.modules[__package__].__version__,
            "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
            "numpy": np.__version__,
            "numba": f"{numba.__version__} (llvmlite {llvmlite.__version__})",
            "processor": f"{_processor()} ({llvmlite.binding.get_host_cpu_name()})",
            "vectors": f"{8 * max(np.dtype(dtype).itemsize * n for dtype, n in lanes.items())} bits",
            "tile": ", ".join(
                f"{np.dtype(dtype).name} {rows} rows x {vectors} vectors of {n}"
                for dtype, (rows, vectors, n) in TILE.items()
            ),
            "caches": ", ".join(f"L{level} {cache_size(level) // 1024} KB" for level in (1, 2)) + " a core",
            "compiled": "no, plain Python (NUMBA_DISABLE_JIT)" if numba.config.DISABLE_JIT else "yes",
            "threads": f"{get_num_threads()} of {numba.config.NUMBA_NUM_THREADS}",
            "threading layer": _threading_layer(),
            "cuda": _cuda(),
        }
    )
    if mode == "dict":
        return dict(config)
    if mode == "print":
        print(config)
        return None
    return config


def _processor():
    """The processor's name as its maker writes it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # only Linux has that file
    return platform.processor() or platform.machine()


def _threading_layer():
    if own_threads().usable():
        return own_threads().describe()
    try:
        return numba.threading_layer()  # known once threads run, and get_num_threads has started them
    except ValueError:
        return "none has started"


def _cuda():
    """Whether numba-cuda and the driver are there.  Neither is started: a process that did could no longer fork."""
    from importlib import metadata  # slow to import, and needed here alone

    try:
        package = f"numba-cuda {metadata.version('numba-cuda')}"
    except metadata.PackageNotFoundError:
        package = "numba-cuda is not installed"
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        driver = "driver found"
    except OSError:
        driver = "no driver"
    return f"{package}, {driver}"
