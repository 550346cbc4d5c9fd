"""Downloads: a file comes whole and checked, or not at all.

The bytes go into a temporary file of this process's own beside the place where they will lie.  Their SHA-256 is
compared, and then the file moves into place in one step: nobody, another process with the same wish included, ever
sees half of it.  What came before a failure stays as <name>.part, and the next call takes it over, by renaming it,
which only one process can do, and asks the server for the rest alone.
"""

import gzip
import hashlib
import http.client
import os
import re
import secrets
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from tinynet.data.files import LIMIT, DatasetError

TIMEOUT = 30  # seconds without a byte
TRIES = 5  # of one mirror, as long as each brings something
DAY = 86400  # seconds, after which no download is still under way


def download(path, mirrors, size, sha256):
    """Put the file called path.name, of `size` bytes, at `path`.  Mirrors are URLs that end in a slash.

    Raises DatasetError, which says what every mirror answered, and what to fetch by hand and where to put it.
    """
    with _fetched(path.name, path.parent, mirrors, size, sha256, f"put it at {path}") as file:
        os.replace(file, path)


def download_members(paths, archive, mirrors, size, sha256):
    """Put the files with the names of `paths`, which share a folder, there, from a tar archive that is then deleted."""
    places = "".join(f"\n  {path}" for path in paths)
    with _fetched(archive, paths[0].parent, mirrors, size, sha256, f"unpack it so that there are{places}") as file:
        try:
            _unpack(file, paths)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DatasetError(f"{archive} from {mirrors[0]} cannot be unpacked: {error}") from error


@contextmanager
def _fetched(name, folder, mirrors, size, sha256, advice):
    """A temporary file in `folder` with what the mirrors have under `name`, whole and checked."""
    left = folder / f"{name}.part"
    own = folder / f"{name}.{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{name}.*.part"):  # of processes that were killed
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > DAY:
                    old.unlink()
        with suppress(OSError):
            os.rename(left, own)
        with open(own, "ab") as file:
            failures = _fetch(file, [mirror + name for mirror in mirrors], size, sha256)
        if failures is not None:
            answers = "".join(f"\n  {url}: {failure}" for url, failure in failures)
            message = f"{name} could not be downloaded:{answers}\nFetch it by hand from one of these, and {advice}"
            raise DatasetError(message) from (failures[-1][1].__cause__ or failures[-1][1])
        yield own
        own.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{name} could not be written into {folder}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            if own.stat().st_size:
                os.replace(own, left)  # for the next call to go on with
            else:
                own.unlink()


class _Failure(Exception):
    """Why a mirror did not give the file; `again` if another try of it may."""

    def __init__(self, reason, again=False):
        super().__init__(reason)
        self.again = again


@contextmanager
def _network(again=lambda: False):
    """Turn the many errors of a connection into a _Failure; errors of the file written to stay what they are."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise _Failure(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _Failure(str(reason) or type(reason).__name__, again()) from error


def _fetch(file, urls, size, sha256):
    """Fill `file`, to which bytes are appended.  Returns None, or what failed, as a list of (url, _Failure)."""
    failures = []
    for url in urls:
        for _ in range(TRIES):
            resumed = file.tell() > 0
            try:
                _transfer(file, url, size)
                file.flush()
                os.fsync(file.fileno())
                with open(file.name, "rb") as whole:
                    found = hashlib.file_digest(whole, "sha256").hexdigest()
                if found == sha256:
                    return None
                _restart(file)
                # What an earlier call or another mirror began may be at fault: begin once more.
                raise _Failure(f"expected a file with SHA-256 {sha256}, got {found}", again=resumed)
            except _Failure as failure:
                failures.append((url, failure))
                if not failure.again:
                    break
    return failures


def _transfer(file, url, size):
    """Append what is missing of `size` bytes, or begin anew where the server cannot go on."""
    if file.tell() > size:
        _restart(file)
    start = file.tell()
    if start == size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "tinynet"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with _network():
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except _Failure as failure:
        if getattr(failure.__cause__, "code", None) == 416:  # the range does not suit: ask for all of it
            _restart(file)
            failure.again = start > 0
        raise
    with answer:
        span = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if answer.status == 206 and (span is None or int(span[1]) != start):
            _restart(file)
            raise _Failure(f"expected the bytes from {start:,} on, got others", again=True)
        if answer.status != 206:
            start = 0  # the server cannot go on in the middle: all of it comes
        announced, kind = answer.headers.get("Content-Length", ""), answer.headers.get_content_type()
        if kind == "text/html":
            raise _Failure("expected data, got a web page")
        if announced.isdecimal() and start + int(announced) != size:
            raise _Failure(f"expected {size:,} bytes, got {start + int(announced):,}")
        if start == 0:
            _restart(file)
        _append(file, answer, url, size)


def _append(file, answer, url, size):
    from tqdm import tqdm

    name = url.rpartition("/")[2]
    start = file.tell()
    silent = None if sys.stderr else True  # None: where there is no terminal
    with tqdm(total=size, initial=start, desc=name, unit="B", unit_scale=True, disable=silent) as bar:
        if bar.disable and sys.stderr:
            print(f"downloading {url} ({size / 1e6:.1f} MB)", file=sys.stderr)
        while True:
            with _network(again=lambda: file.tell() > start):
                piece = answer.read1(2**16)
            if not piece:
                break
            file.write(piece)
            bar.update(len(piece))
            if file.tell() > size:
                _restart(file)
                raise _Failure(f"expected {size:,} bytes, got more")
    if file.tell() < size:
        raise _Failure(f"expected {size:,} bytes, got {file.tell():,} of them", again=file.tell() > start)


def _restart(file):
    file.seek(0)  # truncating alone would leave tell() where it was
    file.truncate()


def _unpack(archive, paths):
    wanted = {path.name: path for path in paths}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            # Only the last part of a member's name counts, and only plain files: no archive can write elsewhere.
            path = wanted.pop(PurePosixPath(member.name).name, None) if member.isreg() else None
            if path is not None:
                if member.size > LIMIT:
                    raise tarfile.TarError(f"{path.name} has {member.size:,} bytes")
                _write_whole(path, tar.extractfile(member))
    if wanted:
        raise tarfile.TarError(f"there is no {', '.join(sorted(wanted))} in it")


def _write_whole(path, source):
    own = Path(f"{path}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(own, "wb") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)
