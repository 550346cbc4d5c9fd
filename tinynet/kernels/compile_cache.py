"""How compiled kernels are kept on disk.

    keep(compiled)      let what @numba.njit or CFunc made be looked for on disk, and be put there once it is compiled

A kernel's file is NAME-SOURCES-KEY.kernel: one for each kernel, types of arguments, flags and processor, as compile_key
says.  It holds a digest, then the pickle that Numba makes of machine code.  It lies where Numba keeps its own files: in
the folder that NUMBA_CACHE_DIR names, else in __pycache__ beside the source file, else in the user's cache folder.

Four things are not as in Numba's own cache:

    Old code never runs: whatever its code was made from is part of a file's name.
    Damage never counts: the digest is checked before anything is unpickled, so not one flipped bit is run, and what
    can't be read is compiled anew and written over.
    Not every folder needs to be writable: kept code is read from one that isn't.  Where nothing can be written, a line
    on standard error says so once, and work goes on.
    There is no index: each file is put into place whole, so any number of processes may start on one empty folder.

Before the first kernel of a process is compiled, a line on standard error says so, unless the environment variable
TINYNET_QUIET is set, to 1 say.
"""

import contextlib
import hashlib
import os
import pickle
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
from numba.core import caching
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

from tinynet.kernels.compile_key import digests

# Code of so many versions of a kernel's sources is kept, so that `git checkout` of a branch and back compiles nothing.
VERSIONS_KEPT = 3

# The last part is that of a file that is still being written, or whose writer was killed.
_FILE = re.compile(r"(.*)-([0-9a-f]{16})-[0-9a-f]{32}\.kernel(\.[0-9a-f]{16})?")

# A function that is called before a kernel is compiled, with the folder where that will be kept.
before_compiling: Callable[[str], None] | None = None

_said = False  # whether this process has said that it compiles
_warned = False  # and that kernels can't be kept


def keep(compiled: Any) -> Any:
    """Keep the machine code of what @numba.njit or CFunc made on disk; returns it."""
    compiled._cache = Cache(compiled)
    return compiled


class Cache:
    """What Numba asks for a kernel's machine code before it compiles, and what it hands over afterwards."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        function = compiled.__wrapped__
        module = os.path.splitext(os.path.basename(function.__code__.co_filename))[0]
        # Letters and a length that any file system takes.
        self._name = re.sub(r"[^\w.]", "", f"{module}.{function.__qualname__}", flags=re.ASCII)[-100:]

    def load_overload(self, signature, target_context) -> CompileResult | None:
        """The machine code for this signature, None where there is none that is whole and new."""
        target_context.refresh()
        paths, key = self._paths(signature, target_context.codegen())
        for path in paths:
            data = _read(path, key)
            if data is None:
                continue
            # What may be wrong with a file that is whole, say that a module is gone, is mended by compiling.
            with contextlib.suppress(Exception):
                result = CompileResult._rebuild(target_context, *pickle.loads(data))
                caching._cache_log("[cache] loaded from %r", path)  # for NUMBA_DEBUG_CACHE=1
                return result
        folder = next(filter(_writable, [os.path.dirname(path) for path in paths]), None)
        _say_once(folder)
        if folder and before_compiling:
            before_compiling(folder)
        return None

    def save_overload(self, signature, result: CompileResult) -> None:
        """Keep what was compiled, in the first folder where that is possible."""
        if result.lifted or result.library.has_dynamic_globals:  # it holds addresses of this process
            return
        paths, key = self._paths(signature, result.codegen)
        if not paths:
            return
        data = dumps(result._reduce())
        failures = []
        for path in paths:
            folder = os.path.dirname(path)
            try:
                os.makedirs(folder, exist_ok=True)
                _write(path, _digest(key, data) + data)
            except OSError as error:
                if _read(path, key) is None:  # else another process was faster
                    failures.append(f"{folder} ({error.strerror or error})")
                    continue
            caching._cache_log("[cache] saved to %r", path)
            self._remove_old(folder)
            return
        _warn_once(failures)

    def flush(self) -> None:
        """Forget the kernel's code: Numba asks for this before it compiles all anew."""
        for folder in self._folders():
            for entry, *_ in self._files(folder):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)

    @property
    def cache_path(self) -> str | None:  # for the dispatcher's stats
        return next(iter(self._folders()), None)

    def _folders(self) -> list[str]:
        file = getattr(sys.modules.get(self._compiled.__wrapped__.__module__), "__file__", None)
        if file is None:  # it was typed into an interpreter
            return []
        below = caching._CacheLocator.get_suitable_cache_subpath(file)
        if numba.config.CACHE_DIR:
            return [os.path.join(numba.config.CACHE_DIR, below)]
        user = AppDirs(appname="numba", appauthor=False).user_cache_dir
        return [os.path.join(os.path.dirname(file), "__pycache__"), os.path.join(user, below)]

    def _paths(self, signature, codegen):
        """Where the machine code for this signature may lie, the best place first, and its key.

        Nowhere, where it can't be determined what the code is made from: an UnknownSource, or whatever a user's global
        raises that is asked what it is.
        """
        try:
            sources, key = digests(self._compiled, signature, codegen)
        except Exception:
            return [], None
        file = f"{self._name}-{sources.hex()[:16]}-{key.hex()[:32]}.kernel"
        return [os.path.join(folder, file) for folder in self._folders()], key

    def _files(self, folder):
        """The kernel's files there, each with the version of its sources and whether it is only half written."""
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                match = _FILE.fullmatch(entry.name)
                if match and match[1] == self._name:
                    yield entry, match[2], bool(match[3])

    def _remove_old(self, folder):
        """Remove the kernel's files of all versions of its sources but those that were written to last."""
        with contextlib.suppress(OSError):  # another process may remove them too
            age = {file: time.time() - file[0].stat().st_mtime for file in self._files(folder)}
            newest = list(dict.fromkeys(version for _, version, _ in sorted(age, key=age.get)))[:VERSIONS_KEPT]
            for (entry, version, half), seconds in age.items():
                if seconds > 3600 if half else version not in newest:
                    os.unlink(entry.path)


def _digest(key: bytes, data: bytes) -> bytes:
    return hashlib.sha256(key + data).digest()


def _read(path: str, key: bytes) -> bytes | None:
    """The data of a file that is whole and belongs to this key, else None."""
    try:
        with open(path, "rb") as file:
            digest, data = file.read(32), file.read()
    except (OSError, MemoryError):
        return None
    return data if digest == _digest(key, data) else None


def _write(path: str, content: bytes) -> None:
    """Put a file into place whole, or leave nothing."""
    temporary = f"{path}.{os.urandom(8).hex()}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _say_once(folder: str | None) -> None:
    """Say that a kernel is going to be compiled, how long that may take, and where it will be kept."""
    global _said
    if not _said and not os.environ.get("TINYNET_QUIET"):
        _said = True
        kept = f" They are kept in {folder}." if folder else ""
        _print("compiling kernels, once for this machine: a first step may take half a minute." + kept)


def _writable(folder: str) -> bool:
    """Whether files can be written there, or the folder can be made."""
    while folder and not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder or ".", os.W_OK)


def _print(line: str) -> None:
    if sys.stderr:
        with contextlib.suppress(OSError, ValueError):  # standard error is closed
            print(f"tinynet: {line}", file=sys.stderr, flush=True)


def _warn_once(failures: list[str]) -> None:
    global _warned
    if not _warned:
        _warned = True
        _print(
            f"compiled kernels can't be kept in {' or '.join(failures)}, so each start compiles them anew;"
            " the environment variable NUMBA_CACHE_DIR names another folder"
        )
