"""How large this machine's caches are, as it reports them itself."""

import ctypes
import platform
import sys
from pathlib import Path

L1, L2 = 32 * 1024, 256 * 1024  # bytes of a core's own, where the machine does not say: a small laptop's


def _linux(level):
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        kind, size = (index / "type").read_text().strip(), (index / "size").read_text().strip()
        if (index / "level").read_text().strip() == str(level) and kind in ("Data", "Unified"):
            return int(size[:-1]) * {"K": 2**10, "M": 2**20}[size[-1]]
    return None


def _macos(level):
    """Of the fast cores, where it has two kinds; of ARM's, some share a cache of level 2."""
    library = ctypes.CDLL(None)

    def number(name):
        value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
        failed = library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
        return None if failed else value.value

    name = {1: "l1dcachesize", 2: "l2cachesize"}[level]
    cores = (number("hw.perflevel0.cpusperl2") or 1) if level == 2 and platform.machine() == "arm64" else 1
    size = number(f"hw.perflevel0.{name}")
    return size // cores if size else number(f"hw.{name}")


def cache_size(level: int) -> int:
    """The bytes of a core's data cache of level 1 or 2, or a small laptop's where the machine does not say."""
    of_system = {"linux": _linux, "darwin": _macos}.get(sys.platform)
    try:
        size = of_system(level) if of_system else None
    except (OSError, ValueError, KeyError, AttributeError):
        size = None
    return size or {1: L1, 2: L2}[level]
