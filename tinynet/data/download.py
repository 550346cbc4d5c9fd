"""Downloads: a file comes whole and checked, or not at all.

pooch fetches it, with a progress bar, and compares its checksum.  This file adds what pooch leaves to its callers: the
mirrors that are tried in turn, an end to what is longer than it should be or is a web page, and a message that says
what to fetch by hand.  Each process works in a temporary folder of its own beside the place where the file will lie,
and moves it there in one step: nobody, another process with the same wish included, ever sees half of it.
"""

import gzip
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tinynet.data.files import LIMIT, DatasetError, described
from tinynet.notebook import progress_bar, shows_bars

TIMEOUT = 30  # seconds without a byte
TRIES = 3  # of one mirror, whose connection broke off
DAY = 86400  # seconds, after which no download is still under way
OWN = ".tinynet-download-"  # a process's temporary folder
HEADERS = {"User-Agent": "tinynet", "Accept-Encoding": "identity"}  # a file that is gzipped stays so


def download(path: Path, mirrors: Iterable[str], size: int | None, checksum: str) -> None:
    """Put the file called path.name, of `size` bytes, at `path`.  Mirrors are URLs that end in a slash.

    size       None where nobody says how large it is: then of any size that memory has room for
    checksum   a SHA-256, or "md5:" and an MD5

    Raises DatasetError, which says what every mirror answered, and what to fetch by hand and where to put it.
    """
    with _fetched(path.name, path.parent, mirrors, size, checksum, f"put it at {path}") as file:
        os.replace(file, path)


def download_members(paths: Sequence[Path], archive: str, mirrors: Sequence[str], size: int, checksum: str) -> None:
    """Put the files with the names of `paths`, which share a folder, there, from an archive that is then deleted.

    It is a zip archive if its name says so, and else a gzipped tar archive.
    """
    places = "".join(f"\n  {path}" for path in paths)
    with _fetched(archive, paths[0].parent, mirrors, size, checksum, f"unpack it so that there are{places}") as file:
        try:
            _unpack(file, paths)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DatasetError(f"{archive} from {mirrors[0]} cannot be unpacked: {error}") from error


@contextmanager
def _fetched(
    name: str, folder: Path, mirrors: Iterable[str], size: int | None, checksum: str, advice: str
) -> Iterator[Path]:
    """A temporary file beside its later place with what the mirrors have under `name`, whole and checked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{OWN}*"):  # of processes that were killed
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > DAY:
                    shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=OWN, dir=folder) as own:
            failures = _fetch(Path(own), name, mirrors, size, checksum)
            if failures:
                answers = "".join(f"\n  {url}: {_reason(failure)}" for url, failure in failures)
                message = f"{name} could not be downloaded:{answers}\nFetch it by hand from one of these, and {advice}"
                raise DatasetError(message) from failures[-1][1]
            yield Path(own, name)
    except OSError as error:
        raise DatasetError(f"{name} could not be written into {folder}: {error.strerror or error}") from error


def _fetch(folder, name, mirrors, size, checksum):
    """Put the file into the folder.  Returns what failed, as a list of (url, error), if no mirror has it."""
    import pooch
    from requests.exceptions import ChunkedEncodingError, RequestException

    checksum = checksum if ":" in checksum else f"sha256:{checksum}"
    failures = []
    for url in (mirror + name for mirror in mirrors):
        for _ in range(TRIES):
            try:
                pooch.retrieve(url, checksum, name, folder, downloader=partial(_transfer, size=size))
                return []
            except (RequestException, ValueError) as error:  # ValueError: another checksum
                failures.append((url, error))
                if not isinstance(error, ChunkedEncodingError):  # which says that the connection broke off
                    break
    return failures


def _reason(error):
    """What went wrong, in words: requests hands on what urllib3 wrapped, behind the names of their objects."""
    inner = getattr(error.args[0] if error.args else None, "reason", None)
    return error if inner is None else str(inner).rpartition("): ")[2] or inner


def _transfer(url, path, _, size):
    """What pooch calls to put what is at the URL into the file `path`, with a bar where one can move."""
    from pooch import HTTPDownloader

    # Where no bar can move, pooch's line, which names URL and file, is all there is.
    name, disable = url.rpartition("/")[2], not shows_bars(sys.stderr)
    bar = progress_bar(sys.stderr, total=size, desc=name, unit="B", unit_scale=True, disable=disable)
    with bar, open(path, "wb") as file, ExitStack() as answers:

        def close_later(answer, **_):
            answers.callback(answer.close)

        fetch = HTTPDownloader(chunk_size=2**16, timeout=TIMEOUT, headers=HEADERS, hooks={"response": close_later})
        fetch(url, _Watched(file, LIMIT if size is None else size, bar), None)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path, 0o644)  # a temporary file is its owner's alone, but many may share a folder of data sets


class _Watched:
    """A file to write to, that refuses a web page, such as one asking for a log-in, and more bytes than expected."""

    def __init__(self, file: IO[bytes], size: int, bar) -> None:
        self.file, self.size, self.bar = file, size, bar

    def write(self, data: bytes) -> None:
        if self.file.tell() == 0 and described(data[:100]) == "a web page":
            raise ValueError("expected data, got a web page")
        self.file.write(data)
        self.bar.update(len(data))
        if self.file.tell() > self.size:
            raise ValueError(f"expected {self.size:,} bytes, got more")

    def flush(self) -> None:
        pass  # pooch asks for it after each write


def _unpack(archive, paths):
    wanted = {path.name: path for path in paths}
    for name, size, content in _zipped(archive) if archive.suffix == ".zip" else _tarred(archive):
        # Only the last part of a member's name counts: no archive can write elsewhere.
        path = wanted.pop(PurePosixPath(name).name, None)
        if path is not None:
            if size > LIMIT:
                raise tarfile.TarError(f"{path.name} has {size:,} bytes")
            part = archive.with_name(f"{path.name}.part")
            with content() as source, open(part, "wb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
    if wanted:
        raise tarfile.TarError(f"there is no {', '.join(sorted(wanted))} in it")


def _tarred(archive):
    """Of each plain file in a gzipped tar archive its name, its size and a function that opens it."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.isreg():
                yield member.name, member.size, partial(tar.extractfile, member)


def _zipped(archive):
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if not member.is_dir():
                yield member.filename, member.file_size, partial(packed.open, member)
