"""The file itself: whole, with a checksum, and nothing in it believed before it is checked (checkpoint.py says what).

The checksum is the SHA-256 of the whole file, in which this number itself is 64 zeros.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
from itertools import chain

import numpy as np

from tinynet.data.writing import write_whole

VERSION = 1
NO_CHECKSUM = "sha256:" + 64 * "0"


@contextlib.contextmanager
def opened(path):
    """The open file and what its header says, after the checks that need no model.

    safetensors looks at the lengths that the file claims before it believes them: a header of 2^62 bytes, or an array
    beyond the end of the file, is an error and no allocation.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is a folder or a device, not a file")
    file, about = _checked(path)
    with file:
        yield file, about


def _checked(path):
    from safetensors import SafetensorError, safe_open  # here, so that importing tinynet doesn't load it

    while True:
        with open(path, "rb") as content:
            try:
                file = safe_open(path, framework="np")
            except SafetensorError as error:
                raise ValueError(f"{path} is no safetensors file, or not a whole one: {error}") from None
            if os.path.samestat(os.fstat(content.fileno()), os.stat(path)):  # no save replaced it in between
                return file, _checked_about(file.metadata() or {}, content, path)


def _checked_about(metadata, content, path):
    if "tinynet" not in metadata:
        raise ValueError(
            f"{path} was not written by tinynet (its header says {str(metadata)[:80]}): "
            "tn.interop.from_torch takes the weights of PyTorch, in their layout"
        )
    _check_checksum(metadata, content, path)
    try:
        about = json.loads(metadata["tinynet"])
        version = about["version"]
        if version == VERSION:
            return {**about, "layers": dict(about["layers"])}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its header can't be read: {type(error).__name__}: {error}") from None
    raise ValueError(
        f"{path} is of version {version!r} of the format, written by tinynet {about.get('tinynet')}; "
        f"this tinynet reads version {VERSION}"
    )


def _check_checksum(metadata, content, path):
    """Refuse a file whose bytes are not those that its checksum was of.  One without a checksum passes."""
    if "checksum" not in metadata and not any(value.startswith("sha256:") for value in metadata.values()):
        return
    checksum = metadata.get("checksum", "absent")
    length = content.read(8)
    header = content.read(int.from_bytes(length, "little"))
    if not re.fullmatch("sha256:[0-9a-f]{64}", checksum) or header.count(_entry(checksum)) != 1:
        raise ValueError(f"{path} is damaged: its checksum can't be read, it is {checksum[:80]!r}")
    start = length, header.replace(_entry(checksum), _entry(NO_CHECKSUM))
    found = _checksum(chain(start, iter(lambda: content.read(2**18), b"")))
    if found != checksum:
        raise ValueError(f"{path} is damaged: its bytes have the checksum {found}, and its header says {checksum}")


def _entry(checksum):
    """The checksum as it stands in the header.  No text in there looks so: its quotation marks have a backslash."""
    return f'"checksum":"{checksum}"'.encode()


def _checksum(pieces):
    result = hashlib.sha256()
    for piece in pieces:
        result.update(piece)
    return f"sha256:{result.hexdigest()}"


def write(path, arrays, about, who):
    from safetensors.numpy import save as to_bytes

    arrays = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    data = memoryview(to_bytes(arrays, {"tinynet": json.dumps(about)}))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:end]))
    header["__metadata__"]["checksum"] = NO_CHECKSUM
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the arrays begin where their numbers are aligned
    length = len(header).to_bytes(8, "little")
    checksum = _checksum((length, header, data[end:]))
    header = header.replace(_entry(NO_CHECKSUM), _entry(checksum))
    write_whole(path, length, header, data[end:], who=who)
