"""Text files of data sets: read as lines, and refused by name if they hold anything else."""

import gzip
import zlib

import numpy as np

from tinynet.data.files import LIMIT, broken, described, opened

PIECE = 2**18  # bytes that are unpacked at once


def read_text(path, encoding="utf-8", packed=False):
    """The text of the file at `path`.  With packed=True it may be gzipped, which its first bytes tell, not its name."""
    with opened(path) as (file, _):
        packed = packed and file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            data = _read(path, gzip.GzipFile(fileobj=file) if packed else file)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise broken(path, "gzip data", f"an error in it: {error}") from error
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"the byte {data[error.start]:02x} at position {error.start:,}"
        raise broken(path, f"text in {encoding.upper()}", found) from None


def _read(path, stream):
    pieces, size = [], 0
    while piece := stream.read(PIECE):
        start = described(piece[:8])
        if (not pieces and start in ("a web page", "gzip data")) or b"\0" in piece:
            raise broken(path, "lines of text", start if not pieces else "a byte of 0")
        pieces.append(piece)
        size += len(piece)
        if size > LIMIT:
            raise broken(path, f"at most {LIMIT:,} bytes", "more")
    return b"".join(pieces)


def read_lines(path, encoding="utf-8", packed=False):
    """The lines of a text file, without empty ones and without the space around them."""
    # Not splitlines(), which also splits at what some texts hold within a line: form feeds, and the byte 85 of Latin-1.
    lines = [line.strip() for line in read_text(path, encoding, packed).split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        raise broken(path, "lines of text", "none")
    return lines


def taking_turns(parts):
    """The texts of several lists as one, and the number of the list of each, so that any stretch holds as much of each.

    parts are lists of any lengths; returns a list of texts and labels, int64, from 0 to len(parts) - 1.
    """
    texts = [text for part in parts for text in part]
    labels = np.repeat(np.arange(len(parts), dtype=np.int64), [len(part) for part in parts])
    places = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in parts])
    order = np.argsort(places, kind="stable")
    return [texts[i] for i in order], labels[order]
