"""What machine code was made from, as two digests: kept code is found again only where both are the same.

    sources    the contents of the kernel's own file and of every file that it imports, they import, and so on.  So a
               change of what kernels share, in whichever of them, is noticed; times of files count for nothing
    key        these, the values of the globals and closures that the kernel and the functions it calls refer to, its
               flags, the types of its arguments, the processor, and the versions of Python, NumPy and Numba

Numba's own key has of all this the kernel's own file, its bytecode, a pickle of its closure, the types, the processor
and Numba's version.  A pickle of a compiled function differs in each process; here such a function counts by its code.
"""

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from importlib import util
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np

# Known by their versions alone; so are Python's own modules.
VERSIONED = {"numba", "numpy", "llvmlite"}
VERSIONS = [sys.version, sys.flags.optimize, numba.__version__, llvmlite.__version__, np.__version__]

# What of Numba's configuration changes the code that it emits; the processor's name and features are apart.
SETTINGS = [
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "USING_SVML",
    "LLVM_REFPRUNE_PASS",
    "LLVM_REFPRUNE_FLAGS",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "DEBUG_ARRAY_OPT_RUNTIME",
    "DEBUG_NRT",
    "NRT_STATS",
    "ENABLE_PROFILING",
    "EXTEND_VARIABLE_LIFETIMES",
    "JIT_COVERAGE",
]

# Code in memory is as old as this or younger.  What was changed later may be younger than it.
STARTED = time.time()


class UnknownSource(Exception):
    """What a kernel is made from can't be determined: its code can't be kept."""


def digests(compiled: Any, signature: Any, codegen: Any) -> tuple[bytes, bytes]:
    """The digests (sources, key) of what @njit or a CFunc compiles for this signature, as bytes."""
    settings = [getattr(numba.config, name, None) for name in SETTINGS]
    facts = [VERSIONS, settings, codegen.magic_tuple(), signature]
    modules = set()
    _describe((compiled, compiled._compiler.targetoptions), facts, set(), modules)
    _check_is_in_file(compiled.__wrapped__)
    sources = _sources(modules, {_top(__name__), _top(compiled.__wrapped__.__module__)})
    return sources, _digest([sources, *facts])


def _digest(facts: list) -> bytes:
    return hashlib.sha256(repr(facts).encode()).digest()


# --- values -------------------------------------------------------------------------------------------------


def _describe(value, facts, seen, modules):
    """Append to `facts` what a value is, and add to the set `modules` those of the functions and classes in it."""
    function = value
    while hasattr(function, "__wrapped__"):  # what Numba or functools.wraps made of it
        function = function.__wrapped__
    if isinstance(value, ModuleType):
        facts.append(value.__name__)
    elif isinstance(function, (FunctionType, BuiltinFunctionType, type)):
        module = function.__module__ or "builtins"
        facts.append((module, function.__qualname__))
        if not _is_versioned(_top(module)):
            modules.add(module)
            if isinstance(function, FunctionType) and function not in seen:
                seen.add(function)
                _describe_function(function, facts, seen, modules)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        facts.append((str(value.dtype), value.shape, value.tobytes()))
    elif isinstance(value, (tuple, list, dict)):
        facts.append((type(value).__qualname__, len(value)))
        for item in value.items() if isinstance(value, dict) else value:
            _describe(item, facts, seen, modules)
    elif isinstance(value, (set, frozenset)):  # their order is another one in each process
        facts.append(sorted(map(repr, value)))
    else:
        text = repr(value)
        facts.append(type(value).__qualname__ if " at 0x" in text else text)


def _describe_function(function, facts, seen, modules):
    """The code of a function, and the values that it refers to."""
    code, known = function.__code__, function.__globals__
    names = _describe_code(code, facts)
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    values = {name: cell.cell_contents for name, cell in cells}
    values |= {name: known[name] for name in names if name in known}
    for module in [v for v in values.values() if isinstance(v, ModuleType) and not _is_versioned(_top(v.__name__))]:
        # Of module.name the code has both names, but not that they belong together.
        values |= {f"{module.__name__}.{name}": vars(module)[name] for name in names if name in vars(module)}
    _describe((function.__defaults__, function.__kwdefaults__, values), facts, seen, modules)


