"""Writing files: a file is replaced by a whole one or not at all, and keeps its mode and its owner.

The bytes go into a temporary file beside the target, down to the disk, and only then does the temporary file take the
target's name, in one step of the file system.  A process killed at any moment leaves the old file or the new one,
whole, and at most a temporary file, which the next save removes.

Only a regular file is replaced.  A device, a pipe or a socket would be gone, and for root that may be /dev/null; one
that is read-only was meant to stay.  The new file belongs to whom the old one belonged to, with the same mode and
access control lists, as far as this user may give them; what can't be kept makes it more private, never less.
"""

import contextlib
import os
import secrets
import stat

try:
    import fcntl
except ImportError:  # Windows, where nobody can remove a file that another has open
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tinynet-tmp"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
LISTS = "system.posix_acl_access"  # Linux's access control lists
OF_THE_BYTES = ("security.capability", "security.ima", "security.evm")  # these vouch for the old file's


def as_text(path, who, name="path"):
    """The path as a str.  `who` was given it, as `name`: for messages."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        got = f"got {path!r}; a str, bytes or an os.PathLike is one"
        raise TypeError(f"{who}: {name} must be the path of a file, {got}") from None
    if not text or "\0" in text:
        raise ValueError(f"{who}: {name} must be the path of a file, got {path!r}")
    return text


def absolute(path, who, name="path"):
    """The path of a file to write, as a str that no change of the working directory turns into another."""
    text = as_text(path, who, name)
    if os.path.basename(text) in ("", ".", ".."):
        verb = "is" if os.path.isdir(text) else "names"
        raise IsADirectoryError(f"{who}: {text} {verb} a folder, not a file to write")
    return text if os.path.isabs(text) else os.path.join(os.getcwd(), text)  # abspath would take link/.. for nothing


def target(path, who):
    """(path, status) of the file that `path` names, behind any links, if it can be replaced or is not there yet.

    status is what os.stat says of it, or None.  Raises an OSError that says why it can't be written.
    """
    path = absolute(path, who)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        status = None
    path = os.path.realpath(path)  # a link stays, and what it points to is replaced
    folder, name = os.path.split(path)
    if status is None and not os.path.isdir(folder):
        raise FileNotFoundError(f"{who}: there is no folder {folder} to write {name} in")
    if status is not None:
        if not stat.S_ISREG(status.st_mode):
            error = IsADirectoryError if stat.S_ISDIR(status.st_mode) else OSError
            raise error(f"{who}: {path} is {kind(status)}, not a file to write")
        if _output(status) is not None:
            raise OSError(f"{who}: {path} is where this program's output goes, not a file to replace")
        if not (status.st_mode & 0o222 and _may_write(path)):
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise PermissionError(
                f"{who}: {path} is read-only (its mode is {mode}, its owner user {status.st_uid}): "
                "chmod u+w makes it one that may be replaced"
            )
    if not _may_write(folder):
        raise PermissionError(f"{who}: {name} can't be written, for this user may make no file in the folder {folder}")
    return path, status


def kind(status):
    """What kind of file it is, in words."""
    return KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")


def opened_through(path):
    """A file to write text through, if `path` is this program's own output or a character device; None elsewhere."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    descriptor = _output(status)
    if descriptor is not None:
        descriptor = os.dup(descriptor)
    elif stat.S_ISCHR(status.st_mode):
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
    else:
        return None
    return open(descriptor, "w", encoding="utf-8", newline="")


@contextlib.contextmanager
def naming(path, who, more=""):
    """An OSError that names no file, such as that of a full disk, says which it is, and who wrote it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, f"{who}: {error.strerror}{more}", path) from None


def write_whole(path, *pieces, who="save"):
    """Make the bytes `pieces` the content of the file `path`: at any moment the old file or the new one is there."""
    path, old = target(path, who)
    folder, name = os.path.split(path)
    prefix = f".{name[:40]}."
    _remove_leftovers(folder, prefix)
    file = _temporary(folder, prefix, 0o666 if old is None else 0o600)
    try:
        with naming(path, who, "" if old is None else "; what the file held before is still there"), file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            if old is not None and hasattr(os, "fchown"):
                _take_after(file.fileno(), path, old)
            os.fsync(file.fileno())
            if fcntl is not None:
                os.replace(file.name, path)  # before the lock goes with the file's closing
        if fcntl is None:
            os.replace(file.name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(file.name)
        raise
    if os.name == "posix":
        with contextlib.suppress(OSError):  # some network file systems can't
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # the new name, too, is on the disk
            finally:
                os.close(descriptor)


def _output(status):
    """The descriptor of this process's standard output or error, if the file is where it goes."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), status):
                return descriptor
    return None


def _may_write(path):
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _take_after(descriptor, path, old):
    """Give the new file the group, owner, attributes and mode of the old one, which is at `path` still.

    The mode comes last: until then only this user may open the new file.
    """
    for user, group in ((-1, old.st_gid), (old.st_uid, -1)):
        with contextlib.suppress(OSError):  # only root may give files away, and others only to a group of theirs
            os.fchown(descriptor, user, group)
    new, mode = os.fstat(descriptor), stat.S_IMODE(old.st_mode)
    same_group = new.st_gid == old.st_gid
    if not same_group:  # the bits were not for this group, and the old one's members are any others now
        mode = (mode & 0o700) | (mode & mode >> 3 & 0o007)
    elif new.st_uid != old.st_uid:
        mode &= 0o777
    if not _take_attributes(descriptor, path, same_group):
        mode &= 0o700
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)


def _take_attributes(descriptor, path, same_group):
    """Copy the extended attributes; returns whether the new file has the old one's access control lists, or none."""
    if not hasattr(os, "listxattr"):
        return True
    attributes = _attributes(path)
    for name, value in attributes.items():
        if name not in OF_THE_BYTES and (name != LISTS or same_group):
            with contextlib.suppress(OSError):  # some are for root alone, or for another file system
                os.setxattr(descriptor, name, value)
    if LISTS not in attributes:
        with contextlib.suppress(OSError):  # those that a folder gives every new file
            os.removexattr(descriptor, LISTS)
    return _attributes(descriptor).get(LISTS) == attributes.get(LISTS)


def _attributes(file):
    found = {}
    with contextlib.suppress(OSError):  # a file system without any
        for name in os.listxattr(file):
            with contextlib.suppress(OSError):
                found[name] = os.getxattr(file, name)
    return found


def _temporary(folder, prefix, mode=0o666):
    """A new file, locked while it is open: so others see that it is no leftover."""
    while True:
        path = os.path.join(folder, f"{prefix}{secrets.token_hex(4)}{TEMPORARY}")
        file = open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        if fcntl is None:
            return file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process took it for a leftover before it was locked


def _remove_leftovers(folder, prefix):
    """Remove the temporary files that killed processes left.  A lock goes when its process does, however it ends."""
    names = []
    with contextlib.suppress(OSError):  # a folder to put files into, and not to look around in
        names = os.listdir(folder)
    for name in names:
        if name.startswith(prefix) and name.endswith(TEMPORARY):
            leftover = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if fcntl is None:
                    os.unlink(leftover)
                else:
                    with open(leftover, "rb+") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(leftover)