def _describe_code(code, facts):
    """A function's bytecode and constants; the names of globals and attributes in it are returned."""
    flags = code.co_flags & 0xFFFE  # Numba takes away the others where it calls a kernel under a profiler (Python 3.11)
    facts.append((code.co_code, code.co_names, code.co_varnames, flags))
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # a function within it
            names |= _describe_code(constant, facts)
        else:
            facts.append(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
    return names


# --- source files -------------------------------------------------------------------------------------------

_IMPORT = re.compile(  # "\n" is 3 times faster than "^"
    r"\n[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|(?:\\\n|[^\n;#])+)|import[ \t]+([^\n;#]+))"
)


def _top(module: str) -> str:
    return module.partition(".")[0]


@lru_cache(None)
def _is_versioned(top: str) -> bool:
    """Whether this top-level module is known by its version.  A user's may have the name of one of Python's."""
    if top not in sys.stdlib_module_names:
        return top in VERSIONED
    file = _file(top)
    return file is None or os.path.dirname(file).startswith(os.path.dirname(os.__file__))


def _check_is_in_file(function: Callable) -> None:
    file = _file(function.__module__)
    if file is None or os.path.basename(file) != os.path.basename(function.__code__.co_filename):
        raise UnknownSource(f"{function.__qualname__} was typed into an interpreter or a notebook")


def _sources(modules: set[str], own: set[str]) -> bytes:
    """The digest of the contents of these modules and of all that they import, but for installed packages not our own.

    What a kernel calls of those is described by its code.
    """
    facts, found, waiting = [], set(), sorted(modules)
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file(name)
        found.add(name)
        if file is None:
            continue
        if _top(name) not in own and {"site-packages", "dist-packages"} & set(file.split(os.sep)):
            continue
        _check_unchanged(file)
        digest, imports = _read(name, file)
        facts.append((name, digest))
        waiting += imports
    return _digest(facts)


@lru_cache(None)
def _read(name: str, file: str) -> tuple[bytes, list[str]]:
    """The digest of a module's file, and the modules that it imports."""
    loader = getattr(sys.modules.get(name) or sys.modules.get(_top(name)), "__loader__", None)
    try:
        content = loader.get_data(file)  # also from within a zip
    except (AttributeError, OSError) as error:
        raise UnknownSource(f"{file} can't be read") from error
    package = name if os.path.basename(file) == "__init__.py" else name.rpartition(".")[0]
    imports = []
    for start, names, modules in _IMPORT.findall("\n" + content.decode("utf-8", "replace")):
        level = len(start) - len(start.lstrip("."))
        if level:
            start = f"{package.rsplit('.', level - 1)[0]}.{start[level:]}".strip(".")
        if start and _is_versioned(_top(start)):
            continue
        for entry in re.sub(r"#.*|[()\\]", "", names or modules).split(","):
            for word in re.findall(r"[\w.]+", entry)[:1]:  # the first of `x as y`
                part = f"{start}.{word}" if start else word
                imports.append(start if start and _file(part) is None else part)
    return hashlib.sha256(content).digest(), [each for each in imports if not _is_versioned(_top(each))]


def _file(name: str) -> str | None:
    """The file of a module, whether it is imported already or will be; None where there is none."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    top, *rest = name.split(".")
    if not rest:
        spec = util.find_spec(name) if name else None
        return spec.origin if spec and spec.has_location else None
    folder, end = os.path.split(_file(top) or "")
    path = os.path.join(folder, *rest)
    paths = [path + ".py", os.path.join(path, "__init__.py")] if end == "__init__.py" else []
    return next(filter(os.path.exists, paths), None)


def _check_unchanged(file: str) -> None:
    """An UnknownSource where the code in memory may be older than its file, which changed while the process ran."""
    path = os.path.abspath(file)
    while not os.path.exists(path):  # within a zip
        path = os.path.dirname(path)
    status = os.stat(path)
    changed = status.st_mtime if os.name == "nt" else status.st_ctime
    if os.path.isdir(path) or STARTED < changed <= time.time():
        raise UnknownSource(f"{file} was changed or removed after this process had started")
